//! The kernels that a device can run, found by name once.

use std::{
    collections::HashMap,
    ffi::CString,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{
    driver::{Driver, Fault, Handle, code},
    fatbins::fatbin,
    table::{KERNEL_FILES, KernelFile, RunsOn},
};

/// Dynamic shared memory that every kernel may have without asking.
const SHARED_WITHOUT_ASKING: u32 = 48 << 10;

/// The loaded modules and their kernels.
pub(super) struct Kernels {
    modules: Vec<Handle>,
    functions: HashMap<&'static str, Function>,
}

/// One kernel.
pub(super) struct Function {
    pub handle: Handle,
    /// Bytes of each parameter; `None` when the driver cannot say.
    pub parameters: Option<Vec<usize>>,
    /// Dynamic shared memory that has been asked for.
    shared_bytes: AtomicU32,
}

impl Function {
    /// Makes sure that the kernel may be launched with so much dynamic shared memory.
    pub fn allow_shared_memory(&self, driver: &Driver, bytes: u32) -> Result<(), Fault> {
        if bytes > self.shared_bytes.load(Ordering::Relaxed) {
            driver.allow_shared_memory(self.handle, bytes)?;
            self.shared_bytes.store(bytes, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl KernelFile {
    /// Whether a device of this capability runs the file's kernels.
    fn fits(&self, (major, minor): (u32, u32)) -> bool {
        match self.runs_on {
            RunsOn::From(lowest) => 10 * major + minor >= lowest,
            RunsOn::Only(one) => 10 * major + minor == one,
        }
    }
}

impl Kernels {
    /// Loads every file that fits the device into the current context.
    ///
    /// # Errors
    /// What does not load, and why, in words.
    pub fn load(driver: &'static Driver, capability: (u32, u32)) -> Result<Kernels, String> {
        let mut kernels = Kernels { modules: Vec::new(), functions: HashMap::new() };
        for file in KERNEL_FILES.iter().filter(|file| file.fits(capability)) {
            let loaded = kernels.load_file(driver, file);
            if let Err(reason) = loaded {
                kernels.unload(driver);
                return Err(reason);
            }
        }
        Ok(kernels)
    }

    fn load_file(&mut self, driver: &'static Driver, file: &KernelFile) -> Result<(), String> {
        let fatbin = fatbin(file.name).ok_or_else(|| format!("{} is not in this build", file.name))?;
        // SAFETY: a fatbin, or a name with a final NUL.
        let module = unsafe { driver.load_module(&fatbin) }.map_err(|fault| not_loaded(file.name, &fault))?;
        self.modules.push(module);
        for &name in file.kernels {
            let missing = |reason: String| format!("{} has no kernel {name}: {reason}", file.name);
            let c_name = CString::new(name).map_err(|error| missing(error.to_string()))?;
            let handle = driver.function(module, &c_name).map_err(|fault| match fault.code {
                code::NOT_FOUND => missing("the table of kernels and the build differ".into()),
                _ => missing(fault.to_string()),
            })?;
            let parameters = driver.parameter_sizes(handle);
            let shared_bytes = AtomicU32::new(SHARED_WITHOUT_ASKING);
            self.functions.insert(name, Function { handle, parameters, shared_bytes });
        }
        Ok(())
    }

    /// A kernel by its name.
    pub fn get(&self, name: &str) -> Option<&Function> {
        self.functions.get(name)
    }

    /// Unloads all. To be called when none of them is to run again.
    pub fn unload(&mut self, driver: &Driver) {
        self.functions.clear();
        for module in self.modules.drain(..) {
            // SAFETY: its functions are gone. An error here has nobody to tell.
            let _ = unsafe { driver.unload_module(module) };
        }
    }
}

/// Why a module does not load.
fn not_loaded(file: &str, fault: &Fault) -> String {
    match fault.code {
        code::INVALID_IMAGE | code::INVALID_PTX if cfg!(not(feature = "cuda")) => {
            "this program was built without GPU kernels; build it with `--features cuda`".into()
        }
        code::UNSUPPORTED_PTX_VERSION | code::NO_BINARY_FOR_GPU => {
            format!("the NVIDIA driver is too old for the kernels of {file}; update it ({fault})")
        }
        _ => format!("{file} does not load: {fault}"),
    }
}
