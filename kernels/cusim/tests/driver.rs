//! The driver's functions: streams, events, graphs, memory, and how faults show. Tests that lose the context, or need
//! another device, run in a process of their own.
#![cfg(target_arch = "x86_64")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::undocumented_unsafe_blocks,
    reason = "a test may fail"
)]

mod device;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUresult};
use device::{Shape, download, launch, open, parameter, pass_in_child, upload};
use std::ffi::c_void;

const ONE_WARP: Shape = Shape { blocks: 1, threads: 32, shared_bytes: 0 };
const NO_STREAM: sys::CUstream = std::ptr::null_mut();

/// `previous_kernel` copies 32 floats.
fn copy_function() -> sys::CUfunction {
    let module = unsafe { result::module::load_data(c"previous_kernel.cu".as_ptr().cast()) }.unwrap();
    unsafe { result::module::get_function(module, c"previous_kernel".into()) }.unwrap()
}

fn launch_copy(stream: sys::CUstream, mut to: u64, mut from: u64) {
    let parameters = &mut [parameter(&mut to), parameter(&mut from)];
    unsafe { result::launch_kernel(copy_function(), (1, 1, 1), (32, 1, 1), 0, stream, parameters) }.unwrap();
}

fn new_stream() -> sys::CUstream {
    result::stream::create(result::stream::StreamKind::NonBlocking).unwrap()
}

#[test]
fn a_stream_waits_for_the_event_of_another() {
    open();
    let values: Vec<f32> = (0..32).map(|i| i as f32).collect();
    for seed in 0..10 {
        cusim::set_seed(seed).unwrap();
        let (first, second) = (new_stream(), new_stream());
        let (from, middle, to) = (upload(&values), upload(&[0f32; 32]), upload(&[0f32; 32]));
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).unwrap();
        launch_copy(first, middle, from);
        unsafe {
            result::event::record(event, first).unwrap();
            result::stream::wait_event(second, event, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT)
                .unwrap();
        }
        launch_copy(second, to, middle);
        unsafe { result::stream::synchronize(second) }.unwrap();
        assert_eq!(download::<f32>(to, 32), values);
    }
}

#[test]
fn a_graph_replays_what_was_captured() {
    open();
    let stream = new_stream();
    let (from, to) = (upload(&[1f32; 32]), upload(&[0f32; 32]));
    let executable = unsafe {
        result::stream::begin_capture(stream, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .unwrap();
        launch_copy(stream, to, from);
        let graph = result::stream::end_capture(stream).unwrap();
        let mut executable = std::ptr::null_mut();
        assert_eq!(sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0), CUresult::CUDA_SUCCESS);
        executable
    };
    unsafe { result::stream::synchronize(stream) }.unwrap();
    assert_eq!(download::<f32>(to, 32), [0.0; 32], "a capture does not run");
    for value in [2f32, 3.0] {
        unsafe {
            result::memcpy_htod_sync(from, &[value; 32]).unwrap();
            result::graph::launch(executable, stream).unwrap();
            result::stream::synchronize(stream).unwrap();
        }
        assert_eq!(download::<f32>(to, 32), [value; 32]);
    }
}

/// In a process of its own: counts are the process's.
#[test]
fn launches_are_counted_and_logged() {
    let log = std::env::temp_dir().join(format!("cusim-launches-{}", std::process::id()));
    for _ in 0..2 {
        pass_in_child("child_launches", &[("CUSIM_LAUNCH_LOG", log.to_str().unwrap())]);
    }
    let logged = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
    assert_eq!(logged, "previous_kernel\n".repeat(2), "each process enters a kernel once");
}

#[test]
#[ignore = "started by launches_are_counted_and_logged"]
fn child_launches() {
    open();
    assert!(cusim::launches().unwrap().is_empty());
    let (to, from) = (upload(&[0f32; 32]), upload(&[0f32; 32]));
    for count in 1..=3 {
        run_copy(to, from).unwrap();
        assert_eq!(cusim::launches().unwrap(), [("previous_kernel".into(), count)].into());
    }
    assert_eq!(cusim::graph_launches().unwrap(), 0);
}

