//! Chat messages: checked, and brought into the form that chat templates read.

use serde_json::{Map, Value, value::RawValue};

use super::params::{Fields, read};
use crate::error::ApiError;

/// Names that a chat template gets from the server; a request must not set them.
const RESERVED: &[&str] = &[
    "add_generation_prompt",
    "bos_token",
    "chat_template",
    "continue_final_message",
    "documents",
    "eos_token",
    "messages",
    "pad_token",
    "raise_exception",
    "strftime_now",
    "tokenize",
    "tools",
    "unk_token",
];

/// Members of a message that are passed on as they are, for templates that show earlier tool calls and thoughts.
const TEXTS: &[&str] = &["name", "reasoning", "reasoning_content", "refusal", "tool_call_id"];

/// Refuses template arguments that would shadow what the server passes.
pub fn check_kwargs(kwargs: &Map<String, Value>) -> Result<(), ApiError> {
    match kwargs.keys().find(|name| RESERVED.contains(&name.as_str())) {
        Some(name) => Err(ApiError::value(
            format!("chat_template_kwargs.{name}"),
            format!("`chat_template_kwargs` must not have `{name}`, which the server sets"),
        )),
        None => Ok(()),
    }
}

/// All messages of a request; at least one.
pub fn read_all(messages: &[&RawValue]) -> Result<Vec<Value>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::value("messages", "`messages` must have at least one message"));
    }
    messages
        .iter()
        .enumerate()
        .map(|(index, message)| read_one(message, format!("messages[{index}]")))
        .collect()
}

fn read_one(json: &RawValue, path: String) -> Result<Value, ApiError> {
    let mut fields = Fields::of_member(json, path)?;
    let mut message = Map::new();
    let role = role(&mut fields)?;
    let tool_calls = fields.free_json::<Vec<Value>>("tool_calls", "a list of tool calls")?;
    let content = content(&mut fields)?;
    if content.is_none() && !(role == "assistant" && tool_calls.is_some()) {
        let path = fields.path("content");
        return Err(ApiError::missing(
            &path,
            format!("`{path}` is required: a string, or a list of text parts"),
        ));
    }
    message.insert("role".into(), role.into());
    message.insert("content".into(), content.map_or(Value::Null, Value::String));
    if let Some(mut calls) = tool_calls {
        calls.iter_mut().for_each(parse_arguments);
        message.insert("tool_calls".into(), Value::Array(calls));
    }
    for &name in TEXTS {
        if let Some(text) = fields.text(name)? {
            message.insert(name.into(), Value::String(text));
        }
    }
    Ok(Value::Object(message))
}

/// The arguments of a call are JSON in a string on the wire, and an object to templates. What is no object stays a
/// string, but for the empty one, which stands for no arguments.
fn parse_arguments(call: &mut Value) {
    let Some(arguments) = call.pointer_mut("/function/arguments") else { return };
    let Value::String(text) = &arguments else { return };
    let object = if text.trim().is_empty() { Some(Map::new()) } else { serde_json::from_str(text).ok() };
    if let Some(object) = object {
        *arguments = Value::Object(object);
    }
}

/// The role in the words of chat templates, which know no developers.
fn role(fields: &mut Fields) -> Result<&'static str, ApiError> {
    const ROLES: &str = "developer, system, user, assistant or tool";
    let path = fields.path("role");
    let Some(role) = fields.text("role")? else {
        return Err(ApiError::missing(&path, format!("`{path}` is required: {ROLES}")));
    };
    match role.as_str() {
        "developer" | "system" => Ok("system"),
        "user" => Ok("user"),
        "assistant" => Ok("assistant"),
        "tool" => Ok("tool"),
        _ => Err(ApiError::value(&path, format!("`{path}` must be {ROLES}, not `{role}`"))),
    }
}

/// The text of a message: a string, or the text parts joined.
fn content(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    const EXPECTED: &str = "a string or a list of text parts";
    let path = fields.path("content");
    let Some(json) = fields.raw("content") else { return Ok(None) };
    if !json.get().starts_with('[') {
        return read(json, &path, EXPECTED).map(Some);
    }
    let parts: Vec<&RawValue> = read(json, &path, EXPECTED)?;
    let texts: Result<Vec<String>, ApiError> =
        parts.iter().enumerate().map(|(index, part)| text_part(part, format!("{path}[{index}]"))).collect();
    Ok(Some(texts?.concat()))
}

