//! Shapes.

use std::fmt;

use crate::DType;

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

    pub(super) fn with_rows(mut self, rows: usize) -> Shape {
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
