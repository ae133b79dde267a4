//! What a decoder reads by position or by head and no file holds: rotations, factors of the scores, slopes of ALiBi.
//! All are made at load, for every position up to the longest sequence.

use mosu_kernels::{Allocator, DType, KernelError, Tensor, View, ops::RopeTable};

use crate::{AttentionSpec, DecoderSpec, LayerSpec, Temperature, rope::RopeTables};

/// The tables of a decoder; layers that need the same share one.
pub(crate) struct PositionTables {
    rope: RopeTables,
    temperatures: Shared<Temperature>,
    alibi: Shared<usize>,
}

impl PositionTables {
    /// Tables for positions `0..positions`, in the memory of `to`.
    pub fn new(
        to: &Allocator<'_>,
        spec: &DecoderSpec,
        positions: usize,
    ) -> Result<PositionTables, KernelError> {
        let factors = |temperature: &Temperature| {
            to.filled([positions], DType::F32, || {
                let factors: Vec<f32> = (0..positions).map(|position| temperature.at(position)).collect();
                Tensor::from_slice([positions], &factors)
            })
        };
        let slopes = |&num_heads: &usize| {
            to.filled([num_heads], DType::F32, || Tensor::from_slice([num_heads], &alibi_slopes(num_heads)))
        };
        let heads = |attention: &AttentionSpec| attention.alibi.then_some(attention.num_heads);
        Ok(PositionTables {
            rope: RopeTables::new(to, spec.layers.iter().map(|layer| layer.mixer.rope()), positions)?,
            temperatures: Shared::new(&spec.layers, |attention| attention.temperature, factors)?,
            alibi: Shared::new(&spec.layers, heads, slopes)?,
        })
    }

    /// A layer's rotation.
    pub fn rope(&self, layer: usize) -> Option<RopeTable<'_>> {
        self.rope.layer(layer)
    }

    /// Factors of a layer's scores by the query's position, f32 `[positions]`.
    pub fn temperature(&self, layer: usize) -> Option<View<'_>> {
        self.temperatures.layer(layer)
    }

    /// Slopes of a layer's heads, f32 `[Hq]`.
    pub fn alibi_slopes(&self, layer: usize) -> Option<View<'_>> {
        self.alibi.layer(layer)
    }
}

/// Tensors made from keys, one for each different key.
struct Shared<Key> {
    tensors: Vec<(Key, Tensor)>,
    /// Index of each layer's tensor.
    of_layer: Vec<Option<usize>>,
}

impl<Key: PartialEq> Shared<Key> {
    fn new(
        layers: &[LayerSpec],
        key: impl Fn(&AttentionSpec) -> Option<Key>,
        make: impl Fn(&Key) -> Result<Tensor, KernelError>,
    ) -> Result<Shared<Key>, KernelError> {
        let mut shared = Shared { tensors: Vec::new(), of_layer: Vec::new() };
        for layer in layers {
            let index = match layer.mixer.attention().and_then(&key) {
                None => None,
                Some(key) => {
                    let known = shared.tensors.iter().position(|(known, _)| *known == key);
                    if known.is_none() {
                        let tensor = make(&key)?;
                        shared.tensors.push((key, tensor));
                    }
                    known.or(Some(shared.tensors.len() - 1))
                }
            };
            shared.of_layer.push(index);
        }
        Ok(shared)
    }

    fn layer(&self, layer: usize) -> Option<View<'_>> {
        self.of_layer[layer].map(|index| self.tensors[index].1.view())
    }
}

impl Temperature {
    /// The factor of the scores of a query at this position.
    fn at(self, position: usize) -> f32 {
        let p = position as f64;
        match self {
            Temperature::Steps { beta, interval, offset } => {
                (1.0 + beta * ((p + offset) / interval).floor().ln_1p()) as f32
            }
            Temperature::Log { length, offset } if p + offset > length => {
                ((p + offset).ln() / length.ln()) as f32
            }
            Temperature::Log { .. } => 1.0,
        }
    }
}

/// `2^(-8 (i + 1) / n)` for n heads, a power of two. Of other numbers, the first heads get the slopes of the next lower
/// power n, and the rest every second slope of 2n, as in BLOOM.
fn alibi_slopes(num_heads: usize) -> Vec<f32> {
    let slopes = |n: usize| (1..=n).map(move |i| (-8.0 * i as f64 / n as f64).exp2() as f32);
    let lower = 1 << num_heads.max(1).ilog2();
    slopes(lower).chain(slopes(2 * lower).step_by(2)).take(num_heads).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_halve_and_continue_between_powers_of_two() {
        assert_eq!(
            alibi_slopes(8),
            [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015_625, 0.007_812_5, 0.003_906_25]
        );
        // transformers' build_alibi_tensor for 6 heads.
        assert_eq!(alibi_slopes(6), [0.25, 0.0625, 0.015_625, 0.003_906_25, 0.5, 0.125]);
    }

    #[test]
    fn scores_grow_in_steps_or_with_the_logarithm() {
        let steps = Temperature::Steps { beta: 0.1, interval: 8.0, offset: 1.0 };
        assert_eq!((steps.at(0), steps.at(6)), (1.0, 1.0));
        assert_eq!(steps.at(7), (1.0 + 0.1 * 2.0_f64.ln()) as f32);
        let log = Temperature::Log { length: 16.0, offset: 0.0 };
        assert_eq!((log.at(0), log.at(16), log.at(256)), (1.0, 1.0, 2.0));
    }
}
