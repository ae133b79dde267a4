//! What the handlers share.

use std::sync::Arc;

use axum::http::StatusCode;
use mosu::{ChatRequest, ChatTemplate, Engine, SamplingParams};
use sha2::{Digest, Sha256};

use crate::{
    auth::Access,
    body::BodyLimits,
    cors::Cors,
    drain::Drain,
    error::ApiError,
    metrics::Metrics,
    openai::{params::Fields, wire},
};

/// How to serve. [`AppOptions::default`] serves anyone, as tests do.
#[derive(Default)]
pub struct AppOptions {
    /// Names that requests may call the model by; empty is the model's own.
    pub model_names: Vec<String>,
    /// Replaces the model's own chat template.
    pub chat_template: Option<ChatTemplate>,
    /// Who may ask.
    pub access: Access,
    /// Which pages may ask from within a browser.
    pub cors: Cors,
    /// Refuse unknown fields.
    pub strict_params: bool,
    /// How large and how slow a body may be.
    pub limits: BodyLimits,
    /// Most requests that may wait; as the engine was told.
    pub max_waiting_requests: usize,
}

/// What the handlers share.
pub struct App {
    /// The engine.
    pub engine: Engine,
    /// Names that requests may call the model by; at least one.
    pub model_names: Vec<String>,
    /// When the server started, in seconds since 1970.
    pub started: u64,
    /// Build and model, so that a client sees when answers may change.
    pub fingerprint: String,
    /// How large and how slow a body may be.
    pub limits: BodyLimits,
    /// Most requests that may wait.
    pub max_waiting_requests: usize,
    /// What `/metrics` tells.
    pub metrics: Arc<Metrics>,
    /// Whether the server is going away.
    pub drain: Arc<Drain>,
    pub(crate) access: Arc<Access>,
    pub(crate) cors: Arc<Cors>,
    /// How tokens are sampled for requests that do not say.
    pub(crate) default_sampling: SamplingParams,
    chat_template: Option<ChatTemplate>,
    strict_params: bool,
}

impl App {
    /// The state of a server in front of `engine`.
    pub fn new(engine: Engine, options: AppOptions) -> App {
        let info = engine.model_info();
        let mut model_names = options.model_names;
        if model_names.is_empty() {
            model_names.push(info.name.clone());
        }
        let formats = info.format_names();
        let identity = (env!("CARGO_PKG_VERSION"), &info.name, &info.architecture, formats, info.parameters);
        let digest = Sha256::digest(format!("{identity:?}"));
        App {
            model_names,
            started: wire::unix_time(),
            fingerprint: format!(
                "fp_{}",
                digest[..5].iter().map(|byte| format!("{byte:02x}")).collect::<String>()
            ),
            limits: options.limits,
            max_waiting_requests: options.max_waiting_requests,
            metrics: Arc::new(Metrics::new(engine.clone())),
            drain: Arc::new(Drain::default()),
            access: Arc::new(options.access),
            cors: Arc::new(options.cors),
            default_sampling: engine.sampling_defaults().into(),
            chat_template: options.chat_template,
            strict_params: options.strict_params,
            engine,
        }
    }

    /// The name that an answer carries: the one asked for, if it is ours, or the first when none was.
    pub(crate) fn model_name(&self, asked: Option<String>) -> Result<String, ApiError> {
        let asked = asked.unwrap_or_else(|| self.model_names[0].clone());
        if self.model_names.contains(&asked) {
            return Ok(asked);
        }
        let names = self.model_names.join("`, `");
        let mut error = ApiError::new(
            StatusCode::NOT_FOUND,
            "model_not_found",
            format!("the model `{asked}` is not served here; `{names}` is"),
        );
        error.param = Some("model".into());
        Err(error)
    }

    /// The names of fields that nobody read; an error under `--strict-params`.
    pub(crate) fn ignored(&self, fields: Fields) -> Result<Vec<String>, ApiError> {
        let ignored = fields.rest();
        match ignored.first() {
            Some(name) if self.strict_params => {
                Err(ApiError::field(name, "unknown_parameter", format!("`{name}` is not a known parameter")))
            }
            _ => Ok(ignored),
        }
    }

    /// The template of conversations; a model without one, or with one that does not compile, is not guessed at.
    fn template(&self) -> Result<&ChatTemplate, ApiError> {
        if let Some(chosen) = &self.chat_template {
            return Ok(chosen);
        }
        let names = || ChatTemplate::builtin_names().collect::<Vec<_>>().join(", ");
        match self.engine.chat_template() {
            Ok(Some(template)) => Ok(template),
            Ok(None) => {
                let message = format!(
                    "the model has no chat template: start the server with `--chat-template FILE`, or with the name of a \
                     built-in one ({}), or use /v1/completions",
                    names()
                );
                Err(ApiError::field("messages", "no_chat_template", message))
            }
            Err(error) => {
                let message = format!(
                    "the model's chat template cannot be used: {error}; start the server with `--chat-template FILE`, \
                     or with the name of a built-in one ({}), or use /v1/completions",
                    names()
                );
                Err(ApiError::field("messages", "invalid_chat_template", message))
            }
        }
    }

    /// Why there can be no chats, for the one who starts the server.
    pub(crate) fn template_fault(&self) -> Option<String> {
        self.template().err().map(|error| error.message)
    }

    /// Tokens that end an answer in the template's format, beside the model's end tokens.
    pub(crate) fn chat_end_tokens(&self) -> Result<Vec<u32>, ApiError> {
        let names = self.template()?.end_tokens();
        Ok(names.iter().filter_map(|name| self.engine.tokenizer().id_of(name)).collect())
    }

    /// The tokens of a conversation. Templates place special tokens themselves.
    pub(crate) fn tokenize_chat(
        &self,
        chat: &ChatRequest,
        add_special_tokens: bool,
    ) -> Result<Vec<u32>, ApiError> {
        let refused = |error: String| ApiError::value("messages", error);
        let prompt = self.template()?.render(chat).map_err(|error| refused(error.to_string()))?;
        self.engine
            .tokenizer()
            .encode(&prompt, add_special_tokens)
            .map_err(|error| refused(error.to_string()))
    }
}
