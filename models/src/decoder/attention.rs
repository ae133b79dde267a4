//! Attention, of both kinds: grouped queries over keys and values, and queries over latents.
//!
//! Letters as in [`decoder`](crate::decoder); L width of a latent, R of a cached row (latent and rotated rest), W of the
//! narrow layer of queries.

use mosu_kernels::{
    Device, KernelError, Result, Tensor,
    ops::{self, AttentionParams, HeadTransform, QkNorm, Qkv, RopeTable},
};

use super::{Decoder, Inputs};
use crate::{
    AttentionSpec,
    weights::{LatentQueries, LatentWeights, LowRankWeights, QkvWeights},
    workspace::Workspace,
};

impl Decoder {
    /// `delta = o([gate *] attention(q, k, v))` of `normed`
    pub(super) fn attention(&mut self, layer: usize, inputs: &Inputs<'_>) -> Result<()> {
        self.attend(layer, inputs)?;
        let Decoder { device, spec, weights, workspace: w, .. } = self;
        let (t, h, weights) = (inputs.rows, spec.hidden_size, &weights.layers[layer]);
        let spec = &spec.layers[layer].attention;
        let attended = [t, spec.attended_dim()];
        if let Some(gate) = &weights.head_gate {
            let gates = [t, spec.num_heads];
            ops::linear(device, w.head_gates.get_mut(gates)?, w.normed.get([t, h])?, gate)?;
            ops::gate_heads(device, w.attended.get_mut(attended)?, w.head_gates.get(gates)?)?;
        }
        ops::linear(device, w.delta.get_mut([t, h])?, w.attended.get(attended)?, &weights.o_proj)
    }

    /// `attended = attention(q, k, v)` of `normed`
    fn attend(&mut self, layer: usize, inputs: &Inputs<'_>) -> Result<()> {
        let Decoder { device, spec, weights, tables, cache, workspace: w, .. } = self;
        let (t, h, eps) = (inputs.rows, spec.hidden_size, spec.norm.eps);
        let spec = &spec.layers[layer].attention;
        let AttentionSpec { num_heads: hq, num_kv_heads: hkv, head_dim: d, .. } = *spec;
        let weights = &weights.layers[layer];
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
            QkvWeights::Latent(weights) => {
                let rope = tables.rope(layer).ok_or_else(|| latents_must_rotate(layer))?;
                return attend_latents(device, w, [t, h], spec, weights, cache.latents(layer)?, rope, inputs);
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
        let (q, kv_cache) = (w.q.get_mut([t, hq, d])?, cache.layer_mut(layer)?);
        ops::qkv_rope_cache(device, q, kv_cache, qkv, transform, inputs.positions, inputs.slots)?;
        let params = AttentionParams {
            scale: spec.scale,
            mask: spec.mask,
            softcap: spec.softcap,
            temperature: tables.temperature(layer),
            sinks: weights.sinks.as_ref().map(Tensor::view),
            alibi_slopes: tables.alibi_slopes(layer),
        };
        let (out, q) = (w.attended.get_mut(q_shape)?, w.q.get([t, hq, d])?);
        ops::paged_attention(device, out, q, cache.layer(layer)?, inputs.sequences, params)
    }
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

/// `attended = attention(q, latents)`. Queries are taken into the space of the latents, and what they find there out of
/// it, for prefill and decode alike: the bits must not depend on which it is.
#[allow(clippy::too_many_arguments)] // The parts of one decoder, borrowed one by one.
fn attend_latents(
    device: &Device,
    w: &mut Workspace,
    hidden: [usize; 2],
    spec: &AttentionSpec,
    weights: &LatentWeights,
    cache: &mut Tensor,
    rope: RopeTable<'_>,
    inputs: &Inputs<'_>,
) -> Result<()> {
    let LatentWeights { q, kv_down, kv_norm, w_uk, w_uv } = weights;
    let (t, hq) = (hidden[0], spec.num_heads);
    let latent = w_uv.shape().dims()[2];
    let (row, queries) = (kv_down.out_features(), [t, hq * spec.head_dim]);
    match q {
        LatentQueries::Direct(linear) => {
            ops::linear(device, w.qkv.get_mut(queries)?, w.normed.get(hidden)?, linear)?;
        }
        LatentQueries::LowRank(q) => low_rank_queries(device, w, hidden, q)?,
    }
    ops::linear(device, w.kv.get_mut([t, row])?, w.normed.get(hidden)?, kv_down)?;
    let (kv, positions) = (w.kv.get([t, row])?, inputs.positions);
    ops::latent_cache(device, cache.view_mut()?, kv, kv_norm.view(), rope, positions, inputs.slots)?;
    let (absorbed, found) = ([t, hq, row], [t, hq, latent]);
    ops::absorb_queries(device, w.q.get_mut(absorbed)?, w.qkv.get(queries)?, w_uk.view(), rope, positions)?;
    let (out, q) = (w.latents.get_mut(found)?, w.q.get(absorbed)?);
    ops::latent_attention(device, out, q, cache.view(), inputs.sequences, spec.scale)?;
    let attended = w.attended.get_mut([t, spec.attended_dim()])?;
    ops::expand_values(device, attended, w.latents.get(found)?, w_uv.view())
}

fn latents_must_rotate(layer: usize) -> KernelError {
    let reason = format!("layer {layer} has latents, but no rotation");
    KernelError::Argument { op: "latent_attention", reason }
}
