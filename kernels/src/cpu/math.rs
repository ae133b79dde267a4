//! Elementary functions on vectors.

use super::{
    floats::{Float, Floats},
    simd::{LANES, Simd},
};

/// e^x to about one unit in the last place: `2^n * e^r` with `|r| <= ln(2) / 2`, e^r by its Taylor series
/// to the seventh power. 0 below -88, infinity above 88.4; exactly 1 at 0; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    // ln(2) in two parts; the first has 9 bits, so that n times it is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const FACTORIALS: [f32; 6] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0];

    let x = s.min(s.splat(88.8), s.max(s.splat(-88.0), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.mul_add(n, s.splat(-LN2_HIGH), x);
    let r = s.mul_add(n, s.splat(-LN2_LOW), r);
    let mut series = s.splat(1.0 / 5040.0);
    for factor in FACTORIALS {
        series = s.mul_add(series, r, s.splat(factor));
    }
    series = s.mul_add(series, r, s.splat(1.0));
    s.mul(series, s.pow2(n))
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::V) -> S::V {
    let e = exp(s, s.sub(s.splat(0.0), x));
    s.div(x, s.add(s.splat(1.0), e))
}

/// `out = x / sqrt(mean(x²) + eps) · weight`; all of the same length.
#[inline(always)]
pub(crate) fn norm_row<S: Simd, T: Float>(s: S, x: &[f32], weight: Floats<'_>, eps: f32, out: &mut [T]) {
    let mut squares = s.splat(0.0);
    for x in x.chunks(LANES) {
        let x = f32::load(s, x);
        squares = s.mul_add(x, x, squares);
    }
    let mean = s.sum(squares) / x.len() as f32;
    let scale = s.splat(1.0 / (mean + eps).sqrt());
    for (i, (chunk, out)) in x.chunks(LANES).zip(out.chunks_mut(LANES)).enumerate() {
        let scaled = s.mul(f32::load(s, chunk), scale);
        T::store(s, out, s.mul(scaled, weight.load(s, i * LANES, x.len())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{Isa, Kernel};

    struct Exp<'a>(&'a mut [f32; LANES]);

    impl Kernel for Exp<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let p = self.0.as_mut_ptr();
            // SAFETY: the array has 16 elements.
            unsafe { s.store_f32(p, LANES, exp(s, s.load_f32(p, LANES))) }
        }
    }

    fn exp_of(isa: Isa, x: f32) -> f32 {
        let mut v = [x; LANES];
        isa.run(Exp(&mut v));
        assert!(v.iter().all(|y| y.to_bits() == v[0].to_bits()));
        v[0]
    }

    #[test]
    fn exp_is_accurate_to_an_ulp_or_so() {
        for isa in Isa::available() {
            let mut worst = 0.0f64;
            for i in -87_000..88_000 {
                let x = i as f32 / 1000.0;
                let expected = f64::from(x).exp();
                worst = worst.max((f64::from(exp_of(isa, x)) - expected).abs() / expected);
            }
            assert!(worst < 1.5e-7, "{isa}: {worst:e}");
        }
    }

    #[test]
    fn exp_at_the_edges() {
        for isa in Isa::available() {
            assert_eq!(exp_of(isa, 0.0).to_bits(), 1.0f32.to_bits());
            assert_eq!(exp_of(isa, f32::NEG_INFINITY).to_bits(), 0);
            assert_eq!(exp_of(isa, f32::MIN).to_bits(), 0);
            assert_eq!(exp_of(isa, f32::INFINITY), f32::INFINITY);
            assert!(exp_of(isa, f32::NAN).is_nan());
        }
    }
}