#[test]
fn waiting_in_a_capture_breaks_it() {
    open();
    let stream = new_stream();
    let refused = |code| Err(DriverError(code));
    unsafe {
        result::stream::begin_capture(stream, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .unwrap();
        let waited = result::stream::synchronize(stream);
        assert_eq!(waited, refused(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED));
        let ended = result::stream::end_capture(stream).map(|_| ());
        assert_eq!(ended, refused(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
    }
}

#[test]
fn parameters_have_their_sizes_and_offsets() {
    open();
    let mut place = (0, 0);
    let info = |i| unsafe { sys::cuFuncGetParamInfo(copy_function(), i, &mut place.0, &mut place.1) };
    assert_eq!(
        [info].map(|mut info| (info(1), info(2))),
        [(CUresult::CUDA_SUCCESS, CUresult::CUDA_ERROR_INVALID_VALUE)]
    );
    assert_eq!(place, (8, 8));
}

#[test]
fn unknown_modules_and_functions_are_refused() {
    open();
    let module = unsafe { result::module::load_data(c"no_such_file.cu".as_ptr().cast()) };
    assert_eq!(module, Err(DriverError(CUresult::CUDA_ERROR_INVALID_IMAGE)));
    let module = unsafe { result::module::load_data(c"previous_kernel.cu".as_ptr().cast()) }.unwrap();
    // Of another file.
    let function = unsafe { result::module::get_function(module, c"misaligned_vector_fixed".into()) };
    assert_eq!(function, Err(DriverError(CUresult::CUDA_ERROR_NOT_FOUND)));
}

/// Each child test with the environment that it needs.
const CHILDREN: &[(&str, &[(&str, &str)])] = &[
    ("child_use_after_free", &[]),
    ("child_host_pointer", &[]),
    ("child_injected_fault", &[("CUSIM_FAIL_LAUNCH", "2")]),
    ("child_no_device", &[("CUSIM_DEVICES", "0")]),
    ("child_out_of_memory", &[("CUSIM_MEMORY", "65536")]),
    ("child_previous_kernel", &[("CUSIM_CAPABILITY", "9.0")]),
    ("child_without_checker", &[("CUSIM_CHECK", "0")]),
];

#[test]
fn children_pass() {
    for (name, environment) in CHILDREN {
        pass_in_child(name, environment);
    }
}

fn run_copy(mut to: u64, mut from: u64) -> Result<(), String> {
    launch(
        "previous_kernel.cu",
        "previous_kernel",
        &ONE_WARP,
        &mut [parameter(&mut to), parameter(&mut from)],
    )
}

#[test]
#[ignore = "started by children_pass"]
fn child_use_after_free() {
    open();
    let (to, from) = (upload(&[0f32; 32]), upload(&[0f32; 32]));
    unsafe { result::free_sync(from) }.unwrap();
    let text = run_copy(to, from).unwrap_err();
    assert!(text.contains("OUT OF BOUNDS: 4-byte read of device memory"), "{text}");
}

#[test]
#[ignore = "started by children_pass"]
fn child_host_pointer() {
    open();
    let host = [0f32; 32];
    let text = run_copy(upload(&host), host.as_ptr() as u64).unwrap_err();
    assert!(text.contains("which is not device memory"), "{text}");
}

#[test]
#[ignore = "started by children_pass"]
fn child_injected_fault() {
    open();
    let (to, from) = (upload(&[0f32; 32]), upload(&[0f32; 32]));
    run_copy(to, from).unwrap();
    let text = run_copy(to, from).unwrap_err();
    assert!(text.contains("INJECTED"), "{text}");
    let later = unsafe { result::malloc_sync(4) };
    assert_eq!(later, Err(DriverError(CUresult::CUDA_ERROR_LAUNCH_FAILED)), "the context is lost");
}

#[test]
#[ignore = "started by children_pass"]
fn child_no_device() {
    cusim::install().unwrap();
    assert_eq!(result::init(), Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)));
}

#[test]
#[ignore = "started by children_pass"]
fn child_out_of_memory() {
    open();
    assert_eq!(result::mem_get_info().unwrap(), (65536, 65536));
    unsafe {
        let first = result::malloc_sync(40000).unwrap();
        assert_eq!(result::malloc_sync(40000), Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)));
        result::free_sync(first).unwrap();
        result::malloc_sync(40000).unwrap();
    }
}

fn launch_after_previous(kernel: &std::ffi::CStr) -> Result<(), DriverError> {
    let (middle, from, mut to) = (upload(&[0f32; 32]), upload(&[3f32; 32]), upload(&[0f32; 32]));
    let module = unsafe { result::module::load_data(c"previous_kernel.cu".as_ptr().cast()) }.unwrap();
    let function = unsafe { result::module::get_function(module, kernel.into()) }.unwrap();
    launch_copy(NO_STREAM, middle, from);
    let mut attribute = sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
    };
    let config = sys::CUlaunchConfig {
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 32,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: NO_STREAM,
        attrs: &mut attribute,
        numAttrs: 1,
    };
    let mut source = middle;
    let mut parameters: [*mut c_void; 2] = [parameter(&mut to), parameter(&mut source)];
    unsafe { sys::cuLaunchKernelEx(&config, function, parameters.as_mut_ptr(), std::ptr::null_mut()) }
        .result()?;
    result::ctx::synchronize()?;
    assert_eq!(download::<f32>(to, 32), [6.0; 32]);
    Ok(())
}

#[test]
#[ignore = "started by children_pass"]
fn child_previous_kernel() {
    open();
    launch_after_previous(c"next_kernel_fixed").unwrap();
    launch_after_previous(c"next_kernel_bug").unwrap_err();
    let text = cusim::last_error().unwrap();
    assert!(text.contains("RACE: read of device memory") && text.contains("by the kernel before"), "{text}");
}

#[test]
#[ignore = "started by children_pass"]
fn child_without_checker() {
    open();
    let (mut to, mut from) = (upload(&[0f32; 1024]), upload(&[1f32; 1024]));
    let shape = Shape { blocks: 1, threads: 256, shared_bytes: 0 };
    let parameters = &mut [parameter(&mut to), parameter(&mut from)];
    launch("read_before_barrier.cu", "read_before_barrier_bug", &shape, parameters).unwrap();
}
