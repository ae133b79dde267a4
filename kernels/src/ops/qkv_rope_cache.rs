//! `qkv_rope_cache`: between the q, k, v projections and attention.

use half::bf16;

use super::{
    check::{Check, TASK_ELEMENTS},
    paged_attention::{CacheElement, MAX_HEAD_DIM},
};
use crate::{
    DType, Device, KernelError, Result, View, ViewMut,
    cpu::{Float, Floats, Kernel, LANES, Parts, Simd, norm_row},
};

/// One layer's KV blocks, to write. What a KV block holds inside is the device's own affair: the CPU keeps keys
/// transposed (see [`paged_attention`](super::paged_attention)).
pub struct KvCacheMut<'a> {
    /// Keys: compute `[B, Hkv, bs, D]`, bs a multiple of 16.
    pub k: ViewMut<'a>,
    /// Values, of the same shape and type.
    pub v: ViewMut<'a>,
}

/// RMSNorm over each head of q and k.
#[derive(Clone, Copy)]
pub struct QkNorm<'a> {
    /// Weight for q: any float `[D]`.
    pub q: View<'a>,
    /// Weight for k: any float `[D]`.
    pub k: View<'a>,
    /// Added to the mean of squares.
    pub eps: f32,
}

/// Which elements of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// Elements `i` and `i + rotary / 2` of the first `rotary` of a head.
    HalfSplit,
}

/// Rotary position embedding (Su et al. 2021, arXiv 2104.09864) as a table of angles by position.
#[derive(Clone, Copy)]
pub struct RopeTable<'a> {
    /// f32 `[P, rotary / 2]`
    pub cos: View<'a>,
    /// f32 `[P, rotary / 2]`
    pub sin: View<'a>,
    /// Which elements pair up.
    pub layout: RopeLayout,
}

/// Norms and rotates q and k, and writes k and v to their slots.
///
/// - `q`: compute `[T, Hq, D]`
/// - `cache`: compute `[B, Hkv, bs, D]`
/// - `qkv`: f32 `[T, (Hq + 2 Hkv) D]`, each row q heads, k heads, v heads
/// - `positions`: u32 `[T]`, rows of the rope table
/// - `slots`: u32 `[T]`, `KV block · bs + offset`; of two rows with the same slot the later wins
///
/// # Errors
/// When shapes or types do not fit, D is odd or over 512, or a position or slot is out of range.
#[allow(clippy::too_many_arguments)] // One per tensor, as in every op.
pub fn qkv_rope_cache(
    device: &Device,
    q: ViewMut<'_>,
    cache: KvCacheMut<'_>,
    qkv: View<'_>,
    qk_norm: Option<QkNorm<'_>>,
    rope: RopeTable<'_>,
    positions: View<'_>,
    slots: View<'_>,
) -> Result<()> {
    let check = Check("qkv_rope_cache");
    let [rows, heads, head_dim] = check.dims("q", &q)?;
    let [blocks, kv_heads, block_size, _] = check.dims("cache.k", &cache.k)?;
    let dtype = q.dtype();
    for (name, tensor) in [("cache.k", &cache.k), ("cache.v", &cache.v)] {
        check.is(name, tensor, [blocks, kv_heads, block_size, head_dim], dtype)?;
    }
    check.is("qkv", &qkv, [rows, (heads + 2 * kv_heads) * head_dim], DType::F32)?;
    check.that(block_size.is_multiple_of(LANES), || {
        format!("KV blocks have {block_size} slots, expected a multiple of {LANES}")
    })?;
    check.that(kv_heads > 0 && heads.is_multiple_of(kv_heads), || {
        format!("{heads} query heads cannot share {kv_heads} key/value heads")
    })?;
    let [max_positions, half] = check.dims("rope.cos", &rope.cos)?;
    check.is("rope.cos", &rope.cos, [max_positions, half], DType::F32)?;
    check.is("rope.sin", &rope.sin, [max_positions, half], DType::F32)?;
    check.that(head_dim.is_multiple_of(2) && (2..=MAX_HEAD_DIM).contains(&head_dim), || {
        format!("heads have {head_dim} elements, expected an even number from 2 to {MAX_HEAD_DIM}")
    })?;
    check.that(2 * half <= head_dim, || {
        format!("cannot rotate {} of a head's {head_dim} elements", 2 * half)
    })?;
    check.is("positions", &positions, [rows], DType::U32)?;
    check.is("slots", &slots, [rows], DType::U32)?;
    check.indices("positions", positions.as_slice()?, max_positions)?;
    check.indices("slots", slots.as_slice()?, blocks * block_size)?;
    let norm = match qk_norm {
        None => None,
        Some(norm) => {
            check.shape("qk_norm.q", &norm.q, [head_dim])?;
            check.shape("qk_norm.k", &norm.k, [head_dim])?;
            Some((check.floats("qk_norm.q", norm.q)?, check.floats("qk_norm.k", norm.k)?, norm.eps))
        }
    };
    let RopeLayout::HalfSplit = rope.layout;
    let heads = Heads {
        heads,
        kv_heads,
        head_dim,
        block_size,
        qkv: qkv.as_slice()?,
        q_norm: norm.map(|(q, _, eps)| (q, eps)),
        k_norm: norm.map(|(_, k, eps)| (k, eps)),
        cos: rope.cos.as_slice()?,
        sin: rope.sin.as_slice()?,
        half,
        positions: positions.as_slice()?,
        slots: slots.as_slice()?,
    };
    match dtype {
        DType::F32 => run::<f32>(device, q, cache, heads),
        DType::BF16 => run::<bf16>(device, q, cache, heads),
        found => Err(KernelError::DType { op: check.0, arg: "q", found, expected: DType::BF16 }),
    }
}

