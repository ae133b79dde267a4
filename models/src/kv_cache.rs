//! The device's KV blocks: per layer, keys and values as `[num_blocks, num_kv_heads, BLOCK_SIZE, head_dim]`, so that
//! one KV block of one head is contiguous.

use mosu_kernels::{
    DType, Device, KernelError, Tensor,
    ops::{KvCache, KvCacheMut},
};

use crate::DecoderSpec;

/// Tokens per KV block.
pub const BLOCK_SIZE: usize = 16;

/// The KV blocks of all layers. Who owns which block is the engine's business.
pub(crate) struct KvBlocks {
    layers: Vec<KeysAndValues>,
}

struct KeysAndValues {
    k: Tensor,
    v: Tensor,
}

impl KvBlocks {
    /// `num_blocks` KV blocks in every layer, in the memory of `device`.
    pub fn new(
        device: &Device,
        spec: &DecoderSpec,
        dtype: DType,
        num_blocks: usize,
    ) -> Result<KvBlocks, KernelError> {
        let layer = |attention: &crate::AttentionSpec| {
            let shape = [num_blocks, attention.num_kv_heads, BLOCK_SIZE, attention.head_dim];
            let zeros = || Tensor::zeros_on(device, shape, dtype);
            Ok(KeysAndValues { k: zeros()?, v: zeros()? })
        };
        let layers = spec.layers.iter().map(|spec| layer(&spec.attention)).collect::<Result<_, _>>()?;
        Ok(KvBlocks { layers })
    }

    /// One layer's, to read.
    pub fn layer(&self, layer: usize) -> KvCache<'_> {
        let KeysAndValues { k, v } = &self.layers[layer];
        KvCache { k: k.view(), v: v.view() }
    }

    /// One layer's, to write.
    pub fn layer_mut(&mut self, layer: usize) -> Result<KvCacheMut<'_>, KernelError> {
        let KeysAndValues { k, v } = &mut self.layers[layer];
        Ok(KvCacheMut { k: k.view_mut()?, v: v.view_mut()? })
    }
}
