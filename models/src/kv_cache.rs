//! The device's KV blocks: per layer, keys and values as `[num_blocks, num_kv_heads, BLOCK_SIZE, head_dim]`, so that
//! one KV block of one head is contiguous. Latent attention has one row per token instead, `[num_blocks, BLOCK_SIZE, R]`.

use mosu_kernels::{
    Allocator, DType, KernelError, Tensor,
    ops::{KvCache, KvCacheMut},
};

use crate::{AttentionSpec, DecoderSpec, LayerSpec, Mixer};

/// Tokens per KV block.
pub const BLOCK_SIZE: usize = 16;

/// The KV blocks of all layers. Who owns which block is the engine's business.
pub(crate) struct KvBlocks {
    layers: Vec<LayerCache>,
}

enum LayerCache {
    KeysAndValues { k: Tensor, v: Tensor },
    Latents(Tensor),
}

impl KvBlocks {
    /// `num_blocks` KV blocks in every layer, in the memory of `to`.
    pub fn new(
        to: &Allocator<'_>,
        spec: &DecoderSpec,
        dtype: DType,
        num_blocks: usize,
    ) -> Result<KvBlocks, KernelError> {
        let layer = |layer: &LayerSpec| match &layer.mixer {
            Mixer::Attention(AttentionSpec { num_kv_heads, head_dim, .. }) => {
                let zeros = || to.zeros([num_blocks, *num_kv_heads, BLOCK_SIZE, *head_dim], dtype);
                Ok(LayerCache::KeysAndValues { k: zeros()?, v: zeros()? })
            }
            Mixer::LatentAttention(spec) => {
                Ok(LayerCache::Latents(to.zeros([num_blocks, BLOCK_SIZE, spec.cached_row()], dtype)?))
            }
        };
        let layers = spec.layers.iter().map(layer).collect::<Result<_, _>>()?;
        Ok(KvBlocks { layers })
    }

    /// Keys and values of a layer, to read.
    pub fn layer(&self, layer: usize) -> Result<KvCache<'_>, KernelError> {
        match &self.layers[layer] {
            LayerCache::KeysAndValues { k, v } => Ok(KvCache { k: k.view(), v: v.view() }),
            LayerCache::Latents(_) => Err(other_kind(layer)),
        }
    }

    /// Keys and values of a layer, to write.
    pub fn layer_mut(&mut self, layer: usize) -> Result<KvCacheMut<'_>, KernelError> {
        match &mut self.layers[layer] {
            LayerCache::KeysAndValues { k, v } => Ok(KvCacheMut { k: k.view_mut()?, v: v.view_mut()? }),
            LayerCache::Latents(_) => Err(other_kind(layer)),
        }
    }

    /// Latents of a layer.
    pub fn latents(&mut self, layer: usize) -> Result<&mut Tensor, KernelError> {
        match &mut self.layers[layer] {
            LayerCache::Latents(latents) => Ok(latents),
            LayerCache::KeysAndValues { .. } => Err(other_kind(layer)),
        }
    }
}

fn other_kind(layer: usize) -> KernelError {
    KernelError::Argument { op: "kv_cache", reason: format!("layer {layer} has the other kind of cache") }
}
