//! Where a layer's weights lie.

use super::{Linear, LinearPart};
use crate::{DType, Device, Result, Tensor};

impl Linear {
    /// The same layer where `device` computes. On a GPU it becomes one part: a weight `[N, K]` of all rows, one part
    /// after another, and if any part has a bias, one f32 bias `[N]` with zeros where a part has none.
    ///
    /// # Errors
    /// When memory is short, the device failed, or the weights lie on a GPU already.
    pub fn to_device(self, device: &Device) -> Result<Linear> {
        if let Device::Cpu(_) = device {
            return Ok(self);
        }
        let weights: Vec<&Tensor> = self.parts.iter().map(|part| &part.weight).collect();
        let shape = [self.out_features, self.in_features].into();
        let weight = Tensor::concatenated(device, shape, &weights)?;
        let bias = self.whole_bias()?.map(|bias| bias.to_device(device)).transpose()?;
        Ok(Linear { parts: vec![LinearPart { weight, bias }], ..self })
    }

    /// f32 `[N]`, in host memory; `None` when no part has a bias.
    fn whole_bias(&self) -> Result<Option<Tensor>> {
        if self.parts.iter().all(|part| part.bias.is_none()) {
            return Ok(None);
        }
        let mut whole = Tensor::zeros([self.out_features], DType::F32)?;
        self.write_biases(whole.as_mut_slice()?);
        Ok(Some(whole))
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
