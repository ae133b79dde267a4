//! Where the experts' weights lie.

use super::{Experts, StackedExperts, Storage};
use crate::{DType, Device, Result, Shape, Tensor, ops::Linear};

impl Experts {
    /// The same experts where `device` computes; on a GPU all of them together.
    ///
    /// # Errors
    /// When memory is short, or the device failed.
    pub fn to_device(self, device: &Device) -> Result<Experts> {
        let (Device::Cuda(_), Storage::Each(experts)) = (device, &self.storage) else { return Ok(self) };
        let (e, h, i) = (self.count, self.hidden, self.intermediate);
        let gate_up: Vec<&Linear> = experts.iter().map(|expert| &expert.gate_up).collect();
        let down: Vec<&Linear> = experts.iter().map(|expert| &expert.down).collect();
        let bias = |linears, n: usize| match self.biased {
            true => stacked_bias(linears, [e, n])?.to_device(device).map(Some),
            false => Ok(None),
        };
        let stacked = StackedExperts {
            gate_up: stacked_weight(device, &gate_up, [e, 2 * i, h].into())?,
            down: stacked_weight(device, &down, [e, h, i].into())?,
            gate_up_bias: bias(&gate_up, 2 * i)?,
            down_bias: bias(&down, h)?,
        };
        Ok(Experts { storage: Storage::Stacked(Box::new(stacked)), ..self })
    }
}

fn stacked_weight(device: &Device, linears: &[&Linear], shape: Shape) -> Result<Tensor> {
    let parts: Vec<&Tensor> =
        linears.iter().flat_map(|linear| linear.parts()).map(|part| &part.weight).collect();
    Tensor::concatenated(device, shape, &parts)
}

/// f32 `[E, N]` in host memory.
fn stacked_bias(linears: &[&Linear], [e, n]: [usize; 2]) -> Result<Tensor> {
    let mut stacked = Tensor::zeros([e, n], DType::F32)?;
    let rows = stacked.as_mut_slice::<f32>()?.chunks_mut(n.max(1));
    linears.iter().zip(rows).for_each(|(linear, row)| linear.write_biases(row));
    Ok(stacked)
}
