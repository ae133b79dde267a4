//! On what a model runs, what its weights are made of, and how much it may use.

use mosu_kernels::Device;

/// What the weights are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadFormat {
    /// The source's own files.
    #[default]
    Auto,
    /// Random numbers in the shapes of config.json, the only file needed.
    Dummy,
}

/// On what a model runs, and how much it may use.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// Where it runs.
    pub device: Device,
    /// What the weights are made of.
    pub load_format: LoadFormat,
    /// The longest sequence in tokens; `None` is the model's own context, or what the KV cache holds if that is less.
    pub max_model_len: Option<usize>,
    /// Bytes for the KV cache; `None` is what `max_sequences` of the longest sequences need. The processor's memory is
    /// others' too: at most half of what everything else leaves, and unless `max_model_len` is given, no more than one
    /// of the longest sequences needs, or [`USUAL_TOKENS`] for each of `max_sequences`, if that is more.
    pub kv_cache_bytes: Option<usize>,
    /// Most rows of one step; `None` is what suits the device: [`ModelOptions::max_rows`].
    pub max_batch_tokens: Option<usize>,
    /// Most sequences of one step: slots for those with penalties, block tables of the longest, and a KV cache for so
    /// many, when its size is not given.
    pub max_sequences: usize,
    /// On a GPU, record the launches of decode steps and run them as one. Logits are the same bits either way.
    pub cuda_graphs: bool,
}

/// Rows of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepRows {
    /// The most.
    pub most: usize,
    /// Rows whose logits are computed at a time, and the most of a captured decode step: one for each sequence, so that the
    /// output projection is read once; a power of two, since captured steps are filled up to one.
    pub logits: usize,
}

/// Prompts may ask for the log-probabilities of many rows, however few sequences there are.
const FEWEST_LOGIT_ROWS: usize = 64;

impl ModelOptions {
    /// Weights from files, memory chosen from what is free, steps that suit the device, 64 sequences.
    pub fn new(device: Device) -> ModelOptions {
        ModelOptions {
            device,
            load_format: LoadFormat::Auto,
            max_model_len: None,
            kv_cache_bytes: None,
            max_batch_tokens: None,
            max_sequences: 64,
            cuda_graphs: true,
        }
    }

    /// The sizes of a step.
    pub(crate) fn step_rows(&self) -> StepRows {
        let most = self.max_rows();
        let logits = self.max_sequences.max(FEWEST_LOGIT_ROWS);
        StepRows { most, logits: logits.checked_next_power_of_two().unwrap_or(most).min(most).max(1) }
    }

    /// Most rows of one step. Products with a weight gain little beyond the default, and a decode waits for the whole step:
    /// prefill of Qwen3-0.6B's shape on two cores ran at 77, 80 and 80 tokens/s with 256, 512 and 1024 rows; on an H200
    /// products came near their peak from 2048 on.
    pub fn max_rows(&self) -> usize {
        self.max_batch_tokens.unwrap_or(match self.device {
            Device::Cpu(_) => 512,
            Device::Cuda(_) => 2048,
        })
    }
}

/// Tokens for which each sequence has room in the KV cache on the processor, when nothing else is said.
pub const USUAL_TOKENS: usize = 512;
