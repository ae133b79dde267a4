//! The wrappers' inputs.

/// splitmix64.
pub struct Random(u64);

impl Random {
    pub fn of(name: &str) -> Self {
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

pub fn any(random: &mut Random) -> u32 {
    random.next()
}

fn bf16_integer(random: &mut Random) -> u32 {
    ((random.next() % 17) as f32 - 8.0).to_bits() >> 16
}

/// Two integers of -8..=8 in bf16; read as f32 it is close to an integer too, with few bits.
pub fn bf16_integers(random: &mut Random) -> u32 {
    bf16_integer(random) << 16 | bf16_integer(random)
}

pub fn fraction(random: &mut Random) -> u32 {
    (random.next() as f32 / 2f32.powi(31) - 1.0).to_bits()
}

pub fn exponent(random: &mut Random) -> u32 {
    (random.next() as f32 / 2f32.powi(27) - 24.0).to_bits()
}

/// Two numbers of -1..1 in bf16.
pub fn bf16_fractions(random: &mut Random) -> u32 {
    fraction(random) & 0xffff_0000 | fraction(random) >> 16
}
