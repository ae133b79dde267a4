//! A GPU: its context, stream, memory and kernels.

mod copies;
mod launches;
mod memory;

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    CudaPtr,
    arena::Arena,
    driver::{Driver, Fault, Handle, code, driver},
    modules::Kernels,
    properties::DeviceProperties,
    staging::Staging,
};
use crate::{KernelError, Result};

/// Number of counters that kernels share.
const SEMAPHORES: usize = 1 << 16;

/// A GPU with a CUDA driver.
pub struct CudaDevice {
    /// `cuda:<ordinal>`
    name: String,
    ordinal: i32,
    properties: DeviceProperties,
    driver: &'static Driver,
    context: Handle,
    stream: Handle,
    kernels: Kernels,
    arena: Mutex<Arena>,
    staging: Mutex<Staging>,
    /// Memory for ops between their kernels: address and bytes, the largest last. Smaller ones stay, since launches
    /// that were captured may use them.
    scratch: Mutex<Vec<(CudaPtr, usize)>>,
    /// See [`CudaDevice::semaphores`].
    semaphores: CudaPtr,
    /// Launches are being captured: nothing else may be done.
    capturing: AtomicBool,
    /// A kernel has failed: nothing works any more in this process.
    lost: AtomicBool,
}

impl fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CudaDevice({}, {})", self.name, self.properties.model)
    }
}

impl CudaDevice {
    /// The GPU with this number, in the driver's order.
    ///
    /// # Errors
    /// [`KernelError::Device`] without a driver, with too old a one, without such a GPU, with one older than compute
    /// capability 8.0, and when this build has no kernels for it.
    pub fn open(ordinal: u32) -> Result<CudaDevice> {
        let name = format!("cuda:{ordinal}");
        let refused = |reason: String| KernelError::Device { name: name.clone(), reason };
        let failed = |fault: Fault| {
            refused(match fault.code {
                code::OUT_OF_MEMORY => "its memory is full; end other programs that use it".into(),
                _ => format!("the NVIDIA driver refuses: {fault}"),
            })
        };
        let driver = driver().map_err(refused)?;
        let count = driver.device_count().map_err(failed)?;
        if i64::from(ordinal) >= i64::from(count) {
            let last = count.saturating_sub(1);
            return Err(refused(match count {
                0 => "the NVIDIA driver finds no GPU in this machine".into(),
                1 => "this machine has one GPU, `cuda:0`".into(),
                _ => format!("this machine has {count} GPUs, `cuda:0` to `cuda:{last}`"),
            }));
        }
        let device = driver.device(ordinal as i32).map_err(failed)?;
        let properties = DeviceProperties::of(driver, device).map_err(failed)?;
        properties.check().map_err(refused)?;
        let context = driver.retain_context(device).map_err(failed)?;
        let opened = Opened { driver, device };
        driver.set_context(context).map_err(failed)?;
        let kernels = Kernels::load(driver, properties.capability).map_err(refused)?;
        let stream = driver.create_stream().map_err(failed)?;
        let staging = Staging::new(driver, stream).map_err(failed)?;
        let semaphores = driver.allocate(SEMAPHORES * size_of::<u32>()).map_err(failed)?;
        // SAFETY: that many bytes were just allocated.
        unsafe { driver.set_bytes(semaphores, 0, SEMAPHORES * size_of::<u32>(), stream) }.map_err(failed)?;
        std::mem::forget(opened);
        Ok(CudaDevice {
            semaphores,
            ordinal: device,
            properties,
            driver,
            context,
            stream,
            kernels,
            arena: Mutex::default(),
            staging: Mutex::new(staging),
            scratch: Mutex::default(),
            capturing: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            name,
        })
    }

    /// `cuda:0`, `cuda:1` ...
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name that its maker gave it.
    pub fn model(&self) -> &str {
        &self.properties.model
    }

    /// Compute capability: major and minor version.
    pub fn capability(&self) -> (u32, u32) {
        self.properties.capability
    }

    /// Number of streaming multiprocessors.
    pub fn multiprocessors(&self) -> u32 {
        self.properties.multiprocessors
    }

    /// Bytes of shared memory that one thread block can have.
    pub fn shared_bytes(&self) -> u32 {
        self.properties.shared_bytes
    }

    /// The newest CUDA version that the driver supports, major and minor.
    pub fn driver_version(&self) -> (i32, i32) {
        (self.properties.driver_version / 1000, self.properties.driver_version % 1000 / 10)
    }

    /// Free and total bytes of its memory; what the arena holds counts as taken.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn memory(&self) -> Result<(u64, u64)> {
        self.bind()?;
        self.driver.memory().map_err(|fault| self.error(fault))
    }

    /// As `bind`, for what cannot be captured.
    fn bind_outside_capture(&self) -> Result<()> {
        if self.capturing.load(Ordering::Relaxed) {
            let reason = "copies and memory cannot be had while launches are captured".into();
            return Err(KernelError::Argument { op: "capture", reason });
        }
        self.bind()
    }

    /// Makes the context that of this thread.
    fn bind(&self) -> Result<()> {
        if self.lost.load(Ordering::Relaxed) {
            return Err(self.lost("a kernel failed before".into()));
        }
        self.driver.set_context(self.context).map_err(|fault| self.error(fault))
    }

    fn lost(&self, reason: String) -> KernelError {
        KernelError::DeviceLost { device: self.name.clone(), reason }
    }

    /// Turns a driver's fault into an error, and remembers one that ends everything.
    fn error(&self, fault: Fault) -> KernelError {
        match fault.code {
            code::ECC_UNCORRECTABLE | code::UNKNOWN => {}
            code if code::KERNEL_FAULTS.contains(&code) => {}
            _ => return KernelError::Driver { device: self.name.clone(), reason: fault.to_string() },
        }
        self.lost.store(true, Ordering::Relaxed);
        self.lost(fault.to_string())
    }

    fn out_of_memory(&self, bytes: usize) -> KernelError {
        let free = self.driver.memory().map_or(0, |(free, _)| free);
        KernelError::DeviceMemory { device: self.name.clone(), needed: bytes as u64, free }
    }
}

/// A lock whose holder cannot leave anything half done that matters after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        // Errors have nobody to tell; after a fault every call fails and the process's end frees all.
        if self.driver.set_context(self.context).is_ok() {
            let _ = self.driver.synchronize(self.stream);
            lock(&self.staging).free();
            self.kernels.unload(self.driver);
            let scratch: Vec<CudaPtr> = lock(&self.scratch).drain(..).map(|(address, _)| address).collect();
            for chunk in lock(&self.arena).drain().chain(scratch).chain([self.semaphores]) {
                // SAFETY: the stream is idle and no tensor is left: each keeps its device alive.
                let _ = unsafe { self.driver.free(chunk) };
            }
            let _ = self.driver.destroy_stream(self.stream);
        }
        let _ = self.driver.release_context(self.ordinal);
    }
}

/// A context that is released unless opening the device comes to its end.
struct Opened {
    driver: &'static Driver,
    device: i32,
}

impl Drop for Opened {
    fn drop(&mut self) {
        // What was made in it goes with it. An error has nobody to tell.
        let _ = self.driver.set_context(Handle::NULL);
        let _ = self.driver.release_context(self.device);
    }
}
