//! Copies between host and device, and waiting for them.

use super::{CudaDevice, lock};
use crate::{
    Result,
    cuda::{CudaPtr, driver::Handle, pinned::Pinned},
};

impl CudaDevice {
    /// Copies from host memory, in stream order; `from` may change afterwards.
    pub(crate) fn write(&self, to: CudaPtr, from: &[u8]) -> Result<()> {
        self.bind_outside_capture()?;
        // SAFETY: callers pass ranges of live tensors.
        unsafe { lock(&self.staging).write(to, from) }.map_err(|fault| self.error(fault))
    }

    /// Copies to host memory, after everything before; waits for it.
    pub(crate) fn read(&self, to: &mut [u8], from: CudaPtr) -> Result<()> {
        self.bind_outside_capture()?;
        // SAFETY: callers pass ranges of live tensors.
        unsafe { lock(&self.staging).read(to, from) }.map_err(|fault| self.error(fault))
    }

    /// A buffer to which copies can be made while both sides go on, and an event to wait for.
    pub(in crate::cuda) fn readback_buffer(&self, bytes: usize) -> Result<(Pinned, Handle)> {
        self.bind_outside_capture()?;
        let failed = |fault| self.error(fault);
        let buffer = Pinned::new(self.driver, bytes).map_err(failed)?;
        let event = self.driver.create_event().inspect_err(|_| {
            // SAFETY: nobody has used it yet.
            unsafe { buffer.free(self.driver) };
        });
        Ok((buffer, event.map_err(failed)?))
    }

    /// Gives a buffer and its event back. Nothing may be on its way to it.
    pub(in crate::cuda) fn free_readback_buffer(&self, buffer: &Pinned, event: Handle) {
        // Errors have nobody to tell; a lost device's memory goes with the process.
        if self.bind().is_ok() {
            // SAFETY: the owner gives it up, with no copy in flight.
            unsafe { buffer.free(self.driver) };
            let _ = self.driver.destroy_event(event);
        }
    }

    /// Copies to page-locked host memory, in stream order, and records `copied` behind it.
    ///
    /// # Safety
    /// Both ranges are that long, and nobody uses that of the host before the event.
    pub(in crate::cuda) unsafe fn copy_later(
        &self,
        to: *mut u8,
        from: CudaPtr,
        bytes: usize,
        copied: Handle,
    ) -> Result<()> {
        self.bind_outside_capture()?;
        let failed = |fault| self.error(fault);
        // SAFETY: the caller's promise.
        unsafe { self.driver.copy_to_host(to.cast(), from, bytes, self.stream) }.map_err(failed)?;
        self.driver.record(copied, self.stream).map_err(failed)
    }

    /// Waits for an event, when it has been recorded.
    pub(in crate::cuda) fn wait_for(&self, event: Handle) -> Result<()> {
        self.bind()?;
        self.driver.wait(event).map_err(|fault| self.error(fault))
    }

    /// Waits for all work.
    ///
    /// # Errors
    /// [`KernelError::DeviceLost`](crate::KernelError::DeviceLost) when a kernel has failed.
    pub fn synchronize(&self) -> Result<()> {
        self.bind_outside_capture()?;
        self.driver.synchronize(self.stream).map_err(|fault| self.error(fault))
    }
}
