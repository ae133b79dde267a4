//! Typed lines, with editing and a history that outlives the program.

use std::{env, fs, path::PathBuf};

use rustyline::{
    Config, Editor,
    error::ReadlineError,
    history::{FileHistory, History},
};

use super::{
    chat::{Input, Lines},
    exit::Failure,
};

const HISTORY_LINES: usize = 1000;

/// Lines from the terminal.
pub struct LineEditor {
    editor: Editor<(), FileHistory>,
    /// `None` where there is no home to keep it.
    history_file: Option<PathBuf>,
}

impl LineEditor {
    /// # Errors
    /// When the terminal cannot be used.
    pub fn new() -> Result<LineEditor, Failure> {
        let config = Config::builder()
            .max_history_size(HISTORY_LINES)
            .and_then(|config| config.history_ignore_dups(true));
        let config = config.map(|config| config.history_ignore_space(true).build());
        let mut editor = config.and_then(Editor::with_config).map_err(unusable)?;
        let history_file = history_file();
        if let Some(file) = &history_file {
            // There is none the first time.
            let _ = editor.load_history(file);
        }
        Ok(LineEditor { editor, history_file })
    }

    /// Keeps a line. The history is a comfort: that it cannot be kept is no reason to stop a chat.
    fn remember(&mut self, line: &str) {
        let added = self.editor.add_history_entry(line).unwrap_or(false);
        if let (true, Some(file)) = (added, &self.history_file) {
            let _ = self.editor.history_mut().append(file);
        }
    }
}

impl Lines for LineEditor {
    fn read(&mut self, prompt: &str) -> Result<Input, Failure> {
        match self.editor.readline(prompt) {
            Ok(line) => {
                self.remember(&line);
                Ok(Input::Line(line))
            }
            Err(ReadlineError::Interrupted) => Ok(Input::Interrupted),
            Err(ReadlineError::Eof) => Ok(Input::End),
            Err(error) => Err(unusable(error)),
        }
    }
}

fn unusable(error: ReadlineError) -> Failure {
    Failure::System(format!("the terminal cannot be read: {error}"))
}

/// `mosu/history` in the place where programs of a user keep their state.
fn history_file() -> Option<PathBuf> {
    let state = env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let directory = state.or_else(|| Some(env::home_dir()?.join(".local/state")))?.join("mosu");
    fs::create_dir_all(&directory).ok()?;
    Some(directory.join("history"))
}
