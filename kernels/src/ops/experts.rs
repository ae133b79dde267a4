//! The experts of a layer.

mod to_device;

use super::{check::Check, linear::Linear};
use crate::{DType, Matrix, Result, Tensor};

/// A gated feed-forward network.
#[derive(Debug)]
pub struct Expert {
    /// `[2I, H]` as two parts, gate and up.
    pub gate_up: Linear,
    /// `[H, I]`
    pub down: Linear,
}

/// E experts of one shape that compute in one type. All have biases, or none has.
#[derive(Debug)]
pub struct Experts {
    storage: Storage,
    count: usize,
    hidden: usize,
    intermediate: usize,
    compute: DType,
    biased: bool,
}

/// How their weights lie in memory.
#[derive(Debug)]
enum Storage {
    /// Each by itself: host memory.
    Each(Vec<Expert>),
    /// All together: a GPU's memory.
    Stacked(Box<StackedExperts>),
}

/// The weights of E experts on a GPU.
#[derive(Debug)]
pub(crate) struct StackedExperts {
    /// `[E, 2I, H]`, gate rows, then up rows.
    pub gate_up: Matrix,
    /// `[E, H, I]`
    pub down: Matrix,
    /// f32 `[E, 2I]`
    pub gate_up_bias: Option<Tensor>,
    /// f32 `[E, H]`
    pub down_bias: Option<Tensor>,
}

impl StackedExperts {
    fn size_in_bytes(&self) -> usize {
        let biases: usize = self.gate_up_bias.iter().chain(&self.down_bias).map(Tensor::size_in_bytes).sum();
        self.gate_up.size_in_bytes() + self.down.size_in_bytes() + biases
    }
}

impl Expert {
    /// Size of weights and biases.
    pub fn size_in_bytes(&self) -> usize {
        self.gate_up.size_in_bytes() + self.down.size_in_bytes()
    }

    fn biases(&self) -> impl Iterator<Item = bool> {
        self.gate_up.parts().iter().chain(self.down.parts()).map(|part| part.bias.is_some())
    }
}

impl Experts {
    /// The experts of a layer, in order of their ids.
    ///
    /// # Errors
    /// When there is none, or one differs from the first, or is not made of gate, up and down.
    pub fn new(experts: Vec<Expert>) -> Result<Experts> {
        let check = Check("Experts::new");
        let first = experts.first().ok_or_else(|| check.error("no experts".into()))?;
        let (hidden, intermediate) = (first.down.out_features(), first.down.in_features());
        let (compute, biased) =
            (first.down.compute(), first.down.parts().iter().any(|part| part.bias.is_some()));
        for (i, Expert { gate_up, down }) in experts.iter().enumerate() {
            let is = |linear: &Linear, parts: usize, [n, k]: [usize; 2]| {
                linear.parts().len() == parts
                    && linear.parts().iter().all(|part| part.out_features() == n)
                    && linear.in_features() == k
                    && linear.compute() == compute
            };
            let fits = is(gate_up, 2, [intermediate, hidden]) && is(down, 1, [hidden, intermediate]);
            check.that(fits, || {
                format!("expert {i} is not a network of {hidden} to {intermediate} in {compute}")
            })?;
            check.that(experts[i].biases().all(|bias| bias == biased), || {
                format!("expert {i} differs from expert 0 in its biases")
            })?;
        }
        let count = experts.len();
        Ok(Experts { storage: Storage::Each(experts), count, hidden, intermediate, compute, biased })
    }

    /// E, their number.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Each of them, in order of their ids; nothing when they lie on a GPU.
    pub fn as_slice(&self) -> &[Expert] {
        match &self.storage {
            Storage::Each(experts) => experts,
            Storage::Stacked(_) => &[],
        }
    }

    /// All of them together, when they lie on a GPU.
    pub(crate) fn stacked(&self) -> Option<&StackedExperts> {
        match &self.storage {
            Storage::Each(_) => None,
            Storage::Stacked(stacked) => Some(stacked),
        }
    }

    /// H, the width of inputs and outputs.
    pub fn hidden_size(&self) -> usize {
        self.hidden
    }

    /// I, the width in between.
    pub fn intermediate_size(&self) -> usize {
        self.intermediate
    }

    /// The type of inputs.
    pub fn compute(&self) -> DType {
        self.compute
    }

    /// All have biases.
    pub fn biased(&self) -> bool {
        self.biased
    }

    /// All matrices.
    pub fn matrices(&self) -> Vec<&Matrix> {
        match &self.storage {
            Storage::Each(experts) => {
                let linears = experts.iter().flat_map(|expert| [&expert.gate_up, &expert.down]);
                linears.flat_map(|linear| linear.parts()).map(|part| &part.weight).collect()
            }
            Storage::Stacked(stacked) => vec![&stacked.gate_up, &stacked.down],
        }
    }

    /// Size of weights and biases.
    pub fn size_in_bytes(&self) -> usize {
        match &self.storage {
            Storage::Each(experts) => experts.iter().map(Expert::size_in_bytes).sum(),
            Storage::Stacked(stacked) => stacked.size_in_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tensor, ops::LinearPart};

    fn linear(parts: usize, n: usize, k: usize, biased: bool) -> Linear {
        let part = |_| LinearPart {
            weight: Tensor::zeros([n, k], DType::F32).unwrap().into(),
            bias: biased.then(|| Tensor::zeros([n], DType::F32).unwrap()),
        };
        Linear::new((0..parts).map(part).collect()).unwrap()
    }

    #[test]
    fn misfits_are_named() {
        let good = || Expert { gate_up: linear(2, 3, 8, false), down: linear(1, 8, 3, false) };
        let message = |second| Experts::new(vec![good(), second]).unwrap_err().to_string();
        assert_eq!(Experts::new(vec![good(), good()]).unwrap().intermediate_size(), 3);
        assert_eq!(Experts::new(vec![]).unwrap_err().to_string(), "Experts::new: no experts");
        let misfit = "Experts::new: expert 1 is not a network of 8 to 3 in float32";
        for (parts, n, down) in [(1, 6, 3), (2, 4, 3), (2, 3, 4)] {
            let second = Expert { gate_up: linear(parts, n, 8, false), down: linear(1, 8, down, false) };
            assert_eq!(message(second), misfit);
        }
        assert_eq!(
            message(Expert { gate_up: linear(2, 3, 8, false), down: linear(1, 8, 3, true) }),
            "Experts::new: expert 1 differs from expert 0 in its biases"
        );
    }
}
