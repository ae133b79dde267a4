//! The chat with scripted lines and a scripted model.

use std::collections::VecDeque;

use mosu::Finish;

use super::*;

struct Script(VecDeque<Input>);

impl Lines for Script {
    fn read(&mut self, _prompt: &str) -> Result<Input, Failure> {
        // A chat that reads on after it should have ended fails here.
        self.0.pop_front().ok_or(Failure::System("the script has ended".into()))
    }
}

fn line(text: &str) -> Input {
    Input::Line(text.into())
}

fn answer(text: &str, finish: Option<Finish>) -> Answer {
    Answer {
        text: text.into(),
        prompt_tokens: 10,
        cached_tokens: 4,
        output_tokens: 2,
        finish,
        first_token: None,
        decoding: std::time::Duration::ZERO,
    }
}

/// Chats with a model that says how many messages it was sent. Returns the messages of each call, what was on the
/// screen, and how the chat ended.
fn chat_with(
    inputs: Vec<Input>,
    mut respond: impl FnMut(usize) -> Result<Answer, Failure>,
) -> (Vec<Vec<Value>>, String, Result<(), Failure>) {
    let mut calls = Vec::new();
    let mut out = Vec::new();
    let mut respond = |messages: &[Value], screen: &mut Screen| {
        calls.push(messages.to_vec());
        let answer = respond(messages.len())?;
        screen.answer(&answer.text)?;
        Ok(answer)
    };
    let mut script = Script(inputs.into());
    let ended = Chat::new(&mut script, &mut respond, Screen::plain(&mut out), 100, None).run();
    assert!(script.0.is_empty(), "left before {:?}", script.0);
    (calls, String::from_utf8(out).unwrap(), ended)
}

fn chat(inputs: Vec<Input>) -> (Vec<Vec<Value>>, String) {
    let (calls, out, ended) =
        chat_with(inputs, |count| Ok(answer(&format!("answer to {count}"), Some(Finish::EndToken(0)))));
    ended.unwrap();
    (calls, out)
}

fn contents(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|message| message["content"].as_str().unwrap()).collect()
}

#[test]
fn a_question_is_sent_with_all_that_was_said() {
    let (calls, out) = chat(vec![line("one"), line("  "), line("two"), line("/exit")]);
    assert_eq!(contents(&calls[0]), ["one"]);
    assert_eq!(contents(&calls[1]), ["one", "answer to 1", "two"]);
    assert_eq!(calls[1][1]["role"], "assistant");
    assert!(out.contains("answer to 1\n2 tokens\n"), "{out}");
}

#[test]
fn clear_forgets_but_keeps_the_system_message() {
    let (calls, _) =
        chat(vec![line("/system be brief"), line("one"), line("/clear"), line("two"), Input::End]);
    assert_eq!(contents(&calls[0]), ["be brief", "one"]);
    assert_eq!(calls[0][0]["role"], "system");
    assert_eq!(contents(&calls[1]), ["be brief", "two"]);
    let (calls, _) = chat(vec![line("/system a"), line("/system"), line("one"), Input::End]);
    assert_eq!(contents(&calls[0]), ["one"]);
}

#[test]
fn several_lines_make_one_question() {
    let (calls, _) = chat(vec![line("\"\"\"one"), line(""), line("/two\"\"\""), Input::End]);
    assert_eq!(contents(&calls[0]), ["one\n\n/two"]);
    let (calls, _) = chat(vec![line("\"\"\"one"), Input::Interrupted, line("two"), Input::End]);
    assert_eq!(contents(&calls[0]), ["two"]);
}

#[test]
fn ctrl_c_leaves_only_twice_in_a_row() {
    let (calls, out) = chat(vec![
        Input::Interrupted,
        line("one"),
        Input::Interrupted,
        line("/stats"),
        Input::Interrupted,
        Input::Interrupted,
    ]);
    assert_eq!(calls.len(), 1);
    assert_eq!(out.matches("Ctrl-C again").count(), 3);
}

#[test]
fn a_stopped_answer_stays_and_counts_as_the_first_ctrl_c() {
    let (calls, out, ended) =
        chat_with(vec![line("one"), line("two"), Input::Interrupted], |_| Ok(answer("half of", None)));
    ended.unwrap();
    assert_eq!(contents(&calls[1]), ["one", "half of", "two"]);
    assert!(out.contains("half of\n2 tokens · stopped\n"), "{out}");
}

#[test]
fn a_conversation_that_no_longer_fits_can_be_cleared() {
    let full = RequestError::ContextLength { prompt_tokens: 120, max_tokens: 1, context: 100 };
    let (calls, out, ended) =
        chat_with(vec![line("one"), line("two"), line("/clear"), line("three"), Input::End], |count| {
            if count > 1 { Err(full.clone().into()) } else { Ok(answer("yes", Some(Finish::Length))) }
        });
    ended.unwrap();
    assert!(out.contains("no longer fits: it has 120 tokens") && out.contains("holds 100. /clear"), "{out}");
    assert_eq!(contents(&calls[2]), ["three"]);
}

#[test]
fn a_refused_question_leaves_no_trace() {
    let mut refuse = true;
    let (calls, out, ended) = chat_with(vec![line("one"), line("two"), Input::End], |_| {
        if std::mem::take(&mut refuse) {
            Err(Failure::Model("no".into()))
        } else {
            Ok(answer("yes", Some(Finish::Length)))
        }
    });
    ended.unwrap();
    assert!(out.contains("error: no"));
    assert_eq!(contents(&calls[1]), ["two"]);
}

#[test]
fn a_failed_engine_ends_the_chat() {
    let (_, _, ended) = chat_with(vec![line("one")], |_| Err(RequestError::Fatal("gone".into()).into()));
    assert_eq!(ended.unwrap_err().code(), 70);
}

#[test]
fn stats_add_up() {
    let (_, out) = chat(vec![line("one"), line("two"), line("/stats"), Input::End]);
    let stats = "2 answers of 4 tokens; 20 tokens of prompts, 8 of them from the prefix cache; \
                 the conversation fills 12 of 100 tokens";
    assert!(out.contains(stats), "{out}");
}

#[test]
fn a_saved_chat_is_what_the_api_takes() {
    let file = std::env::temp_dir().join(format!("mosu-chat-{}.json", std::process::id()));
    chat(vec![line("/system s"), line("one"), line(&format!("/save {}", file.display())), Input::End]);
    let saved: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    fs::remove_file(file).unwrap();
    assert_eq!(
        saved,
        json!([
            {"role": "system", "content": "s"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "answer to 2"},
        ])
    );
    let (_, out) = chat(vec![line("/save /nonexistent/chat.json"), line("/halp"), Input::End]);
    assert!(out.contains("/nonexistent/chat.json: ") && out.contains("no command /halp"), "{out}");
}
