//! Elementary functions on vectors. NaN stays NaN in all of them.

use super::simd::Simd;

/// `(n, r, series)` with `x = n ln(2) + r`, `|r| <= ln(2) / 2` and `e^r = 1 + r · series`, by the Taylor series of e^r
/// to the seventh power.
#[inline(always)]
fn reduce<S: Simd>(s: S, x: S::V) -> (S::V, S::V, S::V) {
    // ln(2) in two parts; the first has 9 bits, so that n times it is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const FACTORIALS: [f32; 6] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0];

    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.mul_add(n, s.splat(-LN2_HIGH), x);
    let r = s.mul_add(n, s.splat(-LN2_LOW), r);
    let mut series = s.splat(1.0 / 5040.0);
    for factor in FACTORIALS {
        series = s.mul_add(series, r, s.splat(factor));
    }
    (n, r, series)
}

/// `x` within `low..=high`.
#[inline(always)]
pub(crate) fn clamp<S: Simd>(s: S, x: S::V, low: f32, high: f32) -> S::V {
    s.min(s.splat(high), s.max(s.splat(low), x))
}

/// e^x to about one unit in the last place. 0 below -88, infinity above 88.4; exactly 1 at 0.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let (n, r, series) = reduce(s, clamp(s, x, -88.0, 88.8));
    s.mul(s.mul_add(series, r, s.splat(1.0)), s.pow2(n))
}

/// `x / (1 + e^-y)`.
#[inline(always)]
pub(crate) fn mul_sigmoid<S: Simd>(s: S, x: S::V, y: S::V) -> S::V {
    let e = exp(s, s.sub(s.splat(0.0), y));
    s.div(x, s.add(s.splat(1.0), e))
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::V) -> S::V {
    mul_sigmoid(s, x, x)
}

/// tanh(x) to a relative error of 4e-7, also near 0: `m / (m + 2)` with `m = e^2x - 1`, which the reduction of
/// e^2x gives without cancellation.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    // tanh(10) rounds to 1.
    let x = clamp(s, x, -10.0, 10.0);
    let (n, r, series) = reduce(s, s.add(x, x));
    let scale = s.pow2(n);
    let m = s.mul_add(s.mul(series, r), scale, s.sub(scale, s.splat(1.0)));
    s.div(m, s.add(m, s.splat(2.0)))
}

/// `x / 2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`, as `x · sigmoid(2 √(2/π) ..)`, which does not cancel
/// (Hendrycks and Gimpel 2016, arXiv 1606.08415). Error below 5e-7 of |x|.
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(s: S, x: S::V) -> S::V {
    const TWO_ROOTS: f32 = 1.595_769;
    let factor = s.mul_add(s.mul(x, x), s.splat(0.044_715 * TWO_ROOTS), s.splat(TWO_ROOTS));
    mul_sigmoid(s, x, s.mul(x, factor))
}

/// `x / 2 · (1 + erf(x / √2))`, as `max(x, 0) - |x| · erfc(|x| / √2) / 2` with formula 7.1.26 of Abramowitz and Stegun
/// (1964) for erfc. Error below 3e-7 of |x|.
#[inline(always)]
pub(crate) fn gelu_erf<S: Simd>(s: S, x: S::V) -> S::V {
    // Halved, since what is wanted is half of erfc.
    const POLYNOMIAL: [f32; 4] =
        [-1.453_152_f32 / 2.0, 1.421_413_7 / 2.0, -0.284_496_74 / 2.0, 0.254_829_6 / 2.0];
    let abs = s.max(x, s.sub(s.splat(0.0), x));
    let z = s.mul(abs, s.splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = s.div(s.splat(1.0), s.mul_add(z, s.splat(0.327_591_1), s.splat(1.0)));
    let mut sum = s.splat(1.061_405_4 / 2.0);
    for factor in POLYNOMIAL {
        sum = s.mul_add(sum, t, s.splat(factor));
    }
    let tail = s.mul(s.mul(sum, t), exp(s, s.mul(s.mul(z, z), s.splat(-1.0))));
    s.sub(s.max(s.splat(0.0), x), s.mul(abs, tail))
}

/// The error function by its series of positive terms, `2/√π e^-x² Σ 2^n x^(2n+1) / (2n+1)!!`.
#[cfg(test)]
pub(crate) fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..150 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    sum * 2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{Isa, Kernel, LANES};

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Function {
        Exp,
        Tanh,
        Silu,
        GeluTanh,
        GeluErf,
    }

    struct Apply<'a>(Function, &'a mut [f32; LANES]);

    impl Kernel for Apply<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let p = self.1.as_mut_ptr();
            // SAFETY: the array has 16 elements.
            unsafe {
                let x = s.load_f32(p, LANES);
                let y = match self.0 {
                    Function::Exp => exp(s, x),
                    Function::Tanh => tanh(s, x),
                    Function::Silu => silu(s, x),
                    Function::GeluTanh => gelu_tanh(s, x),
                    Function::GeluErf => gelu_erf(s, x),
                };
                s.store_f32(p, LANES, y);
            }
        }
    }

    fn apply(isa: Isa, function: Function, x: f32) -> f32 {
        let mut v = [x; LANES];
        isa.run(Apply(function, &mut v));
        assert!(v.iter().all(|y| y.to_bits() == v[0].to_bits()));
        v[0]
    }

    fn exp_of(isa: Isa, x: f32) -> f32 {
        apply(isa, Function::Exp, x)
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

    #[test]
    fn the_others_keep_their_stated_errors() {
        let gelu_tanh = |x: f64| {
            x / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        };
        for isa in Isa::available() {
            for i in -12_000..=12_000 {
                let x = i as f32 / 1000.0;
                let wide = f64::from(x);
                let check = |function, expected: f64, tolerance: f64| {
                    let found = f64::from(apply(isa, function, x));
                    assert!(
                        (found - expected).abs() <= tolerance,
                        "{isa} {function:?}({x}): {found} {expected}"
                    );
                };
                check(Function::Tanh, wide.tanh(), 4e-7 * wide.tanh().abs());
                check(Function::Silu, wide / (1.0 + (-wide).exp()), 2e-7 * wide.abs());
                check(Function::GeluTanh, gelu_tanh(wide), 5e-7 * wide.abs());
                check(Function::GeluErf, wide / 2.0 * (1.0 + erf(wide / 2f64.sqrt())), 3e-7 * wide.abs());
            }
            // Where the reduction alone would lose all digits.
            for x in [1e-3f32, 1e-6, 1e-20, 1e-30] {
                let (found, expected) = (f64::from(apply(isa, Function::Tanh, x)), f64::from(x).tanh());
                assert!((found - expected).abs() <= 4e-7 * expected, "{isa} tanh({x})");
            }
        }
    }

    #[test]
    fn the_others_at_the_edges() {
        use Function::*;
        for isa in Isa::available() {
            for function in [Tanh, Silu, GeluTanh, GeluErf] {
                assert_eq!(apply(isa, function, 0.0), 0.0, "{function:?}");
                assert!(apply(isa, function, f32::NAN).is_nan(), "{function:?}");
                let [low, high] = [-1e6, 1e6].map(|x| apply(isa, function, x));
                let limits = if function == Tanh { [-1.0, 1.0] } else { [0.0, 1e6] };
                assert_eq!([low, high], limits, "{function:?}");
            }
        }
    }
}
