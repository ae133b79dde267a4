//! The element types that tensors of a GGUF file may have.

use mosu_kernels::{BlockType, DType, Format};

/// An element type. Quantised ones store blocks of elements of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GgmlType {
    /// As the format names it.
    pub name: &'static str,
    /// As files write it.
    pub id: u32,
    /// Elements of a block; 1 where elements stand alone.
    pub block_elements: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
}

const fn row(id: u32, name: &'static str, block_elements: usize, block_bytes: usize) -> GgmlType {
    GgmlType { name, id, block_elements, block_bytes }
}

/// Every type that files are written with, by id. The ids between were given up.
const TYPES: [GgmlType; 34] = [
    row(0, "F32", 1, 4),
    row(1, "F16", 1, 2),
    row(2, "Q4_0", 32, 18),
    row(3, "Q4_1", 32, 20),
    row(6, "Q5_0", 32, 22),
    row(7, "Q5_1", 32, 24),
    row(8, "Q8_0", 32, 34),
    row(9, "Q8_1", 32, 36),
    row(10, "Q2_K", 256, 84),
    row(11, "Q3_K", 256, 110),
    row(12, "Q4_K", 256, 144),
    row(13, "Q5_K", 256, 176),
    row(14, "Q6_K", 256, 210),
    row(15, "Q8_K", 256, 292),
    row(16, "IQ2_XXS", 256, 66),
    row(17, "IQ2_XS", 256, 74),
    row(18, "IQ3_XXS", 256, 98),
    row(19, "IQ1_S", 256, 50),
    row(20, "IQ4_NL", 32, 18),
    row(21, "IQ3_S", 256, 110),
    row(22, "IQ2_S", 256, 82),
    row(23, "IQ4_XS", 256, 136),
    row(24, "I8", 1, 1),
    row(25, "I16", 1, 2),
    row(26, "I32", 1, 4),
    row(27, "I64", 1, 8),
    row(28, "F64", 1, 8),
    row(29, "IQ1_M", 256, 56),
    row(30, "BF16", 1, 2),
    row(34, "TQ1_0", 256, 54),
    row(35, "TQ2_0", 256, 66),
    row(39, "MXFP4", 32, 17),
    row(40, "NVFP4", 64, 36),
    row(41, "Q1_0", 128, 18),
];

impl GgmlType {
    /// The type of an id.
    pub fn of(id: u32) -> Option<GgmlType> {
        TYPES.into_iter().find(|ggml| ggml.id == id)
    }

    /// The float that the ops know, if it is one.
    pub fn float(self) -> Option<DType> {
        match self.name {
            "F32" => Some(DType::F32),
            "F16" => Some(DType::F16),
            "BF16" => Some(DType::BF16),
            _ => None,
        }
    }

    /// The packed format that the ops know, if it is one.
    pub fn blocks(self) -> Option<BlockType> {
        Format::ALL.into_iter().find_map(|format| match format {
            Format::Blocks(blocks) if format.traits().gguf == Some(self.id) => Some(blocks),
            _ => None,
        })
    }

    /// Names of all types that weights may have.
    pub fn supported() -> String {
        let known = TYPES.into_iter().filter(|ggml| ggml.float().is_some() || ggml.blocks().is_some());
        known.map(|ggml| ggml.name).collect::<Vec<_>>().join(", ")
    }

    /// Bytes of a tensor whose rows have `columns` elements; `None` when rows are not whole blocks, or it overflows.
    pub fn size(self, columns: usize, rows: usize) -> Option<usize> {
        let whole = columns.is_multiple_of(self.block_elements);
        let row = (columns / self.block_elements).checked_mul(self.block_bytes).filter(|_| whole)?;
        row.checked_mul(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_blocks() {
        let q4_k = GgmlType::of(12).unwrap();
        assert_eq!((q4_k.name, q4_k.size(512, 3)), ("Q4_K", Some(2 * 144 * 3)));
        assert_eq!((q4_k.size(511, 3), q4_k.size(256, usize::MAX)), (None, None));
        assert_eq!(GgmlType::of(1).unwrap().size(3, 5), Some(30));
        assert_eq!(GgmlType::of(4), None);
        assert!(TYPES.windows(2).all(|pair| pair[0].id < pair[1].id));
        let floats: Vec<_> = TYPES.into_iter().filter_map(GgmlType::float).collect();
        assert_eq!(floats, [DType::F32, DType::F16, DType::BF16]);
        for ggml in TYPES {
            if let Some(blocks) = ggml.blocks() {
                let traits = Format::Blocks(blocks).traits();
                assert_eq!((traits.name, traits.block), (ggml.name, ggml.block_elements));
                assert_eq!(traits.block_bytes, ggml.block_bytes, "{}", ggml.name);
            }
        }
        assert_eq!(
            GgmlType::supported(),
            "F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, BF16, MXFP4"
        );
    }
}
