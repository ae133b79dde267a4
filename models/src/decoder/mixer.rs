//! What mixes the tokens of a layer: grouped-query attention over keys and values, or attention over latents.
//!
//! Letters as in [`decoder`](crate::decoder); L width of a latent, R of a cached row (latent and rotated part), W of the
//! narrow layer of queries.

use mosu_kernels::{
    Device, KernelError, Result, Tensor,
    ops::{self, AttentionParams, HeadTransform, QkNorm, Qkv},
};

use super::{Decoder, Inputs};
use crate::{
    AttentionSpec, LatentAttentionSpec, Mixer,
    kv_cache::KvBlocks,
    position_tables::PositionTables,
    weights::{
        AttentionWeights, LatentAttentionWeights, LatentQueries, LowRankWeights, MixerWeights, QkvWeights,
    },
    workspace::Workspace,
};

/// What a layer's mixer works with, beside its weights.
struct LayerParts<'a> {
    layer: usize,
    device: &'a Device,
    hidden_size: usize,
    /// Epsilon of the norms of queries and keys.
    norm_eps: f32,
    tables: &'a PositionTables,
    cache: &'a mut KvBlocks,
    w: &'a mut Workspace,
}

impl Decoder {
    /// `delta = mixer(normed)`
    pub(super) fn mixer(&mut self, layer: usize, inputs: &Inputs<'_>) -> Result<()> {
        let Decoder { device, spec, weights, tables, cache, workspace: w, .. } = self;
        let (hidden_size, norm_eps) = (spec.hidden_size, spec.norm.eps);
        let parts = LayerParts { layer, device, hidden_size, norm_eps, tables, cache, w };
        match (&spec.layers[layer].mixer, &weights.layers[layer].mixer) {
            (Mixer::Attention(spec), MixerWeights::Attention(weights)) => {
                attention(parts, spec, weights, inputs)
            }
            (Mixer::LatentAttention(spec), MixerWeights::LatentAttention(weights)) => {
                latent_attention(parts, spec, weights, inputs)
            }
            _ => Err(wrong(layer, "has weights of another kind")),
        }
    }
}

fn wrong(layer: usize, what: &str) -> KernelError {
    KernelError::Argument { op: "mixer", reason: format!("layer {layer} {what}") }
}

/// `delta = o([gate *] attention(q, k, v))` of `normed`
fn attention(
    parts: LayerParts<'_>,
    spec: &AttentionSpec,
    weights: &AttentionWeights,
    inputs: &Inputs<'_>,
) -> Result<()> {
    let LayerParts { layer, device, hidden_size: h, norm_eps: eps, tables, cache, w } = parts;
    let AttentionSpec { num_heads: hq, num_kv_heads: hkv, head_dim: d, .. } = *spec;
    let t = inputs.rows;
    let (q_shape, kv_shape, qkv_shape) = ([t, hq * d], [t, 2 * hkv * d], [t, (hq + 2 * hkv) * d]);
    let normed = w.normed.get([t, h])?;
    let qkv = match &weights.qkv {
        QkvWeights::Direct(linear) => {
            ops::linear(device, w.qkv.get_mut(qkv_shape)?, normed, linear)?;
            Qkv::Fused(w.qkv.get(qkv_shape)?)
        }
        QkvWeights::LowRank { q, kv } => {
            ops::linear(device, w.kv.get_mut(kv_shape)?, normed, kv)?;
            low_rank_queries(device, w, [t, h], q)?;
            Qkv::Split { q: w.qkv.get(q_shape)?, kv: w.kv.get(kv_shape)? }
        }
    };
    let transform = HeadTransform {
        qk_norm: spec.qk_norm.map(|norm| QkNorm {
            weights: weights.qk_norm.as_ref().map(|[q, k]| [q.view(), k.view()]),
            span: norm.span,
            order: norm.order,
            eps,
        }),
        rope: tables.rope(layer),
    };
    let group = cache.group(layer);
    let (slots, sequences) = (inputs.slots(group)?, inputs.sequences(group)?);
    let (q, kv_cache) = (w.q.get_mut([t, hq, d])?, cache.layer_mut(layer)?);
    ops::qkv_rope_cache(device, q, kv_cache, qkv, transform, inputs.positions, slots)?;
    let params = AttentionParams {
        scale: spec.scale,
        mask: spec.mask,
        softcap: spec.softcap,
        temperature: tables.temperature(layer),
        sinks: weights.sinks.as_ref().map(Tensor::view),
        alibi_slopes: tables.alibi_slopes(layer),
    };
    let (out, q) = (w.attended.get_mut(q_shape)?, w.q.get([t, hq, d])?);
    ops::paged_attention(device, out, q, cache.layer(layer)?, sequences, params)?;
    if let Some(gate) = &weights.output_gate {
        ops::linear(device, w.output_gates.get_mut([t, hq])?, w.normed.get([t, h])?, gate)?;
        ops::gate_heads(device, w.attended.get_mut(q_shape)?, w.output_gates.get([t, hq])?)?;
    }
    ops::linear(device, w.delta.get_mut([t, h])?, w.attended.get(q_shape)?, &weights.o_proj)
}

