//! Claiming, part by part: which tensors a spec needs under a family's names.

use std::iter::repeat_with;

use mosu_kernels::{
    Allocator, DType, Shape, Tensor,
    ops::{Expert, Experts, Linear, LinearPart, NormKind, NormSpan},
};

use super::{
    DecoderWeights, FfnWeights, LatentQueries, LatentWeights, LayerWeights, LowRankWeights, MoeWeights,
    NetworkWeights, NormWeights, QkvWeights, SharedWeights, TensorSource, layout, placement::placed,
};
use crate::{
    AttentionSpec, DecoderSpec, DenseSpec, FfnActivation, FfnSpec, LatentSpec, LayerSpec, LoadError,
    LoadProgress, LowRankSpec, MoeSpec,
    tensor_names::{ExpertNames, GateUpNames, NetworkNames, QkvNames, TensorNames},
};

/// What a claim of a matrix is for.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    /// Meets activations of the compute type.
    Matrix,
    /// May be f32 among 16-bit matrices.
    Router,
}

pub(super) struct Claims<'a> {
    source: &'a mut dyn TensorSource,
    spec: &'a DecoderSpec,
    names: &'a TensorNames,
    /// What stands before every name.
    prefix: &'static str,
    /// The type in which activations meet the matrices; the first matrix decides for all.
    compute: Option<DType>,
    progress: &'a mut dyn FnMut(LoadProgress),
    done: LoadProgress,
}

