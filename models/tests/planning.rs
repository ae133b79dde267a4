//! Memory is planned before any of it is taken: published models at full size, of which there is only the config.json.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use common::*;
use mosu_models::{
    Batch, Device, LoadError, LoadFormat, LogitToken, MAX_BANNED, MAX_BIASED_TOKENS, MemoryPlan, Model,
    ModelOptions, ModelSource, SampleParams, SeenToken, SeenTokens, StepOutput,
};

/// Directories of the published configs, each as `config.json`.
fn published() -> Vec<(String, tempfile::TempDir)> {
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let shapes: PathBuf = [&package, "tests", "shapes"].iter().collect();
    let mut models = Vec::new();
    for entry in fs::read_dir(shapes).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.extension().is_some_and(|end| end == "json") && name != "parameters" {
            let dir = tempfile::tempdir().unwrap();
            fs::copy(&path, dir.path().join("config.json")).unwrap();
            models.push((name, dir));
        }
    }
    models.sort_by(|(a, _), (b, _)| a.cmp(b));
    assert!(models.len() > 20);
    models
}

/// Most memory that this process has had, in bytes; `None` where the system does not say.
fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Plans every published model on a device; those that do not fit are loaded too, which must fail as fast and take as
/// little.
fn plan_all(options: &ModelOptions) -> Vec<(String, Result<MemoryPlan, LoadError>)> {
    let options = ModelOptions { load_format: LoadFormat::Dummy, ..options.clone() };
    let plan = |(name, dir): (String, tempfile::TempDir)| {
        let source = ModelSource::Directory(dir.path().into());
        let started = Instant::now();
        let planned = Model::plan(&source, &options);
        assert!(started.elapsed() < Duration::from_secs(1), "{name}: {:?}", started.elapsed());
        if planned.is_err() {
            let loaded = Model::load(&source, &options, &mut |_| panic!("{name}: nothing is loaded"));
            assert!(matches!(loaded.map(|_| ()), Err(LoadError::Memory { .. })), "{name}");
        }
        (name, planned)
    };
    published().into_iter().map(plan).collect()
}

/// Bytes of a published model's weights: in 16 bits, or as the index of its files says. Of FP8 at least.
fn weights_of(name: &str) -> u64 {
    let bytes_each = match name {
        "gpt-oss-20b" => return 13_761_264_768,
        "gpt-oss-120b" => return 65_248_815_744,
        "deepseek-v3" | "minimax-m2" => 1,
        _ => 2,
    };
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let file: PathBuf = [&package, "tests", "shapes", "parameters.json"].iter().collect();
    let parameters: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    bytes_each * parameters[name].as_u64().unwrap()
}

/// Plans add up, hold all weights, and are refused by the bytes that really are missing.
fn check(plans: &[(String, Result<MemoryPlan, LoadError>)]) {
    for (name, plan) in plans {
        let Ok(plan) = plan else { continue };
        assert!(plan.fits() && plan.max_model_len > 0 && plan.num_kv_blocks > 0, "{name}: {plan:?}");
        // Norms and biases may be wider on the device than in the files.
        let weights = weights_of(name);
        assert!((weights..weights + weights / 500).contains(&plan.weights), "{name}: {plan:?}");
        let left = plan.rows().last().copied().unwrap();
        assert_eq!(left, ("still free", plan.free - plan.needed()), "{name}");
    }
    for (name, plan) in plans {
        let Err(error) = plan else { continue };
        let LoadError::Memory { needed, available, plan, .. } = error else { panic!("{name}: {error}") };
        assert_eq!((*needed, *available), (plan.needed(), plan.free), "{name}: {error}");
        // Random weights that are much too large are refused by their parameters alone.
        assert!(plan.weights >= weights_of(name) / 10 * 8 && needed > available, "{name}: {error}");
        let message = error.to_string();
        assert!(
            message.contains("are missing; no context fits") && message.contains("\n  weights "),
            "{message}"
        );
    }
}

