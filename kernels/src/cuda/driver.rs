//! The CUDA driver: a table of its functions, found at run time in the library that cudarc loads.
//!
//! The functions are called through types of our own, whose results are plain numbers: a driver may know errors that
//! cudarc's enumeration does not, and cudarc's own calls panic when a driver lacks a function.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void},
    ptr::null,
    sync::OnceLock,
};

use cudarc::driver::sys;

use super::CudaPtr;

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

type Answer<T = ()> = Result<T, Fault>;

/// Calls that return nothing or one value. Those that read or write memory through raw pointers are unsafe.
impl Driver {
    fn check(&self, call: &'static str, result: c_int) -> Answer {
        match result {
            0 => Ok(()),
            code => Err(Fault { call, code, text: self.text(code) }),
        }
    }

    /// The driver's name and text for an error.
    fn text(&self, code: c_int) -> String {
        let ask = |get: unsafe extern "system" fn(c_int, *mut *const c_char) -> c_int| {
            let mut text = null();
            // SAFETY: the driver sets the pointer to a static string, or leaves it null.
            let known = unsafe { get(code, &mut text) } == 0 && !text.is_null();
            // SAFETY: a string with a final NUL, as the driver promises.
            known.then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
        };
        let name = ask(self.get_error_name).unwrap_or_else(|| "an unknown error".into());
        ask(self.get_error_string).map_or(name.clone(), |text| format!("{name}, {text}"))
    }

    /// The value that a call writes.
    fn value<T>(&self, call: &'static str, start: T, write: impl FnOnce(*mut T) -> c_int) -> Answer<T> {
        let mut value = start;
        let result = write(&mut value);
        self.check(call, result).map(|()| value)
    }

    fn init(&self) -> Answer {
        // SAFETY: no arguments but flags, which must be 0.
        self.check("cuInit", unsafe { (self.init)(0) })
    }

    /// 1000 times the major plus 10 times the minor version of CUDA that the driver supports.
    pub fn version(&self) -> Answer<i32> {
        // SAFETY: the pointer is to a c_int.
        self.value("cuDriverGetVersion", 0, |p| unsafe { (self.driver_get_version)(p) })
    }

    pub fn device_count(&self) -> Answer<i32> {
        // SAFETY: the pointer is to a c_int.
        self.value("cuDeviceGetCount", 0, |p| unsafe { (self.device_get_count)(p) })
    }

    pub fn device(&self, ordinal: i32) -> Answer<i32> {
        // SAFETY: the pointer is to a c_int.
        self.value("cuDeviceGet", 0, |p| unsafe { (self.device_get)(p, ordinal) })
    }

    pub fn device_name(&self, device: i32) -> Answer<String> {
        let mut name = [0u8; 256];
        // SAFETY: the driver writes at most the given number of bytes.
        let result = unsafe { (self.device_get_name)(name.as_mut_ptr().cast(), name.len() as c_int, device) };
        self.check("cuDeviceGetName", result)?;
        let length = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        Ok(String::from_utf8_lossy(&name[..length]).into_owned())
    }

    pub fn attribute(&self, attribute: i32, device: i32) -> Answer<i32> {
        // SAFETY: the pointer is to a c_int.
        let call = |p| unsafe { (self.device_get_attribute)(p, attribute, device) };
        self.value("cuDeviceGetAttribute", 0, call)
    }

    pub fn retain_context(&self, device: i32) -> Answer<Handle> {
        // SAFETY: the pointer is to a handle.
        let call = |p| unsafe { (self.primary_context_retain)(p, device) };
        self.value("cuDevicePrimaryCtxRetain", Handle::NULL, call)
    }

    pub fn release_context(&self, device: i32) -> Answer {
        // SAFETY: pairs with `retain_context`.
        self.check("cuDevicePrimaryCtxRelease", unsafe { (self.primary_context_release)(device) })
    }

    pub fn set_context(&self, context: Handle) -> Answer {
        // SAFETY: the context is retained.
        self.check("cuCtxSetCurrent", unsafe { (self.context_set_current)(context) })
    }

