//! Architectures that are known and cannot be computed: what each of them lacks here.

const DELTA_NET: &str = "gated delta net layers";
const LIGHTNING: &str = "lightning attention layers";
const INDEXER: &str = "sparse attention with an indexer";
const HYPER: &str = "hyper-connections";
const VISION: &str = "rotation by place in an image";
const SHARED_KV: &str = "keys and values that layers share";
const STATE_SPACE: &str = "state space layers";

/// Architecture, and what it needs.
const REFUSED: &[(&str, &str)] = &[
    ("DeepseekV32ForCausalLM", INDEXER),
    ("DeepseekV4ForCausalLM", HYPER),
    ("FalconH1ForCausalLM", STATE_SPACE),
    ("Gemma3nForConditionalGeneration", SHARED_KV),
    ("Gemma4ForCausalLM", SHARED_KV),
    ("Gemma4ForConditionalGeneration", SHARED_KV),
    ("GlmMoeDsaForCausalLM", INDEXER),
    ("HYV4ForCausalLM", HYPER),
    ("HunYuanForCausalLM", SHARED_KV),
    ("JambaForCausalLM", STATE_SPACE),
    ("Mamba2ForCausalLM", STATE_SPACE),
    ("MambaForCausalLM", STATE_SPACE),
    ("MiniMaxForCausalLM", LIGHTNING),
    ("MiniMaxM1ForCausalLM", LIGHTNING),
    ("MiniMaxM3SparseForConditionalGeneration", INDEXER),
    ("MiniMaxText01ForCausalLM", LIGHTNING),
    ("MuseGlimmerForConditionalGeneration", HYPER),
    ("OpenPanguV2ForCausalLM", HYPER),
    ("Qwen2VLForConditionalGeneration", VISION),
    ("Qwen2_5_VLForConditionalGeneration", VISION),
    ("Qwen3NextForCausalLM", DELTA_NET),
    ("Qwen3VLForConditionalGeneration", VISION),
    ("Qwen3VLMoeForConditionalGeneration", VISION),
    ("Qwen3_5ForCausalLM", DELTA_NET),
    ("Qwen3_5ForConditionalGeneration", DELTA_NET),
    ("Qwen3_5MoeForCausalLM", DELTA_NET),
    ("Qwen3_5MoeForConditionalGeneration", DELTA_NET),
    ("Qwen4ExpForCausalLM", HYPER),
];

/// What an architecture needs that is not supported.
pub(super) fn lacks(architecture: &str) -> Option<&'static str> {
    REFUSED.iter().find(|(name, _)| *name == architecture).map(|(_, needs)| *needs)
}
