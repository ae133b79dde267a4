//! The way between host and device memory: through page-locked buffers, since only those are copied at full speed and
//! without waiting.

use super::{
    CudaPtr,
    arena::ALIGNMENT,
    driver::{Driver, Fault, Handle},
    pinned::Pinned,
};

/// Bytes of each half of the buffer for writing.
const HALF: usize = 4 << 20;
/// Bytes of the buffer for reading.
const READ: usize = 1 << 20;

/// Two halves for writing, so that one is filled while the other is copied, and a buffer for reading.
pub(super) struct Staging {
    driver: &'static Driver,
    stream: Handle,
    halves: [Pinned; 2],
    /// Recorded when a half has been filled.
    copied: [Handle; 2],
    /// Whether that event has been recorded.
    in_flight: [bool; 2],
    current: usize,
    /// Bytes of the current half that are taken.
    used: usize,
    read: Pinned,
}

impl Staging {
    pub fn new(driver: &'static Driver, stream: Handle) -> Result<Staging, Fault> {
        let pinned = |bytes| Pinned::new(driver, bytes);
        Ok(Staging {
            driver,
            stream,
            halves: [pinned(HALF)?, pinned(HALF)?],
            copied: [driver.create_event()?, driver.create_event()?],
            in_flight: [false; 2],
            current: 0,
            used: 0,
            read: pinned(READ)?,
        })
    }

    /// Copies `from` to the device, in stream order. `from` may change once this returns.
    ///
    /// # Safety
    /// `to` has room for it.
    pub unsafe fn write(&mut self, to: CudaPtr, from: &[u8]) -> Result<(), Fault> {
        let mut done = 0;
        while done < from.len() {
            if self.used == HALF {
                self.turn()?;
            }
            let n = (from.len() - done).min(HALF - self.used);
            // SAFETY: `used` is within the half.
            let staged = unsafe { self.halves[self.current].address.add(self.used) };
            // SAFETY: n bytes are left in both, and the device has copied what was there before.
            unsafe { staged.copy_from_nonoverlapping(from[done..].as_ptr(), n) };
            // SAFETY: the half is not written again before its event.
            unsafe { self.driver.copy_to_device(to.offset(done), staged.cast(), n, self.stream)? };
            done += n;
            self.used = (self.used + n).next_multiple_of(ALIGNMENT).min(HALF);
        }
        Ok(())
    }

    /// Goes on to the other half, once the device has copied what it holds.
    fn turn(&mut self) -> Result<(), Fault> {
        self.driver.record(self.copied[self.current], self.stream)?;
        self.in_flight[self.current] = true;
        self.current = 1 - self.current;
        if self.in_flight[self.current] {
            self.driver.wait(self.copied[self.current])?;
        }
        self.used = 0;
        Ok(())
    }

    /// Copies from the device; waits for all work before it.
    ///
    /// # Safety
    /// `from` is that long.
    pub unsafe fn read(&mut self, to: &mut [u8], from: CudaPtr) -> Result<(), Fault> {
        let mut done = 0;
        for to in to.chunks_mut(self.read.bytes) {
            let staged = self.read.address;
            // SAFETY: the chunk is no longer than the buffer, which is used again only after the wait.
            unsafe {
                self.driver.copy_to_host(staged.cast(), from.offset(done), to.len(), self.stream)?;
            }
            self.driver.synchronize(self.stream)?;
            // SAFETY: the device has written that many bytes.
            to.copy_from_slice(unsafe { std::slice::from_raw_parts(staged, to.len()) });
            done += to.len();
        }
        Ok(())
    }

    /// Frees the buffers. To be called once, when the device has nothing left to do.
    pub fn free(&mut self) {
        for pinned in self.halves.iter().chain([&self.read]) {
            // SAFETY: nothing is in flight and nobody uses them again.
            unsafe { pinned.free(self.driver) };
        }
        for event in self.copied {
            let _ = self.driver.destroy_event(event);
        }
    }
}
