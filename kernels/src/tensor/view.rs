//! Borrowed tensors.

use std::marker::PhantomData;

use super::Shape;
use crate::{DType, Device, Element, KernelError, Result, cuda::CudaPtr};

/// Where the elements of a view lie.
#[derive(Clone, Copy)]
pub(super) enum Data<'a> {
    Host(&'a [u8]),
    Cuda(CudaPtr, PhantomData<&'a [u8]>),
    /// Nowhere: there are none.
    Planned,
}

/// Where the elements of a writable view lie.
pub(super) enum DataMut<'a> {
    Host(&'a mut [u8]),
    Cuda(CudaPtr, PhantomData<&'a mut [u8]>),
}

impl<'a> Data<'a> {
    pub fn cuda(address: CudaPtr) -> Data<'a> {
        Data::Cuda(address, PhantomData)
    }

    /// `bytes` bytes from byte `start` on, which the caller knows to be there.
    fn part(self, start: usize, bytes: usize) -> Data<'a> {
        match self {
            Data::Host(data) => Data::Host(&data[start..start + bytes]),
            Data::Cuda(address, _) => Data::cuda(address.offset(start)),
            Data::Planned => Data::Planned,
        }
    }
}

impl<'a> DataMut<'a> {
    pub fn cuda(address: CudaPtr) -> DataMut<'a> {
        DataMut::Cuda(address, PhantomData)
    }

    fn as_data(&self) -> Data<'_> {
        match self {
            DataMut::Host(data) => Data::Host(data),
            DataMut::Cuda(address, _) => Data::cuda(*address),
        }
    }

    /// The first `bytes` bytes, and the rest.
    fn split(self, bytes: usize) -> (DataMut<'a>, DataMut<'a>) {
        match self {
            DataMut::Host(data) => {
                let (first, rest) = data.split_at_mut(bytes);
                (DataMut::Host(first), DataMut::Host(rest))
            }
            DataMut::Cuda(address, _) => (DataMut::cuda(address), DataMut::cuda(address.offset(bytes))),
        }
    }

    /// As [`Data::part`].
    fn part(self, start: usize, bytes: usize) -> DataMut<'a> {
        match self {
            DataMut::Host(data) => DataMut::Host(&mut data[start..start + bytes]),
            DataMut::Cuda(address, _) => DataMut::cuda(address.offset(start)),
        }
    }
}

fn check_dtype<T: Element>(op: &'static str, found: DType) -> Result<()> {
    if found == T::DTYPE {
        return Ok(());
    }
    Err(KernelError::DType { op, arg: "tensor", found, expected: T::DTYPE })
}

fn check_rows(shape: Shape, start: usize, rows: usize) -> Result<()> {
    let end = start.checked_add(rows);
    if end.is_some_and(|end| end <= shape.dims().first().copied().unwrap_or(0)) {
        return Ok(());
    }
    let reason = format!("rows {start}.. ({rows} of them) of a tensor of shape {shape}");
    Err(KernelError::Argument { op: "slice", reason })
}

/// The elements of a prefix lie within the tensor.
fn check_prefix(shape: Shape, whole: Shape) -> Result<()> {
    let elements = shape.dims().iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
    if elements.is_some_and(|elements| elements <= whole.elements()) {
        return Ok(());
    }
    let reason = format!("{shape} does not fit the {} elements of {whole}", whole.elements());
    Err(KernelError::Argument { op: "prefix", reason })
}

fn in_device_memory(op: &'static str) -> KernelError {
    KernelError::Argument { op, reason: "the tensor lies in device memory".into() }
}

pub(super) fn only_planned(op: &'static str) -> KernelError {
    KernelError::Argument { op, reason: "the tensor is only planned: it has no elements".into() }
}

/// A borrowed tensor, to read.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub(super) data: Data<'a>,
    pub(super) shape: Shape,
    pub(super) dtype: DType,
}

impl<'a> View<'a> {
    /// A view of `data` as a tensor of shape `shape`.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn from_slice<T: Element>(shape: impl Into<Shape>, data: &'a [T]) -> Result<View<'a>> {
        let shape = shape.into();
        if shape.elements() != data.len() {
            let reason = format!("{} elements for shape {shape}", data.len());
            return Err(KernelError::Argument { op: "View::from_slice", reason });
        }
        Ok(View { data: Data::Host(bytemuck::cast_slice(data)), shape, dtype: T::DTYPE })
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

