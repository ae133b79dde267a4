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

use std::{
    env,
    ffi::{OsStr, OsString},
    process::ExitCode,
};

use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand, builder::Resettable};

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 the system refused, 2 usage, 3 model, 4 device, 70 the engine failed, 130 Ctrl-C.
Every flag is also a variable, as MOSU_PORT for --port; a flag goes before its variable. An empty variable counts as one
that is not set, but for those of keys.";

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
    let mut command = with_variables(Cli::command(), &|name| env::var_os(name));
    let parsed = command.try_get_matches_from_mut(env::args_os());
    let parsed = parsed
        .and_then(|matches| Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command)));
    let cli = match parsed {
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

/// A command without the variables that are empty, as tools write them that have no value for one. But a key that is
/// empty by mistake must not open the server.
fn with_variables(command: clap::Command, value: &dyn Fn(&OsStr) -> Option<OsString>) -> clap::Command {
    const KEY_FILE: &str = "MOSU_API_KEY_FILE";
    let is_empty = |name: &OsStr| name != KEY_FILE && value(name).is_some_and(|value| value.is_empty());
    let known = |arg: Arg| if arg.get_env().is_some_and(is_empty) { arg.env(Resettable::Reset) } else { arg };
    command.mut_args(known).mut_subcommands(|command| with_variables(command, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_variables_are_not_set() {
        let variables_of = |empty: bool| -> Vec<String> {
            let command = with_variables(Cli::command(), &|_| empty.then(OsString::new));
            let args = command.get_subcommands().flat_map(|command| command.get_arguments());
            args.filter_map(|arg| arg.get_env()?.to_str().map(String::from)).collect()
        };
        assert!(variables_of(false).len() > 30);
        assert_eq!(variables_of(true), ["MOSU_API_KEY_FILE"]);
    }

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
