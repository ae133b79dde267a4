//! Devices: where tensors live and ops run.

use std::{num::NonZeroUsize, sync::Arc};

use crate::{
    KernelError, Result,
    cpu::{Isa, ThreadPool},
};

/// A device of this machine. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Device {
    /// The processor.
    Cpu(Arc<CpuDevice>),
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
        let all = std::thread::available_parallelism();
        let threads = threads.or(all.ok()).map_or(1, NonZeroUsize::get);
        Device::Cpu(Arc::new(CpuDevice { pool: ThreadPool::new(threads), isa }))
    }

    /// A device from its name on the command line: `cpu`.
    ///
    /// # Errors
    /// [`KernelError::Device`] for a name that this build does not know.
    pub fn from_name(name: &str, threads: Option<NonZeroUsize>) -> Result<Device> {
        match name {
            "cpu" => Ok(Device::cpu(threads)),
            _ => {
                Err(KernelError::Device { name: name.into(), reason: "this build runs on `cpu` only".into() })
            }
        }
    }

    /// `cpu`.
    pub fn name(&self) -> &'static str {
        match self {
            Device::Cpu(_) => "cpu",
        }
    }

    /// The processor behind it.
    pub fn as_cpu(&self) -> &CpuDevice {
        match self {
            Device::Cpu(cpu) => cpu,
        }
    }
}

impl CpuDevice {
    /// Threads that share each op.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The instruction set that its ops use.
    pub fn isa(&self) -> Isa {
        self.isa
    }
}
