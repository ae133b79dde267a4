//! Compiles the simulated device with g++: `libcuda.so` from the simulator, its driver API and every kernel of
//! `kernels/src/ops`, and `libcusim_tests.so` with the kernels of this crate's own tests.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::SystemTime;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const COMMON: &[&str] = &["-std=c++17", "-O2", "-g1", "-fPIC", "-Wall", "-Wno-unknown-pragmas"];
/// Kernels reinterpret vectors as their elements, as nvcc allows. `-fsanitize=thread` makes the compiler call the
/// checker at every memory access; its library is not linked. No fused multiply-adds but those written.
const KERNEL: &[&str] = &[
    "-fno-strict-aliasing",
    "-fwrapv",
    "-ffp-contract=off",
    "-fsanitize=thread",
    "-include",
    "cusim/device.h",
    "-x",
    "c++",
];

fn main() -> Result<()> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo:rerun-if-env-changed=CXX");
    println!("cargo:rustc-check-cfg=cfg(simulated)");
    for folder in ["include", "sim", "driver", "defects", "conformance", "../src/cuh", "../src/ops"] {
        println!("cargo:rerun-if-changed={}", root.join(folder).display());
    }
    if env::var("CARGO_CFG_TARGET_ARCH")? != "x86_64" || env::var("CARGO_CFG_TARGET_OS")? != "linux" {
        println!(
            "cargo:warning=the simulated CUDA device runs on x86-64 Linux only: tests of CUDA are left out"
        );
        return Ok(());
    }
    println!("cargo:rustc-cfg=simulated");
    build(&root, &out)
}

fn build(root: &Path, out: &Path) -> Result<()> {
    let compiler = Compiler::new(root, out)?;
    let runtime = compiler.objects(&sources(&root.join("sim"), "cpp")?, &[])?;
    let driver = compiler.objects(&sources(&root.join("driver"), "cpp")?, &[])?;
    let ops = compiler.objects(&sources(&root.join("../src/ops"), "cu")?, KERNEL)?;
    let mut tests = sources(&root.join("defects"), "cu")?;
    tests.extend(sources(&root.join("conformance"), "cu")?);
    let tests = compiler.objects(&tests, KERNEL)?;

    let libraries = out.join("lib");
    fs::create_dir_all(&libraries)?;
    // The names under which programs look for the driver.
    let library = libraries.join("libcuda.so");
    compiler.link(&library, &[runtime, driver, ops].concat(), &["-Wl,-soname,libcuda.so"])?;
    let second_name = libraries.join("libcuda.so.1");
    if !second_name.exists() {
        std::os::unix::fs::symlink("libcuda.so", &second_name)?;
    }
    compiler.link(&out.join("libcusim_tests.so"), &tests, &[])
}

/// The files of `folder` and of the folders in it that end in `extension`, in order; none where it does not exist.
fn sources(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if !folder.exists() {
        return Ok(found);
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(sources(&path, extension)?);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

struct Compiler {
    command: String,
    include: PathBuf,
    simulator: PathBuf,
    objects: PathBuf,
    /// The newest header: objects older than it are made again.
    headers: SystemTime,
}

impl Compiler {
    fn new(root: &Path, out: &Path) -> Result<Self> {
        let mut headers = fs::metadata(root.join("build.rs"))?.modified()?;
        for folder in ["include", "sim", "driver", "defects", "conformance", "../src/cuh"] {
            for extension in ["h", "cuh"] {
                for header in sources(&root.join(folder), extension)? {
                    headers = headers.max(fs::metadata(header)?.modified()?);
                }
            }
        }
        let objects = out.join("objects");
        fs::create_dir_all(&objects)?;
        Ok(Compiler {
            command: env::var("CXX").unwrap_or_else(|_| "g++".into()),
            include: root.join("include"),
            simulator: root.join("sim"),
            objects,
            headers,
        })
    }

    /// Compiles what is not up to date, on all processors.
    fn objects(&self, sources: &[PathBuf], flags: &[&str]) -> Result<Vec<PathBuf>> {
        let objects: Vec<_> = sources.iter().map(|s| self.object_of(s)).collect();
        let stale: Vec<_> = sources.iter().zip(&objects).filter(|(s, o)| self.is_stale(s, o)).collect();
        let workers = thread::available_parallelism().map_or(1, |n| n.get());
        let errors: Vec<String> = thread::scope(|scope| {
            let tasks: Vec<_> = (0..workers)
                .map(|w| {
                    let mine: Vec<_> = stale.iter().skip(w).step_by(workers).collect();
                    scope.spawn(move || {
                        mine.into_iter()
                            .filter_map(|(s, o)| self.compile(s, o, flags).err())
                            .map(|e| e.to_string())
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            tasks
                .into_iter()
                .flat_map(|t| t.join().unwrap_or_else(|_| vec!["a compiler thread died".into()]))
                .collect()
        });
        if errors.is_empty() { Ok(objects) } else { Err(errors.join("\n").into()) }
    }

    fn object_of(&self, source: &Path) -> PathBuf {
        let parts: Vec<_> = source.iter().rev().take(2).map(|p| p.to_string_lossy()).collect();
        self.objects.join(format!("{}_{}.o", parts[1], parts[0]))
    }

    fn is_stale(&self, source: &Path, object: &Path) -> bool {
        let modified = |path: &Path| fs::metadata(path).and_then(|m| m.modified());
        match (modified(source), modified(object)) {
            (Ok(source), Ok(object)) => object < source.max(self.headers),
            _ => true,
        }
    }

    fn compile(&self, source: &Path, object: &Path, flags: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.command);
        command.args(COMMON).arg("-DCUSIM").arg("-I").arg(&self.include).arg("-I").arg(&self.simulator);
        command.args(flags).arg("-c").arg(source).arg("-o").arg(object);
        run(command)
    }

    fn link(&self, library: &Path, objects: &[PathBuf], flags: &[&str]) -> Result<()> {
        // Not over the old file: another process may have it loaded.
        let fresh = library.with_extension("new");
        let mut command = Command::new(&self.command);
        command.arg("-shared").args(flags).args(objects).arg("-o").arg(&fresh);
        run(command)?;
        Ok(fs::rename(fresh, library)?)
    }
}

fn run(mut command: Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| {
        format!("the simulated CUDA device needs a C++17 compiler, and {program} could not be run ({e}): install g++ or set CXX")
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}\n{}", String::from_utf8_lossy(&output.stderr)).into())
}
