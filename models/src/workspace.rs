//! Memory of a step, planned at load: the forward pass allocates nothing.

use mosu_kernels::{Allocator, DType, Result, Shape, Tensor, View, ViewMut, ops::MoeWorkspace};

use crate::{
    AttentionSpec, DecoderSpec, FfnActivation, LatentAttentionSpec, LayerSpec, Mixer, MoeSpec,
    model::StepRows,
};

/// Memory for activations of any shape up to its size. Every use states the shape.
pub(crate) struct Scratch(Tensor);

impl Scratch {
    /// Room for `[rows, width]` elements of type `dtype`.
    fn new(to: &Allocator<'_>, rows: usize, width: usize, dtype: DType) -> Result<Scratch> {
        Ok(Scratch(to.zeros([rows, width], dtype)?))
    }

    /// The first elements as a tensor of this shape, to read.
    pub fn get(&self, shape: impl Into<Shape>) -> Result<View<'_>> {
        self.0.view().prefix(shape)
    }

    /// The first elements as a tensor of this shape, to write.
    pub fn get_mut(&mut self, shape: impl Into<Shape>) -> Result<ViewMut<'_>> {
        self.0.view_mut()?.into_prefix(shape)
    }
}

/// Activations of one step. T rows, R rows with logits; other letters as in [`decoder`](crate::decoder). Widths are
/// the largest of any layer. *compute* is the type in which activations meet the weights.
pub(crate) struct Workspace {
    /// The residual stream, f32 `[T, H]`.
    pub hidden: Scratch,
    /// Its norm, compute `[T, H]`.
    pub normed: Scratch,
    /// The same in f32, where a router needs it.
    pub normed_f32: Scratch,
    /// What a branch adds to the residual stream, f32 `[T, H]`.
    pub delta: Scratch,
    /// f32 `[T, (Hq + 2 Hkv) D]`, or queries `[T, Hq D]` over latents.
    pub qkv: Scratch,
    /// Keys and values, f32 `[T, 2 Hkv D]`, where queries go by way of a narrow layer; or latents `[T, R]`.
    pub kv: Scratch,
    /// The narrow layer, f32 `[T, R]`.
    pub q_down: Scratch,
    /// Its norm, compute `[T, R]`.
    pub q_down_normed: Scratch,
    /// Rotated queries, compute `[T, Hq, D]`, or `[T, Hq, R]` over latents.
    pub q: Scratch,
    /// What queries find among latents, compute `[T, Hq, L]`.
    pub latents: Scratch,
    /// Attention's output, compute `[T, Hq D]`.
    pub attended: Scratch,
    /// Gates of the heads, f32 `[T, Hq]`.
    pub output_gates: Scratch,
    /// f32 `[T, 2 I]`, or `[T, I]` without a gate.
    pub gate_up: Scratch,
    /// compute `[T, I]`
    pub activated: Scratch,
    /// f32 `[T, E]`
    pub router_logits: Scratch,
    /// u32 `[T, k]`
    pub expert_ids: Scratch,
    /// f32 `[T, k]`
    pub expert_weights: Scratch,
    /// Output of the shared expert, f32 `[T, H]`.
    pub shared: Scratch,
    /// Its gate, f32 `[T, 1]`.
    pub shared_gate: Scratch,
    /// What lies between router and `delta` in sparse layers.
    pub moe: MoeWorkspaces,
    /// Which rows have logits, u32 `[R]`.
    pub logit_rows: Scratch,
    /// Hidden states of the rows with logits, f32 `[R, H]`.
    pub logit_hidden: Scratch,
    /// Their final norm, compute `[R, H]`.
    pub logit_normed: Scratch,
    /// f32 `[R, V]`
    pub logits: Scratch,
}

