//! The ops in the shape of Qwen3-0.6B, as shares of the machine's limits. `cargo bench -p mosu-benches [FILTER]`;
//! `MOSU_THREADS` sets the number of threads.
#![allow(missing_docs)] // What criterion's macros define.

use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use half::bf16;
use mosu_benches::{Linears, QWEN3_0_6B, Random};
use mosu_kernels::{
    Allocator, DType, Device, Result, Tensor, View, limits,
    ops::{
        Activation, ApplyRouterWeight, AttentionMask, AttentionParams, Expert, Experts, Glu, KvCache, Linear,
        LinearPart, MoeWorkspace, PagedSequences, moe, paged_attention,
    },
};

/// What bounds an op.
#[derive(Clone, Copy)]
enum Work {
    Bytes(f64),
    Flop(f64),
}

struct Bench<'a> {
    criterion: &'a mut Criterion,
    device: Device,
    threads: usize,
}

impl Bench<'_> {
    /// Benchmarks `op` and prints its fastest run as a share of the limit, measured just before and after.
    fn op(&mut self, name: &str, work: Work, mut op: impl FnMut(&Device) -> Result<()>) {
        let limit = || match work {
            Work::Bytes(_) => limits::read_bandwidth(self.threads),
            Work::Flop(_) => limits::bf16_dot_peak(self.threads),
        };
        let before = limit();
        let mut fastest = Duration::MAX;
        self.criterion.bench_function(name, |bencher| {
            bencher.iter_custom(|runs| {
                let mut total = Duration::ZERO;
                for _ in 0..runs {
                    let begin = Instant::now();
                    op(&self.device).unwrap_or_else(|error| fail(&error));
                    let time = begin.elapsed();
                    (fastest, total) = (fastest.min(time), total + time);
                }
                total
            });
        });
        // Left out by the filter.
        if fastest == Duration::MAX {
            return;
        }
        let limit = limit().max(before);
        let (done, unit) = match work {
            Work::Bytes(bytes) => (bytes, "GB/s"),
            Work::Flop(flop) => (flop, "GFLOP/s"),
        };
        let rate = done / fastest.as_secs_f64();
        println!("    {:.1} of {:.1} {unit}: {:.0} %\n", rate / 1e9, limit / 1e9, rate / limit * 100.0);
    }
}

fn fail(error: &dyn std::error::Error) -> ! {
    eprintln!("{error}");
    std::process::exit(1)
}

