//! A model: a decoder in memory, ready to take steps.

mod load;
mod options;
mod progress;
#[cfg(test)]
mod tests;

use mosu_kernels::{Device, Result as DeviceResult};

use crate::{
    Batch, ModelInfo, StepError, StepOutput, batch_check::BatchLimits, cuda_graphs::CudaGraphs,
    decoder::Decoder, inputs::InputBuffer, sampler::Sampler,
};
pub(crate) use options::StepRows;
pub use options::{LoadFormat, ModelOptions, USUAL_TOKENS};
pub use progress::LoadProgress;

/// Weights, KV blocks and workspace of one decoder. What lies in which KV block is the caller's business.
pub struct Model {
    device: Device,
    inputs: InputBuffer,
    graphs: CudaGraphs,
    logit_rows: usize,
    decoder: Decoder,
    sampler: Sampler,
    limits: BatchLimits,
    info: ModelInfo,
}

impl Model {
    /// Facts about it.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The device computes steps while the caller goes on: starting one before the last is waited for saves time.
    pub fn is_asynchronous(&self) -> bool {
        matches!(self.device, Device::Cuda(_))
    }

    /// Computes one step: keys and values of the batch's rows go to their slots, and `output` gets one entry per logit
    /// row, its token sampled on the device.
    ///
    /// # Errors
    /// As [`Model::start`] and [`Model::finish`].
    pub fn step(&mut self, batch: &Batch, output: &mut StepOutput) -> Result<(), StepError> {
        self.start(batch)?;
        self.finish(output)
    }

    /// Starts a step. It sees all that was started before as done, and may take tokens from the last one that nobody
    /// knows yet: see [`Batch::pending`]. Two may be in flight. On the processor it is computed at once.
    ///
    /// # Errors
    /// [`StepError::Batch`] when the batch contradicts itself or the model; nothing was computed then.
    /// [`StepError::InFlight`] when two steps are in flight. [`StepError::Device`] when the device failed.
    pub fn start(&mut self, batch: &Batch) -> Result<(), StepError> {
        self.check(batch)?;
        self.sampler.check_room()?;
        self.compute(batch)?;
        Ok(self.sampler.start(&self.device, &mut self.decoder, batch)?)
    }

    /// Waits for the oldest step in flight. `output` gets one entry per logit row of its batch.
    ///
    /// # Errors
    /// [`StepError::InFlight`] when none is. [`StepError::Device`] when the device failed.
    pub fn finish(&mut self, output: &mut StepOutput) -> Result<(), StepError> {
        self.sampler.finish(output)
    }

    fn check(&self, batch: &Batch) -> Result<(), StepError> {
        let num_sampled = self.sampler.sampled()?.shape().elements();
        self.limits.check(batch, num_sampled)
    }

    /// Computes the hidden states of a checked batch, launch by launch or as a captured decode.
    fn compute(&mut self, batch: &Batch) -> DeviceResult<()> {
        let Model { device, inputs, graphs, decoder, sampler, .. } = self;
        let sampled = sampler.sampled()?;
        let Some(shape) = graphs.shape_of(batch) else {
            return decoder.forward(&inputs.load(device, batch, sampled)?);
        };
        let inputs = inputs.load(device, graphs.pad(batch, shape), sampled)?;
        graphs.run(shape, || decoder.decode(&inputs))?;
        decoder.has_decoded();
        Ok(())
    }

    /// As [`Model::step`], but returns the logits themselves, `[R, vocab_size]` for R logit rows, and draws nothing.
    /// For tests and analysis: copying logits is what [`Model::step`] avoids.
    ///
    /// # Errors
    /// As [`Model::step`].
    pub fn step_logits(&mut self, batch: &Batch) -> Result<Vec<f32>, StepError> {
        self.check(batch)?;
        self.compute(batch)?;
        let rows: Vec<u32> = batch.logit_rows.iter().map(|row| row.row).collect();
        let mut logits = Vec::with_capacity(rows.len() * self.info.vocab_size);
        for rows in rows.chunks(self.logit_rows) {
            let (device, of_rows) = self.decoder.logits(rows, batch.num_rows())?;
            logits.extend(of_rows.to_vec::<f32>(device)?);
        }
        Ok(logits)
    }
}