impl Workspace {
    /// Memory of `to` for steps of at most `max_rows` rows.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(to: &Allocator<'_>, spec: &DecoderSpec, compute: DType, step: StepRows) -> Result<Workspace> {
        let widest = |width: &dyn Fn(&LayerSpec) -> usize| spec.layers.iter().map(width).max().unwrap_or(0);
        let attention = |width: &dyn Fn(&AttentionSpec) -> usize| {
            widest(&|layer| layer.mixer.attention().map_or(0, width))
        };
        let latent = |width: &dyn Fn(&LatentAttentionSpec) -> usize| {
            widest(&|layer| layer.mixer.latent_attention().map_or(0, width))
        };
        let q_width = attention(&|spec| spec.num_heads * spec.head_dim);
        let kv_width = attention(&|spec| spec.num_kv_heads * spec.head_dim);
        let latent_q_width = latent(&|spec| spec.num_heads * spec.head_dim());
        let q_rank = widest(&|layer| layer.mixer.low_rank_q().map_or(0, |narrow| narrow.rank));
        let kv_width_alone = widest(&|layer| match &layer.mixer {
            Mixer::Attention(AttentionSpec { low_rank_q: None, .. }) => 0,
            mixer => mixer.cached_elements(),
        });
        let absorbed = latent(&|spec| spec.num_heads * spec.cached_row());
        let latents = latent(&|spec| spec.num_heads * spec.latent.rank);
        let attended = widest(&|layer| layer.mixer.attended_dim());
        let gates = attention(&|spec| if spec.output_gate { spec.num_heads } else { 0 });
        let dense_width = widest(&|layer| layer.ffn.dense().map_or(0, |dense| dense.intermediate_size));
        let gate_up_width = widest(&|layer| match layer.ffn.dense() {
            Some(dense) if matches!(dense.activation, FfnActivation::Plain(_)) => dense.intermediate_size,
            Some(dense) => 2 * dense.intermediate_size,
            None => 0,
        });
        let moe = |width: fn(&MoeSpec) -> usize| widest(&|layer| layer.ffn.moe().map_or(0, width));
        let experts = moe(|moe| moe.num_experts);
        let chosen = moe(|moe| moe.num_experts_per_tok);
        let shared = moe(|moe| usize::from(moe.shared.is_some()));
        let routers = usize::from(experts > 0 && compute != DType::F32);
        let rows = |width: usize, dtype: DType| Scratch::new(to, step.most, width, dtype);
        let logit_rows = |width: usize, dtype: DType| Scratch::new(to, step.logits, width, dtype);
        let h = spec.hidden_size;
        Ok(Workspace {
            hidden: rows(h, DType::F32)?,
            normed: rows(h, compute)?,
            normed_f32: rows(routers * h, DType::F32)?,
            delta: rows(h, DType::F32)?,
            qkv: rows(latent_q_width.max(q_width + 2 * kv_width), DType::F32)?,
            kv: rows(kv_width_alone, DType::F32)?,
            q_down: rows(q_rank, DType::F32)?,
            q_down_normed: rows(q_rank, compute)?,
            q: rows(q_width.max(absorbed), compute)?,
            latents: rows(latents, compute)?,
            attended: rows(attended, compute)?,
            output_gates: rows(gates, DType::F32)?,
            gate_up: rows(gate_up_width, DType::F32)?,
            activated: rows(dense_width, compute)?,
            router_logits: rows(experts, DType::F32)?,
            expert_ids: rows(chosen, DType::U32)?,
            expert_weights: rows(chosen, DType::F32)?,
            shared: rows(shared * h, DType::F32)?,
            shared_gate: rows(shared, DType::F32)?,
            moe: MoeWorkspaces::new(to, spec, compute, step.most)?,
            logit_rows: logit_rows(1, DType::U32)?,
            logit_hidden: logit_rows(h, DType::F32)?,
            logit_normed: logit_rows(h, compute)?,
            logits: logit_rows(spec.vocab_size, DType::F32)?,
        })
    }
}

/// Memory of the sparse layers; those of the same shape share it.
pub(crate) struct MoeWorkspaces {
    workspaces: Vec<MoeWorkspace>,
    /// Index of each layer's workspace; of no meaning for dense ones.
    of_layer: Vec<usize>,
}

impl MoeWorkspaces {
    fn new(to: &Allocator<'_>, spec: &DecoderSpec, compute: DType, max_rows: usize) -> Result<MoeWorkspaces> {
        let mut sizes: Vec<[usize; 3]> = Vec::new();
        let mut moe = MoeWorkspaces { workspaces: Vec::new(), of_layer: Vec::new() };
        for layer in &spec.layers {
            let Some(spec_of_layer) = layer.ffn.moe() else {
                moe.of_layer.push(moe.workspaces.len());
                continue;
            };
            let MoeSpec { num_experts, num_experts_per_tok, intermediate_size, .. } = *spec_of_layer;
            let size = [num_experts, num_experts_per_tok, intermediate_size];
            let known = sizes.iter().position(|known| *known == size);
            moe.of_layer.push(known.unwrap_or(sizes.len()));
            if known.is_none() {
                moe.workspaces.push(MoeWorkspace::new(
                    to,
                    max_rows,
                    num_experts_per_tok,
                    spec.hidden_size,
                    intermediate_size,
                    num_experts,
                    compute,
                )?);
                sizes.push(size);
            }
        }
        Ok(moe)
    }

    /// One sparse layer's.
    pub fn layer(&mut self, layer: usize) -> &mut MoeWorkspace {
        &mut self.workspaces[self.of_layer[layer]]
    }
}
