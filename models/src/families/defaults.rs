//! What a family assumes where config.json is silent, and what it calls things.

use mosu_kernels::ops::RopeLayout;

/// What a family assumes.
pub(super) struct Defaults {
    pub norm_eps: f64,
    pub rope_theta: f64,
    /// Share of a head that rotates; `None` is all, and config.json may not say otherwise.
    pub partial_rotary: Option<f64>,
    pub rope_layout: RopeLayout,
    /// `None` is `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    pub tied: bool,
    /// Where config.json may be silent about it: a multimodal one writes only what differs from the family's class.
    pub context: Option<usize>,
    /// The same.
    pub vocab_size: Option<usize>,
    /// The same.
    pub num_heads: Option<usize>,
    /// `None` is as many as query heads.
    pub num_kv_heads: Option<usize>,
    pub keys: Keys,
}

/// The names of sizes in config.json, where several are in use the better one first.
pub(super) struct Keys {
    pub vocab_size: &'static [&'static str],
    pub hidden_size: &'static [&'static str],
    pub num_layers: &'static [&'static str],
    pub num_heads: &'static [&'static str],
    pub num_kv_heads: &'static [&'static str],
    pub head_dim: &'static [&'static str],
    pub context: &'static [&'static str],
    pub norm_eps: &'static [&'static str],
}

/// Llama's names.
pub(super) const KEYS: Keys = Keys {
    vocab_size: &["vocab_size"],
    hidden_size: &["hidden_size"],
    num_layers: &["num_hidden_layers"],
    num_heads: &["num_attention_heads"],
    num_kv_heads: &["num_key_value_heads"],
    head_dim: &["head_dim"],
    context: &["max_position_embeddings"],
    norm_eps: &["rms_norm_eps"],
};

/// transformers' defaults for Llama, shared by most families.
pub(super) const DEFAULTS: Defaults = Defaults {
    norm_eps: 1e-6,
    rope_theta: 1e4,
    partial_rotary: None,
    rope_layout: RopeLayout::HalfSplit,
    head_dim: None,
    tied: false,
    context: None,
    vocab_size: None,
    num_heads: None,
    num_kv_heads: None,
    keys: KEYS,
};
