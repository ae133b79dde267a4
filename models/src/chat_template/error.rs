//! The errors of chat templates.

/// Why a conversation could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChatTemplateError {
    /// The template itself refused the conversation with `raise_exception`, for its roles' order as a rule.
    #[error("{0}")]
    Raised(String),
    /// The template failed, or took more than its share of time or memory.
    #[error("the chat template failed: {0}")]
    Render(String),
    /// An argument for the template has a name that means something else to it.
    #[error("chat_template_kwargs: `{0}` is reserved; give the argument another name")]
    ReservedName(String),
    /// The conversation cannot be rendered by any template, or not in the way asked.
    #[error("{0}")]
    Request(String),
}
