//! Devices: where tensors live and ops run.

use std::{num::NonZeroUsize, sync::Arc};

use crate::{
    CudaDevice, KernelError, Result,
    cpu::{Isa, ThreadPool},
};

/// A device of this machine. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Device {
    /// The processor.
    Cpu(Arc<CpuDevice>),
    /// A GPU.
    Cuda(Arc<CudaDevice>),
}

/// The processor: a pool of threads and the instruction set that its ops use.
#[derive(Debug)]
pub struct CpuDevice {
    pub(crate) pool: ThreadPool,
    pub(crate) isa: Isa,
}

impl Device {
    /// The processor with `threads` threads (default: all cores) and its best instruction set.
    pub fn cpu(threads: Option<NonZeroUsize>) -> Device {
        Device::cpu_with_isa(threads, Isa::detect())
    }

    /// The processor restricted to an instruction set; for tests and measurements.
    pub fn cpu_with_isa(threads: Option<NonZeroUsize>, isa: Isa) -> Device {
        Device::Cpu(Arc::new(CpuDevice::new(threads, isa)))
    }

    /// The GPU with this number.
    ///
    /// # Errors
    /// As [`CudaDevice::open`].
    pub fn cuda(ordinal: u32) -> Result<Device> {
        Ok(Device::Cuda(Arc::new(CudaDevice::open(ordinal)?)))
    }

    /// A device from its name on the command line: `cpu`, `cuda` or `cuda:<number>`. `threads` are those of `cpu`.
    ///
    /// # Errors
    /// [`KernelError::Device`] for another name, and for a GPU that cannot be used.
    pub fn from_name(name: &str, threads: Option<NonZeroUsize>) -> Result<Device> {
        let unknown = || KernelError::Device {
            name: name.into(),
            reason: "expected `cpu`, `cuda` or `cuda:<number>`".into(),
        };
        match name.split_once(':') {
            None if name == "cpu" => Ok(Device::cpu(threads)),
            None if name == "cuda" => Device::cuda(0),
            Some(("cuda", number)) => Device::cuda(number.parse().map_err(|_| unknown())?),
            _ => Err(unknown()),
        }
    }

    /// `cpu`, `cuda:0`, ...
    pub fn name(&self) -> &str {
        match self {
            Device::Cpu(_) => "cpu",
            Device::Cuda(gpu) => gpu.name(),
        }
    }

    /// The processor, for an op that runs there only.
    ///
    /// # Errors
    /// [`KernelError::NoKernel`] naming the op.
    pub fn as_cpu(&self, op: &'static str) -> Result<&CpuDevice> {
        match self {
            Device::Cpu(cpu) => Ok(cpu),
            Device::Cuda(gpu) => Err(KernelError::NoKernel { op, device: gpu.name().into() }),
        }
    }
}

impl CpuDevice {
    /// `threads` threads (default: all cores) with an instruction set that the processor has.
    pub(crate) fn new(threads: Option<NonZeroUsize>, isa: Isa) -> CpuDevice {
        let all = std::thread::available_parallelism();
        let threads = threads.or(all.ok()).map_or(1, NonZeroUsize::get);
        CpuDevice { pool: ThreadPool::new(threads), isa }
    }

    /// Threads that share each op.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The instruction set that its ops use.
    pub fn isa(&self) -> Isa {
        self.isa
    }
}
