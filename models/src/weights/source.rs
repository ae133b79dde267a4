//! Where tensors come from.

use std::path::Path;

use mosu_kernels::{Matrix, Shape, Tensor};

use crate::LoadError;

/// What tensors are claimed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// To learn their sizes: they have no elements.
    Plan,
    /// To be used.
    Load,
}

/// Where tensors come from: a checkpoint's files, or a generator of random ones.
pub(crate) trait TensorSource {
    /// Begins a pass, in which every tensor can be claimed once.
    fn begin(&mut self, pass: Pass);

    /// The names of the tensors that were claimed in this pass, and of those that were not, each in order.
    fn names(&self) -> [Vec<&str>; 2];

    /// Whether there is a tensor of that name.
    fn contains(&self, name: &str) -> bool;

    /// The tensor of that name and shape. Leading dimensions of 1 count as absent.
    fn claim(&mut self, name: &str, shape: Shape) -> Result<Tensor, LoadError>;

    /// The tensor of that name and of shape `[count, piece..]`, cut along its first dimension.
    fn claim_stack(&mut self, name: &str, count: usize, piece: Shape) -> Result<Vec<Tensor>, LoadError>;

    /// The weight `[out, in]` of a module, in whatever format it is stored.
    fn claim_matrix(&mut self, module: &str, shape: [usize; 2]) -> Result<Matrix, LoadError>;

    /// `count` weights `[out, in]` that are stored together and packed; `None` where they are floats, which are left to
    /// [`TensorSource::claim_stack`].
    fn claim_packed(
        &mut self,
        name: &str,
        count: usize,
        shape: [usize; 2],
    ) -> Result<Option<Vec<Matrix>>, LoadError>;

    /// How many tensors there are, and their bytes.
    fn totals(&self) -> (usize, u64);

    /// The file that errors name when no tensor is to blame.
    fn file(&self) -> &Path;

    /// The file that holds a tensor.
    fn file_of(&self, name: &str) -> &Path;
}
