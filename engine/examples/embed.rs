//! Loads the demonstration model, asks it a question and streams the answer.

use std::{error::Error, io, io::Write};

use mosu::{ChatRequest, Engine, EngineOptions, Event, Request};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let engine = Engine::load(EngineOptions::default())?;
    let messages = vec![json!({ "role": "user", "content": "What is mosu?" })];
    let chat = ChatRequest { messages, add_generation_prompt: true, ..ChatRequest::default() };
    let template = engine.chat_template().map_err(ToString::to_string)?;
    let prompt = template.ok_or("the model has no chat template")?.render(&chat)?;
    let mut request = Request::new(engine.tokenizer().encode(&prompt, false)?);
    request.sampling.temperature = 0.0;
    let mut out = io::stdout();
    for event in engine.generate(request)? {
        match event {
            Event::Output { text, .. } => write!(out, "{text}").and_then(|()| out.flush())?,
            Event::Failed(error) => return Err(error.into()),
            Event::Prompt(_) | Event::Finished(_) => {}
        }
    }
    Ok(())
}
