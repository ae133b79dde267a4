//! From what a request asks for to what each draw needs.

use std::collections::HashMap;

use mosu_models::{SampleParams, SeenToken};

use crate::{SamplingParams, StopConditions};

/// Temperatures below this are greedy: dividing by them would only overflow.
const MIN_TEMPERATURE: f32 = 1e-5;

/// How the tokens of one choice are drawn.
#[derive(Debug)]
pub(crate) struct Sampler {
    params: SampleParams,
    /// Where each token stands in `params.seen`; `None` when no penalty asks for it.
    seen: Option<HashMap<u32, usize>>,
    /// Draws left in which `params.suppressed` holds.
    suppressed_draws: usize,
}

impl Sampler {
    /// The sampler of choice `choice`, of which nothing is drawn yet.
    pub fn new(
        params: &SamplingParams,
        stop: &StopConditions,
        end_tokens: &[u32],
        prompt: &[u32],
        seed: u64,
        choice: u32,
    ) -> Sampler {
        let greedy = params.temperature < MIN_TEMPERATURE;
        let penalised = params.presence_penalty != 0.0 || params.frequency_penalty != 0.0;
        let mut sampler = Sampler {
            params: SampleParams {
                temperature: if greedy { 0.0 } else { params.temperature },
                top_k: params.top_k,
                top_p: params.top_p,
                min_p: params.min_p,
                presence_penalty: params.presence_penalty,
                frequency_penalty: params.frequency_penalty,
                repetition_penalty: params.repetition_penalty,
                logit_bias: params.logit_bias.clone(),
                suppressed: Vec::new(),
                seen: Vec::new(),
                pending: None,
                seed: choice_seed(seed, choice),
                position: 0,
            },
            seen: (penalised || params.repetition_penalty != 1.0).then(HashMap::new),
            suppressed_draws: stop.min_tokens,
        };
        if stop.min_tokens > 0 {
            let end_tokens = if stop.ignore_eos { &[] } else { end_tokens };
            sampler.params.suppressed = [end_tokens, &stop.token_ids].concat();
        }
        if params.repetition_penalty != 1.0 {
            prompt.iter().for_each(|&id| sampler.see(id, 0));
        }
        sampler
    }

    /// What the draw of the token at `position` needs. `num_pending` draws before it are not known yet: the last of
    /// them, which is the only one that is not observed when the step runs, is number `drawn_by` of its step.
    pub fn params(&self, position: usize, num_pending: usize, drawn_by: u32) -> SampleParams {
        let mut params = SampleParams { position: position as u64, ..self.params.clone() };
        params.pending = (self.seen.is_some() && num_pending > 0).then_some(drawn_by);
        if self.suppressed_draws <= num_pending {
            params.suppressed.clear();
        }
        params
    }

    /// Notes that `token` was drawn.
    pub fn observe(&mut self, token: u32) {
        self.see(token, 1);
        self.suppressed_draws = self.suppressed_draws.saturating_sub(1);
        if self.suppressed_draws == 0 {
            self.params.suppressed.clear();
        }
    }

    fn see(&mut self, id: u32, count: u32) {
        let Some(places) = &mut self.seen else { return };
        let seen = &mut self.params.seen;
        let place = *places.entry(id).or_insert_with(|| {
            seen.push(SeenToken { id, output_count: 0 });
            seen.len() - 1
        });
        seen[place].output_count += count;
    }
}

/// Seeds of a request's choices: independent streams, and the same ones whenever the request's seed is.
fn choice_seed(seed: u64, choice: u32) -> u64 {
    SplitMix64(seed.wrapping_add(u64::from(choice))).next()
}

/// Generator of seeds for requests that bring none (Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct SplitMix64(pub u64);

impl SplitMix64 {
    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(params: SamplingParams, stop: StopConditions) -> Sampler {
        Sampler::new(&params, &stop, &[90, 91], &[5, 6, 5], 1, 0)
    }

    fn seen(params: &SampleParams) -> Vec<(u32, u32)> {
        params.seen.iter().map(|token| (token.id, token.output_count)).collect()
    }

    /// What one draw needs, which draws `token`.
    fn draw(sampler: &mut Sampler, position: usize, token: u32) -> SampleParams {
        let params = sampler.params(position, 0, 0);
        sampler.observe(token);
        params
    }

    #[test]
    fn counts_output_tokens_and_lists_prompt_tokens_once() {
        let params = SamplingParams { repetition_penalty: 1.1, ..SamplingParams::default() };
        let mut sampler = sampler(params, StopConditions::default());
        assert_eq!(seen(&draw(&mut sampler, 3, 6)), [(5, 0), (6, 0)]);
        assert_eq!(seen(&draw(&mut sampler, 4, 7)), [(5, 0), (6, 1)]);
        assert_eq!(seen(&draw(&mut sampler, 5, 7)), [(5, 0), (6, 1), (7, 1)]);
        assert_eq!(seen(&draw(&mut sampler, 6, 0)), [(5, 0), (6, 1), (7, 2)]);
    }

    #[test]
    fn lists_only_what_a_penalty_needs() {
        let mut plain = sampler(SamplingParams::default(), StopConditions::default());
        draw(&mut plain, 3, 6);
        assert!(plain.params(4, 0, 0).seen.is_empty());
        assert_eq!(plain.params(4, 1, 0).pending, None);
        let params = SamplingParams { frequency_penalty: 0.5, ..SamplingParams::default() };
        let mut output_only = sampler(params, StopConditions::default());
        draw(&mut output_only, 3, 6);
        assert_eq!(seen(&output_only.params(4, 0, 7)), [(6, 1)]);
        assert_eq!([0, 1].map(|num_pending| output_only.params(4, num_pending, 7).pending), [None, Some(7)]);
    }

    #[test]
    fn suppresses_end_and_stop_tokens_before_min_tokens() {
        let stop = StopConditions { min_tokens: 2, token_ids: vec![8], ..StopConditions::default() };
        let mut both = sampler(SamplingParams::default(), stop.clone());
        assert_eq!(draw(&mut both, 3, 1).suppressed, [90, 91, 8]);
        assert_eq!(draw(&mut both, 4, 1).suppressed, [90, 91, 8]);
        assert!(draw(&mut both, 5, 1).suppressed.is_empty());
        let ahead = sampler(SamplingParams::default(), stop.clone());
        let counts = [0, 1, 2].map(|num_pending| ahead.params(3, num_pending, 0).suppressed.len());
        assert_eq!(counts, [3, 3, 0]);
        let ignoring = sampler(SamplingParams::default(), StopConditions { ignore_eos: true, ..stop });
        assert_eq!(ignoring.params(3, 0, 0).suppressed, [8]);
    }

    #[test]
    fn draws_are_keyed_by_seed_choice_and_position() {
        let params = SamplingParams::default();
        let of = |seed, choice| Sampler::new(&params, &StopConditions::default(), &[], &[1], seed, choice);
        let key = |sampler: Sampler, position| {
            let params = sampler.params(position, 0, 0);
            (params.seed, params.position)
        };
        assert_eq!(key(of(1, 0), 7), key(of(1, 0), 7));
        assert_eq!(key(of(1, 0), 7).1, 7);
        assert_ne!(key(of(1, 0), 7), key(of(1, 1), 7));
        assert_ne!(key(of(1, 0), 7), key(of(2, 0), 7));
    }

    #[test]
    fn tiny_temperatures_are_greedy() {
        let params = SamplingParams { temperature: 1e-6, ..SamplingParams::default() };
        assert_eq!(sampler(params, StopConditions::default()).params(0, 0, 0).temperature, 0.0);
    }
}