fn text_part(json: &RawValue, path: String) -> Result<String, ApiError> {
    let mut part = Fields::of_member(json, path)?;
    let path = part.path("type");
    match part.text("type")?.as_deref() {
        Some("text") => {}
        Some(kind) => {
            return Err(ApiError::unsupported(
                &path,
                format!("`{path}`: parts of type `{kind}` are not supported, only text"),
            ));
        }
        None => return Err(ApiError::missing(&path, format!("`{path}` is required: \"text\""))),
    }
    let path = part.path("text");
    part.text("text")?.ok_or_else(|| ApiError::missing(&path, format!("`{path}` is required: a string")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_json(messages: &Value) -> Result<Vec<Value>, ApiError> {
        let text = messages.to_string();
        let raw: Vec<&RawValue> = serde_json::from_str(&text).unwrap();
        read_all(&raw)
    }

    #[test]
    fn developers_become_system_and_parts_are_joined() {
        let messages = read_json(&json!([
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "x"},
        ]));
        let expected = [
            json!({"role": "system", "content": "be brief"}),
            json!({"role": "user", "content": "ab", "name": "x"}),
        ];
        assert_eq!(messages.unwrap(), expected);
    }

    #[test]
    fn tool_calls_of_the_past_are_kept() {
        let call = json!([{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
        let messages = json!([
            {"role": "assistant", "content": null, "tool_calls": call},
            {"role": "tool", "content": "4", "tool_call_id": "1"},
        ]);
        let read = read_json(&messages).unwrap();
        assert_eq!(read[0]["tool_calls"][0]["id"], "1");
        assert_eq!(read[1]["tool_call_id"], "1");
    }

    #[test]
    fn arguments_become_objects() {
        let read = |arguments: Value| {
            let call = json!({"function": {"name": "f", "arguments": arguments}});
            let messages = json!([{"role": "assistant", "tool_calls": [call, {"id": "bare"}]}]);
            let read = read_json(&messages).unwrap();
            assert_eq!(read[0]["tool_calls"][1], json!({"id": "bare"}));
            read[0]["tool_calls"][0]["function"]["arguments"].clone()
        };
        assert_eq!(read(json!(r#"{"b": 1, "a": [2.0, "x"]}"#)), json!({"b": 1, "a": [2.0, "x"]}));
        assert_eq!(read(json!("")), json!({}));
        for same in [json!("[1]"), json!("4"), json!("{\"a\": "), json!({"a": 1}), json!(null)] {
            assert_eq!(read(same.clone()), same);
        }
        let deep = json!("{\"a\":".repeat(100_000));
        assert_eq!(read(deep.clone()), deep);
    }

    #[test]
    fn errors_name_the_place() {
        for (messages, param, code) in [
            (json!([]), "messages", "invalid_value"),
            (json!(["hi"]), "messages[0]", "invalid_type"),
            (json!([{"content": "hi"}]), "messages[0].role", "missing_required_parameter"),
            (json!([{"role": "king", "content": "hi"}]), "messages[0].role", "invalid_value"),
            (json!([{"role": "user"}]), "messages[0].content", "missing_required_parameter"),
            (json!([{"role": "user", "content": 4}]), "messages[0].content", "invalid_type"),
            (
                json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
                "messages[0].content[0].type",
                "unsupported_parameter",
            ),
            (
                json!([{"role": "user", "content": [{"type": "text"}]}]),
                "messages[0].content[0].text",
                "missing_required_parameter",
            ),
        ] {
            let error = read_json(&messages).unwrap_err();
            assert_eq!((error.param.as_deref(), error.code), (Some(param), code), "{messages}");
        }
    }

    #[test]
    fn template_arguments_must_not_shadow() {
        let kwargs = json!({"enable_thinking": false, "messages": []});
        let error = check_kwargs(kwargs.as_object().unwrap()).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("chat_template_kwargs.messages"));
    }
}
