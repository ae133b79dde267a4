use mosu_kernels::{DType, Device};

use super::*;
use crate::{DecoderSpec, LoadError, ModelOptions, families, kv_layout::KvLayout, memory::Memory};

/// Bytes of a KV block.
const BLOCK: u64 = 4096;

/// 2 layers of 4 KV heads of 8: 256 bytes per token in bf16, 4096 per KV block.
fn spec() -> DecoderSpec {
    families::read_spec(&serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 10, "hidden_size": 32, "intermediate_size": 8,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 100,
    }))
    .unwrap()
}

fn options() -> ModelOptions {
    ModelOptions { max_sequences: 3, max_batch_tokens: Some(64), ..ModelOptions::new(Device::cpu(None)) }
}

fn planner<'a>(
    (spec, layout): (&'a DecoderSpec, &'a KvLayout),
    options: &'a ModelOptions,
    memory: Memory,
) -> Planner<'a> {
    Planner {
        spec,
        layout,
        options,
        compute: DType::BF16,
        memory,
        weights: 1000,
        linear_scratch: 0,
        sampler: 24,
    }
}

/// The plan where `free` bytes are free.
fn plan_of(options: &ModelOptions, free: u64) -> Result<MemoryPlan, LoadError> {
    let spec = spec();
    let layout = KvLayout::new(&spec);
    let planner = planner((&spec, &layout), options, Memory { total: None, free, driver: 0 });
    planner.check_weights()?;
    planner.plan()
}

/// The plan where what is free is the fixed shares of the longest context, and `beside` bytes.
fn plan(change: impl FnOnce(&mut ModelOptions), beside: u64) -> Result<MemoryPlan, LoadError> {
    let mut options = options();
    change(&mut options);
    let whole = plan_of(&options, 1 << 40).unwrap();
    plan_of(&options, whole.taken() - whole.kv_cache + beside)
}

fn context_and_blocks(plan: Result<MemoryPlan, LoadError>) -> (usize, usize) {
    let plan = plan.unwrap();
    assert!(plan.fits() && plan.kv_cache == plan.num_kv_blocks as u64 * BLOCK, "{plan:?}");
    (plan.max_model_len, plan.num_kv_blocks)
}

#[test]
fn takes_what_all_sequences_need() {
    let plan = plan(|_| {}, 1 << 30).unwrap();
    assert_eq!((plan.max_model_len, plan.num_kv_blocks, plan.concurrency()), (100, 21, 3));
    let shares = [plan.weights, plan.sampler, plan.kv_cache, plan.kept_free];
    assert_eq!(shares, [1000, 24, 21 * BLOCK, 21 * BLOCK]);
    // cos and sin of 4 angles; 7 numbers per row and one more, and 7 KV blocks for each of 3 sequences, in lines of 32.
    assert_eq!((plan.position_tables, plan.inputs), (100 * 4 * 4 * 2, 4 * (7 * 64 + 32 + 32)));
    assert_eq!((plan.scratch, plan.padding_kv_blocks), (0, 0), "those of GPUs");
}

/// Unless a context is asked for, the processor's memory is not taken for more than one longest sequence, or a usual
/// length of all.
#[test]
fn takes_what_is_usual_on_the_processor() {
    let spec = DecoderSpec { max_position_embeddings: 40_000, ..spec() };
    let layout = KvLayout::new(&spec);
    let blocks = |max_sequences, max_model_len| {
        let options = ModelOptions { max_sequences, max_model_len, ..options() };
        let memory = Memory { total: None, free: 1 << 40, driver: 0 };
        let planner = planner((&spec, &layout), &options, memory);
        context_and_blocks(planner.plan())
    };
    assert_eq!(blocks(64, None), (40_000, 2500), "one of the longest");
    assert_eq!(blocks(200, None), (40_000, 200 * 32), "512 tokens of each");
    assert_eq!(blocks(64, Some(4096)), (4096, 64 * 256), "all that was asked for");
}

/// On the processor the KV cache takes no more than is left to others.
#[test]
fn takes_at_most_half_and_shortens_the_models_own_context() {
    assert_eq!(context_and_blocks(plan(|_| {}, 7 * 2 * BLOCK)), (100, 7));
    // Shorter tables leave less than a KV block more.
    assert_eq!(context_and_blocks(plan(|_| {}, 6 * BLOCK)), (48, 3));
    assert_eq!(context_and_blocks(plan(|options| options.max_model_len = Some(48), 6 * BLOCK)), (48, 3));
}

