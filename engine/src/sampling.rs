//! From what a request asks for to what each draw needs.

use std::{collections::HashMap, mem};

use mosu_models::{SampleParams, SeenToken};

use crate::{SamplingParams, StopConditions};

/// Temperatures below this are greedy: dividing by them would only overflow.
const MIN_TEMPERATURE: f32 = 1e-5;

/// How the tokens of one choice are drawn.
#[derive(Debug)]
pub(crate) struct Sampler {
    /// `params.seen` is away while a step has it: see [`Sampler::lend`].
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

    /// What the draw of the token at `position` needs, with `num_pending` draws before it of which nothing is known.
    /// The tokens seen, which can be many, move into it: give them back with [`Sampler::restore`] after the step.
    pub fn lend(&mut self, position: usize, num_pending: usize) -> SampleParams {
        let seen = mem::take(&mut self.params.seen);
        let mut params = SampleParams { seen, position: position as u64, ..self.params.clone() };
        if self.suppressed_draws <= num_pending {
            params.suppressed.clear();
        }
        params
    }

    /// Takes back what a step had.
    pub fn restore(&mut self, lent: SampleParams) {
        self.params.seen = lent.seen;
    }

    /// The next draw cannot do without knowing this one's token.
    pub fn needs_every_token(&self) -> bool {
        self.seen.is_some()
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

    /// Lends for one draw, restores, and observes `token`.
    fn draw(sampler: &mut Sampler, position: usize, token: u32) -> SampleParams {
        let lent = sampler.lend(position, 0);
        sampler.restore(lent.clone());
        sampler.observe(token);
        lent
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
        assert!(plain.lend(4, 0).seen.is_empty());
        assert!(!plain.needs_every_token());
        let params = SamplingParams { frequency_penalty: 0.5, ..SamplingParams::default() };
        let mut output_only = sampler(params, StopConditions::default());
        draw(&mut output_only, 3, 6);
        assert_eq!(seen(&output_only.lend(4, 0)), [(6, 1)]);
        assert!(output_only.needs_every_token());
    }

    #[test]
    fn suppresses_end_and_stop_tokens_before_min_tokens() {
        let stop = StopConditions { min_tokens: 2, token_ids: vec![8], ..StopConditions::default() };
        let mut both = sampler(SamplingParams::default(), stop.clone());
        assert_eq!(draw(&mut both, 3, 1).suppressed, [90, 91, 8]);
        assert_eq!(draw(&mut both, 4, 1).suppressed, [90, 91, 8]);
        assert!(draw(&mut both, 5, 1).suppressed.is_empty());
        let mut ahead = sampler(SamplingParams::default(), stop.clone());
        let lent = [0, 1, 2].map(|num_pending| ahead.lend(3 + num_pending, num_pending).suppressed.len());
        assert_eq!(lent, [3, 3, 0]);
        let mut ignoring = sampler(SamplingParams::default(), StopConditions { ignore_eos: true, ..stop });
        assert_eq!(ignoring.lend(3, 0).suppressed, [8]);
    }

    #[test]
    fn draws_are_keyed_by_seed_choice_and_position() {
        let params = SamplingParams::default();
        let of = |seed, choice| Sampler::new(&params, &StopConditions::default(), &[], &[1], seed, choice);
        let key = |mut sampler: Sampler, position| {
            let lent = sampler.lend(position, 0);
            (lent.seed, lent.position)
        };
        assert_eq!(key(of(1, 0), 7), key(of(1, 0), 7));
        assert_eq!(key(of(1, 0), 7).1, 7);
        assert_ne!(key(of(1, 0), 7), key(of(1, 1), 7));
        assert_ne!(key(of(1, 0), 7), key(of(2, 0), 7));
    }

    #[test]
    fn tiny_temperatures_are_greedy() {
        let params = SamplingParams { temperature: 1e-6, ..SamplingParams::default() };
        assert_eq!(sampler(params, StopConditions::default()).lend(0, 0).temperature, 0.0);
    }
}
