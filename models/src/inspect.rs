//! What a checkpoint is, without loading it: the configuration, the headers of its files, the tokenizer and the template.

use std::num::NonZeroUsize;

use mosu_kernels::{Allocator, DType, Device};
use serde_json::Value;

use crate::{
    ChatTemplate, DecoderSpec, LoadError, ModelSource, Tokenizer, WeightFiles, config_json::ConfigJson,
    end_tokens::EndTokens, families::Family, weight_files, weights,
};

/// What could be read of a checkpoint, and what could not.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// The name of the directory or of the GGUF file, or `mosu-demo`.
    pub name: String,
    /// As config.json spells it, known here or not.
    pub architecture: Option<String>,
    /// What is computed; `None` when config.json is refused.
    pub spec: Option<DecoderSpec>,
    /// What the files hold; `None` when there are none or one is broken.
    pub weights: Option<WeightFiles>,
    /// Tensors that loading leaves aside, as [`ModelInfo::ignored_tensors`](crate::ModelInfo::ignored_tensors).
    pub ignored_tensors: Vec<String>,
    /// Bytes that one token takes in the KV cache.
    pub kv_bytes_per_token: Option<u64>,
    /// Tokens that end a text, ascending.
    pub eos_token_ids: Vec<u32>,
    /// How text becomes tokens; `None` when the tokenizer is missing or refused.
    pub tokenizer: Option<TokenizerFacts>,
    /// The file that has the model's own chat template, or why it cannot be used; `None` when it has none.
    pub chat_template: Option<Result<&'static str, String>>,
    /// Why the model could not be loaded as it is, one sentence for each part that is refused.
    pub refusals: Vec<String>,
}

/// A tokenizer, by its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerFacts {
    /// The file that was read.
    pub file: &'static str,
    /// What kind of vocabulary it holds.
    pub kind: &'static str,
    /// How many tokens it has, added ones included.
    pub tokens: usize,
}

/// Looks into a checkpoint. Of the weights only the headers are read, so that it is quick at any size; they tell whether
/// every tensor that config.json implies is there, in its shape, and which others there are.
pub fn inspect(source: &ModelSource) -> Inspection {
    let mut found = Inspection {
        name: source.name(),
        architecture: None,
        spec: None,
        weights: None,
        ignored_tensors: Vec::new(),
        kv_bytes_per_token: None,
        eos_token_ids: Vec::new(),
        tokenizer: None,
        chat_template: None,
        refusals: Vec::new(),
    };
    found.weights = found.accept(WeightFiles::read(source));
    let family = found.read_config(source);
    if let (Some(family), Some(_)) = (found.accept(family), &found.weights) {
        found.ignored_tensors = found.accept(check_tensors(source, &family)).unwrap_or_default();
    }
    found.tokenizer = found.accept(read_tokenizer(source));
    found.chat_template = match ChatTemplate::load(source) {
        Ok(template) => template.map(|_| Ok(ChatTemplate::file(source))),
        Err(error) => Some(Err(error.to_string())),
    };
    found
}

impl Inspection {
    fn accept<T>(&mut self, result: Result<T, LoadError>) -> Option<T> {
        result.map_err(|error| self.refusals.push(error.to_string())).ok()
    }

    fn read_config(&mut self, source: &ModelSource) -> Result<Family, LoadError> {
        let (path, config) = source.read_config()?;
        self.architecture = config["architectures"].get(0).and_then(Value::as_str).map(Into::into);
        let config = ConfigJson::new(&path, &config)?;
        let family = source.read_family(&config)?;
        let spec = &family.spec;
        self.kv_bytes_per_token =
            Some((spec.kv_elements_per_token() * self.compute_type(spec).size()) as u64);
        let ends = EndTokens::read(source, &config, spec.vocab_size);
        self.spec = Some(spec.clone());
        self.eos_token_ids = ends?.eos;
        Ok(family)
    }

    /// The type in which the weights compute: f32 where most of their bytes are, else the one that config.json names.
    fn compute_type(&self, spec: &DecoderSpec) -> DType {
        let by_bytes = |weights: &WeightFiles| {
            weights.bytes_by_type.iter().max_by_key(|(_, bytes)| **bytes).map(|(name, _)| name == "F32")
        };
        match self.weights.as_ref().and_then(by_bytes) {
            Some(true) => DType::F32,
            Some(false) => spec.dtype.filter(|dtype| *dtype != DType::F32).unwrap_or(DType::BF16),
            None => spec.dtype.unwrap_or(DType::BF16),
        }
        .compute()
    }
}

/// Claims every tensor as loading would, without its elements; what is left over.
fn check_tensors(source: &ModelSource, family: &Family) -> Result<Vec<String>, LoadError> {
    let mut tensors = weight_files::open(source, &family.spec)?;
    let device = Device::cpu(NonZeroUsize::new(1));
    weights::plan(&mut *tensors, &family.spec, &family.names, &Allocator::planning(&device))
        .map(|(_, left_over)| left_over)
}

