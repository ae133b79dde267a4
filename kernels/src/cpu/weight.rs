//! What products read: types of inputs, and float types of weights.

use half::{bf16, f16};

use super::{Float, simd::Simd};
use crate::Element;

/// A type of inputs: how a register's worth of them meets as many weights.
pub(crate) trait Input: Float {
    /// A register's worth of elements.
    type Operand<S: Simd>: Copy;
    /// Elements of an operand.
    const STEP: usize;

    /// # Safety
    /// `n <= STEP` elements can be read at `p`.
    unsafe fn load_operand<S: Simd>(s: S, p: *const Self, n: usize) -> Self::Operand<S>;
    /// `sum` plus the products, added up into its lanes.
    fn dot<S: Simd>(s: S, sum: S::V, input: Self::Operand<S>, weight: Self::Operand<S>) -> S::V;
}

/// A float type of weights.
pub(crate) trait FloatWeight: Element {
    /// What its elements become to meet inputs: [`DType::compute`](crate::DType::compute).
    type Input: Input;

    /// # Safety
    /// `n <= Input::STEP` elements can be read at `p`.
    unsafe fn load_weight<S: Simd>(s: S, p: *const Self, n: usize) -> <Self::Input as Input>::Operand<S>;
}

impl Input for bf16 {
    type Operand<S: Simd> = S::Pairs;
    const STEP: usize = 32;

    #[inline(always)]
    unsafe fn load_operand<S: Simd>(s: S, p: *const bf16, n: usize) -> S::Pairs {
        // SAFETY: as promised by the caller.
        unsafe { s.load_pairs(p, n) }
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
    fn dot<S: Simd>(s: S, sum: S::V, input: S::V, weight: S::V) -> S::V {
        s.mul_add(input, weight, sum)
    }
}

macro_rules! float_weight {
    ($T:ty, $Input:ty, $load:ident) => {
        impl FloatWeight for $T {
            type Input = $Input;

            #[inline(always)]
            unsafe fn load_weight<S: Simd>(s: S, p: *const $T, n: usize) -> <$Input as Input>::Operand<S> {
                // SAFETY: as promised by the caller.
                unsafe { s.$load(p, n) }
            }
        }
    };
}

float_weight!(bf16, bf16, load_pairs);
float_weight!(f32, f32, load_f32);
float_weight!(f16, f32, load_f16);

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
