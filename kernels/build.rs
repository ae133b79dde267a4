//! With the feature `cuda`: compiles every `.cu` file of the table of kernels with nvcc into a fatbin, which the
//! library embeds.

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::SystemTime,
};

#[allow(dead_code, reason = "names of kernels are for the library")]
#[path = "src/cuda/table.rs"]
mod table;

use table::{KERNEL_FILES, KernelFile, RunsOn};

/// Architectures with machine code of their own. `a`: with the instructions of that architecture alone.
const ARCHITECTURES: [(u32, &str); 5] = [(80, "80"), (89, "89"), (90, "90a"), (100, "100a"), (120, "120")];

/// Where `cuda-toolchain.sh` puts nvcc, from the root of the repository.
const TOOLCHAIN: &str = "target/cuda-toolchain/nvidia/cu13/bin";

type Result<T> = std::result::Result<T, String>;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/cuda/table.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed=src/ops");
    println!("cargo::rerun-if-changed=src/cuh");
    println!("cargo::rerun-if-env-changed=NVCC");
    if let Err(message) = compile_all() {
        for line in message.lines() {
            println!("cargo::error={line}");
        }
    }
}

fn compile_all() -> Result<()> {
    let variable = |name| env::var_os(name).map(PathBuf::from).ok_or_else(|| format!("{name} is not set"));
    let (root, out) = (variable("CARGO_MANIFEST_DIR")?, variable("OUT_DIR")?);
    let nvcc = find_nvcc(&root)?;
    let (next, jobs) = (AtomicUsize::new(0), thread::available_parallelism().map_or(1, usize::from));
    let work = || -> Result<()> {
        while let Some(file) = KERNEL_FILES.get(next.fetch_add(1, Ordering::Relaxed)) {
            compile(&nvcc, &root, &out, file)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<()>>| {
            thread.join().unwrap_or_else(|_| Err("a thread of the build script panicked".into()))
        };
        threads.into_iter().try_for_each(join)
    })?;
    write_list(&out).map_err(|error| format!("cannot write {}: {error}", out.display()))
}

/// `$NVCC`, else the one in the path, else the repository's own.
fn find_nvcc(root: &Path) -> Result<PathBuf> {
    if let Some(nvcc) = env::var_os("NVCC") {
        return Ok(nvcc.into());
    }
    let paths = env::var_os("PATH").unwrap_or_default();
    let own = root.join("..").join(TOOLCHAIN);
    let mut dirs = env::split_paths(&paths).chain([own]);
    let found = dirs.find_map(|dir| Some(dir.join("nvcc")).filter(|nvcc| nvcc.is_file()));
    found.ok_or_else(|| {
        "the feature `cuda` needs nvcc 13: install the CUDA toolkit, or run `kernels/cuda-toolchain.sh`, \
         which puts NVIDIA's packages from PyPI under target/, or set NVCC"
            .into()
    })
}

/// Makes a file's fatbin, unless it is newer than all that it is made of.
fn compile(nvcc: &Path, root: &Path, out: &Path, file: &KernelFile) -> Result<()> {
    let (source, fatbin) = (root.join("src/ops").join(file.name), fatbin(out, file));
    if is_newer(&fatbin, &[source.clone(), root.join("build.rs"), root.join("src/cuda/table.rs")], root) {
        return Ok(());
    }
    let mut command = Command::new(nvcc);
    command.args(["-fatbin", "-O3", "-std=c++17", "--compress-mode=size", "-I"]).arg(root.join("src"));
    command.args(architectures(file.runs_on)).arg(&source).arg("-o").arg(&fatbin);
    if let Some(dir) = nvcc.parent() {
        let path = env::var_os("PATH").unwrap_or_default();
        let paths = env::join_paths([dir.to_path_buf()].into_iter().chain(env::split_paths(&path)));
        command.env("PATH", paths.map_err(|error| error.to_string())?);
    }
    let ran = command.output().map_err(|error| format!("{} does not start: {error}", nvcc.display()))?;
    if ran.status.success() {
        return Ok(());
    }
    let _ = fs::remove_file(&fatbin);
    Err(format!("nvcc fails on {}:\n{}", source.display(), String::from_utf8_lossy(&ran.stderr)))
}

/// Machine code for every architecture that the file runs on, and for newer ones code that the driver translates.
fn architectures(runs_on: RunsOn) -> Vec<String> {
    let runs = |version: u32| match runs_on {
        RunsOn::From(lowest) => version >= lowest,
        RunsOn::Only(one) => version == one,
    };
    let machine = ARCHITECTURES.iter().filter(|(version, _)| runs(*version));
    let mut codes: Vec<String> =
        machine.map(|(_, name)| format!("-gencode=arch=compute_{name},code=sm_{name}")).collect();
    if let RunsOn::From(lowest) = runs_on {
        codes.push(format!("-gencode=arch=compute_{lowest},code=compute_{lowest}"));
    }
    codes
}

fn fatbin(out: &Path, file: &KernelFile) -> PathBuf {
    out.join(file.name).with_extension("fatbin")
}

fn is_newer(made: &Path, sources: &[PathBuf], root: &Path) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let headers =
        fs::read_dir(root.join("src/cuh")).into_iter().flatten().flatten().map(|entry| entry.path());
    let newest: Option<SystemTime> =
        headers.chain(sources.iter().cloned()).map(|path| time(&path)).max().flatten();
    time(made).zip(newest).is_some_and(|(made, newest)| made > newest)
}

/// The list of names and fatbins that the library includes. The driver wants images aligned.
fn write_list(out: &Path) -> std::io::Result<()> {
    let mut list = fs::File::create(out.join("fatbins.rs"))?;
    writeln!(list, "&[")?;
    for file in KERNEL_FILES {
        let path = fatbin(out, file);
        writeln!(list, "    ({:?}, &Aligned(*include_bytes!({path:?})).0),", file.name)?;
    }
    writeln!(list, "]")
}
