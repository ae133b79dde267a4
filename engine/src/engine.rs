//! The public API: an engine over a loaded model.

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    num::NonZeroUsize,
    sync::Arc,
};

use mosu_models::{
    Batch, ChatTemplate, Device, KernelError, LoadError, LoadFormat, LoadProgress, Model, ModelInfo,
    ModelOptions, ModelSource, SamplingDefaults, StepOutput, Tokenizer,
};

use crate::{
    Admission, GenerationStream, Request, RequestError, SamplingParams, Stats,
    active_request::OutputProcessor,
    block_manager::BlockManager,
    core::{CoreParts, StepModel},
    engine_thread::EngineThread,
    sampling::SplitMix64,
    scheduler::Scheduler,
    validate::{self, Limits},
};

/// How to load a model and how much it may use. `EngineOptions::default()` runs the demonstration model.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Which model.
    pub source: ModelSource,
    /// Weights from the files, or random ones from config.json alone.
    pub load_format: LoadFormat,
    /// What computes: `cpu`, `cuda`, or `cuda:N` for one of several GPUs.
    pub device: String,
    /// Threads that compute; `None` is all cores.
    pub threads: Option<usize>,
    /// The longest sequence in tokens; `None` is the model's own limit.
    pub max_model_len: Option<usize>,
    /// Bytes for the KV cache; `None` chooses, as [`ModelOptions::kv_cache_bytes`] says.
    pub kv_cache_bytes: Option<usize>,
    /// Most tokens in one step, which bounds the time between two tokens of a running request; `None` is what suits the
    /// device.
    pub max_batch_tokens: Option<usize>,
    /// Most sequences that run at once; never more than `max_batch_tokens`, so that each advances in each step.
    pub max_sequences: usize,
    /// Most requests that may wait; each choice of a request counts.
    pub max_waiting_requests: usize,
    /// Most prompt tokens that may wait.
    pub max_waiting_tokens: usize,
    /// Read [`Engine::sampling_defaults`] from the model's generation_config.json.
    pub sampling_defaults: bool,
    /// Reuse KV blocks of common prefixes.
    pub prefix_cache: bool,
    /// On a GPU, start the next step before the results of the one being computed are known. Answers are the same bits
    /// either way.
    pub overlap: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            source: ModelSource::Demo,
            load_format: LoadFormat::Auto,
            device: "cpu".into(),
            threads: None,
            max_model_len: None,
            kv_cache_bytes: None,
            max_batch_tokens: None,
            max_sequences: 64,
            max_waiting_requests: 256,
            max_waiting_tokens: 1 << 20,
            sampling_defaults: true,
            prefix_cache: true,
            overlap: true,
        }
    }
}

/// Far more than any machine has cores.
const MAX_THREADS: usize = 1024;

/// A running engine. Cheap to clone; the last clone's drop ends its thread and fails what still runs.
#[derive(Clone)]
pub struct Engine {
    model: Arc<ModelFacts>,
    thread: Arc<EngineThread>,
}

/// What callers need of a model beside its steps.
struct ModelFacts {
    tokenizer: Arc<Tokenizer>,
    /// A broken one keeps no one from continuing texts.
    chat_template: Result<Option<ChatTemplate>, LoadError>,
    sampling_defaults: SamplingDefaults,
    info: ModelInfo,
}

impl Engine {
    /// Loads a model and starts the engine's thread.
    ///
    /// # Errors
    /// What is wrong with a file or an option, or that memory or device do not suffice.
    pub fn load(options: EngineOptions) -> Result<Engine, LoadError> {
        Engine::load_with_progress(options, &mut |_| ())
    }

    /// As [`Engine::load`], reporting progress as tensors are claimed.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn load_with_progress(
        options: EngineOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Engine, LoadError> {
        let model_options = options.check()?;
        options.source.check()?;
        let tokenizer = Arc::new(options.load_tokenizer()?);
        let chat_template = ChatTemplate::load(&options.source);
        let sampling_defaults = options.load_sampling_defaults()?;
        let model = Model::load(&options.source, &model_options, progress)?;
        let info = model.info().clone();
        let limits = options.limits(&info);
        let parts = options.core_parts(model, &info, &tokenizer)?;
        let thread = EngineThread::start(parts, limits, options.max_waiting_tokens).map_err(|error| {
            let reason = format!("cannot start the engine's thread: {error}");
            LoadError::Device(KernelError::Device { name: options.device, reason })
        })?;
        let model = Arc::new(ModelFacts { tokenizer, chat_template, sampling_defaults, info });
        Ok(Engine { model, thread: Arc::new(thread) })
    }

