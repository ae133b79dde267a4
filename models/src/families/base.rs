//! What the families read alike: sizes, heads, norms, context length.

use mosu_kernels::DType;

use crate::{
    AttentionSpec, DecoderSpec, LayerSpec, LoadError, Mask, config_json::ConfigJson, families::rope,
    spec::RopeScaling,
};

// Upper limits of what config.json may claim. They are far above any published model and keep every product of
// two within 64 bits; the files' real sizes are checked later.
pub(super) const MAX_LAYERS: usize = 1 << 12;
pub(super) const MAX_WIDTH: usize = 1 << 20;
pub(super) const MAX_HEADS: usize = 1 << 12;
/// The widest head that attention computes.
const MAX_HEAD_DIM: usize = 512;
pub(super) const MAX_VOCAB: usize = 1 << 24;
pub(super) const MAX_POSITIONS: usize = 1 << 28;
pub(super) const MAX_EXPERTS: usize = 1 << 12;

/// What a family assumes where config.json is silent.
pub(super) struct Defaults {
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    /// `None` is `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
}

/// transformers' defaults for Llama, shared by most families.
pub(super) const DEFAULTS: Defaults = Defaults { rms_norm_eps: 1e-6, rope_theta: 1e4, head_dim: None };

/// The part of a decoder that the families share.
pub(super) struct Base {
    pub num_layers: usize,
    /// Without biases and qk-norm, seeing everything.
    pub attention: AttentionSpec,
    vocab_size: usize,
    hidden_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    tie_word_embeddings: bool,
    dtype: Option<DType>,
}

impl Base {
    pub fn read(config: &ConfigJson, defaults: &Defaults) -> Result<Base, LoadError> {
        for key in ["quantization_config", "compression_config"] {
            config.refuse(key, "quantised checkpoints are not supported; use the f32, f16 or bf16 one")?;
        }
        if let Some(act) = config.optional_text("hidden_act")?.filter(|act| *act != "silu") {
            return Err(
                config.error("hidden_act", format!("{act:?} is not supported; supported is \"silu\""))
            );
        }
        let hidden_size = config.count("hidden_size", MAX_WIDTH)?;
        let attention = attention(config, hidden_size, defaults)?;
        let max_position_embeddings = config.count("max_position_embeddings", MAX_POSITIONS)?;
        Ok(Base {
            num_layers: config.count("num_hidden_layers", MAX_LAYERS)?,
            vocab_size: config.count("vocab_size", MAX_VOCAB)?,
            hidden_size,
            max_position_embeddings: extended_context(max_position_embeddings, &attention.rope.scaling),
            rms_norm_eps: config.optional_number("rms_norm_eps")?.unwrap_or(defaults.rms_norm_eps),
            tie_word_embeddings: config.flag("tie_word_embeddings", false)?,
            dtype: dtype(config)?,
            attention,
        })
    }

    /// The decoder with these layers.
    pub fn decoder(self, layers: Vec<LayerSpec>) -> DecoderSpec {
        DecoderSpec {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            max_position_embeddings: self.max_position_embeddings,
            rms_norm_eps: self.rms_norm_eps as f32,
            layers,
            tie_word_embeddings: self.tie_word_embeddings,
            dtype: self.dtype,
        }
    }
}

fn attention(
    config: &ConfigJson,
    hidden_size: usize,
    defaults: &Defaults,
) -> Result<AttentionSpec, LoadError> {
    let num_heads = config.count("num_attention_heads", MAX_HEADS)?;
    let num_kv_heads = config.optional_count("num_key_value_heads", MAX_HEADS)?.unwrap_or(num_heads);
    if !num_heads.is_multiple_of(num_kv_heads) {
        let message =
            format!("expected a divisor of num_attention_heads ({num_heads}), found {num_kv_heads}");
        return Err(config.error("num_key_value_heads", message));
    }
    let head_dim = match config.optional_count("head_dim", MAX_HEAD_DIM)?.or(defaults.head_dim) {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
        None => {
            let message = format!("expected a divisor of hidden_size ({hidden_size}), found {num_heads}");
            return Err(config.error("num_attention_heads", message));
        }
    };
    if !head_dim.is_multiple_of(2) || head_dim > MAX_HEAD_DIM {
        let message = format!("expected an even number up to {MAX_HEAD_DIM}, found {head_dim}");
        return Err(config.error("head_dim", message));
    }
    Ok(AttentionSpec {
        num_heads,
        num_kv_heads,
        head_dim,
        qkv_bias: false,
        o_bias: false,
        qk_norm: false,
        mask: Mask::Full,
        rope: rope::read(config, defaults.rope_theta)?,
    })
}

/// YaRN states the original context and the factor: their product is the context, whatever `max_position_embeddings`
/// says (Qwen documents `factor` 4 beside an unchanged `max_position_embeddings`).
fn extended_context(max_position_embeddings: usize, scaling: &RopeScaling) -> usize {
    match scaling {
        RopeScaling::Yarn { factor, original_max_position, .. } => {
            let extended = (*original_max_position as f64 * factor).min(MAX_POSITIONS as f64);
            max_position_embeddings.max(extended as usize)
        }
        _ => max_position_embeddings,
    }
}

/// transformers 5 writes `dtype`, the hub's files have `torch_dtype`.
fn dtype(config: &ConfigJson) -> Result<Option<DType>, LoadError> {
    for key in ["dtype", "torch_dtype"] {
        if let Some(name) = config.optional_text(key)? {
            let known = [DType::F32, DType::F16, DType::BF16].into_iter().find(|dtype| dtype.name() == name);
            let unsupported =
                || config.error(key, format!("{name:?} is not supported; use float32, float16 or bfloat16"));
            return known.ok_or_else(unsupported).map(Some);
        }
    }
    Ok(None)
}
