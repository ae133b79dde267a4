//! What can go wrong in an op or a tensor.

use crate::{DType, Shape};

/// The result of an op.
pub type Result<T, E = KernelError> = std::result::Result<T, E>;

/// A caller's mistake (shape, type) or a device's refusal.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KernelError {
    /// A tensor does not have the shape that the op's other arguments imply.
    #[error("{op}: `{arg}` has shape {found}, expected {expected}")]
    Shape {
        /// The op.
        op: &'static str,
        /// Its argument.
        arg: &'static str,
        /// The shape given.
        found: Shape,
        /// The shape needed.
        expected: Shape,
    },
    /// A tensor does not have the element type that the op needs.
    #[error("{op}: `{arg}` is {found}, expected {expected}")]
    DType {
        /// The op.
        op: &'static str,
        /// Its argument.
        arg: &'static str,
        /// The type given.
        found: DType,
        /// The type needed.
        expected: DType,
    },
    /// An argument outside what the op can do.
    #[error("{op}: {reason}")]
    Argument {
        /// The op.
        op: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A buffer could not be had.
    #[error("cannot allocate {bytes} bytes on {device}")]
    OutOfMemory {
        /// Size of the refused request.
        bytes: usize,
        /// The device asked.
        device: String,
    },
    /// No such device on this machine or in this build.
    #[error("device {name:?}: {reason}")]
    Device {
        /// What was asked for.
        name: String,
        /// Why it cannot be had.
        reason: String,
    },
    /// An op that a device has no kernel for.
    #[error("{op} does not run on {device} yet; use `--device cpu`")]
    NoKernel {
        /// The op.
        op: &'static str,
        /// The device asked.
        device: String,
    },
    /// A GPU has too little free memory.
    #[error(
        "{device} has {free} bytes of memory free of the {needed} needed: {} are missing; \
         end other programs that use it, or load less",
        needed.saturating_sub(*free)
    )]
    DeviceMemory {
        /// The GPU.
        device: String,
        /// Bytes asked for.
        needed: u64,
        /// Bytes free on it.
        free: u64,
    },
    /// A GPU's driver refused a call.
    #[error("{device}: {reason}")]
    Driver {
        /// The GPU.
        device: String,
        /// The call, and the driver's name and number of the error.
        reason: String,
    },
    /// A kernel failed on a GPU: no more work can be done there by this process.
    #[error("{device} is lost: {reason}; restart the program")]
    DeviceLost {
        /// The GPU.
        device: String,
        /// What the driver said.
        reason: String,
    },
}
