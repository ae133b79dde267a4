//! Claiming feed-forward networks and experts.

use std::iter::repeat_with;

use mosu_kernels::{
    Matrix, Shape, Tensor,
    ops::{Expert, Experts, Linear, LinearPart},
};

use super::{Claims, Role};
use crate::{
    DenseSpec, FfnActivation, FfnSpec, LoadError, MoeSpec,
    tensor_names::{ExpertNames, GateUpNames, NetworkNames},
    weights::{
        layout,
        parts::{FfnWeights, MoeWeights, NetworkWeights, SharedWeights},
    },
};

impl Claims<'_> {
    /// A layer's feed-forward part.
    pub(super) fn ffn(
        &mut self,
        at: &dyn Fn(&str) -> String,
        spec: &FfnSpec,
    ) -> Result<FfnWeights, LoadError> {
        match spec {
            FfnSpec::Dense(dense) => Ok(FfnWeights::Dense(self.network(at, &self.names.dense, dense)?)),
            FfnSpec::Moe(moe) => Ok(FfnWeights::Moe(Box::new(self.moe(at, moe)?))),
        }
    }

    fn moe(&mut self, at: &dyn Fn(&str) -> String, spec: &MoeSpec) -> Result<MoeWeights, LoadError> {
        let (names, h, e) = (self.names, self.spec.hidden_size, spec.num_experts);
        let router = self.part_in_order(&at(names.router), [e, h], spec.router_bias, Role::Router, None)?;
        let e_score_correction_bias =
            self.tensor_if(spec.e_score_correction_bias, &at(names.e_score_correction_bias), e)?;
        let expert_scale = self.tensor_if(spec.expert_scale, &at(names.expert_scale), e)?;
        let experts = Experts::new(self.experts(at, spec)?)?;
        let shared = match &spec.shared {
            None => None,
            Some(shared) => Some(SharedWeights {
                network: self.network(at, &names.shared, &shared.network)?,
                gate: match shared.gated {
                    true => Some(self.linear(&at(names.shared_gate), [1, h], false)?),
                    false => None,
                },
                sum_scale: shared.sum_scale,
            }),
        };
        let router = Linear::new(vec![router])?;
        Ok(MoeWeights { spec: spec.clone(), router, e_score_correction_bias, expert_scale, experts, shared })
    }

    fn experts(&mut self, at: &dyn Fn(&str) -> String, spec: &MoeSpec) -> Result<Vec<Expert>, LoadError> {
        let (e, i, h, bias) =
            (spec.num_experts, spec.intermediate_size, self.spec.hidden_size, spec.expert_bias);
        match self.names.experts {
            ExpertNames::Each { list, network } => {
                let shape =
                    DenseSpec { intermediate_size: i, activation: FfnActivation::Gated(spec.glu), bias };
                let expert = |e: usize| {
                    let at = |module: &str| at(&format!("{list}.{e}.{module}"));
                    let NetworkWeights { gate_up, down, .. } = self.network(&at, &network, &shape)?;
                    Ok(Expert { gate_up, down })
                };
                (0..e).map(expert).collect()
            }
            ExpertNames::Stacked { gate, up, down } => {
                let gates = self.stacked(&at(gate), e, [i, h], bias)?;
                let ups = self.stacked(&at(up), e, [i, h], bias)?;
                let downs = self.stacked(&at(down), e, [h, i], bias)?;
                let expert = |((gate, up), down)| {
                    let gate_up = Linear::new(vec![gate, up])?;
                    Ok(Expert { gate_up, down: Linear::new(vec![down])? })
                };
                gates.into_iter().zip(ups).zip(downs).map(expert).collect()
            }
            ExpertNames::Transposed { gate_up, down, interleaved } => {
                let order = if interleaved { layout::deinterleaved(i) } else { (0..2 * i).collect() };
                let (gate, up) = order.split_at(i);
                let gate_ups = self.transposed_stack(&at(gate_up), e, [2 * i, h], &[gate, up], bias)?;
                let all: Vec<usize> = (0..h).collect();
                let downs = self.transposed_stack(&at(down), e, [h, i], &[&all], bias)?;
                let experts = gate_ups.into_iter().zip(downs);
                Ok(experts.map(|(gate_up, down)| Expert { gate_up, down }).collect())
            }
        }
    }

    /// `count` linears `[out, in]` from one tensor `[count, out, in]` and, with `bias`, one `[count, out]`.
    fn stacked(
        &mut self,
        name: &str,
        count: usize,
        shape: [usize; 2],
        bias: bool,
    ) -> Result<Vec<LinearPart>, LoadError> {
        let weights = self.weights(name, count, shape)?;
        let biases = match bias {
            true => self.stack(&name.replace(".weight", ".bias"), count, Shape::new([shape[0]]))?,
            false => Vec::new(),
        };
        let biases = biases.into_iter().map(Some).chain(repeat_with(|| None));
        Ok(weights.into_iter().zip(biases).map(|(weight, bias)| LinearPart { weight, bias }).collect())
    }

    /// `count` linears `[out, in]` from one tensor `[count, in, out]` and, with `bias`, one `[count, out]`. The outputs
    /// of part p are `orders[p]`.
    fn transposed_stack(
        &mut self,
        name: &str,
        count: usize,
        [outputs, inputs]: [usize; 2],
        orders: &[&[usize]],
        bias: bool,
    ) -> Result<Vec<Linear>, LoadError> {
        let packed = self.packed(name, count, [outputs, inputs])?;
        let is_packed = packed.is_some();
        let weights: Vec<Matrix> = match packed {
            Some(packed) => packed,
            None => self.matrices(name, count, [inputs, outputs])?.into_iter().map(Matrix::from).collect(),
        };
        let biases = match bias {
            true => self.stack(&format!("{name}_bias"), count, Shape::new([outputs]))?,
            false => Vec::new(),
        };
        let biases = biases.into_iter().map(Some).chain(repeat_with(|| None));
        let linear = |(weight, bias): (Matrix, Option<Tensor>)| {
            let part = |order: &&[usize]| {
                let weight = match is_packed {
                    true => layout::reordered_matrix(&weight, order)?,
                    false => layout::transposed(weight.values(), order)?.into(),
                };
                let bias = bias.as_ref().map(|bias| layout::reordered(bias, order)).transpose()?;
                Ok(LinearPart { weight, bias })
            };
            Ok(Linear::new(orders.iter().map(part).collect::<Result<_, LoadError>>()?)?)
        };
        weights.into_iter().zip(biases).map(linear).collect()
    }

    fn network(
        &mut self,
        at: &dyn Fn(&str) -> String,
        names: &NetworkNames,
        spec: &DenseSpec,
    ) -> Result<NetworkWeights, LoadError> {
        let (i, h, bias) = (spec.intermediate_size, self.spec.hidden_size, spec.bias);
        let parts = match names.gate_up {
            GateUpNames::Split { gate, up } => {
                vec![self.part(&at(gate), [i, h], bias)?, self.part(&at(up), [i, h], bias)?]
            }
            GateUpNames::Fused(module) => vec![self.part(&at(module), [2 * i, h], bias)?],
            GateUpNames::Plain(module) => vec![self.part(&at(module), [i, h], bias)?],
        };
        Ok(NetworkWeights {
            activation: spec.activation,
            gate_up: Linear::new(parts)?,
            down: self.linear(&at(names.down), [h, i], bias)?,
        })
    }
}
