//! Launches of kernels, one by one or captured.

use std::sync::atomic::Ordering;

use super::CudaDevice;
use crate::{
    KernelError, Result, View,
    cuda::{
        Args, Grid,
        driver::{Handle, TensorMap},
    },
};

impl CudaDevice {
    /// Runs a kernel after everything before it; returns at once.
    ///
    /// # Errors
    /// When there is no such kernel, its parameters differ from `args`, or the driver refuses.
    pub(crate) fn launch(&self, kernel: &'static str, grid: Grid, args: &Args) -> Result<()> {
        let wrong = |reason: String| KernelError::Argument { op: kernel, reason };
        let function = self.kernels.get(kernel).ok_or_else(|| {
            let (major, minor) = self.properties.capability;
            wrong(format!("no kernel of this name for compute capability {major}.{minor}"))
        })?;
        if let Some(misfit) = args.misfit(function.parameters.as_deref()) {
            return Err(wrong(misfit));
        }
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        self.bind()?;
        let failed = |fault| self.error(fault);
        function.allow_shared_memory(self.driver, grid.shared_bytes).map_err(failed)?;
        let Grid { blocks, threads, shared_bytes } = grid;
        // SAFETY: the sizes of the arguments fit, and memory given back is reused in stream order only.
        args.with_pointers(|pointers| unsafe {
            self.driver.launch(function.handle, blocks, threads, shared_bytes, self.stream, pointers)
        })
        .map_err(failed)
    }

    /// A bf16 matrix as kernels read it by TMA, in boxes of `box_rows` rows.
    ///
    /// # Errors
    /// When it is not a matrix in device memory, or none that TMA can read.
    pub(crate) fn tensor_map(&self, matrix: &View<'_>, box_rows: usize) -> Result<TensorMap> {
        let wrong = |reason: &str| KernelError::Argument { op: "tensor_map", reason: reason.into() };
        let address = matrix.cuda_ptr().ok_or_else(|| wrong("the matrix lies in host memory"))?;
        let &[rows, columns] = matrix.shape().dims() else { return Err(wrong("not a matrix")) };
        self.bind()?;
        self.driver.tensor_map(address, [rows, columns], box_rows).map_err(|fault| self.error(fault))
    }

    /// Captures the launches that `launches` makes, instead of running them.
    ///
    /// # Errors
    /// What `launches` returns, or the driver's refusal.
    pub(in crate::cuda) fn capture(&self, launches: impl FnOnce() -> Result<()>) -> Result<Handle> {
        self.bind()?;
        let failed = |fault| self.error(fault);
        self.driver.begin_capture(self.stream).map_err(failed)?;
        self.capturing.store(true, Ordering::Relaxed);
        let launched = launches();
        self.capturing.store(false, Ordering::Relaxed);
        let captured = self.driver.end_capture(self.stream).map_err(failed);
        launched?;
        self.driver.instantiate(captured?).map_err(failed)
    }

    /// Runs captured launches, after everything before them.
    pub(in crate::cuda) fn run_captured(&self, executable: Handle) -> Result<()> {
        self.bind()?;
        // SAFETY: what was captured uses tensors of a model that lives, and scratch, which stays where it is.
        unsafe { self.driver.launch_graph(executable, self.stream) }.map_err(|fault| self.error(fault))
    }

    /// Forgets captured launches.
    pub(in crate::cuda) fn forget_captured(&self, executable: Handle) {
        if self.bind().is_ok() {
            // An error has nobody to tell.
            let _ = self.driver.destroy_graph(executable);
        }
    }
}
