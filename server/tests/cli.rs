//! The command line as its users meet it: answers, figures, help, exit codes, pipes and Ctrl-C.

// The lint's own exception covers test functions, not what they share.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    env, fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

const QUESTION: &str = "What is mosu?";

/// The program with these arguments, without the variables and the input of whoever runs the tests.
fn mosu(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mosu"));
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MOSU_")) {
        command.env_remove(name);
    }
    // No GPU, whatever this machine has.
    command.env("CUDA_VISIBLE_DEVICES", "");
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(args: &[&str]) -> Output {
    mosu(args).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// What a command that must succeed prints.
fn stdout(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout).into()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(args)).unwrap()
}

/// A directory of its own, removed when dropped.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = env::temp_dir().join(format!("mosu-cli-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    /// The demonstration model's shape and tokenizer, with one setting of config.json changed.
    fn demo_shape(name: &str, key: &str, value: impl Into<Value>) -> Directory {
        let directory = Directory::new(name);
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            fs::copy(demo(file), directory.0.join(file)).unwrap();
        }
        let mut config: Value = serde_json::from_slice(&fs::read(demo("config.json")).unwrap()).unwrap();
        config[key] = value.into();
        directory.write("config.json", &config.to_string());
        directory
    }

    fn write(&self, file: &str, content: &str) {
        fs::write(self.0.join(file), content).unwrap();
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn demo(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo").join(file)
}

/// A model whose answers outlast every test: random weights hardly ever draw an end token, and the context is long.
fn endless() -> Directory {
    Directory::demo_shape("endless", "max_position_embeddings", 1_000_000)
}

fn ask_endless(model: &Directory) -> Child {
    mosu(&["run", "-m", model.path(), "--load-format", "dummy", "--kv-cache-memory", "1GiB", QUESTION])
        .spawn()
        .unwrap()
}

/// Waits for the end of a program that should end soon.
fn finish(mut child: Child) -> Output {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("the program did not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

#[test]
fn the_same_question_has_the_same_answer() {
    let output = run(&["run", QUESTION]);
    assert!(output.status.success());
    let answer = text(&output.stdout);
    assert!(answer.contains("mosu") && answer.ends_with('\n'), "{answer}");
    assert_eq!(stdout(&["run", QUESTION]), answer);
    // The words of a question need no quotes.
    assert_eq!(stdout(&["run", "What", "is", "mosu?"]), answer);

    let figures = text(&output.stderr);
    assert!(figures.contains(" tokens · ") && figures.contains(" · first token after "), "{figures}");
    assert!(!figures.contains('\x1b'), "colours without a terminal: {figures:?}");
}

#[test]
fn a_piped_question_is_the_same_question() {
    for piped in [QUESTION.to_string(), format!("{QUESTION}\n")] {
        let mut child = mosu(&["run"]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(piped.as_bytes()).unwrap();
        assert_eq!(text(&finish(child).stdout), stdout(&["run", QUESTION]));
    }
}

#[test]
fn flags_reach_the_engine() {
    // Words that it has never seen leave the model unsure, so that other draws are other answers.
    let answer =
        |flags: &[&str]| stdout(&[&["run", "--max-tokens", "20"], flags, &["zxq 17 flag?"]].concat());
    let greedy = answer(&[]);
    let hot = ["--temperature", "2", "--seed", "1"];
    assert_eq!(answer(&hot), answer(&hot));
    assert_ne!(answer(&hot), answer(&["--temperature", "2", "--seed", "2"]));
    for narrow in [["--top-k", "1"], ["--min-p", "1"], ["--top-p", "0.000001"]] {
        assert_eq!(answer(&[&hot[..], &narrow].concat()), greedy, "{narrow:?}");
    }
    assert_ne!(answer(&["--raw"]), greedy);
    // Which other words the model chooses is chance, but it must not choose the same.
    assert_ne!(answer(&[&hot[..], &["--system", "Reply in Chinese."]].concat()), answer(&hot));
    for same in [&["--threads", "1"] as &[&str], &["--max-batch-tokens", "1"], &["--no-prefix-cache"]] {
        assert_eq!(answer(same), greedy, "{same:?}");
    }
}

#[test]
fn a_variable_is_a_flag() {
    let cut = mosu(&["run", QUESTION]).env("MOSU_MAX_TOKENS", "3").output().unwrap();
    assert_eq!(text(&cut.stdout), stdout(&["run", "--max-tokens", "3", QUESTION]));
    assert!(text(&cut.stderr).starts_with("3 tokens · ") && text(&cut.stderr).contains("--max-tokens"));
    let flag_first =
        mosu(&["run", "--max-tokens", "2", QUESTION]).env("MOSU_MAX_TOKENS", "3").output().unwrap();
    assert!(text(&flag_first.stderr).starts_with("2 tokens · "));
    let raw = mosu(&["run", "--max-tokens", "9", QUESTION]).env("MOSU_RAW", "1").output().unwrap();
    assert_eq!(text(&raw.stdout), stdout(&["run", "--max-tokens", "9", "--raw", QUESTION]));
    let wrong = mosu(&["run", QUESTION]).env("MOSU_TEMPERATURE", "warm").output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    // Empty ones are not set, but for keys.
    let mut unset = mosu(&["run", "--max-tokens", "3", QUESTION]);
    for name in
        ["MODEL", "THREADS", "TEMPERATURE", "SEED", "SYSTEM", "RAW", "CHAT_TEMPLATE", "MAX_TOKENS", "DEVICE"]
    {
        unset.env(format!("MOSU_{name}"), "");
    }
    assert_eq!(text(&unset.output().unwrap().stdout), text(&cut.stdout));
    for key in ["MOSU_API_KEY", "MOSU_API_KEY_FILE"] {
        let keyless = mosu(&["serve", "--port", "0"]).env(key, "").output().unwrap();
        assert_eq!(keyless.status.code(), Some(2), "{key}");
    }
}

#[test]
fn exit_codes_tell_whose_fault_it_was() {
    let broken = Directory::new("broken");
    broken.write("config.json", "{\"architectures\": [");
    let unknown = Directory::demo_shape("unknown", "architectures", vec!["TeapotForCausalLM"]);
    let without_weights = Directory::demo_shape("without-weights", "max_position_embeddings", 64);
    for (args, code, words) in [
        (&["run", "--nonsense", "hi"] as &[&str], 2, "--nonsense"),
        (&["run", "--temperature", "3", "hi"], 2, "--temperature"),
        (&["run", "--temperature", "nan", "hi"], 2, "--temperature"),
        (&["run", "--top-p", "0", "hi"], 2, "--top-p"),
        (&["run", "--max-tokens", "0", "hi"], 2, "--max-tokens"),
        (&["run", "--max-tokens", "5000", "hi"], 2, "context"),
        (&["run", "--kv-cache-memory", "lots", "hi"], 2, "2GiB"),
        (&["run", "--threads", "0", "hi"], 2, "--threads"),
        (&["run", "--raw", "--system", "x", "hi"], 2, "--system"),
        (&["run", " "], 2, "prompt is empty"),
        (&["run"], 2, "prompt is empty"),
        (&["serve", "--host", "0.0.0.0"], 2, "MOSU_API_KEY"),
        (&["serve", "--api-key-file", "/nonexistent"], 2, "/nonexistent"),
        (&["bench", "--output-tokens", "1"], 2, "--output-tokens"),
        (&["bench", "--prompt-tokens", "9000"], 2, "--prompt-tokens"),
        (&["bench", "--batch", "1,x"], 2, "--batch"),
        (&["bench", "--kv-cache-memory", "1MB", "--batch", "64"], 2, "--kv-cache-memory"),
        (&["run", "-m", "/nonexistent", "hi"], 3, "/nonexistent: not found; give a directory"),
        (&["run", "-m", broken.path(), "hi"], 3, broken.path()),
        (&["run", "-m", unknown.path(), "hi"], 3, "TeapotForCausalLM"),
        (&["run", "-m", without_weights.path(), "hi"], 3, "safetensors"),
        (&["run", "--max-model-len", "1000000", "hi"], 3, "--max-model-len"),
        (&["run", "--chat-template", "/nonexistent", "hi"], 3, "/nonexistent"),
        (&["run", "--device", "cuda", "hi"], 4, "cuda"),
        (&["serve", "--port", "0", "--device", "cuda"], 4, "cuda"),
        (&["bench", "--device", "cuda"], 4, "cuda"),
    ] {
        let output = run(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
        assert_eq!(text(&output.stdout), "", "{args:?}");
    }
}

#[test]
fn inspect_tells_what_a_checkpoint_is() {
    let shown = run(&["inspect"]);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    let said = text(&shown.stdout);
    for words in ["mosu-demo", "parameters", "per token", "tokenizer.json", "layers", "head_dim"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let report: Value = serde_json::from_str(text(&run(&["inspect", "--json"]).stdout)).unwrap();
    assert_eq!(report["layers"][0]["first"], 0);
    assert!(report["parameters"].as_u64().unwrap() > 1_000_000 && report["refused"] == serde_json::json!([]));

    let model = Directory::demo_shape("inspected", "max_position_embeddings", 64);
    let refused = run(&["inspect", model.path(), "--json"]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(text(&refused.stderr).contains("refused"), "{}", text(&refused.stderr));
    let report: Value = serde_json::from_str(text(&refused.stdout)).unwrap();
    assert!(report["refused"][0].as_str().unwrap().contains("safetensors"), "{report}");
    assert_eq!(report["context"], 64);
    let with_flag = run(&["inspect", "-m", model.path(), "--json"]);
    assert_eq!(text(&with_flag.stdout), text(&refused.stdout));
    let by_variable = mosu(&["inspect", "--json"]).env("MOSU_MODEL", model.path()).output().unwrap();
    assert_eq!(text(&by_variable.stdout), text(&refused.stdout));
    assert_eq!(run(&["inspect", "/nonexistent"]).status.code(), Some(3));
}

#[test]
fn inspect_lists_the_tensors_that_are_not_needed() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/gemma3_multimodal");
    let model = model.to_str().unwrap();
    let report: Value = serde_json::from_slice(&run(&["inspect", "-m", model, "--json"]).stdout).unwrap();
    let names = report["ignored_tensors"].as_array().unwrap();
    assert!(names.iter().any(|name| name.as_str().unwrap().contains("vision")), "{report}");
    let shown = run(&["inspect", "-m", model]);
    let row = format!("{} tensors: {}, ", names.len(), names[0].as_str().unwrap());
    assert!(text(&shown.stdout).contains(&row), "{}", text(&shown.stdout));
}

#[test]
fn a_file_is_no_model() {
    let directory = Directory::new("files");
    for (file, words) in [
        ("model.safetensors", "model.safetensors: is a file; give the directory around it"),
        ("config.json", "config.json: is a file; give the directory around it"),
    ] {
        directory.write(file, "");
        let path = directory.0.join(file);
        let path = path.to_str().unwrap();
        for args in [
            &["inspect", "-m", path] as &[&str],
            &["inspect", path],
            &["run", "-m", path, "hi"],
            &["bench", "-m", path],
        ] {
            let output = run(args);
            assert_eq!(output.status.code(), Some(3), "{args:?}");
            assert!(text(&output.stderr).contains(words), "{args:?}: {}", text(&output.stderr));
        }
    }
}

#[test]
fn a_gguf_file_is_a_model() {
    let gguf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/gguf/qwen3_bf16.gguf");
    let report: Value =
        serde_json::from_slice(&run(&["inspect", gguf.to_str().unwrap(), "--json"]).stdout).unwrap();
    assert_eq!(report["architecture"], "Qwen3ForCausalLM");
    assert_eq!(report["weights"]["files"], 1);
    let directory = Directory::new("gguf");
    directory.write("model.gguf", "");
    let path = directory.0.join("model.gguf");
    let path = path.to_str().unwrap();
    let words = "model.gguf: truncated: the file ends within its header";
    for args in [&["run", "-m", path, "hi"] as &[&str], &["bench", "-m", path], &["inspect", path]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(3), "{args:?}");
        let said = [text(&output.stdout), text(&output.stderr)].concat();
        assert!(said.contains(words), "{args:?}: {said}");
    }
}

#[test]
fn threads_beyond_the_cores_are_warned_of() {
    let threads = std::thread::available_parallelism().unwrap().get() + 1;
    let warned = run(&["run", "--threads", &threads.to_string(), "--max-tokens", "1", QUESTION]);
    let said = text(&warned.stderr);
    assert!(warned.status.success(), "{said}");
    assert!(
        said.starts_with(&format!("warning: --threads {threads} is more than there are cores")),
        "{said}"
    );
}

#[test]
fn a_model_without_template_continues_texts() {
    let model = Directory::demo_shape("no-template", "max_position_embeddings", 64);
    model.write("tokenizer_config.json", "{}");
    let ask = |flags: &[&str]| {
        run(&[&["run", "-m", model.path(), "--load-format", "dummy", "--max-tokens", "4"], flags, &["hi"]]
            .concat())
    };
    let refused = ask(&[]);
    assert_eq!(refused.status.code(), Some(3));
    let said = text(&refused.stderr);
    assert!(said.contains("--chat-template FILE") && said.contains("--raw"), "{said}");
    assert!(ask(&["--raw"]).status.success());
    model.write("mine.jinja", "{{ messages[0].content }}");
    let templated = ask(&["--chat-template", model.0.join("mine.jinja").to_str().unwrap()]);
    // This template adds nothing, so the prompt is the same.
    assert_eq!(text(&templated.stdout), text(&ask(&["--raw"]).stdout));
}

#[test]
fn a_broken_template_is_named_and_texts_go_on() {
    let model = Directory::demo_shape("broken-template", "max_position_embeddings", 64);
    model.write("chat_template.jinja", "{% if %}");
    let ask = |flags: &[&str]| {
        let all = ["run", "-m", model.path(), "--load-format", "dummy", "--max-tokens", "4"];
        run(&[&all, flags, &["hi"]].concat())
    };
    let refused = ask(&[]);
    assert_eq!(refused.status.code(), Some(3));
    let said = text(&refused.stderr);
    assert!(said.contains("chat_template.jinja") && said.contains("syntax error"), "{said}");
    assert!(ask(&["--raw"]).status.success());
    assert!(ask(&["--chat-template", "skywork"]).status.success());
    let inspected = run(&["inspect", model.path(), "--json"]);
    let report: Value = serde_json::from_str(text(&inspected.stdout)).unwrap();
    assert!(report["chat_template_fault"].as_str().unwrap().contains("syntax error"), "{report}");
}

#[test]
fn ctrl_c_ends_an_answer_in_order() {
    let model = endless();
    let mut child = ask_endless(&model);
    let mut begun = [0; 64];
    child.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    // What is still in the pipe must not hold up the end.
    let mut stdout = child.stdout.take().unwrap();
    let rest = std::thread::spawn(move || {
        let mut rest = Vec::new();
        stdout.read_to_end(&mut rest).map(|_| rest)
    });
    let ended = finish(child);
    assert_eq!(ended.status.code(), Some(130), "{}", text(&ended.stderr));
    assert!(text(&ended.stderr).ends_with(" · stopped\n"), "{}", text(&ended.stderr));
    assert!(rest.join().unwrap().unwrap().ends_with(b"\n"));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let model = endless();
    let mut child = ask_endless(&model);
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 64]).unwrap();
    drop(stdout);
    let ended = finish(child);
    assert_eq!((ended.status.code(), text(&ended.stderr)), (Some(0), ""));
    for args in [&["--help"] as &[&str], &["doctor"]] {
        let mut child = mosu(args).spawn().unwrap();
        drop(child.stdout.take());
        let ended = finish(child);
        assert_eq!((ended.status.code(), text(&ended.stderr)), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn help_shows_examples_and_variables() {
    assert!(stdout(&["--help"]).contains("Exit codes: "));
    for (command, flags) in [
        ("run", "MODEL MAX_TOKENS TEMPERATURE SEED SYSTEM RAW CHAT_TEMPLATE"),
        ("serve", "MODEL HOST PORT API_KEY API_KEY_FILE STRICT_PARAMS DRAIN_TIMEOUT"),
        ("bench", "MODEL PROMPT_TOKENS OUTPUT_TOKENS BATCH REPEAT JSON THREADS"),
        ("doctor", "MODEL JSON DEVICE LOAD_FORMAT KV_CACHE_MEMORY"),
        ("inspect", "MODEL JSON"),
    ] {
        let help = stdout(&[command, "--help"]);
        assert!(help.contains(&format!("Examples:\n  mosu {command}")) || command == "serve", "{help}");
        for flag in flags.split(' ') {
            assert!(help.contains(&format!("MOSU_{flag}")), "{command}: MOSU_{flag}");
        }
    }
}

#[test]
fn a_key_is_not_shown_in_the_help() {
    let help = mosu(&["serve", "--help"]).env("MOSU_API_KEY", "hush-hush").output().unwrap();
    assert!(!text(&help.stdout).contains("hush-hush"));
}

#[test]
fn doctor_tells_what_the_machine_offers() {
    let report = json(&["doctor", "--json"]);
    assert!(report["machine"]["cores"].as_u64() > Some(0));
    assert!(report["machine"]["instruction_set"].is_string());
    for limit in ["read_bandwidth", "bf16_dot_peak"] {
        assert!(report[limit].as_f64() > Some(0.0), "{limit}");
    }
    assert_eq!(report["model"]["name"], "mosu-demo");
    assert_eq!(report["model_error"], Value::Null);
    let table = stdout(&["doctor", "--threads", "1"]);
    assert!(table.contains("with 1 thread\n") && table.contains("the NVIDIA driver"), "{table}");
}

#[test]
fn doctor_tells_why_a_model_does_not_run() {
    let output = run(&["doctor", "--json", "--device", "cuda"]);
    assert_eq!(output.status.code(), Some(4));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["model_error"].as_str().unwrap().contains("cuda"));
}

#[test]
fn bench_gives_medians_and_shares() {
    let tiny = ["bench", "--prompt-tokens", "16", "--output-tokens", "64", "--batch", "1,3", "--repeat", "2"];
    let report = json(&[&tiny[..], &["--json"]].concat());
    assert_eq!(report["options"]["prompt_tokens"], 16);
    assert_eq!(report["preemptions"], 0);
    assert!(report["machine"]["cores"].is_u64());
    let runs = report["runs"].as_array().unwrap();
    assert_eq!(runs.iter().map(|run| run["batch"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 3]);
    for run in runs {
        for name in [
            "prefill_tokens_per_second",
            "ttft_seconds",
            "decode_tokens_per_second",
            "decode_tokens_per_second_per_sequence",
            "itl_seconds",
            "itl_p99_seconds",
        ] {
            let figure = |which: &str| run[name][which].as_f64().unwrap();
            // On a busy machine most tokens come together with the one before.
            assert!(figure("min") > 0.0 || name == "itl_seconds", "{name}: {run}");
            assert!(figure("min") <= figure("median") && figure("median") <= figure("max"), "{name}: {run}");
        }
        for share in ["prefill_share", "decode_share"] {
            assert!(run[share].as_f64() > Some(0.0), "{share}: {run}");
        }
        assert!(run["limits_before"]["read_bandwidth"].as_f64() > Some(0.0));
    }
    let table = stdout(&tiny);
    for row in [
        "prefill tokens/s",
        "share of dot peak",
        "TTFT ms",
        "decode tokens/s",
        "share of bandwidth",
        "ITL ms",
    ] {
        assert!(table.contains(row), "{table}");
    }
}

#[test]
fn bench_needs_only_the_shape_of_a_model() {
    let shape = Directory::new("shape");
    fs::copy(demo("config.json"), shape.0.join("config.json")).unwrap();
    let flags = [
        "--load-format",
        "dummy",
        "--prompt-tokens",
        "8",
        "--output-tokens",
        "64",
        "--batch",
        "2",
        "--repeat",
        "1",
    ];
    let report = json(&[&["bench", "--json", "-m", shape.path()], &flags[..]].concat());
    assert_eq!(report["model"]["architecture"], "Qwen3MoeForCausalLM");
    assert!(report["runs"][0]["decode_tokens_per_second"]["median"].as_f64() > Some(0.0));
}
