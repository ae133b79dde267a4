//! `mosu bench`: how fast a model is on this machine, alone and in batches, beside what the machine could do.

mod measure;
mod report;

use std::{
    io::{self, Write},
    num::NonZeroUsize,
};

use clap::{Args, builder::BoolishValueParser};
use indicatif::ProgressBar;
use mosu::{
    Engine, EngineOptions, LoadError,
    limits::{self, Limits},
};

use self::{
    measure::{Repeat, Workload},
    report::{ModelFacts, Options, Report, Run},
};
use super::{
    exit::Failure,
    machine::Machine,
    model_args::{self, ModelArgs},
    terminal,
    units::{self, parse_count},
};

const EXAMPLES: &str = "\
Examples:
  mosu bench                                          the demonstration model
  mosu bench -m ./Qwen3-0.6B --batch 1,8,32           another model, other batches
  mosu bench -m ./Qwen3-0.6B --load-format dummy      its shape alone: config.json is enough
  mosu bench --threads 1 --repeat 5 --json            for other programs

Prompts are random and differ each time. First a batch of prompts is computed: prefill tokens/s, and TTFT, from
sending the batch to each sequence's first token. Then the same prompts are continued: tokens/s and ITL (the time
between two tokens) while all sequences run. Figures are medians of the repeats, with the lowest and the highest.
Limits are the device's: a CPU's are measured before and after each batch, since others use it too, those of a GPU
before the model is loaded. The share of prefill counts the multiplications of a token with the layers'
weights, that of decode the bytes of the weights that one token needs, once a step; neither counts attention.";

/// What stands on the terminal meanwhile.
const BAR: &str = "measuring {wide_bar} {pos}/{len}, {msg}";

/// `mosu bench`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    /// Tokens of each prompt
    #[arg(long, env = "MOSU_PROMPT_TOKENS", value_name = "N", value_parser = parse_count, default_value_t = 512)]
    prompt_tokens: usize,
    /// Tokens of each answer
    #[arg(long, env = "MOSU_OUTPUT_TOKENS", value_name = "N", value_parser = parse_output_tokens, default_value_t = 128)]
    output_tokens: usize,
    /// Sequences at once; several numbers are separated by commas
    #[arg(long, env = "MOSU_BATCH", value_name = "N,…", value_parser = parse_count, value_delimiter = ',',
        default_value = "1,4,16")]
    batch: Vec<usize>,
    /// How often each batch is measured
    #[arg(long, env = "MOSU_REPEAT", value_name = "N", value_parser = parse_count, default_value_t = 3)]
    repeat: usize,
    /// Another seed makes other prompts
    #[arg(long, env = "MOSU_SEED", default_value_t = 0)]
    seed: u64,
    /// Print JSON
    #[arg(long, env = "MOSU_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// A rate needs the time between two tokens.
fn parse_output_tokens(text: &str) -> Result<usize, String> {
    match parse_count(text)? {
        1 => Err("a rate needs at least 2 tokens".into()),
        count => Ok(count),
    }
}

/// Measures, and prints the figures.
///
/// # Errors
/// What is wrong with the model or the flags, and batches that do not fit the memory.
pub fn bench(args: BenchArgs) -> Result<(), Failure> {
    let largest = args.batch.iter().copied().max().unwrap_or(1);
    let options = args.model.engine_options();
    let sequence_tokens = args.prompt_tokens + args.output_tokens;
    let limits = DeviceLimits::new(&args.model)?;
    let engine = model_args::load(EngineOptions {
        max_sequences: options.max_sequences.max(largest),
        max_waiting_requests: options.max_waiting_requests.max(largest),
        max_waiting_tokens: options.max_waiting_tokens.max(largest.saturating_mul(sequence_tokens)),
        ..options
    })?;
    check_fit(&engine, sequence_tokens, largest)?;
    let report = measure_all(&engine, &limits, &args)?;
    let text = if args.json { terminal::json(&report)? } else { report.text() };
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// A batch that does not fit would be measured in turns.
fn check_fit(engine: &Engine, sequence_tokens: usize, batch: usize) -> Result<(), Failure> {
    let context = engine.max_model_len();
    if sequence_tokens > context {
        return Err(Failure::Usage(format!(
            "prompt and answer have {sequence_tokens} tokens but the context holds {context}: lower --prompt-tokens or \
             --output-tokens"
        )));
    }
    let info = engine.model_info();
    let needed = info.kv_groups.blocks_for(sequence_tokens).saturating_mul(batch);
    if needed > info.num_kv_blocks {
        return Err(Failure::Usage(format!(
            "{batch} sequences of {sequence_tokens} tokens need {needed} KV blocks but the cache has {}: lower --batch, \
             or raise --kv-cache-memory",
            info.num_kv_blocks
        )));
    }
    Ok(())
}

fn measure_all(engine: &Engine, limits: &DeviceLimits, args: &BenchArgs) -> Result<Report, Failure> {
    let threads = args.model.threads();
    let machine = Machine::detect();
    let mut workload = Workload::new(engine, args.prompt_tokens, args.output_tokens, args.seed)?;
    // The first pass maps the weights' pages.
    workload.repeat(1)?;
    let mut before = limits.now()?;
    let mut runs = Vec::with_capacity(args.batch.len());
    let bar = progress_bar(args.batch.len() * args.repeat);
    for &batch in &args.batch {
        bar.set_message(units::count(batch, "sequence"));
        let repeat = |_| workload.repeat(batch).inspect(|_| bar.inc(1));
        let repeats: Vec<Repeat> = (0..args.repeat).map(repeat).collect::<Result<_, _>>()?;
        let after = limits.now()?;
        runs.push(Run::new(batch, &repeats, before, after, engine.model_info()));
        before = after;
    }
    bar.finish_and_clear();
    Ok(Report {
        machine,
        model: ModelFacts::new(engine.model_info()),
        options: Options {
            threads,
            prompt_tokens: args.prompt_tokens,
            output_tokens: args.output_tokens,
            repeat: args.repeat,
            seed: args.seed,
            max_batch_tokens: engine.model_info().max_batch_tokens,
            prefix_cache: !args.model.no_prefix_cache,
        },
        preemptions: engine.stats().preemptions,
        runs,
    })
}

/// Sampled only on a terminal.
fn progress_bar(length: usize) -> ProgressBar {
    let bar = ProgressBar::new(length as u64).with_style(model_args::bar_style(BAR));
    bar.tick();
    bar
}

/// What the device does at most.
enum DeviceLimits {
    /// Measured whenever somebody asks.
    Cpu { threads: Option<NonZeroUsize> },
    /// Measured before the model took the memory that it needs.
    Gpu(Limits),
}

impl DeviceLimits {
    fn new(args: &ModelArgs) -> Result<DeviceLimits, Failure> {
        let threads = NonZeroUsize::new(args.threads());
        if args.device == "cpu" {
            return Ok(DeviceLimits::Cpu { threads });
        }
        Ok(DeviceLimits::Gpu(limits::measure(&args.device, threads).map_err(LoadError::from)?))
    }

    fn now(&self) -> Result<Limits, Failure> {
        match self {
            DeviceLimits::Cpu { threads } => Ok(limits::measure("cpu", *threads).map_err(LoadError::from)?),
            DeviceLimits::Gpu(limits) => Ok(*limits),
        }
    }
}

#[cfg(test)]
mod tests {
    use indicatif::ProgressStyle;

    use super::*;

    #[test]
    fn the_bar_has_a_valid_template() {
        assert!(ProgressStyle::with_template(BAR).is_ok());
    }
}
