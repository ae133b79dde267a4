//! Matrices of small integers, as GPTQ, AWQ and compressed-tensors publish them: a scale for a group of a row's columns, and
//! a zero point where there is one.
//!
//! They become blocks of GGUF's formats as they are loaded, which the kernels know: Q4_0, with zero points Q4_1, of 8 bits
//! Q8_0. Scales become f16, and so do products of scale and zero point: a weight is off by 2^-11 of itself at most, which is
//! less than by rounding it to bf16. Where the order of columns is not that of the groups (`desc_act`), they become floats.

mod claims;

use std::ops::Range;

use half::{bf16, f16};
use mosu_kernels::{BlockType, Bytes, DType, Format, FormatTraits, Matrix, Shape};
use rayon::prelude::*;

use crate::{
    LoadError,
    weights::{Pass, bytes_mut},
};

/// Elements of a block.
const BLOCK: usize = 32;
/// Rows that one task unpacks: whole words of every layout.
const ROWS: usize = 16;
/// Which of eight outputs the nibbles of a word of AWQ's are.
const AWQ_ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// A tensor of a file, as bytes.
struct Raw {
    bytes: Bytes,
    range: Range<usize>,
}

impl Raw {
    fn as_slice(&self) -> &[u8] {
        &self.bytes.as_slice()[self.range.clone()]
    }

