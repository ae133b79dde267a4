//! Timing, and the lines that come of it.

use std::{error::Error, time::Instant};

use half::bf16;
use mosu_benches::Random;
use mosu_kernels::{DType, Device, Result, Tensor};
use serde_json::json;

/// Timed runs of each measurement.
const RUNS: usize = 30;
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
    /// distance between the quartiles over it.
    pub fn report(
        &self,
        name: &str,
        calls: usize,
        work: Work,
        mut run: impl FnMut() -> Result<()>,
    ) -> Result<(), Box<dyn Error>> {
        let runs = if self.smoke { 1 } else { RUNS };
        for _ in 0..if self.smoke { 0 } else { 3 } {
            run()?;
        }
        self.wait()?;
        let mut times = Vec::with_capacity(runs);
        for _ in 0..runs {
            let start = Instant::now();
            run()?;
            self.wait()?;
            times.push(start.elapsed().as_secs_f64() * 1e6 / calls as f64);
        }
        times.sort_by(f64::total_cmp);
        let (median, quartiles) = (times[runs / 2], times[3 * runs / 4] - times[runs / 4]);
        let Work { bytes, flops } = work;
        let spread = quartiles / median;
        println!("{}", json!({"name": name, "us": median, "spread": spread, "bytes": bytes, "flops": flops}));
        Ok(())
    }

    /// Until the device has done all its work.
    fn wait(&self) -> Result<()> {
        match &self.device {
            Device::Cuda(gpu) => gpu.synchronize(),
            Device::Cpu(_) => Ok(()),
        }
    }
}
