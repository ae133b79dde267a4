//! The limits of a GPU.

use std::time::Instant;

use super::Limits;
use crate::{
    CudaDevice, DType, Device, Result, Tensor,
    cuda::{Args, Grid},
};

/// Most bytes of the buffer that is read: many times the second-level cache.
const READ_BYTES: usize = 1 << 30;
/// Seconds that work must take for its start and end not to show.
const LONG_ENOUGH: f64 = 0.005;
/// The best of so many counts.
const PASSES: usize = 3;

/// Measures them, in some tens of milliseconds and with up to 1 GiB of memory, of which half of what is free is enough.
///
/// # Errors
/// When the device failed.
pub(super) fn measure(device: &Device, gpu: &CudaDevice) -> Result<Limits> {
    Ok(Limits { read_bandwidth: read_bandwidth(device, gpu)?, bf16_dot_peak: bf16_dot_peak(device, gpu)? })
}

/// Bytes per second.
fn read_bandwidth(device: &Device, gpu: &CudaDevice) -> Result<f64> {
    const UNIT: usize = 1 << 20;
    let most = (READ_BYTES.min(gpu.memory()?.0 as usize / 2) / UNIT).max(1);
    let data = Tensor::zeros_on(device, [most * UNIT / size_of::<u32>()], DType::U32)?;
    let units = rate(gpu, |units| {
        let (whole, rest) = (units / most, units % most);
        let mut sums = sums(device, Probe::read(gpu), DType::U32)?;
        (0..whole).try_for_each(|_| read(gpu, &mut sums, &data, most * UNIT))?;
        read(gpu, &mut sums, &data, rest * UNIT)
    })?;
    Ok(units * UNIT as f64)
}

/// Floating-point operations per second; a multiply-add is two.
fn bf16_dot_peak(device: &Device, gpu: &CudaDevice) -> Result<f64> {
    let probe = Probe::products(gpu);
    let mut sums = sums(device, probe, DType::F32)?;
    Ok(rate(gpu, |rounds| multiply(gpu, probe, &mut sums, rounds as u32))? * probe.flops_per_round())
}

/// How a kernel is launched.
#[derive(Clone, Copy)]
struct Probe {
    kernel: &'static str,
    blocks: u32,
    threads: u32,
    shared_bytes: u32,
    /// Floating-point operations of a thread block in a round.
    flops: f64,
}

impl Probe {
    fn read(gpu: &CudaDevice) -> Probe {
        let blocks = 2 * gpu.multiprocessors();
        Probe { kernel: "limits_read_u32", blocks, threads: 512, shared_bytes: 0, flops: 0.0 }
    }

    /// wgmma where it is, else mma.sync, which all others have.
    fn products(gpu: &CudaDevice) -> Probe {
        if gpu.capability() == (9, 0) { Probe::wgmma(gpu) } else { Probe::mma(gpu) }
    }

    fn wgmma(gpu: &CudaDevice) -> Probe {
        let (blocks, shared_bytes) = (gpu.multiprocessors(), (128 + 256) * 64 * 2);
        let flops = 2.0 * f64::from(128 * 256 * 64);
        Probe { kernel: "limits_wgmma_bf16", blocks, threads: 256, shared_bytes, flops }
    }

    fn mma(gpu: &CudaDevice) -> Probe {
        let blocks = 4 * gpu.multiprocessors();
        // 8 products in each of 8 warps.
        let flops = 2.0 * f64::from(8 * 8 * 16 * 8 * 16);
        Probe { kernel: "limits_mma_bf16", blocks, threads: 256, shared_bytes: 0, flops }
    }

    fn flops_per_round(&self) -> f64 {
        self.flops * f64::from(self.blocks)
    }

    fn launch(&self, gpu: &CudaDevice, args: &Args) -> Result<()> {
        let Probe { kernel, blocks, threads, shared_bytes, .. } = *self;
        gpu.launch(kernel, Grid { blocks: [blocks, 1, 1], threads, shared_bytes }, args)
    }
}

/// `[threads]` of a probe: what its threads found, so that nothing they do is in vain.
fn sums(device: &Device, probe: Probe, dtype: DType) -> Result<Tensor> {
    Tensor::zeros_on(device, [(probe.blocks * probe.threads) as usize], dtype)
}

fn read(gpu: &CudaDevice, sums: &mut Tensor, data: &Tensor, bytes: usize) -> Result<()> {
    let mut args = Args::new();
    args.write(&mut sums.view_mut()?).read(&data.view()).u64((bytes / size_of::<u32>()) as u64);
    Probe::read(gpu).launch(gpu, &args)
}

fn multiply(gpu: &CudaDevice, probe: Probe, sums: &mut Tensor, rounds: u32) -> Result<()> {
    let mut args = Args::new();
    args.write(&mut sums.view_mut()?).u32(rounds);
    probe.launch(gpu, &args)
}

/// Units of work per second, of so many at once that they take long enough.
fn rate(gpu: &CudaDevice, mut work: impl FnMut(usize) -> Result<()>) -> Result<f64> {
    let mut time = |units| {
        gpu.synchronize()?;
        let begin = Instant::now();
        work(units)?;
        gpu.synchronize()?;
        Ok(begin.elapsed().as_secs_f64())
    };
    let mut units = 1;
    while time(units)? < LONG_ENOUGH && units < 1 << 24 {
        units *= 2;
    }
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        best = best.min(time(units)?);
    }
    Ok(units as f64 / best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::cuda;

    fn gpu(device: &Device) -> &CudaDevice {
        match device {
            Device::Cuda(gpu) => gpu,
            Device::Cpu(_) => panic!("not a GPU"),
        }
    }

    #[test]
    fn every_word_is_read() {
        let Some(device) = cuda() else { return };
        let words: Vec<u32> = (0..100_000u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
        let data = Tensor::from_slice([words.len()], &words).unwrap().to_device(&device).unwrap();
        let mut sums = sums(&device, Probe::read(gpu(&device)), DType::U32).unwrap();
        read(gpu(&device), &mut sums, &data, 4 * 99_996).unwrap();
        let all = |words: &[u32]| words.iter().fold(0, |sum, word| sum ^ word);
        assert_eq!(all(&sums.to_vec(&device).unwrap()), all(&words[..99_996]));
    }

    #[test]
    fn products_are_computed_as_often_as_counted() {
        let Some(device) = cuda() else { return };
        for probe in [Probe::mma(gpu(&device)), Probe::products(gpu(&device))] {
            let after = |rounds| {
                let mut sums = sums(&device, probe, DType::F32).unwrap();
                multiply(gpu(&device), probe, &mut sums, rounds).unwrap();
                sums.to_vec::<f32>(&device).unwrap()
            };
            let (once, five) = (after(1), after(5));
            for (once, five) in once.iter().zip(&five) {
                let near = (five - 5.0 * once).abs() < 1e-3 * once.abs().max(100.0);
                assert!(*once != 0.0 && near, "{}: {once} {five}", probe.kernel);
            }
        }
    }

    #[test]
    fn limits_are_positive() {
        let Some(device) = cuda() else { return };
        let limits = measure(&device, gpu(&device)).unwrap();
        assert!(limits.read_bandwidth > 1e3 && limits.bf16_dot_peak > 1e3, "{limits:?}");
    }
}
