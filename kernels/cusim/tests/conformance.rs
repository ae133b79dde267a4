//! Every PTX wrapper does what plain Rust says, and what a GPU has done where that is recorded (conformance/README.md).
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod device;

use device::{Shape, download, launch, open, parameter, pass_in_child, upload};
use std::path::Path;
use std::{env, fs};

const THREADS: usize = 128;
/// A wrapper's kernel, the number of its input words, how they are made, and what must come out.
struct Wrapper {
    kernel: &'static str,
    words: usize,
    make: fn(&mut Random) -> u32,
    expected: fn(&[u32]) -> Vec<u32>,
}

const SM80: &[Wrapper] = &[
    Wrapper { kernel: "conformance_cp_async_16", words: 512, make: any, expected: |x| scattered(x, 4) },
    Wrapper { kernel: "conformance_cp_async_4", words: 128, make: any, expected: |x| scattered(x, 1) },
    Wrapper { kernel: "conformance_ldmatrix_x4", words: 128, make: any, expected: |x| matrices(x, 4, false) },
    Wrapper {
        kernel: "conformance_ldmatrix_x4_trans",
        words: 128,
        make: any,
        expected: |x| matrices(x, 4, true),
    },
    Wrapper { kernel: "conformance_ldmatrix_x2", words: 128, make: any, expected: |x| matrices(x, 2, false) },
    Wrapper {
        kernel: "conformance_ldmatrix_x2_trans",
        words: 128,
        make: any,
        expected: |x| matrices(x, 2, true),
    },
    Wrapper { kernel: "conformance_mma_bf16", words: 1280, make: bf16_integers, expected: mma },
    Wrapper { kernel: "conformance_fast_exp2", words: 128, make: exponent, expected: exp2 },
    Wrapper { kernel: "conformance_warp_sum", words: 128, make: fraction, expected: |x| sums(x, 32) },
    Wrapper { kernel: "conformance_block_sum", words: 128, make: fraction, expected: block_sums },
    Wrapper { kernel: "conformance_load_streaming", words: 512, make: any, expected: <[u32]>::to_vec },
    Wrapper { kernel: "conformance_pack_bf16", words: 256, make: fraction, expected: packed },
];
const SM90A: &[Wrapper] = &[
    Wrapper { kernel: "conformance_wgmma_n8_swizzled", words: 576, make: bf16_integers, expected: product },
    Wrapper { kernel: "conformance_wgmma_n64_swizzled", words: 1024, make: bf16_integers, expected: product },
    Wrapper {
        kernel: "conformance_wgmma_n200_swizzled",
        words: 2112,
        make: bf16_integers,
        expected: product,
    },
    Wrapper {
        kernel: "conformance_wgmma_n256_swizzled",
        words: 2560,
        make: bf16_integers,
        expected: product,
    },
    Wrapper { kernel: "conformance_wgmma_n128_plain", words: 1536, make: bf16_integers, expected: product },
    Wrapper { kernel: "conformance_wgmma_n16_registers", words: 640, make: bf16_integers, expected: product },
    Wrapper {
        kernel: "conformance_wgmma_n256_registers",
        words: 2560,
        make: bf16_integers,
        expected: product,
    },
];

// ---- inputs -----------------------------------------------------------------------------------------------------
/// splitmix64.
struct Random(u64);

impl Random {
    fn of(name: &str) -> Self {
        Random(
            name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)),
        )
    }

    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    }
}

fn any(random: &mut Random) -> u32 {
    random.next()
}

fn bf16_integer(random: &mut Random) -> u32 {
    ((random.next() % 17) as f32 - 8.0).to_bits() >> 16
}

/// Two integers of -8..=8 in bf16; read as f32 it is close to an integer too, with few bits.
fn bf16_integers(random: &mut Random) -> u32 {
    bf16_integer(random) << 16 | bf16_integer(random)
}

fn fraction(random: &mut Random) -> u32 {
    (random.next() as f32 / 2f32.powi(31) - 1.0).to_bits()
}

fn exponent(random: &mut Random) -> u32 {
    (random.next() as f32 / 2f32.powi(27) - 24.0).to_bits()
}

// ---- what must come out -----------------------------------------------------------------------------------------
fn scattered(input: &[u32], words: usize) -> Vec<u32> {
    let mut out = vec![0; input.len()];
    for i in (0..THREADS).filter(|i| i % 3 != 0) {
        let to = 5 * i % THREADS * words;
        out[to..to + words].copy_from_slice(&input[i * words..][..words]);
    }
    out
}

fn matrices(input: &[u32], count: usize, transposed: bool) -> Vec<u32> {
    let element = |matrix: usize, row: usize, column: usize| {
        let (row, column) = if transposed { (column, row) } else { (row, column) };
        input[matrix * 32 + row * 4 + column / 2] >> (16 * (column % 2)) & 0xffff
    };
    let register = |thread: usize, m: usize| {
        let (warp, lane) = (thread / 32, thread % 32);
        let (matrix, row, column) = ((m + warp) % 4, lane / 4, lane % 4 * 2);
        element(matrix, row, column) | element(matrix, row, column + 1) << 16
    };
    (0..THREADS).flat_map(|t| (0..count).map(move |m| (t, m))).map(|(t, m)| register(t, m)).collect()
}

fn bf16_low(word: u32) -> f32 {
    f32::from_bits(word << 16)
}

fn bf16_high(word: u32) -> f32 {
    f32::from_bits(word & 0xffff_0000)
}

