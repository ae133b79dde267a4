//! A simulated CUDA device, for tests: a `libcuda.so` whose device is a simulator with a checker, loaded in place of
//! the driver. The README says what is simulated and checked; environment variables `CUSIM_*` choose the device.

use std::fmt;
use std::path::Path;

/// Why the simulated device is not there.
#[derive(Debug)]
pub enum Error {
    /// It is built on x86-64 Linux only.
    NotBuilt,
    /// The library could not be loaded.
    NotLoaded(libloading::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotBuilt => f.write_str("the simulated CUDA device is built on x86-64 Linux only"),
            Error::NotLoaded(error) => write!(f, "the simulated CUDA device could not be loaded: {error}"),
        }
    }
}

impl std::error::Error for Error {}

/// The folder of the simulated `libcuda.so`, for the `LD_LIBRARY_PATH` of a child process.
pub fn library_dir() -> &'static Path {
    Path::new(concat!(env!("OUT_DIR"), "/lib"))
}

/// Whether tests run on a GPU: with `MOSU_TEST_CUDA=real`.
pub fn is_real() -> bool {
    std::env::var_os("MOSU_TEST_CUDA").is_some_and(|value| value == "real")
}

/// Whether tests have a CUDA device: a real one where they run on a GPU, else the simulated one, which is [`install`]ed.
///
/// # Errors
/// When the simulated device is built but could not be loaded.
pub fn for_tests() -> Result<bool, Error> {
    if is_real() {
        return Ok(true);
    }
    match install() {
        Ok(()) => Ok(true),
        Err(Error::NotBuilt) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(simulated)]
mod loaded {
    use super::{Error, library_dir};
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    use std::collections::BTreeMap;
    use std::ffi::{CStr, c_char, c_void};
    use std::path::Path;
    use std::sync::OnceLock;

    static LIBRARY: OnceLock<Library> = OnceLock::new();

    fn load(path: &Path) -> Result<Library, Error> {
        // SAFETY: the libraries are built by this crate; their initializers only enter kernels into a list.
        unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.map_err(Error::NotLoaded)
    }

    fn library() -> Result<&'static Library, Error> {
        if let Some(library) = LIBRARY.get() {
            return Ok(library);
        }
        let library = load(&library_dir().join("libcuda.so"))?;
        Ok(LIBRARY.get_or_init(|| library))
    }

    /// Loads the simulated device. Whoever looks for `libcuda.so` in this process afterwards finds it: the loader
    /// knows the library by its name. So this must come before the first call of CUDA.
    pub fn install() -> Result<(), Error> {
        library().map(|_| ())
    }

    /// The seed of the order of threads in all launches from now on (otherwise `CUSIM_SEED`).
    pub fn set_seed(seed: u64) -> Result<(), Error> {
        // SAFETY: the function has this signature in driver/device.cpp.
        let set = unsafe { library()?.get::<unsafe extern "C" fn(u64)>(b"cusim_set_seed") };
        // SAFETY: it takes any number.
        unsafe { set.map_err(Error::NotLoaded)?(seed) };
        Ok(())
    }

    /// How often each kernel has run in this process, launched by itself or in a graph. Launches that still wait in a
    /// stream do not count.
    pub fn launches() -> Result<BTreeMap<String, u64>, Error> {
        type Visit = unsafe extern "C" fn(*mut c_void, *const c_char, u64);
        unsafe extern "C" fn enter(launches: *mut c_void, kernel: *const c_char, count: u64) {
            // SAFETY: the map that was passed to the call below, which nobody else uses meanwhile.
            let launches = unsafe { &mut *launches.cast::<BTreeMap<String, u64>>() };
            // SAFETY: a C string that is valid during this call.
            let kernel = unsafe { CStr::from_ptr(kernel) }.to_string_lossy().into_owned();
            launches.insert(kernel, count);
        }
        let mut launches = BTreeMap::new();
        // SAFETY: the function has this signature in driver/launch_count.cpp.
        let visit = unsafe { library()?.get::<unsafe extern "C" fn(Visit, *mut c_void)>(b"cusim_launches") };
        // SAFETY: `enter` takes what it is called with.
        unsafe { visit.map_err(Error::NotLoaded)?(enter, (&raw mut launches).cast()) };
        Ok(launches)
    }

    /// How often graphs have been launched in this process.
    pub fn graph_launches() -> Result<u64, Error> {
        // SAFETY: the function has this signature in driver/launch_count.cpp.
        let get = unsafe { library()?.get::<unsafe extern "C" fn() -> u64>(b"cusim_graph_launches") };
        // SAFETY: it takes nothing.
        Ok(unsafe { get.map_err(Error::NotLoaded)?() })
    }

    /// What the checker said of the last fault of a kernel; empty when there was none.
    pub fn last_error() -> Result<String, Error> {
        // SAFETY: the function has this signature in driver/error.cpp.
        let get = unsafe { library()?.get::<unsafe extern "C" fn() -> *const c_char>(b"cusim_last_error") };
        // SAFETY: it returns a C string that stays valid until the next call of the driver.
        let text = unsafe { CStr::from_ptr(get.map_err(Error::NotLoaded)?()) };
        Ok(text.to_string_lossy().into_owned())
    }

    /// Adds the kernels of this crate's own tests to those of the library.
    #[doc(hidden)]
    pub fn load_test_kernels() -> Result<(), Error> {
        static KERNELS: OnceLock<Library> = OnceLock::new();
        install()?;
        let kernels = load(Path::new(concat!(env!("OUT_DIR"), "/libcusim_tests.so")))?;
        KERNELS.get_or_init(|| kernels);
        Ok(())
    }
}

#[cfg(not(simulated))]
mod loaded {
    use super::Error;
    use std::collections::BTreeMap;

    /// Refuses: the simulated device is not built here.
    pub fn launches() -> Result<BTreeMap<String, u64>, Error> {
        Err(Error::NotBuilt)
    }

    /// Refuses: the simulated device is not built here.
    pub fn install() -> Result<(), Error> {
        Err(Error::NotBuilt)
    }

    /// Refuses: the simulated device is not built here.
    pub fn graph_launches() -> Result<u64, Error> {
        Err(Error::NotBuilt)
    }

    /// Refuses: the simulated device is not built here.
    pub fn set_seed(_seed: u64) -> Result<(), Error> {
        Err(Error::NotBuilt)
    }

    /// Refuses: the simulated device is not built here.
    pub fn last_error() -> Result<String, Error> {
        Err(Error::NotBuilt)
    }

    /// Refuses: the simulated device is not built here.
    #[doc(hidden)]
    pub fn load_test_kernels() -> Result<(), Error> {
        Err(Error::NotBuilt)
    }
}

pub use loaded::{graph_launches, install, last_error, launches, load_test_kernels, set_seed};