fn ops(criterion: &mut Criterion) {
    let threads = std::env::var("MOSU_THREADS").ok().and_then(|n| n.parse().ok());
    let threads = threads.or(std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let device = Device::cpu(NonZeroUsize::new(threads));
    println!("{} with {threads} threads\n", limits::instruction_set());
    let mut bench = Bench { criterion, device, threads };
    let result = linears(&mut bench)
        .and_then(|()| attention(&mut bench))
        .and_then(|()| mixture_of_experts(&mut bench));
    result.unwrap_or_else(|error| fail(&error));
}

/// A decoder layer's linears; layers alternate so that weights come from memory.
fn linears(bench: &mut Bench<'_>) -> Result<()> {
    let mut linears = Linears::new(QWEN3_0_6B, 12, 512)?;
    let parameters = (linears.parameters() / linears.layers()) as f64;
    for rows in [1, 16, 512] {
        let work = if rows == 1 {
            Work::Bytes(2.0 * parameters)
        } else {
            Work::Flop(2.0 * parameters * rows as f64)
        };
        let mut layer = 0;
        bench.op(&format!("linears of a layer, {rows} rows"), work, |device| {
            layer = (layer + 1) % linears.layers();
            linears.run_layer(device, layer, rows)
        });
    }
    Ok(())
}

/// 16 query and 8 key/value heads of 128: a prefill of 512 tokens, and decodes of long sequences.
fn attention(bench: &mut Bench<'_>) -> Result<()> {
    const BLOCKS: usize = 4096;
    let [heads, kv_heads, head_dim] = [16, 8, 128];
    let mut random = Random::new(2);
    let mut cache = || -> Result<Tensor> {
        let mut tensor = Tensor::zeros([BLOCKS, kv_heads, 16, head_dim], DType::BF16)?;
        tensor.as_mut_slice::<bf16>()?.fill_with(|| bf16::from_f32(random.float()));
        Ok(tensor)
    };
    let (k, v) = (cache()?, cache()?);
    for (sequences, rows, context) in [(1, 512, 512), (1, 1, 16384), (16, 1, 2048)] {
        let all = sequences * rows;
        let q: Vec<bf16> = (0..all * heads * head_dim).map(|_| bf16::from_f32(random.float())).collect();
        let mut out = Tensor::zeros([all, heads * head_dim], DType::BF16)?;
        let starts: Vec<u32> = (0..=sequences).map(|i| (i * rows) as u32).collect();
        let contexts = vec![context as u32; sequences];
        let width = context / 16;
        let tables: Vec<u32> = (0..sequences * width).map(|i| (i * 1031 % BLOCKS) as u32).collect();
        let pages = PagedSequences {
            cu_seqlens_q: View::from_slice([sequences + 1], &starts)?,
            context_lens: View::from_slice([sequences], &contexts)?,
            block_tables: View::from_slice([sequences, width], &tables)?,
        };
        let work = if rows == 1 {
            Work::Bytes((sequences * context * kv_heads * head_dim * 4) as f64)
        } else {
            let keys: usize = (context - rows + 1..=context).sum();
            Work::Flop((sequences * keys * heads * head_dim * 4) as f64)
        };
        let q = View::from_slice([all, heads, head_dim], &q)?;
        let params = AttentionParams::new(0.088, AttentionMask::Full);
        let cache = KvCache { k: k.view(), v: v.view() };
        bench.op(&format!("attention, {sequences} x {rows} rows, {context} tokens"), work, |device| {
            paged_attention(device, out.view_mut()?, q, cache, pages, params)
        });
    }
    Ok(())
}

/// 32 experts of width 512, four per token.
fn mixture_of_experts(bench: &mut Bench<'_>) -> Result<()> {
    let [experts, chosen, hidden, intermediate] = [32, 4, 1024, 512];
    let mut random = Random::new(3);
    let mut part = |n, k| Ok(LinearPart { weight: random.bf16([n, k])?.into(), bias: None });
    let mut layer = || -> Result<Experts> {
        let mut expert = || {
            Ok(Expert {
                gate_up: Linear::new(vec![part(intermediate, hidden)?, part(intermediate, hidden)?])?,
                down: Linear::new(vec![part(hidden, intermediate)?])?,
            })
        };
        Experts::new((0..experts).map(|_| expert()).collect::<Result<_>>()?)
    };
    let layers = [layer()?, layer()?];
    let mut workspace = MoeWorkspace::new(
        &Allocator::new(&bench.device),
        512,
        chosen,
        hidden,
        intermediate,
        experts,
        DType::BF16,
    )?;
    let x = random.bf16([512, hidden])?;
    let mut out = Tensor::zeros([512, hidden], DType::F32)?;
    let ids: Vec<u32> = (0..512 * chosen).map(|i| (i * 7 % experts) as u32).collect();
    let weights = vec![0.25f32; ids.len()];
    for rows in [1, 512] {
        let parameters = (3 * hidden * intermediate * chosen) as f64;
        let work = if rows == 1 {
            Work::Bytes(2.0 * parameters)
        } else {
            Work::Flop(2.0 * parameters * rows as f64)
        };
        let mut turn = 0;
        bench.op(&format!("mixture of experts, {rows} rows"), work, |device| {
            // Other experts every time, so that their weights come from memory.
            turn += 1;
            let shifted: Vec<u32> =
                ids[..rows * chosen].iter().map(|id| (id + 4 * turn as u32) % experts as u32).collect();
            let ids = View::from_slice([rows, chosen], &shifted)?;
            let weights = View::from_slice([rows, chosen], &weights[..rows * chosen])?;
            let layer = &layers[turn / 8 % 2];
            moe(
                device,
                out.rows_mut(rows)?,
                x.rows(rows)?,
                ids,
                weights,
                layer,
                Glu::Plain(Activation::Silu),
                ApplyRouterWeight::OnOutput,
                &mut workspace,
            )
        });
    }
    Ok(())
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = ops
}
criterion_main!(benches);