fn read_tokenizer(source: &ModelSource) -> Result<TokenizerFacts, LoadError> {
    let tokenizer = Tokenizer::load(source)?;
    let file = Tokenizer::file(source).unwrap_or_default();
    Ok(TokenizerFacts { file, kind: tokenizer.kind(), tokens: tokenizer.vocab_size() })
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
        time::{Duration, Instant},
    };

    use super::*;

    fn of(dir: impl Into<PathBuf>) -> Inspection {
        inspect(&ModelSource::Directory(dir.into()))
    }

    fn tests() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
    }

    #[test]
    fn the_demonstration_model_is_whole() {
        let found = inspect(&ModelSource::Demo);
        assert_eq!(found.refusals, Vec::<String>::new());
        let (spec, weights) = (found.spec.unwrap(), found.weights.unwrap());
        assert_eq!((weights.files, weights.tensors), (1, spec.tensors()));
        assert_eq!(weights.bytes(), 2 * spec.parameters().unwrap());
        assert_eq!(found.tokenizer.unwrap().kind, "tokenizer.json");
        assert_eq!(found.chat_template, Some(Ok("tokenizer_config.json")));
        assert!(!found.eos_token_ids.is_empty() && found.kv_bytes_per_token.unwrap() > 0);
    }

    /// Only the headers are read: of a file of a terabyte nothing else is there to be read.
    #[test]
    fn huge_files_are_quick() {
        let dir = tempfile::tempdir().unwrap();
        let header = br#"{"a":{"dtype":"BF16","shape":[524288,1048576],"data_offsets":[0,1099511627776]}}"#;
        let mut start = (header.len() as u64).to_le_bytes().to_vec();
        start.extend(header);
        let file = dir.path().join("model.safetensors");
        fs::write(&file, &start).unwrap();
        fs::File::options().write(true).open(&file).unwrap().set_len(start.len() as u64 + (1 << 40)).unwrap();
        let started = Instant::now();
        let found = of(dir.path());
        assert!(started.elapsed() < Duration::from_secs(1));
        assert_eq!(found.weights.unwrap().bytes(), 1 << 40);
    }

    /// Every part that is refused is named, and the others are there.
    #[test]
    fn what_is_refused_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let config = r#"{"architectures": ["NobodyForCausalLM"]}"#;
        fs::write(dir.path().join("config.json"), config).unwrap();
        fs::write(dir.path().join("model.safetensors"), b"\xff\0\0\0\0\0\0\0{").unwrap();
        fs::write(dir.path().join("chat_template.jinja"), "{% if %}").unwrap();
        let model = tests().join("text/spm_bpe/tokenizer.model");
        fs::copy(model, dir.path().join("tokenizer.model")).unwrap();
        let found = of(dir.path());
        assert_eq!(found.architecture.as_deref(), Some("NobodyForCausalLM"));
        assert_eq!(found.tokenizer.unwrap().kind, "SentencePiece, BPE");
        for (refusal, what) in found.refusals.iter().zip(["model.safetensors", "NobodyForCausalLM"]) {
            assert!(refusal.contains(what), "{refusal}");
        }
        assert_eq!(found.refusals.len(), 2);
        // The model would load and continue texts.
        let fault = found.chat_template.unwrap().unwrap_err();
        assert!(fault.contains("chat_template.jinja"), "{fault}");
    }

    /// Without loading a tensor, inspection finds that one has the wrong shape, and that one is missing.
    #[test]
    fn tensors_that_do_not_fit_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(tests().join("fixtures/llama")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
        let weights_of = |found: Inspection| {
            found.refusals.into_iter().filter(|refusal| refusal.contains("safetensors")).collect::<Vec<_>>()
        };
        assert_eq!(weights_of(of(dir.path())), Vec::<String>::new());
        let path = dir.path().join("config.json");
        let config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        for (key, named) in [("intermediate_size", "mlp"), ("num_hidden_layers", "model.layers.")] {
            let mut changed = config.clone();
            changed[key] = (config[key].as_u64().unwrap() + 8).into();
            fs::write(&path, changed.to_string()).unwrap();
            let refused = weights_of(of(dir.path()));
            assert!(refused.len() == 1 && refused[0].contains(named), "{key}: {refused:?}");
        }
    }

    /// Published shapes without weights: what is computed, in no time.
    #[test]
    fn published_configs_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut known = 0;
        for entry in fs::read_dir(tests().join("shapes")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|end| end != "json") || path.ends_with("parameters.json") {
                continue;
            }
            fs::copy(&path, dir.path().join("config.json")).unwrap();
            let started = Instant::now();
            let found = of(dir.path());
            assert!(started.elapsed() < Duration::from_secs(1), "{}", path.display());
            match found.spec {
                Some(spec) => {
                    known += 1;
                    assert!(
                        spec.parameters().unwrap() > 500_000_000 && found.kv_bytes_per_token.unwrap() > 0
                    );
                }
                None => {
                    assert!(found.refusals.iter().any(|refusal| refusal.contains("config.json")), "{found:?}")
                }
            }
        }
        assert!(known >= 15, "{known}");
    }
}
