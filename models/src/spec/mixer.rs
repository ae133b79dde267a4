//! How the tokens of a layer look at each other.

use mosu_kernels::ops::{AttentionMask, NormOrder, NormSpan};

use super::RopeSpec;

/// What mixes the tokens of a layer. Each kind has weights and a cache of its own.
#[derive(Clone, Debug, PartialEq)]
pub enum Mixer {
    /// Grouped-query attention over keys and values.
    Attention(AttentionSpec),
    /// Attention over latents, out of which keys and values come.
    LatentAttention(LatentAttentionSpec),
}

impl Mixer {
    /// What it is if it is grouped-query attention.
    pub fn attention(&self) -> Option<&AttentionSpec> {
        match self {
            Mixer::Attention(spec) => Some(spec),
            Mixer::LatentAttention(_) => None,
        }
    }

    /// What it is if it is latent attention.
    pub fn latent_attention(&self) -> Option<&LatentAttentionSpec> {
        match self {
            Mixer::Attention(_) => None,
            Mixer::LatentAttention(spec) => Some(spec),
        }
    }

    /// Its rotation, if it rotates.
    pub fn rope(&self) -> Option<&RopeSpec> {
        match self {
            Mixer::Attention(spec) => spec.rope.as_ref(),
            Mixer::LatentAttention(spec) => Some(&spec.rope),
        }
    }

    /// The narrow layer that queries go by way of, if they do.
    pub fn low_rank_q(&self) -> Option<LowRankSpec> {
        match self {
            Mixer::Attention(spec) => spec.low_rank_q,
            Mixer::LatentAttention(spec) => spec.low_rank_q,
        }
    }

    /// Elements that one token leaves in the KV cache.
    pub fn cached_elements(&self) -> usize {
        match self {
            Mixer::Attention(spec) => 2 * spec.num_kv_heads * spec.head_dim,
            Mixer::LatentAttention(spec) => spec.cached_row(),
        }
    }

    /// Width of all value heads together: what the output projection reads.
    pub fn attended_dim(&self) -> usize {
        match self {
            Mixer::Attention(spec) => spec.num_heads * spec.head_dim,
            Mixer::LatentAttention(spec) => spec.num_heads * spec.value_dim,
        }
    }
}

impl From<AttentionSpec> for Mixer {
    fn from(spec: AttentionSpec) -> Mixer {
        Mixer::Attention(spec)
    }
}

impl From<LatentAttentionSpec> for Mixer {
    fn from(spec: LatentAttentionSpec) -> Mixer {
        Mixer::LatentAttention(spec)
    }
}

/// Grouped-query attention.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of a head; not always `hidden_size / num_heads`.
    pub head_dim: usize,
    /// Queries go by way of a narrow layer: `q = up(norm(down(x)))` (Step-3).
    pub low_rank_q: Option<LowRankSpec>,
    /// q, k and v projections have a bias.
    pub qkv_bias: bool,
    /// The output projection has a bias.
    pub o_bias: bool,
    /// RMSNorm of q and k.
    pub qk_norm: Option<QkNormSpec>,
    /// Rotary position embedding; none where positions come from elsewhere.
    pub rope: Option<RopeSpec>,
    /// Scores fall with distance, by a slope per head (Press et al. 2021, arXiv 2108.12409).
    pub alibi: bool,
    /// Which keys a query sees.
    pub mask: AttentionMask,
    /// Multiplier of the scores.
    pub scale: f32,
    /// `c * tanh(score / c)`, after the multiplier.
    pub softcap: Option<f32>,
    /// Each head has one more logit in its softmax, without a value (gpt-oss).
    pub sinks: bool,
    /// Multiplier of the scores that depends on the query's position, after the cap.
    pub temperature: Option<Temperature>,
    /// The output of each head is multiplied by `sigmoid(gate(x))` (Step-3.5, Spark-X2.5).
    pub output_gate: bool,
}

/// Multi-head latent attention (DeepSeek-AI 2024, arXiv 2405.04434). The cache holds one narrow row per token: a latent,
/// out of which the keys and values of all heads come, and a rotated part of the keys that all heads share.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentAttentionSpec {
    /// Query heads.
    pub num_heads: usize,
    /// Elements of a query or key head without position.
    pub nope_dim: usize,
    /// Elements of a query or key head that rotate, behind those.
    pub rope_dim: usize,
    /// Width of a value head.
    pub value_dim: usize,
    /// Queries go by way of a narrow layer.
    pub low_rank_q: Option<LowRankSpec>,
    /// The latent.
    pub latent: LowRankSpec,
    /// The rotation.
    pub rope: RopeSpec,
    /// Multiplier of the scores.
    pub scale: f32,
}

impl LatentAttentionSpec {
    /// Width of a query head.
    pub fn head_dim(&self) -> usize {
        self.nope_dim + self.rope_dim
    }

    /// Width of a token's row in the cache.
    pub fn cached_row(&self) -> usize {
        self.latent.rank + self.rope_dim
    }
}

/// A narrow layer with a norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LowRankSpec {
    /// Its width.
    pub rank: usize,
    /// Epsilon of its norm.
    pub norm_eps: f32,
}

/// RMSNorm of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QkNormSpec {
    /// Over each head, or over all heads together.
    pub span: NormSpan,
    /// Before or after the rotation.
    pub order: NormOrder,
    /// Multiplied by weights; without them it is a plain L2 norm (Llama 4).
    pub weighted: bool,
}

impl QkNormSpec {
    /// Over each head, before the rotation, with weights: what most families that have it do.
    pub const HEADS: QkNormSpec =
        QkNormSpec { span: NormSpan::Head, order: NormOrder::BeforeRope, weighted: true };
}

/// How the scores of a query at position p are multiplied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Temperature {
    /// `1 + beta * ln(1 + floor((p + offset) / interval))` (Llama 4, Ministral 3).
    Steps {
        /// Growth per interval.
        beta: f64,
        /// Positions of one step.
        interval: f64,
        /// 1 where positions are counted from 1.
        offset: f64,
    },
    /// `max(1, ln(p + offset) / ln(length))` (Grok-2, Qwen1).
    Log {
        /// Positions up to here are not changed.
        length: f64,
        /// 1 where positions are counted from 1.
        offset: f64,
    },
}
