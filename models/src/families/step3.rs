//! The text model of Step-3: queries by way of a narrow layer, one key and value head, sparse layers by a list.

use mosu_kernels::ops::Router;

use crate::{
    AttentionSpec, DecoderSpec, FfnSpec, LoadError, LowRankSpec, MoeSpec,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, KEYS, Keys, MAX_LAYERS, MAX_WIDTH, layer},
        ffn::{self, MAX_EXPERTS, SOFTMAX},
        step3_5, wrapper,
    },
    tensor_names::{QkvNames, TensorNames},
};

const STEP3: Defaults = Defaults {
    norm_eps: 1e-5,
    rope_theta: 5e5,
    head_dim: Some(256),
    keys: Keys {
        num_kv_heads: &["num_attention_groups"],
        context: &["max_position_embedding", "max_position_embeddings", "max_seq_len"],
        ..KEYS
    },
    ..DEFAULTS
};

const NAMES: TensorNames = TensorNames {
    qkv: QkvNames::LowRank {
        q_down: "self_attn.q_proj",
        q_down_norm: "self_attn.inter_norm",
        q_up: "self_attn.wq",
        k: "self_attn.k_proj",
        v: "self_attn.v_proj",
    },
    ..step3_5::NAMES
};

/// With its vision tower, which is ignored.
pub(super) fn read_multimodal(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let config = &wrapper::text_config(config)?;
    let base = Base::read(config, &STEP3)?;
    let narrow = LowRankSpec { rank: config.count("share_q_dim", MAX_WIDTH)?, norm_eps: base.norm.eps };
    let attention = AttentionSpec { low_rank_q: Some(narrow), ..base.attention.clone() };
    let num_experts = config.count("moe_num_experts", MAX_EXPERTS)?;
    let chosen = config.count("moe_top_k", num_experts)?;
    let renormalize = ffn::renormalize(config.flag("norm_expert_weight", false)?);
    let width = config.count("moe_intermediate_size", MAX_WIDTH)?;
    let beside = ffn::gated(config, config.count("share_expert_dim", MAX_WIDTH)?, false)?;
    let sparse = FfnSpec::Moe(MoeSpec {
        router: Router { renormalize, ..SOFTMAX },
        shared: ffn::shared(beside),
        ..ffn::moe(config, num_experts, chosen, width)?
    });
    let dense = ffn::dense(config, false)?;
    let listed = config.index_list("moe_layers_enum", MAX_LAYERS)?;
    let is_sparse = |index: usize| listed.as_ref().map_or(index > 0, |listed| listed.contains(&index));
    let layers = (0..base.num_layers)
        .map(|index| layer(attention.clone(), if is_sparse(index) { sparse.clone() } else { dense.clone() }))
        .collect();
    Ok((base.decoder(layers), NAMES))
}
