//! From logits to tokens and log-probabilities, both on the device.

use mosu_kernels::{
    Device, KernelError, View,
    ops::{self, LogprobRow, NO_TOKEN, SampleRow, SampleWorkspace, TokenLogprobs},
};

use crate::{
    Batch, LogitFault, LogitOutput, LogitRow, LogitToken, StepError, StepOutput, decoder::Decoder,
    workspace::LOGIT_ROWS,
};

/// Memory for drawing tokens.
pub(crate) struct Sampler(SampleWorkspace);

impl Sampler {
    /// For rows of `vocab_size` logits.
    pub fn new(device: &Device, vocab_size: usize) -> Result<Sampler, KernelError> {
        Ok(Sampler(SampleWorkspace::new(device, vocab_size)?))
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Fills `output` with one entry per logit row of the batch that `decoder` has just computed.
    pub fn run(
        &mut self,
        decoder: &mut Decoder,
        batch: &Batch,
        output: &mut StepOutput,
    ) -> Result<(), StepError> {
        output.rows.clear();
        output.rows.resize_with(batch.logit_rows.len(), LogitOutput::default);
        for (wanted, output) in batch.logit_rows.chunks(LOGIT_ROWS).zip(output.rows.chunks_mut(LOGIT_ROWS)) {
            let rows: Vec<u32> = wanted.iter().map(|wanted| wanted.row).collect();
            let (device, logits) = decoder.logits(&rows, batch.num_rows())?;
            self.draw(device, logits, wanted, output)?;
            report(device, logits, wanted, output)?;
        }
        Ok(())
    }

    /// Sets every entry's token.
    fn draw(
        &mut self,
        device: &Device,
        logits: View<'_>,
        wanted: &[LogitRow],
        output: &mut [LogitOutput],
    ) -> Result<(), KernelError> {
        let mut rows = Vec::with_capacity(wanted.len());
        for (row, (wanted, output)) in wanted.iter().zip(&mut *output).enumerate() {
            match &wanted.token {
                LogitToken::Sampled(params) => rows.push(SampleRow { row, params }),
                LogitToken::Given(token) => output.token = *token,
            }
        }
        let mut tokens = vec![NO_TOKEN; rows.len()];
        ops::sample(device, &mut tokens, logits, &rows, &mut self.0)?;
        for (SampleRow { row, .. }, token) in rows.iter().zip(tokens) {
            output[*row].token = token;
            output[*row].fault = (token == NO_TOKEN).then_some(LogitFault::NoToken);
        }
        Ok(())
    }
}

/// Adds the log-probabilities that were asked for.
fn report(
    device: &Device,
    logits: View<'_>,
    wanted: &[LogitRow],
    output: &mut [LogitOutput],
) -> Result<(), KernelError> {
    let mut rows = Vec::new();
    for (row, (wanted, output)) in wanted.iter().zip(&*output).enumerate() {
        if let (Some(top), None) = (wanted.logprobs, output.fault) {
            rows.push(LogprobRow { row, target: output.token, top: top as usize });
        }
    }
    let mut reports = vec![TokenLogprobs::default(); rows.len()];
    ops::logprobs(device, &mut reports, logits, &rows)?;
    for (LogprobRow { row, .. }, report) in rows.iter().zip(reports) {
        match report.logprob.is_nan() {
            true => output[*row].fault = Some(LogitFault::NotFinite),
            false => output[*row].logprobs = Some(report),
        }
    }
    Ok(())
}
