//! All tensors of the weights, to be moved to where the device computes, or counted.

use mosu_kernels::{
    Allocator, Device, Format, Matrix, Result, Tensor,
    ops::{Experts, Linear},
};

use super::parts::{
    AttentionWeights, DecoderWeights, FfnWeights, LatentAttentionWeights, LatentQueries, LayerWeights,
    LowRankWeights, MixerWeights, MoeWeights, NetworkWeights, NormWeights, QkvWeights, SharedWeights,
};

/// What weights are made of.
pub(super) enum Part<'a> {
    Tensor(&'a mut Tensor),
    Linear(&'a mut Linear),
    Experts(&'a mut Experts),
}

impl Part<'_> {
    fn move_to(self, to: &Allocator<'_>) -> Result<()> {
        match self {
            Part::Tensor(tensor) => tensor.move_to(to),
            Part::Linear(linear) => linear.move_to(to),
            Part::Experts(experts) => experts.move_to(to),
        }
    }
}

/// Weights go to the memory of `to`: on the processor they stay where they are.
pub(super) fn placed<T: Parts>(mut weights: T, to: &Allocator<'_>) -> Result<T> {
    weights.visit(&mut |part| part.move_to(to))?;
    Ok(weights)
}

impl DecoderWeights {
    /// The most that a product with one of these weights keeps between its kernels on `device`, in steps of up to `rows`
    /// rows.
    pub fn scratch_bytes(&mut self, device: &Device, rows: usize) -> Result<usize> {
        let mut most = 0;
        self.visit(&mut |part| {
            if let Part::Linear(linear) = part {
                most = most.max(linear.scratch_bytes(device, rows));
            }
            Ok(())
        })?;
        Ok(most)
    }
}

impl DecoderWeights {
    /// The formats of the matrices, by their bytes: most first.
    pub fn formats(&mut self) -> Vec<(Format, u64)> {
        let mut formats: Vec<(Format, u64)> = Vec::new();
        let mut add = |matrix: &Matrix| {
            let bytes = matrix.size_in_bytes() as u64;
            match formats.iter_mut().find(|(format, _)| *format == matrix.format()) {
                Some((_, sum)) => *sum += bytes,
                None => formats.push((matrix.format(), bytes)),
            }
        };
        // Nothing fails, since nothing is moved.
        let _ = self.visit(&mut |part| {
            match part {
                Part::Tensor(_) => {}
                Part::Linear(linear) => linear.parts().iter().for_each(|part| add(&part.weight)),
                Part::Experts(experts) => experts.matrices().into_iter().for_each(&mut add),
            }
            Ok(())
        });
        formats.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        formats
    }
}

impl LayerWeights {
    /// Bytes of what one token meets.
    pub(super) fn active_bytes(&mut self) -> usize {
        let chosen = match &self.ffn {
            FfnWeights::Dense(_) => 0,
            FfnWeights::Moe(moe) => moe.spec.num_experts_per_tok,
        };
        let mut bytes = 0;
        // Nothing fails, since nothing is moved.
        let _ = self.visit(&mut |part| {
            bytes += match part {
                Part::Tensor(tensor) => tensor.size_in_bytes(),
                Part::Linear(linear) => linear.size_in_bytes(),
                Part::Experts(experts) => experts.size_in_bytes() / experts.count() * chosen,
            };
            Ok(())
        });
        bytes
    }
}

type Visit<'a> = dyn FnMut(Part<'_>) -> Result<()> + 'a;

/// Something that is made of parts.
pub(super) trait Parts {
    /// Shows every part.
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()>;
}

fn all<const N: usize>(parts: [&mut dyn Parts; N], visit: &mut Visit<'_>) -> Result<()> {
    parts.into_iter().try_for_each(|part| part.visit(visit))
}

impl Parts for Tensor {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        visit(Part::Tensor(self))
    }
}

impl Parts for Linear {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        visit(Part::Linear(self))
    }
}

impl<T: Parts> Parts for Option<T> {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        self.iter_mut().try_for_each(|part| part.visit(visit))
    }
}

impl<T: Parts> Parts for Vec<T> {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        self.iter_mut().try_for_each(|part| part.visit(visit))
    }
}

impl Parts for [Tensor; 2] {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        self.iter_mut().try_for_each(|part| part.visit(visit))
    }
}

impl Parts for DecoderWeights {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        let DecoderWeights { embedding, positions, embedding_norm, layers, final_norm, untied_head } = self;
        all([embedding, positions, embedding_norm, layers, final_norm, untied_head], visit)
    }
}

impl Parts for NormWeights {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        let NormWeights { kind: _, eps: _, weight, bias } = self;
        all([weight, bias], visit)
    }
}

impl Parts for LayerWeights {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        let LayerWeights { mixer_norm, mixer, mixer_post_norm, ffn_norm, ffn, ffn_post_norm } = self;
        all([mixer_norm, mixer, mixer_post_norm, ffn_norm, ffn, ffn_post_norm], visit)
    }
}

impl Parts for MixerWeights {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        match self {
            MixerWeights::Attention(attention) => attention.visit(visit),
            MixerWeights::LatentAttention(attention) => attention.visit(visit),
        }
    }
}

impl Parts for AttentionWeights {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        let AttentionWeights { qkv, qk_norm, sinks, output_gate, o_proj } = self;
        all([qkv, qk_norm, sinks, output_gate, o_proj], visit)
    }
}

impl Parts for QkvWeights {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        match self {
            QkvWeights::Direct(linear) => linear.visit(visit),
            QkvWeights::LowRank { q, kv } => all([&mut **q, kv], visit),
        }
    }
}

impl Parts for LowRankWeights {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        let LowRankWeights { down, norm, up } = self;
        all([down, norm, up], visit)
    }
}

impl Parts for LatentAttentionWeights {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        let LatentAttentionWeights { q, kv_down, kv_norm, w_uk, w_uv, o_proj } = self;
        all([q, kv_down, kv_norm, w_uk, w_uv, o_proj], visit)
    }
}

impl Parts for LatentQueries {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        match self {
            LatentQueries::Direct(linear) => linear.visit(visit),
            LatentQueries::LowRank(narrow) => narrow.visit(visit),
        }
    }
}

impl Parts for FfnWeights {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        match self {
            FfnWeights::Dense(network) => network.visit(visit),
            FfnWeights::Moe(moe) => moe.visit(visit),
        }
    }
}

impl Parts for NetworkWeights {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        let NetworkWeights { activation: _, gate_up, down } = self;
        all([gate_up, down], visit)
    }
}

impl Parts for MoeWeights {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        let MoeWeights { spec: _, router, e_score_correction_bias, expert_scale, experts, shared } = self;
        all([router, e_score_correction_bias, expert_scale, shared], visit)?;
        visit(Part::Experts(experts))
    }
}

impl Parts for SharedWeights {
    fn visit(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        let SharedWeights { network, gate, sum_scale: _ } = self;
        all([network, gate], visit)
    }
}
