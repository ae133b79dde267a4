//! How a command ends when it cannot go on: what it says, and its exit code.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use mosu::{LoadError, RequestError};

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line, or what came with it, cannot be done.
    #[error("{0}")]
    Usage(String),
    /// The model could not be loaded.
    #[error("{}", load_message(.0))]
    Load(#[from] LoadError),
    /// The model cannot do what was asked of it.
    #[error("{0}")]
    Model(String),
    /// The engine refused the request or failed.
    #[error("{}", request_message(.0))]
    Request(#[from] RequestError),
    /// The operating system refused something.
    #[error("{0}")]
    System(String),
    /// The person pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// Nobody reads our output any more.
    #[error("the output was closed")]
    PipeClosed,
}

/// Of writing to the output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::PipeClosed,
            _ => Failure::System(format!("the output cannot be written: {error}")),
        }
    }
}

impl Failure {
    /// 1 the system, 2 usage, 3 model, 4 device, 70 the engine failed, 130 Ctrl-C; a reader that has seen enough is no fault.
    pub fn code(&self) -> u8 {
        match self {
            Failure::PipeClosed => 0,
            Failure::System(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Load(LoadError::Device(_)) => 4,
            Failure::Load(_) | Failure::Model(_) => 3,
            Failure::Request(error) => match error {
                RequestError::Invalid { .. }
                | RequestError::ContextLength { .. }
                | RequestError::CacheTooSmall { .. } => 2,
                RequestError::Overloaded { .. } | RequestError::ShuttingDown => 1,
                _ => 70,
            },
            Failure::Interrupted => 130,
        }
    }

    /// Says what was wrong, unless the person knows.
    pub fn report(&self) -> ExitCode {
        if !matches!(self, Failure::Interrupted | Failure::PipeClosed) {
            // Nothing is left to do when stderr is closed too.
            let _ = writeln!(io::stderr(), "error: {self}");
        }
        ExitCode::from(self.code())
    }
}

fn load_message(error: &LoadError) -> String {
    match error {
        LoadError::Option { option, message } => format!("{}: {message}", flag(option)),
        _ => error.to_string(),
    }
}

fn request_message(error: &RequestError) -> String {
    match error {
        RequestError::Invalid { field, message } => format!("{} {message}", flag(field)),
        _ => error.to_string(),
    }
}

/// The flag behind a field of the engine, as `--top-p` behind `sampling.top_p`.
fn flag(field: &str) -> String {
    let name = field.rsplit('.').next().unwrap_or(field);
    match name {
        "kv_cache_bytes" => "--kv-cache-memory".into(),
        "prompt" => "the prompt".into(),
        _ => format!("--{}", name.replace('_', "-")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named_as_flags() {
        assert_eq!(flag("sampling.top_p"), "--top-p");
        assert_eq!(flag("max_model_len"), "--max-model-len");
        assert_eq!(flag("kv_cache_bytes"), "--kv-cache-memory");
        let error = RequestError::Invalid {
            field: "sampling.min_p",
            message: "is 7; give a number from 0 to 1".into(),
        };
        assert_eq!(Failure::from(error).to_string(), "--min-p is 7; give a number from 0 to 1");
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).code(), 0);
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::StorageFull)).code(), 1);
    }

    #[test]
    fn the_engine_failing_is_not_the_users_fault() {
        let context = RequestError::ContextLength { prompt_tokens: 9, max_tokens: 1, context: 8 };
        assert_eq!(Failure::from(context).code(), 2);
        assert_eq!(Failure::from(RequestError::Fatal("gone".into())).code(), 70);
    }
}
