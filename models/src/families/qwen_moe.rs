//! Qwen3-MoE (30B-A3B, 235B-A22B, Coder): Qwen3's attention. Qwen2-MoE (1.5-MoE-A2.7B, 57B-A14B): Qwen2's attention,
//! and a gated shared expert. Most layers are sparse, some may be dense.

use mosu_kernels::ops::{AttentionMask, Router};

use crate::{
    AttentionSpec, DecoderSpec, FfnSpec, LoadError, MoeSpec, QkNormSpec, SharedSpec,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, MAX_LAYERS, MAX_WIDTH, layer},
        ffn::{self, SOFTMAX},
        masks,
    },
    tensor_names::{NetworkNames, TensorNames},
};

/// Names of checkpoints with a shared expert.
pub(super) const SHARED_NAMES: TensorNames = TensorNames {
    shared: NetworkNames::split(
        "mlp.shared_expert.gate_proj",
        "mlp.shared_expert.up_proj",
        "mlp.shared_expert.down_proj",
    ),
    ..TensorNames::LLAMA
};

/// Qwen3-MoE.
pub(super) fn read_3(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &DEFAULTS)?;
    let bias = config.flag("attention_bias", false)?;
    let attention = AttentionSpec {
        qkv_bias: bias,
        o_bias: bias,
        qk_norm: Some(QkNormSpec::HEADS),
        mask: masks::if_used(config)?,
        ..base.attention.clone()
    };
    let moe = experts(config)?;
    Ok((decoder(config, base, attention, moe)?, TensorNames::LLAMA))
}

/// Qwen2-MoE.
pub(super) fn read_2(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &DEFAULTS)?;
    if masks::if_used(config)? != AttentionMask::Full {
        return Err(config.error("use_sliding_window", "true is not supported for this architecture"));
    }
    let attention = AttentionSpec { qkv_bias: config.flag("qkv_bias", true)?, ..base.attention.clone() };
    let width = config.count("shared_expert_intermediate_size", MAX_WIDTH)?;
    let network = ffn::gated(config, width, false)?;
    let shared = Some(SharedSpec { network, gated: true, sum_scale: 1.0 });
    let moe = MoeSpec { shared, ..experts(config)? };
    Ok((decoder(config, base, attention, moe)?, SHARED_NAMES))
}

fn experts(config: &ConfigJson) -> Result<MoeSpec, LoadError> {
    let renormalize = ffn::renormalize(config.flag("norm_topk_prob", false)?);
    let moe = ffn::experts(config, config.count("moe_intermediate_size", MAX_WIDTH)?)?;
    Ok(MoeSpec { router: Router { renormalize, ..SOFTMAX }, ..moe })
}

/// Every `decoder_sparse_step`th layer is sparse, except those in `mlp_only_layers`.
fn decoder(
    config: &ConfigJson,
    base: Base,
    attention: AttentionSpec,
    moe: MoeSpec,
) -> Result<DecoderSpec, LoadError> {
    let dense = ffn::dense(config, false)?;
    let sparse = FfnSpec::Moe(moe);
    let mlp_only_layers = config.indices("mlp_only_layers")?;
    let sparse_step = config.optional_count("decoder_sparse_step", MAX_LAYERS)?.unwrap_or(1);
    let layers = (0..base.num_layers)
        .map(|index| {
            let is_sparse = !mlp_only_layers.contains(&index) && (index + 1).is_multiple_of(sparse_step);
            layer(attention.clone(), if is_sparse { sparse.clone() } else { dense.clone() })
        })
        .collect();
    Ok(base.decoder(layers))
}
