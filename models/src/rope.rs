//! Tables of rotary position embeddings, one row per position, computed in f64 and stored in f32.

use std::f64::consts::TAU;

use mosu_kernels::{Allocator, DType, KernelError, Tensor, ops::RopeTable};
use rayon::prelude::*;

use crate::{RopeScaling, RopeSpec};

/// Positions that one task fills.
const POSITIONS_PER_TASK: usize = 256;

/// The tables of a decoder; layers that rotate alike share one.
pub(crate) struct RopeTables {
    tables: Vec<Table>,
    /// Index of each layer's table; none where nothing rotates.
    of_layer: Vec<Option<usize>>,
}

impl RopeTables {
    /// Tables for positions `0..positions` of these layers, in the memory of `to`.
    pub fn new<'a>(
        to: &Allocator<'_>,
        layers: impl Iterator<Item = Option<&'a RopeSpec>>,
        positions: usize,
    ) -> Result<RopeTables, KernelError> {
        let mut rope = RopeTables { tables: Vec::new(), of_layer: Vec::new() };
        for layer in layers {
            let Some(spec) = layer else {
                rope.of_layer.push(None);
                continue;
            };
            let known = rope.tables.iter().position(|table| table.spec == *spec);
            rope.of_layer.push(known.or(Some(rope.tables.len())));
            if known.is_none() {
                rope.tables.push(Table::new(to, spec, positions)?);
            }
        }
        Ok(rope)
    }

    /// One layer's table.
    pub fn layer(&self, layer: usize) -> Option<RopeTable<'_>> {
        let Table { spec, cos, sin } = &self.tables[self.of_layer[layer]?];
        Some(RopeTable { cos: cos.view(), sin: sin.view(), layout: spec.layout })
    }
}

/// cos and sin of `position * frequency`, `[positions, rotary_dim / 2]` each.
struct Table {
    spec: RopeSpec,
    cos: Tensor,
    sin: Tensor,
}

impl Table {
    fn new(to: &Allocator<'_>, spec: &RopeSpec, positions: usize) -> Result<Table, KernelError> {
        let table = |of_angle: fn(f64) -> f64| {
            let make = || rotations(spec, positions, of_angle);
            to.filled([positions, spec.rotary_dim / 2], DType::F32, make)
        };
        Ok(Table { spec: spec.clone(), cos: table(f64::cos)?, sin: table(f64::sin)? })
    }
}

/// `of_angle(position * frequency)`, `[positions, rotary_dim / 2]`.
fn rotations(spec: &RopeSpec, positions: usize, of_angle: fn(f64) -> f64) -> Result<Tensor, KernelError> {
    let (frequencies, factor) = (frequencies(spec, positions), amplitude(spec, positions));
    let width = frequencies.len();
    let mut table = Tensor::zeros([positions, width], DType::F32)?;
    let tasks = table.as_mut_slice::<f32>()?.par_chunks_mut(POSITIONS_PER_TASK * width.max(1));
    tasks.enumerate().for_each(|(task, rows)| {
        for (position, row) in (task * POSITIONS_PER_TASK..).zip(rows.chunks_mut(width)) {
            for (value, frequency) in row.iter_mut().zip(&frequencies) {
                *value = (of_angle(position as f64 * frequency) * factor) as f32;
            }
        }
    });
    Ok(table)
}

/// The multiplier of cos and sin where the longest sequence has `positions` tokens.
fn amplitude(spec: &RopeSpec, positions: usize) -> f64 {
    match spec.scaling {
        RopeScaling::Yarn { attention_factor, .. } => attention_factor,
        RopeScaling::LongRope { short_scale, long_scale, original_max_position, .. } => {
            if positions > original_max_position { long_scale } else { short_scale }
        }
        _ => 1.0,
    }
}

