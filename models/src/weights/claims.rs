//! Claiming, part by part: which tensors a spec needs under a family's names.

mod feed_forward;
mod mixer;

use mosu_kernels::{
    Allocator, DType, Format, Matrix, Shape, Tensor,
    ops::{Linear, LinearPart, NormKind},
};

use super::{
    layout,
    parts::{DecoderWeights, LayerWeights, NormWeights},
    placement::placed,
    source::TensorSource,
};
use crate::{DecoderSpec, LayerSpec, LoadError, LoadProgress, tensor_names::TensorNames};

/// What a claim of a matrix is for.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    /// Meets activations of the compute type.
    Matrix,
    /// May be f32 among 16-bit matrices.
    Router,
}

/// What stands before every name but that of the output projection.
pub(super) fn prefix(source: &dyn TensorSource, names: &TensorNames) -> &'static str {
    let has_embedding = |prefix: &&&str| source.contains(&format!("{prefix}{}.weight", names.embedding));
    let prefix = names.prefixes.iter().find(has_embedding).or(names.prefixes.first()).copied();
    prefix.unwrap_or_default()
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
        Claims { spec, names, prefix: prefix(source, names), compute: None, progress, done, source }
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

    fn count(&mut self, bytes: usize, tensors: usize) {
        self.done.tensors_done += tensors;
        self.done.bytes_done += bytes as u64;
        (self.progress)(self.done);
    }

    fn tensor(&mut self, name: &str, shape: Shape) -> Result<Tensor, LoadError> {
        let tensor = self.source.claim(&format!("{}{name}", self.prefix), shape)?;
        self.count(tensor.size_in_bytes(), 1);
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
            self.count(tensor.size_in_bytes(), usize::from(index == 0));
        }
        Ok(tensors)
    }

    /// The weight `[out, in]` of a module, which meets activations, in whatever format it is stored.
    fn matrix(&mut self, module: &str, shape: [usize; 2]) -> Result<Matrix, LoadError> {
        let matrix = self.source.claim_matrix(&format!("{}{module}", self.prefix), shape)?;
        self.count(matrix.size_in_bytes(), 1 + usize::from(matrix.scales().is_some()));
        self.check_compute(&format!("{module}.weight"), matrix.format(), matrix.compute())?;
        Ok(matrix)
    }

    /// Weights `[out, in]` that are stored together and packed; `None` where they are floats.
    fn packed(
        &mut self,
        name: &str,
        count: usize,
        shape: [usize; 2],
    ) -> Result<Option<Vec<Matrix>>, LoadError> {
        let Some(matrices) = self.source.claim_packed(&format!("{}{name}", self.prefix), count, shape)?
        else {
            return Ok(None);
        };
        for (index, matrix) in matrices.iter().enumerate() {
            let tensors = 1 + usize::from(matrix.scales().is_some());
            self.count(matrix.size_in_bytes(), if index == 0 { tensors } else { 0 });
        }
        matrices.iter().try_for_each(|matrix| self.check_compute(name, matrix.format(), matrix.compute()))?;
        Ok(Some(matrices))
    }

    /// `count` weights `[out, in]` that are stored together, in whatever format.
    fn weights(&mut self, name: &str, count: usize, shape: [usize; 2]) -> Result<Vec<Matrix>, LoadError> {
        match self.packed(name, count, shape)? {
            Some(packed) => Ok(packed),
            None => Ok(self.matrices(name, count, shape)?.into_iter().map(Matrix::from).collect()),
        }
    }

    /// The pieces `shape` of a tensor of floats `[count, shape..]`, which meet activations.
    fn matrices(&mut self, name: &str, count: usize, shape: [usize; 2]) -> Result<Vec<Tensor>, LoadError> {
        let tensors = self.stack(name, count, Shape::new(shape))?;
        let check = |tensor: &Tensor| {
            let dtype = tensor.dtype();
            self.check_compute(name, Format::Float(dtype), dtype.compute())
        };
        tensors.iter().try_for_each(check)?;
        Ok(tensors)
    }

    fn check_compute(&mut self, name: &str, found: Format, meets: DType) -> Result<(), LoadError> {
        let compute = *self.compute.get_or_insert(meets);
        if meets == compute {
            return Ok(());
        }
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
        let transposed = self.names.transposed;
        let weight = if transposed {
            let weight = self.floats(module, layout::swapped(shape), role)?;
            let plain: Vec<usize> = (0..shape[0]).collect();
            layout::transposed(&weight, order.unwrap_or(&plain))?.into()
        } else {
            let weight = match role {
                Role::Matrix => self.matrix(module, shape)?,
                Role::Router => self.floats(module, Shape::new(shape), role)?.into(),
            };
            match order {
                Some(order) => layout::reordered_matrix(&weight, order)?,
                None => weight,
            }
        };
        let mut bias = self.tensor_if(bias, &format!("{module}.bias"), shape[0])?;
        if let (Some(stored), Some(order)) = (&bias, order) {
            bias = Some(layout::reordered(stored, order)?);
        }
        Ok(LinearPart { weight, bias })
    }

    /// The weight of a module that is never packed, in the shape that it is stored in.
    fn floats(&mut self, module: &str, stored: Shape, role: Role) -> Result<Tensor, LoadError> {
        let name = format!("{module}.weight");
        let weight = self.tensor(&name, stored)?;
        if role == Role::Matrix {
            let dtype = weight.dtype();
            self.check_compute(&name, Format::Float(dtype), dtype.compute())?;
        }
        Ok(weight)
    }

    fn linear(&mut self, module: &str, shape: [usize; 2], bias: bool) -> Result<Linear, LoadError> {
        Ok(Linear::new(vec![self.part(module, shape, bias)?])?)
    }

    /// A linear that is stored `[out, in]` by every family: the tables.
    fn stored_linear(&mut self, module: &str, shape: [usize; 2], bias: bool) -> Result<Linear, LoadError> {
        let weight = self.matrix(module, shape)?;
        let bias = self.tensor_if(bias, &format!("{module}.bias"), shape[0])?;
        Ok(Linear::new(vec![LinearPart { weight, bias }])?)
    }

    fn layer(&mut self, index: usize, spec: &LayerSpec) -> Result<LayerWeights, LoadError> {
        let (names, h) = (self.names, self.spec.hidden_size);
        let at = |module: &str| format!("{}.{index}.{module}", names.layers);
        Ok(LayerWeights {
            mixer_norm: self.norm(&at(names.mixer_norm), h)?,
            mixer: self.mixer(&at, &spec.mixer)?,
            mixer_post_norm: self.norm_if(spec.post_norms, &at(names.mixer_post_norm))?,
            ffn_norm: self.norm(&at(names.ffn_norm), h)?,
            ffn: self.ffn(&at, &spec.ffn)?,
            ffn_post_norm: self.norm_if(spec.post_norms, &at(names.ffn_post_norm))?,
        })
    }
}
