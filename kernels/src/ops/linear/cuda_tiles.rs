//! The kernels of `linear` and `gated_linear`, and how each cuts the output into tiles: as in the `.cu` files.

/// One kernel.
#[derive(Debug)]
pub(super) struct Tile {
    pub linear: &'static str,
    /// The one that applies a gate to its outputs.
    pub gated: Option<&'static str>,
    pub features: usize,
    pub tokens: usize,
    pub threads: u32,
    pub shared_bytes: u32,
    /// A thread block computes all parts of K, not one.
    pub all_parts: bool,
}

impl Tile {
    /// Tiles of an output of so many rows and features.
    pub fn count(&self, rows: usize, features: usize) -> usize {
        rows.div_ceil(self.tokens) * features.div_ceil(self.features)
    }
}

/// Kernels whose outputs are the same bits.
#[derive(Debug)]
pub(super) struct Family {
    /// Elements of K in a stage; parts of K are whole stages.
    pub stage: usize,
    /// The kernels end with whether rows are whole vectors.
    pub takes_alignment: bool,
    /// For few tokens, in ascending order: one tile holds them all.
    pub small: &'static [Tile],
    /// For more.
    pub large: Tile,
    pub all_parts: Tile,
}

const fn tensor_cores(
    kernels: [&'static str; 2],
    features: usize,
    tokens: usize,
    threads: u32,
    stages: usize,
) -> Tile {
    let shared_bytes = (stages * (features + tokens) * 64 * size_of::<u16>()) as u32;
    let [linear, gated] = kernels;
    Tile { linear, gated: Some(gated), features, tokens, threads, shared_bytes, all_parts: false }
}

/// bf16 weights whose rows are whole vectors: on the tensor cores.
pub(super) static MMA: Family = Family {
    stage: 64,
    takes_alignment: false,
    small: &[
        tensor_cores(["linear_t8_bf16", "gated_linear_t8_bf16"], 64, 8, 128, 6),
        tensor_cores(["linear_t16_bf16", "gated_linear_t16_bf16"], 64, 16, 128, 6),
        tensor_cores(["linear_t32_bf16", "gated_linear_t32_bf16"], 64, 32, 128, 5),
        tensor_cores(["linear_t64_bf16", "gated_linear_t64_bf16"], 64, 64, 128, 4),
    ],
    large: tensor_cores(["linear_t128_bf16", "gated_linear_t128_bf16"], 128, 128, 256, 3),
    all_parts: Tile {
        all_parts: true,
        ..tensor_cores(["linear_t128_all_parts_bf16", "gated_linear_t128_all_parts_bf16"], 128, 128, 256, 3)
    },
};

/// The same on compute capability 9.0, with instructions that it alone has.
pub(super) static WGMMA: Family = Family {
    stage: 64,
    takes_alignment: false,
    small: &[
        tensor_cores(["linear_wgmma_t8_bf16", "gated_linear_wgmma_t8_bf16"], 64, 8, 128, 7),
        tensor_cores(["linear_wgmma_t16_bf16", "gated_linear_wgmma_t16_bf16"], 64, 16, 128, 7),
        tensor_cores(["linear_wgmma_t32_bf16", "gated_linear_wgmma_t32_bf16"], 64, 32, 128, 6),
        tensor_cores(["linear_wgmma_t64_bf16", "gated_linear_wgmma_t64_bf16"], 64, 64, 128, 4),
    ],
    large: tensor_cores(["linear_wgmma_t128_bf16", "gated_linear_wgmma_t128_bf16"], 128, 128, 256, 5),
    all_parts: Tile {
        all_parts: true,
        ..tensor_cores(
            ["linear_wgmma_t128_all_parts_bf16", "gated_linear_wgmma_t128_all_parts_bf16"],
            128,
            128,
            256,
            5,
        )
    },
};

const fn simt(linear: &'static str, tokens: usize, all_parts: bool) -> Tile {
    Tile { linear, gated: None, features: 64, tokens, threads: 128, shared_bytes: 0, all_parts }
}

const fn simt_family(small: &'static [Tile], large: &'static str) -> Family {
    let (large, all_parts) = (simt(large, 32, false), simt(large, 32, true));
    Family { stage: 32, takes_alignment: true, small, large, all_parts }
}

/// Everything else: without tensor cores.
pub(super) static SIMT_F32: Family =
    simt_family(&[simt("linear_simt_t8_f32", 8, false)], "linear_simt_t32_f32");
pub(super) static SIMT_F16: Family =
    simt_family(&[simt("linear_simt_t8_f16", 8, false)], "linear_simt_t32_f16");
pub(super) static SIMT_BF16: Family =
    simt_family(&[simt("linear_simt_t8_bf16", 8, false)], "linear_simt_t32_bf16");
