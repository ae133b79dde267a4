//! `GET /v1/models` and `GET /v1/models/{id}`

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use mosu::SamplingParams;
use serde::Serialize;

use crate::{error::ApiError, json::Json, state::App};

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
    /// How tokens are sampled for requests that do not say.
    default_sampling_params: DefaultSampling,
}

/// What a generation_config.json can change.
#[derive(Serialize)]
struct DefaultSampling {
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
    repetition_penalty: f32,
}

impl From<&SamplingParams> for DefaultSampling {
    fn from(params: &SamplingParams) -> DefaultSampling {
        let &SamplingParams { temperature, top_k, top_p, min_p, repetition_penalty, .. } = params;
        DefaultSampling { temperature, top_k, top_p, min_p, repetition_penalty }
    }
}

fn model<'a>(app: &App, id: &'a str) -> Model<'a> {
    Model {
        id,
        object: "model",
        created: app.started,
        owned_by: "mosu",
        max_model_len: app.engine.max_model_len(),
        default_sampling_params: DefaultSampling::from(&app.default_sampling),
    }
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
