//! Norm, rotation and cache on the CPU.

use half::bf16;

use super::{HeadShape, HeadTransform, KvCacheMut, NormOrder, NormSpan, QkNorm, Qkv};
use crate::{
    CpuDevice, DType, Result, View, ViewMut,
    cpu::{Floats, Kernel, Parts, Simd, convert},
    ops::{
        attention::{CacheElement, MAX_HEAD_DIM},
        check::{Check, TASK_ELEMENTS},
        norm::{NormKind, RowNorm, Statistics},
        rope::Rope,
    },
};

#[allow(clippy::too_many_arguments)] // Those of the op.
pub(super) fn qkv_rope_cache(
    cpu: &CpuDevice,
    check: Check,
    q: ViewMut<'_>,
    cache: KvCacheMut<'_>,
    qkv: Qkv<'_>,
    transform: HeadTransform<'_>,
    positions: View<'_>,
    slots: View<'_>,
) -> Result<()> {
    let [heads, head_dim] = [q.shape().dims()[1], q.shape().dims()[2]];
    let [blocks, kv_heads, block_size] = [0, 1, 2].map(|i| cache.k.shape().dims()[i]);
    let (positions, slots) = (positions.as_slice::<u32>()?, slots.as_slice::<u32>()?);
    if let Some(rope) = transform.rope {
        check.indices("positions", positions, rope.positions())?;
    }
    check.indices("slots", slots, blocks * block_size)?;
    let shape = HeadShape { heads, kv_heads, head_dim, block_size };
    let rope = transform.rope.map(Rope::new).transpose()?;
    let heads = Heads {
        shape,
        rows: positions.len(),
        input: Input::new(qkv, shape)?,
        norm: transform.qk_norm.map(Norms::new).transpose()?,
        rope,
        positions,
        slots,
    };
    match q.dtype() {
        DType::F32 => run::<f32>(cpu, q, cache, heads),
        _ => run::<bf16>(cpu, q, cache, heads),
    }
}

/// One task per key/value head with its query heads: no two write the same part of the cache, whatever the slots.
fn run<T: CacheElement>(
    cpu: &CpuDevice,
    q: ViewMut<'_>,
    cache: KvCacheMut<'_>,
    heads: Heads<'_>,
) -> Result<()> {
    let out = Out {
        q: Parts::new(q.into_mut_slice::<T>()?),
        k: Parts::new(cache.k.into_mut_slice::<T>()?),
        v: Parts::new(cache.v.into_mut_slice::<T>()?),
    };
    let HeadShape { heads: query_heads, kv_heads, head_dim, .. } = heads.shape;
    let elements = heads.rows * (query_heads + 2 * kv_heads) * head_dim;
    let tasks = if elements <= TASK_ELEMENTS { 1 } else { kv_heads };
    cpu.pool.run(tasks, |task| {
        let range = if tasks == 1 { 0..kv_heads } else { task..task + 1 };
        for kv_head in range {
            cpu.isa.run(HeadGroup { heads: &heads, out: &out, kv_head });
        }
    });
    Ok(())
}

/// The arguments, checked.
struct Heads<'a> {
    shape: HeadShape,
    rows: usize,
    input: Input<'a>,
    norm: Option<Norms<'a>>,
    rope: Option<Rope<'a>>,
    positions: &'a [u32],
    slots: &'a [u32],
}

/// Where a row's q, k and v lie.
struct Input<'a> {
    q: &'a [f32],
    q_width: usize,
    kv: &'a [f32],
    kv_width: usize,
    /// Of the first k head in a row of `kv`.
    k_start: usize,
}

