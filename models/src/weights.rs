//! A spec and a source of tensors make the weights of a decoder. Each tensor is claimed exactly once, with the shape
//! that the spec implies.

use std::path::Path;

use half::{bf16, f16};
use mosu_kernels::{
    DType, KernelError, Shape, Tensor, View,
    ops::{Expert, Experts, Linear, LinearPart},
};

use crate::{
    AttentionSpec, DecoderSpec, FfnSpec, LayerSpec, LoadError, LoadProgress, MoeSpec,
    tensor_names::{GatedNames, TensorNames},
};

/// Where tensors come from: a checkpoint's files, or a generator of random ones.
pub(crate) trait TensorSource {
    /// The tensor of that name and shape.
    fn claim(&mut self, name: &str, shape: Shape) -> Result<Tensor, LoadError>;

    /// How many tensors there are, and their bytes.
    fn totals(&self) -> (usize, u64);

    /// The file that errors about a tensor name.
    fn file(&self) -> &Path;
}

/// A tensor's bytes, to fill.
pub(crate) fn bytes_mut(tensor: &mut Tensor) -> Result<&mut [u8], KernelError> {
    Ok(match tensor.dtype() {
        DType::F32 => bytemuck::cast_slice_mut(tensor.as_mut_slice::<f32>()?),
        DType::F16 => bytemuck::cast_slice_mut(tensor.as_mut_slice::<f16>()?),
        DType::BF16 => bytemuck::cast_slice_mut(tensor.as_mut_slice::<bf16>()?),
        DType::U32 => bytemuck::cast_slice_mut(tensor.as_mut_slice::<u32>()?),
    })
}

/// All weights of a decoder. V vocabulary, H hidden size.
pub(crate) struct DecoderWeights {
    /// `[V, H]`; also the output projection when the embeddings are tied.
    pub embedding: Linear,
    /// First to last.
    pub layers: Vec<LayerWeights>,
    /// `[H]`
    pub final_norm: Tensor,
    /// `[V, H]`, unless tied.
    untied_head: Option<Linear>,
}

impl DecoderWeights {
    /// The embedding table `[V, H]`.
    pub fn embedding_table(&self) -> View<'_> {
        self.embedding.parts()[0].weight.view()
    }

    /// Element type of the matrices.
    pub fn dtype(&self) -> DType {
        self.embedding.dtype()
    }

    /// Size of all weights.
    pub fn size_in_bytes(&self) -> u64 {
        let tables =
            self.embedding.size_in_bytes() + self.untied_head.as_ref().map_or(0, Linear::size_in_bytes);
        let layers: usize = self.layers.iter().map(LayerWeights::size_in_bytes).sum();
        (tables + layers + self.final_norm.size_in_bytes()) as u64
    }

    /// The output projection `[V, H]`.
    pub fn lm_head(&self) -> &Linear {
        self.untied_head.as_ref().unwrap_or(&self.embedding)
    }
}

/// One layer. Q, KV: heads times head_dim.
pub(crate) struct LayerWeights {
    /// `[H]`
    pub attention_norm: Tensor,
    /// q, k and v side by side, `[Q + 2 KV, H]` in all.
    pub qkv: Linear,
    /// `[head_dim]` each, of queries and keys.
    pub qk_norm: Option<(Tensor, Tensor)>,
    /// `[H, Q]`
    pub o_proj: Linear,
    /// `[H]`
    pub ffn_norm: Tensor,
    /// What follows attention.
    pub ffn: FfnWeights,
}

impl LayerWeights {
    fn size_in_bytes(&self) -> usize {
        let ffn = match &self.ffn {
            FfnWeights::Dense(network) => network.size_in_bytes(),
            FfnWeights::Moe { router, experts, .. } => router.size_in_bytes() + experts.size_in_bytes(),
        };
        let qk_norm = self.qk_norm.as_ref().map_or(0, |(q, k)| q.size_in_bytes() + k.size_in_bytes());
        let norms = self.attention_norm.size_in_bytes() + self.ffn_norm.size_in_bytes() + qk_norm;
        self.qkv.size_in_bytes() + self.o_proj.size_in_bytes() + norms + ffn
    }
}

/// The feed-forward part. I intermediate size, E experts.
pub(crate) enum FfnWeights {
    /// `gate_up` is `[2 I, H]`, `down` is `[H, I]`.
    Dense(Expert),
    /// The router is `[E, H]`.
    Moe {
        /// Sizes, and what is done with the scores.
        spec: MoeSpec,
        /// Scores the experts.
        router: Linear,
        /// E of them.
        experts: Experts,
    },
}

/// Claims every tensor that `spec` needs.
///
/// # Errors
/// When a tensor is missing or does not have the shape or type that it should, and when memory is short.
pub(crate) fn load(
    source: &mut dyn TensorSource,
    spec: &DecoderSpec,
    names: &TensorNames,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<DecoderWeights, LoadError> {
    let (tensors_total, bytes_total) = source.totals();
    let done = LoadProgress { tensors_done: 0, tensors_total, bytes_done: 0, bytes_total };
    let mut claims = Claims { source, hidden_size: spec.hidden_size, names, compute: None, progress, done };
    let embedding = claims.linear(&[names.embedding.into()], &[spec.vocab_size], spec.hidden_size, false)?;
    let layers = spec.layers.iter().enumerate();
    let layers = layers.map(|(index, layer)| claims.layer(index, layer)).collect::<Result<_, _>>()?;
    let final_norm = claims.norm(names.final_norm, spec.hidden_size)?;
    let untied_head = match spec.tie_word_embeddings {
        true => None,
        false => Some(claims.linear(&[names.lm_head.into()], &[spec.vocab_size], spec.hidden_size, false)?),
    };
    Ok(DecoderWeights { embedding, layers, final_norm, untied_head })
}

struct Claims<'a> {
    source: &'a mut dyn TensorSource,
    hidden_size: usize,
    names: &'a TensorNames,
    /// The type in which activations meet the matrices; the first matrix decides for all.
    compute: Option<DType>,
    progress: &'a mut dyn FnMut(LoadProgress),
    done: LoadProgress,
}

