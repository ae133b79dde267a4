//! The draw: an exponential race, keyed so that each token's time depends on nothing but (seed, position, id).

use crate::cpu::LANES;

/// Stands for the token of a row that leaves none to draw: a logit is NaN or infinite, or all are banned.
pub const NO_TOKEN: u32 = u32::MAX;

/// The increment of SplitMix64 (Steele, Lea and Flood 2014): its n-th output is `mix(key + n · GAMMA)`.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function of SplitMix64.
#[inline(always)]
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The key of one draw.
pub(super) fn key(seed: u64, position: u64) -> u64 {
    mix(seed ^ mix(position.wrapping_add(GAMMA)))
}

/// The random bits of one token in one draw.
#[inline(always)]
fn bits(key: u64, id: u32) -> u64 {
    mix(key.wrapping_add(GAMMA.wrapping_mul(u64::from(id) + 1)))
}

/// A token's time: exponentially distributed at the rate `weight`. The bits make `1 - u`, so that early times, which
/// decide, are the finest.
fn time(bits: u64, weight: f32) -> f64 {
    let rest = ((bits >> 12) as f64 + 0.5) / (1u64 << 52) as f64;
    -(-rest).ln_1p() / f64::from(weight)
}

/// The fastest token so far.
struct Winner {
    id: u32,
    time: f64,
    /// The time, rounded up.
    limit: f32,
}

impl Winner {
    const NONE: Winner = Winner { id: NO_TOKEN, time: f64::INFINITY, limit: f32::INFINITY };

    /// False when a token cannot be faster. A time is at least `(1 - u) / weight`, which needs no logarithm.
    #[inline(always)]
    fn may_lose_to(&self, bits: u64, weight: f32) -> bool {
        let rest = (bits >> 40) as u32 as f32 / (1 << 24) as f32;
        rest <= weight * self.limit
    }

    /// Lets a token run; ties go to the one before.
    #[inline(always)]
    fn race(&mut self, bits: u64, id: u32, weight: f32) {
        if self.may_lose_to(bits, weight) {
            let time = time(bits, weight);
            if time < self.time {
                *self = Winner { id, time, limit: time as f32 * 1.000_001 };
            }
        }
    }
}

/// The winner among these tokens, given with their weights in ascending order of id.
pub(super) fn among(key: u64, tokens: impl Iterator<Item = (u32, f32)>) -> u32 {
    let mut winner = Winner::NONE;
    for (id, weight) in tokens {
        winner.race(bits(key, id), id, weight);
    }
    winner.id
}

/// The winner among all tokens, as [`among`] would find it, looking at a vector of them at a time.
#[inline(always)]
pub(super) fn among_all(key: u64, weights: &[f32]) -> u32 {
    let mut winner = Winner::NONE;
    for (first, weights) in (0u32..).step_by(LANES).zip(weights.chunks(LANES)) {
        let mut close = false;
        for (id, &weight) in (first..).zip(weights) {
            close |= winner.may_lose_to(bits(key, id), weight);
        }
        if close {
            for (id, &weight) in (first..).zip(weights) {
                winner.race(bits(key, id), id, weight);
            }
        }
    }
    winner.id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::Random;

    #[test]
    fn shortcuts_change_no_winner() {
        let mut random = Random::new(15);
        for draw in 0..3000 {
            let spread = [0.0, 1.0, 10.0, 60.0][draw % 4];
            let n = 1 + random.below(300);
            let weights: Vec<f32> = random.floats(n, spread).iter().map(|x| (x - spread).exp()).collect();
            let key = key(draw as u64, 7);
            let mut best = (NO_TOKEN, f64::INFINITY);
            for (id, &weight) in (0..).zip(&weights) {
                let time = time(bits(key, id), weight);
                best = if time < best.1 { (id, time) } else { best };
            }
            assert_eq!(among_all(key, &weights), best.0);
            assert_eq!(among(key, (0..).zip(weights.iter().copied())), best.0);
        }
    }

    #[test]
    fn times_are_finite_and_positive() {
        for bits in [0, u64::MAX, 1 << 63] {
            let time = time(bits, 1.0);
            assert!(time > 0.0 && time < 40.0, "{time}");
        }
        assert_eq!(time(0, 0.0), f64::INFINITY);
    }
}
