//! The CUDA driver: a table of its functions, found at run time in the library that cudarc loads.
//!
//! The functions are called through types of our own, whose results are plain numbers: a driver may know errors that
//! cudarc's enumeration does not, and cudarc's own calls panic when a driver lacks a function.

mod calls;
mod tensor_map;

use std::{
    ffi::{c_char, c_int, c_uint, c_ulonglong, c_void},
    sync::OnceLock,
};

use cudarc::driver::sys;

pub(crate) use tensor_map::TensorMap;

/// Something of the driver's: a context, stream, module, function, graph or event.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Handle(pub *mut c_void);

// SAFETY: the driver allows its handles to be used from any thread.
unsafe impl Send for Handle {}
// SAFETY: as above; the driver locks what it needs to.
unsafe impl Sync for Handle {}

impl Handle {
    pub const NULL: Handle = Handle(std::ptr::null_mut());
}

/// What a driver call returned, other than success.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub call: &'static str,
    pub code: c_int,
    /// The driver's name and text for it.
    pub text: String,
}

/// Codes of cuda.h that are told apart.
pub(super) mod code {
    use std::ops::RangeInclusive;

    use cudarc::driver::sys::CUresult as Code;

    pub const OUT_OF_MEMORY: i32 = Code::CUDA_ERROR_OUT_OF_MEMORY as i32;
    pub const NO_DEVICE: i32 = Code::CUDA_ERROR_NO_DEVICE as i32;
    pub const INVALID_IMAGE: i32 = Code::CUDA_ERROR_INVALID_IMAGE as i32;
    pub const INVALID_PTX: i32 = Code::CUDA_ERROR_INVALID_PTX as i32;
    pub const NO_BINARY_FOR_GPU: i32 = Code::CUDA_ERROR_NO_BINARY_FOR_GPU as i32;
    pub const UNSUPPORTED_PTX_VERSION: i32 = Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION as i32;
    pub const NOT_FOUND: i32 = Code::CUDA_ERROR_NOT_FOUND as i32;
    /// Faults of a kernel, which end the context.
    pub const KERNEL_FAULTS: RangeInclusive<i32> =
        Code::CUDA_ERROR_ILLEGAL_ADDRESS as i32..=Code::CUDA_ERROR_LAUNCH_FAILED as i32;
    pub const ECC_UNCORRECTABLE: i32 = Code::CUDA_ERROR_ECC_UNCORRECTABLE as i32;
    pub const UNKNOWN: i32 = Code::CUDA_ERROR_UNKNOWN as i32;
}

/// Attributes of cuda.h that are asked for.
pub(super) mod attribute {
    use cudarc::driver::sys::{CUdevice_attribute as Device, CUfunction_attribute as Function};

    pub const MULTIPROCESSOR_COUNT: i32 = Device::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as i32;
    pub const CAPABILITY_MAJOR: i32 = Device::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as i32;
    pub const CAPABILITY_MINOR: i32 = Device::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as i32;
    pub const SHARED_MEMORY_PER_BLOCK_OPTIN: i32 =
        Device::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as i32;
    /// Of a function: the dynamic shared memory that it may be launched with.
    pub const FUNCTION_MAX_DYNAMIC_SHARED: i32 =
        Function::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as i32;
}

macro_rules! driver {
    ($($field:ident: $symbol:ident($($arg:ty),*);)*) => {
        /// The functions, by the names that cuda.h gives them.
        pub(super) struct Driver {
            $($field: unsafe extern "system" fn($($arg),*) -> c_int,)*
            func_get_param_info: Option<ParamInfo>,
        }

        impl Driver {
            /// Finds every function, or names the one that is missing.
            fn find() -> Result<Driver, String> {
                // SAFETY: what loading NVIDIA's library runs is its own affair; every CUDA program does it.
                if !unsafe { sys::is_culib_present() } {
                    let reason = "the NVIDIA driver's library (libcuda) was not found or does not load; install the driver";
                    return Err(reason.into());
                }
                // SAFETY: as above, and the library is there, without which this would panic.
                let library = unsafe { sys::culib() };
                $(
                    // SAFETY: the type is that of cuda.h for this symbol.
                    let $field = unsafe { library.get(concat!(stringify!($symbol), "\0")) };
                    let $field = *$field.map_err(|_| {
                        format!("the NVIDIA driver is too old: it has no {}; update it", stringify!($symbol))
                    })?;
                )*
                // SAFETY: as above. Drivers before 12.4 lack it.
                let func_get_param_info = unsafe { library.get("cuFuncGetParamInfo\0") }.ok().map(|f| *f);
                Ok(Driver { $($field,)* func_get_param_info })
            }
        }
    };
}

