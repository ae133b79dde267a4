//! The simulated device through the driver's functions, as the tests of this crate use it; or, with
//! `MOSU_TEST_CUDA=real`, a GPU, for the tests that can (conformance/README.md).
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::undocumented_unsafe_blocks,
    reason = "tests; each uses a part"
)]

use cudarc::driver::{result, sys};
pub use cusim::is_real;
use std::ffi::{CString, c_void};
use std::path::Path;
use std::process::{Command, Output};

/// Makes the device the thread's, with the kernels of these tests.
pub fn open() {
    if !is_real() {
        cusim::load_test_kernels().unwrap();
    }
    result::init().unwrap();
    unsafe {
        let context = result::primary_ctx::retain(result::device::get(0).unwrap()).unwrap();
        result::ctx::set_current(context).unwrap();
    }
}

/// Device memory with these values.
pub fn upload<T: Copy>(values: &[T]) -> u64 {
    unsafe {
        let memory = result::malloc_sync(size_of_val(values)).unwrap();
        result::memcpy_htod_sync(memory, values).unwrap();
        memory
    }
}

pub fn download<T: Copy + Default>(memory: u64, length: usize) -> Vec<T> {
    let mut values = vec![T::default(); length];
    unsafe { result::memcpy_dtoh_sync(&mut values, memory) }.unwrap();
    values
}

pub struct Shape {
    pub blocks: u32,
    pub threads: u32,
    pub shared_bytes: u32,
}

/// Compute capability, as ten times the major plus the minor version.
pub fn capability() -> i32 {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let device = result::device::get(0).unwrap();
    let ask = |attribute| unsafe { result::device::get_attribute(device, attribute) }.unwrap();
    10 * ask(MAJOR) + ask(MINOR)
}

/// A bf16 matrix in device memory as TMA reads it: in boxes of `rows` x `columns`.
pub fn tensor_map(
    matrix: u64,
    [rows, columns]: [usize; 2],
    the_box: [u32; 2],
    swizzle: bool,
) -> sys::CUtensorMap {
    let mut map = sys::CUtensorMap { opaque: [0; 16] };
    let (dimensions, strides) = ([columns as u64, rows as u64], [2 * columns as u64]);
    let status = unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut map,
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            2,
            matrix as *mut _,
            dimensions.as_ptr(),
            strides.as_ptr(),
            [the_box[1], the_box[0]].as_ptr(),
            [1, 1].as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            match swizzle {
                true => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                false => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
            },
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    assert_eq!(status, sys::CUresult::CUDA_SUCCESS);
    map
}

/// What the driver loads for a `.cu` file: its fatbin in `$MOSU_TEST_FATBINS`, or, on the simulated device, its name.
fn image(file: &str) -> Vec<u8> {
    match std::env::var_os("MOSU_TEST_FATBINS") {
        Some(folder) => std::fs::read(Path::new(&folder).join(file).with_extension("fatbin")).unwrap(),
        None => CString::new(file).unwrap().into_bytes_with_nul(),
    }
}

/// Launches `kernel` of `file` and waits; if it failed, the checker's text or a GPU's error.
pub fn launch(file: &str, kernel: &str, shape: &Shape, parameters: &mut [*mut c_void]) -> Result<(), String> {
    let (image, name) = (image(file), CString::new(kernel).unwrap());
    unsafe {
        let module = result::module::load_data(image.as_ptr().cast()).unwrap();
        let function = result::module::get_function(module, name).unwrap();
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        result::function::set_function_attribute(function, attribute, shape.shared_bytes as i32).unwrap();
        let (blocks, threads) = ((shape.blocks, 1, 1), (shape.threads, 1, 1));
        let stream = std::ptr::null_mut();
        result::launch_kernel(function, blocks, threads, shape.shared_bytes, stream, parameters).unwrap();
        result::stream::synchronize(stream).map_err(|error| match is_real() {
            true => format!("{kernel}: {error:?}"),
            false => cusim::last_error().unwrap(),
        })
    }
}

/// The address of a kernel's parameter.
pub fn parameter<T>(value: &mut T) -> *mut c_void {
    (&raw mut *value).cast()
}

/// Runs the ignored test `name` in a process of its own, whose environment chooses the device.
pub fn run_in_child(name: &str, environment: &[(&str, &str)]) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", name, "--nocapture"])
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

/// What a child printed, and whether its test passed.
pub fn outcome(child: &Output) -> (bool, String) {
    let text = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    (child.status.success() && text.contains("1 passed"), text.into_owned())
}

/// As `run_in_child`, and demands success.
pub fn pass_in_child(name: &str, environment: &[(&str, &str)]) {
    let (passed, text) = outcome(&run_in_child(name, environment));
    assert!(passed, "{name} with {environment:?}: {text}");
}
