//! Runs batches through the engine and takes the times of their tokens.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use mosu::{Engine, Event, Request, SamplingParams, StopConditions};
use tokio::runtime::Runtime;

use crate::cli::{exit::Failure, units};

/// Batches of random prompts for one engine.
pub struct Workload<'a> {
    engine: &'a Engine,
    prompt_tokens: usize,
    output_tokens: usize,
    random: Random,
    runtime: Runtime,
}

/// The times of one batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Repeat {
    /// Prompt tokens computed each second until every sequence has its first token.
    pub prefill_rate: f64,
    /// From sending the batch to each sequence's first token, in seconds.
    pub ttft: Vec<f64>,
    /// Output tokens each second, of the whole batch, while all its sequences run.
    pub decode_rate: f64,
    /// Times between two tokens of a sequence, in seconds, while all sequences run.
    pub itl: Vec<f64>,
}

impl<'a> Workload<'a> {
    /// # Errors
    /// When the system refuses what waiting needs.
    pub fn new(
        engine: &'a Engine,
        prompt_tokens: usize,
        output_tokens: usize,
        seed: u64,
    ) -> Result<Workload<'a>, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime =
            runtime.map_err(|error| Failure::System(format!("cannot wait for the engine: {error}")))?;
        Ok(Workload { engine, prompt_tokens, output_tokens, random: Random(seed), runtime })
    }

    /// Measures a batch: computes new prompts, then continues them. By then their KV blocks are cached, so that all
    /// sequences begin to decode together.
    ///
    /// # Errors
    /// What the engine refuses, or when the answers are too short to be measured.
    pub fn repeat(&mut self, batch: usize) -> Result<Repeat, Failure> {
        let vocab_size = self.engine.model_info().vocab_size as u64;
        let random = &mut self.random;
        let mut prompt = || (0..self.prompt_tokens).map(|_| random.below(vocab_size) as u32).collect();
        let prompts: Vec<Vec<u32>> = (0..batch).map(|_| prompt()).collect();
        let (sent, first_tokens) = self.generate(&prompts, 1)?;
        let (_, tokens) = self.generate(&prompts, self.output_tokens)?;
        let ttft: Vec<f64> = first_tokens.iter().flatten().map(|&time| (time - sent).as_secs_f64()).collect();
        let slowest = ttft.iter().copied().fold(0.0, f64::max);
        let prefill_rate = (batch * self.prompt_tokens) as f64 / slowest;
        let (decode_rate, itl) = decode_figures(&tokens).ok_or_else(|| {
            let batch = units::count(batch, "sequence");
            Failure::Usage(format!(
                "the answers are too short to measure {batch} at once: raise --output-tokens"
            ))
        })?;
        Ok(Repeat { prefill_rate, ttft, decode_rate, itl })
    }

    /// Sends all prompts at once. Returns when, and the times of each sequence's tokens.
    fn generate(
        &self,
        prompts: &[Vec<u32>],
        output_tokens: usize,
    ) -> Result<(Instant, Vec<Vec<Instant>>), Failure> {
        let sent = Instant::now();
        let sequences = prompts.iter().map(|prompt| self.sequence(prompt, output_tokens));
        Ok((sent, self.runtime.block_on(try_join_all(sequences))?))
    }

    async fn sequence(&self, prompt: &[u32], output_tokens: usize) -> Result<Vec<Instant>, Failure> {
        let mut stream = self.engine.generate(Request {
            sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
            stop: StopConditions {
                max_tokens: Some(output_tokens),
                ignore_eos: true,
                ..StopConditions::default()
            },
            ..Request::new(prompt.to_vec())
        })?;
        let mut times = Vec::with_capacity(output_tokens);
        while let Some(event) = stream.next().await {
            match event {
                Event::Output { tokens, .. } => times.extend(tokens.iter().map(|_| stream.event_time())),
                Event::Failed(error) => return Err(error.into()),
                Event::Prompt(_) | Event::Finished(_) => {}
            }
        }
        Ok(times)
    }
}

/// Rate and times between tokens from the moment when all sequences have a token to that when the first has its
/// last. `None` when there is no such time.
fn decode_figures(sequences: &[Vec<Instant>]) -> Option<(f64, Vec<f64>)> {
    let begin = *sequences.iter().map(|times| times.first()).max()??;
    let end = *sequences.iter().map(|times| times.last()).min()??;
    let together: Duration = end.checked_duration_since(begin)?;
    let inside = |time: &Instant| begin < *time && *time <= end;
    let count = sequences.iter().flatten().filter(|time| inside(time)).count();
    let gaps =
        sequences.iter().flat_map(|times| times.windows(2)).filter(|gap| begin <= gap[0] && gap[1] <= end);
    let itl: Vec<f64> = gaps.map(|gap| (gap[1] - gap[0]).as_secs_f64()).collect();
    (!together.is_zero() && !itl.is_empty()).then(|| (count as f64 / together.as_secs_f64(), itl))
}

/// SplitMix64: as random as prompts need to be.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(start: Instant, milliseconds: &[u64]) -> Vec<Instant> {
        milliseconds.iter().map(|&time| start + Duration::from_millis(time)).collect()
    }

    #[test]
    fn decode_is_measured_while_all_run() {
        let start = Instant::now();
        let sequences = [times(start, &[0, 10, 20, 30, 40]), times(start, &[20, 30, 40, 50])];
        let (rate, itl) = decode_figures(&sequences).unwrap();
        assert!((rate - 4.0 / 0.020).abs() < 1e-6, "{rate}");
        assert_eq!(itl.len(), 4);
        assert!(itl.iter().all(|gap| (gap - 0.010).abs() < 1e-9), "{itl:?}");
    }

    #[test]
    fn sequences_that_never_run_together_have_no_rate() {
        let start = Instant::now();
        assert_eq!(decode_figures(&[times(start, &[0, 10]), times(start, &[20, 30])]), None);
        assert_eq!(decode_figures(&[times(start, &[5])]), None);
        assert_eq!(decode_figures(&[times(start, &[5, 6]), Vec::new()]), None);
        assert_eq!(decode_figures(&[]), None);
    }

    #[test]
    fn a_seed_fixes_the_prompts() {
        let draw = |seed| {
            let mut random = Random(seed);
            Vec::from_iter((0..100).map(|_| random.below(1000)))
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!(draw(1).iter().all(|&id| id < 1000));
    }
}
