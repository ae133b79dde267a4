//! From what a request asks for to what each draw needs.

use std::{collections::BTreeMap, sync::Arc};

use mosu_models::{SampleParams, SeenToken, SeenTokens};

use crate::{SamplingParams, StopConditions, sequence::Sequence};

/// Temperatures below this are greedy: dividing by them would only overflow.
const MIN_TEMPERATURE: f32 = 1e-5;

/// How the tokens of one choice are sampled.
#[derive(Debug)]
pub(crate) struct Sampler {
    params: SampleParams,
    /// A penalty asks for the tokens seen.
    penalizes: bool,
    /// Draws left in which `params.banned` holds.
    banned_draws: usize,
    /// What is banned then.
    nothing: Arc<[u32]>,
}

impl Sampler {
    /// The sampler of choice `choice`, of which nothing is sampled yet.
    pub fn new(
        params: &SamplingParams,
        stop: &StopConditions,
        end_tokens: &[u32],
        seed: u64,
        choice: u32,
    ) -> Sampler {
        let greedy = params.temperature < MIN_TEMPERATURE;
        let end_tokens = if stop.ignore_eos { &[] } else { end_tokens };
        Sampler {
            params: SampleParams {
                temperature: if greedy { 0.0 } else { params.temperature },
                top_k: params.top_k,
                top_p: params.top_p,
                min_p: params.min_p,
                presence_penalty: params.presence_penalty,
                frequency_penalty: params.frequency_penalty,
                repetition_penalty: params.repetition_penalty,
                logit_bias: params.logit_bias.as_slice().into(),
                banned: [end_tokens, &stop.token_ids].concat().into(),
                seen: None,
                seed: choice_seed(seed, choice),
                position: 0,
            },
            penalizes: params.presence_penalty != 0.0
                || params.frequency_penalty != 0.0
                || params.repetition_penalty != 1.0,
            banned_draws: stop.min_tokens,
            nothing: [].into(),
        }
    }

    /// What the draw of a sequence's next token needs. After a first one its slot on the device counts by itself.
    pub fn params(&self, sequence: &mut Sequence) -> SampleParams {
        let mut params = SampleParams { position: sequence.num_tokens() as u64, ..self.params.clone() };
        if self.banned_draws <= sequence.num_pending {
            params.banned = Arc::clone(&self.nothing);
        }
        if self.penalizes {
            let load = (!sequence.slot_is_loaded).then(|| seen_tokens(sequence));
            params.seen = Some(SeenTokens { slot: sequence.slot, load });
            sequence.slot_is_loaded = true;
        }
        params
    }

    /// Notes that a token was sampled.
    pub fn observe(&mut self) {
        self.banned_draws = self.banned_draws.saturating_sub(1);
    }
}

