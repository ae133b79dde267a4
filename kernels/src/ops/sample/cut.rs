//! Which tokens top-k, top-p and min-p leave, found without sorting the vocabulary.

/// A place in the order of tokens: descending logits, ties by ascending id. Tokens up to it are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cut {
    logit: f32,
    id: u32,
}

impl Cut {
    /// Keeps every token that can be sampled at all.
    pub(super) const NOTHING: Cut = Cut { logit: f32::MIN, id: u32::MAX };

    #[inline(always)]
    pub(super) fn keeps(self, id: u32, logit: f32) -> bool {
        logit > self.logit || (logit == self.logit && id <= self.id)
    }

    /// Also cuts tokens with a smaller logit than this.
    pub(super) fn at_least(self, logit: f32) -> Cut {
        if logit > self.logit { Cut { logit, id: u32::MAX } } else { self }
    }
}

/// Bins of a [`Histogram`]: a 64th of a nat each, the last without end.
const BINS: usize = 2048;

/// Tokens and their weights by logit, which is at most 0 (the largest was subtracted).
#[derive(Debug)]
pub(super) struct Histogram {
    counts: Vec<u32>,
    masses: Vec<f64>,
    /// (logit, id) of the tokens of one bin; never grows over the vocabulary.
    bin: Vec<(f32, u32)>,
}

impl Histogram {
    pub(super) fn new(vocab: usize) -> Result<Histogram, ()> {
        let mut bin = Vec::new();
        bin.try_reserve_exact(vocab).map_err(|_| ())?;
        Ok(Histogram { counts: vec![0; BINS], masses: vec![0.0; BINS], bin })
    }

    pub(super) fn bytes(&self) -> usize {
        BINS * 12 + self.bin.capacity() * 8
    }

    fn bin_of(logit: f32) -> usize {
        ((-64.0 * logit) as usize).min(BINS - 1)
    }

    /// A logit that at least `n` tokens reach: the `n`-th largest maximum of a block of tokens.
    pub(super) fn threshold_of_count(&mut self, n: usize, maxima: &[f32]) -> f32 {
        if n > maxima.len() {
            return f32::MIN;
        }
        self.bin.clear();
        self.bin.extend(maxima.iter().map(|&max| (max, 0)));
        self.bin.select_nth_unstable_by(n - 1, |a, b| b.0.total_cmp(&a.0)).1.0
    }

    /// Counts and weighs the candidates that `cut` keeps.
    pub(super) fn fill(&mut self, candidates: &[u32], logits: &[f32], weights: &[f32], cut: Cut) {
        self.counts.fill(0);
        self.masses.fill(0.0);
        for &id in candidates {
            let logit = logits[id as usize];
            if cut.keeps(id, logit) {
                let bin = Histogram::bin_of(logit);
                self.counts[bin] += 1;
                self.masses[bin] += f64::from(weights[id as usize]);
            }
        }
    }

    /// The weight of all that is in it.
    pub(super) fn mass(&self) -> f64 {
        self.masses.iter().sum()
    }

    /// Keeps the first `n >= 1` tokens.
    pub(super) fn at_count(&mut self, n: usize, candidates: &[u32], logits: &[f32], cut: Cut) -> Cut {
        let mut before = 0;
        for bin in 0..BINS {
            let count = self.counts[bin] as usize;
            if before + count >= n {
                self.sort(bin, candidates, logits, cut);
                let (logit, id) = self.bin[n - before - 1];
                return Cut { logit, id };
            }
            before += count;
        }
        cut
    }

    /// Keeps the first tokens whose weights reach `wanted`, at least one.
    pub(super) fn at_mass(
        &mut self,
        wanted: f64,
        candidates: &[u32],
        logits: &[f32],
        weights: &[f32],
        cut: Cut,
    ) -> Cut {
        let mut before = 0.0;
        for bin in 0..BINS {
            if before + self.masses[bin] >= wanted && self.counts[bin] > 0 {
                self.sort(bin, candidates, logits, cut);
                let reached = self.bin.iter().find(|&&(_, id)| {
                    before += f64::from(weights[id as usize]);
                    before >= wanted
                });
                // Sums in different order may differ in the last bit: then the bin's last token is the one.
                return reached.or(self.bin.last()).map_or(cut, |&(logit, id)| Cut { logit, id });
            }
            before += self.masses[bin];
        }
        cut
    }

    /// Puts the kept candidates of a bin in order.
    fn sort(&mut self, bin: usize, candidates: &[u32], logits: &[f32], cut: Cut) {
        self.bin.clear();
        let all = candidates.iter().map(|&id| (logits[id as usize], id));
        let of_bin = all.filter(|&(logit, id)| cut.keeps(id, logit) && Histogram::bin_of(logit) == bin);
        self.bin.extend(of_bin);
        self.bin.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    }
}

/// A logit below which no token is among the first that reach the share `p` of `sum`: all tokens below together weigh
/// less than the rest.
pub(super) fn threshold_of_mass(p: f64, sum: f64, vocab: usize) -> f32 {
    // Lower by a thousandth than needed, so that rounding does not matter.
    (((1.0 - p) * sum / vocab as f64).ln() - 0.001) as f32
}
