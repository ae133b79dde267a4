//! Tensors, devices and the ops of mosu: *how fast it is computed*.
//!
//! An op is a free function in [`ops`] that takes a [`Device`], the tensors it writes, the tensors it
//! reads and its constants. It allocates nothing, and every reduction runs in an order fixed by the shape
//! of the weights, never by the number of rows: the same row gives the same bits in any batch.

pub mod convert;
mod cpu;
mod cuda;
mod device;
mod dtype;
mod error;
pub mod limits;
mod matrix;
pub mod ops;
mod readback;
mod tensor;

pub use cpu::Isa;
pub use cuda::{CudaDevice, CudaGraph, CudaPtr, Gpu, gpus};
pub use device::{CpuDevice, Device};
pub use dtype::{DType, Element};
pub use error::{KernelError, Result};
pub use matrix::{BlockType, Format, FormatTraits, Matrix};
pub use readback::Readback;
pub use tensor::{Allocator, Bytes, Shape, Tensor, View, ViewMut};
