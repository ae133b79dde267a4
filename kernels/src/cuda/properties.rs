//! What is known of a GPU and its driver, and whether that is enough.

use super::driver::{Driver, Fault, attribute};

/// The lowest compute capability with asynchronous copies and bf16 matrix instructions.
const LOWEST_CAPABILITY: (u32, u32) = (8, 0);

/// The CUDA version that the kernels are compiled with, as drivers count; older drivers cannot load their machine code.
const LOWEST_DRIVER: i32 = 13_000;

/// What is known of a GPU.
#[derive(Clone, Debug)]
pub(super) struct DeviceProperties {
    pub model: String,
    /// Compute capability.
    pub capability: (u32, u32),
    pub multiprocessors: u32,
    /// Most shared memory of a thread block.
    pub shared_bytes: u32,
    /// 1000 times the major plus 10 times the minor version of CUDA.
    pub driver_version: i32,
}

impl DeviceProperties {
    pub fn of(driver: &Driver, device: i32) -> Result<DeviceProperties, Fault> {
        let number = |attribute| Ok::<u32, Fault>(driver.attribute(attribute, device)?.max(0) as u32);
        Ok(DeviceProperties {
            model: driver.device_name(device)?,
            capability: (number(attribute::CAPABILITY_MAJOR)?, number(attribute::CAPABILITY_MINOR)?),
            multiprocessors: number(attribute::MULTIPROCESSOR_COUNT)?.max(1),
            shared_bytes: number(attribute::SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            driver_version: driver.version()?,
        })
    }

    /// Refuses a driver that cannot load the kernels, and a GPU that none is made for.
    pub fn check(&self) -> Result<(), String> {
        if self.driver_version < LOWEST_DRIVER {
            let [found, lowest] = [self.driver_version, LOWEST_DRIVER].map(|v| (v / 1000, v % 1000 / 10));
            return Err(format!(
                "the NVIDIA driver is for CUDA {}.{}, the kernels need {}.{} or newer; update the driver",
                found.0, found.1, lowest.0, lowest.1
            ));
        }
        let ((major, minor), (lowest, _)) = (self.capability, LOWEST_CAPABILITY);
        if self.capability >= LOWEST_CAPABILITY {
            return Ok(());
        }
        Err(format!(
            "{} has compute capability {major}.{minor}, the kernels need {lowest}.0 (Ampere) or newer; \
             use `--device cpu`",
            self.model
        ))
    }
}
