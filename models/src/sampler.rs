//! From logits to tokens and log-probabilities on the device, and from there to the host once somebody waits for them.

use std::{collections::VecDeque, slice::Chunks};

use mosu_kernels::{
    Allocator, DType, Device, Readback, Result as DeviceResult, Tensor, View,
    ops::{self, LogprobRow, LogprobTarget, NO_TOKEN, SampleRow, SampleWorkspace, TokenLogprobs},
};

use crate::{
    Batch, LogitFault, LogitOutput, LogitRow, LogitToken, StepError, StepOutput, decoder::Decoder,
    model::StepRows,
};

/// Steps whose results may be on their way.
const MOST_IN_FLIGHT: usize = 2;
/// Most probable tokens per row that there is memory for from the start; more are had at the first need.
const USUAL_TOP: usize = 20;

/// Memory for drawing tokens, and the results that nobody has waited for.
pub(crate) struct Sampler {
    workspace: SampleWorkspace,
    vocab_size: usize,
    /// u32 `[max_rows]`: first the tokens that the last step sampled, [`Sampler::num_sampled`] of them.
    sampled: Tensor,
    num_sampled: usize,
    /// Rows of logits that are computed at a time.
    logit_rows: usize,
    /// u32: log-probabilities of so many rows.
    reports: Tensor,
    in_flight: VecDeque<Step>,
    /// Those that were waited for.
    spare: Vec<Step>,
}

/// A step's results on their way.
struct Step {
    rows: Vec<Expected>,
    /// For all rows whose logits are computed at a time the tokens sampled, then the reports.
    results: Readback,
}

/// What will come for a logit row.
struct Expected {
    given: Option<u32>,
    /// Length of its report; 0 when none was asked for.
    report: usize,
}

