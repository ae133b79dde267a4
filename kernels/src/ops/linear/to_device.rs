//! Where a layer's weights lie.

use super::{Linear, LinearPart};
use crate::{Allocator, DType, Device, Matrix, Result, Tensor};

impl Linear {
    /// The same layer where `device` computes: see [`Linear::move_to`].
    ///
    /// # Errors
    /// When memory is short, the device failed, or the weights lie on a GPU already.
    pub fn to_device(mut self, device: &Device) -> Result<Linear> {
        self.move_to(&Allocator::new(device))?;
        Ok(self)
    }

    /// Goes where the memory of `to` is. On a GPU it becomes one part: a weight `[N, K]` of all rows, one part after
    /// another, and if any part has a bias, one f32 bias `[N]` with zeros where a part has none.
    ///
    /// # Errors
    /// When memory is short, the device failed, or the weights lie on a GPU already.
    pub fn move_to(&mut self, to: &Allocator<'_>) -> Result<()> {
        if let Device::Cpu(_) = to.device() {
            to.add(self.size_in_bytes() as u64);
            return Ok(());
        }
        let weights: Vec<&Matrix> = self.parts.iter().map(|part| &part.weight).collect();
        let shape = [self.out_features, self.in_features].into();
        let weight = Matrix::concatenated(to, shape, &weights)?;
        let biased = self.parts.iter().any(|part| part.bias.is_some());
        let bias = || to.filled([self.out_features], DType::F32, || self.whole_bias());
        let bias = biased.then(bias).transpose()?;
        self.parts = vec![LinearPart { weight, bias }];
        Ok(())
    }

    /// f32 `[N]`, in host memory.
    fn whole_bias(&self) -> Result<Tensor> {
        let mut whole = Tensor::zeros([self.out_features], DType::F32)?;
        self.write_biases(whole.as_mut_slice()?);
        Ok(whole)
    }

    /// The biases of all parts, which lie in host memory; `out` keeps what it has where a part has none.
    pub(in crate::ops) fn write_biases(&self, out: &mut [f32]) {
        let mut rest = out;
        for part in &self.parts {
            let (of_part, after) = rest.split_at_mut(part.out_features());
            if let Some(bias) = part.bias() {
                (0..).zip(of_part).for_each(|(i, out)| *out = bias.get(i));
            }
            rest = after;
        }
    }
}
