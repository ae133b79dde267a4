//! What the wrappers must give, in plain Rust, from the words of their inputs to those of their outputs.

use super::THREADS;

pub fn scattered(input: &[u32], words: usize) -> Vec<u32> {
    let mut out = vec![0; input.len()];
    for i in (0..THREADS).filter(|i| i % 3 != 0) {
        let to = 5 * i % THREADS * words;
        out[to..to + words].copy_from_slice(&input[i * words..][..words]);
    }
    out
}

pub fn matrices(input: &[u32], count: usize, transposed: bool) -> Vec<u32> {
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
pub fn mma(input: &[u32]) -> Vec<u32> {
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
pub fn product(input: &[u32]) -> Vec<u32> {
    let values: Vec<f32> = input.iter().flat_map(|&w| [bf16_low(w), bf16_high(w)]).collect();
    let (a, b) = values.split_at(64 * 16);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>().to_bits();
    a.chunks(16).flat_map(|a| b.chunks(16).map(move |b| dot(a, b))).collect()
}

/// a [64, 16] * b [16, n].
pub fn product_by_rows(input: &[u32]) -> Vec<u32> {
    let values: Vec<f32> = input.iter().flat_map(|&w| [bf16_low(w), bf16_high(w)]).collect();
    let (a, b) = values.split_at(64 * 16);
    let n = b.len() / 16;
    let dot =
        |a: &[f32], j: usize| a.iter().zip(b.chunks(n)).map(|(x, row)| x * row[j]).sum::<f32>().to_bits();
    a.chunks(16).flat_map(|a| (0..n).map(move |j| dot(a, j))).collect()
}

pub fn exp2(input: &[u32]) -> Vec<u32> {
    input.iter().map(|&x| f32::from_bits(x).exp2().to_bits()).collect()
}

/// The butterfly: halves, quarters, ... of `width` values; every lane gets the sum.
pub fn sums(input: &[u32], width: usize) -> Vec<u32> {
    let mut values: Vec<f32> = input.iter().map(|&x| f32::from_bits(x)).collect();
    let mut offset = width / 2;
    while offset > 0 {
        values = (0..values.len()).map(|i| values[i] + values[i ^ offset]).collect();
        offset /= 2;
    }
    values.iter().map(|x| x.to_bits()).collect()
}

pub fn block_sums(input: &[u32]) -> Vec<u32> {
    let mut partials: Vec<u32> = sums(input, 32).chunks(32).map(|warp| warp[0]).collect();
    partials.resize(32, 0);
    vec![sums(&partials, 32)[0]; THREADS]
}

pub fn packed(input: &[u32]) -> Vec<u32> {
    let round = |bits: u32| (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    input.chunks(2).map(|pair| round(pair[0]) | round(pair[1]) << 16).collect()
}

/// Integers that go round their neighbours for three phases.
pub fn neighbours(input: &[u32]) -> Vec<u32> {
    (0..3).fold(input.to_vec(), |words, _| {
        let next = |i: usize| words[(i + 1) % THREADS];
        (0..THREADS).map(|i| words[i].wrapping_mul(31).wrapping_add(next(i))).collect()
    })
}

/// The matrix behind the map of the TMA kernels: rows and columns of bf16.
pub const MATRIX: [usize; 2] = [20, 80];
/// Rows and columns of a box, a row being 128 bytes.
pub const BOX: [u32; 2] = [16, 64];

/// Two boxes of [`MATRIX`] as they lie in shared memory: zeros outside of it.
pub fn boxes(input: &[u32], swizzled: bool) -> Vec<u32> {
    let word = |row: i32, column: i32| {
        let inside = (0..MATRIX[0] as i32).contains(&row) && (0..MATRIX[1] as i32).contains(&column);
        if inside { input[(row as usize * MATRIX[1] + column as usize) / 2] } else { 0 }
    };
    let place = |(first_row, first_column): (i32, i32), i: i32| {
        let (row, chunk, within) = (i / 32, i % 32 / 4, i % 4);
        let chunk = if swizzled { chunk ^ (row % 8) } else { chunk };
        word(first_row + row, first_column + 8 * chunk + 2 * within)
    };
    [(-3, -8), (12, 40)].into_iter().flat_map(|first| (0..16 * 32).map(move |i| place(first, i))).collect()
}
