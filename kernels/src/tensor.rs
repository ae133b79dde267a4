//! Tensors: a buffer, a shape and an element type. Always contiguous, row-major.

use std::{fmt, sync::Arc};

#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::{Mmap, MmapMut};

use crate::{DType, Element, KernelError, Result};

/// Up to four dimensions, outermost first.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; 4],
    rank: usize,
}

impl Shape {
    /// A shape of `N <= 4` dimensions.
    pub const fn new<const N: usize>(dims: [usize; N]) -> Shape {
        assert!(N <= 4, "a tensor has at most four dimensions");
        let mut all = [1; 4];
        let mut i = 0;
        while i < N {
            all[i] = dims[i];
            i += 1;
        }
        Shape { dims: all, rank: N }
    }

    /// The dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.dims().iter().product()
    }

    /// Number of bytes when the elements are of type `dtype`; `None` if that overflows.
    pub fn checked_bytes(&self, dtype: DType) -> Option<usize> {
        self.dims().iter().try_fold(dtype.size(), |product, &dim| product.checked_mul(dim))
    }

    /// Elements of one entry of the outermost dimension.
    pub fn row_elements(&self) -> usize {
        self.dims().iter().skip(1).product()
    }

    fn with_rows(mut self, rows: usize) -> Shape {
        self.dims[0] = rows;
        self
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Shape {
        Shape::new(dims)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

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
}

/// A tensor: contiguous, row-major. Weights share their file's bytes; workspace and caches own theirs.
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
        let refused = |bytes| KernelError::OutOfMemory { bytes, device: "cpu".into() };
        let bytes = shape.checked_bytes(dtype).ok_or_else(|| refused(usize::MAX))?;
        let buffer = MmapMut::map_anon(bytes.max(1)).map_err(|_| refused(bytes))?;
        #[cfg(target_os = "linux")]
        if bytes >= LARGE_PAGE {
            // A hint: small pages do as well, only slower.
            let _ = buffer.advise(Advice::HugePage);
        }
        Ok(Tensor { storage: Storage::Owned(buffer), shape, dtype })
    }

    /// A writable tensor that holds a copy of `data`.
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

    /// The whole tensor, to read.
    pub fn view(&self) -> View<'_> {
        let data = match &self.storage {
            Storage::Shared { bytes, offset } => &bytes.as_slice()[*offset..],
            Storage::Owned(buffer) => buffer,
        };
        View { data: &data[..self.size_in_bytes()], shape: self.shape, dtype: self.dtype }
    }

    /// The whole tensor, to write.
    ///
    /// # Errors
    /// When the tensor shares read-only bytes.
    pub fn view_mut(&mut self) -> Result<ViewMut<'_>> {
        let size = self.size_in_bytes();
        match &mut self.storage {
            Storage::Shared { .. } => Err(KernelError::Argument {
                op: "Tensor::view_mut",
                reason: "the tensor lies in read-only memory".into(),
            }),
            Storage::Owned(buffer) => {
                Ok(ViewMut { data: &mut buffer[..size], shape: self.shape, dtype: self.dtype })
            }
        }
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
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        self.view().as_slice()
    }

    /// The elements, to write.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        self.view_mut()?.into_mut_slice()
    }
}

fn check_dtype<T: Element>(found: DType) -> Result<()> {
    if found == T::DTYPE {
        return Ok(());
    }
    Err(KernelError::DType { op: "as_slice", arg: "tensor", found, expected: T::DTYPE })
}

fn check_rows(shape: Shape, start: usize, rows: usize) -> Result<()> {
    let end = start.checked_add(rows);
    if end.is_some_and(|end| end <= shape.dims().first().copied().unwrap_or(0)) {
        return Ok(());
    }
    let reason = format!("rows {start}.. ({rows} of them) of a tensor of shape {shape}");
    Err(KernelError::Argument { op: "slice", reason })
}

