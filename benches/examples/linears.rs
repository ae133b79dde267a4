//! The linears of Qwen3-0.6B's decoder layers at 1, 16 and 512 rows, as shares of the machine's limits measured
//! just before and after. Each layer's best time counts, so that a busy machine says something too; all layers run
//! in turn, so none finds its weights in a cache.
//! `cargo run --release -p mosu-benches --example linears [THREADS]`

use std::{num::NonZeroUsize, time::Instant};

use mosu_benches::{Linears, QWEN3_0_6B};
use mosu_kernels::{Device, Result, limits};

fn main() -> Result<()> {
    let threads = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(2);
    let device = Device::cpu(NonZeroUsize::new(threads));
    let mut linears = Linears::new(QWEN3_0_6B, 12, 512)?;
    let parameters = linears.parameters() as f64;
    println!("{} with {threads} threads, {:.0} M parameters", limits::instruction_set(), parameters / 1e6);
    let mut seconds = [0.0; 3];
    for (seconds, (rows, passes)) in seconds.iter_mut().zip([(1, 10), (16, 10), (512, 3)]) {
        let (bandwidth, peak) = (limits::read_bandwidth(threads), limits::bf16_dot_peak(threads));
        let mut best = vec![f64::INFINITY; linears.layers()];
        for _ in 0..passes {
            for (layer, best) in best.iter_mut().enumerate() {
                let begin = Instant::now();
                linears.run_layer(&device, layer, rows)?;
                *best = best.min(begin.elapsed().as_secs_f64());
            }
        }
        *seconds = best.iter().sum();
        let bandwidth = bandwidth.max(limits::read_bandwidth(threads));
        let (read, computed) = (2.0 * parameters / *seconds, 2.0 * parameters * rows as f64 / *seconds);
        println!(
            "{rows:4} rows: {:7.2} ms, {:5.1} of {:5.1} GB/s ({:3.0} %), {:6.1} of {:6.1} GFLOP/s ({:3.0} %)",
            *seconds * 1e3,
            read / 1e9,
            bandwidth / 1e9,
            read / bandwidth * 100.0,
            computed / 1e9,
            peak / 1e9,
            computed / peak * 100.0,
        );
    }
    println!("16 rows: {:.1} times the rows per second of one", 16.0 * seconds[0] / seconds[1]);
    Ok(())
}