#[test]
fn says_what_is_missing_and_what_would_fit() {
    let error = plan(|options| options.max_model_len = Some(64), 6 * BLOCK).unwrap_err();
    let LoadError::Memory { needed, available, .. } = error else { panic!("{error}") };
    assert_eq!(needed - available, 2 * BLOCK, "half of 8 KV blocks is the sequence's");
    let message = error.to_string();
    assert!(message.contains("one sequence of 48 tokens fits, or 3 of 16"), "{message}");
    assert!(message.contains("\n  KV cache                16384 bytes"), "the whole table: {message}");
    let error = plan_of(&options(), 999).unwrap_err().to_string();
    assert!(error.contains("no context fits, however short; choose a smaller model"), "{error}");
    let whole = plan_of(&options(), 1 << 40).unwrap();
    let error = plan_of(&options(), whole.weights + whole.workspace).unwrap_err().to_string();
    assert!(error.contains("max_batch_tokens of 32 fits"), "{error}");
}

#[test]
fn a_cache_that_was_asked_for_is_taken_or_refused() {
    let asked = |bytes| move |options: &mut ModelOptions| options.kv_cache_bytes = Some(bytes);
    let both = |options: &mut ModelOptions| {
        options.max_model_len = Some(20);
        options.kv_cache_bytes = Some(5 * 4096 + 17);
    };
    let found = plan(both, 1 << 30).unwrap();
    assert_eq!((found.max_model_len, found.num_kv_blocks, found.kept_free), (20, 5, 0));
    assert_eq!(context_and_blocks(plan(asked(3 * 4096), 3 * BLOCK)), (48, 3), "all of it, no half");
    let error = plan_of(&ModelOptions { kv_cache_bytes: Some(1 << 20), ..options() }, 200_000).unwrap_err();
    let LoadError::Memory { needed: 1_048_576, available, .. } = error else { panic!("{error}") };
    let message = error.to_string();
    let (blocks, ask) = (available / BLOCK, format!("ask for {available} bytes or less, enough for"));
    assert!(available < 200_000 && message.contains(&ask), "{message}");
    assert!(message.contains(&format!("enough for {} × 100 tokens", blocks / 7)), "{message}");
    let error =
        plan_of(&ModelOptions { kv_cache_bytes: Some(100), ..options() }, 1 << 30).unwrap_err().to_string();
    assert!(error.contains("the KV cache of one sequence needs 4096 bytes"), "{error}");
    let tight = ModelOptions { max_model_len: Some(64), kv_cache_bytes: Some(3 * 4096), ..options() };
    let error = plan_of(&tight, 1 << 30).unwrap_err().to_string();
    assert!(error.contains("shorten max_model_len: 48 tokens fit"), "{error}");
}

#[test]
fn absurd_contexts_are_refused() {
    for asked in [0, 101, usize::MAX] {
        let error = plan_of(&ModelOptions { max_model_len: Some(asked), ..options() }, 1 << 30).unwrap_err();
        assert!(matches!(error, LoadError::Option { option: "max_model_len", .. }), "{error}");
    }
}

/// The search must find the very border: one byte less, and the last KV block does not fit.
#[test]
fn every_byte_counts() {
    let mut options = options();
    options.kv_cache_bytes = None;
    for free in (20_000..200_000).step_by(777) {
        let Ok(plan) = plan_of(&options, free) else { continue };
        let one_more = plan.needed() + 2 * BLOCK;
        assert!(plan.fits() && (plan.num_kv_blocks == 21 || one_more > free), "{free}: {plan:?}");
    }
}

/// A published shape.
fn published(name: &str) -> DecoderSpec {
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let file: std::path::PathBuf = [&package, "tests", "shapes", &format!("{name}.json")].iter().collect();
    families::read_spec(&serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()).unwrap()
}

/// What 8 GiB of KV cache hold: the longest sequence, and how many of 8192 tokens, where all layers keep every token and
/// where what lies behind a window is given back.
#[test]
fn windows_make_room() {
    let held = |name: &str| {
        let spec = published(name);
        let layout = KvLayout::new(&spec);
        let options = ModelOptions { kv_cache_bytes: Some(8 << 30), max_batch_tokens: None, ..options() };
        let memory = Memory { total: None, free: 1 << 40, driver: 0 };
        let plan = planner((&spec, &layout), &options, memory).plan().unwrap();
        let bytes_per_token = 2 * spec.kv_elements_per_token();
        let kept = (8 << 30) / bytes_per_token / 16 * 16;
        let groups = &plan.kv_groups;
        let longest = [kept, groups.tokens_in(plan.num_kv_blocks)];
        let sequences = [kept / 8192, groups.sequences_in(plan.num_kv_blocks, 8192)];
        println!("{name}: {} groups, longest {longest:?}, of 8192 tokens {sequences:?}", groups.count());
        (groups.count(), longest, sequences)
    };
    // 12 layers with windows of 128 and 12 without; 52 with windows of 1024 and 10 without.
    assert_eq!(held("gpt-oss-20b"), (2, [174_752, 348_864], [21, 41]));
    assert_eq!(held("gemma-3-27b"), (7, [16_912, 95_536], [2, 7]));
    // Without windows nothing changes.
    assert_eq!(held("llama-3.1-8b"), (1, [65_536, 65_536], [8, 8]));
}