/// A sequence's tokens, each once.
fn seen_tokens(sequence: &Sequence) -> Vec<SeenToken> {
    let (prompt, output) = sequence.tokens.split_at(sequence.prompt_len);
    let mut counts: BTreeMap<u32, u32> = prompt.iter().map(|&id| (id, 0)).collect();
    for &id in output {
        *counts.entry(id).or_default() += 1;
    }
    counts.into_iter().map(|(id, output_count)| SeenToken { id, output_count }).collect()
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
    use mosu_models::{KvGroups, KvReach};

    use super::*;
    use crate::{block_manager::BlockManager, prefix_hash::PrefixScope, sequence::SequenceId};

    fn sampler(params: SamplingParams, stop: StopConditions) -> Sampler {
        Sampler::new(&params, &stop, &[90, 91], 1, 0)
    }

    /// The prompt 5 6 5 in slot 3.
    fn sequence() -> Sequence {
        let groups = KvGroups::new(vec![KvReach::Full], 16, 16);
        let kv = BlockManager::new(4, groups).new_table(&PrefixScope::Shared);
        let id = SequenceId { request: 0, choice: 0 };
        Sequence { slot: 3, ..Sequence::new(id, vec![5, 6, 5], kv) }
    }

    /// What one draw needs, which draws `token`.
    fn draw(sampler: &mut Sampler, sequence: &mut Sequence, token: u32) -> SampleParams {
        let params = sampler.params(sequence);
        sampler.observe();
        sequence.push(token);
        params
    }

    fn loaded(params: &SampleParams) -> Option<Vec<(u32, u32)>> {
        let seen = params.seen.as_ref().unwrap();
        assert_eq!(seen.slot, 3);
        seen.load.as_ref().map(|load| load.iter().map(|token| (token.id, token.output_count)).collect())
    }

    #[test]
    fn a_slot_is_loaded_once_and_again_after_preemption() {
        for params in [
            SamplingParams { repetition_penalty: 1.1, ..SamplingParams::default() },
            SamplingParams { presence_penalty: 0.1, ..SamplingParams::default() },
            SamplingParams { frequency_penalty: -0.1, ..SamplingParams::default() },
        ] {
            let (mut sampler, mut sequence) = (sampler(params, StopConditions::default()), sequence());
            assert_eq!(loaded(&draw(&mut sampler, &mut sequence, 6)), Some(vec![(5, 0), (6, 0)]));
            assert_eq!(loaded(&draw(&mut sampler, &mut sequence, 7)), None);
            assert_eq!(loaded(&draw(&mut sampler, &mut sequence, 7)), None);
            sequence.slot_is_loaded = false;
            assert_eq!(loaded(&draw(&mut sampler, &mut sequence, 0)), Some(vec![(5, 0), (6, 1), (7, 2)]));
        }
    }

    #[test]
    fn without_penalties_nothing_is_counted() {
        let params = SamplingParams { logit_bias: vec![(1, 2.0)], ..SamplingParams::default() };
        let mut plain = sampler(params, StopConditions::default());
        let params = draw(&mut plain, &mut sequence(), 6);
        assert_eq!((params.seen, &*params.logit_bias), (None, &[(1, 2.0)][..]));
    }

    #[test]
    fn bans_end_and_stop_tokens_before_min_tokens() {
        let stop = StopConditions { min_tokens: 2, token_ids: vec![8], ..StopConditions::default() };
        let (mut both, mut drawing) = (sampler(SamplingParams::default(), stop.clone()), sequence());
        assert_eq!(*draw(&mut both, &mut drawing, 1).banned, [90, 91, 8]);
        assert_eq!(*draw(&mut both, &mut drawing, 1).banned, [90, 91, 8]);
        assert!(draw(&mut both, &mut drawing, 1).banned.is_empty());
        let ahead = sampler(SamplingParams::default(), stop.clone());
        let counts = [0, 1, 2].map(|num_pending| {
            let mut sequence = Sequence { num_pending, ..sequence() };
            ahead.params(&mut sequence).banned.len()
        });
        assert_eq!(counts, [3, 3, 0]);
        let ignoring = sampler(SamplingParams::default(), StopConditions { ignore_eos: true, ..stop });
        assert_eq!(*ignoring.params(&mut sequence()).banned, [8]);
    }

    #[test]
    fn draws_are_keyed_by_seed_choice_and_position() {
        let params = SamplingParams::default();
        let key = |seed, choice, position| {
            let sampler = Sampler::new(&params, &StopConditions::default(), &[], seed, choice);
            let tokens = vec![1; position];
            let params = sampler.params(&mut Sequence { tokens, ..sequence() });
            (params.seed, params.position)
        };
        assert_eq!(key(1, 0, 7), key(1, 0, 7));
        assert_eq!(key(1, 0, 7).1, 7);
        assert_ne!(key(1, 0, 7), key(1, 1, 7));
        assert_ne!(key(1, 0, 7), key(2, 0, 7));
    }

    #[test]
    fn tiny_temperatures_are_greedy() {
        let params = SamplingParams { temperature: 1e-6, ..SamplingParams::default() };
        let sampler = sampler(params, StopConditions::default());
        assert_eq!(sampler.params(&mut sequence()).temperature, 0.0);
    }
}
