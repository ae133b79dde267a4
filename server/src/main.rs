//! The `mosu` program.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    mosu_server::cli::main()
}
