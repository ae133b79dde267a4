//! Claiming the projections to queries, keys and values.

use mosu_kernels::ops::Linear;

use super::{Claims, Role};
use crate::{
    AttentionSpec, LatentSpec, LoadError, LowRankSpec,
    tensor_names::QkvNames,
    weights::{LatentQueries, LatentWeights, LowRankWeights, NormWeights, QkvWeights, layout},
};

impl Claims<'_> {
    /// A layer's, in whatever layout its family has them.
    pub(super) fn qkv(
        &mut self,
        at: &dyn Fn(&str) -> String,
        spec: &AttentionSpec,
    ) -> Result<QkvWeights, LoadError> {
        let AttentionSpec { num_heads, num_kv_heads, head_dim, qkv_bias: bias, .. } = *spec;
        let (q, kv, h) = (num_heads * head_dim, num_kv_heads * head_dim, self.spec.hidden_size);
        let parts = match (self.names.qkv, spec.low_rank_q) {
            (QkvNames::LowRank { q_down, q_down_norm, q_up, k, v }, Some(narrow)) => {
                let q = self.low_rank([&at(q_down), &at(q_down_norm), &at(q_up)], narrow, q, bias)?;
                let parts = vec![self.part(&at(k), [kv, h], bias)?, self.part(&at(v), [kv, h], bias)?];
                return Ok(QkvWeights::LowRank { q: Box::new(q), kv: Linear::new(parts)? });
            }
            (QkvNames::Latent { .. }, _) => return self.latent(at, spec),
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

    /// Latent attention. The matrix from the latent to keys and values is copied into the two that attention needs.
    fn latent(&mut self, at: &dyn Fn(&str) -> String, spec: &AttentionSpec) -> Result<QkvWeights, LoadError> {
        let (QkvNames::Latent { q: q_proj, q_down, q_down_norm, q_up, kv_down, kv_norm, kv_up }, Some(kv)) =
            (self.names.qkv, spec.latent_kv)
        else {
            let message = "the family's names are those of latent attention, its layers are not";
            return Err(LoadError::malformed(self.source.file(), message));
        };
        let (q, h) = (spec.num_heads * spec.head_dim, self.spec.hidden_size);
        let LatentSpec { latent: LowRankSpec { rank, norm_eps }, nope_dim, value_dim } = kv;
        let queries = match spec.low_rank_q {
            None => LatentQueries::Direct(self.linear(&at(q_proj), [q, h], false)?),
            Some(narrow) => {
                let modules = [&at(q_down)[..], &at(q_down_norm), &at(q_up)];
                LatentQueries::LowRank(Box::new(self.low_rank(modules, narrow, q, false)?))
            }
        };
        let kv_down = self.linear(&at(kv_down), [spec.latent_row(kv), h], false)?;
        let kv_norm = NormWeights { eps: norm_eps, ..self.norm(&at(kv_norm), rank)? };
        let kv_up = self.part(&at(kv_up), [spec.num_heads * (nope_dim + value_dim), rank], false)?;
        let [w_uk, w_uv] = layout::split_latent(&kv_up.weight, spec.num_heads, [nope_dim, value_dim])?;
        Ok(QkvWeights::Latent(Box::new(LatentWeights { q: queries, kv_down, kv_norm, w_uk, w_uv })))
    }
}
