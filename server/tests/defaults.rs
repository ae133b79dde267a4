//! generation_config.json decides for requests that do not say.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends that way")]

mod common;

use std::{fs, path::PathBuf, sync::Arc};

use common::{
    binary::{Server, command},
    completion, get, options, post,
};
use mosu::{Engine, EngineOptions, ModelSource};
use mosu_server::{router, state::App};
use serde_json::{Value, json};

/// The demonstration model with another generation_config.json; removed when dropped.
struct Model(PathBuf);

impl Model {
    fn new(name: &str, generation_config: &Value) -> Model {
        let directory = std::env::temp_dir().join(format!("mosu-sampling-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let demo = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/demo");
        for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            fs::copy(demo.join(file), directory.join(file)).unwrap();
        }
        fs::write(directory.join("generation_config.json"), generation_config.to_string()).unwrap();
        Model(directory)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Tokens are drawn at a temperature that tells seeds apart, but only from the most probable one.
fn narrow() -> Value {
    json!({"do_sample": true, "temperature": 1.5, "top_k": 1, "repetition_penalty": null, "eos_token_id": [2, 0]})
}

#[tokio::test]
async fn requests_that_name_none_follow_the_model() {
    let model = Model::new("follow", &narrow());
    let source = ModelSource::Directory(model.0.clone());
    let engine = Engine::load(EngineOptions { source, ..EngineOptions::default() }).unwrap();
    let router = router::router(Arc::new(App::new(engine, options())));
    let text = async |fields: Value| {
        let mut body =
            completion("What is", json!({"max_tokens": 40, "ignore_eos": true, "temperature": null}));
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        post(&router, "/v1/completions", &body).await.json()["choices"][0]["text"].clone()
    };
    let greedy = text(json!({"temperature": 0, "top_k": 0})).await;
    assert_eq!(text(json!({"seed": 1})).await, greedy);
    assert_eq!(text(json!({"seed": 1, "top_k": null, "repetition_penalty": null})).await, greedy);
    // The temperature is the model's, once nothing narrows the choice.
    let drawn = text(json!({"seed": 1, "top_k": 0})).await;
    assert_ne!(drawn, greedy);
    assert_eq!(text(json!({"seed": 1, "top_k": 0, "temperature": 1.5})).await, drawn);
    assert_ne!(text(json!({"seed": 1, "top_k": 0, "temperature": 1})).await, drawn);

    let models = get(&router, "/v1/models").await.json();
    let expected =
        json!({"temperature": 1.5, "top_k": 1, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0});
    assert_eq!(models["data"][0]["default_sampling_params"], expected);
}

#[test]
fn the_program_says_which_defaults_are_in_force() {
    let model = Model::new("say", &narrow());
    let line =
        |server: &Server| server.table.lines().find(|line| line.contains("defaults")).unwrap().to_string();
    let auto = Server::start(&["-m", model.path()]);
    assert!(line(&auto).ends_with("temperature 1.5, top_k 1, by generation_config.json"), "{}", auto.table);
    let none = Server::start(&["-m", model.path(), "--generation-config", "none"]);
    assert!(line(&none).ends_with("temperature 1"), "{}", none.table);
    assert!(none.ask(&common::binary::get_request("/v1/models")).contains(r#""top_k":0"#));
}

#[test]
fn bad_defaults_are_named_and_can_be_left_out() {
    let model = Model::new("bad", &json!({"temperature": 0.7, "top_p": 1.5, "eos_token_id": [2, 0]}));
    let run = |args: &[&str]| {
        let output =
            command(&[&["run", "-m", model.path()], args, &["What is mosu?"]].concat()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, message) = run(&[]);
    assert_eq!(code, Some(3));
    assert!(
        message.contains("generation_config.json: `top_p`: is 1.5; give a number from 0 to 1"),
        "{message}"
    );
    assert_eq!(run(&["--generation-config", "none"]).0, Some(0));
}

#[test]
fn run_draws_as_the_model_says() {
    let model = Model::new("run", &narrow());
    let answer = |args: &[&str]| {
        let model = ["run", "-m", model.path(), "--max-tokens", "40", "--seed", "3", "--raw"];
        let args = [&model, args, &["What is"]];
        command(&args.concat()).output().unwrap().stdout
    };
    let greedy = answer(&["--temperature", "0", "--top-k", "0"]);
    assert_eq!(answer(&[]), greedy);
    assert_eq!(answer(&["--generation-config", "none"]), greedy, "without defaults, run draws nothing");
    assert_ne!(answer(&["--top-k", "0"]), greedy);
}
