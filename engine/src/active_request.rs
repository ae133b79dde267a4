//! An accepted request: its choices, their text, and what its caller has been told.

use std::{iter, mem, sync::Arc};

use mosu_models::{LogitOutput, LogitRow, LogitToken, SampleParams, TokenLogprobs};

use crate::{
    Event, Finish, OutputToken, PromptInfo, Request, StopConditions, Usage,
    detokenizer::{Detokenizer, TokenPieces},
    prefix_hash::PrefixScope,
    queue::Permit,
    sampling::Sampler,
    sequence::{RequestId, Sequence},
    stop::StopMatcher,
};

/// A request on its way into the engine.
#[derive(Debug)]
pub(crate) struct Submission {
    pub id: RequestId,
    /// Validated.
    pub request: Request,
    /// Most output tokens of a choice.
    pub max_tokens: usize,
    pub permit: Permit,
}

/// What the engine knows about every request's text.
pub(crate) struct OutputProcessor {
    pub tokens: Arc<dyn TokenPieces>,
    /// The model's end tokens.
    pub end_tokens: Vec<u32>,
    /// Tokens that the model can draw.
    pub vocab_size: usize,
}

impl OutputProcessor {
    /// The special token that a stop string names. It ends an output by its id: its text may be left out.
    fn stop_token(&self, string: &str) -> Option<u32> {
        self.tokens.special_token(string).filter(|&id| (id as usize) < self.vocab_size)
    }
}

/// One continuation.
#[derive(Debug)]
struct Choice {
    sampler: Sampler,
    detokenizer: Detokenizer,
    stop: StopMatcher,
    num_tokens: usize,
    finished: bool,
}

/// The state of an accepted request, but for its sequences.
#[derive(Debug)]
pub(crate) struct ActiveRequest {
    /// Its prompt lies in its sequences.
    request: Request,
    max_tokens: usize,
    seed: u64,
    /// Held until the request runs for the first time.
    pub permit: Option<Permit>,
    /// The first one, and when the prompt is computed all `n`.
    choices: Vec<Choice>,
    num_finished: u32,
    /// Of prompt tokens 1 to the last one computed, when asked for.
    prompt_logprobs: Vec<TokenLogprobs>,
    prompt_is_known: bool,
    scope: PrefixScope,
    usage: Usage,
}

impl ActiveRequest {
    /// The request with its first choice, for which the prompt is computed, and that prompt. `seed` is for a request
    /// without one; without `prefix_cache` it shares prefixes with no other.
    pub fn new(
        submission: Submission,
        seed: u64,
        prefix_cache: bool,
        processor: &OutputProcessor,
    ) -> (ActiveRequest, Vec<u32>) {
        let Submission { id, mut request, max_tokens, permit } = submission;
        let prompt = mem::take(&mut request.prompt);
        let named = request.stop.strings.iter().filter_map(|string| processor.stop_token(string));
        request.stop.token_ids.extend(named);
        let scope = match request.cache_salt.take() {
            _ if !prefix_cache => PrefixScope::Request(id),
            Some(salt) => PrefixScope::Salted(salt),
            None => PrefixScope::Shared,
        };
        let mut active = ActiveRequest {
            seed: request.sampling.seed.unwrap_or(seed),
            request,
            max_tokens,
            permit: Some(permit),
            choices: Vec::new(),
            num_finished: 0,
            prompt_logprobs: Vec::new(),
            prompt_is_known: false,
            scope,
            usage: Usage { prompt_tokens: prompt.len(), ..Usage::default() },
        };
        active.add_choice(processor);
        (active, prompt)
    }

    /// Choices that have or will have tokens: one until the prompt is computed, then all.
    pub fn num_choices(&self) -> u32 {
        self.choices.len() as u32
    }

    /// With whom the request's sequences share prefixes.
    pub fn scope(&self) -> &PrefixScope {
        &self.scope
    }

    /// What the request used so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Log-probabilities to report with output tokens.
    pub fn logprobs(&self) -> Option<u32> {
        self.request.logprobs
    }

    /// Log-probabilities to report with prompt tokens.
    pub fn prompt_logprobs(&self) -> Option<u32> {
        self.request.prompt_logprobs
    }

    /// Positions from 0 whose log-probabilities need not be computed again, for the choice that reports those
    /// of the prompt and as long as it does.
    pub fn known_prompt_logprobs(&self, choice: u32) -> Option<usize> {
        let reports = choice == 0 && self.request.prompt_logprobs.is_some() && !self.prompt_is_known;
        reports.then_some(self.prompt_logprobs.len())
    }

    /// Most tokens that a choice's sequence may take from the prefix cache: what is found is not computed, and has
    /// no log-probabilities.
    pub fn max_cached(&self, choice: u32) -> usize {
        self.known_prompt_logprobs(choice).unwrap_or(usize::MAX)
    }

    /// Tokens are to be sampled, not only the prompt's log-probabilities reported.
    pub fn draws_tokens(&self) -> bool {
        self.max_tokens > 0
    }

    /// The prompt is computed, and its caller was told so.
    pub fn prompt_is_known(&self) -> bool {
        self.prompt_is_known
    }

    /// All choices are done.
    pub fn is_finished(&self) -> bool {
        self.num_finished == self.request.n
    }

    /// This choice is done.
    pub fn choice_is_finished(&self, choice: u32) -> bool {
        self.choices.get(choice as usize).is_some_and(|choice| choice.finished)
    }

    /// What the draw of a sequence's next token needs.
    pub fn sample_params(&self, sequence: &mut Sequence) -> SampleParams {
        self.choices[sequence.id.choice as usize].sampler.params(sequence)
    }

