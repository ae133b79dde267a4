//! The errors of a tokenizer in use; those of its files are [`LoadError`](crate::LoadError)s.

/// Why text could not be tokenized or detokenized.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// No token has this id.
    #[error("token id {id} is not in the tokenizer's vocabulary")]
    UnknownId {
        /// The id.
        id: u32,
    },
    /// The tokenizer's own rules failed on the text.
    #[error("tokenizer: {message}")]
    Failed {
        /// What the library said.
        message: String,
    },
}

impl TokenizerError {
    pub(super) fn failed(error: impl ToString) -> TokenizerError {
        TokenizerError::Failed { message: error.to_string() }
    }
}
