//! The engine's events for one API request, which may have several prompts.

use mosu::{Event, Finish, GenerationStream, OutputToken, PromptInfo, RequestError, Usage};

use super::select_all::SelectAll;
use crate::metrics::Meter;

/// A part of the answer.
#[derive(Debug)]
pub enum OutputDelta {
    /// A prompt is computed.
    Prompt {
        /// Which prompt.
        prompt: usize,
        /// What is known of it.
        info: PromptInfo,
    },
    /// More of a choice.
    Output {
        /// Which choice: those of the first prompt, then those of the second, …
        choice: usize,
        /// New text.
        text: String,
        /// New tokens.
        tokens: Vec<OutputToken>,
        /// Set on the choice's last piece.
        finish: Option<Finish>,
    },
}

/// The events of all prompts in the order in which they come. Dropping it aborts what still runs.
pub struct Generation {
    streams: SelectAll,
    meters: Vec<Meter>,
    choices_per_prompt: usize,
    usage: Usage,
}

impl Generation {
    /// Streams that the engine has begun, one per prompt, each with `n` choices; `prompt_tokens` is that of all.
    pub fn new(streams: Vec<GenerationStream>, n: usize, prompt_tokens: usize, meter: Meter) -> Generation {
        Generation {
            meters: vec![meter; streams.len()],
            streams: SelectAll::new(streams),
            choices_per_prompt: n,
            usage: Usage { prompt_tokens, ..Usage::default() },
        }
    }

    /// The next part; `None` after the last. An error is the last, and ends all prompts.
    pub async fn next(&mut self) -> Option<Result<OutputDelta, RequestError>> {
        loop {
            let (prompt, event) = self.streams.next().await?;
            self.meters[prompt].observe(&event);
            match event {
                Event::Prompt(info) => {
                    self.usage.cached_tokens += info.cached_tokens;
                    return Some(Ok(OutputDelta::Prompt { prompt, info }));
                }
                Event::Output { index, text, tokens, finish } => {
                    self.usage.completion_tokens += tokens.len();
                    let choice = prompt * self.choices_per_prompt + index as usize;
                    return Some(Ok(OutputDelta::Output { choice, text, tokens, finish }));
                }
                Event::Finished(_) => {}
                Event::Failed(error) => {
                    self.streams.abort();
                    return Some(Err(error));
                }
            }
        }
    }

    /// What was used so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }
}

/// A whole choice, put together from its pieces.
#[derive(Debug, Default)]
pub struct Choice {
    /// Its text.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<OutputToken>,
    /// How it ended.
    pub finish: Option<Finish>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// `[prompts * n]`
    pub choices: Vec<Choice>,
    /// One per prompt.
    pub prompts: Vec<PromptInfo>,
    /// Of all of them.
    pub usage: Usage,
}

impl Answer {
    /// Waits for all of it.
    pub async fn collect(mut generation: Generation) -> Result<Answer, RequestError> {
        let prompts = generation.meters.len();
        let mut answer = Answer {
            choices: (0..prompts * generation.choices_per_prompt).map(|_| Choice::default()).collect(),
            prompts: vec![PromptInfo::default(); prompts],
            usage: Usage::default(),
        };
        while let Some(piece) = generation.next().await {
            match piece? {
                OutputDelta::Prompt { prompt, info } => answer.prompts[prompt] = info,
                OutputDelta::Output { choice, text, tokens, finish } => {
                    let choice = &mut answer.choices[choice];
                    choice.text.push_str(&text);
                    choice.tokens.extend(tokens);
                    choice.finish = finish;
                }
            }
        }
        answer.usage = generation.usage();
        Ok(answer)
    }
}
