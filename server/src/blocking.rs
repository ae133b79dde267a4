//! Work that takes its time: templates, tokenizers, decompression.

use crate::error::ApiError;

/// Runs work that would hold up the threads that serve connections.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        tracing::error!("a request could not be prepared: {error}");
        Err(ApiError::internal())
    })
}
