//! What a launch consists of.

use std::ffi::c_void;

use super::{CudaPtr, driver::TensorMap};
use crate::{DType, View, ViewMut};

/// How many threads run a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    /// Thread blocks in x, y and z. Nothing runs when one of them is 0.
    pub blocks: [u32; 3],
    /// Threads of each thread block.
    pub threads: u32,
    /// Dynamic shared memory of each thread block.
    pub shared_bytes: u32,
}

/// Threads of kernels that handle element by element.
const ELEMENT_THREADS: u32 = 256;

impl Grid {
    /// A thread for each of `n` elements.
    pub fn of_elements(n: usize) -> Grid {
        let blocks = n.div_ceil(ELEMENT_THREADS as usize) as u32;
        Grid { blocks: [blocks, 1, 1], threads: ELEMENT_THREADS, shared_bytes: 0 }
    }

    /// x counts rows, y parts of a row: a thread for each of its `width` elements, or for four where that divides them.
    pub fn of_rows(rows: usize, width: usize) -> Grid {
        let threads = if width.is_multiple_of(4) { width / 4 } else { width };
        let parts = threads.div_ceil(ELEMENT_THREADS as usize) as u32;
        Grid { blocks: [rows as u32, parts, 1], threads: ELEMENT_THREADS, shared_bytes: 0 }
    }
}

/// The number of a float type in kernels that take any (`cuh/any_floats.cuh`).
pub(crate) fn float_type(dtype: DType) -> i32 {
    match dtype {
        DType::F16 => 1,
        DType::BF16 => 2,
        DType::F32 | DType::U32 | DType::U8 => 0,
    }
}

/// Most words of a kernel's arguments together.
const WORDS: usize = 64;
/// Most arguments.
const ARGUMENTS: usize = 32;

/// The arguments of one launch, in the order of the kernel's parameters.
pub(crate) struct Args {
    /// Each argument starts a word of its own.
    words: [u64; WORDS],
    used: usize,
    /// First word and bytes of each argument.
    spans: [(usize, usize); ARGUMENTS],
    count: usize,
    /// The first thing that was wrong.
    fault: Option<String>,
}

#[allow(dead_code, reason = "ops use the kinds that they need")]
impl Args {
    /// None yet.
    pub fn new() -> Args {
        Args { words: [0; WORDS], used: 0, spans: [(0, 0); ARGUMENTS], count: 0, fault: None }
    }

    /// A tensor that the kernel writes.
    pub fn write(&mut self, tensor: &mut ViewMut<'_>) -> &mut Args {
        self.tensor(tensor.as_view().cuda_ptr())
    }

    /// A tensor that the kernel reads.
    pub fn read(&mut self, tensor: &View<'_>) -> &mut Args {
        self.tensor(tensor.cuda_ptr())
    }

    /// A tensor that the kernel reads, or a null pointer.
    pub fn read_opt(&mut self, tensor: Option<&View<'_>>) -> &mut Args {
        match tensor {
            Some(tensor) => self.read(tensor),
            None => self.u64(0),
        }
    }

    /// Device memory that is no tensor.
    pub fn pointer(&mut self, address: CudaPtr) -> &mut Args {
        self.u64(address.0)
    }

    /// A `uint32_t`.
    pub fn u32(&mut self, value: u32) -> &mut Args {
        self.bytes(&value.to_ne_bytes())
    }

    /// An `int32_t`.
    pub fn i32(&mut self, value: i32) -> &mut Args {
        self.bytes(&value.to_ne_bytes())
    }

    /// A `uint64_t`.
    pub fn u64(&mut self, value: u64) -> &mut Args {
        self.bytes(&value.to_ne_bytes())
    }

    /// A `float`.
    pub fn f32(&mut self, value: f32) -> &mut Args {
        self.bytes(&value.to_ne_bytes())
    }

    /// A matrix that the kernel reads by TMA.
    pub fn map(&mut self, map: &TensorMap) -> &mut Args {
        self.bytes(map.as_bytes())
    }

    /// A structure by value, with C's layout.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Args {
        let words = value.len().div_ceil(8);
        if self.count == ARGUMENTS || self.used + words > WORDS {
            return self.wrong("too many arguments".into());
        }
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.words[self.used..]);
        bytes[..value.len()].copy_from_slice(value);
        self.spans[self.count] = (self.used, value.len());
        self.used += words;
        self.count += 1;
        self
    }

    fn tensor(&mut self, address: Option<CudaPtr>) -> &mut Args {
        match address {
            Some(address) => self.pointer(address),
            None => self.wrong(format!("argument {} lies in host memory", self.count)),
        }
    }

    fn wrong(&mut self, fault: String) -> &mut Args {
        self.fault.get_or_insert(fault);
        self
    }

    /// What is wrong with them for a kernel with parameters of these sizes (`None`: not known).
    pub(super) fn misfit(&self, sizes: Option<&[usize]>) -> Option<String> {
        if let Some(fault) = &self.fault {
            return Some(fault.clone());
        }
        let sizes = sizes?;
        let found = self.spans[..self.count].iter().map(|&(_, bytes)| bytes);
        if found.clone().eq(sizes.iter().copied()) {
            return None;
        }
        Some(format!("arguments of sizes {:?}, the kernel takes {sizes:?}", found.collect::<Vec<_>>()))
    }

    /// Calls `launch` with a pointer to each argument, as the driver wants them.
    pub(super) fn with_pointers<R>(&self, launch: impl FnOnce(&mut [*mut c_void]) -> R) -> R {
        let mut pointers = [std::ptr::null_mut::<c_void>(); ARGUMENTS];
        for (pointer, &(word, _)) in pointers.iter_mut().zip(&self.spans[..self.count]) {
            *pointer = std::ptr::from_ref(&self.words[word]).cast_mut().cast();
        }
        launch(&mut pointers[..self.count])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_compared_with_the_kernels_parameters() {
        let mut args = Args::new();
        args.pointer(CudaPtr(0x1234)).u32(7).f32(1.5).u64(9).bytes(&[1; 12]);
        assert_eq!(args.misfit(None), None);
        assert_eq!(args.misfit(Some(&[8, 4, 4, 8, 12])), None);
        let wrong = args.misfit(Some(&[8, 4, 4, 8])).unwrap();
        assert_eq!(wrong, "arguments of sizes [8, 4, 4, 8, 12], the kernel takes [8, 4, 4, 8]");
        assert_eq!(args.with_pointers(|pointers| pointers.len()), 5);
    }

    #[test]
    fn tensors_in_host_memory_and_too_many_arguments_are_refused() {
        let data = [1.0f32; 4];
        let mut args = Args::new();
        args.u32(1).read(&View::from_slice([4], &data).unwrap());
        assert_eq!(args.misfit(None).unwrap(), "argument 1 lies in host memory");
        let mut args = Args::new();
        for _ in 0..ARGUMENTS + 1 {
            args.u32(1);
        }
        assert_eq!(args.misfit(None).unwrap(), "too many arguments");
    }
}
