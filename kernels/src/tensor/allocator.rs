//! Where tensors are made: in a device's memory or, for a plan, nowhere.

use std::cell::Cell;

use super::{Shape, Tensor, checked_bytes};
use crate::{CudaDevice, DType, Device, Result};

/// Makes the tensors of something large and counts what they take. What is made while planning has no elements, so that
/// the same code first tells how much memory it wants and then takes as much.
pub struct Allocator<'a> {
    device: &'a Device,
    planning: bool,
    bytes: Cell<u64>,
}

impl<'a> Allocator<'a> {
    /// Takes memory of `device`.
    pub fn new(device: &'a Device) -> Allocator<'a> {
        Allocator { device, planning: false, bytes: Cell::new(0) }
    }

    /// Takes none: tells what `device` would have to give.
    pub fn planning(device: &'a Device) -> Allocator<'a> {
        Allocator { planning: true, ..Allocator::new(device) }
    }

    /// The device whose memory it is.
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// Bytes of everything made so far, as the device rounds them.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// A writable tensor of zeros.
    ///
    /// # Errors
    /// When its size overflows, memory is short, or the device failed.
    pub fn zeros(&self, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        let shape = self.count(shape.into(), dtype)?;
        if self.planning {
            Tensor::planned(shape, dtype)
        } else {
            Tensor::zeros_on(self.device, shape, dtype)
        }
    }

    /// The tensor of this shape and type that `make` makes in host memory.
    ///
    /// # Errors
    /// As [`Allocator::zeros`], and those of `make`.
    pub fn filled(
        &self,
        shape: impl Into<Shape>,
        dtype: DType,
        make: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        let shape = self.count(shape.into(), dtype)?;
        if self.planning { Tensor::planned(shape, dtype) } else { make()?.to_device(self.device) }
    }

    /// `n` numbers in host memory, which count where that is the device's.
    pub fn host_words(&self, n: usize) -> Vec<u32> {
        if let Device::Cpu(_) = self.device {
            self.add((size_of::<u32>() * n) as u64);
        }
        if self.planning { Vec::new() } else { vec![0; n] }
    }

    /// On a GPU, the elements of host tensors of one type, one after another, as a tensor of shape `shape`.
    pub(crate) fn concatenated(&self, shape: Shape, parts: &[&Tensor]) -> Result<Tensor> {
        let dtype = parts.first().map_or(DType::F32, |part| part.dtype());
        let shape = self.count(shape, dtype)?;
        match self.planning {
            true => Tensor::planned(shape, dtype),
            false => Tensor::concatenated(self.device, shape, parts),
        }
    }

    /// Counts what stays in host memory, on the processor.
    pub(crate) fn add(&self, bytes: u64) {
        self.bytes.set(self.bytes.get().saturating_add(bytes));
    }

    fn count(&self, shape: Shape, dtype: DType) -> Result<Shape> {
        let bytes = checked_bytes(shape, dtype)?;
        self.add(match self.device {
            Device::Cpu(_) => bytes,
            Device::Cuda(_) => CudaDevice::rounded(bytes),
        } as u64);
        Ok(shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::cuda;

    #[test]
    fn a_plan_takes_nothing_and_counts_what_the_device_rounds() {
        let cpu = Device::cpu(None);
        let plan = Allocator::planning(&cpu);
        // More than any machine has.
        let tensor = plan.zeros([1 << 20, 1 << 24], DType::F32).unwrap();
        plan.filled([5], DType::F32, || panic!("nothing is filled")).unwrap();
        assert_eq!((plan.bytes(), plan.host_words(7).len()), ((1 << 46) + 20, 0));
        assert_eq!(plan.bytes(), (1 << 46) + 48);
        assert!(tensor.is_planned() && tensor.size_in_bytes() == 1 << 46);
        assert!(tensor.as_slice::<f32>().unwrap_err().to_string().contains("planned"));
        assert!(plan.zeros([usize::MAX, 2], DType::F32).is_err());
        let real = Allocator::new(&cpu);
        assert_eq!(real.zeros([3], DType::F32).unwrap().as_slice::<f32>().unwrap(), [0.0; 3]);
        assert_eq!((real.host_words(2), real.bytes()), (vec![0; 2], 20));
        if let Some(gpu) = cuda() {
            let plan = Allocator::planning(&gpu);
            Tensor::planned([65], DType::F32).unwrap().move_to(&plan).unwrap();
            assert_eq!((plan.host_words(9).len(), plan.bytes()), (0, 512));
        }
    }
}
