//! How the memory beside the weights is shared out.

use mosu_kernels::{DType, Device};

use crate::{DecoderSpec, LoadError, ModelOptions, kv_cache::BLOCK_SIZE};

/// What is taken before the KV cache is planned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FixedMemory {
    /// Bytes of the weights, mapped or owned.
    pub weights: u64,
    /// Bytes of activations.
    pub workspace: u64,
}

impl FixedMemory {
    /// Bytes of `available` that are left.
    pub fn leave_free(&self, available: u64) -> Result<u64, LoadError> {
        let needed = self.weights.saturating_add(self.workspace);
        let what = "the model without its KV cache";
        let remedy = "choose a smaller model, or a smaller max_batch_tokens".into();
        match available.checked_sub(needed) {
            None | Some(0) => Err(short(what, needed, available, remedy)),
            Some(free) => Ok(free),
        }
    }
}

/// Sizes that are fixed at load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryPlan {
    /// The longest sequence.
    pub max_model_len: usize,
    /// KV blocks of each layer.
    pub num_blocks: usize,
    /// Bytes of all of them.
    pub kv_cache_bytes: u64,
}

impl MemoryPlan {
    /// Plans the KV cache out of `free` bytes, those that weights and workspace leave.
    ///
    /// It gets what the options say; else what `max_sequences` of the longest sequences need, but at most half of what
    /// is free, or on a GPU all of it. It must hold one longest sequence, so that a sequence alone can always go on: a context that the
    /// options ask for and that does not fit is refused, the model's own is shortened to what fits.
    ///
    /// # Errors
    /// When an option contradicts the model or the memory.
    pub fn new(
        spec: &DecoderSpec,
        dtype: DType,
        options: &ModelOptions,
        free: u64,
    ) -> Result<MemoryPlan, LoadError> {
        let longest = longest(spec, options)?;
        let block_bytes = (spec.kv_elements_per_token() * dtype.size() * BLOCK_SIZE) as u64;
        let blocks_of_longest = longest.div_ceil(BLOCK_SIZE) as u64;
        // Others use a processor's memory too.
        let share = if let Device::Cpu(_) = options.device { 2 } else { 1 };
        let affordable = match options.kv_cache_bytes {
            Some(bytes) if bytes as u64 > free => {
                let remedy = format!("ask for {free} bytes or less, or let it be chosen");
                return Err(short("the KV cache", bytes as u64, free, remedy));
            }
            Some(bytes) => bytes as u64 / block_bytes,
            None => (free / share / block_bytes).min(blocks_of_longest * options.max_sequences.max(1) as u64),
        };
        // Slots are u32.
        let num_blocks = affordable.min(u64::from(u32::MAX) / BLOCK_SIZE as u64) as usize;
        let needed = if options.max_model_len.is_some() { blocks_of_longest } else { 1 };
        if (num_blocks as u64) < needed {
            let fits = num_blocks * BLOCK_SIZE;
            let remedy =
                format!("give the KV cache more memory, or shorten max_model_len: {fits} tokens fit");
            let what = "the KV cache of one sequence of max_model_len";
            return Err(short(what, needed * block_bytes, num_blocks as u64 * block_bytes, remedy));
        }
        Ok(MemoryPlan {
            max_model_len: longest.min(num_blocks * BLOCK_SIZE),
            num_blocks,
            kv_cache_bytes: num_blocks as u64 * block_bytes,
        })
    }
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

fn short(what: &'static str, needed: u64, available: u64, remedy: String) -> LoadError {
    LoadError::Memory { what, needed, available, remedy }
}

#[cfg(test)]
mod tests {
    use mosu_kernels::Device;

    use super::*;
    use crate::families;

    /// 2 layers of 4 KV heads of 8: 256 bytes per token in bf16, 4096 per KV block.
    fn spec() -> DecoderSpec {
        families::read_spec(&serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "vocab_size": 10, "hidden_size": 32, "intermediate_size": 8,
            "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 100,
        }))
        .unwrap()
    }

    fn plan(change: impl FnOnce(&mut ModelOptions), free: u64) -> Result<MemoryPlan, LoadError> {
        let mut options = ModelOptions::new(Device::cpu(None));
        options.max_sequences = 3;
        change(&mut options);
        MemoryPlan::new(&spec(), DType::BF16, &options, free)
    }

    #[test]
    fn takes_what_all_sequences_need() {
        let expected = MemoryPlan { max_model_len: 100, num_blocks: 21, kv_cache_bytes: 21 * 4096 };
        assert_eq!(plan(|_| {}, 1 << 30).unwrap(), expected);
    }

    #[test]
    fn takes_at_most_half_and_shortens_the_models_own_context() {
        let expected = MemoryPlan { max_model_len: 48, num_blocks: 3, kv_cache_bytes: 3 * 4096 };
        assert_eq!(plan(|_| {}, 6 * 4096).unwrap(), expected);
        assert!(matches!(plan(|_| {}, 4096), Err(LoadError::Memory { .. })), "not even one KV block");
    }

    #[test]
    fn refuses_what_was_asked_for_and_does_not_fit() {
        let error = plan(|options| options.max_model_len = Some(64), 6 * 4096).unwrap_err();
        assert!(matches!(error, LoadError::Memory { needed: 16384, available: 12288, .. }), "{error}");
        let error = plan(|options| options.kv_cache_bytes = Some(1 << 20), 1000).unwrap_err();
        assert!(matches!(error, LoadError::Memory { needed: 1_048_576, available: 1000, .. }), "{error}");
        for asked in [0, 101, usize::MAX] {
            let error = plan(|options| options.max_model_len = Some(asked), 1 << 30).unwrap_err();
            assert!(matches!(error, LoadError::Option { option: "max_model_len", .. }), "{error}");
        }
    }

    #[test]
    fn refuses_what_does_not_fit_without_a_cache() {
        let memory = FixedMemory { weights: 1000, workspace: 24 };
        assert_eq!(memory.leave_free(2048).unwrap(), 1024);
        for available in [0, 1023, 1024] {
            let error = memory.leave_free(available).unwrap_err();
            assert!(matches!(error, LoadError::Memory { needed: 1024, .. }), "{error}");
        }
    }

    #[test]
    fn obeys_the_options() {
        let both = |options: &mut ModelOptions| {
            options.max_model_len = Some(20);
            options.kv_cache_bytes = Some(5 * 4096 + 17);
        };
        let expected = MemoryPlan { max_model_len: 20, num_blocks: 5, kv_cache_bytes: 5 * 4096 };
        assert_eq!(plan(both, 1 << 30).unwrap(), expected);
    }
}
