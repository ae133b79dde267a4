//! Which layers share KV blocks: layers of one reach are a group, or several where there are many, so that all groups have
//! about as many. A cache tensor is shared by one layer of each group, since a KV block belongs to one group at a time.

use crate::{AttentionSpec, DecoderSpec, KvReach, Mixer};

/// Most groups, but for one more of each reach: a step brings a block table for each.
const MAX_GROUPS: usize = 8;

/// What a layer keeps of a token. Layers of one kind can share a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cached {
    /// A key and a value, each of so many elements in all heads.
    KeyAndValue(usize),
    /// A row of so many elements.
    Latent(usize),
}

/// Where a layer's keys and values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LayerPlace {
    /// Whose KV blocks.
    pub group: usize,
    /// In which tensor.
    pub tensor: usize,
}

/// The groups of a model's layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KvLayout {
    /// Of each group.
    pub reaches: Vec<KvReach>,
    /// Of each layer.
    pub places: Vec<LayerPlace>,
    /// What each tensor holds.
    pub tensors: Vec<Cached>,
}

impl KvLayout {
    pub fn new(spec: &DecoderSpec) -> KvLayout {
        let mut of_reach: Vec<(KvReach, Vec<usize>)> = Vec::new();
        for (index, layer) in spec.layers.iter().enumerate() {
            let reach = reach_of(&layer.mixer);
            match of_reach.iter_mut().find(|(known, _)| *known == reach) {
                Some((_, layers)) => layers.push(index),
                None => of_reach.push((reach, vec![index])),
            }
        }
        let counts: Vec<(KvReach, usize)> =
            of_reach.iter().map(|(reach, layers)| (*reach, layers.len())).collect();
        let size = layers_per_group(&counts, spec.max_position_embeddings);
        let nowhere = LayerPlace { group: 0, tensor: 0 };
        let mut layout =
            KvLayout { reaches: Vec::new(), places: vec![nowhere; spec.layers.len()], tensors: Vec::new() };
        for (reach, layers) in &of_reach {
            layers.chunks(size).for_each(|layers| layout.add_group(spec, *reach, layers));
        }
        layout
    }

    fn add_group(&mut self, spec: &DecoderSpec, reach: KvReach, layers: &[usize]) {
        let mut taken = vec![false; self.tensors.len()];
        for &layer in layers {
            let cached = cached_of(&spec.layers[layer].mixer);
            let free = (0..taken.len()).find(|&tensor| !taken[tensor] && self.tensors[tensor] == cached);
            let tensor = free.unwrap_or_else(|| {
                self.tensors.push(cached);
                taken.push(false);
                taken.len() - 1
            });
            taken[tensor] = true;
            self.places[layer] = LayerPlace { group: self.reaches.len(), tensor };
        }
        self.reaches.push(reach);
    }
}

fn reach_of(mixer: &Mixer) -> KvReach {
    match mixer {
        Mixer::Attention(spec) => spec.mask.into(),
        Mixer::LatentAttention(_) => KvReach::Full,
    }
}

fn cached_of(mixer: &Mixer) -> Cached {
    match mixer {
        Mixer::Attention(AttentionSpec { num_kv_heads, head_dim, .. }) => {
            Cached::KeyAndValue(num_kv_heads * head_dim)
        }
        Mixer::LatentAttention(spec) => Cached::Latent(spec.cached_row()),
    }
}

/// The largest groups with which a sequence as long as the `context` needs little more memory than with any others, where
/// so many layers have each reach. Layers that are missing in a group are paid for all the same.
fn layers_per_group(counts: &[(KvReach, usize)], context: usize) -> usize {
    let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
    let all: usize = counts.iter().map(|(_, count)| count).sum();
    let sizes = all.div_ceil(MAX_GROUPS).clamp(1, most)..=most;
    let cost = |size: usize| {
        let of_reach = |(reach, count): &(KvReach, usize)| {
            let kept = reach.most_seen(1).map_or(context, |seen| seen.min(context));
            (count.next_multiple_of(size) as u64).saturating_mul(kept as u64)
        };
        counts.iter().map(of_reach).fold(0, u64::saturating_add)
    };
    let least = sizes.clone().map(cost).min().unwrap_or(0);
    let cheap = |size: &usize| cost(*size) <= least.saturating_add(least / 20);
    sizes.rev().find(cheap).unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLIDING: KvReach = KvReach::Sliding { window: 1024 };

    #[test]
    fn groups_are_large_and_waste_little() {
        let size = |counts: &[(KvReach, usize)]| layers_per_group(counts, 131_072);
        assert_eq!(size(&[(KvReach::Full, 36)]), 36, "one reach is one group");
        assert_eq!(size(&[(SLIDING, 12), (KvReach::Full, 12)]), 12);
        assert_eq!(size(&[(SLIDING, 52), (KvReach::Full, 10)]), 10, "Gemma 3");
        assert_eq!(size(&[(KvReach::Chunked { chunk: 8192 }, 36), (KvReach::Full, 12)]), 12, "Llama 4");
        assert_eq!(size(&[(SLIDING, 25), (KvReach::Full, 24)]), 25, "not two groups for one layer more");
        assert_eq!(size(&[(SLIDING, 47), (KvReach::Full, 1)]), 6, "not a group for each layer");
        assert_eq!(size(&[(SLIDING, 2), (KvReach::Full, 1)]), 1);
    }

    #[test]
    fn a_layer_of_each_group_shares_a_tensor() {
        let config = serde_json::json!({
            "architectures": ["Gemma3ForCausalLM"], "vocab_size": 10, "hidden_size": 32, "intermediate_size": 8,
            "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
            "sliding_window": 12, "max_position_embeddings": 256, "sliding_window_pattern": 3,
        });
        let mut spec = crate::families::read_spec(&config).unwrap();
        let layout = KvLayout::new(&spec);
        let sliding = KvReach::Sliding { window: 12 };
        assert_eq!(layout.reaches, [sliding, sliding, KvReach::Full]);
        assert_eq!(layout.tensors, [Cached::KeyAndValue(16); 2]);
        let place = |group, tensor| LayerPlace { group, tensor };
        let expected = [(0, 0), (0, 1), (2, 0), (1, 0), (1, 1), (2, 1)];
        assert_eq!(layout.places, expected.map(|(group, tensor)| place(group, tensor)));
        // Layers with other keys share nothing with them.
        for layer in [2, 5] {
            let Mixer::Attention(attention) = &mut spec.layers[layer].mixer else { panic!() };
            attention.head_dim = 16;
        }
        let layout = KvLayout::new(&spec);
        assert_eq!(layout.tensors, [16, 16, 32, 32].map(Cached::KeyAndValue));
        assert_eq!((layout.places[2], layout.places[5]), (place(2, 2), place(2, 3)));
    }
}
