//! What happens to a row's logits before a token is sampled: penalties, bias and banned tokens.

use super::{BLOCK, SampleParams, SeenTokens};

impl SeenTokens {
    fn load_into(&self, counts: &mut [u32]) {
        let Some(load) = &self.load else { return };
        counts.fill(0);
        for token in load {
            counts[token.id as usize] = token.output_count + 1;
        }
    }
}

impl SampleParams {
    /// Applies penalties, bias and banned tokens. `counts` are those of the row's slot.
    pub(super) fn adjust(&self, logits: &mut [f32], counts: Option<&mut [u32]>) {
        if let (Some(counts), Some(seen)) = (counts, &self.seen) {
            seen.load_into(counts);
            self.penalize_all(logits, counts);
        }
        for &(id, bias) in &*self.logit_bias {
            logits[id as usize] += bias;
        }
        for &id in &*self.banned {
            logits[id as usize] = f32::NEG_INFINITY;
        }
    }

    /// Most blocks hold no token that was seen.
    fn penalize_all(&self, logits: &mut [f32], counts: &[u32]) {
        for (logits, counts) in logits.chunks_mut(BLOCK).zip(counts.chunks(BLOCK)) {
            if counts.iter().fold(0, |any, count| any | count) == 0 {
                continue;
            }
            for (logit, &count) in logits.iter_mut().zip(counts).filter(|(_, count)| **count > 0) {
                self.penalize(logit, count - 1);
            }
        }
    }

    /// Penalises a token that was seen, and so many times in the output.
    fn penalize(&self, logit: &mut f32, output_count: u32) {
        let factor = self.repetition_penalty;
        *logit = if *logit > 0.0 { *logit / factor } else { *logit * factor };
        if output_count > 0 {
            *logit -= self.frequency_penalty * output_count as f32 + self.presence_penalty;
        }
    }
}
