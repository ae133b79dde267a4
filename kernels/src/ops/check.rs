//! Checks of arguments, and how much of a small op is worth a task.

use crate::{DType, KernelError, Result, Shape, View, ViewMut};

/// Elements that one thread handles in about the time that waking another takes.
pub(super) const TASK_ELEMENTS: usize = 16 * 1024;

/// Rows of `row_elements` that make a task.
pub(super) fn rows_per_task(row_elements: usize) -> usize {
    TASK_ELEMENTS.div_ceil(row_elements.max(1))
}

/// What a check looks at: a view of either kind.
pub(super) trait Checked {
    fn shape(&self) -> Shape;
    fn dtype(&self) -> DType;
}

impl Checked for View<'_> {
    fn shape(&self) -> Shape {
        View::shape(self)
    }
    fn dtype(&self) -> DType {
        View::dtype(self)
    }
}

impl Checked for ViewMut<'_> {
    fn shape(&self) -> Shape {
        ViewMut::shape(self)
    }
    fn dtype(&self) -> DType {
        ViewMut::dtype(self)
    }
}

/// The checks of one op's arguments.
#[derive(Clone, Copy)]
pub(super) struct Check(pub(super) &'static str);

impl Check {
    /// The argument has this shape and type.
    pub(super) fn is<const N: usize>(
        self,
        arg: &'static str,
        tensor: &impl Checked,
        shape: [usize; N],
        dtype: DType,
    ) -> Result<()> {
        self.shape(arg, tensor, shape)?;
        self.dtype(arg, tensor, dtype)
    }

    pub(super) fn shape<const N: usize>(
        self,
        arg: &'static str,
        tensor: &impl Checked,
        shape: [usize; N],
    ) -> Result<()> {
        let (found, expected) = (tensor.shape(), Shape::new(shape));
        if found == expected {
            return Ok(());
        }
        Err(KernelError::Shape { op: self.0, arg, found, expected })
    }

    pub(super) fn dtype(self, arg: &'static str, tensor: &impl Checked, expected: DType) -> Result<()> {
        let found = tensor.dtype();
        if found == expected {
            return Ok(());
        }
        Err(KernelError::DType { op: self.0, arg, found, expected })
    }

    /// The argument is of some float type.
    pub(super) fn float(self, arg: &'static str, tensor: &impl Checked) -> Result<()> {
        match tensor.dtype() {
            DType::F32 | DType::F16 | DType::BF16 => Ok(()),
            DType::U32 | DType::U8 => self.dtype(arg, tensor, DType::F32),
        }
    }

    /// The argument is of a type that activations have.
    pub(super) fn activations(self, arg: &'static str, tensor: &impl Checked) -> Result<()> {
        match tensor.dtype() {
            DType::F32 => Ok(()),
            _ => self.dtype(arg, tensor, DType::BF16),
        }
    }

    /// A softcap is positive and finite.
    pub(super) fn softcap(self, cap: Option<f32>) -> Result<()> {
        let cap = cap.unwrap_or(1.0);
        self.that(cap > 0.0 && cap.is_finite(), || {
            format!("the softcap is {cap}, expected a positive number")
        })
    }

    /// The dimensions of an argument that has `N` of them.
    pub(super) fn dims<const N: usize>(self, arg: &'static str, tensor: &impl Checked) -> Result<[usize; N]> {
        let shape = tensor.shape();
        shape
            .dims()
            .try_into()
            .map_err(|_| self.error(format!("`{arg}` has shape {shape}, expected {N} dimensions")))
    }

    /// Every index is below `limit`.
    pub(super) fn indices(self, arg: &'static str, indices: &[u32], limit: usize) -> Result<()> {
        match indices.iter().position(|&index| index as usize >= limit) {
            None => Ok(()),
            Some(at) => {
                Err(self.error(format!("{arg}[{at}] is {}, expected less than {limit}", indices[at])))
            }
        }
    }

    pub(super) fn that(self, holds: bool, reason: impl FnOnce() -> String) -> Result<()> {
        if holds { Ok(()) } else { Err(self.error(reason())) }
    }

    pub(super) fn error(self, reason: String) -> KernelError {
        KernelError::Argument { op: self.0, reason }
    }
}
