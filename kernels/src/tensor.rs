//! Tensors: a buffer, a shape and an element type. Always contiguous, row-major.

use std::{fmt, sync::Arc};

#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::{Mmap, MmapMut};

use crate::{DType, Device, Element, KernelError, Result, cuda::CudaBuffer};

mod allocator;
mod shape;
mod view;

pub use allocator::Allocator;
pub use shape::Shape;
use view::{Data, DataMut};
pub use view::{View, ViewMut};

/// Read-only bytes that tensors can share: a mapped file, or data embedded in the program.
#[derive(Clone, Debug)]
pub enum Bytes {
    /// A memory-mapped file.
    Mapped(Arc<Mmap>),
    /// Bytes that live as long as the program.
    Static(&'static [u8]),
}

impl Bytes {
    /// All of them.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
        }
    }
}

/// Buffers from this size on ask for large pages.
#[cfg(target_os = "linux")]
const LARGE_PAGE: usize = 2 << 20;

enum Storage {
    /// Bytes `offset..` of something shared and read-only.
    Shared { bytes: Bytes, offset: usize },
    /// Zero pages of our own, which take memory once they are written.
    Owned(MmapMut),
    /// Device memory of our own.
    Cuda(CudaBuffer),
    /// None: see [`Tensor::planned`].
    Planned,
}

/// A tensor: contiguous, row-major. Weights share their file's bytes or lie on a GPU; workspace and caches own theirs.
pub struct Tensor {
    storage: Storage,
    shape: Shape,
    dtype: DType,
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {})", self.dtype, self.shape)
    }
}

impl Tensor {
    /// A writable tensor of zeros in host memory, aligned to pages. Memory is taken as it is written, in large pages
    /// where the system has them.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`] when the size overflows or the system refuses.
    pub fn zeros(shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        let shape = shape.into();
        let bytes = checked_bytes(shape, dtype)?;
        let buffer = MmapMut::map_anon(bytes.max(1)).map_err(|_| refused(bytes))?;
        #[cfg(target_os = "linux")]
        if bytes >= LARGE_PAGE {
            // A hint: small pages do as well, only slower.
            let _ = buffer.advise(Advice::HugePage);
        }
        Ok(Tensor { storage: Storage::Owned(buffer), shape, dtype })
    }

    /// A writable tensor of zeros in the memory of `device`.
    ///
    /// # Errors
    /// When memory is short, or the device failed.
    pub fn zeros_on(device: &Device, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        let shape = shape.into();
        match device {
            Device::Cpu(_) => Tensor::zeros(shape, dtype),
            Device::Cuda(gpu) => {
                let tensor = Tensor::uninitialized(device, shape, dtype)?;
                if let Some(address) = tensor.view().cuda_ptr() {
                    gpu.zero(address, tensor.size_in_bytes())?;
                }
                Ok(tensor)
            }
        }
    }

    /// A tensor that something else fills: of zeros on the processor, of anything on a GPU.
    pub(crate) fn uninitialized(device: &Device, shape: Shape, dtype: DType) -> Result<Tensor> {
        let Device::Cuda(gpu) = device else { return Tensor::zeros(shape, dtype) };
        let buffer = CudaBuffer::new(gpu, checked_bytes(shape, dtype)?)?;
        Ok(Tensor { storage: Storage::Cuda(buffer), shape, dtype })
    }

    /// A tensor without elements, for plans: only its shape and type mean anything.
    ///
    /// # Errors
    /// When its size overflows.
    pub fn planned(shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        let shape = shape.into();
        checked_bytes(shape, dtype)?;
        Ok(Tensor { storage: Storage::Planned, shape, dtype })
    }

    /// It has no elements.
    pub fn is_planned(&self) -> bool {
        matches!(self.storage, Storage::Planned)
    }

    /// A writable tensor that holds a copy of `data`, in host memory.
    ///
    /// # Errors
    /// When `data` does not have as many elements as `shape`, or memory is short.
    pub fn from_slice<T: Element>(shape: impl Into<Shape>, data: &[T]) -> Result<Tensor> {
        let mut tensor = Tensor::zeros(shape, T::DTYPE)?;
        if tensor.shape.elements() != data.len() {
            let reason = format!("{} elements for shape {}", data.len(), tensor.shape);
            return Err(KernelError::Argument { op: "Tensor::from_slice", reason });
        }
        tensor.as_mut_slice::<T>()?.copy_from_slice(data);
        Ok(tensor)
    }

    /// A read-only tensor over `bytes[offset..]`, without a copy.
    ///
    /// # Errors
    /// When the range lies outside `bytes`, or does not start at a multiple of the element size.
    pub fn from_bytes(bytes: Bytes, offset: usize, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        let shape = shape.into();
        let argument = |reason| KernelError::Argument { op: "Tensor::from_bytes", reason };
        let data = shape
            .checked_bytes(dtype)
            .and_then(|size| offset.checked_add(size))
            .and_then(|end| bytes.as_slice().get(offset..end))
            .ok_or_else(|| argument(format!("{shape} {dtype} at {offset} is out of bounds")))?;
        if !(data.as_ptr() as usize).is_multiple_of(dtype.size()) {
            return Err(argument(format!("{dtype} at byte {offset} is not aligned")));
        }
        Ok(Tensor { storage: Storage::Shared { bytes, offset }, shape, dtype })
    }

