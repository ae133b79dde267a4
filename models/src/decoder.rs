//! The forward pass. It reads a [`DecoderSpec`], never a family's name, and calls ops only.
//!
//! T rows of the step, S sequences, H hidden size, Hq and Hkv heads, D head_dim, I intermediate size, E experts,
//! k experts per token, R rows with logits, V vocabulary. The residual stream `hidden` is f32; what meets a matrix is
//! of the weights' compute type.

mod mixer;

use half::{bf16, f16};
use mosu_kernels::{Allocator, DType, Device, Format, Result, View, ViewMut, ops};

use crate::{
    DecoderSpec, EmbeddingSpec, FfnActivation, HeadSpec,
    inputs::Inputs,
    kv_cache::KvBlocks,
    kv_layout::KvLayout,
    model::StepRows,
    plan::{MemoryPlan, padding_blocks},
    position_tables::PositionTables,
    weights::{DecoderWeights, FfnWeights, LayerWeights, NetworkWeights, NormWeights},
    workspace::{Scratch, Workspace},
};

/// A decoder ready to run.
pub(crate) struct Decoder {
    device: Device,
    spec: DecoderSpec,
    weights: DecoderWeights,
    tables: PositionTables,
    cache: KvBlocks,
    workspace: Workspace,
    /// The last step was a decode: the logits of all its rows are in the workspace.
    decoded: bool,
}

impl Decoder {
    /// Puts beside the weights what the plan says: tables by position, KV blocks and steps of so many rows, all in the
    /// memory of `to`.
    pub fn new(
        to: &Allocator<'_>,
        spec: DecoderSpec,
        weights: DecoderWeights,
        plan: &MemoryPlan,
        step: StepRows,
    ) -> Result<Decoder> {
        let (device, compute) = (to.device().clone(), weights.compute());
        let tables = PositionTables::new(to, &spec, plan.max_model_len)?;
        let blocks = plan.num_kv_blocks + padding_blocks(&device, step);
        let cache = KvBlocks::new(to, &spec, &KvLayout::new(&spec), compute, blocks)?;
        let workspace = Workspace::new(to, &spec, compute, step)?;
        Ok(Decoder { device, spec, weights, tables, cache, workspace, decoded: false })
    }

    /// Computes the hidden states `[T, H]` of a checked batch, and writes its keys and values to the cache.
    pub fn forward(&mut self, inputs: &Inputs<'_>) -> Result<()> {
        self.decoded = false;
        let t = inputs.rows;
        self.embed(inputs)?;
        for layer in 0..self.spec.layers.len() {
            match layer {
                0 => self.norm(t, |weights| &weights.layers[0].mixer_norm)?,
                _ => self.add_and_norm(t, |weights| {
                    (weights.layers[layer - 1].ffn_post_norm.as_ref(), &weights.layers[layer].mixer_norm)
                })?,
            }
            self.mixer(layer, inputs)?;
            self.add_and_norm(t, |weights| {
                let layer = &weights.layers[layer];
                (layer.mixer_post_norm.as_ref(), &layer.ffn_norm)
            })?;
            self.ffn(layer, t)?;
        }
        // Completes `hidden`. Its norm is taken again in `logits`, of the rows that are wanted there.
        self.add_and_norm(t, |weights| {
            (weights.layers.last().and_then(|layer| layer.ffn_post_norm.as_ref()), &weights.final_norm)
        })
    }

    /// `hidden = [norm](scale * embedding[token_ids] [+ positions])`
    fn embed(&mut self, inputs: &Inputs<'_>) -> Result<()> {
        let Decoder { device, spec, weights, workspace: w, .. } = self;
        let shape = [inputs.rows, spec.hidden_size];
        // With a norm behind it, the embedding goes by way of `delta`.
        let embedded = if spec.embedding.norm { &mut w.delta } else { &mut w.hidden };
        let table = weights.embedding_table();
        let scale = embedding_scale(&spec.embedding, table.format());
        ops::matrix_embedding(device, embedded.get_mut(shape)?, table, inputs.token_ids, scale)?;
        if let Some(table) = &weights.positions {
            ops::add_embedding(device, embedded.get_mut(shape)?, table.view(), inputs.positions)?;
        }
        match &weights.embedding_norm {
            None => Ok(()),
            Some(norm) => ops::norm(device, w.hidden.get_mut(shape)?, w.delta.get(shape)?, norm.view()),
        }
    }

