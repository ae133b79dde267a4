//! What is measured: the part of `cases.json` that concerns single ops.

use serde::Deserialize;

/// The cases.
#[derive(Deserialize)]
pub struct Cases {
    pub linear: Vec<LinearCase>,
    /// Rows of each linear.
    pub linear_rows: Vec<usize>,
    pub prefill_attention: Vec<PrefillCase>,
    pub decode_attention: Vec<DecodeCase>,
    pub moe: MoeCase,
}

/// `[n, k]` weights.
#[derive(Deserialize)]
pub struct LinearCase {
    pub name: String,
    pub n: usize,
    pub k: usize,
}

/// One sequence attends to itself.
#[derive(Deserialize)]
pub struct PrefillCase {
    #[serde(flatten)]
    pub heads: Heads,
    pub tokens: usize,
}

/// One row of each sequence attends to its context.
#[derive(Deserialize)]
pub struct DecodeCase {
    #[serde(flatten)]
    pub heads: Heads,
    pub sequences: usize,
    pub context: usize,
}

/// Query heads share key/value heads.
#[derive(Clone, Copy, Deserialize)]
pub struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

/// A layer of experts.
#[derive(Deserialize)]
pub struct MoeCase {
    pub hidden: usize,
    pub intermediate: usize,
    pub experts: usize,
    pub chosen: usize,
    pub rows: Vec<usize>,
}

impl Cases {
    /// As many cases, small enough for any device.
    pub fn shrink(&mut self) {
        self.linear.iter_mut().for_each(|case| (case.n, case.k) = (64, 32));
        self.linear_rows = vec![1, 9];
        for case in &mut self.prefill_attention {
            (case.heads, case.tokens) = (Heads::SMALL, 20);
        }
        for case in &mut self.decode_attention {
            (case.heads, case.sequences, case.context) = (Heads::SMALL, 2, 20);
        }
        self.moe = MoeCase { hidden: 32, intermediate: 16, experts: 8, chosen: 2, rows: vec![1, 5] };
    }
}

impl Heads {
    const SMALL: Heads = Heads { heads: 4, kv_heads: 2, head_dim: 16 };
}
