//! `paged_attention`: one long prompt, and one row of many sequences.

use std::error::Error;

use mosu_kernels::{
    DType, Result, Tensor,
    ops::{AttentionMask, AttentionParams, KvCache, PagedSequences, paged_attention},
};

use crate::{
    cases::{DecodeCase, Heads, PrefillCase},
    sheet::{Sheet, Work},
};

/// Slots of a KV block.
const BLOCK_SIZE: usize = 16;

pub fn prefill(sheet: &Sheet, cases: &[PrefillCase]) -> Result<(), Box<dyn Error>> {
    for case in cases {
        let (t, Heads { heads, head_dim, .. }) = (case.tokens, case.heads);
        let flops = 4 * heads * head_dim * (t * (t + 1) / 2);
        let name = format!("prefill attention {t}");
        Attention::new(sheet, case.heads, 1, t, t)?.report(sheet, &name, Work { bytes: 0, flops })?;
    }
    Ok(())
}

pub fn decode(sheet: &Sheet, cases: &[DecodeCase]) -> Result<(), Box<dyn Error>> {
    for &DecodeCase { heads, sequences, context } in cases {
        let bytes = 2 * 2 * sequences * heads.kv_heads * context * heads.head_dim;
        let name = format!("decode attention {sequences}x{context}");
        let attention = Attention::new(sheet, heads, sequences, 1, context)?;
        attention.report(sheet, &name, Work { bytes, flops: 0 })?;
    }
    Ok(())
}

/// Sequences with their last rows in the step.
struct Attention {
    heads: Heads,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    context_lens: Tensor,
    block_tables: Tensor,
    out: Tensor,
}

impl Attention {
    /// `sequences` sequences of `context` tokens, the last `rows` of each in the step.
    fn new(sheet: &Sheet, heads: Heads, sequences: usize, rows: usize, context: usize) -> Result<Attention> {
        let (t, width) = (sequences * rows, context.div_ceil(BLOCK_SIZE));
        let blocks = sequences * width;
        let on_device = |shape: &[usize], values: Vec<u32>| match *shape {
            [n] => Tensor::from_slice([n], &values)?.to_device(&sheet.device),
            _ => Tensor::from_slice([sequences, width], &values)?.to_device(&sheet.device),
        };
        // KV blocks of a sequence lie apart, as they do after a while of serving.
        let tables = (0..blocks).map(|i| (i % width * sequences + i / width) as u32).collect();
        let cache = [blocks, heads.kv_heads, BLOCK_SIZE, heads.head_dim];
        Ok(Attention {
            heads,
            q: sheet.random([t, heads.heads, heads.head_dim])?,
            k: sheet.random(cache)?,
            v: sheet.random(cache)?,
            cu_seqlens_q: on_device(&[sequences + 1], (0..=sequences).map(|i| (i * rows) as u32).collect())?,
            context_lens: on_device(&[sequences], vec![context as u32; sequences])?,
            block_tables: on_device(&[sequences, width], tables)?,
            out: sheet.zeros([t, heads.heads * heads.head_dim], DType::BF16)?,
        })
    }

    fn report(mut self, sheet: &Sheet, name: &str, work: Work) -> Result<(), Box<dyn Error>> {
        let scale = (self.heads.head_dim as f32).powf(-0.5);
        sheet.report(name, 1, work, || {
            paged_attention(
                &sheet.device,
                self.out.view_mut()?,
                self.q.view(),
                KvCache { k: self.k.view(), v: self.v.view() },
                PagedSequences {
                    cu_seqlens_q: self.cu_seqlens_q.view(),
                    context_lens: self.context_lens.view(),
                    block_tables: self.block_tables.view(),
                },
                AttentionParams::new(scale, AttentionMask::Full),
            )
        })
    }
}
