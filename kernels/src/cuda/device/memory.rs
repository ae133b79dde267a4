//! Device memory: what tensors, ops between their kernels, and counters take.

use super::{CudaDevice, lock};
use crate::{
    Result,
    cuda::{CudaPtr, arena::Arena, driver::code},
};

impl CudaDevice {
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

    /// Counters with which the thread blocks of one kernel tell that all have arrived: u32 `[SEMAPHORES]`, all 0 between
    /// kernels (the last thread block to arrive resets its counter).
    pub(crate) fn semaphores(&self) -> CudaPtr {
        self.semaphores
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
    /// [`KernelError::DeviceMemory`](crate::KernelError::DeviceMemory) when there is not as much.
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
    pub(in crate::cuda) fn allocate(&self, bytes: usize) -> Result<CudaPtr> {
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
        self.bind_outside_capture()?;
        self.driver.allocate(bytes).map_err(|fault| match fault.code {
            code::OUT_OF_MEMORY => self.out_of_memory(bytes),
            _ => self.error(fault),
        })
    }

    /// Gives a tensor's memory back.
    pub(in crate::cuda) fn release(&self, address: CudaPtr, bytes: usize) {
        let chunk = Arena::rounded(bytes).and_then(|bytes| lock(&self.arena).give_back(address, bytes));
        if let (Some(chunk), Ok(())) = (chunk, self.bind()) {
            // SAFETY: no tensor lies there any more, and the driver waits for kernels that still run. An error has
            // nobody to tell; if the device is lost, the next call says so.
            let _ = unsafe { self.driver.free(chunk) };
        }
    }

    /// Sets all bytes of a tensor to zero, in stream order.
    pub(crate) fn zero(&self, to: CudaPtr, bytes: usize) -> Result<()> {
        self.bind_outside_capture()?;
        // SAFETY: callers pass ranges of live tensors.
        unsafe { self.driver.set_bytes(to, 0, bytes, self.stream) }.map_err(|fault| self.error(fault))
    }
}
