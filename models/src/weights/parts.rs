//! What a decoder's weights are.

use mosu_kernels::{
    DType, Matrix, Tensor,
    ops::{Experts, Linear, Norm, NormKind, RouterTables},
};

use crate::{FfnActivation, MoeSpec};

/// All weights of a decoder. V vocabulary, H hidden size.
pub(crate) struct DecoderWeights {
    /// `[V, H]`; also the output projection when the embeddings are tied.
    pub embedding: Linear,
    /// `[P, H]`, one row per position.
    pub positions: Option<Tensor>,
    /// `[H]`
    pub embedding_norm: Option<NormWeights>,
    /// First to last.
    pub layers: Vec<LayerWeights>,
    /// `[H]`
    pub final_norm: NormWeights,
    /// `[V, H]`, unless tied.
    pub(super) untied_head: Option<Linear>,
}

impl DecoderWeights {
    /// The embedding table `[V, H]`.
    pub fn embedding_table(&self) -> &Matrix {
        &self.embedding.parts()[0].weight
    }

    /// The type that activations meet the matrices in.
    pub fn compute(&self) -> DType {
        self.embedding.compute()
    }

    /// Bytes of what one token meets: its experts only, and of the two tables only the output projection.
    pub fn active_bytes(&mut self) -> u64 {
        let mut bytes = self.lm_head().size_in_bytes();
        bytes += self.final_norm.weight.size_in_bytes();
        bytes += self.layers.iter_mut().map(LayerWeights::active_bytes).sum::<usize>();
        bytes as u64
    }

    /// The output projection `[V, H]`.
    pub fn lm_head(&self) -> &Linear {
        self.untied_head.as_ref().unwrap_or(&self.embedding)
    }
}

/// A norm and its weights.
pub(crate) struct NormWeights {
    pub(super) kind: NormKind,
    pub(super) eps: f32,
    /// As wide as what is normed.
    pub(super) weight: Tensor,
    /// As wide.
    pub(super) bias: Option<Tensor>,
}

impl NormWeights {
    /// As the ops take it.
    pub fn view(&self) -> Norm<'_> {
        let NormWeights { kind, eps, weight, bias } = self;
        Norm { kind: *kind, weight: weight.view(), bias: bias.as_ref().map(Tensor::view), eps: *eps }
    }
}

/// One layer.
pub(crate) struct LayerWeights {
    /// `[H]`
    pub mixer_norm: NormWeights,
    /// What mixes the tokens.
    pub mixer: MixerWeights,
    /// `[H]`
    pub mixer_post_norm: Option<NormWeights>,
    /// `[H]`
    pub ffn_norm: NormWeights,
    /// What follows the mixer.
    pub ffn: FfnWeights,
    /// `[H]`
    pub ffn_post_norm: Option<NormWeights>,
}

/// Those of a [`Mixer`](crate::Mixer).
pub(crate) enum MixerWeights {
    /// Of grouped-query attention.
    Attention(Box<AttentionWeights>),
    /// Of latent attention.
    LatentAttention(Box<LatentAttentionWeights>),
}

/// Grouped-query attention. Q, KV: heads times head_dim.
pub(crate) struct AttentionWeights {
    /// Queries, keys and values.
    pub qkv: QkvWeights,
    /// Of queries and keys: `[head_dim]` each, or `[Q]` and `[KV]`.
    pub qk_norm: Option<[Tensor; 2]>,
    /// `[Hq]`
    pub sinks: Option<Tensor>,
    /// `[Hq, H]`
    pub output_gate: Option<Linear>,
    /// `[H, Q]`
    pub o_proj: Linear,
}

/// The projections to queries, keys and values.
pub(crate) enum QkvWeights {
    /// q, k and v side by side, `[Q + 2 KV, H]` in all.
    Direct(Linear),
    /// Queries by way of a narrow layer.
    LowRank {
        /// Queries.
        q: Box<LowRankWeights>,
        /// k and v side by side, `[2 KV, H]`.
        kv: Linear,
    },
}

/// Queries by way of a narrow layer of width R.
pub(crate) struct LowRankWeights {
    /// `[R, H]`
    pub down: Linear,
    /// `[R]`
    pub norm: NormWeights,
    /// `[Q, R]`
    pub up: Linear,
}

/// Latent attention: a latent of width L and a rotated part, R together; query heads of N elements without position, and
/// D value elements.
pub(crate) struct LatentAttentionWeights {
    /// Queries.
    pub q: LatentQueries,
    /// `[R, H]`
    pub kv_down: Linear,
    /// `[L]`
    pub kv_norm: NormWeights,
    /// From latents to keys, transposed: `[Hq, L, N]`.
    pub w_uk: Tensor,
    /// From latents to values, `[Hq, D, L]`.
    pub w_uv: Tensor,
    /// `[H, Hq D]`
    pub o_proj: Linear,
}

/// The projection to the queries of latent attention.
pub(crate) enum LatentQueries {
    /// `[Q, H]`
    Direct(Linear),
    /// By way of a narrow layer.
    LowRank(Box<LowRankWeights>),
}

/// The feed-forward part. I intermediate size, E experts.
pub(crate) enum FfnWeights {
    /// One network for all tokens.
    Dense(NetworkWeights),
    /// A router and its experts.
    Moe(Box<MoeWeights>),
}

/// A feed-forward network.
pub(crate) struct NetworkWeights {
    /// What stands between the projections.
    pub activation: FfnActivation,
    /// `[2 I, H]`, or `[I, H]` without a gate.
    pub gate_up: Linear,
    /// `[H, I]`
    pub down: Linear,
}

/// A sparse layer's.
pub(crate) struct MoeWeights {
    /// Sizes, and what is done with the logits.
    pub spec: MoeSpec,
    /// `[E, H]`; may compute in f32 where the other matrices do not.
    pub router: Linear,
    /// `[E]`
    pub e_score_correction_bias: Option<Tensor>,
    /// `[E]`
    pub expert_scale: Option<Tensor>,
    /// E of them.
    pub experts: Experts,
    /// The shared expert, which all tokens go through.
    pub shared: Option<SharedWeights>,
}

impl MoeWeights {
    /// The tables of the router, as the op takes them.
    pub fn router_tables(&self) -> RouterTables<'_> {
        RouterTables {
            e_score_correction_bias: self.e_score_correction_bias.as_ref().map(Tensor::view),
            expert_scale: self.expert_scale.as_ref().map(Tensor::view),
        }
    }
}

/// A shared expert.
pub(crate) struct SharedWeights {
    /// The network.
    pub network: NetworkWeights,
    /// `[1, H]`
    pub gate: Option<Linear>,
    /// Multiplier of the sum with the experts.
    pub sum_scale: f32,
}
