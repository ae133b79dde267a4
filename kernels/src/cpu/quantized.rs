//! Inputs of products with coded weights: bytes, with a scale for every 32 of them.
//!
//! `x ≈ scale · code` with `scale = max |x| / 127` of 32 elements and codes to the nearest, ties to even: an element is
//! off by half a scale at most. Where an element is not finite, the scale is NaN, and so is what becomes of it.

use std::{cell::RefCell, ops::Range};

use super::{
    Float, Isa, Kernel, Parts, ThreadPool,
    packed::Groups,
    simd::{LANES, Simd},
};

/// Elements that share a scale.
pub(super) const SCALED: usize = 2 * LANES;

/// Elements that a task quantises: fewer are not worth another thread.
const PER_TASK: usize = 16 * 1024;

/// What is read past the end of codes and sums: a vector.
const PADDING: usize = 64;

/// Quantised rows `[T, K]`; K is a multiple of 32.
#[derive(Debug, Default)]
pub(crate) struct Quantized {
    k: usize,
    /// `[T, K]`
    codes: Vec<i8>,
    /// `[T, K / 32]`
    scales: Vec<f32>,
    /// What weights need whose groups have 16 elements, and 32.
    of_groups: [GroupSums; 2],
}

/// Sums of the codes that meet a group of the weight's: `[T, K / size]`, where some weight needs them.
#[derive(Debug, Default)]
struct GroupSums {
    /// Themselves, which offsets are multiplied by.
    sums: Vec<f32>,
    /// Times -[`Simd::BIAS`]: what takes the bias back out.
    corrections: Vec<i32>,
}

/// R rows, one after another.
#[derive(Clone, Copy)]
pub(super) struct QuantizedRows<'a> {
    /// `[R, K]`
    pub codes: &'a [i8],
    /// `[R, K / 32]`
    pub scales: &'a [f32],
    /// `[R, K / size]`, for groups with offsets.
    pub sums: &'a [f32],
    /// `[R, K / size]`, for groups without.
    pub corrections: &'a [i32],
}

thread_local! {
    /// Grows to the largest inputs that the thread has had quantised.
    static BUFFERS: RefCell<Quantized> = RefCell::default();
}

/// Calls `with` with `rows` rows of `k` elements, quantised for weights with such groups.
pub(crate) fn with_quantized<'x, T: Float, R>(
    isa: Isa,
    pool: &ThreadPool,
    [rows, k]: [usize; 2],
    row: impl Fn(usize) -> &'x [T] + Sync,
    groups: &[Groups],
    with: impl FnOnce(&Quantized) -> R,
) -> R {
    let mut quantized = BUFFERS.take();
    quantized.fill(isa, pool, [rows, k], row, groups);
    let result = with(&quantized);
    BUFFERS.set(quantized);
    result
}

impl Quantized {
    /// No rows.
    pub(crate) const NONE: &'static Quantized = &Quantized {
        k: 0,
        codes: Vec::new(),
        scales: Vec::new(),
        of_groups: [
            GroupSums { sums: Vec::new(), corrections: Vec::new() },
            GroupSums { sums: Vec::new(), corrections: Vec::new() },
        ],
    };

    fn fill<'x, T: Float>(
        &mut self,
        isa: Isa,
        pool: &ThreadPool,
        [rows, k]: [usize; 2],
        row: impl Fn(usize) -> &'x [T] + Sync,
        groups: &[Groups],
    ) {
        self.k = k;
        self.codes.resize(rows * k + PADDING, 0);
        self.scales.resize(rows * k / SCALED, 0.0);
        for (of_groups, size) in self.of_groups.iter_mut().zip([LANES, SCALED]) {
            let needed = |offset| if groups.contains(&Groups { size, offset }) { rows * k / size } else { 0 };
            of_groups.sums.resize(needed(true) + PADDING, 0.0);
            of_groups.corrections.resize(needed(false) + PADDING, 0);
        }
        let [of_16, of_32] = &mut self.of_groups;
        let out = Out {
            codes: Parts::new(&mut self.codes),
            scales: Parts::new(&mut self.scales),
            sums: [Parts::new(&mut of_16.sums), Parts::new(&mut of_32.sums)],
            corrections: [Parts::new(&mut of_16.corrections), Parts::new(&mut of_32.corrections)],
        };
        let has = |offset| [LANES, SCALED].map(|size| groups.contains(&Groups { size, offset }));
        let (has_sums, has_corrections) = (has(true), has(false));
        let per_task = (PER_TASK / k.max(1)).max(1);
        pool.run(rows.div_ceil(per_task), |task| {
            for index in task * per_task..rows.min((task + 1) * per_task) {
                // SAFETY: rows are each in one task.
                let out = unsafe { out.row(index, k, has_sums, has_corrections) };
                isa.run(Quantize { x: row(index), out });
            }
        });
    }

    /// Rows `rows`, for weights with such groups.
    #[inline(always)]
    pub(super) fn rows(&self, rows: Range<usize>, groups: Groups) -> QuantizedRows<'_> {
        let of = |size: usize| rows.start * self.k / size..rows.end * self.k / size;
        let own = &self.of_groups[usize::from(groups.size == SCALED)];
        let of_groups = of(groups.size);
        QuantizedRows {
            codes: &self.codes[of(1)],
            scales: &self.scales[of(SCALED)],
            sums: if groups.offset { &own.sums[of_groups.clone()] } else { &[] },
            corrections: if groups.offset { &[] } else { &own.corrections[of_groups] },
        }
    }
}