    /// Takes a place in the queue before any work is done for the request.
    ///
    /// # Errors
    /// [`RequestError::Overloaded`] when the queue is full, [`RequestError::ShuttingDown`] after
    /// [`Engine::drain`], [`RequestError::Fatal`] when the engine cannot go on.
    pub fn admit(&self) -> Result<Admission, RequestError> {
        self.thread.admit()
    }

    /// [`Engine::admit`] and [`Admission::generate`] in one.
    ///
    /// # Errors
    /// Those of both.
    pub fn generate(&self, request: Request) -> Result<GenerationStream, RequestError> {
        self.admit()?.generate(request)
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.model.tokenizer
    }

    /// The model's chat template, if it has one.
    ///
    /// # Errors
    /// Why the one that it has cannot be used.
    pub fn chat_template(&self) -> Result<Option<&ChatTemplate>, &LoadError> {
        self.model.chat_template.as_ref().map(Option::as_ref)
    }

    /// How the model's publisher has tokens sampled. Callers decide whether a request follows:
    /// `request.sampling = engine.sampling_defaults().into()`.
    pub fn sampling_defaults(&self) -> &SamplingDefaults {
        &self.model.sampling_defaults
    }

    /// Facts about the model.
    pub fn model_info(&self) -> &ModelInfo {
        &self.model.info
    }

    /// Tokens that one sequence may have: the smaller of the context and what the KV cache holds.
    pub fn max_model_len(&self) -> usize {
        self.thread.limits().max_sequence_tokens()
    }

    /// Counters and gauges as of now.
    pub fn stats(&self) -> Stats {
        self.thread.stats()
    }

    /// Refuses new requests from now on; those already admitted finish.
    pub fn drain(&self) {
        self.thread.drain();
    }

    /// Ends every request with [`RequestError::ShuttingDown`], after the step that is being computed.
    pub fn abort_all(&self) {
        self.thread.abort_all();
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("model", &self.model.info.name).finish_non_exhaustive()
    }
}

impl EngineOptions {
    /// The model's part of the options.
    fn check(&self) -> Result<ModelOptions, LoadError> {
        self.max_batch_tokens.map(|tokens| at_least_one("max_batch_tokens", tokens)).transpose()?;
        at_least_one("max_sequences", self.max_sequences)?;
        at_least_one("max_waiting_requests", self.max_waiting_requests)?;
        let threads = self.threads.map(|threads| at_least_one("threads", threads)).transpose()?;
        if threads.is_some_and(|threads| threads.get() > MAX_THREADS) {
            let message = format!("is more than {MAX_THREADS}; give as many as there are cores");
            return Err(LoadError::Option { option: "threads", message });
        }
        Ok(ModelOptions {
            device: Device::from_name(&self.device, threads)?,
            load_format: self.load_format,
            max_model_len: self.max_model_len,
            kv_cache_bytes: self.kv_cache_bytes,
            max_batch_tokens: self.max_batch_tokens,
            max_sequences: self.max_sequences,
            cuda_graphs: true,
        })
    }

    /// Random weights need no tokenizer of their own: without one, tokens are bytes.
    fn load_tokenizer(&self) -> Result<Tokenizer, LoadError> {
        match Tokenizer::load(&self.source) {
            Err(LoadError::Missing { .. }) if self.load_format == LoadFormat::Dummy => Tokenizer::of_bytes(),
            loaded => loaded,
        }
    }

    fn load_sampling_defaults(&self) -> Result<SamplingDefaults, LoadError> {
        if self.sampling_defaults {
            load_sampling_defaults(&self.source)
        } else {
            Ok(SamplingDefaults::default())
        }
    }

    fn limits(&self, info: &ModelInfo) -> Limits {
        Limits {
            vocab_size: info.vocab_size,
            context: info.max_model_len,
            num_kv_blocks: info.num_kv_blocks,
            kv_groups: info.kv_groups.clone(),
            max_waiting_requests: self.max_waiting_requests,
        }
    }

