//! Checks of a request against what the model and the KV cache can do, before it is accepted.

use std::ops::RangeInclusive;

use mosu_models::{KvGroups, MAX_BIASED_TOKENS};

use crate::{Request, RequestError, SamplingParams, StopConditions};

const MAX_CHOICES: u32 = 128;
const MAX_LOGPROBS: u32 = 20;
const MAX_STOP_STRINGS: usize = 16;
const MAX_STOP_STRING_BYTES: usize = 1024;
const MAX_STOP_TOKENS: usize = 1024;
const MAX_PENALTY: f32 = 2.0;
/// Below it, divided logits leave the range of f32.
const MIN_REPETITION_PENALTY: f32 = 0.01;
const MAX_TEMPERATURE: f32 = 2.0;
const MAX_LOGIT_BIAS: f32 = 100.0;

/// What bounds every request.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub vocab_size: usize,
    /// Tokens of prompt and output that the model can take.
    pub context: usize,
    pub num_kv_blocks: usize,
    pub kv_groups: KvGroups,
    /// Places in the queue; each choice takes one.
    pub max_waiting_requests: usize,
}

impl Limits {
    /// Tokens that one sequence may have: what both the context and the KV cache hold.
    pub fn max_sequence_tokens(&self) -> usize {
        self.context.min(self.kv_groups.tokens_in(self.num_kv_blocks))
    }
}

/// Checks every field. Returns the most output tokens of a choice.
///
/// # Errors
/// What is wrong with the first bad field, and what would be right.
pub(crate) fn validate(request: &Request, limits: &Limits) -> Result<usize, RequestError> {
    tokens("prompt", request.prompt.iter().copied(), limits.vocab_size)?;
    ensure(!request.prompt.is_empty(), "prompt", || "is empty; give at least one token".into())?;
    let max_choices = MAX_CHOICES.min(u32::try_from(limits.max_waiting_requests).unwrap_or(MAX_CHOICES));
    whole("n", request.n, 1..=max_choices)?;
    whole("logprobs", request.logprobs.unwrap_or(0), 0..=MAX_LOGPROBS)?;
    whole("prompt_logprobs", request.prompt_logprobs.unwrap_or(0), 0..=MAX_LOGPROBS)?;
    sampling(&request.sampling, limits.vocab_size)?;
    stop(&request.stop, limits.vocab_size)?;
    output_tokens(request, limits)
}

/// Checks how tokens are to be sampled.
///
/// # Errors
/// As [`validate`].
pub(crate) fn sampling(params: &SamplingParams, vocab_size: usize) -> Result<(), RequestError> {
    real("sampling.temperature", params.temperature, 0.0..=MAX_TEMPERATURE)?;
    real("sampling.top_p", params.top_p, 0.0..=1.0)?;
    ensure(params.top_p > 0.0, "sampling.top_p", || "is 0; give a probability over 0 and up to 1".into())?;
    real("sampling.min_p", params.min_p, 0.0..=1.0)?;
    real("sampling.presence_penalty", params.presence_penalty, -MAX_PENALTY..=MAX_PENALTY)?;
    real("sampling.frequency_penalty", params.frequency_penalty, -MAX_PENALTY..=MAX_PENALTY)?;
    let repetition = MIN_REPETITION_PENALTY..=MAX_PENALTY;
    real("sampling.repetition_penalty", params.repetition_penalty, repetition)?;
    tokens("sampling.logit_bias", params.logit_bias.iter().map(|&(id, _)| id), vocab_size)?;
    at_most("sampling.logit_bias", params.logit_bias.len(), MAX_BIASED_TOKENS, "entries")?;
    let biases = params.logit_bias.iter().map(|&(_, bias)| bias);
    biases
        .into_iter()
        .try_for_each(|bias| real("sampling.logit_bias", bias, -MAX_LOGIT_BIAS..=MAX_LOGIT_BIAS))
}

fn stop(stop: &StopConditions, vocab_size: usize) -> Result<(), RequestError> {
    at_most("stop.strings", stop.strings.len(), MAX_STOP_STRINGS, "strings")?;
    for string in &stop.strings {
        ensure(!string.is_empty(), "stop.strings", || "holds an empty string; leave it out".into())?;
        at_most("stop.strings", string.len(), MAX_STOP_STRING_BYTES, "bytes in a string")?;
    }
    at_most("stop.token_ids", stop.token_ids.len(), MAX_STOP_TOKENS, "tokens")?;
    tokens("stop.token_ids", stop.token_ids.iter().copied(), vocab_size)
}

