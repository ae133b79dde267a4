//! What a device does at most, measured: what the speed of an op is a share of.

mod cuda;

use std::{num::NonZeroUsize, time::Instant};

use crate::{
    DType, Device, Isa, Result, Tensor,
    cpu::{Kernel, LANES, Parts, Simd},
    device::CpuDevice,
};

/// Bytes of [`read_bandwidth`]'s buffer: several times the third-level cache of common machines.
const READ_BYTES: usize = 512 << 20;
/// Parts of the buffer, read and timed in turn.
const SLICES: usize = 8;
/// The best of so many short passes counts, since others use the machine too.
const PASSES: usize = 24;

/// What a device does at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Bytes that it reads from its memory, per second.
    pub read_bandwidth: f64,
    /// Floating-point operations of bf16 products with f32 sums, per second; a multiply-add is two.
    pub bf16_dot_peak: f64,
}

/// The limits of a device, named as for [`Device::from_name`], measured now. On a GPU by kernels that do nothing else, in
/// up to 1 GiB of its free memory.
///
/// # Errors
/// When there is no such device, or it failed.
pub fn measure(device: &str, threads: Option<NonZeroUsize>) -> Result<Limits> {
    let device = Device::from_name(device, threads)?;
    match &device {
        Device::Cpu(cpu) => Ok(Limits {
            read_bandwidth: read_bandwidth(cpu.threads()),
            bf16_dot_peak: bf16_dot_peak(cpu.threads()),
        }),
        Device::Cuda(gpu) => cuda::measure(&device, gpu),
    }
}

/// The instruction set that ops use here, as people write it.
pub fn instruction_set() -> &'static str {
    Isa::detect().name()
}

/// Bytes per second that `threads` threads (0: one per core) read from memory together. Takes about a quarter of a second and 512 MiB
/// of memory; 0 when that cannot be had.
pub fn read_bandwidth(threads: usize) -> f64 {
    let buffer = Tensor::zeros([READ_BYTES / size_of::<f32>()], DType::F32);
    let Ok(mut buffer) = buffer else { return 0.0 };
    let Ok(data) = buffer.as_mut_slice::<f32>() else { return 0.0 };
    let cpu = CpuDevice::new(NonZeroUsize::new(threads), Isa::detect());
    let slice = data.len() / SLICES;
    let part = slice / cpu.threads() / LANES * LANES;
    // Writing makes the pages real.
    cpu.pool.run_rows(data, slice, 1, |_, slice| slice.fill(1.0));
    let pass = |slice: &[f32]| {
        let begin = Instant::now();
        cpu.pool.run(cpu.threads(), |thread| {
            let mut sum = 0.0;
            cpu.isa.run(Sum { data: &slice[thread * part..(thread + 1) * part], sum: &mut sum });
            std::hint::black_box(sum);
        });
        (part * cpu.threads() * size_of::<f32>()) as f64 / begin.elapsed().as_secs_f64()
    };
    data.chunks_exact(slice).cycle().take(PASSES).map(pass).fold(0.0, f64::max)
}

/// Floating-point operations per second (a multiply-add is two) of `threads` threads (0: one per core) that do
/// nothing but bf16 dot products between registers. Takes about a tenth of a second.
pub fn bf16_dot_peak(threads: usize) -> f64 {
    const ROUNDS: usize = 200_000;
    let cpu = CpuDevice::new(NonZeroUsize::new(threads), Isa::detect());
    let mut sums = vec![0.0f32; cpu.threads()];
    let pass = |sums: &mut [f32]| {
        let begin = Instant::now();
        let sums = Parts::new(sums);
        cpu.pool.run(cpu.threads(), |thread| {
            // SAFETY: each thread has its own sum.
            cpu.isa.run(Dots { rounds: ROUNDS, sum: unsafe { &mut sums.get(thread..thread + 1)[0] } });
        });
        (2 * 2 * LANES * CHAINS * ROUNDS * cpu.threads()) as f64 / begin.elapsed().as_secs_f64()
    };
    let best = (0..PASSES).map(|_| pass(&mut sums)).fold(0.0, f64::max);
    std::hint::black_box(sums);
    best
}

/// How far ahead the sum fetches, in elements: reads faster than the processor's own guesses.
const AHEAD: usize = 512;

struct Sum<'a> {
    data: &'a [f32],
    sum: &'a mut f32,
}

impl Kernel for Sum<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut sums = [s.splat(0.0); 4];
        for data in self.data.chunks_exact(4 * LANES) {
            for (i, sum) in sums.iter_mut().enumerate() {
                s.prefetch(data.as_ptr().wrapping_add(AHEAD + i * LANES).cast());
                // SAFETY: the chunk has four vectors.
                *sum = s.add(*sum, unsafe { s.load_f32(data.as_ptr().add(i * LANES), LANES) });
            }
        }
        *self.sum = s.sums(sums).iter().sum();
    }
}

/// Independent sums, enough to hide the latency of a dot product.
const CHAINS: usize = 12;

struct Dots<'a> {
    rounds: usize,
    sum: &'a mut f32,
}

impl Kernel for Dots<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ones = std::hint::black_box([half::bf16::ONE; 2 * LANES]);
        // SAFETY: the array has 32 elements.
        let ones = unsafe { s.load_pairs(ones.as_ptr(), 2 * LANES) };
        let mut sums = [s.splat(0.0); CHAINS];
        for _ in 0..self.rounds {
            for sum in &mut sums {
                *sum = s.dot_pairs(*sum, ones, ones);
            }
        }
        *self.sum = sums.into_iter().map(|sum| s.sum(sum)).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_positive() {
        assert!(read_bandwidth(1) > 1e8);
        assert!(bf16_dot_peak(1) > 1e8);
        assert!(!instruction_set().is_empty());
    }
}
