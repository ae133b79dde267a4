//! What one decoder computes, as plain data. A family's file turns config.json into a [`DecoderSpec`];
//! the decoder reads nothing else.

use mosu_kernels::DType;

/// Everything that distinguishes one decoder from another.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// Rows of the embedding table and of the logits.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// The longest sequence that the model was made for, in tokens, context extension included.
    pub max_position_embeddings: usize,
    /// Epsilon of every RMSNorm.
    pub rms_norm_eps: f32,
    /// The layers, first to last.
    pub layers: Vec<LayerSpec>,
    /// The output projection is the embedding table.
    pub tie_word_embeddings: bool,
    /// Element type of the weights, as config.json says; the files decide.
    pub dtype: Option<DType>,
}

impl DecoderSpec {
    /// Number of weights, a tied output projection counted once; `None` if that overflows.
    pub fn parameters(&self) -> Option<u64> {
        let tables = if self.tie_word_embeddings { 1 } else { 2 };
        self.count(tables, |ffn| match ffn {
            FfnSpec::Dense { .. } => 1,
            FfnSpec::Moe(moe) => moe.num_experts,
        })
    }

    /// Number of weights that one token meets: its experts only, and of the two tables only the output projection.
    pub fn active_parameters(&self) -> Option<u64> {
        self.count(1, |ffn| match ffn {
            FfnSpec::Dense { .. } => 1,
            FfnSpec::Moe(moe) => moe.num_experts_per_tok,
        })
    }

    /// Number of tensors that hold them.
    pub fn tensors(&self) -> usize {
        let attention = |spec: &AttentionSpec| {
            4 + 3 * usize::from(spec.qkv_bias) + usize::from(spec.o_bias) + 2 * usize::from(spec.qk_norm)
        };
        let ffn = |spec: &FfnSpec| match *spec {
            FfnSpec::Dense { bias, .. } => 3 + 3 * usize::from(bias),
            FfnSpec::Moe(moe) => 1 + 3 * moe.num_experts,
        };
        let layer = |spec: &LayerSpec| 2 + attention(&spec.attention) + ffn(&spec.ffn);
        let head = usize::from(!self.tie_word_embeddings);
        2 + head + self.layers.iter().map(layer).sum::<usize>()
    }

    fn count(&self, tables: usize, networks: impl Fn(&FfnSpec) -> usize) -> Option<u64> {
        let h = self.hidden_size;
        let start = product(&[tables, self.vocab_size, h])?.checked_add(h as u64)?;
        self.layers.iter().try_fold(start, |sum: u64, layer| {
            let attention = layer.attention.parameters(h)?;
            let ffn = layer.ffn.parameters(h, networks(&layer.ffn))?;
            sum.checked_add(attention)?.checked_add(ffn)?.checked_add(2 * h as u64)
        })
    }

    /// Elements of keys and values that one token leaves in the KV cache.
    pub fn kv_elements_per_token(&self) -> usize {
        self.layers.iter().map(|layer| 2 * layer.attention.num_kv_heads * layer.attention.head_dim).sum()
    }
}

impl AttentionSpec {
    fn parameters(&self, hidden_size: usize) -> Option<u64> {
        let q = product(&[self.num_heads, self.head_dim])?;
        let qkv = q.checked_add(product(&[2, self.num_kv_heads, self.head_dim])?)?;
        let h = hidden_size as u64;
        let matrices = qkv.checked_add(q)?.checked_mul(h)?;
        let qkv_bias = if self.qkv_bias { qkv } else { 0 };
        let o_bias = if self.o_bias { h } else { 0 };
        let norms = if self.qk_norm { 2 * self.head_dim as u64 } else { 0 };
        matrices.checked_add(qkv_bias)?.checked_add(o_bias)?.checked_add(norms)
    }
}

impl FfnSpec {
    /// The experts of a sparse layer.
    pub fn moe(&self) -> Option<MoeSpec> {
        match *self {
            FfnSpec::Dense { .. } => None,
            FfnSpec::Moe(moe) => Some(moe),
        }
    }

    /// Of `networks` gated networks, and of the router where there is one.
    fn parameters(&self, hidden_size: usize, networks: usize) -> Option<u64> {
        let h = hidden_size;
        let (intermediate_size, extra) = match *self {
            FfnSpec::Dense { intermediate_size, bias } => {
                (intermediate_size, if bias { 2 * intermediate_size as u64 + h as u64 } else { 0 })
            }
            FfnSpec::Moe(moe) => (moe.intermediate_size, product(&[moe.num_experts, h])?),
        };
        product(&[networks, 3, h, intermediate_size])?.checked_add(extra)
    }
}

fn product(factors: &[usize]) -> Option<u64> {
    factors.iter().try_fold(1, |product: u64, &factor| product.checked_mul(factor as u64))
}

/// One decoder layer: `x += attention(norm(x)); x += ffn(norm(x))`.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// How tokens look at each other.
    pub attention: AttentionSpec,
    /// What happens to each token alone.
    pub ffn: FfnSpec,
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
    /// q, k and v projections have a bias.
    pub qkv_bias: bool,
    /// The output projection has a bias.
    pub o_bias: bool,
    /// RMSNorm over each head of q and k, before the rotation.
    pub qk_norm: bool,
    /// Which keys a query sees.
    pub mask: Mask,
    /// Rotary position embedding.
    pub rope: RopeSpec,
}

/// Which keys a query at position `q` sees among positions `k <= q`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// All of them.
    Full,
    /// Those with `q - k < window`.
    Sliding {
        /// In tokens, the query's own included.
        window: usize,
    },
}

/// Rotary position embedding over the whole head, pairs `(i, i + head_dim / 2)`.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Base of the frequencies `theta^(-2i / head_dim)`.
    pub theta: f64,
    /// How the frequencies change for long contexts.
    pub scaling: RopeScaling,
}

/// Context extension of rotary embeddings.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    None,
    /// Positions divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, smooth in between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_position / low_freq_factor` are low.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position / high_freq_factor` are high.
        high_freq_factor: f64,
        /// Context of pre-training.
        original_max_position: usize,
    },
    /// YaRN (Peng et al. 2023, arXiv 2309.00071).
    Yarn {
        /// The divisor of low frequencies.
        factor: f64,
        /// Rotations within the original context above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which a frequency is divided.
        beta_slow: f64,
        /// Context of pre-training.
        original_max_position: usize,
        /// Round the ramp's ends to whole dimensions.
        truncate: bool,
        /// Multiplier of cos and sin.
        attention_factor: f64,
    },
}

/// The feed-forward part of a layer.
#[derive(Clone, Debug, PartialEq)]
pub enum FfnSpec {
    /// `down(silu(gate(x)) * up(x))`.
    Dense {
        /// Width of gate and up.
        intermediate_size: usize,
        /// gate, up and down projections have a bias.
        bias: bool,
    },
    /// A router picks some of many such networks per token.
    Moe(MoeSpec),
}

/// A layer of experts: the outputs of the `num_experts_per_tok` most probable ones, weighted by the router's softmax.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoeSpec {
    /// Experts of the layer.
    pub num_experts: usize,
    /// Experts that a token visits.
    pub num_experts_per_tok: usize,
    /// Width of one expert.
    pub intermediate_size: usize,
    /// Divide the chosen experts' softmax weights by their sum.
    pub renormalize: bool,
}