/// Per warp, from the fragments of PTX's manual to matrices, multiplied, and back.
fn mma(input: &[u32]) -> Vec<u32> {
    let mut out = Vec::new();
    for warp in input.chunks(320) {
        let (mut a, mut b, mut d) = ([[0f32; 16]; 16], [[0f32; 8]; 16], [[0f32; 8]; 16]);
        let places = |lane: usize| (lane / 4, lane % 4 * 2);
        for (lane, words) in warp.chunks(10).enumerate() {
            let (group, pair) = places(lane);
            for (i, &word) in words[..4].iter().enumerate() {
                let (row, column) = (group + i % 2 * 8, pair + i / 2 * 8);
                (a[row][column], a[row][column + 1]) = (bf16_low(word), bf16_high(word));
            }
            for (i, &word) in words[4..6].iter().enumerate() {
                (b[pair + 8 * i][group], b[pair + 8 * i + 1][group]) = (bf16_low(word), bf16_high(word));
            }
            for (i, &word) in words[6..].iter().enumerate() {
                d[group + i / 2 * 8][pair + i % 2] = f32::from_bits(word);
            }
        }
        for lane in 0..32 {
            let (group, pair) = places(lane);
            for i in 0..4 {
                let (row, column) = (group + i / 2 * 8, pair + i % 2);
                let sum = (0..16).fold(d[row][column], |sum, k| sum + a[row][k] * b[k][column]);
                out.push(sum.to_bits());
            }
        }
    }
    out
}

/// a [64, 16] * b [n, 16]^T.
fn product(input: &[u32]) -> Vec<u32> {
    let values: Vec<f32> = input.iter().flat_map(|&w| [bf16_low(w), bf16_high(w)]).collect();
    let (a, b) = values.split_at(64 * 16);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>().to_bits();
    a.chunks(16).flat_map(|a| b.chunks(16).map(move |b| dot(a, b))).collect()
}

fn exp2(input: &[u32]) -> Vec<u32> {
    input.iter().map(|&x| f32::from_bits(x).exp2().to_bits()).collect()
}

/// The butterfly: halves, quarters, ... of `width` values; every lane gets the sum.
fn sums(input: &[u32], width: usize) -> Vec<u32> {
    let mut values: Vec<f32> = input.iter().map(|&x| f32::from_bits(x)).collect();
    let mut offset = width / 2;
    while offset > 0 {
        values = (0..values.len()).map(|i| values[i] + values[i ^ offset]).collect();
        offset /= 2;
    }
    values.iter().map(|x| x.to_bits()).collect()
}

fn block_sums(input: &[u32]) -> Vec<u32> {
    let mut partials: Vec<u32> = sums(input, 32).chunks(32).map(|warp| warp[0]).collect();
    partials.resize(32, 0);
    vec![sums(&partials, 32)[0]; THREADS]
}

fn packed(input: &[u32]) -> Vec<u32> {
    let round = |bits: u32| (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    input.chunks(2).map(|pair| round(pair[0]) | round(pair[1]) << 16).collect()
}

// ---- the comparison ---------------------------------------------------------------------------------------------
fn demand_equal(wrapper: &Wrapper, got: &[u32], expected: &[u32], whose: &str) {
    assert_eq!(got.len(), expected.len(), "{}", wrapper.kernel);
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let close = wrapper.kernel == "conformance_fast_exp2" && {
            let (got, expected) = (f32::from_bits(got), f32::from_bits(expected));
            (got - expected).abs() <= 2f32.powi(-20) * expected
        };
        assert!(got == expected || close, "{}, word {i}: {got:#x}, {whose} {expected:#x}", wrapper.kernel);
    }
}

fn conform(file: &str, wrappers: &[Wrapper]) {
    open();
    let recordings = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    for wrapper in wrappers {
        let mut random = Random::of(wrapper.kernel);
        let input: Vec<u32> = (0..wrapper.words).map(|_| (wrapper.make)(&mut random)).collect();
        if let Some(folder) = env::var_os("MOSU_CONFORMANCE_INPUTS") {
            let bytes: Vec<u8> = input.iter().flat_map(|w| w.to_le_bytes()).collect();
            fs::write(Path::new(&folder).join(format!("{}.in", wrapper.kernel)), bytes).unwrap();
        }
        let expected = (wrapper.expected)(&input);
        let (mut out, mut memory) = (upload(&vec![u32::MAX; expected.len()]), upload(&input));
        let shape = Shape { blocks: 1, threads: THREADS as u32, shared_bytes: 57344 };
        launch(file, wrapper.kernel, &shape, &mut [parameter(&mut out), parameter(&mut memory)]).unwrap();
        let got = download::<u32>(out, expected.len());
        demand_equal(wrapper, &got, &expected, "plain Rust gives");
        if let Ok(bytes) = fs::read(recordings.join(format!("{}.bin", wrapper.kernel))) {
            let recorded: Vec<u32> =
                bytes.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect();
            demand_equal(wrapper, &got, &recorded, "a GPU gave");
        }
    }
}

#[test]
fn wrappers_of_sm80_do_what_they_say() {
    conform("sm80.cu", SM80);
}

#[test]
fn wrappers_of_sm90a_do_what_they_say() {
    pass_in_child("wgmma_does_what_it_says", &[("CUSIM_CAPABILITY", "9.0")]);
}

#[test]
#[ignore = "started by wrappers_of_sm90a_do_what_they_say"]
fn wgmma_does_what_it_says() {
    conform("sm90a.cu", SM90A);
}
