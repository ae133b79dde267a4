//! What `/metrics` tells: Prometheus metrics, with the meanings of vLLM's and the prefix `mosu_`.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use mosu::{Engine, Event, Stats};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
        histogram::Histogram,
    },
    registry::Registry,
};

const TIME_TO_FIRST_TOKEN_BUCKETS: [f64; 17] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0];
const INTER_TOKEN_LATENCY_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5];
const REQUEST_LATENCY_BUCKETS: [f64; 15] =
    [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0];

/// What the server measures; what the engine counts is read when `/metrics` is asked.
pub struct Metrics {
    registry: Registry,
    time_to_first_token: Histogram,
    inter_token_latency: Histogram,
    request_latency: Histogram,
    success: Family<FinishedReason, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FinishedReason {
    finished_reason: String,
}

impl Metrics {
    /// The metrics of a server in front of `engine`.
    pub fn new(engine: Engine) -> Metrics {
        let mut registry = Registry::with_prefix("mosu");
        let mut histogram = |name, help, buckets: &[f64]| {
            let histogram = Histogram::new(buckets.iter().copied());
            registry.register(name, help, histogram.clone());
            histogram
        };
        let time_to_first_token = histogram(
            "time_to_first_token_seconds",
            "Time from a request's arrival to its first output token",
            &TIME_TO_FIRST_TOKEN_BUCKETS,
        );
        let inter_token_latency = histogram(
            "inter_token_latency_seconds",
            "Time between two output tokens of a choice",
            &INTER_TOKEN_LATENCY_BUCKETS,
        );
        let request_latency = histogram(
            "e2e_request_latency_seconds",
            "Time from a request's arrival to its last output token",
            &REQUEST_LATENCY_BUCKETS,
        );
        let success = Family::default();
        registry.register("request_success", "Choices that ended, by reason", success.clone());
        registry.register_collector(Box::new(EngineCollector(engine)));
        Metrics { registry, time_to_first_token, inter_token_latency, request_latency, success }
    }

    /// All of them, in the OpenMetrics text format.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// The engine's counters and gauges, as of the moment they are asked for.
struct EngineCollector(Engine);

impl fmt::Debug for EngineCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EngineCollector")
    }
}

impl Collector for EngineCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let stats = self.0.stats();
        for (name, help, value) in gauges(&stats) {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        for (name, help, value) in counters(&stats) {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}

fn gauges(stats: &Stats) -> [(&'static str, &'static str, f64); 3] {
    let kv_cache_usage = stats.kv_blocks_used as f64 / stats.kv_blocks_total.max(1) as f64;
    [
        ("num_requests_running", "Sequences in the running batch", stats.running_sequences as f64),
        ("num_requests_waiting", "Sequences that wait to run", stats.waiting_sequences as f64),
        ("kv_cache_usage_perc", "Share of KV blocks held by sequences; 1 is all", kv_cache_usage),
    ]
}

fn counters(stats: &Stats) -> [(&'static str, &'static str, u64); 9] {
    [
        ("prompt_tokens", "Prompt tokens computed or found in the prefix cache", stats.prompt_tokens),
        ("generation_tokens", "Output tokens", stats.output_tokens),
        ("num_preemptions", "Sequences sent back to wait, to be computed again", stats.preemptions),
        ("prefix_cache_queries", "Tokens looked up in the prefix cache", stats.prefix_cache_queries),
        ("prefix_cache_hits", "Tokens found in the prefix cache", stats.prefix_cache_hits),
        ("engine_steps", "Steps completed", stats.steps),
        ("requests_finished", "Requests that ended well", stats.requests_finished),
        ("requests_aborted", "Requests whose client went away", stats.requests_aborted),
        ("requests_failed", "Requests that ended with an error", stats.requests_failed),
    ]
}

/// Times one request.
#[derive(Clone)]
pub struct Meter {
    metrics: Arc<Metrics>,
    arrived: Instant,
    /// `[n]` when each choice's latest token came.
    latest: Vec<Option<Instant>>,
    first_token_seen: bool,
}

impl Meter {
    /// For a request of `n` choices.
    pub fn new(metrics: &Arc<Metrics>, arrived: Instant, n: usize) -> Meter {
        Meter { metrics: metrics.clone(), arrived, latest: vec![None; n], first_token_seen: false }
    }

    /// Takes note of an event, now.
    pub fn observe(&mut self, event: &Event) {
        match event {
            Event::Output { index, tokens, finish, .. } => {
                if !tokens.is_empty() {
                    self.token(*index as usize);
                }
                if let Some(finish) = finish {
                    let reason = FinishedReason { finished_reason: finish.to_string() };
                    self.metrics.success.get_or_create(&reason).inc();
                }
            }
            Event::Finished(_) => self.metrics.request_latency.observe(self.arrived.elapsed().as_secs_f64()),
            Event::Prompt(_) | Event::Failed(_) => {}
        }
    }

    fn token(&mut self, choice: usize) {
        let now = Instant::now();
        let seconds = |since: Instant| Duration::as_secs_f64(&(now - since));
        if !self.first_token_seen {
            self.first_token_seen = true;
            self.metrics.time_to_first_token.observe(seconds(self.arrived));
        }
        if let Some(latest) = self.latest[choice].replace(now) {
            self.metrics.inter_token_latency.observe(seconds(latest));
        }
    }
}
