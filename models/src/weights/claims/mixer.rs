//! Claiming what mixes the tokens of a layer.

use mosu_kernels::{
    Tensor,
    ops::{Linear, NormSpan},
};

use super::{Claims, Role};
use crate::{
    AttentionSpec, LatentAttentionSpec, LoadError, LowRankSpec, Mixer,
    tensor_names::{KvUpNames, LatentNames, QkvNames},
    weights::{
        layout,
        parts::{
            AttentionWeights, LatentAttentionWeights, LatentQueries, LowRankWeights, MixerWeights,
            NormWeights, QkvWeights,
        },
    },
};

impl Claims<'_> {
    /// A layer's mixer.
    pub(super) fn mixer(
        &mut self,
        at: &dyn Fn(&str) -> String,
        spec: &Mixer,
    ) -> Result<MixerWeights, LoadError> {
        Ok(match spec {
            Mixer::Attention(spec) => MixerWeights::Attention(Box::new(self.attention(at, spec)?)),
            Mixer::LatentAttention(spec) => {
                MixerWeights::LatentAttention(Box::new(self.latent_attention(at, spec)?))
            }
        })
    }

    fn attention(
        &mut self,
        at: &dyn Fn(&str) -> String,
        spec: &AttentionSpec,
    ) -> Result<AttentionWeights, LoadError> {
        let AttentionSpec { num_heads, num_kv_heads, head_dim, .. } = *spec;
        let (names, h, q, kv) =
            (self.names, self.spec.hidden_size, num_heads * head_dim, num_kv_heads * head_dim);
        let qkv = self.qkv(at, spec)?;
        let qk_norm = match spec.qk_norm.filter(|norm| norm.weighted) {
            Some(norm) => {
                let [of_q, of_k] = if norm.span == NormSpan::Head { [head_dim; 2] } else { [q, kv] };
                Some([self.norm_weight(&at(names.q_norm), of_q)?, self.norm_weight(&at(names.k_norm), of_k)?])
            }
            None => None,
        };
        Ok(AttentionWeights {
            qkv,
            qk_norm,
            sinks: self.tensor_if(spec.sinks, &at(names.sinks), num_heads)?,
            output_gate: match spec.output_gate {
                true => Some(self.linear(&at(names.output_gate), [num_heads, h], false)?),
                false => None,
            },
            o_proj: self.linear(&at(names.o_proj), [h, q], spec.o_bias)?,
        })
    }

    /// The projections to queries, keys and values, in whatever layout the family has them.
    fn qkv(&mut self, at: &dyn Fn(&str) -> String, spec: &AttentionSpec) -> Result<QkvWeights, LoadError> {
        let AttentionSpec { num_heads, num_kv_heads, head_dim, qkv_bias: bias, .. } = *spec;
        let (q, kv, h) = (num_heads * head_dim, num_kv_heads * head_dim, self.spec.hidden_size);
        let parts = match (self.names.qkv, spec.low_rank_q) {
            (QkvNames::LowRank { q_down, q_down_norm, q_up, k, v }, Some(narrow)) => {
                let q = self.low_rank([&at(q_down), &at(q_down_norm), &at(q_up)], narrow, q, bias)?;
                let parts = vec![self.part(&at(k), [kv, h], bias)?, self.part(&at(v), [kv, h], bias)?];
                return Ok(QkvWeights::LowRank { q: Box::new(q), kv: Linear::new(parts)? });
            }
            (QkvNames::Split { q: q_proj, k, v } | QkvNames::LowRank { q_up: q_proj, k, v, .. }, _) => vec![
                self.part(&at(q_proj), [q, h], bias)?,
                self.part(&at(k), [kv, h], bias)?,
                self.part(&at(v), [kv, h], bias)?,
            ],
            (QkvNames::Fused(module), _) => vec![self.part(&at(module), [q + 2 * kv, h], bias)?],
            (QkvNames::Grouped(module), _) => {
                let order = layout::ungrouped(num_kv_heads, num_heads / num_kv_heads, head_dim);
                let shape = [q + 2 * kv, h];
                vec![self.part_in_order(&at(module), shape, bias, Role::Matrix, Some(&order))?]
            }
        };
        Ok(QkvWeights::Direct(Linear::new(parts)?))
    }

    /// Modules down, norm and up to queries of width `q`.
    fn low_rank(
        &mut self,
        [down, norm, up]: [&str; 3],
        spec: LowRankSpec,
        q: usize,
        bias: bool,
    ) -> Result<LowRankWeights, LoadError> {
        let LowRankSpec { rank, norm_eps } = spec;
        Ok(LowRankWeights {
            down: self.linear(down, [rank, self.spec.hidden_size], bias)?,
            norm: NormWeights { eps: norm_eps, ..self.norm(norm, rank)? },
            up: self.linear(up, [q, rank], bias)?,
        })
    }

    /// A matrix of floats per head: what is packed is decoded.
    fn latent_heads(&mut self, name: &str, [heads, n, k]: [usize; 3]) -> Result<Tensor, LoadError> {
        Ok(layout::stacked_floats(&self.weights(name, heads, [n, k])?, [heads, n, k])?)
    }

    fn latent_attention(
        &mut self,
        at: &dyn Fn(&str) -> String,
        spec: &LatentAttentionSpec,
    ) -> Result<LatentAttentionWeights, LoadError> {
        let LatentNames { q: q_proj, q_down, q_down_norm, q_up, kv_down, kv_norm, kv_up } = self.names.latent;
        let LatentAttentionSpec { num_heads, nope_dim, value_dim, .. } = *spec;
        let LowRankSpec { rank, norm_eps } = spec.latent;
        let (q, h) = (num_heads * spec.head_dim(), self.spec.hidden_size);
        let queries = match spec.low_rank_q {
            None => LatentQueries::Direct(self.linear(&at(q_proj), [q, h], false)?),
            Some(narrow) => {
                let modules = [&at(q_down)[..], &at(q_down_norm), &at(q_up)];
                LatentQueries::LowRank(Box::new(self.low_rank(modules, narrow, q, false)?))
            }
        };
        let kv_down = self.linear(&at(kv_down), [spec.cached_row(), h], false)?;
        let kv_norm = NormWeights { eps: norm_eps, ..self.norm(&at(kv_norm), rank)? };
        let [w_uk, w_uv] = match kv_up {
            KvUpNames::Fused(module) => {
                let kv_up = self.part(&at(module), [num_heads * (nope_dim + value_dim), rank], false)?;
                layout::split_latent(kv_up.weight, num_heads, [nope_dim, value_dim])?
            }
            KvUpNames::Split { k, v } => [
                self.latent_heads(&at(k), [num_heads, rank, nope_dim])?,
                self.latent_heads(&at(v), [num_heads, value_dim, rank])?,
            ],
        };
        let o_proj = self.linear(&at(self.names.o_proj), [h, num_heads * value_dim], false)?;
        Ok(LatentAttentionWeights { q: queries, kv_down, kv_norm, w_uk, w_uv, o_proj })
    }
}
