//! What the ops' tests share.

use std::{cell::OnceCell, num::NonZeroUsize};

use half::{bf16, f16};

use super::{Activation, Glu, attention::CacheElement};
use crate::{DType, Device, Element, Isa, Shape, Tensor, cpu::erf};

/// Reproducible numbers (SplitMix64).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Uniform in -1..1.
    pub(super) fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(super) fn floats(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.float() * scale).collect()
    }
}

/// Every instruction set of this machine with 1 to 4 threads.
pub(super) fn devices() -> Vec<Device> {
    let threads = [1, 2, 3, 4];
    Isa::available()
        .flat_map(|isa| threads.map(|n| Device::cpu_with_isa(NonZeroUsize::new(n), isa)))
        .collect()
}

/// The CUDA device of this thread: a real one with `MOSU_TEST_CUDA=real`, else the simulated one where it is built. Ops
/// keep data in the device's scratch memory between their kernels, so that only one thread at a time may use a device.
pub(crate) fn cuda() -> Option<Device> {
    thread_local!(static CUDA: OnceCell<Option<Device>> = const { OnceCell::new() });
    let open = || cusim::for_tests().unwrap().then(|| Device::cuda(0).unwrap());
    CUDA.with(|device| device.get_or_init(open).clone())
}

/// [`devices`], and the CUDA device where one answers.
pub(crate) fn every_device() -> Vec<Device> {
    devices().into_iter().chain(cuda()).collect()
}

/// What devices must share for their results to be the same bits.
pub(super) fn kind(device: &Device) -> String {
    match device {
        Device::Cpu(cpu) => cpu.isa().to_string(),
        Device::Cuda(_) => "cuda".into(),
    }
}

/// A tensor in the device's memory.
pub(crate) fn upload<T: Element>(device: &Device, shape: impl Into<Shape>, data: &[T]) -> Tensor {
    Tensor::from_slice(shape, data).unwrap().to_device(device).unwrap()
}

/// A tensor in the device's memory, to write to: every float is NaN.
pub(super) fn empty(device: &Device, shape: impl Into<Shape>, dtype: DType) -> Tensor {
    let shape = shape.into();
    let n = shape.elements();
    match dtype {
        DType::F32 => upload(device, shape, &vec![f32::NAN; n]),
        DType::F16 => upload(device, shape, &vec![f16::NAN; n]),
        DType::BF16 => upload(device, shape, &vec![bf16::NAN; n]),
        DType::U32 => upload(device, shape, &vec![u32::MAX; n]),
        DType::U8 => upload(device, shape, &vec![u8::MAX; n]),
    }
}

/// The elements of a tensor in the device's memory.
pub(super) fn to_vec<T: Element>(device: &Device, tensor: &Tensor) -> Vec<T> {
    tensor.to_vec(device).unwrap()
}

/// Where element `d` of the key at `offset` lies in a KV block of a head on `device`: the CPU's are transposed.
pub(super) fn key_index<T: CacheElement>(
    device: &Device,
    d: usize,
    offset: usize,
    block_size: usize,
    head_dim: usize,
) -> usize {
    match device {
        Device::Cpu(_) => T::key_index(d, offset, block_size),
        Device::Cuda(_) => offset * head_dim + d,
    }
}

impl Activation {
    /// Its definition.
    pub(super) fn in_f64(self, x: f64) -> f64 {
        match self {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluTanh => {
                x / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
            Activation::GeluErf => x / 2.0 * (1.0 + erf(x / 2f64.sqrt())),
        }
    }
}

impl Glu {
    /// Its definition.
    pub(super) fn in_f64(self, gate: f64, up: f64) -> f64 {
        match self {
            Glu::Plain(act) => act.in_f64(gate) * up,
            Glu::SwigluOai { alpha, limit } => {
                let (alpha, limit) = (f64::from(alpha), f64::from(limit));
                let gate = gate.min(limit);
                (up.clamp(-limit, limit) + 1.0) * gate / (1.0 + (-alpha * gate).exp())
            }
            Glu::Clamped { act, limit } => {
                let limit = f64::from(limit);
                act.in_f64(gate).min(limit) * up.clamp(-limit, limit)
            }
        }
    }
}

/// One device per instruction set of this machine.
pub(super) fn isa_devices() -> Vec<Device> {
    Isa::available().map(|isa| Device::cpu_with_isa(NonZeroUsize::new(2), isa)).collect()
}

/// Conversions of test data.
pub(super) trait Rounded: Element {
    fn round(x: f32) -> Self;
    fn widen(self) -> f32;
}

impl Rounded for f32 {
    fn round(x: f32) -> f32 {
        x
    }
    fn widen(self) -> f32 {
        self
    }
}

impl Rounded for f16 {
    fn round(x: f32) -> f16 {
        f16::from_f32(x)
    }
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Rounded for bf16 {
    fn round(x: f32) -> bf16 {
        bf16::from_f32(x)
    }
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// Rounds each element.
pub(super) fn rounded<T: Rounded>(x: &[f32]) -> Vec<T> {
    x.iter().map(|&x| T::round(x)).collect()
}

/// Widens each element.
pub(super) fn widened<T: Rounded>(x: &[T]) -> Vec<f32> {
    x.iter().map(|&x| x.widen()).collect()
}

/// Fails when any difference is over `tolerance`, or NaN.
#[track_caller]
pub(super) fn assert_close(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths");
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let difference = (f64::from(found) - expected).abs();
        // NaN is not below anything.
        assert!(difference <= tolerance, "{what}: element {i} is {found}, expected {expected}");
    }
}

/// Fails when any bit differs.
#[track_caller]
pub(super) fn assert_same_bits(found: &[f32], expected: &[f32], what: &str) {
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(bits(found) == bits(expected), "{what}: bits differ");
}
