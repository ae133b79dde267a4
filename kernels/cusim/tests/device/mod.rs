//! The simulated device through the driver's functions, as the tests of this crate use it.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::undocumented_unsafe_blocks,
    reason = "tests; each uses a part"
)]

use cudarc::driver::{result, sys};
use std::ffi::{CString, c_void};
use std::process::{Command, Output};

/// Makes the device the thread's, with the kernels of these tests.
pub fn open() {
    cusim::load_test_kernels().unwrap();
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

/// Launches `kernel` of `file` and waits; the checker's text if it failed.
pub fn launch(file: &str, kernel: &str, shape: &Shape, parameters: &mut [*mut c_void]) -> Result<(), String> {
    let (file, name) = (CString::new(file).unwrap(), CString::new(kernel).unwrap());
    unsafe {
        let module = result::module::load_data(file.as_ptr().cast()).unwrap();
        let function = result::module::get_function(module, name).unwrap();
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        result::function::set_function_attribute(function, attribute, shape.shared_bytes as i32).unwrap();
        let (blocks, threads) = ((shape.blocks, 1, 1), (shape.threads, 1, 1));
        let stream = std::ptr::null_mut();
        result::launch_kernel(function, blocks, threads, shape.shared_bytes, stream, parameters).unwrap();
        result::stream::synchronize(stream).map_err(|_| cusim::last_error().unwrap())
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

/// As `run_in_child`, and demands success.
pub fn pass_in_child(name: &str, environment: &[(&str, &str)]) {
    let child = run_in_child(name, environment);
    let text = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && text.contains("1 passed"), "{name} with {environment:?}: {text}");
}
