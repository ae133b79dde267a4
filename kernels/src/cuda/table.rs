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
pub(crate) enum RunsOn {
    /// This one and all newer ones.
    From(u32),
    /// This one only, with its own instructions (`sm_90a`).
    Only(u32),
}

/// All of them.
pub(crate) const KERNEL_FILES: &[KernelFile] = &[
    KernelFile { name: "accumulate.cu", runs_on: RunsOn::From(80), kernels: &["accumulate_f32"] },
    KernelFile {
        name: "activation.cu",
        runs_on: RunsOn::From(80),
        kernels: &["activation_f32", "activation_bf16"],
    },
    KernelFile { name: "adjust_logits.cu", runs_on: RunsOn::From(80), kernels: &["adjust_logits_f32"] },
    KernelFile {
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
    },
    KernelFile {
        name: "gate_heads.cu",
        runs_on: RunsOn::From(80),
        kernels: &["gate_heads_f32", "gate_heads_bf16"],
    },
    KernelFile {
        name: "gated_activation.cu",
        runs_on: RunsOn::From(80),
        kernels: &["gated_activation_f32", "gated_activation_bf16"],
    },
    KernelFile {
        name: "limits.cu",
        runs_on: RunsOn::From(80),
        kernels: &["limits_read_u32", "limits_mma_bf16"],
    },
    KernelFile { name: "limits_wgmma.cu", runs_on: RunsOn::Only(90), kernels: &["limits_wgmma_bf16"] },
    KernelFile {
        name: "linear.cu",
        runs_on: RunsOn::From(80),
        kernels: &[
            "linear_t8_bf16",
            "linear_t16_bf16",
            "linear_t32_bf16",
            "linear_t64_bf16",
            "linear_t128_bf16",
            "linear_t128_serial_split_k_bf16",
            "gated_linear_t8_bf16",
            "gated_linear_t16_bf16",
            "gated_linear_t32_bf16",
            "gated_linear_t64_bf16",
            "gated_linear_t128_bf16",
            "gated_linear_t128_serial_split_k_bf16",
        ],
    },
    KernelFile {
        name: "linear_packed.cu",
        runs_on: RunsOn::From(80),
        kernels: &[
            "linear_t8_mxfp4",
            "linear_t32_mxfp4",
            "linear_t128_mxfp4",
            "linear_t128_serial_split_k_mxfp4",
            "linear_t8_fp8",
            "linear_t32_fp8",
            "linear_t128_fp8",
            "linear_t128_serial_split_k_fp8",
        ],
    },
    KernelFile {
        name: "linear_simt.cu",
        runs_on: RunsOn::From(80),
        kernels: &[
            "linear_simt_t8_f32",
            "linear_simt_t32_f32",
            "linear_simt_t8_f16",
            "linear_simt_t32_f16",
            "linear_simt_t8_bf16",
            "linear_simt_t32_bf16",
        ],
    },
    KernelFile {
        name: "linear_wgmma.cu",
        runs_on: RunsOn::Only(90),
        kernels: &[
            "linear_wgmma_t8_bf16",
            "linear_wgmma_t16_bf16",
            "linear_wgmma_t32_bf16",
            "linear_wgmma_t64_bf16",
            "linear_wgmma_t128_bf16",
            "linear_wgmma_t192_serial_split_k_bf16",
            "linear_wgmma_t256_whole_bf16",
            "gated_linear_wgmma_t8_bf16",
            "gated_linear_wgmma_t16_bf16",
            "gated_linear_wgmma_t32_bf16",
            "gated_linear_wgmma_t64_bf16",
            "gated_linear_wgmma_t128_bf16",
            "gated_linear_wgmma_t192_serial_split_k_bf16",
            "gated_linear_wgmma_t256_whole_bf16",
        ],
    },
    KernelFile {
        name: "norm.cu",
        runs_on: RunsOn::From(80),
        kernels: &["norm_f32", "norm_bf16", "add_norm_f32", "add_norm_bf16"],
    },
    KernelFile {
        name: "qkv_rope_cache.cu",
        runs_on: RunsOn::From(80),
        kernels: &["qkv_rope_cache_f32", "qkv_rope_cache_bf16"],
    },
    KernelFile {
        name: "paged_attention.cu",
        runs_on: RunsOn::From(80),
        kernels: &[
            "paged_attention_mma32_bf16",
            "paged_attention_mma64_bf16",
            "paged_attention_mma96_bf16",
            "paged_attention_mma128_bf16",
            "paged_attention_mma192_bf16",
            "paged_attention_mma256_bf16",
            "paged_attention_mma512_bf16",
            "paged_attention_mma32_tall_bf16",
            "paged_attention_mma64_tall_bf16",
            "paged_attention_mma96_tall_bf16",
            "paged_attention_mma128_tall_bf16",
            "paged_attention_mma192_tall_bf16",
            "paged_attention_mma256_tall_bf16",
        ],
    },
    KernelFile {
        name: "paged_attention_wgmma.cu",
        runs_on: RunsOn::Only(90),
        kernels: &[
            "paged_attention_wgmma64_bf16",
            "paged_attention_wgmma128_bf16",
            "paged_attention_wgmma64_tall_bf16",
            "paged_attention_wgmma128_tall_bf16",
        ],
    },
    KernelFile {
        name: "paged_attention_plain.cu",
        runs_on: RunsOn::From(80),
        kernels: &[
            "paged_attention_plain_f32",
            "paged_attention_plain_bf16",
            "paged_attention_combine_f32",
            "paged_attention_combine_bf16",
        ],
    },
    KernelFile {
        name: "moe.cu",
        runs_on: RunsOn::From(80),
        kernels: &[
            "moe_sort",
            "moe_gate_up_t8_bf16",
            "moe_down_t8_bf16",
            "moe_gate_up_t32_bf16",
            "moe_down_t32_bf16",
            "moe_gate_up_t128_bf16",
            "moe_down_t128_bf16",
            "moe_gate_up_simt_bf16",
            "moe_down_simt_bf16",
            "moe_gate_up_simt_f16",
            "moe_down_simt_f16",
            "moe_gate_up_simt_f32",
            "moe_down_simt_f32",
            "moe_combine",
        ],
    },
    KernelFile {
        name: "moe_packed.cu",
        runs_on: RunsOn::From(80),
        kernels: &[
            "moe_gate_up_t8_mxfp4",
            "moe_down_t8_mxfp4",
            "moe_gate_up_t32_mxfp4",
            "moe_down_t32_mxfp4",
            "moe_gate_up_t128_mxfp4",
            "moe_down_t128_mxfp4",
            "moe_gate_up_t8_fp8",
            "moe_down_t8_fp8",
            "moe_gate_up_t32_fp8",
            "moe_down_t32_fp8",
            "moe_gate_up_t128_fp8",
            "moe_down_t128_fp8",
        ],
    },
    KernelFile {
        name: "absorb_w_uk.cu",
        runs_on: RunsOn::From(80),
        kernels: &[
            "absorb_w_uk_t8_bf16",
            "absorb_w_uk_t64_bf16",
            "absorb_w_uk_simt_f32",
            "absorb_w_uk_simt_f16",
            "absorb_w_uk_simt_bf16",
        ],
    },
    KernelFile {
        name: "up_project_w_uv.cu",
        runs_on: RunsOn::From(80),
        kernels: &[
            "up_project_w_uv_t8_bf16",
            "up_project_w_uv_t64_bf16",
            "up_project_w_uv_simt_f32",
            "up_project_w_uv_simt_f16",
            "up_project_w_uv_simt_bf16",
        ],
    },
    KernelFile {
        name: "latent_attention.cu",
        runs_on: RunsOn::From(80),
        kernels: &["latent_attention_mma_bf16"],
    },
    KernelFile {
        name: "latent_cache.cu",
        runs_on: RunsOn::From(80),
        kernels: &["latent_cache_f32", "latent_cache_bf16"],
    },
    KernelFile { name: "route.cu", runs_on: RunsOn::From(80), kernels: &["route_f32"] },
    KernelFile { name: "sample.cu", runs_on: RunsOn::From(80), kernels: &["sample_f32"] },
    KernelFile { name: "logprobs.cu", runs_on: RunsOn::From(80), kernels: &["logprobs_f32"] },
    KernelFile { name: "gather_token_ids.cu", runs_on: RunsOn::From(80), kernels: &["gather_token_ids_u32"] },
];
