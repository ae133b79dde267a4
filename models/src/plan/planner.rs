//! Making the plan: the longest sequence and the most KV blocks that fit.

use mosu_kernels::{Allocator, DType, Device, ops};

use super::MemoryPlan;
use crate::{
    AttentionSpec, DecoderSpec, KvGroups, LatentAttentionSpec, LayerSpec, LoadError, Mixer, ModelOptions,
    inputs::InputBuffer,
    kv_cache::{BLOCK_SIZE, KvBlocks},
    kv_layout::KvLayout,
    memory::Memory,
    model::{StepRows, USUAL_TOKENS},
    position_tables::PositionTables,
    size::Size,
    workspace::Workspace,
};

/// Slots are u32.
const MOST_BLOCKS: usize = u32::MAX as usize / BLOCK_SIZE;

/// Everything that decides about a plan.
#[derive(Clone, Copy)]
pub(crate) struct Planner<'a> {
    pub spec: &'a DecoderSpec,
    /// Which layers share KV blocks.
    pub layout: &'a KvLayout,
    pub options: &'a ModelOptions,
    /// The type in which activations meet the matrices.
    pub compute: DType,
    pub memory: Memory,
    /// Bytes of the weights.
    pub weights: u64,
    /// Bytes of scratch that the matrix products want.
    pub linear_scratch: usize,
    /// Bytes of the sampler.
    pub sampler: u64,
}

