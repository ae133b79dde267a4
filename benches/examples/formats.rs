//! Speed of a matrix product in every format of weights, on the CPU:
//!
//! `cargo run --release -p mosu-benches --example formats [-- THREADS [FORMAT..]]`
//!
//! With one row a product reads the weight at the memory's speed at best: its share of the read bandwidth, and how many
//! times faster than bf16 it is, counted in weights. With 512 rows: how many times faster than bf16. Each is the median of
//! several runs, with bf16 in turn.

use std::{num::NonZeroUsize, time::Instant};

use mosu_benches::Random;
use mosu_kernels::{
    DType, Device, Format, Result, Tensor, limits,
    ops::{Linear, LinearPart, linear},
};

/// Rows and columns of each weight.
const SHAPE: [usize; 2] = [4096, 4096];
/// Weights that are read in turn: more than any cache holds.
const WEIGHTS: usize = 24;
/// Times that each figure is measured.
const RUNS: usize = 7;

fn main() -> Result<()> {
    let threads = std::env::args().nth(1).and_then(|threads| threads.parse().ok());
    let names: Vec<String> = std::env::args().skip(2).collect();
    let device = Device::cpu(threads);
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let bandwidth = limits::read_bandwidth(threads.map_or(cores, NonZeroUsize::get));
    println!("{:.1} GB/s, {}", bandwidth / 1e9, limits::instruction_set());
    println!("format    bits/weight  1 row: GB/s  of bandwidth  x bf16   512 rows: x bf16");
    let bf16 = weights(Format::Float(DType::BF16))?;
    for format in Format::ALL {
        let chosen = names.is_empty() || names.iter().any(|name| name == format.traits().name);
        if !format.is_packed() || !chosen {
            continue;
        }
        let packed = weights(format)?;
        let (mut one, mut one_bf16, mut many, mut many_bf16) = (vec![], vec![], vec![], vec![]);
        for _ in 0..RUNS {
            one.push(seconds(&device, &packed, 1)?);
            one_bf16.push(seconds(&device, &bf16, 1)?);
            many.push(seconds(&device, &packed[..2], 512)?);
            many_bf16.push(seconds(&device, &bf16[..2], 512)?);
        }
        let [one, one_bf16, many, many_bf16] = [one, one_bf16, many, many_bf16].map(median);
        let bytes: usize = packed.iter().map(Linear::size_in_bytes).sum();
        let weights = SHAPE[0] * SHAPE[1] * WEIGHTS;
        println!(
            "{:9} {:11.2}  {:11.1}  {:11.0} %  {:6.2}  {:17.2}",
            format.traits().name,
            8.0 * bytes as f64 / weights as f64,
            bytes as f64 / one / 1e9,
            100.0 * bytes as f64 / one / bandwidth,
            one_bf16 / one,
            many_bf16 / many,
        );
    }
    Ok(())
}

fn weights(format: Format) -> Result<Vec<Linear>> {
    let mut random = Random::new(1);
    let mut weight = || Linear::new(vec![LinearPart { weight: random.matrix(format, SHAPE)?, bias: None }]);
    (0..WEIGHTS).map(|_| weight()).collect()
}

/// Seconds that products of `rows` rows with all weights take.
fn seconds(device: &Device, weights: &[Linear], rows: usize) -> Result<f64> {
    let x = Random::new(2).bf16([rows, SHAPE[1]])?;
    let mut out = Tensor::zeros([rows, SHAPE[0]], DType::F32)?;
    let started = Instant::now();
    for weight in weights {
        linear(device, out.view_mut()?, x.view(), weight)?;
    }
    Ok(started.elapsed().as_secs_f64())
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
