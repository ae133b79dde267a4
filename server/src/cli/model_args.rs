//! The flags that every command shares: which model, where it runs and how much it may use.

use std::{
    num::NonZeroUsize,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum, builder::BoolishValueParser};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mosu::{Engine, EngineOptions, LoadError, LoadFormat, LoadProgress, ModelSource};

use super::{
    terminal,
    units::{self, parse_bytes, parse_count},
};

/// Which model, where it runs and how much it may use.
#[derive(Args, Debug)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// A GGUF file, or the directory of a model in Hugging Face layout [default: the demonstration model inside this
    /// program]
    #[arg(short, long, env = "MOSU_MODEL", value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// Weights from the files, or random ones that need no file but config.json
    #[arg(long, env = "MOSU_LOAD_FORMAT", value_enum, default_value_t)]
    pub load_format: Format,
    /// What computes: cpu, cuda, or cuda:N for one of several GPUs
    #[arg(long, env = "MOSU_DEVICE", default_value_t = EngineOptions::default().device)]
    pub device: String,
    /// Threads that compute [default: all cores]
    #[arg(long, env = "MOSU_THREADS", value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// Most tokens of one sequence, prompt and output [default: as many as the model can]
    #[arg(long, env = "MOSU_MAX_MODEL_LEN", value_name = "TOKENS", value_parser = parse_count)]
    pub max_model_len: Option<usize>,
    /// Memory for the KV cache, as 2GiB, 512MB or bytes [default: on a GPU for --max-sequences of the longest sequences;
    /// on the CPU for one of the longest, or 512 tokens of each, and at most half of the free memory]
    #[arg(long, env = "MOSU_KV_CACHE_MEMORY", value_name = "SIZE", value_parser = parse_bytes)]
    pub kv_cache_memory: Option<usize>,
    /// Most tokens computed in one step [default: 512 on the CPU, 2048 on a GPU]
    #[arg(long, env = "MOSU_MAX_BATCH_TOKENS", value_name = "TOKENS", value_parser = parse_count)]
    pub max_batch_tokens: Option<usize>,
    /// Most sequences that run at once
    #[arg(long, env = "MOSU_MAX_SEQUENCES", value_name = "N", value_parser = parse_count,
        default_value_t = EngineOptions::default().max_sequences)]
    pub max_sequences: usize,
    /// Compute every prompt anew, even where it begins as an earlier one did
    #[arg(long, env = "MOSU_NO_PREFIX_CACHE", value_parser = BoolishValueParser::new())]
    pub no_prefix_cache: bool,
}

/// `--load-format`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Format {
    /// The model's own weights.
    #[default]
    Auto,
    /// Random weights.
    Dummy,
}

/// `--generation-config`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum GenerationConfig {
    /// As the model's generation_config.json says, if it has one.
    #[default]
    Auto,
    /// As without that file.
    None,
}

impl ModelArgs {
    /// Which model.
    pub fn source(&self) -> ModelSource {
        self.model.clone().map_or(ModelSource::Demo, ModelSource::at)
    }

    /// How many threads compute.
    pub fn threads(&self) -> usize {
        self.threads.map_or_else(cores, NonZeroUsize::get)
    }

    /// What the engine is to be loaded with.
    pub fn engine_options(&self) -> EngineOptions {
        EngineOptions {
            source: self.source(),
            load_format: match self.load_format {
                Format::Auto => LoadFormat::Auto,
                Format::Dummy => LoadFormat::Dummy,
            },
            device: self.device.clone(),
            threads: Some(self.threads()),
            max_model_len: self.max_model_len,
            kv_cache_bytes: self.kv_cache_memory,
            max_batch_tokens: self.max_batch_tokens,
            max_sequences: self.max_sequences,
            // For those who answer requests.
            sampling_defaults: false,
            prefix_cache: !self.no_prefix_cache,
            ..EngineOptions::default()
        }
    }
}

/// Loads a model, with a bar when somebody watches.
///
/// # Errors
/// As the engine says.
pub fn load(options: EngineOptions) -> Result<Engine, LoadError> {
    if let Some(warning) = options.threads.and_then(|threads| too_many_threads(threads, cores())) {
        terminal::note(&warning);
    }
    let bar = ProgressBar::hidden().with_style(bar_style(BAR));
    let started = Instant::now();
    let mut show = |progress: LoadProgress| {
        if bar.is_hidden() && started.elapsed() > BAR_DELAY {
            // On what is no terminal, the bar stays hidden.
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes_done);
        bar.set_message(format!("{}/{} tensors", progress.tensors_done, progress.tensors_total));
    };
    let engine = Engine::load_with_progress(options, &mut show);
    bar.finish_and_clear();
    engine
}

/// Cores that this program may use.
fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Every op waits for its slowest thread, and threads that share a core take turns.
fn too_many_threads(threads: usize, cores: usize) -> Option<String> {
    let cores = (threads > cores).then(|| units::count(cores, "core"))?;
    Some(format!(
        "warning: --threads {threads} is more than there are cores: {cores}; expect it to be slower"
    ))
}

const BAR: &str = "loading {wide_bar} {bytes}/{total_bytes}, {msg}, {binary_bytes_per_sec}";

/// Most models are there at once; a bar would only flash.
const BAR_DELAY: Duration = Duration::from_millis(300);

/// The style that a template describes.
pub fn bar_style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_beyond_the_cores_are_warned_of() {
        assert_eq!(too_many_threads(2, 2), None);
        let warning = too_many_threads(3, 2).unwrap();
        assert!(warning.starts_with("warning: --threads 3 ") && warning.contains("2 cores"), "{warning}");
    }

    #[test]
    fn the_bar_has_a_valid_template() {
        // An invalid one would silently be replaced.
        assert!(ProgressStyle::with_template(BAR).is_ok());
    }
}
