//! The fields that all generating endpoints share, read into a [`mosu::Request`].

use std::collections::BTreeMap;

use mosu::{Request, SamplingParams, StopConditions};
use serde_json::value::RawValue;

use super::params::{self, Fields};
use crate::error::ApiError;

/// Stop strings per request. OpenAI's bound is 4; other servers take more.
const MAX_STOP_STRINGS: usize = 16;

/// Fields that clients send and that change nothing here.
pub const HARMLESS: &[&str] = &[
    "metadata",
    "moderation",
    "parallel_tool_calls",
    "prediction",
    "priority",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "request_id",
    "safety_identifier",
    "store",
    "user",
    "verbosity",
];

/// A request for the engine with everything but the prompt, `max_tokens` and log-probabilities. What it does not say
/// of sampling is as in `default`.
pub fn request(
    fields: &mut Fields,
    default: &SamplingParams,
    vocab_size: usize,
) -> Result<Request, ApiError> {
    let mut request = Request::new(Vec::new());
    request.sampling = sampling(fields, default, vocab_size)?;
    request.stop = stop(fields, vocab_size)?;
    request.n = fields.integer("n", 1..=128)?.unwrap_or(1) as u32;
    request.skip_special_tokens = fields.flag("skip_special_tokens")?.unwrap_or(true);
    request.cache_salt = cache_salt(fields)?;
    Ok(request)
}

fn sampling(
    fields: &mut Fields,
    default: &SamplingParams,
    vocab_size: usize,
) -> Result<SamplingParams, ApiError> {
    Ok(SamplingParams {
        temperature: fields.number("temperature", 0.0..=2.0)?.unwrap_or(default.temperature),
        // -1 is another server's word for all.
        top_k: fields.integer("top_k", -1..=i64::from(i32::MAX))?.map_or(default.top_k, |k| k.max(0) as u32),
        // 0 keeps the most probable token, as the smallest positive value does.
        top_p: fields.number("top_p", 0.0..=1.0)?.map_or(default.top_p, |p| p.max(f32::MIN_POSITIVE)),
        min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(default.min_p),
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(default.presence_penalty),
        frequency_penalty: fields
            .number("frequency_penalty", -2.0..=2.0)?
            .unwrap_or(default.frequency_penalty),
        repetition_penalty: fields
            .number("repetition_penalty", 0.01..=2.0)?
            .unwrap_or(default.repetition_penalty),
        logit_bias: logit_bias(fields, vocab_size)?,
        // Any 64 bits will do as a key; the sign only changes how they are written.
        seed: fields.integer("seed", i64::MIN..=i64::MAX)?.map(|seed| seed as u64),
    })
}

fn logit_bias(fields: &mut Fields, vocab_size: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let path = fields.path("logit_bias");
    let expected = "an object of token ids and biases";
    let biases: BTreeMap<String, &RawValue> = fields.take("logit_bias", expected)?.unwrap_or_default();
    biases
        .into_iter()
        .map(|(token, bias)| {
            let path = format!("{path}.{token}");
            // Another spelling of a number could name a token twice.
            let id = token.parse().ok().filter(|id: &i64| id.to_string() == token);
            let id = id.ok_or_else(|| ApiError::value(&path, format!("`{token}` is not a token id")))?;
            let id = token_id(id, vocab_size).map_err(|why| ApiError::value(&path, why))?;
            Ok((id, params::number(bias, &path, &(-100.0..=100.0))?))
        })
        .collect()
}

fn stop(fields: &mut Fields, vocab_size: usize) -> Result<StopConditions, ApiError> {
    Ok(StopConditions {
        max_tokens: None,
        min_tokens: fields.integer("min_tokens", 0..=i64::from(u32::MAX))?.unwrap_or(0) as usize,
        strings: stop_strings(fields)?,
        token_ids: token_ids(fields, "stop_token_ids", vocab_size)?.unwrap_or_default(),
        ignore_eos: fields.flag("ignore_eos")?.unwrap_or(false),
        include_stop_string: fields.flag("include_stop_str_in_output")?.unwrap_or(false),
    })
}

/// `stop`: a string or a list of strings.
fn stop_strings(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let path = fields.path("stop");
    let Some(json) = fields.raw("stop") else { return Ok(Vec::new()) };
    let strings = if json.get().starts_with('[') {
        params::read::<Vec<String>>(json, &path, "a string or a list of strings")?
    } else {
        vec![params::read(json, &path, "a string or a list of strings")?]
    };
    if strings.len() > MAX_STOP_STRINGS {
        return Err(ApiError::value(path, format!("`stop` takes at most {MAX_STOP_STRINGS} strings")));
    }
    if let Some(index) = strings.iter().position(String::is_empty) {
        return Err(ApiError::value(
            path,
            format!("`stop` has an empty string at place {index}; leave it out"),
        ));
    }
    Ok(strings)
}

fn cache_salt(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let salt = fields.text("cache_salt")?;
    match &salt {
        Some(salt) if salt.is_empty() || salt.len() > 1024 => {
            Err(ApiError::value("cache_salt", "`cache_salt` must have 1 to 1024 bytes"))
        }
        _ => Ok(salt),
    }
}

/// A list of token ids of the vocabulary.
pub fn token_ids(fields: &mut Fields, name: &str, vocab_size: usize) -> Result<Option<Vec<u32>>, ApiError> {
    let path = fields.path(name);
    let Some(ids) = fields.take::<Vec<i64>>(name, "a list of token ids")? else { return Ok(None) };
    check_token_ids(&ids, vocab_size, &path).map(Some)
}

