//! What one decoder computes, as plain data. A family's file turns config.json into a [`DecoderSpec`]; the decoder
//! reads nothing else. Choices that an op makes too are the op's own enums.

mod count;
mod mixer;
mod rope;

pub use mixer::{AttentionSpec, LatentAttentionSpec, LowRankSpec, Mixer, QkNormSpec, Temperature};
use mosu_kernels::{
    DType,
    ops::{Activation, ApplyRouterWeight, Glu, NormKind, Router},
};
pub use rope::{RopeScaling, RopeSpec};

use crate::Quantization;

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
    /// How matrices are quantised, as config.json says; of which, the files decide.
    pub quantization: Option<Quantization>,
}

impl DecoderSpec {
    /// The longest sequence that can be asked for: dynamic scaling of the rotation reaches beyond the model's own
    /// context, at the price of another rotation for all sequences.
    pub fn longest_context(&self) -> usize {
        let of_layer = |layer: &LayerSpec| match layer.mixer.rope()?.scaling {
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

/// One decoder layer: `x += post(mixer(norm(x))); x += post(ffn(norm(x)))`.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// How tokens look at each other.
    pub mixer: Mixer,
    /// What happens to each token alone.
    pub ffn: FfnSpec,
    /// Each branch has a norm of its own behind it ("sandwich").
    pub post_norms: bool,
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
    /// The network of a dense layer, or the shared expert of a sparse layer.
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
    /// Experts that a token is routed to.
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
    pub e_score_correction_bias: bool,
    /// A learned multiplier per expert takes part in the weight.
    pub expert_scale: bool,
    /// Whether an expert's input or its output is weighted.
    pub weigh: ApplyRouterWeight,
    /// A shared expert, which all tokens go through.
    pub shared: Option<SharedSpec>,
}

/// A shared expert: `(experts + [sigmoid(gate(x)) *] network(x)) * sum_scale`.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedSpec {
    /// The network.
    pub network: DenseSpec,
    /// Its output is multiplied by `sigmoid(gate(x))`.
    pub gated: bool,
    /// Multiplier of the sum (1/√2 in Grok-2).
    pub sum_scale: f32,
}
