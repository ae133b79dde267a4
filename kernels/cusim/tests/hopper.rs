//! TMA, mbarriers and wgmma: right products, and every seeded defect of a pipeline found under every schedule.
#![cfg(target_arch = "x86_64")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::undocumented_unsafe_blocks,
    reason = "a test may fail"
)]

mod device;

use device::{Shape, download, launch, open, parameter, pass_in_child, tensor_map, upload};

const FILE: &str = "hopper_pipeline.cu";
const K: usize = 200; // three and an eighth tiles of 64

/// Small integers in bf16: products and sums are exact in any order.
fn integers(n: usize, seed: usize) -> (Vec<u16>, Vec<f32>) {
    let values: Vec<f32> = (0..n).map(|i| ((i * 7 + i / 13 * 5 + seed) % 11) as f32 - 5.0).collect();
    (values.iter().map(|v| (v.to_bits() >> 16) as u16).collect(), values)
}

/// a [m, k] * b [n, k]^T.
fn product(a: &[f32], b: &[f32], k: usize) -> Vec<f32> {
    let row =
        |a: &[f32]| b.chunks(k).map(|b| a.iter().zip(b).map(|(x, y)| x * y).sum()).collect::<Vec<f32>>();
    a.chunks(k).flat_map(row).collect()
}

fn run_pipeline(kernel: &str) -> Result<(), String> {
    let ((a_bits, a), (b_bits, b)) = (integers(64 * K, 1), integers(64 * K, 4));
    let map = |bits: &[u16]| tensor_map(upload(bits), [64, K], [64, 64], true);
    let (mut a_map, mut b_map) = (map(&a_bits), map(&b_bits));
    let (mut out, mut k) = (upload(&[f32::NAN; 64 * 64]), K as i32);
    let shape = Shape { blocks: 1, threads: 160, shared_bytes: 4 * 8192 + 128 };
    let parameters =
        &mut [parameter(&mut out), parameter(&mut a_map), parameter(&mut b_map), parameter(&mut k)];
    launch(FILE, kernel, &shape, parameters)?;
    assert_eq!(download::<f32>(out, 64 * 64), product(&a, &b, K));
    Ok(())
}

fn run_plain_operand(kernel: &str) -> Result<(), String> {
    let ((a_bits, a), (b_bits, b)) = (integers(64 * 16, 2), integers(8 * 16, 3));
    let (mut a_memory, mut b_memory, mut out) =
        (upload(&a_bits), upload(&b_bits), upload(&[f32::NAN; 64 * 8]));
    let shape = Shape { blocks: 1, threads: 128, shared_bytes: 256 };
    launch(
        FILE,
        kernel,
        &shape,
        &mut [parameter(&mut out), parameter(&mut a_memory), parameter(&mut b_memory)],
    )?;
    assert_eq!(download::<f32>(out, 64 * 8), product(&a, &b, 16));
    Ok(())
}

fn run(kernel: &str) -> Result<(), String> {
    if kernel.starts_with("plain") { run_plain_operand(kernel) } else { run_pipeline(kernel) }
}

/// Kernel and what the checker must say.
const BUGS: &[(&str, &str)] = &[
    ("pipeline_full_not_waited", "shared memory at dynamic shared memory+"),
    // The warpgroup may be caught reading, or the producer arriving for a phase that has not ended.
    ("pipeline_empty_not_waited", ""),
    ("pipeline_released_before_wait", "shared memory"),
    ("pipeline_product_not_waited", "ASYNC: an accumulator of wgmma was written before wgmma_wait"),
    ("pipeline_no_wgmma_fence", "INVALID: wgmma without a wgmma_fence"),
    ("pipeline_no_init_fence", "PROXY: TMA uses an mbarrier without mbarrier_fence_init"),
    ("pipeline_no_barrier_after_init", "UNINITIALISED: mbarrier"),
    ("pipeline_too_many_bytes", "DEADLOCK"),
    ("pipeline_too_many_arrivals", "INVALID: more arrivals than the 1 of the mbarrier's phase"),
    ("pipeline_tile_misaligned", "MISALIGNED: the target of TMA must be aligned to 1024 bytes"),
    ("plain_operand_bug", "PROXY: wgmma reads shared memory at dynamic shared memory+"),
];
const SEEDS: u64 = 6;

#[test]
fn products_are_right() {
    pass_in_child("right_products", &[("CUSIM_CAPABILITY", "9.0")]);
}

#[test]
#[ignore = "started by products_are_right"]
fn right_products() {
    open();
    for seed in 0..SEEDS {
        cusim::set_seed(seed).unwrap();
        run("pipeline_fixed").unwrap();
        run("plain_operand_fixed").unwrap();
    }
}

#[test]
fn every_bug_is_found_under_every_seed() {
    for (kernel, _) in BUGS {
        for seed in 0..SEEDS {
            let seed = seed.to_string();
            pass_in_child(
                "one_bug",
                &[("CUSIM_CAPABILITY", "9.0"), ("CUSIM_SEED", &seed), ("SEEDED_DEFECT", kernel)],
            );
        }
    }
}

#[test]
#[ignore = "started by every_bug_is_found_under_every_seed"]
fn one_bug() {
    let name = std::env::var("SEEDED_DEFECT").unwrap();
    let says = BUGS.iter().find(|(kernel, _)| *kernel == name).unwrap().1;
    open();
    let text = run(&name).expect_err("the bug was not found");
    assert!(text.contains(says), "{text}");
}
