//! The checker finds every seeded defect, under every schedule tried, and says nothing of the corrected one.
#![cfg(target_arch = "x86_64")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::undocumented_unsafe_blocks,
    reason = "a test may fail"
)]

mod device;

use cudarc::driver::{result, sys};
use device::{Shape, launch, open, parameter, pass_in_child, upload};

struct Defect {
    name: &'static str,
    blocks: u32,
    threads: u32,
    shared_bytes: u32,
    /// What the checker must say.
    says: &'static str,
}

const fn defect(
    name: &'static str,
    blocks: u32,
    threads: u32,
    shared_bytes: u32,
    says: &'static str,
) -> Defect {
    Defect { name, blocks, threads, shared_bytes, says }
}

const DEFECTS: &[Defect] = &[
    // Which of two accesses comes second, and is reported, depends on the schedule.
    defect("read_before_barrier", 1, 256, 0, "of shared memory at row+"),
    defect("write_after_read", 1, 128, 0, "of shared memory at tile+"),
    defect("warp_without_sync", 1, 32, 0, "of shared memory at lanes+"),
    defect("uninitialised_shared", 1, 64, 0, "UNINITIALISED: read of shared memory at partials+"),
    defect(
        "shared_out_of_bounds",
        1,
        64,
        0,
        "OUT OF BOUNDS: 4-byte write of shared memory at row+256 of 256 bytes",
    ),
    defect("dynamic_out_of_bounds", 1, 64, 256, "OUT OF BOUNDS: 4-byte write of shared memory"),
    defect("global_out_of_bounds", 5, 256, 0, "OUT OF BOUNDS: 4-byte read of device memory"),
    defect("misaligned_vector", 1, 32, 0, "MISALIGNED: 16-byte read"),
    defect("copy_not_waited", 1, 64, 1024, "ASYNC: read of shared memory"),
    defect("copy_not_committed", 1, 64, 256, "ASYNC: read of shared memory"),
    defect("copy_without_barrier", 1, 64, 256, "shared memory"),
    defect("divergent_barrier", 1, 64, 0, "DIVERGENCE: __syncthreads of divergent_barrier.cu:"),
    defect(
        "divergent_shuffle",
        1,
        32,
        0,
        "DEADLOCK: no thread can go on: 16 have returned, 16 wait in a warp-wide",
    ),
    defect(
        "missing_arrival",
        1,
        96,
        0,
        "DEADLOCK: no thread can go on: 32 have returned, 64 wait in barrier_sync",
    ),
    defect("shuffle_outside_mask", 1, 32, 0, "DIVERGENCE: a shuffle reads lane 20"),
    defect("blocks_write_same", 3, 64, 0, "RACE: write of device memory"),
    defect("blocks_without_fence", 6, 32, 0, "RACE: read of device memory"),
    defect("others_local_memory", 1, 32, 0, "OUT OF BOUNDS: read of the local memory of another thread"),
    defect("atomic_and_plain", 1, 64, 0, "RACE"),
];

const SEEDS: u64 = 10;

/// Runs one kernel on fresh buffers; the checker's text if it failed. After a failure the context is lost.
fn run(kernel: &str, defect: &Defect) -> Result<(), String> {
    let (mut out, mut input) = (upload(&[0f32; 1024]), upload(&[0f32; 1024]));
    let shape = Shape { blocks: defect.blocks, threads: defect.threads, shared_bytes: defect.shared_bytes };
    let parameters = &mut [parameter(&mut out), parameter(&mut input)];
    launch(&format!("{}.cu", defect.name), kernel, &shape, parameters)?;
    unsafe {
        result::free_sync(out).unwrap();
        result::free_sync(input).unwrap();
    }
    Ok(())
}

#[test]
fn corrected_kernels_pass_under_every_seed() {
    open();
    for seed in 0..SEEDS {
        cusim::set_seed(seed).unwrap();
        for defect in DEFECTS {
            run(&format!("{}_fixed", defect.name), defect).unwrap();
        }
    }
}

/// A fault loses the context, so each bug has a process of its own: this test, started again with a seed.
#[test]
fn every_seeded_defect_is_found_under_every_seed() {
    for defect in DEFECTS {
        for seed in 0..SEEDS {
            let seed = seed.to_string();
            pass_in_child("one_seeded_defect", &[("SEEDED_DEFECT", defect.name), ("CUSIM_SEED", &seed)]);
        }
    }
}

#[test]
#[ignore = "started by every_seeded_defect_is_found_under_every_seed"]
fn one_seeded_defect() {
    let name = std::env::var("SEEDED_DEFECT").unwrap();
    let defect = DEFECTS.iter().find(|p| p.name == name).unwrap();
    open();
    let text = run(&format!("{name}_bug"), defect).expect_err("the bug was not found");
    assert!(text.contains(defect.says), "{text}");
    let code = result::ctx::synchronize().expect_err("the error must stay").0;
    let address = text.contains("OUT OF BOUNDS");
    let expected = match () {
        () if address => sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
        () if text.contains("MISALIGNED") => sys::CUresult::CUDA_ERROR_MISALIGNED_ADDRESS,
        () => sys::CUresult::CUDA_ERROR_LAUNCH_FAILED,
    };
    assert_eq!(code, expected);
}
