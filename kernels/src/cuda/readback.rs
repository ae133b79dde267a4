//! Copies to the host that nobody waits for yet.

use std::{slice, sync::Arc};

use super::{CudaDevice, CudaPtr, driver::Handle, pinned::Pinned};
use crate::Result;

/// Bytes that the buffer has room for at first.
const ROOM: usize = 4 << 10;

/// Words on their way from a device, in the order in which their copies were started.
pub(crate) struct CudaReadback {
    device: Arc<CudaDevice>,
    buffer: Pinned,
    /// Bytes on their way.
    used: usize,
    /// Recorded behind the last copy.
    copied: Handle,
}

impl CudaReadback {
    pub fn new(device: &Arc<CudaDevice>) -> Result<CudaReadback> {
        let (buffer, copied) = device.readback_buffer(ROOM)?;
        Ok(CudaReadback { device: Arc::clone(device), buffer, used: 0, copied })
    }

    /// Starts a copy of `bytes` bytes, which takes its turn on the device.
    pub fn start(&mut self, from: CudaPtr, bytes: usize) -> Result<()> {
        if self.used + bytes > self.buffer.bytes {
            self.grow(self.used + bytes)?;
        }
        // SAFETY: that many bytes are left, and nobody reads them before the event.
        unsafe { self.device.copy_later(self.buffer.address.add(self.used), from, bytes, self.copied)? };
        self.used += bytes;
        Ok(())
    }

    /// Waits for the copies; nothing is on its way then.
    pub fn finish(&mut self) -> Result<&[u32]> {
        self.device.wait_for(self.copied)?;
        let words = std::mem::take(&mut self.used) / size_of::<u32>();
        // SAFETY: so many words were copied, to page-aligned memory which is next written by a copy that needs `self`.
        Ok(unsafe { slice::from_raw_parts(self.buffer.address.cast(), words) })
    }

    /// Makes room for `bytes`, which is rare enough to wait for.
    fn grow(&mut self, bytes: usize) -> Result<()> {
        let (larger, copied) = self.device.readback_buffer(bytes.next_power_of_two())?;
        self.device.synchronize()?;
        // SAFETY: the device has written that many bytes, and the buffers are not the same.
        unsafe { larger.address.copy_from_nonoverlapping(self.buffer.address, self.used) };
        self.device.free_readback_buffer(&self.buffer, self.copied);
        (self.buffer, self.copied) = (larger, copied);
        Ok(())
    }
}

impl Drop for CudaReadback {
    fn drop(&mut self) {
        // Copies may be on their way. When this fails the device is lost, and copies no more.
        let _ = self.device.synchronize();
        self.device.free_readback_buffer(&self.buffer, self.copied);
    }
}
