//! What products read: types of inputs, and how the rows of a weight become operands of the same type.

use half::{bf16, f16};

use super::{Float, simd::Simd};
use crate::Element;

/// A type of inputs: how a register's worth of them meets as many weights.
pub(crate) trait Input:
    Float + for<'a> Weight<Input = Self, Rows<'a> = &'a [Self], Row<'a> = &'a [Self]>
{
    /// A register's worth of elements.
    type Operand<S: Simd>: Copy;
    /// Elements of an operand.
    const STEP: usize;

    /// # Safety
    /// `n <= STEP` elements can be read at `p`.
    unsafe fn load_operand<S: Simd>(s: S, p: *const Self, n: usize) -> Self::Operand<S>;
    /// Writes the first `n` elements.
    ///
    /// # Safety
    /// `n <= STEP` elements can be written at `p`.
    unsafe fn store_operand<S: Simd>(s: S, p: *mut Self, n: usize, operand: Self::Operand<S>);
    /// `sum` plus the products, added up into its lanes.
    fn dot<S: Simd>(s: S, sum: S::V, input: Self::Operand<S>, weight: Self::Operand<S>) -> S::V;
}

/// How a weight `[N, K]` lies in memory.
pub(crate) trait Weight: 'static {
    /// What its elements become to meet the inputs: [`Format::compute`](crate::Format::compute).
    type Input: Input;
    /// All rows.
    type Rows<'a>: Copy + Send + Sync;
    /// One row.
    type Row<'a>: Copy;
    /// Its elements are decoded rather than loaded, so that many inputs are better met by a decoded copy.
    const PACKED: bool;

    /// Row `n` of a weight with rows of `k` elements.
    fn row<'a>(rows: Self::Rows<'a>, n: usize, k: usize) -> Self::Row<'a>;
    /// The memory of `count` rows from row `n` on, where most of it is.
    fn bytes<'a>(rows: Self::Rows<'a>, n: usize, count: usize, k: usize) -> &'a [u8];
    /// Elements `at..at + n` of a row.
    ///
    /// # Safety
    /// The row has them, `at` is a multiple of `Input::STEP`, and `n` at most that.
    unsafe fn load_weight<S: Simd>(s: S, row: Self::Row<'_>, at: usize, n: usize) -> OperandOf<Self, S>;
}

/// What a weight's elements are loaded as.
pub(crate) type OperandOf<W, S> = <<W as Weight>::Input as Input>::Operand<S>;

impl Input for bf16 {
    type Operand<S: Simd> = S::Pairs;
    const STEP: usize = 32;

    #[inline(always)]
    unsafe fn load_operand<S: Simd>(s: S, p: *const bf16, n: usize) -> S::Pairs {
        // SAFETY: as promised by the caller.
        unsafe { s.load_pairs(p, n) }
    }

    #[inline(always)]
    unsafe fn store_operand<S: Simd>(s: S, p: *mut bf16, n: usize, operand: S::Pairs) {
        // SAFETY: as promised by the caller.
        unsafe { s.store_pairs(p, n, operand) }
    }

    #[inline(always)]
    fn dot<S: Simd>(s: S, sum: S::V, input: S::Pairs, weight: S::Pairs) -> S::V {
        s.dot_pairs(sum, input, weight)
    }
}

impl Input for f32 {
    type Operand<S: Simd> = S::V;
    const STEP: usize = 16;

    #[inline(always)]
    unsafe fn load_operand<S: Simd>(s: S, p: *const f32, n: usize) -> S::V {
        // SAFETY: as promised by the caller.
        unsafe { s.load_f32(p, n) }
    }

    #[inline(always)]
    unsafe fn store_operand<S: Simd>(s: S, p: *mut f32, n: usize, operand: S::V) {
        // SAFETY: as promised by the caller.
        unsafe { s.store_f32(p, n, operand) }
    }

    #[inline(always)]
    fn dot<S: Simd>(s: S, sum: S::V, input: S::V, weight: S::V) -> S::V {
        s.mul_add(input, weight, sum)
    }
}

/// A weight of a float type, whose rows are slices.
macro_rules! float_weight {
    ($T:ty, $Input:ty, $load:ident) => {
        impl Weight for $T {
            type Input = $Input;
            type Rows<'a> = &'a [$T];
            type Row<'a> = &'a [$T];
            const PACKED: bool = false;

            #[inline(always)]
            fn row<'a>(rows: Self::Rows<'a>, n: usize, k: usize) -> Self::Row<'a> {
                &rows[n * k..(n + 1) * k]
            }

            #[inline(always)]
            fn bytes<'a>(rows: Self::Rows<'a>, n: usize, count: usize, k: usize) -> &'a [u8] {
                bytemuck::cast_slice(&rows[n * k..(n + count) * k])
            }

            #[inline(always)]
            unsafe fn load_weight<S: Simd>(s: S, row: &[$T], at: usize, n: usize) -> OperandOf<Self, S> {
                // SAFETY: as promised by the caller.
                unsafe { s.$load(row.as_ptr().add(at), n) }
            }
        }
    };
}

float_weight!(bf16, bf16, load_pairs);
float_weight!(f32, f32, load_f32);
float_weight!(f16, f32, load_f16);

/// A float type that a weight may be of.
pub(crate) trait FloatWeight:
    Element + for<'a> Weight<Rows<'a> = &'a [Self], Row<'a> = &'a [Self]>
{
}
impl<T: Element + for<'a> Weight<Rows<'a> = &'a [T], Row<'a> = &'a [T]>> FloatWeight for T {}

/// An op's instantiation for each type of weight.
macro_rules! for_weight {
    ($dtype:expr, $op:literal, $arg:literal, $W:ident => $call:expr) => {
        match $dtype {
            crate::DType::F32 => {
                type $W = f32;
                $call
            }
            crate::DType::F16 => {
                type $W = half::f16;
                $call
            }
            crate::DType::BF16 => {
                type $W = half::bf16;
                $call
            }
            found => {
                Err(crate::KernelError::DType { op: $op, arg: $arg, found, expected: crate::DType::BF16 })
            }
        }
    };
}
pub(crate) use for_weight;
