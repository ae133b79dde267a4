//! Shared by the black-box tests: fixtures, and a small stand-in for the engine that owns KV blocks.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use mosu_kernels::Isa;
use mosu_models::{
    BLOCK_SIZE, Batch, Device, KvPlaces, LoadError, LogitRow, LogitToken, Model, ModelOptions, ModelSource,
    SampleParams, StepOutput,
};
use safetensors::SafeTensors;
use serde_json::Value;
use tempfile::TempDir;

/// Rows of the largest step in these tests.
pub const MAX_ROWS: usize = 256;

/// The directory of a fixture. Asked for when the test runs, so that its program also runs where it was not built.
pub fn fixture(name: &str) -> PathBuf {
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    [&package, "tests", "fixtures", name].iter().collect()
}

/// A copy of a fixture's files, to spoil.
pub fn copy_of(name: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

/// Options for small models.
pub fn options(threads: usize) -> ModelOptions {
    ModelOptions {
        max_batch_tokens: Some(MAX_ROWS),
        kv_cache_bytes: Some(4 << 20),
        ..ModelOptions::new(Device::cpu(NonZeroUsize::new(threads)))
    }
}

/// Loads a directory.
pub fn load(dir: impl Into<PathBuf>, threads: usize) -> Result<Model, LoadError> {
    load_with(dir, &options(threads))
}

/// Loads a directory with options.
pub fn load_with(dir: impl Into<PathBuf>, options: &ModelOptions) -> Result<Model, LoadError> {
    Model::load(&ModelSource::Directory(dir.into()), options, &mut |_| {})
}

/// A model of a fixture for each instruction set of this machine, and its name.
pub fn on_every_instruction_set(name: &str, options: &ModelOptions) -> impl Iterator<Item = (String, Model)> {
    Isa::available().map(move |isa| {
        let device = Device::cpu_with_isa(NonZeroUsize::new(2), isa);
        let model = load_with(fixture(name), &ModelOptions { device, ..options.clone() }).unwrap();
        (format!("{name} with {isa}"), model)
    })
}

/// Weights of f32, or of f16, which computes in f32 too: nothing is rounded.
pub const EXACT: &[&str] = &[
    "bloom",
    "chatglm2",
    "deepseek_v2",
    "deepseek_v2_lite",
    "deepseek_v3",
    "deepseek_v3_fp8",
    "ernie4_5",
    "ernie4_5_moe",
    "gemma2",
    "gemma3",
    "gemma3_multimodal",
    "glm4",
    "glm4_0414",
    "glm4_5",
    "glm4_7_flash",
    "gpt2",
    "gpt_oss",
    "grok1",
    "grok2",
    "hunyuan_dense",
    "hunyuan_moe",
    "hy3",
    "intern_s1",
    "internlm1",
    "internlm2",
    "internlm3",
    "internlm3_long",
    "llama",
    "llama2",
    "llama31",
    "llama32",
    "llama4",
    "llama4_multimodal",
    "llama_bias_linear",
    "llama_f16",
    "llama_sharded",
    "llama_yarn",
    "minimax_m2",
    "ministral3",
    "ministral3_multimodal",
    "mistral",
    "mixtral",
    "pangu_embedded",
    "pangu_pro_moe",
    "pangu_ultra_moe",
    "phi3",
    "phi3_5_moe",
    "phi3_long",
    "qwen1",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "qwen3_moe_unnormalized",
    "skywork_13b",
    "skywork_moe",
    "spark_x2_5",
    "step3",
    "step3_5",
    "step3_7",
];
/// Weights of bf16, which meet rounded activations.
pub const ROUNDED: &[&str] = &[
    "deepseek_v3_bf16",
    "deepseek_v3_fp8_bf16",
    "gemma2_bf16",
    "gpt_oss_bf16",
    "llama31_bf16",
    "qwen2_bf16",
    "qwen2_moe_bf16",
    "qwen3_bf16",
    "qwen3_moe_bf16",
];
/// Rotations that depend on the longest sequence: the golden logits are those of this one.
const MAX_MODEL_LEN: &[(&str, usize)] = &[("internlm3_long", 64), ("phi3", 64)];

/// What a fixture's golden logits were computed with.
pub fn options_of(name: &str, options: ModelOptions) -> ModelOptions {
    let max_model_len = MAX_MODEL_LEN.iter().find(|(known, _)| *known == name).map(|(_, len)| *len);
    ModelOptions { max_model_len, ..options }
}

/// Token ids `[T]` and logits `[T, V]` that transformers computed.
pub struct Golden {
    pub ids: Vec<u32>,
    pub logits: Vec<f32>,
    /// The tokens that follow `ids`, each the most probable one.
    pub greedy: Vec<u32>,
}

impl Golden {
    pub fn of(name: &str) -> Golden {
        Golden::read(&fixture(name).join("golden.safetensors"))
    }

    pub fn read(file: &Path) -> Golden {
        let bytes = fs::read(file).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let words = |name: &str| -> Vec<[u8; 4]> {
            file.tensor(name).unwrap().data().chunks_exact(4).map(|bytes| bytes.try_into().unwrap()).collect()
        };
        Golden {
            ids: words("input_ids").into_iter().map(u32::from_le_bytes).collect(),
            logits: words("logits").into_iter().map(f32::from_le_bytes).collect(),
            greedy: words("greedy").into_iter().map(u32::from_le_bytes).collect(),
        }
    }
}

/// A sequence and the KV blocks that it owns.
#[derive(Clone)]
pub struct Sequence {
    pub ids: Vec<u32>,
    pub blocks: Vec<u32>,
    /// Tokens whose keys and values are in the cache.
    pub computed: usize,
}

impl Sequence {
    /// A sequence with KV blocks `first_block..`, enough for all its tokens.
    pub fn new(ids: &[u32], first_block: u32) -> Sequence {
        let count = ids.len().div_ceil(BLOCK_SIZE) as u32;
        Sequence { ids: ids.to_vec(), blocks: (first_block..first_block + count).collect(), computed: 0 }
    }

    pub fn remaining(&self) -> usize {
        self.ids.len() - self.computed
    }
}

/// A batch of the next rows of each sequence, all of whose logits are asked for. The sequences count as advanced.
/// Block b of a sequence is KV block `b * G + g` in group g of the model's G; what no row sees is KV block 0.
pub fn advance(model: &Model, sequences: &mut [(&mut Sequence, usize)]) -> Batch {
    let reaches = model.info().kv_groups.reaches();
    let mut batch = Batch { cu_seqlens_q: vec![0], ..Batch::default() };
    batch.kv.resize_with(reaches.len(), KvPlaces::default);
    batch.block_table_width = sequences.iter().map(|(sequence, _)| sequence.blocks.len()).max().unwrap();
    for (sequence, rows) in sequences {
        let first = sequence.computed;
        for position in first..first + *rows {
            batch.logit_rows.push(LogitRow {
                row: batch.token_ids.len() as u32,
                token: LogitToken::Given(0),
                logprobs: None,
            });
            batch.token_ids.push(sequence.ids[position]);
            batch.positions.push(position as u32);
        }
        sequence.computed += *rows;
        batch.cu_seqlens_q.push(batch.token_ids.len() as u32);
        batch.context_lens.push(sequence.computed as u32);
        for (group, (places, reach)) in batch.kv.iter_mut().zip(reaches).enumerate() {
            let in_group = |block: &u32| *block * reaches.len() as u32 + group as u32;
            let mut table: Vec<u32> = sequence.blocks.iter().map(in_group).collect();
            table.resize(batch.block_table_width, 0);
            table[..reach.first_visible(first) / BLOCK_SIZE].fill(0);
            let slot = |position: usize| {
                table[position / BLOCK_SIZE] * BLOCK_SIZE as u32 + (position % BLOCK_SIZE) as u32
            };
            places.slot_mapping.extend((first..sequence.computed).map(slot));
            places.block_tables.extend(table);
        }
    }
    batch
}

/// Logits `[T, V]` of one sequence alone, computed in chunks of at most `chunk` rows.
pub fn logits_in_chunks(model: &mut Model, ids: &[u32], chunk: usize) -> Vec<f32> {
    let mut sequence = Sequence::new(ids, 0);
    let mut logits = Vec::new();
    while sequence.remaining() > 0 {
        let rows = chunk.min(sequence.remaining());
        let batch = advance(model, &mut [(&mut sequence, rows)]);
        logits.extend(model.step_logits(&batch).unwrap());
    }
    logits
}

/// The `count` tokens that follow `ids`, each the most probable one.
pub fn greedy(model: &mut Model, ids: &[u32], count: usize) -> Vec<u32> {
    let mut sequence = Sequence::new(ids, 0);
    sequence.blocks = (0..(ids.len() + count).div_ceil(BLOCK_SIZE) as u32).collect();
    let mut output = StepOutput::default();
    while sequence.ids.len() < ids.len() + count {
        let rows = sequence.remaining();
        let mut batch = advance(model, &mut [(&mut sequence, rows)]);
        batch.logit_rows.drain(..rows - 1);
        batch.logit_rows[0].token = LogitToken::Sampled(greedy_params());
        model.step(&batch, &mut output).unwrap();
        assert_eq!(output.rows[0].fault, None);
        sequence.ids.push(output.rows[0].token);
    }
    sequence.ids.split_off(ids.len())
}

/// The most probable token, whatever came before.
pub fn greedy_params() -> SampleParams {
    SampleParams {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        repetition_penalty: 1.0,
        logit_bias: [].into(),
        banned: [].into(),
        seen: None,
        seed: 0,
        position: 0,
    }
}

/// The largest difference; NaN if there is one anywhere.
pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |max, difference| if difference <= max { max } else { difference })
}

/// Rewrites a directory's config.json.
pub fn edit_config(dir: &Path, edit: impl FnOnce(&mut Value)) {
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut config);
    fs::write(path, config.to_string()).unwrap();
}

/// The CUDA device: the simulated one, or a real one with `MOSU_TEST_CUDA=real`. `None` where neither is there.
pub fn cuda() -> Option<Device> {
    cusim::for_tests().unwrap().then(|| Device::cuda(0).unwrap())
}
