//! `mosu inspect`: what a checkpoint is, and what keeps it from being loaded.

mod debug_text;

use std::{
    collections::{BTreeMap, HashSet},
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, builder::BoolishValueParser};
use mosu::{ChatTemplate, Inspection, ModelSource};
use serde::Serialize;
use serde_json::Value;

use super::{exit::Failure, terminal, units};

const EXAMPLES: &str = "\
Examples:
  mosu inspect                   the demonstration model
  mosu inspect -m ./DeepSeek-V3  family, switches, sizes, tokenizer, template; and what is refused
  mosu inspect ./m.gguf          the same of a GGUF file
  mosu inspect ./m --json        the same for a program, every switch of every layer

Only headers are read: it takes no longer for larger models. Exit code 3 when something is refused.";

/// `mosu inspect`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct InspectArgs {
    /// A GGUF file, or the directory of a model in Hugging Face layout [default: the demonstration model inside this
    /// program]
    #[arg(short, long, env = "MOSU_MODEL", value_name = "PATH")]
    model: Option<PathBuf>,
    /// The same without a flag
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
    /// Print JSON
    #[arg(long, env = "MOSU_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    name: String,
    architecture: Option<String>,
    parameters: Option<u64>,
    /// Weights that one token meets.
    active_parameters: Option<u64>,
    weights: Option<Weights>,
    /// Names of those that loading leaves aside.
    ignored_tensors: Vec<String>,
    context: Option<usize>,
    kv_bytes_per_token: Option<u64>,
    eos_token_ids: Vec<u32>,
    tokenizer: Option<Tokenizer>,
    /// The file that has it.
    chat_template: Option<&'static str>,
    /// Why it cannot be used: the model loads and continues texts, but cannot chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    chat_template_fault: Option<String>,
    /// The decoder's switches, but for the layers'.
    decoder: Value,
    layers: Vec<Layers>,
    refused: Vec<String>,
}

#[derive(Serialize)]
struct Weights {
    files: usize,
    tensors: usize,
    bytes: u64,
    bytes_by_type: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct Tokenizer {
    file: &'static str,
    kind: &'static str,
    tokens: usize,
}

/// Neighbours that are alike.
#[derive(Serialize)]
struct Layers {
    first: usize,
    last: usize,
    switches: Value,
}

/// Prints what could be read.
///
/// # Errors
/// What is refused, after the rest has been printed.
pub fn inspect(args: InspectArgs) -> Result<(), Failure> {
    let source = args.path.or(args.model).map_or(ModelSource::Demo, ModelSource::at);
    source.check()?;
    let mut found = mosu::inspect(&source);
    found.refusals.extend(mosu::load_sampling_defaults(&source).err().map(|error| error.to_string()));
    // Who reads a file twice stumbles over it twice.
    let mut known = HashSet::new();
    found.refusals.retain(|refusal| known.insert(refusal.clone()));
    let report = Report::new(found);
    let text = if args.json { terminal::json(&report)? } else { terminal::table(&report.rows()) };
    io::stdout().write_all(text.as_bytes())?;
    match report.refused.len() {
        0 => Ok(()),
        count => Err(Failure::Model(format!(
            "{} cannot be loaded: {} refused",
            report.name,
            units::count(count, "part")
        ))),
    }
}

impl Report {
    fn new(found: Inspection) -> Report {
        let (chat_template, chat_template_fault) = match found.chat_template {
            Some(Ok(file)) => (Some(file), None),
            Some(Err(fault)) => (None, Some(fault)),
            None => (None, None),
        };
        let spec = found.spec.as_ref();
        let mut decoder = spec.map_or(Value::Null, |spec| debug_text::parse(&format!("{spec:?}")));
        let layers = decoder.as_object_mut().and_then(|decoder| decoder.remove("layers"));
        Report {
            name: found.name,
            architecture: found.architecture,
            parameters: spec.and_then(|spec| spec.parameters()),
            active_parameters: spec.and_then(|spec| spec.active_parameters()),
            weights: found.weights.map(|weights| Weights {
                files: weights.files,
                tensors: weights.tensors,
                bytes: weights.bytes(),
                bytes_by_type: weights.bytes_by_type,
            }),
            ignored_tensors: found.ignored_tensors,
            context: spec.map(|spec| spec.max_position_embeddings),
            kv_bytes_per_token: found.kv_bytes_per_token,
            eos_token_ids: found.eos_token_ids,
            tokenizer: found.tokenizer.map(|facts| Tokenizer {
                file: facts.file,
                kind: facts.kind,
                tokens: facts.tokens,
            }),
            chat_template,
            chat_template_fault,
            decoder,
            layers: grouped(layers.as_ref().and_then(Value::as_array).map_or(&[], |layers| layers)),
            refused: found.refusals,
        }
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![("model", self.name.clone())];
        rows.extend(self.architecture.clone().map(|name| ("architecture", name)));
        if let (Some(all), Some(active)) = (self.parameters, self.active_parameters) {
            let [all, active] = [all, active].map(units::parameters);
            rows.push(("parameters", format!("{all}, of which a token meets {active}")));
        }
        rows.extend(self.weights.as_ref().map(|weights| ("weights", weights.describe())));
        if !self.ignored_tensors.is_empty() {
            rows.push(("not needed", units::some_of(&self.ignored_tensors, "tensor")));
        }
        rows.extend(self.context.map(|tokens| ("context", units::count(tokens, "token"))));
        rows.extend(
            self.kv_bytes_per_token.map(|bytes| ("KV cache", format!("{} per token", units::bytes(bytes)))),
        );
        rows.extend(self.tokenizer.as_ref().map(|tokenizer| ("tokenizer", tokenizer.describe())));
        let ends: Vec<String> = self.eos_token_ids.iter().map(u32::to_string).collect();
        rows.push(("end tokens", if ends.is_empty() { "none".into() } else { ends.join(", ") }));
        rows.push(("chat template", self.describe_template()));
        if !self.decoder.is_null() {
            rows.push(("decoder", switches(&self.decoder)));
        }
        for layers in &self.layers {
            for (name, part) in
                layers.switches.as_object().into_iter().flatten().filter(|(_, part)| is_on(part))
            {
                let Layers { first, last, .. } = layers;
                rows.push(("layers", format!("{first}-{last} {name}: {}", switches(part))));
            }
        }
        rows.extend(self.refused.iter().map(|refusal| ("refused", refusal.clone())));
        rows
    }

