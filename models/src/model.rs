//! A model: a decoder in memory, ready to take steps.

use std::num::NonZeroUsize;

use mosu_kernels::{DType, Device, Result as DeviceResult, ops};

use crate::{
    AttentionSpec, Batch, DecoderSpec, LayerSpec, LoadError, ModelInfo, ModelSource, StepError, StepOutput,
    batch_check::BatchLimits,
    checkpoint::Checkpoint,
    config_json::ConfigJson,
    decoder::Decoder,
    dummy::DummyWeights,
    end_tokens::EndTokens,
    families::{self, Family},
    inputs::InputBuffers,
    kv_cache::BLOCK_SIZE,
    memory,
    plan::{FixedMemory, MemoryPlan},
    recorded::RecordedSteps,
    sampler::Sampler,
    tensor_names::TensorNames,
    weights::{self, DecoderWeights},
    workspace::{LOGIT_ROWS, Workspace},
};

/// What the weights are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadFormat {
    /// The source's safetensors files.
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
    /// Bytes for the KV cache; `None` is what `max_sequences` of the longest sequences need, at most half of the
    /// memory that weights and workspace leave.
    pub kv_cache_bytes: Option<usize>,
    /// Most rows of one step.
    pub max_batch_tokens: usize,
    /// How many sequences the KV cache is sized for, when it is not given.
    pub max_sequences: usize,
    /// On a GPU, record the launches of decode steps and run them as one. Logits are the same bits either way.
    pub record_steps: bool,
}

impl ModelOptions {
    /// Weights from files, memory chosen from what is free, steps of 2048 rows, 64 sequences.
    pub fn new(device: Device) -> ModelOptions {
        ModelOptions {
            device,
            load_format: LoadFormat::Auto,
            max_model_len: None,
            kv_cache_bytes: None,
            max_batch_tokens: 2048,
            max_sequences: 64,
            record_steps: true,
        }
    }
}

/// Most rows that a step may be planned for.
const MAX_BATCH_TOKENS: usize = 1 << 16;

/// How far loading is. Files are mapped, not read: their bytes count as done once a tensor has its place.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadProgress {
    /// Tensors in place.
    pub tensors_done: usize,
    /// Tensors in all.
    pub tensors_total: usize,
    /// Bytes of the tensors in place.
    pub bytes_done: u64,
    /// Bytes of all.
    pub bytes_total: u64,
}

/// Weights, KV blocks and workspace of one decoder. What lies in which KV block is the caller's business.
pub struct Model {
    device: Device,
    inputs: InputBuffers,
    recorded: RecordedSteps,
    record_steps: bool,
    decoder: Decoder,
    sampler: Sampler,
    limits: BatchLimits,
    info: ModelInfo,
}