    /// The elements.
    ///
    /// # Errors
    /// When they are not of type `T`, or lie in device memory.
    pub fn as_slice<T: Element>(&self) -> Result<&'a [T]> {
        check_dtype::<T>("as_slice", self.dtype)?;
        match self.data {
            Data::Host(data) => Ok(bytemuck::cast_slice(data)),
            Data::Cuda(..) => Err(in_device_memory("as_slice")),
            Data::Planned => Err(only_planned("as_slice")),
        }
    }

    /// The elements, whose type and place have been checked before.
    pub(crate) fn elements<T: Element>(self) -> &'a [T] {
        debug_assert_eq!(self.dtype, T::DTYPE);
        match self.data {
            Data::Host(data) => bytemuck::cast_slice(data),
            Data::Cuda(..) | Data::Planned => &[],
        }
    }

    /// The address in device memory; `None` in host memory.
    pub(crate) fn cuda_ptr(&self) -> Option<CudaPtr> {
        match self.data {
            Data::Host(_) | Data::Planned => None,
            Data::Cuda(address, _) => Some(address),
        }
    }

    /// A copy of the elements. Waits for `device`, if they lie there.
    ///
    /// # Errors
    /// When they are not of type `T`, lie on another device than `device`, or the device failed.
    pub fn to_vec<T: Element>(&self, device: &Device) -> Result<Vec<T>> {
        match (self.data, device) {
            (Data::Host(_) | Data::Planned, _) => self.as_slice().map(<[T]>::to_vec),
            (Data::Cuda(address, _), Device::Cuda(gpu)) => {
                check_dtype::<T>("to_vec", self.dtype)?;
                let mut elements = vec![T::zeroed(); self.shape.elements()];
                gpu.read(bytemuck::cast_slice_mut(&mut elements), address)?;
                Ok(elements)
            }
            (Data::Cuda(..), Device::Cpu(_)) => Err(in_device_memory("to_vec")),
        }
    }

    /// Entries `start..start + rows` of the outermost dimension.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn slice(self, start: usize, rows: usize) -> Result<View<'a>> {
        check_rows(self.shape, start, rows)?;
        let row_bytes = self.shape.row_elements() * self.dtype.size();
        let data = self.data.part(start * row_bytes, rows * row_bytes);
        Ok(View { data, shape: self.shape.with_rows(rows), dtype: self.dtype })
    }

    /// The first elements as a tensor of another shape.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn prefix(self, shape: impl Into<Shape>) -> Result<View<'a>> {
        let shape = shape.into();
        check_prefix(shape, self.shape)?;
        Ok(View { data: self.data.part(0, shape.elements() * self.dtype.size()), shape, dtype: self.dtype })
    }
}

/// A borrowed tensor, to write.
pub struct ViewMut<'a> {
    pub(super) data: DataMut<'a>,
    pub(super) shape: Shape,
    pub(super) dtype: DType,
}

impl<'a> ViewMut<'a> {
    /// A writable view of `data` as a tensor of shape `shape`.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn from_slice<T: Element>(shape: impl Into<Shape>, data: &'a mut [T]) -> Result<ViewMut<'a>> {
        let shape = shape.into();
        if shape.elements() != data.len() {
            let reason = format!("{} elements for shape {shape}", data.len());
            return Err(KernelError::Argument { op: "ViewMut::from_slice", reason });
        }
        Ok(ViewMut { data: DataMut::Host(bytemuck::cast_slice_mut(data)), shape, dtype: T::DTYPE })
    }

    /// The dimensions.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The same tensor, to read.
    pub fn as_view(&self) -> View<'_> {
        View { data: self.data.as_data(), shape: self.shape, dtype: self.dtype }
    }

    /// The same tensor for a shorter time, so that it can be lent again.
    pub fn reborrow(&mut self) -> ViewMut<'_> {
        let data = match &mut self.data {
            DataMut::Host(data) => DataMut::Host(data),
            DataMut::Cuda(address, _) => DataMut::cuda(*address),
        };
        ViewMut { data, shape: self.shape, dtype: self.dtype }
    }

    /// The elements.
    ///
    /// # Errors
    /// When they are not of type `T`, or lie in device memory.
    pub fn into_mut_slice<T: Element>(self) -> Result<&'a mut [T]> {
        check_dtype::<T>("as_slice", self.dtype)?;
        match self.data {
            DataMut::Host(data) => Ok(bytemuck::cast_slice_mut(data)),
            DataMut::Cuda(..) => Err(in_device_memory("as_slice")),
        }
    }

    /// Copies `from` into the first elements. Returns at once where they lie on a GPU: the copy takes its turn there.
    ///
    /// # Errors
    /// When there are fewer elements, they are not of type `T`, lie on another device than `device`, or that failed.
    pub fn copy_from<T: Element>(&mut self, device: &Device, from: &[T]) -> Result<()> {
        check_dtype::<T>("copy_from", self.dtype)?;
        check_prefix(Shape::new([from.len()]), self.shape)?;
        let from: &[u8] = bytemuck::cast_slice(from);
        match (&mut self.data, device) {
            (DataMut::Host(data), _) => {
                data[..from.len()].copy_from_slice(from);
                Ok(())
            }
            (DataMut::Cuda(address, _), Device::Cuda(gpu)) => gpu.write(*address, from),
            (DataMut::Cuda(..), Device::Cpu(_)) => Err(in_device_memory("copy_from")),
        }
    }

    /// Entries `0..rows` of the outermost dimension.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn into_rows(self, rows: usize) -> Result<ViewMut<'a>> {
        self.into_slice(0, rows)
    }

    /// Entries `start..start + rows` of the outermost dimension.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn into_slice(self, start: usize, rows: usize) -> Result<ViewMut<'a>> {
        check_rows(self.shape, start, rows)?;
        let row_bytes = self.shape.row_elements() * self.dtype.size();
        let data = self.data.part(start * row_bytes, rows * row_bytes);
        Ok(ViewMut { data, shape: self.shape.with_rows(rows), dtype: self.dtype })
    }

    /// Entries `0..rows` of the outermost dimension, and those behind them.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn split(self, rows: usize) -> Result<(ViewMut<'a>, ViewMut<'a>)> {
        check_rows(self.shape, 0, rows)?;
        let rest = self.shape.dims().first().map_or(0, |all| all - rows);
        let (first, second) = self.data.split(rows * self.shape.row_elements() * self.dtype.size());
        let part = |data, rows| ViewMut { data, shape: self.shape.with_rows(rows), dtype: self.dtype };
        Ok((part(first, rows), part(second, rest)))
    }

    /// The first elements as a tensor of another shape.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn into_prefix(self, shape: impl Into<Shape>) -> Result<ViewMut<'a>> {
        let shape = shape.into();
        check_prefix(shape, self.shape)?;
        let bytes = shape.elements() * self.dtype.size();
        Ok(ViewMut { data: self.data.part(0, bytes), shape, dtype: self.dtype })
    }
}
