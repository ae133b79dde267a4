//! Rotary position embedding as data.

use mosu_kernels::ops::RopeLayout;

/// Rotary position embedding of the first `rotary_dim` elements of a head.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Base of the frequencies `theta^(-2i / rotary_dim)`.
    pub theta: f64,
    /// How many elements rotate.
    pub rotary_dim: usize,
    /// Which elements form a pair.
    pub layout: RopeLayout,
    /// How the frequencies change for long contexts.
    pub scaling: RopeScaling,
}

/// Context extension of rotary embeddings. Whatever depends on the length of a sequence elsewhere depends on the
/// longest sequence of the model here: a rotation must not change while keys that it rotated are in the cache.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    None,
    /// Positions divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// NTK-aware: theta grows with the longest sequence L, by `(factor * L / max_position - (factor - 1))` to the power
    /// of `d / (d - 2)`, where L exceeds `max_position`.
    Dynamic {
        /// Growth of theta; the model's context can be extended by as much.
        factor: f64,
        /// Context without scaling.
        max_position: usize,
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
    /// LongRoPE (Ding et al. 2024, arXiv 2402.13753): a divisor per frequency, of two sets. The long one holds where
    /// the longest sequence exceeds `original_max_position`.
    LongRope {
        /// `[rotary_dim / 2]`
        short_factor: Vec<f64>,
        /// `[rotary_dim / 2]`
        long_factor: Vec<f64>,
        /// Multiplier of cos and sin beside the short divisors.
        short_scale: f64,
        /// Multiplier of cos and sin beside the long divisors.
        long_scale: f64,
        /// Context of pre-training.
        original_max_position: usize,
    },
}
