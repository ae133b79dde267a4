//! Every PTX wrapper does what plain Rust says, and what a GPU has done where that is recorded (conformance/README.md).
//! On a GPU, this test is what records.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

#[path = "../device/mod.rs"]
mod device;
mod expected;
mod golden;
mod inputs;

use device::*;
use expected::*;
use inputs::*;
use std::path::{Path, PathBuf};
use std::{env, fs};

const THREADS: usize = 128;

/// A file of kernels, the lowest compute capability it runs on, whether it runs on that alone, and its wrappers.
struct File {
    name: &'static str,
    capability: i32,
    only: bool,
    wrappers: &'static [Wrapper],
}

/// A wrapper, whose kernel is `conformance_<name>`.
struct Wrapper {
    name: &'static str,
    /// Of the input, and how each is made.
    words: usize,
    make: fn(&mut Random) -> u32,
    expected: fn(&[u32]) -> Vec<u32>,
    room: Room,
    argument: Argument,
}

/// How far outputs may lie from the expected and from recorded ones.
#[derive(Clone, Copy)]
enum Room {
    /// The same bits.
    None,
    /// As f32, where hardware rounds in its own way: at most so far apart.
    Absolute(f32),
    /// The same times the expected value.
    Relative(f32),
}

/// What the kernel takes for its input.
enum Argument {
    Pointer,
    /// A map of [`MATRIX`] in boxes of [`BOX`].
    Map {
        swizzle: bool,
    },
}

impl Wrapper {
    const fn new(
        name: &'static str,
        words: usize,
        make: fn(&mut Random) -> u32,
        expected: fn(&[u32]) -> Vec<u32>,
    ) -> Wrapper {
        Wrapper { name, words, make, expected, room: Room::None, argument: Argument::Pointer }
    }
    const fn within(self, room: Room) -> Wrapper {
        Wrapper { room, ..self }
    }
    const fn by_map(self, swizzle: bool) -> Wrapper {
        Wrapper { argument: Argument::Map { swizzle }, ..self }
    }
}

/// The unit promises a relative error of 2^-22.
const EXP2: Room = Room::Relative(1.0 / (1 << 20) as f32);
/// 17 addends of magnitude 1 at most: tensor cores cut each at 2^-23 of the largest or below, and their sum, below 16,
/// once more.
const SUM: Room = Room::Absolute(1.0 / (1 << 17) as f32);

const FILES: [File; 3] = [
    File { name: "sm80.cu", capability: 80, only: false, wrappers: SM80 },
    File { name: "sm90.cu", capability: 90, only: false, wrappers: SM90 },
    File { name: "sm90a.cu", capability: 90, only: true, wrappers: SM90A },
];
const SM80: &[Wrapper] = &[
    Wrapper::new("cp_async_16", 512, any, |x| scattered(x, 4)),
    Wrapper::new("cp_async_4", 128, any, |x| scattered(x, 1)),
    Wrapper::new("ldmatrix_x4", 128, any, |x| matrices(x, 4, false)),
    Wrapper::new("ldmatrix_x4_trans", 128, any, |x| matrices(x, 4, true)),
    Wrapper::new("ldmatrix_x2", 128, any, |x| matrices(x, 2, false)),
    Wrapper::new("ldmatrix_x2_trans", 128, any, |x| matrices(x, 2, true)),
    // Sums of small integers are exact in any order.
    Wrapper::new("mma_bf16", 1280, bf16_integers, mma),
    Wrapper::new("mma_bf16_rounding", 1280, bf16_fractions, mma).within(SUM),
    Wrapper::new("fast_exp2", 128, exponent, exp2).within(EXP2),
    Wrapper::new("warp_sum", 128, fraction, |x| sums(x, 32)),
    Wrapper::new("block_sum", 128, fraction, block_sums),
    Wrapper::new("load_streaming", 512, any, <[u32]>::to_vec),
    Wrapper::new("pack_bf16", 256, fraction, packed),
];
const SM90: &[Wrapper] = &[
    Wrapper::new("mbarrier", 128, any, neighbours),
    Wrapper::new("tma_swizzled", 800, any, |x| boxes(x, true)).by_map(true),
    Wrapper::new("tma_plain", 800, any, |x| boxes(x, false)).by_map(false),
];
const SM90A: &[Wrapper] = &[
    Wrapper::new("wgmma_n8_swizzled", 576, bf16_integers, product),
    Wrapper::new("wgmma_n64_swizzled", 1024, bf16_integers, product),
    Wrapper::new("wgmma_n64_rounding", 1024, bf16_fractions, product).within(SUM),
    Wrapper::new("wgmma_n200_swizzled", 2112, bf16_integers, product),
    Wrapper::new("wgmma_n256_swizzled", 2560, bf16_integers, product),
    Wrapper::new("wgmma_n128_plain", 1536, bf16_integers, product),
    Wrapper::new("wgmma_n16_registers", 640, bf16_integers, product),
    Wrapper::new("wgmma_n256_registers", 2560, bf16_integers, product),
    Wrapper::new("wgmma_n64_by_rows", 1024, bf16_integers, product_by_rows),
    Wrapper::new("wgmma_n256_by_rows", 2560, bf16_integers, product_by_rows),
];

impl File {
    fn runs_here(&self) -> bool {
        let capability = capability();
        capability == self.capability || capability > self.capability && !self.only
    }
}

impl Room {
    fn has(self, got: u32, expected: u32) -> bool {
        let (apart, expected_f32) =
            ((f32::from_bits(got) - f32::from_bits(expected)).abs(), f32::from_bits(expected).abs());
        match self {
            Room::None => got == expected,
            Room::Absolute(room) => apart <= room,
            Room::Relative(room) => apart <= room * expected_f32,
        }
    }
}