/// One task per key/value head with its query heads: no two write the same part of the cache, whatever the slots.
fn run<T: CacheElement>(
    device: &Device,
    q: ViewMut<'_>,
    cache: KvCacheMut<'_>,
    heads: Heads<'_>,
) -> Result<()> {
    let out = Out {
        q: Parts::new(q.into_mut_slice::<T>()?),
        k: Parts::new(cache.k.into_mut_slice::<T>()?),
        v: Parts::new(cache.v.into_mut_slice::<T>()?),
    };
    let cpu = device.as_cpu("qkv_rope_cache")?;
    let tasks = if heads.qkv.len() <= TASK_ELEMENTS { 1 } else { heads.kv_heads };
    cpu.pool.run(tasks, |task| {
        let range = if tasks == 1 { 0..heads.kv_heads } else { task..task + 1 };
        for kv_head in range {
            cpu.isa.run(HeadGroup { heads: &heads, out: &out, kv_head });
        }
    });
    Ok(())
}

/// The arguments, checked.
struct Heads<'a> {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    block_size: usize,
    qkv: &'a [f32],
    q_norm: Option<(Floats<'a>, f32)>,
    k_norm: Option<(Floats<'a>, f32)>,
    cos: &'a [f32],
    sin: &'a [f32],
    half: usize,
    positions: &'a [u32],
    slots: &'a [u32],
}

struct Out<'a, T> {
    q: Parts<'a, T>,
    k: Parts<'a, T>,
    v: Parts<'a, T>,
}

struct HeadGroup<'a, T> {
    heads: &'a Heads<'a>,
    out: &'a Out<'a, T>,
    kv_head: usize,
}

impl<T: CacheElement> Kernel for HeadGroup<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Heads { heads, kv_heads, head_dim, block_size, .. } = *self.heads;
        let group = heads / kv_heads;
        let width = (heads + 2 * kv_heads) * head_dim;
        let (mut rotated, mut key) = ([0.0; MAX_HEAD_DIM], [T::zeroed(); MAX_HEAD_DIM]);
        let (rotated, key) = (&mut rotated[..head_dim], &mut key[..head_dim]);
        for (row, qkv) in self.heads.qkv.chunks_exact(width).enumerate() {
            let head = |index: usize| &qkv[index * head_dim..(index + 1) * head_dim];
            for index in self.kv_head * group..(self.kv_head + 1) * group {
                self.heads.rotate(s, row, head(index), self.heads.q_norm, rotated);
                let start = (row * heads + index) * head_dim;
                // SAFETY: this group's query heads are no other task's.
                store(s, unsafe { self.out.q.get(start..start + head_dim) }, rotated);
            }
            let slot = self.heads.slots[row] as usize;
            let start = (slot / block_size * kv_heads + self.kv_head) * block_size * head_dim;
            let (range, offset) = (start..start + block_size * head_dim, slot % block_size);
            // SAFETY: this head's part of a KV block is no other task's.
            let (keys, values) = unsafe { (self.out.k.get(range.clone()), self.out.v.get(range)) };
            self.heads.rotate(s, row, head(heads + self.kv_head), self.heads.k_norm, rotated);
            store(s, key, rotated);
            for (d, &x) in key.iter().enumerate() {
                keys[T::key_index(d, offset, block_size)] = x;
            }
            let value = head(heads + kv_heads + self.kv_head);
            store(s, &mut values[offset * head_dim..(offset + 1) * head_dim], value);
        }
    }
}

