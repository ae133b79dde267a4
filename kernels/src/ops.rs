//! The ops, each in a file of its own with its CPU implementation and its tests.
//!
//! Every op takes the [`Device`](crate::Device) first, then what it writes, then what it reads. Shapes:
//! T rows of a step, H hidden size, K and N in and out features, Hq query and Hkv key/value heads, D head_dim,
//! V vocabulary, S sequences of a step, E experts, k experts per token, I intermediate size, B KV blocks,
//! bs their size, P positions. *compute* is [`DType::compute`](crate::DType::compute) of the weights:
//! bf16 for bf16 checkpoints, else f32. Tensors are f32 where nothing is said; sums are f32 always.
//!
//! | op | writes | reads | meaning |
//! |---|---|---|---|
//! | [`embedding`] | out `[T,H]` | table any float `[V,H]`, ids u32 `[T]` | `out[t] = table[ids[t]]` |
//! | [`rms_norm`] | out compute `[T,H]` | x `[T,H]`, weight any float `[H]`, eps | `x / sqrt(mean(x²) + eps) · weight` |
//! | [`add_rms_norm`] | out compute `[T,H]`, residual `[T,H]` | delta `[T,H]`, weight `[H]`, eps | `residual += delta`, then `rms_norm` of it |
//! | [`linear`] | out `[T,N]` | x compute `[T,K]`, [`Linear`] `[N,K]` with bias `[N]` | `x · weightᵀ + bias` |
//! | [`qkv_rope_cache`] | q compute `[T,Hq,D]`, [`KvCacheMut`] compute `[B,Hkv,bs,D]` | qkv `[T,(Hq+2Hkv)·D]`, [`QkNorm`] `[D]`, [`RopeTable`] `[P,rotary/2]`, positions u32 `[T]`, slots u32 `[T]` | norm and rotate q and k; k and v go to their slots |
//! | [`paged_attention`] | out compute `[T,Hq·D]` | q compute `[T,Hq,D]`, [`KvCache`], [`PagedSequences`], [`AttentionMask`], scale | `softmax(scale · q·kᵀ) · v` over each row's visible keys |
//! | [`gated_activation`] | out compute `[T,I]` | gate_up `[T,2I]`, [`Activation`] | `act(gate) · up` |
//! | [`route`] | ids u32 `[T,k]`, weights `[T,k]` | logits `[T,E]`, [`Router`] | the k most probable experts, best first, ties to the lowest id |
//! | [`moe`] | out `[T,H]` | x compute `[T,H]`, ids, weights, [`Expert`]s `[E]`, [`Activation`], [`MoeWorkspace`] | `Σ_slot weights · down(act(gate(x)) · up(x))`, summed in slot order |
//! | [`sample`] | out u32 `[R]` | logits `[.,V]`, [`SampleRow`]s `[R]`, [`SampleWorkspace`] | one token per row, as [`SampleParams`] says |
//! | [`logprobs`] | [`TokenLogprobs`] `[R]` | logits `[.,V]`, [`LogprobRow`]s `[R]` | log-softmax of the target, its rank, the most probable tokens |
//!
//! Arguments that do not fit each other are errors before anything is written. Ids, positions, slots and block
//! tables are checked against what they index.

mod check;
mod embedding;
mod gated_activation;
mod linear;
mod logprobs;
mod moe;
mod paged_attention;
mod qkv_rope_cache;
mod rms_norm;
mod route;
mod sample;
#[cfg(test)]
pub(crate) mod testing;

pub use embedding::embedding;
pub use gated_activation::{Activation, gated_activation};
pub use linear::{Linear, LinearPart, linear};
pub use logprobs::{LogprobRow, TokenLogprobs, logprobs};
pub use moe::{Expert, MoeWorkspace, moe};
pub use paged_attention::{AttentionMask, KvCache, PagedSequences, paged_attention};
pub use qkv_rope_cache::{KvCacheMut, QkNorm, RopeLayout, RopeTable, qkv_rope_cache};
pub use rms_norm::{add_rms_norm, rms_norm};
pub use route::{Router, route};
pub use sample::{NO_TOKEN, SampleParams, SampleRow, SampleWorkspace, SeenToken, sample};