type ParamInfo = unsafe extern "system" fn(Handle, usize, *mut usize, *mut usize) -> c_int;

driver! {
    init: cuInit(c_uint);
    driver_get_version: cuDriverGetVersion(*mut c_int);
    device_get_count: cuDeviceGetCount(*mut c_int);
    device_get: cuDeviceGet(*mut c_int, c_int);
    device_get_name: cuDeviceGetName(*mut c_char, c_int, c_int);
    device_get_attribute: cuDeviceGetAttribute(*mut c_int, c_int, c_int);
    primary_context_retain: cuDevicePrimaryCtxRetain(*mut Handle, c_int);
    primary_context_release: cuDevicePrimaryCtxRelease_v2(c_int);
    context_set_current: cuCtxSetCurrent(Handle);
    mem_get_info: cuMemGetInfo_v2(*mut usize, *mut usize);
    mem_alloc: cuMemAlloc_v2(*mut u64, usize);
    mem_free: cuMemFree_v2(u64);
    mem_host_alloc: cuMemHostAlloc(*mut *mut c_void, usize, c_uint);
    mem_free_host: cuMemFreeHost(*mut c_void);
    memcpy_to_device: cuMemcpyHtoDAsync_v2(u64, *const c_void, usize, Handle);
    memcpy_to_host: cuMemcpyDtoHAsync_v2(*mut c_void, u64, usize, Handle);
    memset: cuMemsetD8Async(u64, u8, usize, Handle);
    module_load_data: cuModuleLoadData(*mut Handle, *const c_void);
    module_unload: cuModuleUnload(Handle);
    module_get_function: cuModuleGetFunction(*mut Handle, Handle, *const c_char);
    func_set_attribute: cuFuncSetAttribute(Handle, c_int, c_int);
    launch_kernel: cuLaunchKernel(
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void
    );
    stream_create: cuStreamCreate(*mut Handle, c_uint);
    stream_destroy: cuStreamDestroy_v2(Handle);
    stream_synchronize: cuStreamSynchronize(Handle);
    stream_begin_capture: cuStreamBeginCapture_v2(Handle, c_int);
    stream_end_capture: cuStreamEndCapture(Handle, *mut Handle);
    graph_instantiate: cuGraphInstantiateWithFlags(*mut Handle, Handle, c_ulonglong);
    graph_launch: cuGraphLaunch(Handle, Handle);
    graph_exec_destroy: cuGraphExecDestroy(Handle);
    graph_destroy: cuGraphDestroy(Handle);
    tensor_map_encode: cuTensorMapEncodeTiled(
        *mut [u64; 16], c_int, c_uint, u64, *const u64, *const u64, *const c_uint, *const c_uint, c_int, c_int, c_int,
        c_int
    );
    event_create: cuEventCreate(*mut Handle, c_uint);
    event_record: cuEventRecord(Handle, Handle);
    event_synchronize: cuEventSynchronize(Handle);
    event_destroy: cuEventDestroy_v2(Handle);
    get_error_name: cuGetErrorName(c_int, *mut *const c_char);
    get_error_string: cuGetErrorString(c_int, *mut *const c_char);
}

/// The driver of this machine, loaded on first use and initialised.
///
/// # Errors
/// What is missing, in words.
pub(super) fn driver() -> Result<&'static Driver, String> {
    static DRIVER: OnceLock<Result<Driver, String>> = OnceLock::new();
    let load = || {
        let driver = Driver::find()?;
        driver.init().map_err(|fault| match fault.code {
            code::NO_DEVICE => "the NVIDIA driver finds no GPU in this machine".into(),
            _ => format!("the NVIDIA driver does not start: {fault}"),
        })?;
        Ok(driver)
    };
    DRIVER.get_or_init(load).as_ref().map_err(String::clone)
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} (error {})", self.call, self.text, self.code)
    }
}
