//! Where the experts' weights lie.

use super::{Experts, StackedExperts, Storage};
use crate::{Allocator, DType, Device, Matrix, Result, Tensor, ops::Linear};

impl Experts {
    /// The same experts where `device` computes: see [`Experts::move_to`].
    ///
    /// # Errors
    /// When memory is short, or the device failed.
    pub fn to_device(mut self, device: &Device) -> Result<Experts> {
        self.move_to(&Allocator::new(device))?;
        Ok(self)
    }

    /// They go where the memory of `to` is; on a GPU all of them together.
    ///
    /// # Errors
    /// When memory is short, or the device failed.
    pub fn move_to(&mut self, to: &Allocator<'_>) -> Result<()> {
        let (Device::Cuda(_), Storage::Each(experts)) = (to.device(), &self.storage) else {
            to.add(self.size_in_bytes() as u64);
            return Ok(());
        };
        let (e, h, i) = (self.count, self.hidden, self.intermediate);
        let gate_up: Vec<&Linear> = experts.iter().map(|expert| &expert.gate_up).collect();
        let down: Vec<&Linear> = experts.iter().map(|expert| &expert.down).collect();
        let bias = |linears, n: usize| {
            let bias = || to.filled([e, n], DType::F32, || stacked_bias(linears, [e, n]));
            self.biased.then(bias).transpose()
        };
        // Gate and up share their tiles with down: all are for the tensor cores, or none.
        let aligned = h.is_multiple_of(8) && i.is_multiple_of(8);
        let stacked = |shape: [usize; 3], parts: &[&Matrix]| match aligned {
            true => Matrix::concatenated(to, shape.into(), parts),
            false => Matrix::concatenated_floats(to, shape.into(), parts),
        };
        let stacked = StackedExperts {
            gate_up: stacked([e, 2 * i, h], &weights(&gate_up))?,
            down: stacked([e, h, i], &weights(&down))?,
            gate_up_bias: bias(&gate_up, 2 * i)?,
            down_bias: bias(&down, h)?,
        };
        self.storage = Storage::Stacked(Box::new(stacked));
        Ok(())
    }
}

fn weights<'a>(linears: &[&'a Linear]) -> Vec<&'a Matrix> {
    linears.iter().flat_map(|linear| linear.parts()).map(|part| &part.weight).collect()
}

/// f32 `[E, N]` in host memory.
fn stacked_bias(linears: &[&Linear], [e, n]: [usize; 2]) -> Result<Tensor> {
    let mut stacked = Tensor::zeros([e, n], DType::F32)?;
    let rows = stacked.as_mut_slice::<f32>()?.chunks_mut(n.max(1));
    linears.iter().zip(rows).for_each(|(linear, row)| linear.write_biases(row));
    Ok(stacked)
}
