//! A prompt that ends inside the last message, for the model to continue it.
//!
//! As in transformers: the message is rendered with a mark behind its content, and the text is cut at the mark.

use serde_json::Value;

use super::error::ChatTemplateError;

/// The space tells whether the template kept white space at the end of the content.
const MARK: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

fn error(message: &str) -> ChatTemplateError {
    ChatTemplateError::Request(format!("continue_final_message: {message}"))
}

/// Marks the end of the last message and returns the text before the mark.
pub(super) fn mark(messages: &mut [Value]) -> Result<String, ChatTemplateError> {
    let content = messages.last_mut().and_then(|message| message.get_mut("content"));
    let text = match content {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => match parts.iter_mut().rev().find_map(|part| part.get_mut("text")) {
            Some(Value::String(text)) => text,
            _ => return Err(error("the final message has no text to continue")),
        },
        _ => return Err(error("the final message has no content to continue")),
    };
    let original = text.clone();
    text.push_str(MARK);
    Ok(original)
}

/// Cuts a rendered prompt at its last mark.
pub(super) fn cut(mut prompt: String, content: &str) -> Result<String, ChatTemplateError> {
    let lost =
        || error("the chat template drops or changes the final message, so that it cannot be continued");
    if !prompt.contains(content.trim()) {
        return Err(lost());
    }
    let at = prompt.rfind(MARK.trim_end()).ok_or_else(lost)?;
    let kept_spacing = prompt[at..].starts_with(MARK);
    prompt.truncate(at);
    if !kept_spacing {
        prompt.truncate(prompt.trim_end().len());
    }
    Ok(prompt)
}
