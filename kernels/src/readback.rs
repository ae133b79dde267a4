//! Results on their way to the host while the device goes on.

use crate::{DType, Device, KernelError, Result, View, cuda::CudaReadback};

/// Tensors of u32 on their way to the host. On the processor they are there at once.
pub struct Readback(Way);

enum Way {
    Host(Vec<u32>),
    Cuda(CudaReadback),
}

impl Readback {
    /// Nothing is on its way.
    ///
    /// # Errors
    /// When memory is short, or the device failed.
    pub fn new(device: &Device) -> Result<Readback> {
        Ok(Readback(match device {
            Device::Cpu(_) => Way::Host(Vec::new()),
            Device::Cuda(gpu) => Way::Cuda(CudaReadback::new(gpu)?),
        }))
    }

    /// Starts to copy a u32 tensor as it will be after all that was launched before. It may change once this returns.
    ///
    /// # Errors
    /// When it is of another type or elsewhere, or the device failed.
    pub fn start(&mut self, tensor: View<'_>) -> Result<()> {
        if tensor.dtype() != DType::U32 {
            return Err(KernelError::DType {
                op: "readback",
                arg: "tensor",
                found: tensor.dtype(),
                expected: DType::U32,
            });
        }
        match (&mut self.0, tensor.cuda_ptr()) {
            (Way::Host(words), None) => {
                words.extend_from_slice(tensor.as_slice()?);
                Ok(())
            }
            (Way::Cuda(readback), Some(address)) => readback.start(address, tensor.size_in_bytes()),
            _ => Err(KernelError::Argument {
                op: "readback",
                reason: "the tensor lies on another device".into(),
            }),
        }
    }

    /// Waits for what is on its way, and hands it to `read`: all words, in the order of their starts.
    ///
    /// # Errors
    /// When the device failed.
    pub fn finish<T>(&mut self, read: impl FnOnce(&[u32]) -> T) -> Result<T> {
        match &mut self.0 {
            Way::Host(words) => {
                let result = read(words);
                words.clear();
                Ok(result)
            }
            Way::Cuda(readback) => readback.finish().map(read),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tensor, ops::testing::*};

    #[test]
    fn words_arrive_as_they_were_when_their_copy_was_started() {
        for device in every_device() {
            let (mut first, mut second) = (Readback::new(&device).unwrap(), Readback::new(&device).unwrap());
            // The first two fit the buffer, the third makes it grow.
            let sizes = [10, 900, 5000];
            let mut tensor = Tensor::zeros_on(&device, [5000], DType::U32).unwrap();
            let mut expected = Vec::new();
            for (round, size) in (1..).zip(sizes) {
                let words: Vec<u32> = (0..size).map(|i| round * 10_000 + i).collect();
                tensor.copy_from(&device, &words).unwrap();
                first.start(tensor.rows(size as usize).unwrap()).unwrap();
                expected.extend(words);
            }
            tensor.copy_from(&device, &[7u32]).unwrap();
            second.start(tensor.rows(1).unwrap()).unwrap();
            tensor.copy_from(&device, &[8u32]).unwrap();
            assert_eq!(first.finish(<[u32]>::to_vec).unwrap(), expected);
            assert_eq!(second.finish(<[u32]>::to_vec).unwrap(), [7]);
            assert_eq!(second.finish(<[u32]>::to_vec).unwrap(), []);
            let floats = upload(&device, [1], &[1.0f32]);
            assert!(second.start(floats.view()).unwrap_err().to_string().contains("readback"));
        }
    }
}
