//! The figures of a bench: medians, spreads and shares, as text and as JSON.

use mosu::{DType, ModelInfo, limits::Limits};
use serde::Serialize;

use super::measure::Repeat;
use crate::cli::{machine::Machine, units};

/// The whole document.
#[derive(Serialize)]
pub struct Report {
    /// Where it was measured.
    pub machine: Machine,
    /// What was measured.
    pub model: ModelFacts,
    /// How it was measured.
    pub options: Options,
    /// Sequences that lost their KV blocks to others; figures with any are not those of one batch.
    pub preemptions: u64,
    /// The figures.
    pub runs: Vec<Run>,
}

/// What the figures depend on, of the model.
#[derive(Serialize)]
pub struct ModelFacts {
    name: String,
    architecture: String,
    dtype: String,
    device: String,
    parameters: u64,
    active_parameters: u64,
    weight_bytes: u64,
    active_weight_bytes: u64,
}

/// What was asked for.
#[derive(Serialize)]
pub struct Options {
    /// Threads that computed.
    pub threads: usize,
    /// Tokens of each prompt.
    pub prompt_tokens: usize,
    /// Tokens of each answer.
    pub output_tokens: usize,
    /// Repeats of each batch.
    pub repeat: usize,
    /// Of the prompts.
    pub seed: u64,
    /// Most tokens of one step.
    pub max_batch_tokens: usize,
    /// Whether the continued prompts were cached.
    pub prefix_cache: bool,
}

/// A figure of several repeats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figure {
    median: f64,
    min: f64,
    max: f64,
}

/// The figures of one batch.
#[derive(Serialize)]
pub struct Run {
    batch: usize,
    prefill_tokens_per_second: Figure,
    /// Of the bf16 dot peak; `None` where the model does not compute in bf16.
    prefill_share: Option<f64>,
    ttft_seconds: Figure,
    decode_tokens_per_second: Figure,
    decode_tokens_per_second_per_sequence: Figure,
    /// Of the read bandwidth.
    decode_share: f64,
    itl_seconds: Figure,
    itl_p99_seconds: Figure,
    #[serde(with = "LimitsJson")]
    limits_before: Limits,
    #[serde(with = "LimitsJson")]
    limits_after: Limits,
}

/// How the device's limits are written.
#[derive(Serialize)]
#[serde(remote = "Limits")]
struct LimitsJson {
    read_bandwidth: f64,
    bf16_dot_peak: f64,
}

impl ModelFacts {
    /// Those of a loaded model.
    pub fn new(info: &ModelInfo) -> ModelFacts {
        ModelFacts {
            name: info.name.clone(),
            architecture: info.architecture.clone(),
            dtype: info.format_names(),
            device: info.device.clone(),
            parameters: info.parameters,
            active_parameters: info.active_parameters,
            weight_bytes: info.weight_bytes,
            active_weight_bytes: info.active_weight_bytes,
        }
    }
}

impl Run {
    /// The figures of `repeats` of one batch, as shares of the limits around them.
    pub fn new(batch: usize, repeats: &[Repeat], before: Limits, after: Limits, info: &ModelInfo) -> Run {
        let figure = |of: &dyn Fn(&Repeat) -> f64| Figure::new(repeats.iter().map(of).collect());
        let prefill = figure(&|repeat| repeat.prefill_rate);
        let decode = figure(&|repeat| repeat.decode_rate);
        let bandwidth = (before.read_bandwidth + after.read_bandwidth) / 2.0;
        let peak = (before.bf16_dot_peak + after.bf16_dot_peak) / 2.0;
        let steps_per_second = decode.median / batch as f64;
        let bf16 = info.compute == DType::BF16;
        // A prompt's logits are computed for its last token only.
        let output_projection = (info.spec.vocab_size * info.spec.hidden_size) as u64;
        let prefill_flops = 2.0 * info.active_parameters.saturating_sub(output_projection) as f64;
        Run {
            batch,
            prefill_tokens_per_second: prefill,
            prefill_share: bf16.then(|| prefill_flops * prefill.median / peak),
            ttft_seconds: figure(&|repeat| quantile(repeat.ttft.clone(), 0.5)),
            decode_tokens_per_second: decode,
            decode_tokens_per_second_per_sequence: figure(&|repeat| repeat.decode_rate / batch as f64),
            decode_share: info.active_weight_bytes as f64 * steps_per_second / bandwidth,
            itl_seconds: figure(&|repeat| quantile(repeat.itl.clone(), 0.5)),
            itl_p99_seconds: figure(&|repeat| quantile(repeat.itl.clone(), 0.99)),
            limits_before: before,
            limits_after: after,
        }
    }

