//! `GET /v1/models` and `GET /v1/models/{id}`

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{ApiError, Json};
use crate::app::App;

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// Tokens that prompt and output may have together.
    max_model_len: usize,
}

fn model<'a>(app: &App, id: &'a str) -> Model<'a> {
    let max_model_len = app.engine.max_model_len();
    Model { id, object: "model", created: app.started, owned_by: "mosu", max_model_len }
}

/// All names of the loaded model.
pub async fn list(State(app): State<Arc<App>>) -> Response {
    let data = app.model_names.iter().map(|name| model(&app, name)).collect();
    Json(List { object: "list", data }).into_response()
}

/// One of them; ids may have slashes.
pub async fn get(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let id = app.model_name(Some(id))?;
    Ok(Json(model(&app, &id)).into_response())
}