impl Claims<'_> {
    fn tensor(&mut self, name: &str, shape: Shape) -> Result<Tensor, LoadError> {
        let tensor = self.source.claim(name, shape)?;
        self.done.tensors_done += 1;
        self.done.bytes_done += tensor.size_in_bytes() as u64;
        (self.progress)(self.done);
        Ok(tensor)
    }

    fn matrix(&mut self, name: &str, shape: Shape) -> Result<Tensor, LoadError> {
        let tensor = self.tensor(name, shape)?;
        let compute = *self.compute.get_or_insert(tensor.dtype().compute());
        if tensor.dtype().compute() != compute {
            let found = tensor.dtype();
            let message = format!("is {found}, but the matrices before it compute in {compute}; convert it");
            return Err(LoadError::checkpoint(self.source.file(), Some(name), message));
        }
        Ok(tensor)
    }

    fn norm(&mut self, module: &str, width: usize) -> Result<Tensor, LoadError> {
        self.tensor(&format!("{module}.weight"), Shape::new([width]))
    }

    /// Modules that share their input; each has a weight `[out, inputs]` and, with `bias`, a bias `[out]`.
    fn linear(
        &mut self,
        modules: &[String],
        outputs: &[usize],
        inputs: usize,
        bias: bool,
    ) -> Result<Linear, LoadError> {
        let mut parts = Vec::with_capacity(modules.len());
        for (module, &out) in modules.iter().zip(outputs) {
            let weight = self.matrix(&format!("{module}.weight"), Shape::new([out, inputs]))?;
            let bias = match bias {
                true => Some(self.tensor(&format!("{module}.bias"), Shape::new([out]))?),
                false => None,
            };
            parts.push(LinearPart { weight, bias });
        }
        Ok(Linear::new(parts)?)
    }

    fn layer(&mut self, index: usize, spec: &LayerSpec) -> Result<LayerWeights, LoadError> {
        let TensorNames { layers, attention_norm, q_proj, k_proj, v_proj, o_proj, ffn_norm, .. } =
            *self.names;
        let at = |module: &str| format!("{layers}.{index}.{module}");
        let AttentionSpec { num_heads, num_kv_heads, head_dim, qkv_bias, o_bias, qk_norm, .. } =
            spec.attention;
        let (q, kv, h) = (num_heads * head_dim, num_kv_heads * head_dim, self.hidden_size);
        let attention_norm = self.norm(&at(attention_norm), h)?;
        let qkv = self.linear(&[at(q_proj), at(k_proj), at(v_proj)], &[q, kv, kv], h, qkv_bias)?;
        let qk_norm = match qk_norm {
            true => {
                let (q_norm, k_norm) = (at(self.names.q_norm), at(self.names.k_norm));
                Some((self.norm(&q_norm, head_dim)?, self.norm(&k_norm, head_dim)?))
            }
            false => None,
        };
        let o_proj = self.linear(&[at(o_proj)], &[h], q, o_bias)?;
        let ffn_norm = self.norm(&at(ffn_norm), h)?;
        let ffn = self.ffn(&at(""), &spec.ffn)?;
        Ok(LayerWeights { attention_norm, qkv, qk_norm, o_proj, ffn_norm, ffn })
    }

    fn ffn(&mut self, prefix: &str, spec: &FfnSpec) -> Result<FfnWeights, LoadError> {
        let names = self.names;
        match *spec {
            FfnSpec::Dense { intermediate_size, bias } => {
                Ok(FfnWeights::Dense(self.gated(prefix, &names.dense, intermediate_size, bias)?))
            }
            FfnSpec::Moe(spec) => {
                let MoeSpec { num_experts, intermediate_size, .. } = spec;
                let router = format!("{prefix}{}", names.router);
                let router = self.linear(&[router], &[num_experts], self.hidden_size, false)?;
                let expert = |e: usize| {
                    let prefix = format!("{prefix}{}.{e}.", names.experts);
                    self.gated(&prefix, &names.expert, intermediate_size, false)
                };
                let experts = Experts::new((0..num_experts).map(expert).collect::<Result<_, _>>()?)?;
                Ok(FfnWeights::Moe { spec, router, experts })
            }
        }
    }

    fn gated(
        &mut self,
        prefix: &str,
        names: &GatedNames,
        intermediate_size: usize,
        bias: bool,
    ) -> Result<Expert, LoadError> {
        let (i, h) = (intermediate_size, self.hidden_size);
        let at = |module: &str| format!("{prefix}{module}");
        let gate_up = self.linear(&[at(names.gate), at(names.up)], &[i, i], h, bias)?;
        let down = self.linear(&[at(names.down)], &[h], i, bias)?;
        Ok(Expert { gate_up, down })
    }
}
