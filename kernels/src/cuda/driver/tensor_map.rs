//! Tensor maps: matrices as TMA reads them.

use std::ffi::c_int;

use cudarc::driver::sys::{
    CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave, CUtensorMapL2promotion,
    CUtensorMapSwizzle,
};

use super::{Driver, calls::Answer};
use crate::cuda::CudaPtr;

/// A bf16 matrix as TMA copies it to shared memory: in boxes of some rows and 64 columns, whose chunks of 16 bytes are
/// swizzled as wgmma reads them. What lies outside of the matrix becomes zeros.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct TensorMap([u64; 16]);

impl TensorMap {
    /// Columns of a box: 128 bytes, as wide as a swizzle can be.
    const COLUMNS: u32 = 64;

    /// The argument of a kernel.
    pub fn as_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl Driver {
    /// The map of a matrix `[rows, columns]` in boxes of `box_rows`. The driver refuses what TMA cannot read: an empty
    /// matrix, columns that are no multiple of 8, boxes of more than 256 rows. It does not look at the memory.
    pub fn tensor_map(
        &self,
        matrix: CudaPtr,
        [rows, columns]: [usize; 2],
        box_rows: usize,
    ) -> Answer<TensorMap> {
        let mut map = TensorMap([0; 16]);
        let (dimensions, strides) = ([columns as u64, rows as u64], [2 * columns as u64]);
        let (the_box, steps) = ([TensorMap::COLUMNS, box_rows as u32], [1, 1]);
        // SAFETY: the pointers are to a map, and to as many numbers as a matrix has dimensions, but one for strides.
        let result = unsafe {
            (self.tensor_map_encode)(
                &mut map.0,
                CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 as c_int,
                2,
                matrix.0,
                dimensions.as_ptr(),
                strides.as_ptr(),
                the_box.as_ptr(),
                steps.as_ptr(),
                CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE as c_int,
                CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B as c_int,
                CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B as c_int,
                CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE as c_int,
            )
        };
        self.check("cuTensorMapEncodeTiled", result).map(|()| map)
    }
}