impl Heads<'_> {
    /// A head of row `row`, normed and rotated.
    #[inline(always)]
    fn rotate<S: Simd>(&self, s: S, row: usize, x: &[f32], norm: Option<(Floats<'_>, f32)>, out: &mut [f32]) {
        match norm {
            None => out.copy_from_slice(x),
            Some((weight, eps)) => norm_row(s, x, weight, eps, out),
        }
        let start = self.positions[row] as usize * self.half;
        let (cos, sin) = (&self.cos[start..start + self.half], &self.sin[start..start + self.half]);
        let (first, second) = out[..2 * self.half].split_at_mut(self.half);
        let pairs = first.chunks_mut(LANES).zip(second.chunks_mut(LANES));
        for ((first, second), (cos, sin)) in pairs.zip(cos.chunks(LANES).zip(sin.chunks(LANES))) {
            let (a, b) = (f32::load(s, first), f32::load(s, second));
            let (cos, sin) = (f32::load(s, cos), f32::load(s, sin));
            f32::store(s, first, s.sub(s.mul(a, cos), s.mul(b, sin)));
            f32::store(s, second, s.add(s.mul(b, cos), s.mul(a, sin)));
        }
    }
}

/// Writes floats as `T`.
#[inline(always)]
fn store<S: Simd, T: Float>(s: S, out: &mut [T], x: &[f32]) {
    for (out, x) in out.chunks_mut(LANES).zip(x.chunks(LANES)) {
        T::store(s, out, f32::load(s, x));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tensor, ops::testing::*};

    struct Case {
        rows: usize,
        heads: [usize; 2],
        head_dim: usize,
        half: usize,
        qkv: Vec<f32>,
        norm: Option<[Vec<f32>; 2]>,
        cos: Vec<f32>,
        sin: Vec<f32>,
        positions: Vec<u32>,
        slots: Vec<u32>,
    }

    const BLOCKS: usize = 9;
    const POSITIONS: usize = 50;

    impl Case {
        fn new(rows: usize, heads: [usize; 2], head_dim: usize, half: usize, norm: bool) -> Case {
            let mut random = Random::new(8);
            let angles = random.floats(POSITIONS * half, 9.0);
            let mut slots: Vec<u32> = (0..(BLOCKS * 16) as u32).collect();
            for i in (1..slots.len()).rev() {
                slots.swap(i, random.below(i + 1));
            }
            slots.truncate(rows);
            Case {
                rows,
                heads,
                head_dim,
                half,
                qkv: random.floats(rows * (heads[0] + 2 * heads[1]) * head_dim, 2.0),
                norm: norm.then(|| [random.floats(head_dim, 1.0), random.floats(head_dim, 1.0)]),
                cos: angles.iter().map(|x| x.cos()).collect(),
                sin: angles.iter().map(|x| x.sin()).collect(),
                positions: (0..rows).map(|_| random.below(POSITIONS) as u32).collect(),
                slots,
            }
        }

        /// A head as it should be, in f64.
        fn rotated(&self, row: usize, head: usize, norm: Option<&Vec<f32>>) -> Vec<f64> {
            let width = (self.heads[0] + 2 * self.heads[1]) * self.head_dim;
            let x = &self.qkv[row * width + head * self.head_dim..][..self.head_dim];
            let mut x: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            if let Some(weight) = norm {
                let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
                let scale = 1.0 / (mean + 1e-6).sqrt();
                x.iter_mut().zip(weight).for_each(|(x, &w)| *x *= scale * f64::from(w));
            }
            let angles = self.positions[row] as usize * self.half..;
            for (i, at) in angles.take(self.half).enumerate() {
                let (cos, sin) = (f64::from(self.cos[at]), f64::from(self.sin[at]));
                let (a, b) = (x[i], x[i + self.half]);
                x[i] = a * cos - b * sin;
                x[i + self.half] = b * cos + a * sin;
            }
            x
        }

        /// Rows `range`: q, then the keys and values found at their slots, as f32.
        fn run<T: CacheElement + Rounded>(&self, device: &Device, rows: usize) -> [Vec<f32>; 3] {
            let [heads, kv_heads] = self.heads;
            let d = self.head_dim;
            let cache = [BLOCKS, kv_heads, 16, d];
            let mut q = Tensor::zeros([rows, heads, d], T::DTYPE).unwrap();
            let mut k = Tensor::zeros(cache, T::DTYPE).unwrap();
            let mut v = Tensor::zeros(cache, T::DTYPE).unwrap();
            let width = (heads + 2 * kv_heads) * d;
            let norm = self.norm.as_ref().map(|[q, k]| QkNorm {
                q: View::from_slice([d], q).unwrap(),
                k: View::from_slice([d], k).unwrap(),
                eps: 1e-6,
            });
            let table = |values| View::from_slice([POSITIONS, self.half], values).unwrap();
            qkv_rope_cache(
                device,
                q.view_mut().unwrap(),
                KvCacheMut { k: k.view_mut().unwrap(), v: v.view_mut().unwrap() },
                View::from_slice([rows, width], &self.qkv[..rows * width]).unwrap(),
                norm,
                RopeTable { cos: table(&self.cos), sin: table(&self.sin), layout: RopeLayout::HalfSplit },
                View::from_slice([rows], &self.positions[..rows]).unwrap(),
                View::from_slice([rows], &self.slots[..rows]).unwrap(),
            )
            .unwrap();
            let (k, v) = (k.as_slice::<T>().unwrap(), v.as_slice::<T>().unwrap());
            let mut found = [widened(q.as_slice::<T>().unwrap()), vec![], vec![]];
            for &slot in &self.slots[..rows] {
                let (block, offset) = (slot as usize / 16, slot as usize % 16);
                for head in 0..kv_heads {
                    let start = (block * kv_heads + head) * 16 * d;
                    for i in 0..d {
                        found[1].push(k[start + T::key_index(i, offset, 16)].widen());
                        found[2].push(v[start + offset * d + i].widen());
                    }
                }
            }
            found
        }

        fn check(&self) {
            let [heads, kv_heads] = self.heads;
            let norm = |i: usize| self.norm.as_ref().map(|norms| &norms[i]);
            let all = |range: std::ops::Range<usize>, norm: Option<&Vec<f32>>| -> Vec<f64> {
                (0..self.rows)
                    .flat_map(|row| range.clone().map(move |head| (row, head)))
                    .flat_map(|(row, head)| self.rotated(row, head, norm))
                    .collect()
            };
            let width = heads + 2 * kv_heads;
            let values: Vec<f32> = self
                .qkv
                .chunks(width * self.head_dim)
                .flat_map(|row| row[(heads + kv_heads) * self.head_dim..].to_vec())
                .collect();
            for device in devices() {
                let [q, k, v] = self.run::<f32>(&device, self.rows);
                assert_close(&q, &all(0..heads, norm(0)), 1e-5, "q");
                assert_close(&k, &all(heads..heads + kv_heads, norm(1)), 1e-5, "k");
                assert_same_bits(&v, &values, "v");
                let narrow = self.run::<bf16>(&device, self.rows);
                for (narrow, wide) in narrow.iter().zip([&q, &k, &v]) {
                    assert_same_bits(narrow, &widened(&rounded::<bf16>(wide)), "bf16");
                }
                for rows in [1, 2, 7, 32] {
                    for (part, all) in self.run::<f32>(&device, rows).iter().zip([&q, &k, &v]) {
                        assert_same_bits(part, &all[..part.len()], "batch");
                    }
                }
            }
        }
    }

    #[test]
    fn agrees_with_the_formulas_and_does_not_depend_on_the_batch() {
        Case::new(100, [4, 2], 64, 32, true).check();
        Case::new(40, [3, 3], 20, 10, false).check();
        Case::new(40, [6, 1], 128, 20, true).check();
    }

    #[test]
    fn a_slot_outside_the_cache_is_named() {
        let mut case = Case::new(3, [1, 1], 8, 4, false);
        case.slots[1] = (BLOCKS * 16) as u32;
        let result = std::panic::catch_unwind(|| case.run::<f32>(&devices()[0], 3));
        let message = *result.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("slots[1] is 144, expected less than 144"), "{message}");
    }
}