    /// The same elements where `device` computes: on a GPU a copy in its memory, on the processor the tensor itself.
    ///
    /// # Errors
    /// When memory is short, the device failed, or the tensor lies on a GPU already.
    pub fn to_device(self, device: &Device) -> Result<Tensor> {
        match device {
            Device::Cpu(_) => Ok(self),
            Device::Cuda(_) => Tensor::concatenated(device, self.shape, &[&self]),
        }
    }

    /// Goes from host memory to where the memory of `to` is; on the processor it stays as it is.
    ///
    /// # Errors
    /// As [`Tensor::to_device`].
    pub fn move_to(&mut self, to: &Allocator<'_>) -> Result<()> {
        match to.device() {
            Device::Cpu(_) => to.add(self.size_in_bytes() as u64),
            Device::Cuda(_) => *self = to.concatenated(self.shape, &[self])?,
        }
        Ok(())
    }

    /// On a GPU, a tensor of shape `shape` that holds the elements of host tensors of one type, one after another.
    pub(crate) fn concatenated(device: &Device, shape: Shape, parts: &[&Tensor]) -> Result<Tensor> {
        let argument = |reason: &str| KernelError::Argument { op: "to_device", reason: reason.into() };
        let Device::Cuda(gpu) = device else { return Err(argument("the device is not a GPU")) };
        let dtype = parts.first().ok_or_else(|| argument("no tensor"))?.dtype;
        let target = Tensor::uninitialized(device, shape, dtype)?;
        let mut to = target.view().cuda_ptr().ok_or_else(|| argument("the target lies in host memory"))?;
        let mut left = target.size_in_bytes();
        for part in parts {
            let bytes = part.host_bytes().ok_or_else(|| argument("a tensor does not lie in host memory"))?;
            left = left.checked_sub(bytes.len()).ok_or_else(|| argument("the parts are too large"))?;
            gpu.write(to, bytes)?;
            to = to.offset(bytes.len());
        }
        if left > 0 || parts.iter().any(|part| part.dtype != dtype) {
            return Err(argument("the parts do not make up the whole"));
        }
        Ok(target)
    }

    /// The dimensions.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Size of the data in bytes.
    pub fn size_in_bytes(&self) -> usize {
        self.shape.elements() * self.dtype.size()
    }

    /// The bytes; `None` where none lie in host memory.
    fn host_bytes(&self) -> Option<&[u8]> {
        let bytes = match &self.storage {
            Storage::Shared { bytes, offset } => &bytes.as_slice()[*offset..],
            Storage::Owned(buffer) => buffer,
            Storage::Cuda(_) | Storage::Planned => return None,
        };
        Some(&bytes[..self.size_in_bytes()])
    }

    /// The whole tensor, to read.
    pub fn view(&self) -> View<'_> {
        let data = match &self.storage {
            Storage::Cuda(buffer) => Data::cuda(buffer.address()),
            Storage::Planned => Data::Planned,
            _ => Data::Host(self.host_bytes().unwrap_or_default()),
        };
        View { data, shape: self.shape, dtype: self.dtype }
    }

    /// The whole tensor, to write.
    ///
    /// # Errors
    /// When the tensor shares read-only bytes.
    pub fn view_mut(&mut self) -> Result<ViewMut<'_>> {
        let size = self.size_in_bytes();
        let data = match &mut self.storage {
            Storage::Owned(buffer) => DataMut::Host(&mut buffer[..size]),
            Storage::Cuda(buffer) => DataMut::cuda(buffer.address()),
            Storage::Shared { .. } => {
                return Err(KernelError::Argument {
                    op: "Tensor::view_mut",
                    reason: "the tensor lies in read-only memory".into(),
                });
            }
            Storage::Planned => return Err(view::only_planned("Tensor::view_mut")),
        };
        Ok(ViewMut { data, shape: self.shape, dtype: self.dtype })
    }

    /// Entries `0..rows` of the outermost dimension, to read.
    pub fn rows(&self, rows: usize) -> Result<View<'_>> {
        self.view().slice(0, rows)
    }

    /// Entries `0..rows` of the outermost dimension, to write.
    pub fn rows_mut(&mut self, rows: usize) -> Result<ViewMut<'_>> {
        self.view_mut()?.into_rows(rows)
    }

    /// The elements, to read.
    ///
    /// # Errors
    /// When they are not of type `T`, or lie in device memory.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        self.view().as_slice()
    }

    /// The elements, to write.
    ///
    /// # Errors
    /// When they are not of type `T`, are read-only, or lie in device memory.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        self.view_mut()?.into_mut_slice()
    }

    /// As [`ViewMut::copy_from`].
    ///
    /// # Errors
    /// As there, and when the tensor shares read-only bytes.
    pub fn copy_from<T: Element>(&mut self, device: &Device, from: &[T]) -> Result<()> {
        self.view_mut()?.copy_from(device, from)
    }

    /// As [`View::to_vec`].
    ///
    /// # Errors
    /// As there.
    pub fn to_vec<T: Element>(&self, device: &Device) -> Result<Vec<T>> {
        self.view().to_vec(device)
    }
}

fn refused(bytes: usize) -> KernelError {
    KernelError::OutOfMemory { bytes, device: "cpu".into() }
}

fn checked_bytes(shape: Shape, dtype: DType) -> Result<usize> {
    shape.checked_bytes(dtype).ok_or_else(|| refused(usize::MAX))
}

#[cfg(test)]
mod tests;
