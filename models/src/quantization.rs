//! How a checkpoint is quantised: `quantization_config` of config.json.

use mosu_kernels::{BlockType, Format};

use crate::{LoadError, config_json::ConfigJson};

/// How a checkpoint's matrices are quantised; which of them are, and how finely, the files decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// Experts in MXFP4 (gpt-oss).
    Mxfp4,
    /// E4M3 with scales per 128 x 128 block, per row or per matrix.
    Fp8,
    /// GPTQ: groups of integers along the inputs, packed along them.
    Gptq {
        /// Bits of a weight: 4 or 8.
        bits: usize,
        /// What stored zero points lack: 1, in `gptq_v2` files 0.
        zero_offset: u8,
        /// All zero points are the middle.
        symmetric: bool,
    },
    /// AWQ: groups of 4 bits along the inputs, packed along the outputs.
    Awq,
    /// compressed-tensors: integers of 4 or 8 bits, or E4M3.
    CompressedTensors,
}

/// The methods, for refusals.
const METHODS: &str =
    "supported are mxfp4, fp8, gptq, awq and compressed-tensors, or a checkpoint in f32, f16 or bf16";

impl Quantization {
    /// What config.json says; `None` of a checkpoint of floats.
    pub(crate) fn read(config: &ConfigJson) -> Result<Option<Quantization>, LoadError> {
        config.refuse(
            "compression_config",
            "older than `quantization_config`, and not supported; convert it",
        )?;
        let Some(section) = config.section("quantization_config")? else { return Ok(None) };
        let method = section.optional_text("quant_method")?;
        let found = match method {
            Some("mxfp4") => Quantization::Mxfp4,
            Some("fp8") => fp8(&section)?,
            Some("gptq") => gptq(&section)?,
            Some("awq") => awq(&section)?,
            Some("compressed-tensors") => compressed_tensors(&section)?,
            Some(method) => {
                let message = format!("method `{method}` is not supported; {METHODS}");
                return Err(config.error("quantization_config", message));
            }
            None => {
                let message = format!("a method without a name is not supported; {METHODS}");
                return Err(config.error("quantization_config", message));
            }
        };
        Ok(Some(found))
    }

    /// The format that most matrices have in memory.
    pub fn format(self) -> Format {
        match self {
            Quantization::Mxfp4 => Format::Mxfp4,
            Quantization::Fp8 => Format::Fp8,
            Quantization::Gptq { bits: 8, .. } => Format::Blocks(BlockType::Q8_0),
            Quantization::Gptq { symmetric: false, .. } | Quantization::Awq => {
                Format::Blocks(BlockType::Q4_1)
            }
            Quantization::Gptq { .. } | Quantization::CompressedTensors => Format::Blocks(BlockType::Q4_0),
        }
    }
}

fn fp8(section: &ConfigJson) -> Result<Quantization, LoadError> {
    match section.indices("weight_block_size")?[..] {
        [] | [128, 128] => Ok(Quantization::Fp8),
        _ => {
            Err(section
                .error("weight_block_size", "only [128, 128], or a scale per row or matrix, is supported"))
        }
    }
}

fn gptq(section: &ConfigJson) -> Result<Quantization, LoadError> {
    let bits = section.count("bits", 32)?;
    if ![4, 8].contains(&bits) {
        return Err(section.error("bits", format!("expected 4 or 8, found {bits}")));
    }
    let zero_offset = match section.optional_text("checkpoint_format")? {
        None | Some("gptq") => 1,
        Some("gptq_v2") => 0,
        Some(other) => {
            let message = format!("`{other}` is not supported; expected gptq or gptq_v2");
            return Err(section.error("checkpoint_format", message));
        }
    };
    Ok(Quantization::Gptq { bits, zero_offset, symmetric: section.flag("sym", true)? })
}

fn awq(section: &ConfigJson) -> Result<Quantization, LoadError> {
    let key = if section.contains("bits") { "bits" } else { "w_bit" };
    match (section.count(key, 32)?, section.optional_text("version")?) {
        (4, None | Some("gemm" | "GEMM")) => Ok(Quantization::Awq),
        (4, Some(other)) => {
            Err(section.error("version", format!("`{other}` is not supported; expected gemm")))
        }
        (bits, _) => Err(section.error(key, format!("expected 4, found {bits}"))),
    }
}

fn compressed_tensors(section: &ConfigJson) -> Result<Quantization, LoadError> {
    const FORMATS: [&str; 4] = ["pack-quantized", "int-quantized", "float-quantized", "naive-quantized"];
    match section.optional_text("format")? {
        Some(format) if !FORMATS.contains(&format) => {
            let message = format!("`{format}` is not supported; expected one of {}", FORMATS.join(", "));
            return Err(section.error("format", message));
        }
        _ => {}
    }
    section.refuse(
        "kv_cache_scheme",
        "a quantised KV cache is not supported; convert the checkpoint without it",
    )?;
    if let Some(sparsity) = section.section("sparsity_config")?
        && sparsity.optional_text("format")?.is_some_and(|format| format != "dense")
    {
        return Err(sparsity.error("format", "sparse weights are not supported; expected dense"));
    }
    Ok(Quantization::CompressedTensors)
}
