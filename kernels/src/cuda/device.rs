//! A GPU: its context, stream, memory and kernels.

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    Args, CudaPtr, Grid,
    arena::Arena,
    driver::{Driver, Fault, Handle, TensorMap, code, driver},
    facts::Facts,
    modules::Kernels,
    pinned::Pinned,
    staging::Staging,
};
use crate::{KernelError, Result, View};

/// Number of counters that kernels share.
const ARRIVALS: usize = 1 << 16;

/// A GPU with a CUDA driver.
pub struct CudaDevice {
    /// `cuda:<ordinal>`
    name: String,
    ordinal: i32,
    facts: Facts,
    driver: &'static Driver,
    context: Handle,
    stream: Handle,
    kernels: Kernels,
    arena: Mutex<Arena>,
    staging: Mutex<Staging>,
    /// Memory for ops between their kernels: address and bytes, the largest last. Smaller ones stay, since launches
    /// that were recorded may use them.
    scratch: Mutex<Vec<(CudaPtr, usize)>>,
    /// See [`CudaDevice::arrivals`].
    arrivals: CudaPtr,
    /// Launches are being recorded: nothing else may be done.
    recording: AtomicBool,
    /// A kernel has failed: nothing works any more in this process.
    lost: AtomicBool,
}

impl fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CudaDevice({}, {})", self.name, self.facts.model)
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
        let facts = Facts::of(driver, device).map_err(failed)?;
        facts.check().map_err(refused)?;
        let context = driver.retain_context(device).map_err(failed)?;
        let opened = Opened { driver, device };
        driver.set_context(context).map_err(failed)?;
        let kernels = Kernels::load(driver, facts.capability).map_err(refused)?;
        let stream = driver.create_stream().map_err(failed)?;
        let staging = Staging::new(driver, stream).map_err(failed)?;
        let arrivals = driver.allocate(ARRIVALS * size_of::<u32>()).map_err(failed)?;
        // SAFETY: that many bytes were just allocated.
        unsafe { driver.set_bytes(arrivals, 0, ARRIVALS * size_of::<u32>(), stream) }.map_err(failed)?;
        std::mem::forget(opened);
        Ok(CudaDevice {
            arrivals,
            ordinal: device,
            facts,
            driver,
            context,
            stream,
            kernels,
            arena: Mutex::default(),
            staging: Mutex::new(staging),
            scratch: Mutex::default(),
            recording: AtomicBool::new(false),
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
        &self.facts.model
    }

    /// Compute capability: major and minor version.
    pub fn capability(&self) -> (u32, u32) {
        self.facts.capability
    }

    /// Number of streaming multiprocessors.
    pub fn multiprocessors(&self) -> u32 {
        self.facts.multiprocessors
    }

    /// Bytes of shared memory that one thread block can have.
    pub fn shared_bytes(&self) -> u32 {
        self.facts.shared_bytes
    }

    /// The newest CUDA version that the driver supports, major and minor.
    pub fn driver_version(&self) -> (i32, i32) {
        (self.facts.driver_version / 1000, self.facts.driver_version % 1000 / 10)
    }

    /// Free and total bytes of its memory; what the arena holds counts as taken.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn memory(&self) -> Result<(u64, u64)> {
        self.bind()?;
        self.driver.memory().map_err(|fault| self.error(fault))
    }

    /// Runs a kernel after everything before it; returns at once.
    ///
    /// # Errors
    /// When there is no such kernel, its parameters differ from `args`, or the driver refuses.
    pub(crate) fn launch(&self, kernel: &'static str, grid: Grid, args: &Args) -> Result<()> {
        let wrong = |reason: String| KernelError::Argument { op: kernel, reason };
        let function = self.kernels.get(kernel).ok_or_else(|| {
            let (major, minor) = self.facts.capability;
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

    /// At least `bytes` of memory for use between an op's kernels, so that only one thread at a time may run ops of a
    /// device. The address stays the same until more is asked for; [`CudaDevice::plan_scratch`] does so ahead.
    ///
    /// # Errors
    /// When there is not as much.
    pub(crate) fn scratch(&self, bytes: usize) -> Result<CudaPtr> {
        let mut scratch = lock(&self.scratch);
        match scratch.last() {
            Some(&(address, available)) if available >= bytes => Ok(address),
            _ => {
                let bytes = Arena::rounded(bytes).ok_or_else(|| self.out_of_memory(usize::MAX))?;
                let address = self.allocate_chunk(bytes)?;
                scratch.push((address, bytes));
                Ok(address)
            }
        }
    }

    /// Counters with which the thread blocks of one kernel tell that all have arrived: u32 `[ARRIVALS]`, all 0 between
    /// kernels (the last thread block to arrive resets its counter).
    pub(crate) fn arrivals(&self) -> CudaPtr {
        self.arrivals
    }

    /// Takes the memory that ops will ask for, so that no step has to.
    ///
    /// # Errors
    /// When there is not as much.
    pub fn plan_scratch(&self, bytes: usize) -> Result<()> {
        self.scratch(bytes).map(|_| ())
    }

    /// Bytes that [`CudaDevice::plan_scratch`] would take: none where there are as many already.
    pub fn scratch_missing(&self, bytes: usize) -> usize {
        let available = lock(&self.scratch).last().map_or(0, |&(_, bytes)| bytes);
        if bytes <= available { 0 } else { CudaDevice::rounded(bytes) }
    }

    /// Bytes that tensors and scratch take now.
    pub fn used_bytes(&self) -> u64 {
        let scratch = lock(&self.scratch).iter().map(|(_, bytes)| bytes).sum::<usize>();
        (lock(&self.arena).taken() + scratch) as u64
    }

    /// Takes one large allocation, from which tensors are carved as long as it lasts. The driver gets it back when the
    /// last of them is gone.
    ///
    /// # Errors
    /// [`KernelError::DeviceMemory`] when there is not as much.
    pub fn reserve(&self, bytes: usize) -> Result<()> {
        let bytes = Arena::rounded(bytes).ok_or_else(|| self.out_of_memory(usize::MAX))?;
        let mut arena = lock(&self.arena);
        let base = self.allocate_chunk(bytes)?;
        arena.add(base, bytes);
        Ok(())
    }

    /// Bytes that a tensor of `bytes` takes of a reservation.
    pub fn rounded(bytes: usize) -> usize {
        Arena::rounded(bytes).unwrap_or(usize::MAX)
    }

    /// Memory for a tensor, from a reservation or else by itself.
    pub(super) fn allocate(&self, bytes: usize) -> Result<CudaPtr> {
        let bytes = Arena::rounded(bytes).ok_or_else(|| self.out_of_memory(usize::MAX))?;
        let mut arena = lock(&self.arena);
        if let Some(address) = arena.take(bytes) {
            return Ok(address);
        }
        let base = self.allocate_chunk(bytes)?;
        arena.add(base, bytes);
        arena.take(bytes).ok_or_else(|| self.out_of_memory(bytes))
    }

    fn allocate_chunk(&self, bytes: usize) -> Result<CudaPtr> {
        self.bind_outside_recording()?;
        self.driver.allocate(bytes).map_err(|fault| match fault.code {
            code::OUT_OF_MEMORY => self.out_of_memory(bytes),
            _ => self.error(fault),
        })
    }

    /// Gives a tensor's memory back.
    pub(super) fn release(&self, address: CudaPtr, bytes: usize) {
        let chunk = Arena::rounded(bytes).and_then(|bytes| lock(&self.arena).give_back(address, bytes));
        if let (Some(chunk), Ok(())) = (chunk, self.bind()) {
            // SAFETY: no tensor lies there any more, and the driver waits for kernels that still run. An error has
            // nobody to tell; if the device is lost, the next call says so.
            let _ = unsafe { self.driver.free(chunk) };
        }
    }

    /// Sets all bytes of a tensor to zero, in stream order.
    pub(crate) fn zero(&self, to: CudaPtr, bytes: usize) -> Result<()> {
        self.bind_outside_recording()?;
        // SAFETY: callers pass ranges of live tensors.
        unsafe { self.driver.set_bytes(to, 0, bytes, self.stream) }.map_err(|fault| self.error(fault))
    }

    /// Copies from host memory, in stream order; `from` may change afterwards.
    pub(crate) fn write(&self, to: CudaPtr, from: &[u8]) -> Result<()> {
        self.bind_outside_recording()?;
        // SAFETY: callers pass ranges of live tensors.
        unsafe { lock(&self.staging).write(to, from) }.map_err(|fault| self.error(fault))
    }

    /// Copies to host memory, after everything before; waits for it.
    pub(crate) fn read(&self, to: &mut [u8], from: CudaPtr) -> Result<()> {
        self.bind_outside_recording()?;
        // SAFETY: callers pass ranges of live tensors.
        unsafe { lock(&self.staging).read(to, from) }.map_err(|fault| self.error(fault))
    }

    /// A buffer to which copies can be made while both sides go on, and an event to wait for.
    pub(super) fn fetch_buffer(&self, bytes: usize) -> Result<(Pinned, Handle)> {
        self.bind_outside_recording()?;
        let failed = |fault| self.error(fault);
        let buffer = Pinned::new(self.driver, bytes).map_err(failed)?;
        let event = self.driver.create_event().inspect_err(|_| {
            // SAFETY: nobody has used it yet.
            unsafe { buffer.free(self.driver) };
        });
        Ok((buffer, event.map_err(failed)?))
    }

    /// Gives a buffer and its event back. Nothing may be on its way to it.
    pub(super) fn free_fetch_buffer(&self, buffer: &Pinned, event: Handle) {
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
    pub(super) unsafe fn copy_later(
        &self,
        to: *mut u8,
        from: CudaPtr,
        bytes: usize,
        copied: Handle,
    ) -> Result<()> {
        self.bind_outside_recording()?;
        let failed = |fault| self.error(fault);
        // SAFETY: the caller's promise.
        unsafe { self.driver.copy_to_host(to.cast(), from, bytes, self.stream) }.map_err(failed)?;
        self.driver.record(copied, self.stream).map_err(failed)
    }

    /// Waits for an event, when it has been recorded.
    pub(super) fn wait_for(&self, event: Handle) -> Result<()> {
        self.bind()?;
        self.driver.wait(event).map_err(|fault| self.error(fault))
    }

    /// Waits for all work.
    ///
    /// # Errors
    /// [`KernelError::DeviceLost`] when a kernel has failed.
    pub fn synchronize(&self) -> Result<()> {
        self.bind_outside_recording()?;
        self.driver.synchronize(self.stream).map_err(|fault| self.error(fault))
    }

    /// Records the launches that `launches` makes, instead of running them.
    ///
    /// # Errors
    /// What `launches` returns, or the driver's refusal.
    pub(super) fn capture(&self, launches: impl FnOnce() -> Result<()>) -> Result<Handle> {
        self.bind()?;
        let failed = |fault| self.error(fault);
        self.driver.begin_capture(self.stream).map_err(failed)?;
        self.recording.store(true, Ordering::Relaxed);
        let launched = launches();
        self.recording.store(false, Ordering::Relaxed);
        let captured = self.driver.end_capture(self.stream).map_err(failed);
        launched?;
        self.driver.instantiate(captured?).map_err(failed)
    }

    /// Runs recorded launches, after everything before them.
    pub(super) fn run_captured(&self, executable: Handle) -> Result<()> {
        self.bind()?;
        // SAFETY: what was recorded uses tensors of a model that lives, and scratch, which stays where it is.
        unsafe { self.driver.launch_graph(executable, self.stream) }.map_err(|fault| self.error(fault))
    }

    /// Forgets recorded launches.
    pub(super) fn forget_captured(&self, executable: Handle) {
        if self.bind().is_ok() {
            // An error has nobody to tell.
            let _ = self.driver.destroy_graph(executable);
        }
    }

    /// As `bind`, for what cannot be recorded.
    fn bind_outside_recording(&self) -> Result<()> {
        if self.recording.load(Ordering::Relaxed) {
            let reason = "copies and memory cannot be had while launches are recorded".into();
            return Err(KernelError::Argument { op: "record", reason });
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
            for chunk in lock(&self.arena).drain().chain(scratch).chain([self.arrivals]) {
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
