//! The command line of mosu.

mod answer;
mod bench;
mod chat;
mod doctor;
mod exit;
mod inspect;
mod line_editor;
mod machine;
mod model_args;
mod run;
mod serve;
mod terminal;
mod units;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 the system refused, 2 usage, 3 model, 4 device, 70 the engine failed, 130 Ctrl-C.
Every flag is also a variable, as MOSU_PORT for --port; a flag goes before its variable.";

/// A native engine for large language models: ask, serve, measure
#[derive(Debug, Parser)]
#[command(name = "mosu", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer a question, or chat
    Run(run::RunArgs),
    /// Serve the OpenAI API
    Serve(serve::ServeArgs),
    /// Measure how fast a model is here, and how near to the machine's limits
    Bench(bench::BenchArgs),
    /// Show what a checkpoint is, and what keeps it from being loaded
    Inspect(inspect::InspectArgs),
    /// Show what this machine offers, and whether the model runs
    Doctor(doctor::DoctorArgs),
}

/// The program: reads the command line, does what it says, and gives the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come here too. A closed output is no reason to fail.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let done = match cli.command {
        Command::Run(args) => run::run(args),
        Command::Serve(args) => serve::serve(args),
        Command::Bench(args) => bench::bench(args),
        Command::Inspect(args) => inspect::inspect(args),
        Command::Doctor(args) => doctor::doctor(args),
    };
    done.map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_flag_is_a_variable_too() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            for arg in command.get_arguments().filter(|arg| !arg.is_positional()) {
                let flag = arg.get_long().unwrap();
                let variable = format!("MOSU_{}", flag.to_uppercase().replace('-', "_"));
                let found = arg.get_env().and_then(|name| name.to_str());
                assert_eq!(found, Some(variable.as_str()), "{} --{flag}", command.get_name());
                assert!(arg.get_help().is_some(), "{} --{flag} has no help", command.get_name());
            }
        }
    }

    #[test]
    fn every_command_has_examples() {
        for command in Cli::command().get_subcommands() {
            let after = command.get_after_help().unwrap().to_string();
            assert!(
                after.starts_with("Examples:\n") && after.contains(&format!("mosu {}", command.get_name()))
            );
        }
    }
}
