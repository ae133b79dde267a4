//! What the generating endpoints have in common: a place in the queue, then blocking preparation, then the answer.

use std::{sync::Arc, time::Instant};

use axum::{extract::Request as HttpRequest, http::HeaderValue, response::Response};
use mosu::{Admission, Request, RequestError};

use super::{
    generation::{Answer, Generation},
    params::Fields,
    sampling::{self, HARMLESS, StreamOptions},
    sse,
    wire::{self, Head},
    writer::{Common, Writer},
};
use crate::{auth::Caller, blocking::blocking, body, error::ApiError, metrics::Meter, state::App};

/// A request that has its place in the queue.
pub struct Call {
    /// The server.
    pub app: Arc<App>,
    /// The JSON text.
    pub body: String,
    caller: Caller,
    arrived: Instant,
    admissions: Vec<Admission>,
}

/// A request that the engine has begun.
pub struct Prepared<W> {
    /// Its events.
    pub generation: Generation,
    /// How the endpoint answers.
    pub writer: W,
    /// Fields that had no effect.
    pub ignored: Vec<String>,
}

/// Answers a request. The engine's streams are owned by this future, then by the response's body: when the
/// client leaves, they are dropped and the engine aborts them.
pub async fn generate<W: Writer>(
    app: Arc<App>,
    http: HttpRequest,
    prepare: fn(Call) -> Result<Prepared<W>, ApiError>,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let caller = Caller::of(&http);
    let body = body::read_json(http, &app.limits).await?;
    // The place in the queue comes before any work, so that a full queue refuses at once.
    let admission = app.engine.admit()?;
    let call = Call { app, body, caller, arrived, admissions: vec![admission] };
    let Prepared { generation, writer, ignored } = blocking(move || prepare(call)).await?;
    let response = if writer.common().stream.stream {
        sse::respond(generation, writer)
    } else {
        writer.whole(Answer::collect(generation).await?)
    };
    Ok(with_ignored(response, &ignored))
}

/// Lists fields that had no effect in `x-ignored-params`.
pub fn with_ignored(mut response: Response, ignored: &[String]) -> Response {
    const MAX_BYTES: usize = 1024;
    if ignored.is_empty() {
        return response;
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c } else { '?' };
    let names: String =
        ignored.join(",").chars().map(|c| if c == ',' { c } else { plain(c) }).take(MAX_BYTES).collect();
    if let Ok(names) = HeaderValue::from_str(&names) {
        response.headers_mut().insert("x-ignored-params", names);
    }
    response
}

impl Call {
    /// Reads the fields that both endpoints have.
    pub fn common(&self, fields: &mut Fields, id_prefix: &str) -> Result<(Common, Request), ApiError> {
        let app = &self.app;
        let model = app.model_name(fields.text("model")?)?;
        let mut request =
            sampling::request(fields, &app.default_sampling, app.engine.model_info().vocab_size)?;
        request.cache_salt = self.caller.salt(request.cache_salt);
        let head = Head {
            id: wire::unique_id(id_prefix),
            created: wire::unix_time(),
            model,
            system_fingerprint: app.fingerprint.clone(),
            service_tier: fields.text("service_tier")?.map(|_| "default"),
        };
        let common = Common {
            app: app.clone(),
            head,
            stream: StreamOptions::take(fields)?,
            n: request.n as usize,
            return_token_ids: fields.flag("return_token_ids")?.unwrap_or(false),
        };
        fields.accept(HARMLESS);
        Ok((common, request))
    }

    /// Takes a place in the queue for every prompt. More choices than the queue can ever hold are refused for good.
    pub fn reserve(&mut self, prompts: usize, n: usize) -> Result<(), ApiError> {
        let (choices, limit) = (prompts.saturating_mul(n), self.app.max_waiting_requests);
        if choices > limit {
            let field = if prompts > 1 { "prompt" } else { "n" };
            let message = format!(
                "{prompts} prompts with {n} choices each, but the queue holds {limit}; ask for fewer"
            );
            return Err(ApiError::value(field, message));
        }
        while self.admissions.len() < prompts {
            self.admissions.push(self.app.engine.admit()?);
        }
        Ok(())
    }

    /// Hands the requests to the engine, one per prompt.
    pub fn start(mut self, requests: Vec<Request>) -> Result<Generation, ApiError> {
        let n = requests.first().map_or(1, |request| request.n as usize);
        self.reserve(requests.len(), n)?;
        let prompt_tokens = requests.iter().map(|request| request.prompt.len()).sum();
        let streams: Result<Vec<_>, RequestError> = self
            .admissions
            .into_iter()
            .zip(requests)
            .map(|(admission, request)| admission.generate(request))
            .collect();
        Ok(Generation::new(streams?, n, prompt_tokens, Meter::new(&self.app.metrics, self.arrived, n)))
    }
}
