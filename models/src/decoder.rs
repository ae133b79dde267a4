//! The forward pass. It reads a [`DecoderSpec`], never a family's name, and calls ops only.
//!
//! T rows of the step, S sequences, H hidden size, Hq and Hkv heads, D head_dim, I intermediate size, E experts,
//! k experts per token, R rows with logits, V vocabulary. The residual stream `hidden` is f32; what meets a matrix is
//! of the weights' compute type.

use mosu_kernels::{
    Device, Result, Tensor, View,
    ops::{
        self, Activation, AttentionMask, AttentionParams, Expert, Glu, HeadTransform, Norm, NormKind,
        NormOrder, NormSpan, PagedSequences, QkNorm, Qkv, Renormalize, Router, RouterTables, WeighExperts,
    },
};

use crate::{
    AttentionSpec, Batch, DecoderSpec, Mask,
    kv_cache::KvBlocks,
    plan::MemoryPlan,
    rope::RopeTables,
    weights::{DecoderWeights, FfnWeights},
    workspace::Workspace,
};

/// A decoder ready to run.
pub(crate) struct Decoder {
    device: Device,
    spec: DecoderSpec,
    weights: DecoderWeights,
    rope: RopeTables,
    cache: KvBlocks,
    workspace: Workspace,
}

/// The batch as tensors.
struct Inputs<'a> {
    /// T
    rows: usize,
    /// u32 `[T]`
    token_ids: View<'a>,
    /// u32 `[T]`
    positions: View<'a>,
    /// u32 `[T]`
    slots: View<'a>,
    sequences: PagedSequences<'a>,
}

impl<'a> Inputs<'a> {
    fn new(batch: &'a Batch) -> Result<Inputs<'a>> {
        let (rows, sequences) = (batch.num_rows(), batch.num_sequences());
        Ok(Inputs {
            rows,
            token_ids: View::from_slice([rows], &batch.token_ids)?,
            positions: View::from_slice([rows], &batch.positions)?,
            slots: View::from_slice([rows], &batch.slot_mapping)?,
            sequences: PagedSequences {
                cu_seqlens_q: View::from_slice([sequences + 1], &batch.cu_seqlens_q)?,
                context_lens: View::from_slice([sequences], &batch.context_lens)?,
                block_tables: View::from_slice([sequences, batch.block_table_width], &batch.block_tables)?,
            },
        })
    }
}

impl Decoder {
    /// Takes weights and workspace, and makes the rotary tables and the KV blocks that `plan` says.
    pub fn new(
        device: Device,
        spec: DecoderSpec,
        weights: DecoderWeights,
        workspace: Workspace,
        plan: &MemoryPlan,
    ) -> Result<Decoder> {
        let attention = spec.layers.iter().map(|layer| &layer.attention);
        let rope = RopeTables::new(attention, plan.max_model_len)?;
        let cache = KvBlocks::new(&spec, weights.dtype().compute(), plan.num_blocks)?;
        Ok(Decoder { device, spec, weights, rope, cache, workspace })
    }

    /// Computes the hidden states `[T, H]` of a checked batch, and writes its keys and values to the cache.
    pub fn forward(&mut self, batch: &Batch) -> Result<()> {
        let inputs = Inputs::new(batch)?;
        let t = inputs.rows;
        self.embed(&inputs)?;
        for layer in 0..self.spec.layers.len() {
            match layer {
                0 => self.norm(t, |weights| &weights.layers[0].attention_norm)?,
                _ => self.add_and_norm(t, |weights| &weights.layers[layer].attention_norm)?,
            }
            self.attention(layer, &inputs)?;
            self.add_and_norm(t, |weights| &weights.layers[layer].ffn_norm)?;
            self.ffn(layer, t)?;
        }
        // Completes `hidden`. Its norm is taken again in `logits`, of the rows that are wanted there.
        self.add_and_norm(t, |weights| &weights.final_norm)
    }

    /// `hidden = embedding[token_ids]`
    fn embed(&mut self, inputs: &Inputs) -> Result<()> {
        let out = self.workspace.hidden.get_mut([inputs.rows, self.spec.hidden_size])?;
        ops::embedding(&self.device, out, self.weights.embedding_table(), inputs.token_ids, 1.0)
    }

    /// `normed = norm(hidden)`
    fn norm(&mut self, t: usize, weight: impl Fn(&DecoderWeights) -> &Tensor) -> Result<()> {
        let Decoder { device, spec, weights, workspace: w, .. } = self;
        let shape = [t, spec.hidden_size];
        let norm = rms_norm(weight(weights), spec);
        ops::norm(device, w.normed.get_mut(shape)?, w.hidden.get(shape)?, norm)
    }

    /// `hidden += delta; normed = norm(hidden)`
    fn add_and_norm(&mut self, t: usize, weight: impl Fn(&DecoderWeights) -> &Tensor) -> Result<()> {
        let Decoder { device, spec, weights, workspace: w, .. } = self;
        let shape = [t, spec.hidden_size];
        let (normed, hidden, delta) =
            (w.normed.get_mut(shape)?, w.hidden.get_mut(shape)?, w.delta.get(shape)?);
        ops::add_norm(device, normed, hidden, delta, None, rms_norm(weight(weights), spec))
    }

