//! What the CPU implementations of ops share: threads, vectors of the instruction sets, register tiles.

mod any_packed;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod bytes;
#[cfg(target_arch = "x86_64")]
mod bytes256;
mod coded_product;
mod floats;
mod ggml;
mod isa;
mod math;
mod packed;
mod packed_product;
mod pool;
mod portable;
mod quantized;
mod simd;
mod tile;
mod weight;

pub(crate) use any_packed::{Packed, WithPacked};
pub(crate) use floats::{Float, Floats, convert};
pub use isa::Isa;
pub(crate) use isa::Kernel;
#[cfg(test)]
pub(crate) use math::erf;
pub(crate) use math::{clamp, exp, gelu_erf, gelu_tanh, mul_sigmoid, silu, tanh};
pub(crate) use packed::{Fp8Block, Fp8Rows, Mxfp4Rows, PackedWeight};
pub(crate) use packed_product::{multiply as multiply_packed, multiply_coded, with_decoded_row};
pub(crate) use pool::{Parts, ThreadPool};
pub(crate) use quantized::with_quantized;
pub(crate) use simd::{LANES, Simd};
pub(crate) use tile::{Block, Product, Rows};
pub(crate) use weight::{FloatWeight, Input, for_weight};
