//! How a model's publisher has its tokens sampled, from generation_config.json.

use std::fmt;

use crate::{LoadError, ModelSource, config_json::ConfigJson};

/// What generation_config.json asks for where a request does not say; `None` where the file does not either.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SamplingDefaults {
    /// 0 is greedy, which `"do_sample": false` asks for too.
    pub temperature: Option<f32>,
    /// 0 keeps all tokens.
    pub top_k: Option<u32>,
    /// A probability.
    pub top_p: Option<f32>,
    /// A share of the highest probability.
    pub min_p: Option<f32>,
    /// 1 changes nothing.
    pub repetition_penalty: Option<f32>,
}

impl SamplingDefaults {
    /// The file that they are read from.
    pub const FILE: &str = "generation_config.json";

    /// Reads them; a model without the file has none.
    ///
    /// # Errors
    /// When a value is of the wrong type, or negative.
    pub fn load(source: &ModelSource) -> Result<SamplingDefaults, LoadError> {
        match source.read_json(SamplingDefaults::FILE)? {
            None => Ok(SamplingDefaults::default()),
            Some(config) => {
                SamplingDefaults::read(&ConfigJson::new(&source.path(SamplingDefaults::FILE), &config)?)
            }
        }
    }

    fn read(config: &ConfigJson) -> Result<SamplingDefaults, LoadError> {
        let number = |key| Ok::<_, LoadError>(config.number_or_zero(key)?.map(|number| number as f32));
        // transformers then draws no tokens, whatever else the file has. It does the same when the key is absent, but
        // published files leave it out beside a temperature, and requests of this API expect to draw.
        let greedy = !config.flag("do_sample", true)?;
        Ok(SamplingDefaults {
            temperature: number("temperature")?.filter(|_| !greedy).or(greedy.then_some(0.0)),
            top_k: top_k(config)?,
            top_p: number("top_p")?,
            min_p: number("min_p")?,
            repetition_penalty: number("repetition_penalty")?,
        })
    }
}

/// -1 is another engine's word for all.
fn top_k(config: &ConfigJson) -> Result<Option<u32>, LoadError> {
    const KEY: &str = "top_k";
    let Some(count) = config.optional_whole(KEY)? else { return Ok(None) };
    match u32::try_from(count.max(0)) {
        Ok(top_k) if count >= -1 => Ok(Some(top_k)),
        _ => Err(config.error(KEY, format!("expected a count of tokens, or 0 or -1 for all, found {count}"))),
    }
}

/// As `temperature 0.6, top_k 20`; nothing when there are none.
impl fmt::Display for SamplingDefaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: Option<f32>| number.map(|number| number.to_string());
        let named = [
            ("temperature", number(self.temperature)),
            ("top_k", self.top_k.map(|count| count.to_string())),
            ("top_p", number(self.top_p)),
            ("min_p", number(self.min_p)),
            ("repetition_penalty", number(self.repetition_penalty)),
        ];
        let named = named.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
        f.write_str(&named.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    fn read(config: Value) -> Result<SamplingDefaults, LoadError> {
        SamplingDefaults::read(&ConfigJson::new(Path::new("m/generation_config.json"), &config)?)
    }

    #[test]
    fn published_files_are_read() {
        let qwen3 = json!({"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95,
            "eos_token_id": [151645, 151643], "transformers_version": "4.51.0"});
        let defaults = read(qwen3).unwrap();
        assert_eq!(defaults.to_string(), "temperature 0.6, top_k 20, top_p 0.95");
        assert_eq!((defaults.min_p, defaults.repetition_penalty), (None, None));
        let penalty = read(json!({"repetition_penalty": 1.05, "min_p": 0, "top_k": -1})).unwrap();
        assert_eq!(penalty.to_string(), "top_k 0, min_p 0, repetition_penalty 1.05");
    }

    #[test]
    fn absent_and_null_are_no_defaults() {
        assert_eq!(read(json!({})).unwrap(), SamplingDefaults::default());
        let null = json!({"do_sample": null, "temperature": null, "top_k": null, "top_p": null, "min_p": null,
            "repetition_penalty": null});
        assert_eq!(read(null).unwrap(), SamplingDefaults::default());
        assert_eq!(SamplingDefaults::load(&ModelSource::Demo).unwrap().to_string(), "");
    }

    #[test]
    fn what_is_not_sampled_is_greedy() {
        let defaults = read(json!({"do_sample": false, "temperature": 0.7, "top_p": 0.8})).unwrap();
        assert_eq!((defaults.temperature, defaults.top_p), (Some(0.0), Some(0.8)));
    }

    #[test]
    fn bad_values_are_named() {
        for (config, key) in [
            (json!({"temperature": "hot"}), "temperature"),
            (json!({"temperature": -1}), "temperature"),
            (json!({"top_k": 1.5}), "top_k"),
            (json!({"top_k": -2}), "top_k"),
            (json!({"top_k": 1u64 << 32}), "top_k"),
            (json!({"top_p": [0.9]}), "top_p"),
            (json!({"min_p": true}), "min_p"),
            (json!({"repetition_penalty": -0.5}), "repetition_penalty"),
            (json!({"do_sample": "no"}), "do_sample"),
        ] {
            let message = read(config).unwrap_err().to_string();
            assert!(message.starts_with(&format!("m/generation_config.json: `{key}`: ")), "{message}");
        }
    }
}