    /// There may be a token behind the one that is sampled for a sequence now.
    pub fn may_go_on(&self, sequence: &Sequence) -> bool {
        let choice = &self.choices[sequence.id.choice as usize];
        choice.num_tokens + sequence.num_pending + 1 < self.max_tokens
    }

    /// Takes a step's results for one of its sequences, of which the first `num_computed` tokens are computed.
    ///
    /// # Errors
    /// Why the model could not serve it.
    pub fn advance<'a>(
        &mut self,
        sequence: &mut Sequence,
        num_computed: usize,
        results: impl Iterator<Item = (LogitRow, &'a mut LogitOutput)>,
        processor: &OutputProcessor,
        mut emit: impl FnMut(Event),
    ) -> Result<(), String> {
        let mut sampled = None;
        for (row, output) in results {
            if let Some(fault) = output.fault {
                return Err(fault.to_string());
            }
            let logprobs = output.logprobs.take();
            match row.token {
                LogitToken::Given(_) => self.prompt_logprobs.push(logprobs.unwrap_or_default()),
                LogitToken::Sampled(_) => sampled = Some(OutputToken { id: output.token, logprobs }),
            }
        }
        if !self.prompt_is_known && num_computed >= sequence.prompt_len {
            self.accept_prompt(sequence, processor, &mut emit);
        }
        sequence.max_cached = self.max_cached(sequence.id.choice);
        if let Some(token) = sampled {
            sequence.push(token.id);
            emit(self.accept_token(sequence.id.choice, token, processor));
        }
        Ok(())
    }

    /// Tells the caller about the prompt, and makes the other choices.
    fn accept_prompt(
        &mut self,
        sequence: &Sequence,
        processor: &OutputProcessor,
        emit: &mut impl FnMut(Event),
    ) {
        self.prompt_is_known = true;
        let cached_tokens = sequence.num_cached.unwrap_or(0);
        self.usage.cached_tokens = cached_tokens;
        let known = mem::take(&mut self.prompt_logprobs);
        let logprobs =
            self.request.prompt_logprobs.map(|_| iter::once(None).chain(known.into_iter().map(Some)));
        emit(Event::Prompt(PromptInfo { cached_tokens, logprobs: logprobs.map(Iterator::collect) }));
        if self.draws_tokens() {
            (1..self.request.n).for_each(|_| self.add_choice(processor));
            return;
        }
        self.num_finished = self.request.n;
        for index in 0..self.request.n {
            emit(Event::Output {
                index,
                text: String::new(),
                tokens: Vec::new(),
                finish: Some(Finish::Length),
            });
        }
    }

    /// Adds a choice that has no tokens yet.
    fn add_choice(&mut self, processor: &OutputProcessor) {
        let Request { sampling, stop, skip_special_tokens, .. } = &self.request;
        let number = self.choices.len() as u32;
        self.choices.push(Choice {
            sampler: Sampler::new(sampling, stop, &processor.end_tokens, self.seed, number),
            detokenizer: Detokenizer::new(*skip_special_tokens, processor.tokens.joining()),
            stop: StopMatcher::new(&stop.strings, stop.include_stop_string),
            num_tokens: 0,
            finished: false,
        });
    }

    fn accept_token(&mut self, index: u32, token: OutputToken, processor: &OutputProcessor) -> Event {
        let choice = &mut self.choices[index as usize];
        choice.sampler.observe();
        choice.num_tokens += 1;
        self.usage.completion_tokens += 1;
        let (text, finish) = choice.extend_text(token.id, &self.request.stop, self.max_tokens, processor);
        choice.finished = finish.is_some();
        self.num_finished += u32::from(choice.finished);
        Event::Output { index, text, tokens: vec![token], finish }
    }
}

impl Choice {
    /// Adds a token's text. Returns what is now certain, and whether the choice ends here.
    fn extend_text(
        &mut self,
        id: u32,
        stop: &StopConditions,
        max_tokens: usize,
        processor: &OutputProcessor,
    ) -> (String, Option<Finish>) {
        let end = end_token(id, stop, processor);
        let mut text = match &end {
            Some(_) if !stop.include_stop_string => String::new(),
            // Asked for as text, it is text, though special tokens may have none.
            Some(Finish::StopString(string)) => self.detokenizer.flush() + string,
            _ => self.detokenizer.push(id, &*processor.tokens),
        };
        let finish = end.or((self.num_tokens == max_tokens).then_some(Finish::Length));
        // The text of the first `min_tokens` tokens ends nothing.
        let searched = self.stop.is_needed() && self.num_tokens > stop.min_tokens;
        if finish.is_some() || (searched && self.byte_run_stops()) {
            text += &self.detokenizer.flush();
        }
        if !searched {
            return (text, finish);
        }
        match self.stop.push(text) {
            (text, Some(found)) => (text, Some(Finish::StopString(found))),
            (text, None) if finish.is_some() => (text + &self.stop.flush(), finish),
            (text, None) => (text, None),
        }
    }

    /// A stop string is complete in a run of byte tokens: it need not wait for the run's end.
    fn byte_run_stops(&self) -> bool {
        self.detokenizer.unfinished_run().is_some_and(|run| self.stop.would_find(&run))
    }
}

/// How `id` ends an output, if it does.
fn end_token(id: u32, stop: &StopConditions, processor: &OutputProcessor) -> Option<Finish> {
    if !stop.ignore_eos && processor.end_tokens.contains(&id) {
        return Some(Finish::EndToken(id));
    }
    if !stop.token_ids.contains(&id) {
        return None;
    }
    let string = stop.strings.iter().find(|string| processor.stop_token(string) == Some(id));
    Some(string.map_or(Finish::StopToken(id), |string| Finish::StopString(string.clone())))
}
