//! Timing, and the lines that come of it.

use std::{error::Error, time::Instant};

use half::bf16;
use mosu_benches::Random;
use mosu_kernels::{CudaGraph, DType, Device, Result, Tensor};
use serde_json::json;

/// Timed runs of each measurement, and how long each is at least, so that to start it and to wait hardly count.
const RUNS: usize = 30;
const RUN_SECONDS: f64 = 2e-3;
/// Inputs rotate through three times this much memory, so that none is in a cache when its turn comes.
const CACHE_BYTES: usize = 60 << 20;

/// Where figures go.
pub struct Sheet {
    pub device: Device,
    smoke: bool,
}

/// What a call has to do at least.
#[derive(Clone, Copy, Default)]
pub struct Work {
    pub bytes: usize,
    pub flops: usize,
}

impl Sheet {
    pub fn new(device: Device, smoke: bool) -> Sheet {
        Sheet { device, smoke }
    }

    /// How many inputs of `bytes` bytes to rotate through.
    pub fn copies(&self, bytes: usize) -> usize {
        if self.smoke { 1 } else { (3 * CACHE_BYTES / bytes.max(1) + 1).clamp(2, 64) }
    }

    /// A tensor of small random values on the device.
    pub fn random(&self, shape: impl Into<mosu_kernels::Shape>) -> Result<Tensor> {
        let shape = shape.into();
        let mut random = Random::new(shape.elements() as u64);
        let values: Vec<bf16> =
            (0..shape.elements()).map(|_| bf16::from_f32(random.float() / 16.0)).collect();
        Tensor::from_slice(shape, &values)?.to_device(&self.device)
    }

    /// Zeros on the device.
    pub fn zeros(&self, shape: impl Into<mosu_kernels::Shape>, dtype: DType) -> Result<Tensor> {
        Tensor::zeros_on(&self.device, shape, dtype)
    }

    /// Times `run`, which makes `calls` calls that each do `work`, and prints the median time of a call and the
    /// distance between the quartiles over it. On a GPU it is recorded, as decode steps are.
    pub fn report(
        &self,
        name: &str,
        calls: usize,
        work: Work,
        mut run: impl FnMut() -> Result<()>,
    ) -> Result<(), Box<dyn Error>> {
        let (runs, warm_ups) = if self.smoke { (1, 1) } else { (RUNS, 3) };
        let mut once = f64::INFINITY;
        for _ in 0..warm_ups {
            once = once.min(self.seconds(&mut run)?);
        }
        let repeats = if self.smoke { 1 } else { (RUN_SECONDS / once).ceil().clamp(1.0, 100.0) as usize };
        let mut all = || (0..repeats).try_for_each(|_| run());
        let mut timed: Box<dyn FnMut() -> Result<()>> = match &self.device {
            Device::Cpu(_) => Box::new(all),
            Device::Cuda(gpu) => {
                let graph = CudaGraph::capture(gpu, &mut all)?;
                Box::new(move || graph.run())
            }
        };
        let mut times = Vec::with_capacity(runs);
        for _ in 0..runs {
            times.push(self.seconds(&mut timed)? * 1e6 / (calls * repeats) as f64);
        }
        times.sort_by(f64::total_cmp);
        let (median, quartiles) = (times[runs / 2], times[3 * runs / 4] - times[runs / 4]);
        let Work { bytes, flops } = work;
        let spread = quartiles / median;
        println!("{}", json!({"name": name, "us": median, "spread": spread, "bytes": bytes, "flops": flops}));
        Ok(())
    }

    /// The time of a run, until the device has done all its work.
    fn seconds(&self, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
        let start = Instant::now();
        run()?;
        if let Device::Cuda(gpu) = &self.device {
            gpu.synchronize()?;
        }
        Ok(start.elapsed().as_secs_f64())
    }
}
