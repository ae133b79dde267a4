//! The host side of CUDA: the driver, memory, named kernels and their launches. Ops see [`CudaDevice`], [`Args`] and
//! [`Grid`]; README.md says how a kernel is added.
//!
//! All work of a device goes through one stream, so that copies, launches and reuse of memory follow each other in
//! program order. Nothing waits for the device but reading from it.

mod arena;
mod device;
mod driver;
mod fatbins;
mod graph;
mod launch;
mod memory;
mod modules;
mod pinned;
mod properties;
mod readback;
mod report;
mod staging;
mod table;

#[cfg(test)]
mod tests;

pub use device::CudaDevice;
pub use graph::CudaGraph;
pub(crate) use launch::{Args, Grid, float_type};
pub(crate) use memory::CudaBuffer;
pub(crate) use readback::CudaReadback;
pub use report::{Gpu, gpus};

/// An address in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct CudaPtr(pub(crate) u64);

impl CudaPtr {
    /// The address `bytes` further on.
    pub(crate) fn offset(self, bytes: usize) -> CudaPtr {
        CudaPtr(self.0.wrapping_add(bytes as u64))
    }
}