#[test]
fn published_models_are_planned_on_the_processor() {
    let before = peak_memory();
    let plans = plan_all(&ModelOptions::new(Device::cpu(None)));
    check(&plans);
    let refused = |(name, plan): &(String, Result<_, _>)| name == "deepseek-v3" && plan.is_err();
    assert!(plans.iter().any(refused), "no test machine has 670 GB");
    let more = peak_memory().zip(before).map(|(after, before)| after - before);
    assert!(more.is_none_or(|bytes| bytes < 256 << 20), "{more:?} bytes were taken");
}

/// Runs an ignored test of this file in a process of its own, whose simulated device is as these variables say.
fn with_device(test: &str, variables: &[(&str, &str)]) {
    if let Err(cusim::Error::NotBuilt) = cusim::install() {
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}

fn cuda() -> Device {
    cusim::install().unwrap();
    Device::cuda(0).unwrap()
}

#[test]
fn published_models_are_planned_on_a_gpu_of_80_gib() {
    with_device("plans_on_80_gib", &[("CUSIM_MEMORY", &(80 * GIB).to_string())]);
}

#[test]
#[ignore = "needs a simulated device of 80 GiB"]
fn plans_on_80_gib() {
    let device = cuda();
    let before = peak_memory().unwrap();
    let plans = plan_all(&ModelOptions::new(device));
    check(&plans);
    for (name, plan) in &plans {
        assert_eq!(plan.is_ok(), weights_of(name) < 75 * GIB, "{name}");
        let Ok(plan) = plan else { continue };
        assert!(plan.total == Some(80 * GIB) && plan.padding_kv_blocks > 0 && plan.scratch > 0, "{name}");
        assert!(plan.kept_free <= 128 << 20, "{name}: {} are left to the driver", plan.kept_free);
    }
    assert!(plans.iter().filter(|(_, plan)| plan.is_ok()).count() > 5);
    let taken = peak_memory().unwrap() - before;
    assert!(taken < 256 << 20, "{taken} bytes were taken");
}

/// A batch of the next `rows` tokens of each of `sequences`, and what is wanted of its logits.
/// Where there are `lists`, each sequence has a slot.
fn batch(
    model: &Model,
    sequences: &mut [Sequence],
    rows: usize,
    params: &SampleParams,
    logprobs: Option<u32>,
) -> Batch {
    let mut all: Vec<(&mut Sequence, usize)> =
        sequences.iter_mut().map(|sequence| (sequence, rows)).collect();
    let mut batch = advance(model, &mut all);
    let ends = batch.cu_seqlens_q[1..].iter();
    let slots: BTreeMap<u32, u32> = ends.zip(0..).map(|(end, slot)| (end - 1, slot)).collect();
    for wanted in &mut batch.logit_rows {
        let of_row = |seen: &SeenTokens| Some(SeenTokens { slot: *slots.get(&wanted.row)?, ..seen.clone() });
        let seen = params.seen.as_ref().and_then(of_row);
        wanted.token = LogitToken::Sampled(SampleParams { seen, ..params.clone() });
        wanted.logprobs = logprobs;
    }
    batch
}

/// Penalties, biases and banned tokens, all of them as long as they can be.
fn longest_lists(vocab_size: u32) -> SampleParams {
    SampleParams {
        temperature: 0.7,
        repetition_penalty: 1.3,
        presence_penalty: 0.5,
        seen: Some(SeenTokens {
            slot: 0,
            load: Some((0..vocab_size).map(|id| SeenToken { id, output_count: 1 }).collect()),
        }),
        logit_bias: (0..MAX_BIASED_TOKENS as u32).map(|i| (i % vocab_size, 0.25)).collect(),
        banned: (0..MAX_BANNED as u32).map(|i| 1 + i % (vocab_size - 1)).collect(),
        ..greedy_params()
    }
}

#[test]
fn steps_of_every_kind_take_no_more_than_was_planned() {
    for fixture in ["qwen2_moe_bf16", "llama4", "bloom"] {
        let memory = (24_u64 << 20).to_string();
        with_device(
            "steps_take_nothing",
            &[("CUSIM_MEMORY", &memory), ("CUSIM_CHECK", "0"), ("FIXTURE", fixture)],
        );
    }
}

/// Of which sequences how many rows are wanted, and what of their logits.
type Wanted<'a> = (&'a mut [Sequence], usize, &'a SampleParams, Option<u32>);

#[test]
#[ignore = "needs a simulated device of its own, with little memory"]
fn steps_take_nothing() {
    let name = std::env::var("FIXTURE").unwrap();
    let device = cuda();
    let Device::Cuda(gpu) = &device else { panic!("not a GPU") };
    let (max_sequences, max_batch_tokens) = (20, 100);
    let options = ModelOptions {
        max_sequences,
        max_batch_tokens: Some(max_batch_tokens),
        ..ModelOptions::new(device.clone())
    };
    let mut model = load_with(fixture(&name), &options).unwrap();
    let plan = model.info().memory.clone();
    assert_eq!(gpu.used_bytes(), plan.taken(), "{name}: the plan is exact: {plan}");
    let before = (gpu.used_bytes(), gpu.memory().unwrap().0);
    assert!(before.1 >= plan.kept_free, "{name}: {} bytes are free", before.1);
    let mut take = |wanted: Wanted<'_>, what: &str| {
        let (sequences, rows, params, logprobs) = wanted;
        let batch = batch(&model, sequences, rows, params, logprobs);
        model.step(&batch, &mut StepOutput::default()).unwrap();
        let after = (gpu.used_bytes(), gpu.memory().unwrap().0);
        assert_eq!(after, before, "{name}: {what} takes memory");
    };
    let vocab_size = 90;
    let ids: Vec<u32> = (0..200).map(|i| i * 7 % vocab_size).collect();
    let (greedy, lists) = (greedy_params(), longest_lists(vocab_size));
    let mut alone = [Sequence::new(&ids, 0)];
    take((&mut alone, max_batch_tokens, &greedy, None), "prefill");
    take((&mut alone, max_batch_tokens, &lists, Some(20)), "prefill with everything");
    let mut all: Vec<Sequence> =
        (0..max_sequences).map(|s| Sequence::new(&ids[..20], 2 * s as u32)).collect();
    take((&mut all, 5, &greedy, Some(20)), "chunks of all sequences");
    for step in 0..4 {
        let (params, logprobs) = if step % 2 == 0 { (&greedy, None) } else { (&lists, Some(20)) };
        take((&mut all, 1, params, logprobs), "decode of all sequences");
    }
    let mut few = all.split_off(max_sequences - 3);
    for _ in 0..3 {
        take((&mut few, 1, &lists, Some(5)), "decode of a few");
    }
}

