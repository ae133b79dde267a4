//! `/health`, `/ready`, `/version` and `/metrics`: for supervisors, load balancers and Prometheus.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use mosu::Stats;
use serde::Serialize;

use crate::{error::ApiError, json::Json, state::App};

/// Work that waits this long without a completed step means that the engine is stuck.
const STALL_LIMIT: Duration = Duration::from_secs(30);

#[derive(Serialize)]
struct Status {
    status: &'static str,
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

/// Whether the process should live on: fails when the engine has failed, or is stuck with work waiting.
pub async fn health(State(app): State<Arc<App>>) -> Response {
    match sickness(&app.engine.stats()) {
        Some(error) => error.into_response(),
        None => Json(Status { status: "ok" }).into_response(),
    }
}

/// Whether requests should be sent here: fails too while the server goes away.
pub async fn ready(State(app): State<Arc<App>>) -> Response {
    match sickness(&app.engine.stats()) {
        Some(error) => error.into_response(),
        None => Json(Status { status: "ready" }).into_response(),
    }
}

/// The program's version.
pub async fn version() -> Response {
    Json(Version { version: env!("CARGO_PKG_VERSION") }).into_response()
}

/// What the server and the engine count.
pub async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let text = app.metrics.text().map_err(|error| {
        tracing::error!("metrics could not be written: {error}");
        ApiError::internal()
    })?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

fn sickness(stats: &Stats) -> Option<ApiError> {
    let unavailable =
        |code, message: String| Some(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, message));
    if stats.fatal.is_some() {
        return unavailable("engine_failed", "the engine failed and must be started again".into());
    }
    if stats.stalled_for >= STALL_LIMIT {
        let seconds = stats.stalled_for.as_secs();
        return unavailable("engine_stuck", format!("work waits, and no step was completed for {seconds} s"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stuck_or_failed_engine_is_sick() {
        let code = |stats: Stats| sickness(&stats).map(|error| (error.status.as_u16(), error.code));
        let stalled_for = |seconds| Stats { stalled_for: Duration::from_secs(seconds), ..Stats::default() };
        assert_eq!(code(stalled_for(29)), None);
        assert_eq!(code(stalled_for(30)), Some((503, "engine_stuck")));
        let failed = Stats { fatal: Some("secret cause".into()), ..Stats::default() };
        assert!(!sickness(&failed).unwrap().message.contains("secret"));
        assert_eq!(code(failed), Some((503, "engine_failed")));
    }
}