    fn describe_template(&self) -> String {
        let names = || ChatTemplate::builtin_names().collect::<Vec<_>>().join(", ");
        let remedy =
            |fault: &str| format!("{fault}: chats need --chat-template FILE, or a built-in one: {}", names());
        match (self.chat_template, &self.chat_template_fault) {
            (Some(file), _) => file.to_string(),
            (None, Some(fault)) => remedy(&format!("cannot be used ({fault})")),
            (None, None) => remedy("none"),
        }
    }
}

impl Weights {
    fn describe(&self) -> String {
        let types = self.bytes_by_type.iter().map(|(name, bytes)| format!("{name} {}", units::bytes(*bytes)));
        let types = types.collect::<Vec<_>>().join(", ");
        let [files, tensors] =
            [(self.files, "file"), (self.tensors, "tensor")].map(|(n, what)| units::count(n, what));
        format!("{} in {files}, {tensors}: {types}", units::bytes(self.bytes))
    }
}

impl Tokenizer {
    fn describe(&self) -> String {
        format!("{}: {}, {}", self.file, self.kind, units::count(self.tokens, "token"))
    }
}

/// Neighbouring layers that are alike, together.
fn grouped(layers: &[Value]) -> Vec<Layers> {
    let mut first = 0;
    let groups = layers.chunk_by(|a, b| a == b).map(|group| {
        let layers = Layers { first, last: first + group.len() - 1, switches: group[0].clone() };
        first += group.len();
        layers
    });
    groups.collect()
}

/// A switch that is off does nothing.
fn is_on(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false))
}

/// The switches that are on, in a line.
fn switches(value: &Value) -> String {
    /// Longer lists are tables of numbers.
    const LONGEST_LIST: usize = 8;
    match value {
        Value::Object(fields) => {
            let on = fields.iter().filter(|(_, value)| is_on(value)).map(|(name, value)| match value {
                Value::Bool(_) => name.clone(),
                Value::Object(_) => format!("{name} ({})", switches(value)),
                value => format!("{name} {}", switches(value)),
            });
            on.collect::<Vec<_>>().join(", ")
        }
        Value::Array(items) if items.len() > LONGEST_LIST => format!("[{} values]", items.len()),
        Value::Array(items) => format!("[{}]", items.iter().map(switches).collect::<Vec<_>>().join(", ")),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_on_is_printed() {
        let value = json!({
            "heads": 4, "bias": false, "norm": true, "cap": null, "mask": {"Sliding": {"window": 12}}, "kind": "Rms",
            "factors": [1.5, 2], "table": [0, 1, 2, 3, 4, 5, 6, 7, 8],
        });
        assert_eq!(
            switches(&value),
            "heads 4, norm, mask (Sliding (window 12)), kind Rms, factors [1.5, 2], table [9 values]"
        );
    }

    #[test]
    fn alike_neighbours_are_one_row() {
        let groups = grouped(&[json!(1), json!(1), json!(2), json!(1)]);
        let spans: Vec<_> = groups.iter().map(|group| (group.first, group.last)).collect();
        assert_eq!(spans, [(0, 1), (2, 2), (3, 3)]);
    }
}