impl<'a> Input<'a> {
    fn new(qkv: Qkv<'a>, shape: HeadShape) -> Result<Input<'a>> {
        let HeadShape { heads, kv_heads, head_dim, .. } = shape;
        Ok(match qkv {
            Qkv::Fused(qkv) => {
                let (qkv, width) = (qkv.as_slice()?, (heads + 2 * kv_heads) * head_dim);
                Input { q: qkv, q_width: width, kv: qkv, kv_width: width, k_start: heads * head_dim }
            }
            Qkv::Split { q, kv } => Input {
                q: q.as_slice()?,
                q_width: heads * head_dim,
                kv: kv.as_slice()?,
                kv_width: 2 * kv_heads * head_dim,
                k_start: 0,
            },
        })
    }

    /// All heads' queries, keys and values of a row, and where they start.
    fn row(&self, row: usize, shape: HeadShape) -> [&'a [f32]; 3] {
        let (q, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let (q_start, k_start) = (row * self.q_width, row * self.kv_width + self.k_start);
        let v_start = k_start + kv;
        [&self.q[q_start..q_start + q], &self.kv[k_start..v_start], &self.kv[v_start..v_start + kv]]
    }
}

/// The norms of q and k.
struct Norms<'a> {
    span: NormSpan,
    order: NormOrder,
    q: RowNorm<'a>,
    k: RowNorm<'a>,
}

impl<'a> Norms<'a> {
    fn new(norm: QkNorm<'a>) -> Result<Norms<'a>> {
        let row = |i: usize| -> Result<RowNorm<'a>> {
            let weight = norm.weights.map(|weights| Floats::new(weights[i])).transpose()?;
            Ok(RowNorm { kind: NormKind::Rms, weight, bias: None, eps: norm.eps })
        };
        Ok(Norms { span: norm.span, order: norm.order, q: row(0)?, k: row(1)? })
    }
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
        let shape = self.heads.shape;
        let HeadShape { heads, kv_heads, head_dim, block_size } = shape;
        let group = heads / kv_heads;
        let (mut rotated, mut key) = ([0.0; MAX_HEAD_DIM], [T::zeroed(); MAX_HEAD_DIM]);
        let (rotated, key) = (&mut rotated[..head_dim], &mut key[..head_dim]);
        for row in 0..self.heads.rows {
            let [q, k, v] = self.heads.input.row(row, shape);
            let norms = self.heads.norm.as_ref();
            let queries = RowHeads::new(s, self.heads, row, q, norms.map(|norms| norms.q));
            for index in self.kv_head * group..(self.kv_head + 1) * group {
                queries.transform(s, index, rotated);
                let start = (row * heads + index) * head_dim;
                // SAFETY: this group's query heads are no other task's.
                convert(s, unsafe { self.out.q.get(start..start + head_dim) }, rotated);
            }
            let slot = self.heads.slots[row] as usize;
            let start = (slot / block_size * kv_heads + self.kv_head) * block_size * head_dim;
            let (range, offset) = (start..start + block_size * head_dim, slot % block_size);
            // SAFETY: this head's part of a KV block is no other task's.
            let (keys, values) = unsafe { (self.out.k.get(range.clone()), self.out.v.get(range)) };
            let head = RowHeads::new(s, self.heads, row, k, norms.map(|norms| norms.k));
            head.transform(s, self.kv_head, rotated);
            convert(s, key, rotated);
            for (d, &x) in key.iter().enumerate() {
                keys[T::key_index(d, offset, block_size)] = x;
            }
            let value = &v[self.kv_head * head_dim..(self.kv_head + 1) * head_dim];
            convert(s, &mut values[offset * head_dim..(offset + 1) * head_dim], value);
        }
    }
}

/// The heads of q or of k in one row, and what happens to them.
struct RowHeads<'a> {
    head_dim: usize,
    /// All of them.
    all: &'a [f32],
    norm: Option<RowNorm<'a>>,
    order: NormOrder,
    /// Of all heads together, if they are normed so.
    statistics: Option<Statistics>,
    rope: Option<&'a Rope<'a>>,
    position: usize,
}

impl<'a> RowHeads<'a> {
    #[inline(always)]
    fn new<S: Simd>(
        s: S,
        heads: &'a Heads<'a>,
        row: usize,
        all: &'a [f32],
        norm: Option<RowNorm<'a>>,
    ) -> RowHeads<'a> {
        let (span, order) = match &heads.norm {
            Some(norms) => (norms.span, norms.order),
            None => (NormSpan::Head, NormOrder::BeforeRope),
        };
        let statistics = match norm {
            Some(norm) if span == NormSpan::AllHeads => Some(norm.statistics(s, all)),
            _ => None,
        };
        let (head_dim, position) = (heads.shape.head_dim, heads.positions[row] as usize);
        RowHeads { head_dim, all, norm, order, statistics, rope: heads.rope.as_ref(), position }
    }

    /// Head `index`, normed and rotated.
    #[inline(always)]
    fn transform<S: Simd>(&self, s: S, index: usize, out: &mut [f32]) {
        let start = index * self.head_dim;
        let head = &self.all[start..start + self.head_dim];
        match (self.norm, self.statistics, self.order) {
            (Some(norm), Some(statistics), _) => norm.part(s, statistics, head, start, out),
            (Some(norm), None, NormOrder::BeforeRope) => norm.row(s, head, out),
            _ => out.copy_from_slice(head),
        }
        if let Some(rope) = self.rope {
            rope.rotate(s, self.position, out);
        }
        if let (Some(norm), NormOrder::AfterRope) = (self.norm, self.order) {
            norm.in_place(s, out);
        }
    }
}