const GIB: u64 = 1 << 30;

/// A directory with a published config.json.
fn directory_of(wanted: &str) -> (tempfile::TempDir, ModelSource) {
    let (_, dir) = published().into_iter().find(|(name, _)| name == wanted).unwrap();
    let source = ModelSource::Directory(dir.path().into());
    (dir, source)
}

/// The number after `before` in a message.
fn number(message: &str, before: &str) -> usize {
    let (_, rest) = message.split_once(before).unwrap_or_else(|| panic!("{before:?} is not in {message}"));
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().unwrap_or_else(|_| panic!("no number after {before:?} in {message}"))
}

#[test]
fn a_refusal_says_what_would_fit() {
    with_device("what_is_said_to_fit_fits", &[("CUSIM_MEMORY", &(24 * GIB).to_string())]);
}

#[test]
#[ignore = "needs a simulated device of 24 GiB"]
fn what_is_said_to_fit_fits() {
    let (_dir, source) = directory_of("llama-3.1-8b");
    let options = ModelOptions { load_format: LoadFormat::Dummy, ..ModelOptions::new(cuda()) };
    let plan = |change: &dyn Fn(&mut ModelOptions)| {
        let mut options = options.clone();
        change(&mut options);
        Model::plan(&source, &options).map_err(|error| error.to_string())
    };
    // 15 GiB of weights, and 128 KiB for each token.
    let message = plan(&|options| options.max_model_len = Some(131_072)).unwrap_err();
    assert!(message.contains("needs 31.") && message.contains("where 24.0 GiB are free: 7."), "{message}");
    let context = number(&message, "max_model_len: one sequence of ");
    let of_all = number(&message, "tokens fits, or 64 of ");
    let fits = plan(&|options| options.max_model_len = Some(context)).unwrap();
    assert_eq!((fits.max_model_len, fits.concurrency()), (context, 1));
    plan(&|options| options.max_model_len = Some(context + 16)).unwrap_err();
    let fits = plan(&|options| options.max_model_len = Some(of_all)).unwrap();
    assert_eq!((fits.max_model_len, fits.concurrency()), (of_all, 64));
    let more = plan(&|options| options.max_model_len = Some(of_all + 16)).unwrap();
    assert!(more.concurrency() < 64);

    let message = plan(&|options| options.kv_cache_bytes = Some(100 << 30)).unwrap_err();
    assert!(message.contains("the KV cache needs 100.0 GiB"), "{message}");
    let bytes = number(&message, "ask for ");
    let held = (number(&message, "enough for "), number(&message, "enough for 1 × "));
    let fits = plan(&|options| options.kv_cache_bytes = Some(bytes)).unwrap();
    assert!(held.0 * held.1 <= fits.num_kv_blocks * 16 && held.0 == 1, "{held:?} {fits:?}");
    plan(&|options| options.kv_cache_bytes = Some(bytes + (256 << 20))).unwrap_err();

    let message = plan(&|options| options.max_batch_tokens = Some(1 << 16)).unwrap_err();
    let rows = number(&message, "max_batch_tokens of ");
    plan(&|options| options.max_batch_tokens = Some(rows)).unwrap();
    plan(&|options| options.max_batch_tokens = Some(2 * rows)).unwrap_err();
}

