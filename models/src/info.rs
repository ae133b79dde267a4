//! What can be known of a loaded model.

use mosu_kernels::{DType, Device, Format};

use crate::{
    DecoderSpec, KvGroups, ModelOptions, end_tokens::EndTokens, kv_cache::BLOCK_SIZE, plan::MemoryPlan,
    weights::DecoderWeights,
};

/// Facts about a loaded model.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// The name of the directory or of the GGUF file, or `mosu-demo`.
    pub name: String,
    /// As config.json spells it, for example `Qwen3MoeForCausalLM`.
    pub architecture: String,
    /// Formats of the matrices and their bytes, most bytes first.
    pub formats: Vec<(Format, u64)>,
    /// The type that activations meet the matrices in.
    pub compute: DType,
    /// Device, threads and instruction set, for people.
    pub device: String,
    /// Weights, a tied output projection counted once.
    pub parameters: u64,
    /// Weights that one token meets: its experts only, and of the two tables only the output projection.
    pub active_parameters: u64,
    /// Bytes of the weights.
    pub weight_bytes: u64,
    /// Bytes of the weights that one token meets.
    pub active_weight_bytes: u64,
    /// Bytes of the KV cache.
    pub kv_cache_bytes: u64,
    /// Bytes that one token takes in the KV cache, as long as all layers see it.
    pub kv_bytes_per_token: u64,
    /// Bytes of activations, planned at load.
    pub workspace_bytes: u64,
    /// All shares of the device's memory.
    pub memory: MemoryPlan,
    /// KV blocks, each of which holds some tokens for one group of layers.
    pub num_kv_blocks: usize,
    /// How many of them sequences need.
    pub kv_groups: KvGroups,
    /// Tokens per KV block.
    pub block_size: usize,
    /// The longest sequence in tokens; one such sequence always fits the KV cache.
    pub max_model_len: usize,
    /// Most rows of one step.
    pub max_batch_tokens: usize,
    /// Number of logits.
    pub vocab_size: usize,
    /// Tokens that end a text: generation_config.json's, else config.json's, and the tokenizer's; ascending.
    pub eos_token_ids: Vec<u32>,
    /// The token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Tensors of the checkpoint that are in no module that is needed, by name: a vision tower, layers for multi-token
    /// prediction or behind the last; and masks, tables and scales of a KV cache in modules that are.
    pub ignored_tensors: Vec<String>,
    /// What is computed.
    pub spec: DecoderSpec,
}

impl ModelInfo {
    /// The formats' names: `bfloat16`, or `Q4_K, Q6_K`.
    pub fn format_names(&self) -> String {
        let names: Vec<&str> = self.formats.iter().map(|(format, _)| format.traits().name).collect();
        names.join(", ")
    }

    pub(crate) fn new(
        (name, architecture): (String, &str),
        spec: &DecoderSpec,
        weights: &mut DecoderWeights,
        options: &ModelOptions,
        plan: &MemoryPlan,
        ends: EndTokens,
    ) -> ModelInfo {
        let active_parameters = spec.active_parameters().unwrap_or(u64::MAX);
        let compute = weights.compute();
        ModelInfo {
            name,
            architecture: architecture.into(),
            formats: weights.formats(),
            compute,
            device: describe(&options.device),
            parameters: spec.parameters().unwrap_or(u64::MAX),
            active_parameters,
            weight_bytes: plan.weights,
            active_weight_bytes: weights.active_bytes(),
            kv_cache_bytes: plan.kv_cache,
            kv_bytes_per_token: (spec.kv_elements_per_token() * compute.size()) as u64,
            workspace_bytes: plan.workspace,
            memory: plan.clone(),
            num_kv_blocks: plan.num_kv_blocks,
            kv_groups: plan.kv_groups.clone(),
            block_size: BLOCK_SIZE,
            max_model_len: plan.max_model_len,
            max_batch_tokens: options.max_rows(),
            vocab_size: spec.vocab_size,
            eos_token_ids: ends.eos,
            bos_token_id: ends.bos,
            ignored_tensors: Vec::new(),
            spec: spec.clone(),
        }
    }
}

fn describe(device: &Device) -> String {
    match device {
        Device::Cpu(cpu) => format!("cpu, {} threads, {}", cpu.threads(), cpu.isa()),
        Device::Cuda(gpu) => format!("{}, {}", gpu.name(), gpu.model()),
    }
}
