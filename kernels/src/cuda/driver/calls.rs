//! The driver's functions as methods.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    ptr::null,
};

use super::{Driver, Fault, Handle, attribute};
use crate::cuda::CudaPtr;

pub(super) type Answer<T = ()> = Result<T, Fault>;

/// They return nothing or one value. Those that read or write memory through raw pointers are unsafe.
impl Driver {
    pub(super) fn check(&self, call: &'static str, result: c_int) -> Answer {
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

    pub(super) fn init(&self) -> Answer {
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