    /// Word `i`, little endian.
    fn word(&self, i: usize) -> u32 {
        let bytes = &self.as_slice()[4 * i..4 * i + 4];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

/// How a matrix's integers are stored.
enum Layout {
    /// i32 `[K · bits / 32, N]`: a word holds inputs.
    Gptq(Raw),
    /// i32 `[K, N / 8]`: a word holds outputs, in an order of its own.
    Awq(Raw),
    /// i32 `[N, K · bits / 32]`: a word holds inputs.
    Rows(Raw),
    /// i8 `[N, K]`
    Signed(Raw),
}

/// A matrix of integers of 4 or 8 bits: `scale · (code - zero)`.
struct Integers {
    shape: [usize; 2],
    bits: usize,
    layout: Layout,
    /// `[N, groups]`
    scales: Vec<f32>,
    /// `[N, groups]`; without, zero is the middle.
    zeros: Option<Vec<u8>>,
    /// The group of each column.
    group_of: Vec<usize>,
    groups: usize,
    /// What becomes of it where it must be floats: the type of the scales.
    floats: DType,
}

impl Integers {
    /// The codes of rows `first..`, as many as `out` has room for.
    fn unpack(&self, first: usize, out: &mut [u8]) {
        let [n, k] = self.shape;
        let (per_word, mask) = (32 / self.bits, (1u32 << self.bits) - 1);
        match &self.layout {
            Layout::Gptq(words) => {
                for (line, at) in (0..k).step_by(per_word).enumerate() {
                    for (row, out) in (first..).zip(out.chunks_exact_mut(k)) {
                        let word = words.word(line * n + row);
                        for (j, code) in out[at..at + per_word].iter_mut().enumerate() {
                            *code = (word >> (self.bits * j) & mask) as u8;
                        }
                    }
                }
            }
            Layout::Awq(words) => {
                let rows = out.len() / k;
                for column in 0..k {
                    for at in (0..rows).step_by(8) {
                        let word = words.word(column * n / 8 + (first + at) / 8);
                        for (nibble, output) in AWQ_ORDER.iter().enumerate() {
                            out[(at + output) * k + column] = (word >> (4 * nibble) & 15) as u8;
                        }
                    }
                }
            }
            Layout::Rows(words) => {
                for (i, codes) in (first * k / per_word..).zip(out.chunks_exact_mut(per_word)) {
                    let word = words.word(i);
                    for (j, code) in codes.iter_mut().enumerate() {
                        *code = (word >> (self.bits * j) & mask) as u8;
                    }
                }
            }
            Layout::Signed(bytes) => {
                for (code, byte) in out.iter_mut().zip(&bytes.as_slice()[first * k..]) {
                    *code = byte ^ 0x80;
                }
            }
        }
    }

    /// Columns that share a scale, if each block's do.
    fn in_order(&self) -> bool {
        let blocks = self.group_of.chunks(BLOCK);
        self.shape[1].is_multiple_of(BLOCK)
            && blocks.into_iter().all(|block| block.iter().all(|g| *g == block[0]))
    }

    fn block_type(&self) -> BlockType {
        match (self.bits, &self.zeros) {
            (4, None) => BlockType::Q4_0,
            (4, Some(_)) => BlockType::Q4_1,
            _ => BlockType::Q8_0,
        }
    }

    fn matrix(self, pass: Pass) -> Result<Matrix, LoadError> {
        let [n, k] = self.shape;
        if !self.in_order() {
            return self.into_floats(pass);
        }
        let of = self.block_type();
        let width = k / BLOCK * Format::Blocks(of).traits().block_bytes;
        let values = pass.filled(Shape::new([n, width]), DType::U8, |values| {
            let chunks = values.as_mut_slice::<u8>()?.par_chunks_mut(ROWS * width);
            chunks.enumerate().for_each(|(chunk, out)| {
                let mut codes = vec![0; out.len() / width * k];
                self.unpack(chunk * ROWS, &mut codes);
                for (row, (codes, out)) in codes.chunks_exact(k).zip(out.chunks_exact_mut(width)).enumerate()
                {
                    self.write_row(of, chunk * ROWS + row, codes, out);
                }
            });
            Ok(())
        })?;
        let matrix = Matrix::blocks(of, values)?;
        Ok(if self.floats.compute() == DType::F32 { matrix.meeting_f32() } else { matrix })
    }

    /// The blocks of a row.
    fn write_row(&self, of: BlockType, row: usize, codes: &[u8], out: &mut [u8]) {
        let FormatTraits { block_bytes, .. } = Format::Blocks(of).traits();
        for (b, (codes, out)) in codes.chunks_exact(BLOCK).zip(out.chunks_exact_mut(block_bytes)).enumerate()
        {
            let group = row * self.groups + self.group_of[b * BLOCK];
            let scale = self.scales[group];
            out[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
            if of == BlockType::Q8_0 {
                out[2..].iter_mut().zip(codes).for_each(|(out, code)| *out = code ^ 0x80);
                continue;
            }
            if let Some(zeros) = &self.zeros {
                let offset = -scale * f32::from(zeros[group]);
                out[2..4].copy_from_slice(&f16::from_f32(offset).to_le_bytes());
            }
            let (lower, upper) = codes.split_at(BLOCK / 2);
            let pairs = lower.iter().zip(upper);
            let first = block_bytes - BLOCK / 2;
            out[first..].iter_mut().zip(pairs).for_each(|(out, (lower, upper))| *out = lower | upper << 4);
        }
    }

    /// The matrix as floats.
    fn into_floats(self, pass: Pass) -> Result<Matrix, LoadError> {
        let ([n, k], size) = (self.shape, self.floats.size());
        let middle = 1u8 << (self.bits - 1);
        let values = pass.filled(Shape::new([n, k]), self.floats, |values| {
            let chunks = bytes_mut(values)?.par_chunks_mut(ROWS * k * size);
            chunks.enumerate().for_each(|(chunk, out)| {
                let mut codes = vec![0; out.len() / size];
                self.unpack(chunk * ROWS, &mut codes);
                for (i, (code, out)) in codes.iter().zip(out.chunks_exact_mut(size)).enumerate() {
                    let group = (chunk * ROWS + i / k) * self.groups + self.group_of[i % k];
                    let zero = self.zeros.as_ref().map_or(middle, |zeros| zeros[group]);
                    put(self.floats, out, self.scales[group] * (f32::from(*code) - f32::from(zero)));
                }
            });
            Ok(())
        })?;
        Ok(values.into())
    }
}

/// Writes a float of this type.
fn put(dtype: DType, out: &mut [u8], x: f32) {
    match dtype {
        DType::F16 => out.copy_from_slice(&f16::from_f32(x).to_le_bytes()),
        DType::BF16 => out.copy_from_slice(&bf16::from_f32(x).to_le_bytes()),
        _ => out.copy_from_slice(&x.to_le_bytes()),
    }
}
