//! The device's KV blocks: per tensor, keys and values as `[num_blocks, num_kv_heads, BLOCK_SIZE, head_dim]`, so that
//! one KV block of one head is contiguous. Latent attention has one row per token instead, `[num_blocks, BLOCK_SIZE, R]`.
//! Where layers look back differently far, a tensor serves one layer of each group: see [`KvLayout`].

use mosu_kernels::{
    Allocator, DType, KernelError, Result, Tensor,
    ops::{KvCache, KvCacheMut},
};

use crate::{
    AttentionSpec, DecoderSpec, LayerSpec, Mixer,
    kv_layout::{Cached, KvLayout, LayerPlace},
};

/// Tokens per KV block.
pub const BLOCK_SIZE: usize = 16;

/// The KV blocks of all layers. Who owns which block is the engine's business.
pub(crate) struct KvBlocks {
    tensors: Vec<CacheTensor>,
    layers: Vec<LayerCache>,
}

enum CacheTensor {
    /// `[num_blocks, elements, BLOCK_SIZE]`, which layers see as they have heads.
    KeysAndValues {
        k: Tensor,
        v: Tensor,
    },
    Latents(Tensor),
}

/// One layer's part.
#[derive(Clone, Copy)]
struct LayerCache {
    place: LayerPlace,
    /// `[num_blocks, num_kv_heads, BLOCK_SIZE, head_dim]`, where it has heads.
    shape: [usize; 4],
}

impl KvBlocks {
    /// `num_blocks` KV blocks in the memory of `to`.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(
        to: &Allocator<'_>,
        spec: &DecoderSpec,
        layout: &KvLayout,
        dtype: DType,
        num_blocks: usize,
    ) -> Result<KvBlocks> {
        let tensor = |cached: &Cached| match cached {
            Cached::KeyAndValue(elements) => {
                let zeros = || to.zeros([num_blocks, *elements, BLOCK_SIZE], dtype);
                Ok(CacheTensor::KeysAndValues { k: zeros()?, v: zeros()? })
            }
            Cached::Latent(row) => Ok(CacheTensor::Latents(to.zeros([num_blocks, BLOCK_SIZE, *row], dtype)?)),
        };
        let layer = |(layer, place): (&LayerSpec, &LayerPlace)| {
            let [heads, head_dim] = match &layer.mixer {
                Mixer::Attention(AttentionSpec { num_kv_heads, head_dim, .. }) => [*num_kv_heads, *head_dim],
                Mixer::LatentAttention(_) => [0; 2],
            };
            LayerCache { place: *place, shape: [num_blocks, heads, BLOCK_SIZE, head_dim] }
        };
        Ok(KvBlocks {
            tensors: layout.tensors.iter().map(tensor).collect::<Result<_>>()?,
            layers: spec.layers.iter().zip(&layout.places).map(layer).collect(),
        })
    }

    /// The group whose KV blocks a layer uses.
    pub fn group(&self, layer: usize) -> usize {
        self.layers[layer].place.group
    }

    /// Keys and values of a layer, to read.
    pub fn layer(&self, layer: usize) -> Result<KvCache<'_>> {
        let LayerCache { place, shape } = self.layers[layer];
        match &self.tensors[place.tensor] {
            CacheTensor::KeysAndValues { k, v } => {
                Ok(KvCache { k: k.view().prefix(shape)?, v: v.view().prefix(shape)? })
            }
            CacheTensor::Latents(_) => Err(other_kind(layer)),
        }
    }

    /// Keys and values of a layer, to write.
    pub fn layer_mut(&mut self, layer: usize) -> Result<KvCacheMut<'_>> {
        let LayerCache { place, shape } = self.layers[layer];
        match &mut self.tensors[place.tensor] {
            CacheTensor::KeysAndValues { k, v } => {
                let (k, v) = (k.view_mut()?.into_prefix(shape)?, v.view_mut()?.into_prefix(shape)?);
                Ok(KvCacheMut { k, v })
            }
            CacheTensor::Latents(_) => Err(other_kind(layer)),
        }
    }

    /// Latents of a layer.
    pub fn latents(&mut self, layer: usize) -> Result<&mut Tensor> {
        match &mut self.tensors[self.layers[layer].place.tensor] {
            CacheTensor::Latents(latents) => Ok(latents),
            CacheTensor::KeysAndValues { .. } => Err(other_kind(layer)),
        }
    }
}

#[cfg(test)]
impl KvBlocks {
    /// Makes every element a NaN, but for those of the KV blocks that are `kept`.
    pub fn poison(&mut self, device: &mosu_kernels::Device, kept: impl Fn(usize) -> bool) {
        let spoil = |tensor: &mut Tensor| {
            let size = tensor.shape().row_elements();
            macro_rules! spoil {
                ($element:ty, $nan:expr) => {{
                    let mut elements: Vec<$element> = tensor.to_vec(device).unwrap();
                    let blocks = elements.chunks_mut(size).enumerate().filter(|(block, _)| !kept(*block));
                    blocks.for_each(|(_, elements)| elements.fill($nan));
                    tensor.copy_from(device, &elements).unwrap();
                }};
            }
            match tensor.dtype() {
                DType::F32 => spoil!(f32, f32::NAN),
                _ => spoil!(half::bf16, half::bf16::NAN),
            }
        };
        self.tensors.iter_mut().for_each(|tensor| match tensor {
            CacheTensor::KeysAndValues { k, v } => [k, v].into_iter().for_each(spoil),
            CacheTensor::Latents(latents) => spoil(latents),
        });
    }
}

fn other_kind(layer: usize) -> KernelError {
    KernelError::Argument { op: "kv_cache", reason: format!("layer {layer} has the other kind of cache") }
}