impl Planner<'_> {
    /// The plan for the longest sequences and the most of them.
    ///
    /// The KV cache gets what the options say. It must hold one longest sequence, so that a sequence alone can always go
    /// on: a context that the options ask for and that does not fit is refused, the model's own is shortened to what
    /// fits.
    ///
    /// # Errors
    /// When an option contradicts the model or the memory; how much is missing and what would fit.
    pub fn plan(&self) -> Result<MemoryPlan, LoadError> {
        let wanted = longest(self.spec, self.options)?;
        let fixed = self.fixed()?;
        if let Some(bytes) = self.options.kv_cache_bytes {
            return self.plan_given(&fixed, wanted, bytes as u64);
        }
        let len = self.longest_that_fits(&fixed, wanted, 1)?;
        if len == 0 {
            return Err(self.refuse_model()?);
        }
        if len < wanted && self.options.max_model_len.is_some() {
            return Err(self.refuse_context(&fixed, wanted, len)?);
        }
        let most = self.wanted_blocks(len).min(MOST_BLOCKS);
        let blocks = largest(most, |blocks| Ok(self.sized(&fixed, len, blocks)?.fits()))?;
        self.sized(&fixed, len, blocks)
    }

    /// The plan for a KV cache of at most `bytes`.
    fn plan_given(&self, fixed: &MemoryPlan, wanted: usize, bytes: u64) -> Result<MemoryPlan, LoadError> {
        let holds = |blocks: usize| Ok(self.kv_bytes(blocks)? <= bytes);
        let blocks = largest(MOST_BLOCKS, holds)?;
        let groups = self.groups();
        let len = wanted.min(groups.tokens_in(blocks));
        let plan = self.sized(fixed, len, blocks)?;
        let free = (plan.free + plan.kv_cache).saturating_sub(plan.needed());
        if bytes > free {
            let blocks = largest(MOST_BLOCKS, |blocks| Ok(self.kv_bytes(blocks)? <= free))?;
            let tokens = len.min(groups.tokens_in(blocks));
            let count = groups.sequences_in(blocks, tokens);
            let remedy = format!(
                "ask for {free} bytes or less, enough for {count} × {tokens} tokens, or let it be chosen"
            );
            return Err(self.short("the KV cache", bytes, free, remedy, plan));
        }
        let asked = self.options.max_model_len.is_some();
        if len == 0 || (asked && len < wanted) {
            let needed = self.kv_bytes(groups.blocks_for(if asked { wanted } else { 1 }))?;
            let remedy = format!("give it more memory, or shorten max_model_len: {len} tokens fit");
            return Err(self.short("the KV cache of one sequence", needed, plan.kv_cache, remedy, plan));
        }
        Ok(plan)
    }

    /// Fails if the weights alone are too much.
    ///
    /// # Errors
    /// How much is missing.
    pub fn check_weights(&self) -> Result<(), LoadError> {
        if self.weights <= self.memory.free { Ok(()) } else { Err(self.refuse_model()?) }
    }

    /// How many KV blocks sequences need.
    fn groups(&self) -> KvGroups {
        KvGroups::new(self.layout.reaches.clone(), BLOCK_SIZE, self.options.max_rows())
    }

    /// KV blocks for sequences of up to `len` tokens, where there is memory for them.
    fn wanted_blocks(&self, len: usize) -> usize {
        let (groups, sequences) = (self.groups(), self.sequences());
        match (&self.options.device, self.options.max_model_len) {
            (Device::Cpu(_), None) => {
                groups.blocks_for(len).max(groups.blocks_for_all(sequences, len.min(USUAL_TOKENS)))
            }
            _ => groups.blocks_for_all(sequences, len),
        }
    }

    fn sequences(&self) -> usize {
        self.options.max_sequences.max(1)
    }

    /// The shares that neither the context nor the number of KV blocks changes, for the
    /// largest step.
    fn fixed(&self) -> Result<MemoryPlan, LoadError> {
        let workspace = Allocator::planning(&self.options.device);
        Workspace::new(&workspace, self.spec, self.compute, self.options.step_rows())?;
        Ok(MemoryPlan {
            total: self.memory.total,
            free: self.memory.free,
            weights: self.weights,
            workspace: workspace.bytes(),
            sampler: self.sampler,
            kept_free: self.memory.driver,
            ..MemoryPlan::default()
        })
    }

    /// All shares, for sequences of up to `len` tokens in `blocks` KV blocks.
    fn sized(&self, fixed: &MemoryPlan, len: usize, blocks: usize) -> Result<MemoryPlan, LoadError> {
        let device = &self.options.device;
        let (tables, inputs) = (Allocator::planning(device), Allocator::planning(device));
        PositionTables::new(&tables, self.spec, len)?;
        let groups = self.groups();
        InputBuffer::new(&inputs, self.options.max_rows(), groups.count(), table_entries(self.options, len))?;
        let kv_cache = self.kv_bytes(blocks)?;
        let kept_free = match (device, self.options.kv_cache_bytes) {
            (Device::Cpu(_), None) => kv_cache,
            _ => fixed.kept_free,
        };
        Ok(MemoryPlan {
            position_tables: tables.bytes(),
            inputs: inputs.bytes(),
            scratch: self.scratch(len) as u64,
            padding_kv_blocks: self.kv_bytes(blocks + padding_blocks(device, self.options.step_rows()))?
                - kv_cache,
            kv_cache,
            kept_free,
            max_model_len: len,
            num_kv_blocks: blocks,
            kv_groups: groups,
            ..fixed.clone()
        })
    }

    fn kv_bytes(&self, blocks: usize) -> Result<u64, LoadError> {
        let cache = Allocator::planning(&self.options.device);
        KvBlocks::new(&cache, self.spec, self.layout, self.compute, blocks)?;
        Ok(cache.bytes())
    }

    /// Bytes that the GPU must still give for what ops keep between their kernels; they share it.
    fn scratch(&self, len: usize) -> usize {
        let Device::Cuda(gpu) = &self.options.device else { return 0 };
        gpu.scratch_missing(self.scratch_bytes(len))
    }

    /// The most that an op keeps between its kernels, with contexts of up to `len` tokens.
    pub fn scratch_bytes(&self, len: usize) -> usize {
        let rows = self.options.max_rows();
        let attention = |layer: &LayerSpec| match &layer.mixer {
            Mixer::Attention(AttentionSpec { num_heads, head_dim, .. }) => {
                ops::attention_scratch_bytes(rows, *num_heads, *head_dim, len)
            }
            Mixer::LatentAttention(LatentAttentionSpec { num_heads, latent, .. }) => {
                ops::latent_attention_scratch_bytes(rows, *num_heads, latent.rank, len)
            }
        };
        let attention = self.spec.layers.iter().map(attention).max().unwrap_or(0);
        let sample = {
            let logits = self.options.step_rows().logits;
            ops::sample_scratch_bytes(&self.options.device, logits, self.spec.vocab_size, len)
        };
        let shared = [attention, sample, ops::gather_token_ids_scratch_bytes(rows), self.linear_scratch];
        shared.into_iter().max().unwrap_or(0)
    }

    /// The longest sequence of at most `wanted` tokens of which `count` fit at once; 0 when none does.
    fn longest_that_fits(&self, fixed: &MemoryPlan, wanted: usize, count: usize) -> Result<usize, LoadError> {
        let (groups, len) = (self.groups(), |steps: usize| wanted.min(steps * BLOCK_SIZE));
        let fits = |steps: usize| {
            let blocks = groups.blocks_for_all(count, len(steps));
            Ok(blocks <= MOST_BLOCKS && self.sized(fixed, len(steps), blocks)?.fits())
        };
        largest(wanted.div_ceil(BLOCK_SIZE), fits).map(len)
    }

    /// Not even the shortest sequence fits.
    fn refuse_model(&self) -> Result<LoadError, LoadError> {
        let least = |planner: &Planner<'_>| {
            let fixed = planner.fixed()?;
            planner.sized(&fixed, BLOCK_SIZE, planner.groups().blocks_for(BLOCK_SIZE))
        };
        let fewer = |rows: &usize| {
            let options = ModelOptions { max_batch_tokens: Some(*rows), ..self.options.clone() };
            least(&Planner { options: &options, ..*self }).is_ok_and(|plan| plan.fits())
        };
        let least = least(self)?;
        let halves = std::iter::successors(Some(self.options.max_rows() / 2), |rows| Some(rows / 2));
        let without_sampler = least.needed().saturating_sub(least.sampler);
        let remedy = match halves.take_while(|rows| *rows > 0).find(fewer) {
            Some(rows) => format!("no context fits beside its activations; max_batch_tokens of {rows} fits"),
            None if without_sampler <= least.free => {
                format!("max_sequences of {} are too many; choose fewer", self.sequences())
            }
            None => "no context fits, however short; choose a smaller model".into(),
        };
        Ok(self.short("the model with its shortest context", least.needed(), least.free, remedy, least))
    }

    /// One sequence of `wanted` tokens does not fit, but one of `len` does.
    fn refuse_context(&self, fixed: &MemoryPlan, wanted: usize, len: usize) -> Result<LoadError, LoadError> {
        let plan = self.sized(fixed, wanted, self.groups().blocks_for(wanted))?;
        let count = self.sequences();
        let of_all = self.longest_that_fits(fixed, len, count)?;
        let mut remedy = format!("shorten max_model_len: one sequence of {len} tokens fits");
        if count > 1 && of_all > 0 {
            remedy += &format!(", or {count} of {of_all}");
        }
        Ok(self.short("the model with one sequence of max_model_len", plan.needed(), plan.free, remedy, plan))
    }

    fn short(
        &self,
        what: &'static str,
        needed: u64,
        available: u64,
        remedy: String,
        plan: MemoryPlan,
    ) -> LoadError {
        let device = self.options.device.name();
        let taken = self.memory.total.map_or(0, |total| total.saturating_sub(self.memory.free));
        let remedy = match needed.saturating_sub(available) <= taken {
            true => format!("{remedy}; or end what has taken {} of the memory before", Size(taken)),
            false => remedy,
        };
        LoadError::Memory { what, device: device.into(), needed, available, remedy, plan: Box::new(plan) }
    }
}