// ---- the environment --------------------------------------------------------------------------------------------
/// The wrapper that a child runs.
const WRAPPER: &str = "MOSU_CONFORMANCE_WRAPPER";
/// Where to store what the device gave.
const RECORD: &str = "MOSU_CONFORMANCE_RECORD";
/// Where what a GPU gave is stored, if not in this crate.
const GOLDENS: &str = "MOSU_CONFORMANCE_GOLDENS";
/// What a child says of a wrapper that its device cannot run.
const LEFT_OUT: &str = "is not for this GPU";

fn goldens() -> PathBuf {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/goldens");
    env::var_os(GOLDENS).map_or_else(own, PathBuf::from)
}

// ---- one wrapper ------------------------------------------------------------------------------------------------
fn run(file: &File, wrapper: &Wrapper, input: &[u32], length: usize) -> Vec<u32> {
    let (mut out, mut memory) = (upload(&vec![u32::MAX; length]), upload(input));
    let shape = Shape { blocks: 1, threads: THREADS as u32, shared_bytes: 57344 };
    let kernel = format!("conformance_{}", wrapper.name);
    match wrapper.argument {
        Argument::Pointer => {
            launch(file.name, &kernel, &shape, &mut [parameter(&mut out), parameter(&mut memory)]).unwrap();
        }
        Argument::Map { swizzle } => {
            let mut map = tensor_map(memory, MATRIX, BOX, swizzle);
            launch(file.name, &kernel, &shape, &mut [parameter(&mut out), parameter(&mut map)]).unwrap();
        }
    }
    download(out, length)
}

fn demand_equal(wrapper: &Wrapper, got: &[u32], expected: &[u32], whose: &str) {
    assert_eq!(got.len(), expected.len(), "{}", wrapper.name);
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let equal = wrapper.room.has(got, expected);
        assert!(equal, "{}, word {i}: {got:#x}, {whose} {expected:#x}", wrapper.name);
    }
}

#[test]
#[ignore = "started by every_wrapper_does_what_it_says, in a process that a fault may end"]
fn one_wrapper() {
    let name = env::var(WRAPPER).unwrap();
    let all = FILES.iter().flat_map(|file| file.wrappers.iter().map(move |wrapper| (file, wrapper)));
    let (file, wrapper) = all.into_iter().find(|(_, wrapper)| wrapper.name == name).unwrap();
    open();
    if !file.runs_here() {
        return println!("{name} {LEFT_OUT}");
    }
    let mut random = Random::of(wrapper.name);
    let input: Vec<u32> = (0..wrapper.words).map(|_| (wrapper.make)(&mut random)).collect();
    let expected = (wrapper.expected)(&input);
    let got = run(file, wrapper, &input, expected.len());
    if let Some(folder) = env::var_os(RECORD) {
        golden::write(Path::new(&folder), &name, &input, &got);
    }
    demand_equal(wrapper, &got, &expected, "plain Rust gives");
    if let Some(recorded) = golden::read(&goldens(), &name, &input) {
        demand_equal(wrapper, &got, &recorded, "a GPU gave");
    }
}

// ---- all of them ------------------------------------------------------------------------------------------------
/// Runs a wrapper; what went wrong.
fn outcome_of(file: &File, wrapper: &Wrapper, environment: &[(&str, &str)]) -> Result<(), String> {
    let capability = format!("{}.{}", file.capability / 10, file.capability % 10);
    let own = [(WRAPPER, wrapper.name), ("CUSIM_CAPABILITY", &capability)];
    let (passed, text) = outcome(&run_in_child("one_wrapper", &[&own, environment].concat()));
    match text.contains(LEFT_OUT) {
        true if is_real() => println!("{} {LEFT_OUT}", wrapper.name),
        true => return Err(text),
        false => {}
    }
    if passed { Ok(()) } else { Err(text) }
}

#[test]
fn every_wrapper_does_what_it_says() {
    let all = FILES.iter().flat_map(|file| file.wrappers.iter().map(move |wrapper| (file, wrapper)));
    let wrong: Vec<_> = all.filter_map(|(file, wrapper)| outcome_of(file, wrapper, &[]).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Records on the simulated device, and changes one bit.
#[test]
fn a_recording_is_compared_to_the_bit() {
    if is_real() {
        return; // there is one recording to make, not several to spoil
    }
    let folder = env::temp_dir().join(format!("mosu-conformance-{}", std::process::id()));
    let path = folder.to_str().unwrap();
    for (file, name) in
        [(0, "ldmatrix_x4"), (0, "mma_bf16_rounding"), (1, "tma_swizzled"), (2, "wgmma_n8_swizzled")]
    {
        let file = &FILES[file];
        let wrapper = file.wrappers.iter().find(|wrapper| wrapper.name == name).unwrap();
        outcome_of(file, wrapper, &[(RECORD, path), (GOLDENS, "/nowhere")]).unwrap();
        outcome_of(file, wrapper, &[(GOLDENS, path)]).unwrap();

        let recording = folder.join(format!("{name}.bin"));
        let mut bytes = fs::read(&recording).unwrap();
        let demand = |bytes: &[u8], text: &str| {
            fs::write(&recording, bytes).unwrap();
            let error = outcome_of(file, wrapper, &[(GOLDENS, path)]).unwrap_err();
            assert!(error.contains(text), "{error}");
        };
        // The lowest bit of a word, or, where sums may be rounded in any way, one of its exponent.
        let at = bytes.len() - 4;
        match wrapper.room {
            Room::None => bytes[at] ^= 1,
            _ => bytes[at + 3] ^= 1,
        }
        demand(&bytes, "a GPU gave");
        bytes[0] ^= 1;
        demand(&bytes, "was recorded with other inputs");
    }
    fs::remove_dir_all(folder).unwrap();
}
