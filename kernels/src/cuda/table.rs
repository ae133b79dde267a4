// The table of kernels: each once, with the file that holds it. The build script reads this file too, so that it holds
// plain data only.

/// A `.cu` file in `src/ops/` and the kernels that it exports.
pub(crate) struct KernelFile {
    /// Its name.
    pub name: &'static str,
    /// Where it runs.
    pub runs_on: RunsOn,
    /// Names of `extern "C"` functions: `<op>[_<variant>]_<type>`.
    pub kernels: &'static [&'static str],
}

/// Compute capabilities, as ten times the major plus the minor version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "the table uses what it needs")]
pub(crate) enum RunsOn {
    /// This one and all newer ones.
    From(u32),
    /// This one only, with its own instructions (`sm_90a`).
    Only(u32),
}

/// All of them.
pub(crate) const KERNEL_FILES: &[KernelFile] = &[KernelFile {
    name: "embedding.cu",
    runs_on: RunsOn::From(80),
    kernels: &[
        "embedding_f32",
        "embedding_f16",
        "embedding_bf16",
        "add_embedding_f32",
        "add_embedding_f16",
        "add_embedding_bf16",
    ],
}];
