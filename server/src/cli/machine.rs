//! What this machine is, as far as the operating system tells.

use std::{fs, thread};

use mosu::limits;
use serde::Serialize;

/// Facts that figures of speed depend on. `None` is what this system does not tell.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// This program's version.
    pub mosu: &'static str,
    /// As `linux`.
    pub os: &'static str,
    /// As `x86_64`.
    pub architecture: &'static str,
    /// The processor's name.
    pub cpu: Option<String>,
    /// Cores that this program may use.
    pub cores: usize,
    /// Features of the processor that matter here.
    pub features: Vec<&'static str>,
    /// The instructions that the ops use.
    pub instruction_set: &'static str,
    /// Memory of the machine.
    pub memory_bytes: Option<u64>,
    /// Memory that can be had without swapping.
    pub memory_available_bytes: Option<u64>,
    /// The least limit that the container puts on memory.
    pub memory_limit_bytes: Option<u64>,
    /// Whether the system gives large pages: `always`, `madvise` or `never`.
    pub huge_pages: Option<String>,
    /// Files that this program may have open; connections are files.
    pub open_files: Option<u64>,
}

impl Machine {
    /// Looks around.
    pub fn detect() -> Machine {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let memory = read("/proc/meminfo");
        Machine {
            mosu: env!("CARGO_PKG_VERSION"),
            os: std::env::consts::OS,
            architecture: std::env::consts::ARCH,
            cpu: field(&read("/proc/cpuinfo"), "model name").map(String::from),
            cores: thread::available_parallelism().map_or(1, usize::from),
            features: features(),
            instruction_set: limits::instruction_set(),
            memory_bytes: kibibytes(&memory, "MemTotal"),
            memory_available_bytes: kibibytes(&memory, "MemAvailable"),
            memory_limit_bytes: read("/sys/fs/cgroup/memory.max").trim().parse().ok(),
            huge_pages: chosen(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
            open_files: open_files(&read("/proc/self/limits")),
        }
    }
}

/// The value of a `name : value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

/// The bytes of a `name: 123 kB` line.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let kibibytes: u64 = field(text, name)?.strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The word in brackets, as `madvise` of `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.into())
}

/// The soft limit of the line `Max open files`.
fn open_files(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    use std::arch::is_x86_feature_detected as has;
    let known = [
        ("avx2", has!("avx2")),
        ("fma", has!("fma")),
        ("f16c", has!("f16c")),
        ("avx512f", has!("avx512f")),
        ("avx512bw", has!("avx512bw")),
        ("avx512vl", has!("avx512vl")),
        ("avx512vnni", has!("avx512vnni")),
        ("avx512bf16", has!("avx512bf16")),
    ];
    known.into_iter().filter(|(_, present)| *present).map(|(name, _)| name).collect()
}

#[cfg(target_arch = "aarch64")]
fn features() -> Vec<&'static str> {
    use std::arch::is_aarch64_feature_detected as has;
    let known = [
        ("neon", has!("neon")),
        ("dotprod", has!("dotprod")),
        ("bf16", has!("bf16")),
        ("i8mm", has!("i8mm")),
    ];
    known.into_iter().filter(|(_, present)| *present).map(|(name, _)| name).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_files_are_read() {
        assert_eq!(field("processor\t: 0\nmodel name\t: A : B\n", "model name"), Some("A : B"));
        assert_eq!(kibibytes("MemTotal:       24 kB\nMemFree: 1 kB\n", "MemTotal"), Some(24576));
        assert_eq!(kibibytes("MemTotal: many kB\n", "MemTotal"), None);
        assert_eq!(chosen("always [madvise] never\n").as_deref(), Some("madvise"));
        assert_eq!(
            open_files("Limit  Soft Limit\nMax open files            1024                 4096  files\n"),
            Some(1024)
        );
        assert_eq!(open_files("Max open files unlimited unlimited files\n"), None);
    }

    #[test]
    fn a_machine_without_these_files_is_still_described() {
        for text in ["", "\n", ":", "["] {
            assert_eq!((field(text, "model name"), kibibytes(text, "MemTotal")), (None, None));
            assert_eq!((chosen(text), open_files(text)), (None, None));
        }
    }
}