    fn core_parts(
        &self,
        model: Model,
        info: &ModelInfo,
        tokenizer: &Arc<Tokenizer>,
    ) -> Result<CoreParts, LoadError> {
        let num_blocks = u32::try_from(info.num_kv_blocks).map_err(|_| LoadError::Option {
            option: "kv_cache_bytes",
            message: format!("gives {} KV blocks; at most {} can be counted", info.num_kv_blocks, u32::MAX),
        })?;
        let blocks = BlockManager::new(num_blocks, info.kv_groups.clone());
        Ok(CoreParts {
            overlap: self.overlap && model.is_asynchronous(),
            model: Box::new(model),
            processor: OutputProcessor {
                tokens: Arc::<Tokenizer>::clone(tokenizer),
                end_tokens: info.eos_token_ids.clone(),
                vocab_size: info.vocab_size,
            },
            scheduler: Scheduler::new(blocks, info.max_batch_tokens, self.max_sequences),
            prefix_cache: self.prefix_cache,
            seeds: SplitMix64(RandomState::new().build_hasher().finish()),
        })
    }
}

/// What a model's generation_config.json says of sampling, which must be such as a request could name.
///
/// # Errors
/// The file, and which of its values is wrong.
pub fn load_sampling_defaults(source: &ModelSource) -> Result<SamplingDefaults, LoadError> {
    let defaults = SamplingDefaults::load(source)?;
    match validate::sampling(&SamplingParams::from(&defaults), 0) {
        Err(RequestError::Invalid { field, message }) => Err(LoadError::Config {
            file: source.path(SamplingDefaults::FILE),
            key: field.trim_start_matches("sampling.").into(),
            message: format!("{message}; or leave these defaults out (`--generation-config none`)"),
        }),
        _ => Ok(defaults),
    }
}

fn at_least_one(option: &'static str, value: usize) -> Result<NonZeroUsize, LoadError> {
    NonZeroUsize::new(value)
        .ok_or_else(|| LoadError::Option { option, message: "is 0; give at least 1".into() })
}

impl StepModel for Model {
    fn start(&mut self, batch: &Batch) -> Result<(), String> {
        Model::start(self, batch).map_err(|error| error.to_string())
    }

    fn finish(&mut self, output: &mut StepOutput) -> Result<(), String> {
        Model::finish(self, output).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_options_are_refused_by_name() {
        type Change = fn(&mut EngineOptions);
        let cases: &[(&str, Change)] = &[
            ("threads: ", |options| options.threads = Some(0)),
            ("threads: is more than 1024", |options| options.threads = Some(100_000)),
            ("max_batch_tokens: ", |options| options.max_batch_tokens = Some(0)),
            ("max_sequences: ", |options| options.max_sequences = 0),
            ("max_waiting_requests: ", |options| options.max_waiting_requests = 0),
            ("device \"abacus\": ", |options| options.device = "abacus".into()),
        ];
        for (expected, change) in cases {
            let mut options = EngineOptions::default();
            change(&mut options);
            let error = Engine::load(options).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn sampling_defaults_are_such_as_a_request_could_name() {
        let directory = std::env::temp_dir().join(format!("mosu-defaults-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join(SamplingDefaults::FILE);
        let load = |json: &str, sampling_defaults| {
            std::fs::write(&file, json).unwrap();
            let source = ModelSource::Directory(directory.clone());
            EngineOptions { source, sampling_defaults, ..EngineOptions::default() }.load_sampling_defaults()
        };
        let defaults = load(r#"{"temperature": 0.6, "top_p": 0}"#, true).unwrap();
        let params = SamplingParams::from(&defaults);
        assert_eq!((params.temperature, params.top_p, params.top_k), (0.6, f32::MIN_POSITIVE, 0));
        for (json, key) in [
            (r#"{"temperature": 2.5}"#, "temperature"),
            (r#"{"top_p": 1.5}"#, "top_p"),
            (r#"{"min_p": 2}"#, "min_p"),
            (r#"{"repetition_penalty": 0}"#, "repetition_penalty"),
        ] {
            let message = load(json, true).unwrap_err().to_string();
            assert!(message.contains(&format!("generation_config.json: `{key}`: is ")), "{message}");
            assert_eq!(load(json, false).unwrap(), SamplingDefaults::default());
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_sequence_fits_the_context_and_the_cache() {
        let small = EngineOptions { max_model_len: Some(100), ..EngineOptions::default() };
        assert_eq!(Engine::load(small).unwrap().max_model_len(), 100);
    }

    #[test]
    fn handles_go_anywhere() {
        fn anywhere<T: Send + Sync + 'static>() {}
        anywhere::<Engine>();
        anywhere::<Admission>();
        anywhere::<GenerationStream>();
    }
}
