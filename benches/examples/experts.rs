//! A sparse layer of Qwen3-30B-A3B at 1, 16, 128 and 512 rows, as shares of the machine's limits measured just before
//! and after. The best of some passes counts, so that a busy machine says something too; every pass chooses experts
//! anew, so few find their weights in a cache.
//! `cargo run --release -p mosu-benches --example experts [THREADS]`

use std::{num::NonZeroUsize, time::Instant};

use mosu_benches::Random;
use mosu_kernels::{
    Allocator, DType, Device, Result, Tensor, View, limits,
    ops::{Activation, ApplyRouterWeight, Expert, Experts, Glu, Linear, LinearPart, MoeWorkspace, moe},
};

const EXPERTS: usize = 128;
const CHOSEN: usize = 8;
const HIDDEN: usize = 2048;
const INTERMEDIATE: usize = 768;
const MAX_ROWS: usize = 512;

fn main() -> Result<()> {
    let threads = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(2);
    let device = Device::cpu(NonZeroUsize::new(threads));
    let mut random = Random::new(7);
    let experts = Experts::new((0..EXPERTS).map(|_| expert(&mut random)).collect::<Result<_>>()?)?;
    let mut workspace = MoeWorkspace::new(
        &Allocator::new(&device),
        MAX_ROWS,
        CHOSEN,
        HIDDEN,
        INTERMEDIATE,
        EXPERTS,
        DType::BF16,
    )?;
    let x = random.bf16([MAX_ROWS, HIDDEN])?;
    let weights = vec![0.125f32; MAX_ROWS * CHOSEN];
    let mut out = Tensor::zeros([MAX_ROWS, HIDDEN], DType::F32)?;
    println!("{} with {threads} threads", limits::instruction_set());
    for (rows, passes) in [(1, 60), (16, 12), (128, 8), (512, 4)] {
        let (bandwidth, peak) = (limits::read_bandwidth(threads), limits::bf16_dot_peak(threads));
        let (mut best, mut read) = (f64::INFINITY, 0.0);
        for _ in 0..passes {
            let ids: Vec<u32> = (0..rows).flat_map(|_| choose(&mut random)).collect();
            let ids_view = View::from_slice([rows, CHOSEN], &ids)?;
            let weights = View::from_slice([rows, CHOSEN], &weights[..rows * CHOSEN])?;
            let begin = Instant::now();
            let (glu, weigh) = (Glu::Plain(Activation::Silu), ApplyRouterWeight::OnOutput);
            let (to, from) = (out.rows_mut(rows)?, x.rows(rows)?);
            moe(&device, to, from, ids_view, weights, &experts, glu, weigh, &mut workspace)?;
            let seconds = begin.elapsed().as_secs_f64();
            if seconds < best {
                let active = (0..EXPERTS).filter(|&e| ids.contains(&(e as u32))).count();
                (best, read) = (seconds, (active * 3 * HIDDEN * INTERMEDIATE * 2) as f64 / seconds);
            }
        }
        let (bandwidth, peak) =
            (bandwidth.max(limits::read_bandwidth(threads)), peak.max(limits::bf16_dot_peak(threads)));
        let computed = (rows * CHOSEN * 3 * HIDDEN * INTERMEDIATE * 2) as f64 / best;
        println!(
            "{rows:4} rows: {:7.2} ms, {:5.1} of {:5.1} GB/s ({:3.0} %), {:6.1} of {:6.1} GFLOP/s ({:3.0} %)",
            best * 1e3,
            read / 1e9,
            bandwidth / 1e9,
            read / bandwidth * 100.0,
            computed / 1e9,
            peak / 1e9,
            computed / peak * 100.0,
        );
    }
    Ok(())
}

fn expert(random: &mut Random) -> Result<Expert> {
    let mut part = |n, k| Ok(LinearPart { weight: random.bf16([n, k])?.into(), bias: None });
    Ok(Expert {
        gate_up: Linear::new(vec![part(INTERMEDIATE, HIDDEN)?, part(INTERMEDIATE, HIDDEN)?])?,
        down: Linear::new(vec![part(HIDDEN, INTERMEDIATE)?])?,
    })
}

/// Distinct experts of one row.
fn choose(random: &mut Random) -> Vec<u32> {
    let mut ids: Vec<u32> = vec![];
    while ids.len() < CHOSEN {
        let id = ((random.float() + 1.0) / 2.0 * EXPERTS as f32) as u32 % EXPERTS as u32;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}
