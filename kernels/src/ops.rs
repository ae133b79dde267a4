//! The ops, each in a file of its own with its CPU implementation and its tests.
//!
//! Every op takes the [`Device`](crate::Device) first, then what it writes, then what it reads. Shapes:
//! T rows of a step, H hidden size, K and N in and out features, Hq query and Hkv key/value heads, D head_dim,
//! V vocabulary, S sequences of a step, E experts, k experts per token, I intermediate size, B KV blocks,
//! bs their size, P positions, L elements of a latent, R of a cached latent row, N of a query head without position. *compute* is [`DType::compute`](crate::DType::compute) of the weights:
//! bf16 for bf16 checkpoints, else f32. Tensors are f32 where nothing is said; sums are f32 always.
//!
//! | op | writes | reads | meaning |
//! |---|---|---|---|
//! | [`embedding`] | out `[T,H]` | table any float `[V,H]`, ids u32 `[T]`, scale | `out[t] = scale · table[ids[t]]` |
//! | [`matrix_embedding`] | out `[T,H]` | table `[V,H]` of any format, ids u32 `[T]`, scale | the same |
//! | [`add_embedding`] | out `[T,H]` | table any float `[P,H]`, ids u32 `[T]` | `out[t] += table[ids[t]]` |
//! | [`norm`] | out f32 or compute `[T,H]` | x `[T,H]`, [`Norm`] `[H]` | RMSNorm or LayerNorm of each row |
//! | [`add_norm`] | out f32 or compute `[T,H]`, residual `[T,H]` | delta `[T,H]`, post [`Norm`]?, [`Norm`] | `residual += post(delta)`, then `norm` of it |
//! | [`linear`] | out `[T,N]` | x compute `[T,K]`, [`Linear`] `[N,K]` with bias `[N]` | `x · weightᵀ + bias` |
//! | [`qkv_rope_cache`] | q compute `[T,Hq,D]`, [`KvCacheMut`] compute `[B,Hkv,bs,D]` | [`Qkv`] `[T,(Hq+2Hkv)·D]`, [`HeadTransform`], positions u32 `[T]`, slots u32 `[T]` | norm, rotate and scale q and k; k and v go to their slots |
//! | [`paged_attention`] | out compute `[T,Hq·D]` | q compute `[T,Hq,D]`, [`KvCache`], [`PagedSequences`], [`AttentionParams`] | `softmax(scale · q·kᵀ) · v` over each row's visible keys |
//! | [`latent_cache`] | cache compute `[B,bs,R]` | kv `[T,R]`, [`Norm`] `[L]`, [`RopeTable`] `[P,(R-L)/2]`, positions u32 `[T]`, slots u32 `[T]` | normed latents and rotated rests go to their slots |
//! | [`absorb_w_uk`] | out compute `[T,Hq,R]` | q `[T,Hq·(N+R-L)]`, w_uk any float `[Hq,L,N]`, [`RopeTable`], positions u32 `[T]` | `[w_uk · q_nope, rotated q_rope]` per head |
//! | [`latent_attention`] | out compute `[T,Hq,L]` | q compute `[T,Hq,R]`, cache compute `[B,bs,R]`, [`PagedSequences`], scale | `softmax(scale · q·c) · c[..L]` over each row's visible tokens |
//! | [`up_project_w_uv`] | out compute `[T,Hq·D]` | x compute `[T,Hq,L]`, w_uv any float `[Hq,D,L]` | `w_uv · x` per head |
//! | [`gate_heads`] | x f32 or compute `[T,Hq·D]` | gate `[T,Hq]` | `x *= sigmoid(gate)` per head |
//! | [`activation`] | out f32 or compute `[T,I]` | x `[T,I]`, [`Activation`] | `act(x)` |
//! | [`gated_activation`] | out f32 or compute `[T,I]` | gate_up `[T,2I]`, [`Glu`] | `act(gate) · up` |
//! | [`gated_linear`] | out compute `[T,I]` | x compute `[T,K]`, [`Linear`] `[2I,K]`, [`Glu`] | [`linear`], then [`gated_activation`] |
//! | [`route`] | ids u32 `[T,k]`, weights `[T,k]` | logits `[T,E]`, [`Router`], [`RouterTables`] `[E]` | the k best experts, best first, ties to the lowest id |
//! | [`moe`] | out `[T,H]` | x compute `[T,H]`, ids, weights, [`Experts`], [`Glu`], [`ApplyRouterWeight`], [`MoeWorkspace`] | `Σ_slot weights · down(glu(gate(x), up(x)))`, summed in slot order |
//! | [`accumulate`] | out `[T,H]` | x `[T,H]`, gate `[T,1]`?, scale | `out = (out + sigmoid(gate) · x) · scale` |
//! | [`adjust_logits`] | logits `[R,V]` | scale, softcap? | `scale · logits`, then `c · tanh(logits / c)` |
//! | [`sample`] | out u32 `[R]` | logits `[.,V]`, [`SampleRow`]s `[R]`, [`SampleWorkspace`] | one token per row, as [`SampleParams`] says |
//! | [`logprobs`] | packed [`TokenLogprobs`] u32 `[n]` | logits `[.,V]`, sampled u32 `[D]`, [`LogprobRow`]s `[R]` | log-softmax of the target, its rank, the most probable tokens |
//! | [`gather_token_ids`] | ids u32 `[T]` | sampled u32 `[D]`, pairs (t, d) u32 `[n,2]` | `ids[t] = sampled[d]`: a step's input that the step before sampled |
//!
//! Arguments that do not fit each other are errors before anything is written. Ids, positions, slots and block
//! tables are checked against what they index.

