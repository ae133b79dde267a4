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
    pub serial_split_k: bool,
    /// Thread blocks that a multiprocessor holds, where each takes tiles in turn.
    pub resident: Option<usize>,
}

impl Tile {
    /// Tiles of an output of so many rows and features.
    pub fn count(&self, rows: usize, features: usize) -> usize {
        rows.div_ceil(self.tokens) * features.div_ceil(self.features)
    }

    /// Thread blocks for so many tiles, each in so many parts, on a GPU of `processors` multiprocessors.
    pub fn blocks(&self, tiles: usize, parts: usize, processors: usize) -> usize {
        let most = self.resident.map_or(tiles, |resident| resident * processors / parts).max(1);
        // As few as take no more tiles in turn, so that all take as many.
        tiles.div_ceil(tiles.div_ceil(most).max(1))
    }
}

/// What kernels take for the weight and the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operands {
    /// Pointers.
    Pointers,
    /// Pointers, and last of all arguments whether rows are whole vectors.
    PointersAndAlignment,
    /// Pointers, of the weight to values and scales, and last of all the binary logarithm of the columns that share one.
    Packed,
    /// Maps for TMA, in boxes of the tile's tokens and of [`BOX_ROWS`] or [`GATED_BOX_ROWS`].
    Maps,
}

/// Rows of the weight that stand together in a tile of `linear`, and of `gated_linear`.
pub(super) const BOX_ROWS: usize = 64;
pub(super) const GATED_BOX_ROWS: usize = 8;

/// Kernels whose outputs are the same bits.
#[derive(Debug)]
pub(super) struct Family {
    /// Elements of K in a stage; parts of K are whole stages.
    pub stage: usize,
    pub operands: Operands,
    /// For few tokens, in ascending order: one tile holds them all.
    pub small: &'static [Tile],
    /// For more.
    pub large: Tile,
    /// For so many that there are tiles for all multiprocessors.
    pub serial_split_k: Tile,
    /// For many more, where K is one part.
    pub whole: Option<Tile>,
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
    let gated = Some(gated);
    Tile { linear, gated, features, tokens, threads, shared_bytes, serial_split_k: false, resident: None }
}

/// bf16 weights whose rows are whole vectors: on the tensor cores.
pub(super) static MMA: Family = Family {
    stage: 64,
    operands: Operands::Pointers,
    small: &[
        tensor_cores(["linear_t8_bf16", "gated_linear_t8_bf16"], 64, 8, 128, 6),
        tensor_cores(["linear_t16_bf16", "gated_linear_t16_bf16"], 64, 16, 128, 6),
        tensor_cores(["linear_t32_bf16", "gated_linear_t32_bf16"], 64, 32, 128, 5),
        tensor_cores(["linear_t64_bf16", "gated_linear_t64_bf16"], 64, 64, 128, 4),
    ],
    large: tensor_cores(["linear_t128_bf16", "gated_linear_t128_bf16"], 128, 128, 256, 3),
    serial_split_k: Tile {
        serial_split_k: true,
        ..tensor_cores(
            ["linear_t128_serial_split_k_bf16", "gated_linear_t128_serial_split_k_bf16"],
            128,
            128,
            256,
            3,
        )
    },
    whole: None,
};

const fn wgmma(kernels: [&'static str; 2], features: usize, tokens: usize, stages: usize) -> Tile {
    // One warp fills the stages of one warpgroup, a warpgroup those of two.
    let (threads, resident) = if features == 64 { (160, 3) } else { (384, 1) };
    Tile { resident: Some(resident), ..tensor_cores(kernels, features, tokens, threads, stages) }
}

/// The same on compute capability 9.0, with instructions that it alone has.
pub(super) static WGMMA: Family = Family {
    stage: 64,
    operands: Operands::Maps,
    small: &[
        wgmma(["linear_wgmma_t8_bf16", "gated_linear_wgmma_t8_bf16"], 64, 8, 8),
        wgmma(["linear_wgmma_t16_bf16", "gated_linear_wgmma_t16_bf16"], 64, 16, 7),
        wgmma(["linear_wgmma_t32_bf16", "gated_linear_wgmma_t32_bf16"], 64, 32, 6),
        wgmma(["linear_wgmma_t64_bf16", "gated_linear_wgmma_t64_bf16"], 64, 64, 4),
    ],
    large: wgmma(["linear_wgmma_t128_bf16", "gated_linear_wgmma_t128_bf16"], 128, 128, 6),
    serial_split_k: Tile {
        serial_split_k: true,
        ..wgmma(
            ["linear_wgmma_t192_serial_split_k_bf16", "gated_linear_wgmma_t192_serial_split_k_bf16"],
            128,
            192,
            5,
        )
    },
    whole: Some(Tile {
        serial_split_k: true,
        ..wgmma(["linear_wgmma_t256_whole_bf16", "gated_linear_wgmma_t256_whole_bf16"], 128, 256, 4)
    }),
};

const fn packed(linear: &'static str, shape: [usize; 2], threads: u32, stages: usize) -> Tile {
    Tile { gated: None, ..tensor_cores([linear, ""], shape[0], shape[1], threads, stages) }
}

const fn packed_family(small: &'static [Tile], [large, serial_split_k]: [&'static str; 2]) -> Family {
    let large = packed(large, [128, 128], 256, 3);
    let serial_split_k = Tile { serial_split_k: true, ..packed(serial_split_k, [128, 128], 256, 3) };
    Family { stage: 64, operands: Operands::Packed, small, large, serial_split_k, whole: None }
}

/// Packed weights, decoded on their way to the tensor cores.
pub(super) static MXFP4: Family = packed_family(
    &[packed("linear_t8_mxfp4", [64, 8], 128, 6), packed("linear_t32_mxfp4", [64, 32], 128, 5)],
    ["linear_t128_mxfp4", "linear_t128_serial_split_k_mxfp4"],
);
pub(super) static FP8: Family = packed_family(
    &[packed("linear_t8_fp8", [64, 8], 128, 6), packed("linear_t32_fp8", [64, 32], 128, 5)],
    ["linear_t128_fp8", "linear_t128_serial_split_k_fp8"],
);

const fn simt(linear: &'static str, tokens: usize, serial_split_k: bool) -> Tile {
    Tile {
        linear,
        gated: None,
        features: 64,
        tokens,
        threads: 128,
        shared_bytes: 0,
        serial_split_k,
        resident: None,
    }
}

const fn simt_family(small: &'static [Tile], large: &'static str) -> Family {
    let (large, serial_split_k) = (simt(large, 32, false), simt(large, 32, true));
    Family { stage: 32, operands: Operands::PointersAndAlignment, small, large, serial_split_k, whole: None }
}

/// Everything else: without tensor cores.
pub(super) static SIMT_F32: Family =
    simt_family(&[simt("linear_simt_t8_f32", 8, false)], "linear_simt_t32_f32");
pub(super) static SIMT_F16: Family =
    simt_family(&[simt("linear_simt_t8_f16", 8, false)], "linear_simt_t32_f16");
pub(super) static SIMT_BF16: Family =
    simt_family(&[simt("linear_simt_t8_bf16", 8, false)], "linear_simt_t32_bf16");