/// The most output tokens of one choice, so that prompt and output fit context and KV cache.
fn output_tokens(request: &Request, limits: &Limits) -> Result<usize, RequestError> {
    let prompt_tokens = request.prompt.len();
    // Without `max_tokens` there must be room for one.
    let asked = request.stop.max_tokens.unwrap_or(1);
    let scoring_only = request.prompt_logprobs.is_some();
    ensure(asked > 0 || scoring_only, "stop.max_tokens", || {
        "is 0; give at least 1, or ask for prompt_logprobs".into()
    })?;
    let context = limits.context;
    if asked > context.saturating_sub(prompt_tokens) || prompt_tokens > context {
        return Err(RequestError::ContextLength { prompt_tokens, max_tokens: asked, context });
    }
    // The last token sampled is never computed.
    let needed = limits.kv_groups.blocks_for(prompt_tokens + asked.saturating_sub(1));
    if needed > limits.num_kv_blocks {
        return Err(RequestError::CacheTooSmall { needed, available: limits.num_kv_blocks });
    }
    let max_tokens = match request.stop.max_tokens {
        Some(asked) => asked,
        None => limits.max_sequence_tokens().saturating_sub(prompt_tokens).max(1),
    };
    ensure(request.stop.min_tokens <= max_tokens, "stop.min_tokens", || {
        format!("is {}, more than the {max_tokens} output tokens that there can be", request.stop.min_tokens)
    })?;
    Ok(max_tokens)
}

fn ensure(right: bool, field: &'static str, message: impl FnOnce() -> String) -> Result<(), RequestError> {
    if right { Ok(()) } else { Err(RequestError::Invalid { field, message: message() }) }
}

/// NaN is in no range.
fn real(field: &'static str, value: f32, range: RangeInclusive<f32>) -> Result<(), RequestError> {
    ensure(range.contains(&value), field, || {
        format!("is {value}; give a number from {} to {}", range.start(), range.end())
    })
}

fn whole(field: &'static str, value: u32, range: RangeInclusive<u32>) -> Result<(), RequestError> {
    ensure(range.contains(&value), field, || {
        format!("is {value}; give a whole number from {} to {}", range.start(), range.end())
    })
}

fn at_most(field: &'static str, count: usize, limit: usize, unit: &str) -> Result<(), RequestError> {
    ensure(count <= limit, field, || format!("has {count} {unit}; give at most {limit}"))
}

fn tokens(
    field: &'static str,
    mut ids: impl Iterator<Item = u32>,
    vocab_size: usize,
) -> Result<(), RequestError> {
    match ids.find(|&id| id as usize >= vocab_size) {
        None => Ok(()),
        Some(id) => {
            let message = format!("names token {id}, but the model has tokens 0 to {}", vocab_size - 1);
            Err(RequestError::Invalid { field, message })
        }
    }
}

#[cfg(test)]
mod tests {
    use mosu_models::KvReach;

    use super::*;

    fn limits() -> Limits {
        let kv_groups = KvGroups::new(vec![KvReach::Full], 16, 20);
        Limits { vocab_size: 100, context: 64, num_kv_blocks: 3, kv_groups, max_waiting_requests: 500 }
    }

    fn request(change: impl FnOnce(&mut Request)) -> Request {
        let mut request = Request::new(vec![1, 2, 3]);
        change(&mut request);
        request
    }