/// A borrowed tensor, to read.
#[derive(Clone, Copy)]
pub struct View<'a> {
    data: &'a [u8],
    shape: Shape,
    dtype: DType,
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
        Ok(View { data: bytemuck::cast_slice(data), shape, dtype: T::DTYPE })
    }

    /// The dimensions.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The elements.
    ///
    /// # Errors
    /// When they are not of type `T`.
    pub fn as_slice<T: Element>(&self) -> Result<&'a [T]> {
        check_dtype::<T>(self.dtype)?;
        Ok(bytemuck::cast_slice(self.data))
    }

    /// The elements, whose type has been checked before.
    pub(crate) fn elements<T: Element>(self) -> &'a [T] {
        debug_assert_eq!(self.dtype, T::DTYPE);
        bytemuck::cast_slice(self.data)
    }

    /// Entries `start..start + rows` of the outermost dimension.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn slice(self, start: usize, rows: usize) -> Result<View<'a>> {
        check_rows(self.shape, start, rows)?;
        let row_bytes = self.shape.row_elements() * self.dtype.size();
        let data = &self.data[start * row_bytes..(start + rows) * row_bytes];
        Ok(View { data, shape: self.shape.with_rows(rows), dtype: self.dtype })
    }
}

/// A borrowed tensor, to write.
pub struct ViewMut<'a> {
    data: &'a mut [u8],
    shape: Shape,
    dtype: DType,
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
        Ok(ViewMut { data: bytemuck::cast_slice_mut(data), shape, dtype: T::DTYPE })
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
        View { data: self.data, shape: self.shape, dtype: self.dtype }
    }

    /// The same tensor for a shorter time, so that it can be lent again.
    pub fn reborrow(&mut self) -> ViewMut<'_> {
        ViewMut { data: self.data, shape: self.shape, dtype: self.dtype }
    }

    /// The elements.
    ///
    /// # Errors
    /// When they are not of type `T`.
    pub fn into_mut_slice<T: Element>(self) -> Result<&'a mut [T]> {
        check_dtype::<T>(self.dtype)?;
        Ok(bytemuck::cast_slice_mut(self.data))
    }

    /// Entries `0..rows` of the outermost dimension.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn into_rows(self, rows: usize) -> Result<ViewMut<'a>> {
        check_rows(self.shape, 0, rows)?;
        let bytes = rows * self.shape.row_elements() * self.dtype.size();
        Ok(ViewMut { data: &mut self.data[..bytes], shape: self.shape.with_rows(rows), dtype: self.dtype })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_zero_and_refuse_what_cannot_be_had() {
        let mut tensor = Tensor::zeros([3, 1000, 1000], DType::F32).unwrap();
        assert!(tensor.as_slice::<f32>().unwrap().iter().all(|&x| x == 0.0));
        tensor.as_mut_slice::<f32>().unwrap().fill(1.0);
        assert_eq!(tensor.rows(1).unwrap().as_slice::<f32>().unwrap().len(), 1_000_000);
        assert!(Tensor::zeros([0, 7], DType::BF16).unwrap().as_slice::<half::bf16>().unwrap().is_empty());
        for shape in [[usize::MAX, 2], [1 << 31, 1 << 31]] {
            let error = Tensor::zeros(shape, DType::F32).unwrap_err();
            assert!(matches!(error, KernelError::OutOfMemory { .. }), "{error}");
        }
    }

    #[test]
    fn shared_bytes_are_checked_and_read_only() {
        static BYTES: [u32; 4] = [1, 2, 3, 4];
        let bytes = Bytes::Static(bytemuck::cast_slice(&BYTES));
        let tensor = |offset, n| Tensor::from_bytes(bytes.clone(), offset, [n], DType::U32);
        assert_eq!(tensor(4, 3).unwrap().as_slice::<u32>().unwrap(), [2, 3, 4]);
        assert!(tensor(8, 3).is_err());
        assert!(tensor(usize::MAX, 1).is_err());
        assert!(tensor(0, usize::MAX).is_err());
        assert!(tensor(2, 1).is_err(), "not aligned");
        assert!(tensor(0, 4).unwrap().view_mut().is_err());
        assert!(tensor(0, 4).unwrap().as_slice::<f32>().is_err());
    }

    #[test]
    fn views_check_their_shape_and_rows() {
        let data = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
        let view = View::from_slice([3, 2], &data).unwrap();
        assert_eq!(view.slice(1, 2).unwrap().as_slice::<f32>().unwrap(), [3.0, 4.0, 5.0, 6.0]);
        assert!(view.slice(2, 2).is_err());
        assert!(view.slice(usize::MAX, 2).is_err());
        assert!(View::from_slice([4, 2], &data).is_err());
        let mut data = data;
        let view = ViewMut::from_slice([3, 2], &mut data).unwrap();
        view.into_rows(1).unwrap().into_mut_slice::<f32>().unwrap().fill(0.0);
        assert_eq!(data, [0.0, 0.0, 3.0, 4.0, 5.0, 6.0]);
    }
}
