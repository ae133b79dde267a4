//! How much memory a device has to give.

use std::fs;

use mosu_kernels::{Device, Result};

/// Assumed where the system does not say (outside Linux). Memory is taken as it is touched, so too much does no harm
/// by itself.
const UNKNOWN: u64 = 64 << 30;

/// Most of a GPU's memory that is left to its driver: captured graphs, launch queues and its own rounding. All that the
/// model itself takes is planned.
const LEFT_TO_DRIVER: u64 = 128 << 20;

/// What a device says of its memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Bytes of it, where it says so.
    pub total: Option<u64>,
    /// Bytes that nobody has.
    pub free: u64,
    /// Bytes of these that a GPU's driver keeps.
    pub driver: u64,
}

impl Memory {
    /// That of `device`.
    ///
    /// # Errors
    /// When a GPU does not answer.
    pub fn of(device: &Device) -> Result<Memory> {
        match device {
            Device::Cpu(_) => Ok(Memory { total: None, free: available_to_host(), driver: 0 }),
            Device::Cuda(gpu) => {
                let (free, total) = gpu.memory()?;
                Ok(Memory { total: Some(total), free, driver: LEFT_TO_DRIVER.min(total / 16) })
            }
        }
    }
}

/// Bytes that can be allocated without swapping: what Linux calls available, within the control group's limit.
fn available_to_host() -> u64 {
    let machine = read("/proc/meminfo").and_then(|text| in_meminfo(&text));
    let group = in_group("/sys/fs/cgroup");
    machine.into_iter().chain(group).min().unwrap_or(UNKNOWN)
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn in_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The control group's limit less what it uses; its page cache can be dropped and does not count.
fn in_group(dir: &str) -> Option<u64> {
    let number = |file: &str| read(&format!("{dir}/{file}"))?.trim().parse::<u64>().ok();
    let statistics = read(&format!("{dir}/memory.stat"))?;
    let cache = statistics.lines().find_map(|line| line.strip_prefix("file "))?.trim().parse::<u64>().ok()?;
    let used = number("memory.current")?.saturating_sub(cache);
    Some(number("memory.max")?.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_in_kilobytes() {
        let text = "MemTotal:       24576000 kB\nMemFree:  100 kB\nMemAvailable:   20000 kB\n";
        assert_eq!(in_meminfo(text), Some(20_480_000));
        assert_eq!(in_meminfo("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn some_memory_is_available() {
        assert!(available_to_host() > 1 << 20);
    }
}