    #[test]
    fn every_bad_value_names_its_field() {
        type Change = fn(&mut Request);
        let cases: &[(&str, Change)] = &[
            ("prompt", |r| r.prompt.clear()),
            ("prompt", |r| r.prompt[1] = 100),
            ("n", |r| r.n = 0),
            ("n", |r| r.n = 129),
            ("logprobs", |r| r.logprobs = Some(21)),
            ("prompt_logprobs", |r| r.prompt_logprobs = Some(u32::MAX)),
            ("sampling.temperature", |r| r.sampling.temperature = f32::NAN),
            ("sampling.temperature", |r| r.sampling.temperature = -0.1),
            ("sampling.temperature", |r| r.sampling.temperature = f32::INFINITY),
            ("sampling.top_p", |r| r.sampling.top_p = 0.0),
            ("sampling.top_p", |r| r.sampling.top_p = f32::NAN),
            ("sampling.top_p", |r| r.sampling.top_p = 1.01),
            ("sampling.min_p", |r| r.sampling.min_p = -0.01),
            ("sampling.presence_penalty", |r| r.sampling.presence_penalty = 2.1),
            ("sampling.frequency_penalty", |r| r.sampling.frequency_penalty = f32::NEG_INFINITY),
            ("sampling.repetition_penalty", |r| r.sampling.repetition_penalty = 0.0),
            ("sampling.logit_bias", |r| r.sampling.logit_bias = vec![(100, 1.0)]),
            ("sampling.logit_bias", |r| r.sampling.logit_bias = vec![(1, f32::NAN)]),
            ("sampling.logit_bias", |r| r.sampling.logit_bias = vec![(1, 1.0); 1025]),
            ("stop.strings", |r| r.stop.strings = vec![String::new()]),
            ("stop.strings", |r| r.stop.strings = vec!["a".into(); 17]),
            ("stop.strings", |r| r.stop.strings = vec!["a".repeat(1025)]),
            ("stop.token_ids", |r| r.stop.token_ids = vec![100]),
            ("stop.max_tokens", |r| r.stop.max_tokens = Some(0)),
            ("stop.min_tokens", |r| (r.stop.max_tokens, r.stop.min_tokens) = (Some(3), 4)),
            ("stop.min_tokens", |r| r.stop.min_tokens = 46),
        ];
        for (expected, change) in cases {
            match validate(&request(change), &limits()) {
                Err(RequestError::Invalid { field, .. }) => assert_eq!(field, *expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    #[test]
    fn accepts_the_bounds_themselves() {
        let bounds = request(|r| {
            (r.n, r.logprobs, r.prompt_logprobs) = (128, Some(20), Some(0));
            r.sampling.temperature = 2.0;
            r.sampling.min_p = 1.0;
            r.sampling.presence_penalty = -2.0;
            r.sampling.repetition_penalty = 2.0;
            r.sampling.logit_bias = vec![(99, -100.0)];
            (r.stop.max_tokens, r.stop.min_tokens) = (Some(40), 40);
        });
        assert_eq!(validate(&bounds, &limits()), Ok(40));
        assert!(validate(&request(|r| r.stop.max_tokens = Some(0)), &limits()).is_err());
        let scoring = request(|r| (r.stop.max_tokens, r.prompt_logprobs) = (Some(0), Some(1)));
        assert_eq!(validate(&scoring, &limits()), Ok(0));
    }

    #[test]
    fn what_cannot_fit_is_refused_with_both_numbers() {
        let long = request(|r| r.stop.max_tokens = Some(62));
        let context = RequestError::ContextLength { prompt_tokens: 3, max_tokens: 62, context: 64 };
        assert_eq!(validate(&long, &limits()), Err(context));
        let huge = request(|r| r.stop.max_tokens = Some(usize::MAX));
        assert!(matches!(validate(&huge, &limits()), Err(RequestError::ContextLength { .. })));
        let no_room = request(|r| r.prompt = vec![1; 64]);
        let context = RequestError::ContextLength { prompt_tokens: 64, max_tokens: 1, context: 64 };
        assert_eq!(validate(&no_room, &limits()), Err(context));

        assert_eq!(validate(&request(|r| r.stop.max_tokens = Some(46)), &limits()), Ok(46));
        let too_many = request(|r| r.stop.max_tokens = Some(47));
        assert_eq!(
            validate(&too_many, &limits()),
            Err(RequestError::CacheTooSmall { needed: 4, available: 3 })
        );
        let too_many = request(|r| r.prompt = vec![1; 49]);
        assert_eq!(
            validate(&too_many, &limits()),
            Err(RequestError::CacheTooSmall { needed: 4, available: 3 })
        );
    }

    #[test]
    fn what_lies_behind_a_window_needs_no_room() {
        let sliding = KvReach::Sliding { window: 10 };
        let groups = |reaches: &[KvReach]| KvGroups::new(reaches.into(), 16, 8);
        // 10 + 7 positions are in at most 2 KV blocks.
        let limits = Limits { kv_groups: groups(&[sliding]), num_kv_blocks: 2, ..limits() };
        assert_eq!(validate(&request(|r| r.prompt = vec![1; 63]), &limits), Ok(1));
        let limits = Limits { kv_groups: groups(&[KvReach::Full, sliding]), num_kv_blocks: 5, ..limits };
        assert_eq!(limits.max_sequence_tokens(), 48);
        assert_eq!(
            validate(&request(|r| r.prompt = vec![1; 49]), &limits),
            Err(RequestError::CacheTooSmall { needed: 6, available: 5 })
        );
    }

    #[test]
    fn without_max_tokens_the_output_fills_context_or_cache() {
        assert_eq!(validate(&request(|_| ()), &limits()), Ok(45));
        let large = Limits { num_kv_blocks: 100, ..limits() };
        assert_eq!(validate(&request(|_| ()), &large), Ok(61));
    }

    #[test]
    fn more_choices_than_the_queue_holds_are_refused() {
        let small = Limits { max_waiting_requests: 4, ..limits() };
        assert!(validate(&request(|r| r.n = 4), &small).is_ok());
        assert!(matches!(
            validate(&request(|r| r.n = 5), &small),
            Err(RequestError::Invalid { field: "n", .. })
        ));
    }
}
