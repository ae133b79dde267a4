//! The router: every route, and the layers around them.

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, Uri},
    middleware::from_fn_with_state,
    routing::{MethodRouter, get, post},
};

use crate::{
    auth, cors,
    error::ApiError,
    middleware, monitoring,
    openai::{chat, completions, models, tokenize},
    state::App,
};

/// Every route. The router is made from this table, and the test that no route is open walks it.
pub fn routes() -> Vec<(&'static str, MethodRouter<Arc<App>>)> {
    vec![
        ("/v1/chat/completions", post(chat::create)),
        ("/v1/completions", post(completions::create)),
        ("/v1/models", get(models::list)),
        ("/v1/models/{*id}", get(models::get)),
        ("/tokenize", post(tokenize::tokenize)),
        ("/detokenize", post(tokenize::detokenize)),
        (auth::OPEN_ROUTE, get(monitoring::health)),
        ("/ready", get(monitoring::ready)),
        ("/version", get(monitoring::version)),
        ("/metrics", get(monitoring::metrics)),
    ]
}

/// The whole service. From the outside in: what browsers ask, then request ids and panics, then who may ask, then
/// whether the server is going away, then the route.
pub fn router(app: Arc<App>) -> Router {
    routes()
        .into_iter()
        .fold(Router::new(), |router, (path, handler)| router.route(path, handler))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(app.drain.clone(), middleware::refuse_while_draining))
        .layer(from_fn_with_state(app.access.clone(), auth::check))
        .layer(from_fn_with_state(app.drain.clone(), middleware::identify))
        .layer(from_fn_with_state(app.cors.clone(), cors::allow))
        .with_state(app)
}

async fn not_found(uri: Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", format!("there is no route {}", uri.path()))
}

async fn method_not_allowed(request: Request) -> ApiError {
    let message = format!(
        "{} does not take {}; the Allow header has what it takes",
        request.uri().path(),
        request.method()
    );
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}