/// KV blocks that no sequence gets: captured steps fill up with rows, each of which needs a slot of its own.
pub(crate) fn padding_blocks(device: &Device, step: StepRows) -> usize {
    if let Device::Cuda(_) = device { step.logits.div_ceil(BLOCK_SIZE) } else { 0 }
}

/// Entries of one group's block tables in a step: those of `max_sequences` of the longest sequences.
pub(crate) fn table_entries(options: &ModelOptions, max_model_len: usize) -> usize {
    options.max_sequences.max(1).saturating_mul(max_model_len.div_ceil(BLOCK_SIZE))
}

/// The largest number up to `most` that `fits`, where all smaller ones do too; 0 when none does.
fn largest(most: usize, fits: impl Fn(usize) -> Result<bool, LoadError>) -> Result<usize, LoadError> {
    let (mut fitting, mut first_not) = (0, most + 1);
    while first_not - fitting > 1 {
        let middle = fitting + (first_not - fitting) / 2;
        if fits(middle)? { fitting = middle } else { first_not = middle }
    }
    Ok(fitting)
}

/// The longest sequence wanted.
fn longest(spec: &DecoderSpec, options: &ModelOptions) -> Result<usize, LoadError> {
    let own = spec.max_position_embeddings;
    let most = spec.longest_context();
    match options.max_model_len {
        None => Ok(own),
        Some(asked) if (1..=most).contains(&asked) => Ok(asked),
        Some(asked) => {
            let of = if most == own { "the model's own context" } else { "its context extended" };
            let message = format!("expected 1 to {most}, {of}, found {asked}");
            Err(LoadError::Option { option: "max_model_len", message })
        }
    }
}