impl<'a> Claims<'a> {
    pub fn new(
        source: &'a mut dyn TensorSource,
        spec: &'a DecoderSpec,
        names: &'a TensorNames,
        progress: &'a mut dyn FnMut(LoadProgress),
    ) -> Claims<'a> {
        let (tensors_total, bytes_total) = source.totals();
        let done = LoadProgress { tensors_done: 0, tensors_total, bytes_done: 0, bytes_total };
        let has_embedding = |prefix: &&&str| source.contains(&format!("{prefix}{}.weight", names.embedding));
        let prefix = names.prefixes.iter().find(has_embedding).or(names.prefixes.first()).copied();
        Claims { spec, names, prefix: prefix.unwrap_or_default(), compute: None, progress, done, source }
    }

    /// All of a decoder's, in the memory of `to`.
    pub fn decoder(mut self, to: &Allocator<'_>) -> Result<DecoderWeights, LoadError> {
        let (spec, names) = (self.spec, self.names);
        let (v, h) = (spec.vocab_size, spec.hidden_size);
        let embedding = placed(self.stored_linear(names.embedding, [v, h], false)?, to)?;
        let positions = match spec.embedding.learned_positions {
            Some(rows) => Some(self.tensor(&format!("{}.weight", names.positions), Shape::new([rows, h]))?),
            None => None,
        };
        let positions = placed(positions, to)?;
        let embedding_norm = placed(self.norm_if(spec.embedding.norm, names.embedding_norm)?, to)?;
        let layer = |(index, layer)| Ok(placed(self.layer(index, layer)?, to)?);
        let layers = spec.layers.iter().enumerate().map(layer).collect::<Result<_, LoadError>>()?;
        let final_norm = placed(self.norm(names.final_norm, h)?, to)?;
        let untied_head = match spec.head.tied {
            true => None,
            false => {
                self.prefix = "";
                Some(placed(self.stored_linear(names.lm_head, [v, h], spec.head.bias)?, to)?)
            }
        };
        Ok(DecoderWeights { embedding, positions, embedding_norm, layers, final_norm, untied_head })
    }

    fn count(&mut self, tensor: &Tensor, tensors: usize) {
        self.done.tensors_done += tensors;
        self.done.bytes_done += tensor.size_in_bytes() as u64;
        (self.progress)(self.done);
    }

    fn tensor(&mut self, name: &str, shape: Shape) -> Result<Tensor, LoadError> {
        let tensor = self.source.claim(&format!("{}{name}", self.prefix), shape)?;
        self.count(&tensor, 1);
        Ok(tensor)
    }

    fn tensor_if(&mut self, wanted: bool, name: &str, width: usize) -> Result<Option<Tensor>, LoadError> {
        if wanted { self.tensor(name, Shape::new([width])).map(Some) } else { Ok(None) }
    }

    /// The pieces of a tensor `[count, piece..]`.
    fn stack(&mut self, name: &str, count: usize, piece: Shape) -> Result<Vec<Tensor>, LoadError> {
        let name = format!("{}{name}", self.prefix);
        let tensors = self.source.claim_stack(&name, count, piece)?;
        for (index, tensor) in tensors.iter().enumerate() {
            self.count(tensor, usize::from(index == 0));
        }
        Ok(tensors)
    }

    /// The pieces `shape` of a tensor `[count, shape..]`, which meet activations.
    fn matrices(&mut self, name: &str, count: usize, shape: [usize; 2]) -> Result<Vec<Tensor>, LoadError> {
        let tensors = self.stack(name, count, Shape::new(shape))?;
        tensors.iter().try_for_each(|tensor| self.check_compute(name, tensor))?;
        Ok(tensors)
    }

    fn check_compute(&mut self, name: &str, tensor: &Tensor) -> Result<(), LoadError> {
        let compute = *self.compute.get_or_insert(tensor.dtype().compute());
        if tensor.dtype().compute() == compute {
            return Ok(());
        }
        let found = tensor.dtype();
        let message = format!("is {found}, but the matrices before it compute in {compute}; convert it");
        Err(LoadError::checkpoint(self.source.file(), Some(name), message))
    }

    fn norm(&mut self, module: &str, width: usize) -> Result<NormWeights, LoadError> {
        let kind = self.spec.norm.kind;
        let weight = self.norm_weight(module, width)?;
        let bias = self.tensor_if(kind == NormKind::Layer, &format!("{module}.bias"), width)?;
        Ok(NormWeights { kind, eps: self.spec.norm.eps, weight, bias })
    }

    fn norm_if(&mut self, wanted: bool, module: &str) -> Result<Option<NormWeights>, LoadError> {
        if wanted { self.norm(module, self.spec.hidden_size).map(Some) } else { Ok(None) }
    }

    fn norm_weight(&mut self, module: &str, width: usize) -> Result<Tensor, LoadError> {
        let weight = self.tensor(&format!("{module}.{}", self.names.norm_weight), Shape::new([width]))?;
        if self.spec.norm.one_plus { Ok(layout::one_plus(&weight)?) } else { Ok(weight) }
    }

    /// A weight `[out, in]`, and a bias `[out]` where `bias`.
    fn part(&mut self, module: &str, shape: [usize; 2], bias: bool) -> Result<LinearPart, LoadError> {
        self.part_in_order(module, shape, bias, Role::Matrix, None)
    }

    fn part_in_order(
        &mut self,
        module: &str,
        shape: [usize; 2],
        bias: bool,
        role: Role,
        order: Option<&[usize]>,
    ) -> Result<LinearPart, LoadError> {
        let name = format!("{module}.weight");
        let transposed = self.names.transposed;
        let stored = if transposed { layout::swapped(shape) } else { Shape::new(shape) };
        let mut weight = self.tensor(&name, stored)?;
        if role == Role::Matrix {
            self.check_compute(&name, &weight)?;
        }
        let mut bias = self.tensor_if(bias, &format!("{module}.bias"), shape[0])?;
        if transposed {
            let plain: Vec<usize> = (0..shape[0]).collect();
            weight = layout::transposed(&weight, order.unwrap_or(&plain))?;
        } else if let Some(order) = order {
            weight = layout::reordered(&weight, order)?;
        }
        if let (Some(stored), Some(order)) = (&bias, order) {
            bias = Some(layout::reordered(stored, order)?);
        }
        Ok(LinearPart { weight, bias })
    }

    fn linear(&mut self, module: &str, shape: [usize; 2], bias: bool) -> Result<Linear, LoadError> {
        Ok(Linear::new(vec![self.part(module, shape, bias)?])?)
    }

    /// A linear that is stored `[out, in]` by every family: the tables.
    fn stored_linear(&mut self, module: &str, shape: [usize; 2], bias: bool) -> Result<Linear, LoadError> {
        let name = format!("{module}.weight");
        let weight = self.tensor(&name, Shape::new(shape))?;
        self.check_compute(&name, &weight)?;
        let bias = self.tensor_if(bias, &format!("{module}.bias"), shape[0])?;
        Ok(Linear::new(vec![LinearPart { weight, bias }])?)
    }

    fn layer(&mut self, index: usize, spec: &LayerSpec) -> Result<LayerWeights, LoadError> {
        let (names, h) = (self.names, self.spec.hidden_size);
        let at = |module: &str| format!("{}.{index}.{module}", names.layers);
        let AttentionSpec { num_heads, num_kv_heads, head_dim, .. } = spec.attention;
        let (q, kv) = (num_heads * head_dim, num_kv_heads * head_dim);
        let attention_norm = self.norm(&at(names.attention_norm), h)?;
        let qkv = self.qkv(&at, &spec.attention)?;
        let qk_norm = match spec.attention.qk_norm.filter(|norm| norm.weighted) {
            Some(norm) => {
                let [of_q, of_k] = if norm.span == NormSpan::Head { [head_dim; 2] } else { [q, kv] };
                Some([self.norm_weight(&at(names.q_norm), of_q)?, self.norm_weight(&at(names.k_norm), of_k)?])
            }
            None => None,
        };
        Ok(LayerWeights {
            attention_norm,
            qkv,
            qk_norm,
            sinks: self.tensor_if(spec.attention.sinks, &at(names.sinks), num_heads)?,
            head_gate: match spec.attention.head_gate {
                true => Some(self.linear(&at(names.head_gate), [num_heads, h], false)?),
                false => None,
            },
            o_proj: self.linear(
                &at(names.o_proj),
                [h, spec.attention.attended_dim()],
                spec.attention.o_bias,
            )?,
            attention_post_norm: self.norm_if(spec.post_norms, &at(names.attention_post_norm))?,
            ffn_norm: self.norm(&at(names.ffn_norm), h)?,
            ffn: self.ffn(&at, &spec.ffn)?,
            ffn_post_norm: self.norm_if(spec.post_norms, &at(names.ffn_post_norm))?,
        })
    }

    fn qkv(&mut self, at: &dyn Fn(&str) -> String, spec: &AttentionSpec) -> Result<QkvWeights, LoadError> {
        let AttentionSpec { num_heads, num_kv_heads, head_dim, qkv_bias: bias, .. } = *spec;
        let (q, kv, h) = (num_heads * head_dim, num_kv_heads * head_dim, self.spec.hidden_size);
        let parts = match (self.names.qkv, spec.low_rank_q) {
            (QkvNames::LowRank { q_down, q_down_norm, q_up, k, v }, Some(narrow)) => {
                let q = self.low_rank([&at(q_down), &at(q_down_norm), &at(q_up)], narrow, q, bias)?;
                let parts = vec![self.part(&at(k), [kv, h], bias)?, self.part(&at(v), [kv, h], bias)?];
                return Ok(QkvWeights::LowRank { q: Box::new(q), kv: Linear::new(parts)? });
            }
            (QkvNames::Latent { .. }, _) => return self.latent(at, spec),
            (QkvNames::Split { q: q_proj, k, v } | QkvNames::LowRank { q_up: q_proj, k, v, .. }, _) => vec![
                self.part(&at(q_proj), [q, h], bias)?,
                self.part(&at(k), [kv, h], bias)?,
                self.part(&at(v), [kv, h], bias)?,
            ],
            (QkvNames::Fused(module), _) => vec![self.part(&at(module), [q + 2 * kv, h], bias)?],
            (QkvNames::Grouped(module), _) => {
                let order = layout::ungrouped(num_kv_heads, num_heads / num_kv_heads, head_dim);
                let shape = [q + 2 * kv, h];
                vec![self.part_in_order(&at(module), shape, bias, Role::Matrix, Some(&order))?]
            }
        };
        Ok(QkvWeights::Direct(Linear::new(parts)?))
    }

    /// Modules down, norm and up to queries of width `q`.
    fn low_rank(
        &mut self,
        [down, norm, up]: [&str; 3],
        spec: LowRankSpec,
        q: usize,
        bias: bool,
    ) -> Result<LowRankWeights, LoadError> {
        let LowRankSpec { rank, norm_eps } = spec;
        Ok(LowRankWeights {
            down: self.linear(down, [rank, self.spec.hidden_size], bias)?,
            norm: NormWeights { eps: norm_eps, ..self.norm(norm, rank)? },
            up: self.linear(up, [q, rank], bias)?,
        })
    }

    /// Latent attention. The matrix from the latent to keys and values is copied into the two that attention needs.
    fn latent(&mut self, at: &dyn Fn(&str) -> String, spec: &AttentionSpec) -> Result<QkvWeights, LoadError> {
        let (QkvNames::Latent { q: q_proj, q_down, q_down_norm, q_up, kv_down, kv_norm, kv_up }, Some(kv)) =
            (self.names.qkv, spec.latent_kv)
        else {
            let message = "the family's names are those of latent attention, its layers are not";
            return Err(LoadError::malformed(self.source.file(), message));
        };
        let (q, h) = (spec.num_heads * spec.head_dim, self.spec.hidden_size);
        let LatentSpec { latent: LowRankSpec { rank, norm_eps }, nope_dim, value_dim } = kv;
        let queries = match spec.low_rank_q {
            None => LatentQueries::Direct(self.linear(&at(q_proj), [q, h], false)?),
            Some(narrow) => {
                let modules = [&at(q_down)[..], &at(q_down_norm), &at(q_up)];
                LatentQueries::LowRank(Box::new(self.low_rank(modules, narrow, q, false)?))
            }
        };
        let kv_down = self.linear(&at(kv_down), [spec.latent_row(kv), h], false)?;
        let kv_norm = NormWeights { eps: norm_eps, ..self.norm(&at(kv_norm), rank)? };
        let kv_up = self.part(&at(kv_up), [spec.num_heads * (nope_dim + value_dim), rank], false)?;
        let [w_uk, w_uv] = layout::split_latent(&kv_up.weight, spec.num_heads, [nope_dim, value_dim])?;
        Ok(QkvWeights::Latent(Box::new(LatentWeights { q: queries, kv_down, kv_norm, w_uk, w_uv })))
    }

    fn ffn(&mut self, at: &dyn Fn(&str) -> String, spec: &FfnSpec) -> Result<FfnWeights, LoadError> {
        match spec {
            FfnSpec::Dense(dense) => Ok(FfnWeights::Dense(self.network(at, &self.names.dense, dense)?)),
            FfnSpec::Moe(moe) => Ok(FfnWeights::Moe(Box::new(self.moe(at, moe)?))),
        }
    }

    fn moe(&mut self, at: &dyn Fn(&str) -> String, spec: &MoeSpec) -> Result<MoeWeights, LoadError> {
        let (names, h, e) = (self.names, self.spec.hidden_size, spec.num_experts);
        let router = self.part_in_order(&at(names.router), [e, h], spec.router_bias, Role::Router, None)?;
        let selection_bias = self.tensor_if(spec.selection_bias, &at(names.selection_bias), e)?;
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
        Ok(MoeWeights { spec: spec.clone(), router, selection_bias, expert_scale, experts, shared })
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
                let gates = self.matrices(&at(gate), e, [i, h])?;
                let ups = self.matrices(&at(up), e, [i, h])?;
                let downs = self.matrices(&at(down), e, [h, i])?;
                let part = |weight| LinearPart { weight, bias: None };
                let expert = |((gate, up), down)| {
                    let gate_up = Linear::new(vec![part(gate), part(up)])?;
                    Ok(Expert { gate_up, down: Linear::new(vec![part(down)])? })
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
        let packed = self.source.contains(&format!("{}{name}_blocks", self.prefix));
        let weights = match packed {
            true => self.mxfp4(name, count, [outputs, inputs])?,
            false => self.matrices(name, count, [inputs, outputs])?,
        };
        let biases = match bias {
            true => self.stack(&format!("{name}_bias"), count, Shape::new([outputs]))?,
            false => Vec::new(),
        };
        let biases = biases.into_iter().map(Some).chain(repeat_with(|| None));
        let linear = |(weight, bias): (Tensor, Option<Tensor>)| {
            let part = |order: &&[usize]| {
                let weight = if packed {
                    layout::reordered(&weight, order)
                } else {
                    layout::transposed(&weight, order)
                };
                let bias = bias.as_ref().map(|bias| layout::reordered(bias, order)).transpose()?;
                Ok(LinearPart { weight: weight?, bias })
            };
            Ok(Linear::new(orders.iter().map(part).collect::<Result<_, LoadError>>()?)?)
        };
        weights.into_iter().zip(biases).map(linear).collect()
    }

    /// `count` matrices `[out, in]` from the MXFP4 tensors `<name>_blocks` and `<name>_scales`.
    fn mxfp4(&mut self, name: &str, count: usize, shape: [usize; 2]) -> Result<Vec<Tensor>, LoadError> {
        let name = format!("{}{name}", self.prefix);
        let tensors = self.source.claim_mxfp4(&name, count, shape)?;
        for (index, tensor) in tensors.iter().enumerate() {
            self.count(tensor, if index == 0 { 2 } else { 0 });
        }
        Ok(tensors)
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
