//! What can be said of the GPUs of this machine.

use super::CudaDevice;
use crate::Result;

/// A GPU that can be used.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// `cuda:0`, as it is chosen.
    pub name: String,
    /// The name that its maker gave it.
    pub model: String,
    /// Compute capability: major and minor version.
    pub capability: (u32, u32),
    /// Number of streaming multiprocessors.
    pub multiprocessors: u32,
    /// The newest CUDA version that the driver supports, major and minor.
    pub driver_version: (i32, i32),
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// Bytes of it that nobody uses.
    pub memory_free_bytes: u64,
}

/// The GPUs of this machine that can be used, in the driver's order.
///
/// # Errors
/// [`KernelError::Device`](crate::KernelError::Device) when there is none, saying why: no driver, too old a driver or
/// GPU, no kernels in this build.
pub fn gpus() -> Result<Vec<Gpu>> {
    let mut gpus = vec![Gpu::of(&CudaDevice::open(0)?)?];
    gpus.extend((1..).map_while(|ordinal| Gpu::of(&CudaDevice::open(ordinal).ok()?).ok()));
    Ok(gpus)
}

impl Gpu {
    fn of(device: &CudaDevice) -> Result<Gpu> {
        let (memory_free_bytes, memory_bytes) = device.memory()?;
        Ok(Gpu {
            name: device.name().into(),
            model: device.model().into(),
            capability: device.capability(),
            multiprocessors: device.multiprocessors(),
            driver_version: device.driver_version(),
            memory_bytes,
            memory_free_bytes,
        })
    }
}