impl Model {
    /// Loads a model. On the processor weights stay in their files' mapping, but for layouts and formats that have to be
    /// rearranged; to a GPU they are copied.
    ///
    /// # Errors
    /// For a missing or broken file, an unknown architecture, a tensor that is missing, left over or of the wrong
    /// shape, and when the memory does not suffice.
    pub fn load(
        source: &ModelSource,
        options: &ModelOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Model, LoadError> {
        let device = &options.device;
        let max_rows = options.max_batch_tokens;
        if !(1..=MAX_BATCH_TOKENS).contains(&max_rows) {
            let message = format!("expected 1 to {MAX_BATCH_TOKENS}, found {max_rows}");
            return Err(LoadError::Option { option: "max_batch_tokens", message });
        }
        let path = source.path("config.json");
        let config = source.read_json("config.json")?.ok_or_else(|| LoadError::Missing {
            path: path.clone(),
            remedy: "a model directory in Hugging Face layout has one".into(),
        })?;
        let config = ConfigJson::new(&path, &config)?;
        let family = families::read(&config)?;
        let ends = EndTokens::read(source, &config, family.spec.vocab_size)?;
        plan_scratch(&family.spec, options)?;
        let available = memory::available(device)?;
        let (weights, ignored_tensors) =
            load_weights(source, &config, &family, options.load_format, progress)?;
        let Family { architecture, spec, .. } = family;

        let compute = weights.dtype().compute();
        let sampler = Sampler::new(device, spec.vocab_size, max_rows)?;
        let memory = FixedMemory {
            weights: weights.size_in_bytes(),
            workspace: workspace_bytes(&spec, compute, max_rows)? + sampler.bytes() as u64,
        };
        let plan = MemoryPlan::new(&spec, compute, options, memory.leave_free(available)?)?;
        if let Device::Cuda(gpu) = device {
            gpu.reserve((memory.weights + memory.workspace + plan.kv_cache_bytes) as usize)?;
        }
        let weights = weights.move_to(device, progress)?;
        let workspace = Workspace::new(device, &spec, compute, max_rows)?;
        let table_entries = table_entries(options, &plan);
        let inputs = InputBuffers::new(device, max_rows, table_entries)?;
        let name = (source.name(), architecture);
        let mut info = ModelInfo::new(name, &spec, weights.dtype(), options, memory, &plan, ends);
        info.ignored_tensors = ignored_tensors;
        let limits = BatchLimits {
            max_rows,
            vocab_size: spec.vocab_size,
            max_model_len: plan.max_model_len,
            num_blocks: plan.num_blocks,
        };
        let decoder = Decoder::new(device.clone(), spec, weights, workspace, &plan)?;
        let recorded = RecordedSteps::new(max_rows, table_entries, plan.num_blocks as u32);
        let (device, record_steps) = (device.clone(), options.record_steps);
        Ok(Model { device, inputs, recorded, record_steps, decoder, sampler, limits, info })
    }

    /// Facts about it.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The device computes steps while the caller goes on: starting one before the last is waited for saves time.
    pub fn is_asynchronous(&self) -> bool {
        matches!(self.device, Device::Cuda(_))
    }

    /// Computes one step: keys and values of the batch's rows go to their slots, and `output` gets one entry per logit
    /// row, its token drawn on the device.
    ///
    /// # Errors
    /// As [`Model::start`] and [`Model::finish`].
    pub fn step(&mut self, batch: &Batch, output: &mut StepOutput) -> Result<(), StepError> {
        self.start(batch)?;
        self.finish(output)
    }

    /// Starts a step. It sees all that was started before as done, and may take tokens from the last one that nobody
    /// knows yet: see [`Batch::pending`]. Two may be in flight. On the processor it is computed at once.
    ///
    /// # Errors
    /// [`StepError::Batch`] when the batch contradicts itself or the model; nothing was computed then.
    /// [`StepError::InFlight`] when two steps are in flight. [`StepError::Device`] when the device failed.
    pub fn start(&mut self, batch: &Batch) -> Result<(), StepError> {
        self.check(batch)?;
        self.compute(batch)?;
        self.sampler.start(&mut self.decoder, batch)
    }

    /// Waits for the oldest step in flight. `output` gets one entry per logit row of its batch.
    ///
    /// # Errors
    /// [`StepError::InFlight`] when none is. [`StepError::Device`] when the device failed.
    pub fn finish(&mut self, output: &mut StepOutput) -> Result<(), StepError> {
        self.sampler.finish(output)
    }

    fn check(&self, batch: &Batch) -> Result<(), StepError> {
        let num_drawn = self.sampler.drawn()?.shape().elements();
        self.limits.check(batch, num_drawn)
    }

    /// Computes the hidden states of a checked batch, launch by launch or as a recorded decode.
    fn compute(&mut self, batch: &Batch) -> DeviceResult<()> {
        let Model { device, inputs, recorded, record_steps, decoder, sampler, .. } = self;
        let drawn = sampler.drawn()?;
        let shape = if *record_steps { recorded.shape_of(batch) } else { None };
        match (&*device, shape) {
            (Device::Cuda(gpu), Some(shape)) => {
                let inputs = inputs.load(device, recorded.pad(batch, shape), drawn)?;
                recorded.run(gpu, shape, || decoder.decode(&inputs))?;
                decoder.has_decoded();
                Ok(())
            }
            _ => decoder.forward(&inputs.load(device, batch, drawn)?),
        }
    }

    /// As [`Model::step`], but returns the logits themselves, `[R, vocab_size]` for R logit rows, and draws nothing.
    /// For tests and analysis: copying logits is what [`Model::step`] avoids.
    ///
    /// # Errors
    /// As [`Model::step`].
    pub fn step_logits(&mut self, batch: &Batch) -> Result<Vec<f32>, StepError> {
        self.check(batch)?;
        self.compute(batch)?;
        let rows: Vec<u32> = batch.logit_rows.iter().map(|row| row.row).collect();
        let mut logits = Vec::with_capacity(rows.len() * self.info.vocab_size);
        for rows in rows.chunks(LOGIT_ROWS) {
            let (device, of_rows) = self.decoder.logits(rows, batch.num_rows())?;
            logits.extend(of_rows.to_vec::<f32>(device)?);
        }
        Ok(logits)
    }
}

/// On a GPU, takes the memory that attention wants between its kernels.
fn plan_scratch(spec: &DecoderSpec, options: &ModelOptions) -> DeviceResult<()> {
    let Device::Cuda(gpu) = &options.device else { return Ok(()) };
    let context = options.max_model_len.unwrap_or(spec.max_position_embeddings);
    let of_layer = |layer: &LayerSpec| {
        let AttentionSpec { num_heads, head_dim, latent_kv, .. } = layer.attention;
        let rows = options.max_batch_tokens;
        match latent_kv {
            Some(kv) => ops::latent_attention_scratch_bytes(rows, num_heads, kv.latent.rank, context),
            None => ops::attention_scratch_bytes(rows, num_heads, head_dim, context),
        }
    };
    gpu.plan_scratch(spec.layers.iter().map(of_layer).max().unwrap_or(0))
}

/// Bytes of the workspace on any device. Host memory takes nothing until it is written: made there, it tells its size.
fn workspace_bytes(spec: &DecoderSpec, compute: DType, max_rows: usize) -> DeviceResult<u64> {
    let host = Device::cpu(NonZeroUsize::new(1));
    Ok(Workspace::new(&host, spec, compute, max_rows)?.bytes() as u64)
}

/// Entries of the block tables of one step: on a GPU those of `max_sequences` of the longest sequences; on the
/// processor of any number, since they take no memory there until they are written.
fn table_entries(options: &ModelOptions, plan: &MemoryPlan) -> usize {
    let sequences = match options.device {
        Device::Cpu(_) => options.max_batch_tokens,
        Device::Cuda(_) => options.max_sequences.max(1),
    };
    sequences * plan.max_model_len.div_ceil(BLOCK_SIZE)
}

/// The weights, and the names of the tensors that they do not need.
fn load_weights(
    source: &ModelSource,
    config: &ConfigJson,
    family: &Family,
    format: LoadFormat,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<(DecoderWeights, Vec<String>), LoadError> {
    let Family { spec, names, .. } = family;
    match format {
        LoadFormat::Dummy => {
            // Random weights need no layout but the plainest.
            let mut source = DummyWeights::new(config.file(), spec)?;
            Ok((weights::load(&mut source, spec, &TensorNames::for_dummy(spec), progress)?, Vec::new()))
        }
        LoadFormat::Auto => {
            let mut checkpoint = Checkpoint::open(source)?;
            let weights = weights::load(&mut checkpoint, spec, names, progress)?;
            let (layers, tied) = (spec.layers.len(), spec.head.tied);
            let ignored = checkpoint.finish(|name| names.ignores(name, layers, tied))?;
            Ok((weights, ignored))
        }
    }
}