/// `[rotary_dim / 2]` radians per position where the longest sequence has `positions` tokens.
fn frequencies(spec: &RopeSpec, positions: usize) -> Vec<f64> {
    let d = spec.rotary_dim as f64;
    let powers_of = |theta: f64| (0..spec.rotary_dim / 2).map(move |i| theta.powf(-2.0 * i as f64 / d));
    let plain = powers_of(spec.theta);
    match &spec.scaling {
        RopeScaling::None => plain.collect(),
        RopeScaling::Linear { factor } => plain.map(|frequency| frequency / factor).collect(),
        RopeScaling::Dynamic { factor, max_position } => {
            let excess = (positions as f64 / *max_position as f64).max(1.0);
            let growth = (factor * excess - (factor - 1.0)).powf(d / (d - 2.0));
            powers_of(spec.theta * growth).collect()
        }
        RopeScaling::LongRope { short_factor, long_factor, original_max_position, .. } => {
            let divisors = if positions > *original_max_position { long_factor } else { short_factor };
            plain.zip(divisors).map(|(frequency, divisor)| frequency / divisor).collect()
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => plain
            .map(|frequency| {
                let rotations = *original_max_position as f64 * frequency / TAU;
                let kept = (rotations - low_freq_factor) / (high_freq_factor - low_freq_factor);
                blend(frequency / factor, frequency, kept.clamp(0.0, 1.0))
            })
            .collect(),
        RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max_position, truncate, .. } => {
            // The dimension whose frequency makes that many rotations within the original context.
            let dimension = |rotations: f64| {
                d * (*original_max_position as f64 / (rotations * TAU)).ln() / (2.0 * spec.theta.ln())
            };
            let (mut low, mut high) = (dimension(*beta_fast), dimension(*beta_slow));
            if *truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            let (low, mut high) = (low.max(0.0), high.min(d - 1.0));
            if low == high {
                high += 0.001;
            }
            plain
                .enumerate()
                .map(|(i, frequency)| {
                    let divided = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    blend(frequency / factor, frequency, 1.0 - divided)
                })
                .collect()
        }
    }
}

/// `kept` is the share of `original`.
fn blend(scaled: f64, original: f64, kept: f64) -> f64 {
    scaled * (1.0 - kept) + original * kept
}

#[cfg(test)]
mod tests {
    use mosu_kernels::{Device, ops::RopeLayout};

    use super::*;

    fn assert_close(found: f64, expected: f64) {
        let difference = (found - expected).abs();
        assert!(difference <= 1e-12 * expected.abs(), "{found} is not {expected}");
    }

    fn spec(theta: f64, rotary_dim: usize, scaling: RopeScaling) -> RopeSpec {
        RopeSpec { theta, rotary_dim, layout: RopeLayout::HalfSplit, scaling }
    }

    #[test]
    fn llama3_keeps_high_and_divides_low_frequencies() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position: 8192,
        };
        let plain = frequencies(&spec(5e5, 128, RopeScaling::None), 100);
        let scaled = frequencies(&spec(5e5, 128, scaling), 100);
        assert_close(scaled[0], 1.0);
        assert_close(scaled[63], plain[63] / 8.0);
        assert!(scaled.windows(2).all(|pair| pair[1] < pair[0]), "the frequencies fall");
    }

    #[test]
    fn yarn_keeps_the_first_and_divides_the_last() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_max_position: 32768,
            truncate: true,
            attention_factor: 1.138_629,
        };
        let spec = spec(1e6, 128, scaling);
        let scaled = frequencies(&spec, 300);
        assert_close(scaled[0], 1.0);
        assert_close(scaled[63], 1e6_f64.powf(-126.0 / 128.0) / 4.0);
        let tables = Table::new(&Allocator::new(&Device::cpu(None)), &spec, 300).unwrap();
        let cos = tables.cos.as_slice::<f32>().unwrap();
        assert_eq!(cos[0], 1.138_629, "cos 0 carries the attention factor");
        assert_close(f64::from(cos[299 * 64]), f64::from((299.0_f64.cos() * 1.138_629) as f32));
    }

    /// The longest sequence decides for all of them.
    #[test]
    fn dynamic_and_long_tables_follow_the_longest_sequence() {
        let dynamic = spec(1e4, 16, RopeScaling::Dynamic { factor: 6.0, max_position: 32 });
        let plain = frequencies(&spec(1e4, 16, RopeScaling::None), 48);
        assert_eq!(frequencies(&dynamic, 32), plain);
        // transformers: theta * (6 * 48 / 32 - 5) ^ (16 / 14)
        assert_close(frequencies(&dynamic, 48)[1], (1e4 * 4.0_f64.powf(16.0 / 14.0)).powf(-0.125));
        let long = RopeScaling::LongRope {
            short_factor: vec![1.0, 2.0],
            long_factor: vec![3.0, 4.0],
            short_scale: 1.0,
            long_scale: 1.5,
            original_max_position: 32,
        };
        let long = spec(1e4, 4, long);
        assert_eq!((frequencies(&long, 32), amplitude(&long, 32)), (vec![1.0, 0.005], 1.0));
        assert_eq!((frequencies(&long, 33), amplitude(&long, 33)), (vec![1.0 / 3.0, 0.0025], 1.5));
    }
}
