//! Launches captured once and run many times: one call to the driver instead of hundreds.

use std::{fmt, sync::Arc};

use super::{CudaDevice, driver::Handle};
use crate::Result;

/// Captured launches. The tensors that they read and write must live and stay where they are as long as it is run.
pub struct CudaGraph {
    device: Arc<CudaDevice>,
    executable: Handle,
}

impl CudaGraph {
    /// Captures what `ops` launches, without running it. Only ops may be called, and none may need more scratch memory
    /// than has been planned or used before.
    ///
    /// # Errors
    /// What `ops` returns, and when the driver refuses.
    pub fn capture(device: &Arc<CudaDevice>, ops: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
        Ok(CudaGraph { device: Arc::clone(device), executable: device.capture(ops)? })
    }

    /// Runs them after everything before; returns at once.
    ///
    /// # Errors
    /// When the device failed.
    pub fn run(&self) -> Result<()> {
        self.device.run_captured(self.executable)
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        self.device.forget_captured(self.executable);
    }
}

impl fmt::Debug for CudaGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CudaGraph({})", self.device.name())
    }
}