impl Sampler {
    /// In the memory of `to`, for steps of so many draws from `vocab_size` logits, for up to `max_sequences` sequences with
    /// penalties.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(
        to: &Allocator<'_>,
        vocab_size: usize,
        step: StepRows,
        max_sequences: usize,
    ) -> DeviceResult<Sampler> {
        let row = LogprobRow { row: 0, target: LogprobTarget::Token(0), top: USUAL_TOP };
        Ok(Sampler {
            workspace: SampleWorkspace::new(to, vocab_size, max_sequences)?,
            vocab_size,
            sampled: to.zeros([step.most], DType::U32)?,
            num_sampled: 0,
            logit_rows: step.logits,
            reports: to.zeros([step.logits * row.words(vocab_size)], DType::U32)?,
            in_flight: VecDeque::new(),
            spare: Vec::new(),
        })
    }

    /// u32 `[D]`: the tokens that the last step sampled, in the order of its logit rows.
    pub fn sampled(&self) -> DeviceResult<View<'_>> {
        self.sampled.rows(self.num_sampled)
    }

    /// Fails when so many steps are in flight that no other may be started.
    ///
    /// # Errors
    /// [`StepError::InFlight`]
    pub fn check_room(&self) -> Result<(), StepError> {
        if self.in_flight.len() < MOST_IN_FLIGHT {
            return Ok(());
        }
        Err(StepError::InFlight("two steps are in flight already: finish one"))
    }

    /// Starts what the logit rows of the batch ask for, which `decoder` is computing. There is room for it.
    ///
    /// # Errors
    /// When memory is short, or the device failed.
    pub fn start(&mut self, device: &Device, decoder: &mut Decoder, batch: &Batch) -> DeviceResult<()> {
        let mut step = match self.spare.pop() {
            Some(step) => step,
            None => Step { rows: Vec::new(), results: Readback::new(device)? },
        };
        self.num_sampled = 0;
        step.rows.clear();
        for wanted in batch.logit_rows.chunks(self.logit_rows) {
            let rows: Vec<u32> = wanted.iter().map(|wanted| wanted.row).collect();
            let (device, logits) = decoder.logits(&rows, batch.num_rows())?;
            let reports = self.draw(device, logits, wanted, &mut step)?;
            self.report(device, logits, &reports, &mut step)?;
        }
        self.in_flight.push_back(step);
        Ok(())
    }

    /// Waits for the oldest step, and fills `output` with one entry per logit row.
    ///
    /// # Errors
    /// When no step is in flight, or the device failed.
    pub fn finish(&mut self, output: &mut StepOutput) -> Result<(), StepError> {
        let none = StepError::InFlight("no step is in flight: start one");
        let mut step = self.in_flight.pop_front().ok_or(none)?;
        output.rows.clear();
        step.results.finish(|words| unpack(step.rows.chunks(self.logit_rows), words, &mut output.rows))?;
        self.spare.push(step);
        Ok(())
    }

    /// Draws the tokens of these rows of logits. Returns the log-probabilities that are wanted.
    fn draw(
        &mut self,
        device: &Device,
        logits: View<'_>,
        wanted: &[LogitRow],
        step: &mut Step,
    ) -> DeviceResult<Vec<LogprobRow>> {
        let (mut draws, mut reports) = (Vec::with_capacity(wanted.len()), Vec::new());
        let first = self.num_sampled;
        for (row, wanted) in wanted.iter().enumerate() {
            let (given, target) = match &wanted.token {
                LogitToken::Given(token) => (Some(*token), LogprobTarget::Token(*token)),
                LogitToken::Sampled(params) => {
                    draws.push(SampleRow { row, params });
                    (None, LogprobTarget::Sampled(first + draws.len() - 1))
                }
            };
            let report = wanted.logprobs.map(|top| LogprobRow { row, target, top: top as usize });
            step.rows.push(Expected { given, report: report.map_or(0, |row| row.words(self.vocab_size)) });
            reports.extend(report);
        }
        if !draws.is_empty() {
            let tokens = self.sampled.view_mut()?.into_slice(first, draws.len())?;
            ops::sample(device, tokens, logits, &draws, &mut self.workspace)?;
            step.results.start(self.sampled.view().slice(first, draws.len())?)?;
            self.num_sampled += draws.len();
        }
        Ok(reports)
    }

    /// Works out log-probabilities, of tokens that are sampled by then.
    fn report(
        &mut self,
        device: &Device,
        logits: View<'_>,
        rows: &[LogprobRow],
        step: &mut Step,
    ) -> DeviceResult<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let words = rows.iter().map(|row| row.words(self.vocab_size)).sum();
        if words > self.reports.shape().elements() {
            self.reports = Tensor::zeros_on(device, [words], DType::U32)?;
        }
        ops::logprobs(
            device,
            self.reports.rows_mut(words)?,
            logits,
            self.sampled.rows(self.num_sampled)?,
            rows,
        )?;
        step.results.start(self.reports.rows(words)?)
    }
}

/// Takes a step's words apart.
fn unpack(chunks: Chunks<'_, Expected>, mut words: &[u32], outputs: &mut Vec<LogitOutput>) {
    let mut take = |count: usize| words.split_off(..count).unwrap_or_default();
    for rows in chunks {
        let mut sampled = take(rows.iter().filter(|row| row.given.is_none()).count()).iter();
        for row in rows {
            let token = row.given.or_else(|| sampled.next().copied()).unwrap_or(NO_TOKEN);
            outputs.push(unpack_row(token, take(row.report)));
        }
    }
}

/// A row's token and its report, if there is one.
fn unpack_row(token: u32, report: &[u32]) -> LogitOutput {
    let logprobs = (!report.is_empty()).then(|| TokenLogprobs::unpack(report));
    let fault = match &logprobs {
        _ if token == NO_TOKEN => Some(LogitFault::NoToken),
        Some(logprobs) if logprobs.logprob.is_nan() => Some(LogitFault::NotFinite),
        _ => None,
    };
    LogitOutput { token, logprobs: logprobs.filter(|_| fault.is_none()), fault }
}
