//! What one decoder computes, as plain data. A family's file turns config.json into a [`DecoderSpec`]; the decoder
//! reads nothing else. Choices that an op makes too are the op's own enums.

mod count;
mod rope;

use mosu_kernels::{
    DType,
    ops::{Activation, AttentionMask, Glu, NormKind, NormOrder, NormSpan, Router, WeighExperts},
};
pub use rope::{RopeScaling, RopeSpec};

/// Everything that distinguishes one decoder from another.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// Rows of the embedding table and of the logits.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// The longest sequence that the model was made for, in tokens, context extension included.
    pub max_position_embeddings: usize,
    /// How token ids become the residual stream.
    pub embedding: EmbeddingSpec,
    /// All norms of the residual stream and its branches.
    pub norm: NormSpec,
    /// The layers, first to last.
    pub layers: Vec<LayerSpec>,
    /// How the residual stream becomes logits.
    pub head: HeadSpec,
    /// Element type of the weights, as config.json says; the files decide.
    pub dtype: Option<DType>,
}

impl DecoderSpec {
    /// The longest sequence that can be asked for: dynamic scaling of the rotation reaches beyond the model's own
    /// context, at the price of another rotation for all sequences.
    pub fn longest_context(&self) -> usize {
        let of_layer = |layer: &LayerSpec| match layer.attention.rope.as_ref()?.scaling {
            RopeScaling::Dynamic { factor, max_position } => Some((max_position as f64 * factor) as usize),
            _ => None,
        };
        let extended = self.layers.iter().filter_map(of_layer).max().unwrap_or(0);
        self.max_position_embeddings.max(extended)
    }
}

/// The residual stream before the first layer.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingSpec {
    /// Multiplier of the table's rows.
    pub scale: f32,
    /// The multiplier is rounded to the table's element type first (Gemma).
    pub scale_rounded: bool,
    /// Rows of a table that is added by position (GPT-2).
    pub learned_positions: Option<usize>,
    /// A norm follows (BLOOM).
    pub norm: bool,
}

impl Default for EmbeddingSpec {
    fn default() -> EmbeddingSpec {
        EmbeddingSpec { scale: 1.0, scale_rounded: false, learned_positions: None, norm: false }
    }
}

/// The norms of a decoder. LayerNorms have a bias.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSpec {
    /// RMSNorm or LayerNorm.
    pub kind: NormKind,
    /// Added to the variance.
    pub eps: f32,
    /// Files store `w` where the norm multiplies by `1 + w` (Gemma, Step-3.5); norms of q and k too.
    pub one_plus: bool,
}

/// From the residual stream to logits: `softcap(scale * (norm(hidden) · headᵀ + bias))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadSpec {
    /// The output projection is the embedding table.
    pub tied: bool,
    /// The output projection has a bias.
    pub bias: bool,
    /// Multiplier of the logits.
    pub scale: f32,
    /// `c * tanh(logit / c)`, after the multiplier.
    pub softcap: Option<f32>,
}

/// One decoder layer: `x += post(attention(norm(x))); x += post(ffn(norm(x)))`.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// How tokens look at each other.
    pub attention: AttentionSpec,
    /// What happens to each token alone.
    pub ffn: FfnSpec,
    /// Each branch has a norm of its own behind it ("sandwich").
    pub post_norms: bool,
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
    /// Queries go by way of a narrow layer: `q = up(norm(down(x)))` (Step-3, DeepSeek).
    pub low_rank_q: Option<LowRankSpec>,
    /// Keys and values come out of one narrow latent per token, which is what the cache holds (DeepSeek). Then
    /// `head_dim` is the width of a query head, and `num_kv_heads` is 1.
    pub latent_kv: Option<LatentSpec>,
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
    pub head_gate: bool,
}

/// A narrow layer with a norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LowRankSpec {
    /// Its width.
    pub rank: usize,
    /// Epsilon of its norm.
    pub norm_eps: f32,
}

/// Multi-head latent attention (DeepSeek-AI 2024, arXiv 2405.04434). A key is made of `nope_dim` elements out of the
/// latent and of a rotated rest that all heads share; a value comes out of the latent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatentSpec {
    /// The latent.
    pub latent: LowRankSpec,
    /// Elements of a query head without position; those behind rotate.
    pub nope_dim: usize,
    /// Width of a value head.
    pub value_dim: usize,
}

impl AttentionSpec {
    /// Elements that one token leaves in the KV cache.
    pub fn cached_elements(&self) -> usize {
        match self.latent_kv {
            None => 2 * self.num_kv_heads * self.head_dim,
            Some(kv) => self.latent_row(kv),
        }
    }

    /// Width of the latent and the rotated rest beside it.
    pub fn latent_row(&self, kv: LatentSpec) -> usize {
        kv.latent.rank + self.head_dim - kv.nope_dim
    }

    /// Width of all value heads together: what the output projection reads.
    pub fn attended_dim(&self) -> usize {
        self.num_heads * self.latent_kv.map_or(self.head_dim, |kv| kv.value_dim)
    }
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

/// The feed-forward part of a layer.
#[derive(Clone, Debug, PartialEq)]
pub enum FfnSpec {
    /// One network for all tokens.
    Dense(DenseSpec),
    /// A router picks some of many networks per token.
    Moe(MoeSpec),
}

impl FfnSpec {
    /// The network of a dense layer, or the one that all tokens visit in a sparse layer.
    pub fn dense(&self) -> Option<&DenseSpec> {
        match self {
            FfnSpec::Dense(dense) => Some(dense),
            FfnSpec::Moe(moe) => moe.shared.as_ref().map(|shared| &shared.network),
        }
    }

    /// The experts of a sparse layer.
    pub fn moe(&self) -> Option<&MoeSpec> {
        match self {
            FfnSpec::Dense(_) => None,
            FfnSpec::Moe(moe) => Some(moe),
        }
    }
}

/// A feed-forward network.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseSpec {
    /// Width between the projections.
    pub intermediate_size: usize,
    /// What stands between them.
    pub activation: FfnActivation,
    /// The projections have a bias.
    pub bias: bool,
}

/// What stands between the projections of a feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FfnActivation {
    /// `down(glu(gate(x), up(x)))`
    Gated(Glu),
    /// `down(act(up(x)))`
    Plain(Activation),
}

/// A layer of experts.
#[derive(Clone, Debug, PartialEq)]
pub struct MoeSpec {
    /// Experts of the layer.
    pub num_experts: usize,
    /// Experts that a token visits.
    pub num_experts_per_tok: usize,
    /// Width of one expert.
    pub intermediate_size: usize,
    /// An expert's activation.
    pub glu: Glu,
    /// The experts' projections have a bias.
    pub expert_bias: bool,
    /// From logits to experts and their weights.
    pub router: Router,
    /// The router's projection has a bias.
    pub router_bias: bool,
    /// A learned bias per expert takes part in the choice, not in the weight.
    pub selection_bias: bool,
    /// A learned multiplier per expert takes part in the weight.
    pub expert_scale: bool,
    /// Whether an expert's input or its output is weighted.
    pub weigh: WeighExperts,
    /// A network that all tokens visit.
    pub shared: Option<SharedSpec>,
}

/// A network beside the experts: `(experts + [sigmoid(gate(x)) *] network(x)) * sum_scale`.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedSpec {
    /// The network.
    pub network: DenseSpec,
    /// Its output is multiplied by `sigmoid(gate(x))`.
    pub gated: bool,
    /// Multiplier of the sum (1/√2 in Grok-2).
    pub sum_scale: f32,
}
