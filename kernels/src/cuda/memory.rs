//! Device memory that tensors own.

use std::{fmt, sync::Arc};

use super::{CudaDevice, CudaPtr};
use crate::Result;

/// A range of a device's memory, given back when dropped.
pub(crate) struct CudaBuffer {
    device: Arc<CudaDevice>,
    address: CudaPtr,
    bytes: usize,
}

impl CudaBuffer {
    /// `bytes` of memory, aligned for every kernel, holding whatever was there.
    ///
    /// # Errors
    /// [`KernelError::DeviceMemory`](crate::KernelError::DeviceMemory) when there is not as much.
    pub fn new(device: &Arc<CudaDevice>, bytes: usize) -> Result<CudaBuffer> {
        Ok(CudaBuffer { device: Arc::clone(device), address: device.allocate(bytes)?, bytes })
    }

    pub fn address(&self) -> CudaPtr {
        self.address
    }
}

impl Drop for CudaBuffer {
    fn drop(&mut self) {
        self.device.release(self.address, self.bytes);
    }
}

impl fmt::Debug for CudaBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CudaBuffer({} bytes on {})", self.bytes, self.device.name())
    }
}