    /// `delta = o(attention(q, k, v))` of `normed`
    fn attention(&mut self, layer: usize, inputs: &Inputs) -> Result<()> {
        let Decoder { device, spec, weights, rope, cache, workspace: w } = self;
        let (t, h) = (inputs.rows, spec.hidden_size);
        let AttentionSpec { num_heads: hq, num_kv_heads: hkv, head_dim: d, mask, .. } =
            spec.layers[layer].attention;
        let weights = &weights.layers[layer];
        let qk_norm = weights.qk_norm.as_ref().map(|(q, k)| QkNorm {
            weights: Some([q.view(), k.view()]),
            span: NormSpan::Head,
            order: NormOrder::BeforeRope,
            eps: spec.rms_norm_eps,
        });
        let transform = HeadTransform { qk_norm, rope: Some(rope.layer(layer)) };
        let mask = match mask {
            Mask::Full => AttentionMask::Full,
            Mask::Sliding { window } => AttentionMask::Sliding { window },
        };
        let scale = (d as f32).powf(-0.5);
        let params = AttentionParams::new(scale, mask);

        let qkv_shape = [t, (hq + 2 * hkv) * d];
        ops::linear(device, w.qkv.get_mut(qkv_shape)?, w.normed.get([t, h])?, &weights.qkv)?;
        ops::qkv_rope_cache(
            device,
            w.q.get_mut([t, hq, d])?,
            cache.layer_mut(layer)?,
            Qkv::Fused(w.qkv.get(qkv_shape)?),
            transform,
            inputs.positions,
            inputs.slots,
        )?;
        ops::paged_attention(
            device,
            w.attended.get_mut([t, hq * d])?,
            w.q.get([t, hq, d])?,
            cache.layer(layer),
            inputs.sequences,
            params,
        )?;
        ops::linear(device, w.delta.get_mut([t, h])?, w.attended.get([t, hq * d])?, &weights.o_proj)
    }

    /// `delta = ffn(normed)`
    fn ffn(&mut self, layer: usize, t: usize) -> Result<()> {
        let Decoder { device, spec, weights, workspace: w, .. } = self;
        let h = spec.hidden_size;
        match &weights.layers[layer].ffn {
            FfnWeights::Dense(Expert { gate_up, down }) => {
                let i = down.in_features();
                ops::linear(device, w.gate_up.get_mut([t, 2 * i])?, w.normed.get([t, h])?, gate_up)?;
                let (activated, gate_up) = (w.activated.get_mut([t, i])?, w.gate_up.get([t, 2 * i])?);
                ops::gated_activation(device, activated, gate_up, Glu::Plain(Activation::Silu))?;
                ops::linear(device, w.delta.get_mut([t, h])?, w.activated.get([t, i])?, down)
            }
            FfnWeights::Moe { spec, router, experts } => {
                let (e, k) = ([t, spec.num_experts], [t, spec.num_experts_per_tok]);
                ops::linear(device, w.router_logits.get_mut(e)?, w.normed.get([t, h])?, router)?;
                let renormalize = if spec.renormalize { Renormalize::Sum } else { Renormalize::No };
                let router = Router { renormalize, ..Router::default() };
                let (ids, probabilities) = (w.expert_ids.get_mut(k)?, w.expert_weights.get_mut(k)?);
                let tables = RouterTables::default();
                ops::route(device, ids, probabilities, w.router_logits.get(e)?, &router, tables)?;
                let (ids, probabilities) = (w.expert_ids.get(k)?, w.expert_weights.get(k)?);
                let (out, x) = (w.delta.get_mut([t, h])?, w.normed.get([t, h])?);
                let (glu, memory) = (Glu::Plain(Activation::Silu), w.moe.layer(layer));
                ops::moe(device, out, x, ids, probabilities, experts, glu, WeighExperts::Output, memory)
            }
        }
    }

    /// Logits `[R, V]`, and their device, of R rows of the last batch, which had T; at most
    /// [`LOGIT_ROWS`](crate::workspace::LOGIT_ROWS).
    pub fn logits(&mut self, rows: &[u32], t: usize) -> Result<(&Device, View<'_>)> {
        let Decoder { device, spec, weights, workspace: w, .. } = self;
        let (r, h, v) = (rows.len(), spec.hidden_size, spec.vocab_size);
        // Picking rows of a table is what `embedding` does.
        let (picked, rows) = (w.logit_hidden.get_mut([r, h])?, View::from_slice([r], rows)?);
        ops::embedding(device, picked, w.hidden.get([t, h])?, rows, 1.0)?;
        let norm = rms_norm(&weights.final_norm, spec);
        ops::norm(device, w.logit_normed.get_mut([r, h])?, w.logit_hidden.get([r, h])?, norm)?;
        ops::linear(device, w.logits.get_mut([r, v])?, w.logit_normed.get([r, h])?, weights.lm_head())?;
        Ok((device, w.logits.get([r, v])?))
    }
}

fn rms_norm<'a>(weight: &'a Tensor, spec: &DecoderSpec) -> Norm<'a> {
    Norm { kind: NormKind::Rms, weight: weight.view(), bias: None, eps: spec.rms_norm_eps }
}