#[test]
fn memory_that_other_programs_have_is_not_planned() {
    let taken = |gib: u64| (gib * GIB).to_string();
    for (gib, test) in [(60, "less_is_planned"), (70, "others_are_named"), (80, "a_full_device_is_named")] {
        let variables = [("CUSIM_MEMORY", taken(80)), ("CUSIM_MEMORY_TAKEN", taken(gib))];
        with_device(test, &[(variables[0].0, &variables[0].1), (variables[1].0, &variables[1].1)]);
    }
}

#[test]
#[ignore = "needs a simulated device of which another process has 60 GiB"]
fn less_is_planned() {
    let (_dir, source) = directory_of("llama-3.1-8b");
    let options = ModelOptions { load_format: LoadFormat::Dummy, ..ModelOptions::new(cuda()) };
    let plan = Model::plan(&source, &options).unwrap();
    assert!(plan.needed() > 19 * GIB && plan.needed() <= plan.free && plan.free <= 20 * GIB, "{plan}");
    assert!(plan.to_string().contains("taken before               60.0 GiB"), "{plan}");
}

#[test]
#[ignore = "needs a simulated device of which another process has 70 GiB"]
fn others_are_named() {
    let (_dir, source) = directory_of("llama-3.1-8b");
    let options = ModelOptions { load_format: LoadFormat::Dummy, ..ModelOptions::new(cuda()) };
    let message = Model::load(&source, &options, &mut |_| {}).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("no context fits, however short; choose a smaller model"), "{message}");
    assert!(message.contains("; or end what has taken 70.0 GiB of the memory before"), "{message}");
}

#[test]
#[ignore = "needs a simulated device of which another process has all memory"]
fn a_full_device_is_named() {
    cusim::install().unwrap();
    let message = Device::cuda(0).unwrap_err().to_string();
    assert!(
        message.contains("cuda:0") && message.contains("its memory is full; end other programs"),
        "{message}"
    );
}