    /// `normed = norm(hidden)`
    fn norm(&mut self, t: usize, norm: impl Fn(&DecoderWeights) -> &NormWeights) -> Result<()> {
        let Decoder { device, spec, weights, workspace: w, .. } = self;
        let shape = [t, spec.hidden_size];
        ops::norm(device, w.normed.get_mut(shape)?, w.hidden.get(shape)?, norm(weights).view())
    }

    /// `hidden += [post](delta); normed = norm(hidden)`
    fn add_and_norm(
        &mut self,
        t: usize,
        norms: impl Fn(&DecoderWeights) -> (Option<&NormWeights>, &NormWeights),
    ) -> Result<()> {
        let Decoder { device, spec, weights, workspace: w, .. } = self;
        let shape = [t, spec.hidden_size];
        let (post, norm) = norms(weights);
        let (normed, hidden, delta) =
            (w.normed.get_mut(shape)?, w.hidden.get_mut(shape)?, w.delta.get(shape)?);
        ops::add_norm(device, normed, hidden, delta, post.map(NormWeights::view), norm.view())
    }

    /// `delta = ffn(normed)`
    fn ffn(&mut self, layer: usize, t: usize) -> Result<()> {
        let Decoder { device, spec, weights, workspace: w, .. } = self;
        let shape = [t, spec.hidden_size];
        let LayerWeights { ffn_norm, ffn, .. } = &weights.layers[layer];
        let moe = match ffn {
            FfnWeights::Dense(weights) => {
                let (out, x) = (w.delta.get_mut(shape)?, w.normed.get(shape)?);
                return network(device, out, x, &mut w.gate_up, &mut w.activated, weights);
            }
            FfnWeights::Moe(moe) => moe,
        };
        let (logits, chosen) = ([t, moe.spec.num_experts], [t, moe.spec.num_experts_per_tok]);
        // A router may be f32 among 16-bit matrices.
        let mut x = w.normed.get(shape)?;
        if moe.router.compute() != x.dtype() {
            ops::norm(device, w.normed_f32.get_mut(shape)?, w.hidden.get(shape)?, ffn_norm.view())?;
            x = w.normed_f32.get(shape)?;
        }
        ops::linear(device, w.router_logits.get_mut(logits)?, x, &moe.router)?;
        let (ids, shares) = (w.expert_ids.get_mut(chosen)?, w.expert_weights.get_mut(chosen)?);
        ops::route(device, ids, shares, w.router_logits.get(logits)?, &moe.spec.router, moe.router_tables())?;
        let (ids, shares) = (w.expert_ids.get(chosen)?, w.expert_weights.get(chosen)?);
        let (out, x, memory) = (w.delta.get_mut(shape)?, w.normed.get(shape)?, w.moe.layer(layer));
        ops::moe(device, out, x, ids, shares, &moe.experts, moe.spec.glu, moe.spec.weigh, memory)?;
        let Some(shared) = &moe.shared else { return Ok(()) };
        let (out, x) = (w.shared.get_mut(shape)?, w.normed.get(shape)?);
        network(device, out, x, &mut w.gate_up, &mut w.activated, &shared.network)?;
        let gate = match &shared.gate {
            None => None,
            Some(gate) => {
                ops::linear(device, w.shared_gate.get_mut([t, 1])?, w.normed.get(shape)?, gate)?;
                Some(w.shared_gate.get([t, 1])?)
            }
        };
        ops::accumulate(device, w.delta.get_mut(shape)?, w.shared.get(shape)?, gate, shared.sum_scale)
    }