    /// As they stand under each other in a column.
    fn column(&self) -> Vec<String> {
        let share = |share: f64| format!("{:.0} %", share * 100.0);
        let then = |of: &dyn Fn(&Limits) -> String| {
            format!("{}, {}", of(&self.limits_before), of(&self.limits_after))
        };
        vec![
            self.batch.to_string(),
            self.prefill_tokens_per_second.rate(),
            self.prefill_share.map_or("–".into(), share),
            self.ttft_seconds.time(),
            self.decode_tokens_per_second.rate(),
            self.decode_tokens_per_second_per_sequence.rate(),
            share(self.decode_share),
            self.itl_seconds.time(),
            self.itl_p99_seconds.time(),
            then(&|limits| format!("{:.1}", limits.read_bandwidth / 1e9)),
            then(&|limits| format!("{:.2}", limits.bf16_dot_peak / 1e12)),
        ]
    }
}

const ROWS: [&str; 11] = [
    "sequences",
    "prefill tokens/s",
    "  share of dot peak",
    "TTFT ms",
    "decode tokens/s",
    "  per sequence",
    "  share of bandwidth",
    "ITL ms",
    "  99 of 100 within",
    "bandwidth GB/s",
    "dot peak TFLOP/s",
];

impl Report {
    /// A table with a column for each batch.
    pub fn text(&self) -> String {
        let Report { model, options, .. } = self;
        let mut text = format!(
            "{} · {} · {} · {}\nprompts of {} tokens, answers of {} · median (lowest–highest) of {}\n\n",
            model.name,
            model.architecture,
            model.dtype,
            model.device,
            options.prompt_tokens,
            options.output_tokens,
            units::count(options.repeat, "repeat"),
        );
        let columns: Vec<Vec<String>> = self.runs.iter().map(Run::column).collect();
        for (row, name) in ROWS.iter().enumerate() {
            let mut line = format!("{name:20}");
            for column in &columns {
                let width = column.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
                line += &format!("  {:width$}", column[row]);
            }
            text += line.trim_end();
            text.push('\n');
        }
        if self.preemptions > 0 {
            text += &format!(
                "\n{} happened: raise --kv-cache-memory\n",
                units::count(self.preemptions as usize, "preemption")
            );
        }
        text
    }
}

impl Figure {
    fn new(values: Vec<f64>) -> Figure {
        Figure {
            median: quantile(values.clone(), 0.5),
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }

    fn rate(&self) -> String {
        format!("{:.1} ({:.1}–{:.1})", self.median, self.min, self.max)
    }

    fn time(&self) -> String {
        format!("{:.1} ({:.1}–{:.1})", self.median * 1e3, self.min * 1e3, self.max * 1e3)
    }
}

/// The value below which a share of the values lies, between two values if need be; NaN of none.
fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
    let place = share * last as f64;
    let (below, above) = (values[place.floor() as usize], values[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_values() {
        assert_eq!(quantile(vec![3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile(vec![4.0, 1.0, 2.0, 3.0], 0.5), 2.5);
        assert_eq!(quantile(vec![1.0, 2.0], 1.0), 2.0);
        assert_eq!(quantile(vec![7.0], 0.99), 7.0);
        assert!(quantile(Vec::new(), 0.5).is_nan());
    }

    #[test]
    fn figures_have_a_spread() {
        let figure = Figure::new(vec![30.0, 10.0, 20.0]);
        assert_eq!(figure, Figure { median: 20.0, min: 10.0, max: 30.0 });
        assert_eq!(figure.rate(), "20.0 (10.0–30.0)");
    }
}