/// Token ids, each checked against the vocabulary.
pub fn check_token_ids(ids: &[i64], vocab_size: usize, path: &str) -> Result<Vec<u32>, ApiError> {
    ids.iter()
        .enumerate()
        .map(|(index, &id)| {
            token_id(id, vocab_size).map_err(|why| ApiError::value(format!("{path}[{index}]"), why))
        })
        .collect()
}

fn token_id(id: i64, vocab_size: usize) -> Result<u32, String> {
    u32::try_from(id).ok().filter(|&id| (id as usize) < vocab_size).ok_or_else(|| {
        format!("the vocabulary has the tokens 0 to {}, not {id}", vocab_size.saturating_sub(1))
    })
}

/// The fields `stream` and `stream_options`.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamOptions {
    /// Answer with server-sent events.
    pub stream: bool,
    /// Send a last chunk with the usage.
    pub include_usage: bool,
    /// Send the usage so far with every chunk.
    pub continuous_usage: bool,
}

impl StreamOptions {
    /// Reads both fields.
    pub fn take(fields: &mut Fields) -> Result<StreamOptions, ApiError> {
        let stream = fields.flag("stream")?.unwrap_or(false);
        let Some(json) = fields.raw("stream_options") else {
            return Ok(StreamOptions { stream, ..StreamOptions::default() });
        };
        if !stream {
            return Err(ApiError::value("stream_options", "`stream_options` needs `stream` to be true"));
        }
        let mut options = Fields::of_member(json, "stream_options".into())?;
        Ok(StreamOptions {
            stream,
            include_usage: options.flag("include_usage")?.unwrap_or(false),
            continuous_usage: options.flag("continuous_usage_stats")?.unwrap_or(false),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Request, ApiError> {
        request(&mut Fields::of_body(json).unwrap(), &SamplingParams::default(), 100)
    }

    #[test]
    fn what_is_absent_or_null_is_the_default() {
        let default = SamplingParams {
            temperature: 0.6,
            top_k: 20,
            top_p: 0.95,
            min_p: 0.1,
            repetition_penalty: 1.05,
            ..SamplingParams::default()
        };
        for json in
            ["{}", r#"{"temperature":null,"top_k":null,"top_p":null,"min_p":null,"repetition_penalty":null}"#]
        {
            let request = request(&mut Fields::of_body(json).unwrap(), &default, 100).unwrap();
            assert_eq!(request.sampling, default, "{json}");
        }
        let named = r#"{"temperature":1,"top_k":0,"top_p":1,"min_p":0,"repetition_penalty":1}"#;
        let request = request(&mut Fields::of_body(named).unwrap(), &default, 100).unwrap();
        assert_eq!(request.sampling, SamplingParams::default());
    }

    #[test]
    fn everything_is_read() {
        let request = read(
            r#"{"temperature":0.5,"top_k":-1,"top_p":0,"min_p":0.1,"presence_penalty":-2,"frequency_penalty":2,
               "repetition_penalty":1.5,"logit_bias":{"7":-100},"seed":-1,"n":3,"stop":"x","stop_token_ids":[4],
               "min_tokens":2,"ignore_eos":true,"include_stop_str_in_output":true,"skip_special_tokens":false,
               "cache_salt":"s"}"#,
        )
        .unwrap();
        let expected = SamplingParams {
            temperature: 0.5,
            top_k: 0,
            top_p: f32::MIN_POSITIVE,
            min_p: 0.1,
            presence_penalty: -2.0,
            frequency_penalty: 2.0,
            repetition_penalty: 1.5,
            logit_bias: vec![(7, -100.0)],
            seed: Some(u64::MAX),
        };
        assert_eq!(request.sampling, expected);
        let expected = StopConditions {
            max_tokens: None,
            min_tokens: 2,
            strings: vec!["x".into()],
            token_ids: vec![4],
            ignore_eos: true,
            include_stop_string: true,
        };
        assert_eq!(request.stop, expected);
        assert_eq!((request.n, request.skip_special_tokens), (3, false));
        assert_eq!(request.cache_salt.as_deref(), Some("s"));
    }

    #[test]
    fn errors_name_the_field() {
        for (json, param) in [
            (r#"{"logit_bias":{"100":1}}"#, "logit_bias.100"),
            (r#"{"logit_bias":{"a":1}}"#, "logit_bias.a"),
            (r#"{"logit_bias":{"1":101}}"#, "logit_bias.1"),
            (r#"{"logit_bias":[]}"#, "logit_bias"),
            (r#"{"stop":""}"#, "stop"),
            (r#"{"stop":["a",3]}"#, "stop[1]"),
            (r#"{"stop":7}"#, "stop"),
            (r#"{"stop_token_ids":[1,-1]}"#, "stop_token_ids[1]"),
            (r#"{"cache_salt":""}"#, "cache_salt"),
            (r#"{"repetition_penalty":0}"#, "repetition_penalty"),
        ] {
            assert_eq!(read(json).unwrap_err().param.as_deref(), Some(param), "{json}");
        }
    }

    #[test]
    fn stream_options_need_a_stream() {
        let mut fields = Fields::of_body(r#"{"stream_options":{"include_usage":true}}"#).unwrap();
        assert_eq!(StreamOptions::take(&mut fields).unwrap_err().param.as_deref(), Some("stream_options"));
    }
}