    /// As [`Decoder::forward`] for at most [`StepRows::logits`] rows whose logits are all wanted;
    /// launches nothing but ops, so that it can be captured. Each time it has run, [`Decoder::has_decoded`] must be told.
    pub fn decode(&mut self, inputs: &Inputs<'_>) -> Result<()> {
        self.forward(inputs)?;
        // The last norm of `forward` is of all rows.
        let Decoder { device, spec, weights, workspace: w, .. } = self;
        let (t, h) = (inputs.rows, spec.hidden_size);
        project(device, spec, weights, w.normed.get([t, h])?, &mut w.logits)
    }

    /// The KV blocks, to spoil.
    #[cfg(test)]
    pub fn cache_mut(&mut self) -> &mut KvBlocks {
        &mut self.cache
    }

    /// The logits of all rows of this step are there.
    pub fn has_decoded(&mut self) {
        self.decoded = true;
    }

    /// Logits `[R, V]`, and their device, of R rows of the last batch, which had T; at most
    /// [`StepRows::logits`].
    pub fn logits(&mut self, rows: &[u32], t: usize) -> Result<(&Device, View<'_>)> {
        let Decoder { device, spec, weights, workspace: w, .. } = self;
        let (r, h, v) = (rows.len(), spec.hidden_size, spec.vocab_size);
        if self.decoded {
            return Ok((device, w.logits.get([r, v])?));
        }
        // Picking rows of a table is what `embedding` does.
        w.logit_rows.get_mut([r])?.copy_from(device, rows)?;
        let (picked, rows) = (w.logit_hidden.get_mut([r, h])?, w.logit_rows.get([r])?);
        ops::embedding(device, picked, w.hidden.get([t, h])?, rows, 1.0)?;
        let normed = w.logit_normed.get_mut([r, h])?;
        ops::norm(device, normed, w.logit_hidden.get([r, h])?, weights.final_norm.view())?;
        project(device, spec, weights, w.logit_normed.get([r, h])?, &mut w.logits)?;
        Ok((device, w.logits.get([r, v])?))
    }
}

/// `logits [R, V] = head(normed [R, H])`
fn project(
    device: &Device,
    spec: &DecoderSpec,
    weights: &DecoderWeights,
    normed: View<'_>,
    logits: &mut Scratch,
) -> Result<()> {
    let shape = [normed.shape().dims()[0], spec.vocab_size];
    ops::linear(device, logits.get_mut(shape)?, normed, weights.lm_head())?;
    let HeadSpec { scale, softcap, .. } = spec.head;
    if scale == 1.0 && softcap.is_none() {
        return Ok(());
    }
    ops::adjust_logits(device, logits.get_mut(shape)?, scale, softcap)
}

/// `out = down(activation(gate_up(x)))`; `gate_up` and `activated` are memory for what lies between.
fn network(
    device: &Device,
    out: ViewMut<'_>,
    x: View<'_>,
    gate_up: &mut Scratch,
    activated: &mut Scratch,
    weights: &NetworkWeights,
) -> Result<()> {
    let (t, i) = (x.shape().dims()[0], weights.down.in_features());
    let wide = [t, weights.gate_up.out_features()];
    let (to, between) = (activated.get_mut([t, i])?, gate_up.get_mut(wide)?);
    match weights.activation {
        FfnActivation::Gated(glu) => ops::gated_linear(device, to, between, x, &weights.gate_up, glu)?,
        FfnActivation::Plain(act) => {
            ops::linear(device, between, x, &weights.gate_up)?;
            ops::activation(device, to, gate_up.get(wide)?, act)?;
        }
    }
    ops::linear(device, out, activated.get([t, i])?, &weights.down)
}

/// The multiplier of the embeddings, as exact as the family has it.
fn embedding_scale(spec: &EmbeddingSpec, table: Format) -> f32 {
    match (spec.scale_rounded, table) {
        (true, Format::Float(DType::BF16)) => bf16::from_f32(spec.scale).to_f32(),
        (true, Format::Float(DType::F16)) => f16::from_f32(spec.scale).to_f32(),
        _ => spec.scale,
    }
}
