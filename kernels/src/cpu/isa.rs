//! Instruction sets, chosen at run time.

use std::fmt;

#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};
use super::{portable::Portable, simd::Simd};

/// An instruction set of this machine. Ops give the same bits on every run with the same one.
///
/// Only [`Isa::detect`] and [`Isa::available`] make one, so whoever has one may use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Isa(Set);

/// Best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Set {
    /// AVX-512 F, BW, DQ, VL, VNNI and BF16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the compiler may assume of the target.
    Portable,
}

/// A computation written once for all instruction sets.
///
/// `run` must be `#[inline(always)]`, and so must what it calls in its inner loops: only code inlined into
/// the dispatching function is compiled with the wider instructions.
pub(crate) trait Kernel {
    fn run<S: Simd>(self, s: S);
}

impl Isa {
    /// The best one.
    pub fn detect() -> Isa {
        Isa::available().next().unwrap_or(Isa(Set::Portable))
    }

    /// All, best first.
    pub fn available() -> impl Iterator<Item = Isa> {
        let all = [
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2,
            Set::Portable,
        ];
        all.into_iter().filter(|set| set.is_available()).map(Isa)
    }

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16 => "AVX-512 BF16",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "AVX-512",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "AVX2",
            Set::Portable => "portable",
        }
    }

    /// Runs a kernel with this instruction set.
    pub(crate) fn run<K: Kernel>(self, kernel: K) {
        match self.0 {
            // SAFETY: the value says that the processor has it.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16 => unsafe { run_avx512_bf16(kernel) },
            // SAFETY: the value says that the processor has it.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => unsafe { run_avx512(kernel) },
            // SAFETY: the value says that the processor has it.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { run_avx2(kernel) },
            Set::Portable => kernel.run(Portable),
        }
    }
}

impl Set {
    fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16 => {
                Set::Avx512.is_available()
                    && is_x86_feature_detected!("avx512bf16")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => {
                Set::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            Set::Portable => true,
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
fn run_avx512_bf16<K: Kernel>(kernel: K) {
    // SAFETY: this function's own requirement.
    kernel.run(unsafe { Avx512::<true>::new() });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn run_avx512<K: Kernel>(kernel: K) {
    // SAFETY: this function's own requirement.
    kernel.run(unsafe { Avx512::<false>::new() });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<K: Kernel>(kernel: K) {
    // SAFETY: this function's own requirement.
    kernel.run(unsafe { Avx2::new() });
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