/// All rows' results.
struct Out<'a> {
    codes: Parts<'a, i8>,
    scales: Parts<'a, f32>,
    sums: [Parts<'a, f32>; 2],
    corrections: [Parts<'a, i32>; 2],
}

/// A row's results; sums are empty where they are not needed.
struct OutRow<'a> {
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    sums: [&'a mut [f32]; 2],
    corrections: [&'a mut [i32]; 2],
}

impl Out<'_> {
    /// # Safety
    /// Nobody else has this row.
    unsafe fn row(&self, row: usize, k: usize, sums: [bool; 2], corrections: [bool; 2]) -> OutRow<'_> {
        let of = |size: usize, needed: bool| -> Range<usize> {
            if needed { row * k / size..(row + 1) * k / size } else { 0..0 }
        };
        // SAFETY: as promised by the caller.
        unsafe {
            OutRow {
                codes: self.codes.get(of(1, true)),
                scales: self.scales.get(of(SCALED, true)),
                sums: [self.sums[0].get(of(LANES, sums[0])), self.sums[1].get(of(SCALED, sums[1]))],
                corrections: [
                    self.corrections[0].get(of(LANES, corrections[0])),
                    self.corrections[1].get(of(SCALED, corrections[1])),
                ],
            }
        }
    }
}

struct Quantize<'a, T> {
    x: &'a [T],
    out: OutRow<'a>,
}

impl<T: Float> Kernel for Quantize<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Quantize { x, out } = self;
        for (i, (x, codes)) in x.chunks_exact(SCALED).zip(out.codes.chunks_exact_mut(SCALED)).enumerate() {
            let (first, last) = (T::load(s, &x[..LANES]), T::load(s, &x[LANES..]));
            let zero = s.splat(0.0);
            let max = s.max(s.max(first, s.sub(zero, first)), s.max(last, s.sub(zero, last)));
            // 0, or NaN where an element is not finite.
            let fault = s.sum(s.mul_add(first, zero, s.mul(last, zero)));
            let scale = s.max_lane(max) / 127.0;
            let scale = if scale < f32::MIN_POSITIVE { 0.0 } else { scale };
            out.scales[i] = scale + fault;
            let to_codes = s.splat(if scale > 0.0 { 1.0 / scale } else { 0.0 });
            let (first, last) = (s.round(s.mul(first, to_codes)), s.round(s.mul(last, to_codes)));
            // SAFETY: 16 bytes each.
            unsafe {
                s.store_bytes(codes.as_mut_ptr(), first);
                s.store_bytes(codes.as_mut_ptr().add(LANES), last);
            }
            let [of_first, of_last, ..] = s.sums([first, last, first, last]);
            let bias = -f32::from(S::BIAS);
            for (size, sums) in
                [[of_first, of_last].as_slice(), &[of_first + of_last]].into_iter().enumerate()
            {
                for (group, sum) in (i * sums.len()..).zip(sums) {
                    if let Some(out) = out.sums[size].get_mut(group) {
                        *out = *sum;
                    }
                    if let Some(out) = out.corrections[size].get_mut(group) {
                        *out = (sum * bias) as i32;
                    }
                }
            }
        }
    }
}