mod absorb_w_uk;
mod accumulate;
mod activation;
mod adjust_logits;
mod attention;
mod check;
mod embedding;
mod experts;
mod gate_heads;
mod gated_activation;
mod gated_linear;
mod gather_token_ids;
mod head_product;
mod latent_attention;
mod latent_cache;
mod linear;
mod logprobs;
mod moe;
mod multiply;
mod norm;
#[cfg(test)]
mod packed_tests;
mod paged_attention;
mod qkv_rope_cache;
mod rope;
mod route;
mod sample;
#[cfg(test)]
pub(crate) mod testing;
mod up_project_w_uv;

pub use absorb_w_uk::absorb_w_uk;
pub use accumulate::accumulate;
pub use activation::{Activation, activation};
pub use adjust_logits::adjust_logits;
pub use attention::{AttentionMask, PagedSequences};
pub use embedding::{add_embedding, embedding, matrix_embedding};
#[cfg(test)]
pub(crate) use experts::StackedExperts;
pub use experts::{Expert, Experts};
pub use gate_heads::gate_heads;
pub use gated_activation::{Glu, gated_activation};
pub use gated_linear::gated_linear;
pub use gather_token_ids::{gather_token_ids, gather_token_ids_scratch_bytes};
pub use latent_attention::{latent_attention, latent_attention_scratch_bytes};
pub use latent_cache::latent_cache;
pub use linear::{Linear, LinearPart, linear};
pub use logprobs::{LogprobRow, LogprobTarget, TokenLogprobs, logprobs};
pub use moe::{ApplyRouterWeight, MoeWorkspace, moe};
pub use norm::{Norm, NormKind, add_norm, norm};
pub use paged_attention::{AttentionParams, KvCache, attention_scratch_bytes, paged_attention};
pub use qkv_rope_cache::{HeadTransform, KvCacheMut, NormOrder, NormSpan, QkNorm, Qkv, qkv_rope_cache};
pub use rope::{RopeLayout, RopeTable};
pub use route::{
    ExpertGroups, GroupRank, Renormalize, Router, RouterLogits, RouterScore, RouterTables, route,
};
pub use sample::{
    MAX_BANNED, MAX_BIASED_TOKENS, NO_TOKEN, SampleParams, SampleRow, SampleWorkspace, SeenToken, SeenTokens,
    sample, sample_scratch_bytes,
};
pub use up_project_w_uv::up_project_w_uv;
