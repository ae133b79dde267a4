//! What the families read alike: sizes, heads, norms, context length.

use mosu_kernels::{
    DType,
    ops::{AttentionMask, NormKind},
};

use crate::{
    AttentionSpec, DecoderSpec, EmbeddingSpec, FfnSpec, HeadSpec, LayerSpec, LoadError, Mixer, NormSpec,
    Quantization, RopeScaling,
    config_json::ConfigJson,
    families::{limits::MAX_VOCAB, rope},
};

// With `Base`, what a family needs to say how it differs.
pub(super) use crate::families::{
    defaults::{DEFAULTS, Defaults, KEYS, Keys},
    limits::{MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_WIDTH},
};

/// The part of a decoder that the families share; each changes in it what it does otherwise.
pub(super) struct Base {
    pub num_layers: usize,
    /// Without biases and norms of q and k, seeing everything, rotated as the whole file says.
    pub attention: AttentionSpec,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub max_position_embeddings: usize,
    pub embedding: EmbeddingSpec,
    pub norm: NormSpec,
    pub head: HeadSpec,
    dtype: Option<DType>,
    quantization: Option<Quantization>,
}

impl Base {
    /// Reads everything, the rotation included.
    pub fn read(config: &ConfigJson, defaults: &Defaults) -> Result<Base, LoadError> {
        let mut base = Base::without_rope(config, defaults)?;
        let rope = rope::read(config, base.attention.head_dim, defaults)?;
        base.extend_context(&rope.scaling);
        base.attention.rope = Some(rope);
        Ok(base)
    }

    /// Reads everything but the rotation: there is none, or layers differ in it.
    pub fn without_rope(config: &ConfigJson, defaults: &Defaults) -> Result<Base, LoadError> {
        let quantization = Quantization::read(config)?;
        let keys = &defaults.keys;
        let hidden_size = config.count(config.first_of(keys.hidden_size), MAX_WIDTH)?;
        let eps = config.optional_number(config.first_of(keys.norm_eps))?.unwrap_or(defaults.norm_eps);
        Ok(Base {
            num_layers: config.count(config.first_of(keys.num_layers), MAX_LAYERS)?,
            attention: attention(config, hidden_size, defaults)?,
            vocab_size: count_or(config, keys.vocab_size, MAX_VOCAB, defaults.vocab_size)?,
            hidden_size,
            max_position_embeddings: count_or(config, keys.context, MAX_POSITIONS, defaults.context)?,
            embedding: EmbeddingSpec::default(),
            norm: NormSpec { kind: NormKind::Rms, eps: eps as f32, one_plus: false },
            head: HeadSpec {
                tied: config.flag("tie_word_embeddings", defaults.tied)?,
                bias: false,
                scale: 1.0,
                softcap: None,
            },
            dtype: dtype(config)?,
            quantization,
        })
    }

    /// YaRN states the original context and the factor: their product is the context, whatever
    /// `max_position_embeddings` says (Qwen documents `factor` 4 beside an unchanged `max_position_embeddings`).
    pub fn extend_context(&mut self, scaling: &RopeScaling) {
        if let RopeScaling::Yarn { factor, original_max_position, .. } = scaling {
            let extended = (*original_max_position as f64 * factor).min(MAX_POSITIONS as f64);
            self.max_position_embeddings = self.max_position_embeddings.max(extended as usize);
        }
    }

    /// The decoder with these layers.
    pub fn decoder(self, layers: Vec<LayerSpec>) -> DecoderSpec {
        DecoderSpec {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            max_position_embeddings: self.max_position_embeddings,
            embedding: self.embedding,
            norm: self.norm,
            layers,
            head: self.head,
            dtype: self.dtype,
            quantization: self.quantization,
        }
    }

    /// The decoder whose layers are all like this.
    pub fn uniform(self, mixer: impl Into<Mixer>, ffn: FfnSpec) -> DecoderSpec {
        let layers = vec![layer(mixer, ffn); self.num_layers];
        self.decoder(layers)
    }
}

/// A layer without norms behind its branches.
pub(super) fn layer(mixer: impl Into<Mixer>, ffn: FfnSpec) -> LayerSpec {
    LayerSpec { mixer: mixer.into(), ffn, post_norms: false }
}

fn attention(
    config: &ConfigJson,
    hidden_size: usize,
    defaults: &Defaults,
) -> Result<AttentionSpec, LoadError> {
    let keys = &defaults.keys;
    let (of_heads, of_kv_heads) = (config.first_of(keys.num_heads), config.first_of(keys.num_kv_heads));
    let num_heads = count_or(config, keys.num_heads, MAX_HEADS, defaults.num_heads)?;
    let num_kv_heads = config.optional_count(of_kv_heads, MAX_HEADS)?.or(defaults.num_kv_heads);
    let num_kv_heads = num_kv_heads.unwrap_or(num_heads);
    check_groups(config, of_kv_heads, num_heads, num_kv_heads)?;
    let of_head_dim = config.first_of(keys.head_dim);
    let head_dim = match config.optional_count(of_head_dim, MAX_HEAD_DIM)?.or(defaults.head_dim) {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
        None => {
            let message = format!("expected a divisor of hidden_size ({hidden_size}), found {num_heads}");
            return Err(config.error(of_heads, message));
        }
    };
    if !head_dim.is_multiple_of(2) || head_dim > MAX_HEAD_DIM {
        let message = format!("expected an even number up to {MAX_HEAD_DIM}, found {head_dim}");
        return Err(config.error(of_head_dim, message));
    }
    Ok(AttentionSpec {
        num_heads,
        num_kv_heads,
        head_dim,
        low_rank_q: None,
        qkv_bias: false,
        o_bias: false,
        qk_norm: None,
        rope: None,
        alibi: false,
        mask: AttentionMask::Full,
        scale: (head_dim as f32).powf(-0.5),
        softcap: None,
        sinks: false,
        temperature: None,
        output_gate: false,
    })
}

/// A count under the first of these keys that is there; it must be there if there is no default.
fn count_or(
    config: &ConfigJson,
    keys: &[&str],
    max: usize,
    default: Option<usize>,
) -> Result<usize, LoadError> {
    let key = config.first_of(keys);
    match default {
        None => config.count(key, max),
        Some(default) => Ok(config.optional_count(key, max)?.unwrap_or(default)),
    }
}

/// Query heads share key and value heads evenly.
pub(super) fn check_groups(
    config: &ConfigJson,
    key: &str,
    num_heads: usize,
    num_kv_heads: usize,
) -> Result<(), LoadError> {
    if num_heads.is_multiple_of(num_kv_heads) {
        return Ok(());
    }
    let message = format!("expected a divisor of num_attention_heads ({num_heads}), found {num_kv_heads}");
    Err(config.error(key, message))
}

/// transformers 5 writes `dtype`, the hub's files have `torch_dtype`.
pub(super) fn dtype(config: &ConfigJson) -> Result<Option<DType>, LoadError> {
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