    /// Free and total bytes of the current context's device.
    pub fn memory(&self) -> Answer<(u64, u64)> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the pointers are to usize.
        self.check("cuMemGetInfo", unsafe { (self.mem_get_info)(&mut free, &mut total) })?;
        Ok((free as u64, total as u64))
    }

    pub fn allocate(&self, bytes: usize) -> Answer<CudaPtr> {
        // SAFETY: the pointer is to a device address.
        self.value("cuMemAlloc", 0, |p| unsafe { (self.mem_alloc)(p, bytes) }).map(CudaPtr)
    }

    /// Waits for the device, then frees.
    ///
    /// # Safety
    /// `address` came from [`Driver::allocate`] and nothing uses it from here on.
    pub unsafe fn free(&self, address: CudaPtr) -> Answer {
        // SAFETY: as the caller promises.
        self.check("cuMemFree", unsafe { (self.mem_free)(address.0) })
    }

    /// Page-locked host memory, cached (not write-combined), so that the processor may read it.
    pub fn allocate_pinned(&self, bytes: usize) -> Answer<*mut c_void> {
        // SAFETY: the pointer is to a pointer.
        let call = |p| unsafe { (self.mem_host_alloc)(p, bytes, 0) };
        self.value("cuMemHostAlloc", std::ptr::null_mut(), call)
    }

    /// # Safety
    /// `address` came from [`Driver::allocate_pinned`] and nothing uses it from here on.
    pub unsafe fn free_pinned(&self, address: *mut c_void) -> Answer {
        // SAFETY: as the caller promises.
        self.check("cuMemFreeHost", unsafe { (self.mem_free_host)(address) })
    }

    /// # Safety
    /// Both ranges are valid, and the source stays so until the stream has got there.
    pub unsafe fn copy_to_device(
        &self,
        to: CudaPtr,
        from: *const c_void,
        bytes: usize,
        stream: Handle,
    ) -> Answer {
        // SAFETY: as the caller promises.
        self.check("cuMemcpyHtoDAsync", unsafe { (self.memcpy_to_device)(to.0, from, bytes, stream) })
    }

    /// # Safety
    /// Both ranges are valid, and the target stays so until the stream has got there.
    pub unsafe fn copy_to_host(
        &self,
        to: *mut c_void,
        from: CudaPtr,
        bytes: usize,
        stream: Handle,
    ) -> Answer {
        // SAFETY: as the caller promises.
        self.check("cuMemcpyDtoHAsync", unsafe { (self.memcpy_to_host)(to, from.0, bytes, stream) })
    }

    /// # Safety
    /// The range is valid device memory.
    pub unsafe fn set_bytes(&self, to: CudaPtr, value: u8, bytes: usize, stream: Handle) -> Answer {
        // SAFETY: as the caller promises.
        self.check("cuMemsetD8Async", unsafe { (self.memset)(to.0, value, bytes, stream) })
    }

    /// # Safety
    /// `image` is a fatbin, or text with a final NUL.
    pub unsafe fn load_module(&self, image: &[u8]) -> Answer<Handle> {
        // SAFETY: as the caller promises.
        let call = |p| unsafe { (self.module_load_data)(p, image.as_ptr().cast()) };
        self.value("cuModuleLoadData", Handle::NULL, call)
    }

    /// # Safety
    /// None of the module's functions is used from here on.
    pub unsafe fn unload_module(&self, module: Handle) -> Answer {
        // SAFETY: as the caller promises.
        self.check("cuModuleUnload", unsafe { (self.module_unload)(module) })
    }

    pub fn function(&self, module: Handle, name: &CStr) -> Answer<Handle> {
        // SAFETY: the module is loaded and the name has a final NUL.
        let call = |p| unsafe { (self.module_get_function)(p, module, name.as_ptr()) };
        self.value("cuModuleGetFunction", Handle::NULL, call)
    }

    /// Bytes of each parameter of a function; `None` when the driver cannot say.
    pub fn parameter_sizes(&self, function: Handle) -> Option<Vec<usize>> {
        let get = self.func_get_param_info?;
        let size = |index| {
            let (mut offset, mut size) = (0, 0);
            // SAFETY: the function is loaded and the pointers are to usize.
            (unsafe { get(function, index, &mut offset, &mut size) } == 0).then_some(size)
        };
        Some((0..).map_while(size).collect())
    }

    pub fn allow_shared_memory(&self, function: Handle, bytes: u32) -> Answer {
        let attribute = attribute::FUNCTION_MAX_DYNAMIC_SHARED;
        // SAFETY: the function is loaded.
        let result = unsafe { (self.func_set_attribute)(function, attribute, bytes as c_int) };
        self.check("cuFuncSetAttribute", result)
    }

    /// # Safety
    /// The parameters are those that the function wants, and what they point to is valid until it has run.
    pub unsafe fn launch(
        &self,
        function: Handle,
        [x, y, z]: [u32; 3],
        threads: u32,
        shared_bytes: u32,
        stream: Handle,
        parameters: &mut [*mut c_void],
    ) -> Answer {
        let (parameters, extra) = (parameters.as_mut_ptr(), std::ptr::null_mut());
        // SAFETY: as the caller promises.
        let result = unsafe {
            (self.launch_kernel)(function, x, y, z, threads, 1, 1, shared_bytes, stream, parameters, extra)
        };
        self.check("cuLaunchKernel", result)
    }

    /// A stream that does not wait for the default stream.
    pub fn create_stream(&self) -> Answer<Handle> {
        const NON_BLOCKING: c_uint = 1;
        // SAFETY: the pointer is to a handle.
        let call = |p| unsafe { (self.stream_create)(p, NON_BLOCKING) };
        self.value("cuStreamCreate", Handle::NULL, call)
    }

    pub fn destroy_stream(&self, stream: Handle) -> Answer {
        // SAFETY: the stream is ours; the driver lets its work finish.
        self.check("cuStreamDestroy", unsafe { (self.stream_destroy)(stream) })
    }

    pub fn synchronize(&self, stream: Handle) -> Answer {
        // SAFETY: the stream is ours.
        self.check("cuStreamSynchronize", unsafe { (self.stream_synchronize)(stream) })
    }

    /// Turns the stream's work into a graph, until [`Driver::end_capture`].
    pub fn begin_capture(&self, stream: Handle) -> Answer {
        const THREAD_LOCAL: c_int = 1;
        // SAFETY: the stream is ours.
        self.check("cuStreamBeginCapture", unsafe { (self.stream_begin_capture)(stream, THREAD_LOCAL) })
    }

    pub fn end_capture(&self, stream: Handle) -> Answer<Handle> {
        // SAFETY: the pointer is to a handle.
        let call = |p| unsafe { (self.stream_end_capture)(stream, p) };
        self.value("cuStreamEndCapture", Handle::NULL, call)
    }

    /// An executable graph; the graph itself is destroyed.
    pub fn instantiate(&self, graph: Handle) -> Answer<Handle> {
        // SAFETY: the graph came from `end_capture` and is destroyed once.
        let call = |p| unsafe { (self.graph_instantiate)(p, graph, 0) };
        let executable = self.value("cuGraphInstantiate", Handle::NULL, call);
        // SAFETY: as above.
        let destroyed = self.check("cuGraphDestroy", unsafe { (self.graph_destroy)(graph) });
        executable.and_then(|executable| destroyed.map(|()| executable))
    }

    /// # Safety
    /// All memory that the graph's kernels use is valid until it has run.
    pub unsafe fn launch_graph(&self, executable: Handle, stream: Handle) -> Answer {
        // SAFETY: as the caller promises.
        self.check("cuGraphLaunch", unsafe { (self.graph_launch)(executable, stream) })
    }

    pub fn destroy_graph(&self, executable: Handle) -> Answer {
        // SAFETY: the graph is ours and not used again.
        self.check("cuGraphExecDestroy", unsafe { (self.graph_exec_destroy)(executable) })
    }

    /// An event that keeps no time.
    pub fn create_event(&self) -> Answer<Handle> {
        const DISABLE_TIMING: c_uint = 2;
        // SAFETY: the pointer is to a handle.
        let call = |p| unsafe { (self.event_create)(p, DISABLE_TIMING) };
        self.value("cuEventCreate", Handle::NULL, call)
    }

    pub fn record(&self, event: Handle, stream: Handle) -> Answer {
        // SAFETY: both are ours.
        self.check("cuEventRecord", unsafe { (self.event_record)(event, stream) })
    }

    pub fn wait(&self, event: Handle) -> Answer {
        // SAFETY: the event is ours.
        self.check("cuEventSynchronize", unsafe { (self.event_synchronize)(event) })
    }

    pub fn destroy_event(&self, event: Handle) -> Answer {
        // SAFETY: the event is ours and not used again.
        self.check("cuEventDestroy", unsafe { (self.event_destroy)(event) })
    }
}
