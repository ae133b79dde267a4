//! Loading: read what the model is, plan all of its memory, and only then take any.

use mosu_kernels::{Allocator, DType, Device};

use super::{LoadFormat, LoadProgress, Model, ModelOptions};
use crate::{
    LoadError, MemoryPlan, ModelInfo, ModelSource,
    batch_check::BatchLimits,
    config_json::ConfigJson,
    cuda_graphs::CudaGraphs,
    decoder::Decoder,
    dummy::DummyWeights,
    end_tokens::EndTokens,
    families::Family,
    inputs::InputBuffer,
    kv_layout::KvLayout,
    memory::Memory,
    plan::{Planner, table_entries},
    sampler::Sampler,
    tensor_names::TensorNames,
    weight_files,
    weights::{self, Pass, TensorSource},
};

/// Most rows that a step may be planned for.
const MAX_BATCH_TOKENS: usize = 1 << 16;

impl Model {
    /// Loads a model. On the processor weights stay in their files' mapping, but for layouts and formats that have to be
    /// rearranged; to a GPU they are copied. Nothing large is touched before all memory is planned.
    ///
    /// # Errors
    /// For a missing or broken file, an unknown architecture, a tensor that is missing, of the wrong shape, or left over
    /// in a module that is needed, and when the memory does not suffice.
    pub fn load(
        source: &ModelSource,
        options: &ModelOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Model, LoadError> {
        Planned::new(source, options)?.load(source, options, progress)
    }

    /// Plans a model's memory without loading it: headers are read, and nothing is taken.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn plan(source: &ModelSource, options: &ModelOptions) -> Result<MemoryPlan, LoadError> {
        Ok(Planned::new(source, options)?.plan)
    }
}

/// A model of which everything is known and nothing is loaded.
struct Planned {
    family: Family,
    ends: EndTokens,
    weights: Box<dyn TensorSource>,
    /// What the weights call their tensors.
    names: TensorNames,
    plan: MemoryPlan,
    scratch_bytes: usize,
    ignored_tensors: Vec<String>,
}

impl Planned {
    fn new(source: &ModelSource, options: &ModelOptions) -> Result<Planned, LoadError> {
        let (device, max_rows) = (&options.device, options.max_rows());
        if !(1..=MAX_BATCH_TOKENS).contains(&max_rows) {
            let message = format!("expected 1 to {MAX_BATCH_TOKENS}, found {max_rows}");
            return Err(LoadError::Option { option: "max_batch_tokens", message });
        }
        source.check()?;
        let (path, config) = source.read_config()?;
        let config = ConfigJson::new(&path, &config)?;
        let family = source.read_family(&config)?;
        let spec = &family.spec;
        let ends = EndTokens::read(source, &config, spec.vocab_size)?;
        let sampler = Allocator::planning(device);
        Sampler::new(&sampler, spec.vocab_size, options.step_rows(), options.max_sequences)?;
        let layout = KvLayout::new(spec);
        let mut planner = Planner {
            spec,
            layout: &layout,
            options,
            compute: spec.dtype.unwrap_or(DType::BF16).compute(),
            memory: Memory::of(device)?,
            weights: 0,
            linear_scratch: 0,
            sampler: sampler.bytes(),
        };
        let (mut weights, names): (Box<dyn TensorSource>, TensorNames) = match options.load_format {
            LoadFormat::Dummy => {
                let weights = DummyWeights::new(&path, spec);
                // Without counting the tensors of a model that is much too large one by one.
                planner.weights = weights.totals().1;
                planner.check_weights()?;
                // Random weights need no layout but the plainest.
                (Box::new(weights), TensorNames::for_dummy(spec))
            }
            LoadFormat::Auto => (weight_files::open(source, spec)?, family.names.clone()),
        };
        let counted = Allocator::planning(device);
        let (mut planned, ignored_tensors) = weights::plan(&mut *weights, spec, &names, &counted)?;
        planner.weights = counted.bytes();
        planner.compute = planned.compute();
        planner.linear_scratch = planned.scratch_bytes(device, max_rows)?;
        planner.check_weights()?;
        let plan = planner.plan()?;
        let scratch_bytes = planner.scratch_bytes(plan.max_model_len);
        Ok(Planned { ends, weights, names, plan, scratch_bytes, ignored_tensors, family })
    }

    fn load(
        mut self,
        source: &ModelSource,
        options: &ModelOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Model, LoadError> {
        let (device, max_rows, plan) = (&options.device, options.max_rows(), &self.plan);
        if let Device::Cuda(gpu) = device {
            gpu.plan_scratch(self.scratch_bytes)?;
            gpu.reserve((plan.taken() - plan.scratch) as usize)?;
        }
        let (to, Family { architecture, spec, .. }) = (Allocator::new(device), self.family);
        self.weights.begin(Pass::Load);
        let mut weights = weights::load(&mut *self.weights, &spec, &self.names, &to, progress)?;
        let table_entries = table_entries(options, plan.max_model_len);
        let inputs = InputBuffer::new(&to, max_rows, plan.kv_groups.count(), table_entries)?;
        let limits = BatchLimits {
            max_rows,
            max_sequences: options.max_sequences,
            vocab_size: spec.vocab_size,
            max_model_len: plan.max_model_len,
            num_blocks: plan.num_kv_blocks,
            kv_groups: plan.kv_groups.clone(),
        };
        let name = (source.name(), architecture);
        let mut info = ModelInfo::new(name, &spec, &mut weights, options, plan, self.ends);
        info.ignored_tensors = self.ignored_tensors;
        let step = options.step_rows();
        let padding_block = plan.num_kv_blocks as u32;
        let graphs = CudaGraphs::new(device, options.cuda_graphs, step.logits, table_entries, padding_block);
        let sampler = Sampler::new(&to, spec.vocab_size, step, options.max_sequences)?;
        let decoder = Decoder::new(&to, spec, weights, plan, step)?;
        Ok(Model {
            device: device.clone(),
            inputs,
            graphs,
            logit_rows: step.logits,
            decoder,
            sampler,
            limits,
            info,
        })
    }
}