/// `qkv = up(norm(down(normed)))`, queries by way of a narrow layer.
fn low_rank_queries(
    device: &Device,
    w: &mut Workspace,
    hidden: [usize; 2],
    weights: &LowRankWeights,
) -> Result<()> {
    let LowRankWeights { down, norm, up } = weights;
    let (narrow, queries) = ([hidden[0], down.out_features()], [hidden[0], up.out_features()]);
    ops::linear(device, w.q_down.get_mut(narrow)?, w.normed.get(hidden)?, down)?;
    ops::norm(device, w.q_down_normed.get_mut(narrow)?, w.q_down.get(narrow)?, norm.view())?;
    ops::linear(device, w.qkv.get_mut(queries)?, w.q_down_normed.get(narrow)?, up)
}

/// `delta = o(attention(q, latents))` of `normed`. Queries are taken into the space of the latents, and what they find
/// there out of it, for prefill and decode alike: the bits must not depend on which it is.
fn latent_attention(
    parts: LayerParts<'_>,
    spec: &LatentAttentionSpec,
    weights: &LatentAttentionWeights,
    inputs: &Inputs<'_>,
) -> Result<()> {
    let LayerParts { layer, device, hidden_size: h, tables, cache, w, .. } = parts;
    let LatentAttentionWeights { q, kv_down, kv_norm, w_uk, w_uv, o_proj } = weights;
    let (t, hq, positions) = (inputs.rows, spec.num_heads, inputs.positions);
    let (hidden, queries) = ([t, h], [t, hq * spec.head_dim()]);
    let (cached, attended) = ([t, spec.cached_row()], [t, hq * spec.value_dim]);
    let rope = tables.rope(layer).ok_or_else(|| wrong(layer, "has latents, but no rotation"))?;
    let group = cache.group(layer);
    let (slots, sequences) = (inputs.slots(group)?, inputs.sequences(group)?);
    let cache = cache.latents(layer)?;
    match q {
        LatentQueries::Direct(linear) => {
            ops::linear(device, w.qkv.get_mut(queries)?, w.normed.get(hidden)?, linear)?;
        }
        LatentQueries::LowRank(q) => low_rank_queries(device, w, hidden, q)?,
    }
    ops::linear(device, w.kv.get_mut(cached)?, w.normed.get(hidden)?, kv_down)?;
    let kv = w.kv.get(cached)?;
    ops::latent_cache(device, cache.view_mut()?, kv, kv_norm.view(), rope, positions, slots)?;
    let (absorbed, found) = ([t, hq, spec.cached_row()], [t, hq, spec.latent.rank]);
    ops::absorb_w_uk(device, w.q.get_mut(absorbed)?, w.qkv.get(queries)?, w_uk.view(), rope, positions)?;
    let (out, q) = (w.latents.get_mut(found)?, w.q.get(absorbed)?);
    ops::latent_attention(device, out, q, cache.view(), sequences, spec.scale)?;
    ops::up_project_w_uv(device, w.attended.get_mut(attended)?, w.latents.get(found)?, w_uv.view())?;
    ops::linear(device, w.delta.get_mut(hidden)?, w.attended.get(attended)?, o_proj)
}
