//! How many weights a spec implies, from its shapes alone.

use mosu_kernels::ops::{NormKind, NormSpan};

use crate::{
    AttentionSpec, DecoderSpec, DenseSpec, FfnActivation, FfnSpec, LatentAttentionSpec, LayerSpec,
    LowRankSpec, Mixer, MoeSpec,
};

/// Tensors of one shape.
struct Weights {
    /// How many there are.
    tensors: usize,
    /// How many of them one token meets.
    used: usize,
    /// Rows and columns.
    shape: [usize; 2],
}

impl Weights {
    fn new(tensors: usize, shape: [usize; 2]) -> Weights {
        Weights { tensors, used: tensors, shape }
    }

    /// A projection from `inputs` to `outputs`, and its bias where `bias`.
    fn linear(inputs: usize, outputs: usize, bias: bool) -> [Weights; 2] {
        [Weights::new(1, [outputs, inputs]), Weights::new(usize::from(bias), [outputs, 1])]
    }

    fn elements(&self, tensors: usize) -> Option<u64> {
        let [rows, columns] = self.shape.map(|dim| dim as u64);
        (tensors as u64).checked_mul(rows)?.checked_mul(columns)
    }
}

impl DecoderSpec {
    /// Number of weights, a tied output projection counted once; `None` if that overflows.
    pub fn parameters(&self) -> Option<u64> {
        self.sum(|weights| weights.elements(weights.tensors))
    }

    /// Number of weights that one token meets: its experts only, and of the two tables only the output projection.
    pub fn active_parameters(&self) -> Option<u64> {
        self.sum(|weights| weights.elements(weights.used))
    }

    /// Number of tensors that hold them, where every projection of every expert is a tensor of its own.
    pub fn tensors(&self) -> usize {
        self.weights().map(|weights| weights.tensors).sum()
    }

    /// Elements of keys and values that one token leaves in the KV cache.
    pub fn kv_elements_per_token(&self) -> usize {
        self.layers.iter().map(|layer| layer.mixer.cached_elements()).sum()
    }

    fn sum(&self, count: impl Fn(&Weights) -> Option<u64>) -> Option<u64> {
        self.weights().try_fold(0, |sum: u64, weights| sum.checked_add(count(&weights)?))
    }

    fn weights(&self) -> impl Iterator<Item = Weights> {
        let (v, h, embedding) = (self.vocab_size, self.hidden_size, &self.embedding);
        let table = Weights { tensors: 1, used: usize::from(self.head.tied), shape: [v, h] };
        let positions =
            embedding.learned_positions.map(|rows| Weights { tensors: 1, used: 0, shape: [rows, h] });
        let untied = Weights::new(usize::from(!self.head.tied), [v, h]);
        let head_bias = Weights::new(usize::from(self.head.bias), [v, 1]);
        let norms = self.norms(1 + usize::from(embedding.norm));
        let layers = self.layers.iter().flat_map(|layer| self.of_layer(layer));
        [table, untied, head_bias, norms].into_iter().chain(positions).chain(layers)
    }

    /// That many norms of the residual stream.
    fn norms(&self, count: usize) -> Weights {
        let tensors = if self.norm.kind == NormKind::Layer { 2 } else { 1 };
        Weights::new(count * tensors, [self.hidden_size, 1])
    }

    fn of_layer(&self, layer: &LayerSpec) -> Vec<Weights> {
        let mut weights = vec![self.norms(if layer.post_norms { 4 } else { 2 })];
        match &layer.mixer {
            Mixer::Attention(attention) => weights.extend(attention.weights(self.hidden_size)),
            Mixer::LatentAttention(attention) => weights.extend(attention.weights(self.hidden_size)),
        }
        match &layer.ffn {
            FfnSpec::Dense(dense) => weights.extend(dense.weights(self.hidden_size)),
            FfnSpec::Moe(moe) => weights.extend(moe.weights(self.hidden_size)),
        }
        weights
    }
}

impl AttentionSpec {
    fn weights(&self, h: usize) -> Vec<Weights> {
        let (q, kv) = (self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim);
        let mut weights = queries(h, self.low_rank_q, q, self.qkv_bias);
        weights.extend(Weights::linear(h, kv, self.qkv_bias));
        weights.extend(Weights::linear(h, kv, self.qkv_bias));
        weights.extend(Weights::linear(q, h, self.o_bias));
        if let Some(norm) = self.qk_norm.filter(|norm| norm.weighted) {
            let widths = match norm.span {
                NormSpan::Head => [self.head_dim; 2],
                NormSpan::AllHeads => [q, kv],
            };
            weights.extend(widths.map(|width| Weights::new(1, [width, 1])));
        }
        weights.push(Weights::new(usize::from(self.sinks), [self.num_heads, 1]));
        weights.push(Weights::new(usize::from(self.output_gate), [self.num_heads, h]));
        weights
    }
}

impl LatentAttentionSpec {
    fn weights(&self, h: usize) -> Vec<Weights> {
        let mut weights = queries(h, self.low_rank_q, self.num_heads * self.head_dim(), false);
        let heads = self.num_heads * (self.nope_dim + self.value_dim);
        let shapes = [
            [self.cached_row(), h],
            [self.latent.rank, 1],
            [heads, self.latent.rank],
            [h, self.num_heads * self.value_dim],
        ];
        weights.extend(shapes.map(|shape| Weights::new(1, shape)));
        weights
    }
}

/// The projection to queries of width `q`, by way of a narrow layer if there is one.
fn queries(h: usize, low_rank: Option<LowRankSpec>, q: usize, bias: bool) -> Vec<Weights> {
    let narrow = |LowRankSpec { rank, .. }| [Weights::new(1, [rank, h]), Weights::new(1, [rank, 1])];
    let inputs = low_rank.map_or(h, |narrow| narrow.rank);
    low_rank.into_iter().flat_map(narrow).chain(Weights::linear(inputs, q, bias)).collect()
}

impl DenseSpec {
    fn weights(&self, h: usize) -> Vec<Weights> {
        let inputs = match self.activation {
            FfnActivation::Gated(_) => 2,
            FfnActivation::Plain(_) => 1,
        };
        let i = self.intermediate_size;
        let up = (0..inputs).flat_map(|_| Weights::linear(h, i, self.bias));
        up.chain(Weights::linear(i, h, self.bias)).collect()
    }
}

impl MoeSpec {
    fn weights(&self, h: usize) -> Vec<Weights> {
        let (e, i, k) = (self.num_experts, self.intermediate_size, self.num_experts_per_tok);
        let of_experts = |count: usize, shape| Weights { tensors: count * e, used: count * k, shape };
        let biases = usize::from(self.expert_bias);
        let mut weights =
            vec![of_experts(3, [i, h]), of_experts(2 * biases, [i, 1]), of_experts(biases, [h, 1])];
        weights.extend(Weights::linear(h, e, self.router_bias));
        weights.push(Weights::new(usize::from(self.e_score_correction_bias), [e, 1]));
        weights.push(Weights::new(usize::from(self.expert_scale), [e, 1]));
        if let Some(shared) = &self.shared {
            weights.extend(shared.network.weights(h));
            weights.push(Weights::new(usize::from(shared.gated), [1, h]));
        }
        weights
    }
}
