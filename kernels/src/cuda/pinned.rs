//! Page-locked host memory, the only one that a device copies to and from while both go on.

use super::driver::{Driver, Fault};

/// A buffer. Its owner frees it.
pub(super) struct Pinned {
    pub address: *mut u8,
    pub bytes: usize,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for Pinned {}

impl Pinned {
    pub fn new(driver: &Driver, bytes: usize) -> Result<Pinned, Fault> {
        Ok(Pinned { address: driver.allocate_pinned(bytes)?.cast(), bytes })
    }

    /// # Safety
    /// No copy to or from it is in flight, and nobody uses it again.
    pub unsafe fn free(&self, driver: &Driver) {
        // SAFETY: the caller's promise. An error here has nobody to tell.
        let _ = unsafe { driver.free_pinned(self.address.cast()) };
    }
}
