//! Hunyuan 0.5B to 7B, HY-MT and A13B: norms of q and k behind the rotation, whose theta `alpha` fixes.

use mosu_kernels::ops::{NormOrder, Renormalize, Router};

use crate::{
    AttentionSpec, DecoderSpec, FfnSpec, LoadError, MoeSpec, QkNormSpec,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, MAX_WIDTH, layer},
        ffn::{self, MAX_EXPERTS, SOFTMAX},
    },
    tensor_names::{NetworkNames, TensorNames},
};

const HUNYUAN: Defaults = Defaults { norm_eps: 1e-5, ..DEFAULTS };

const NAMES: TensorNames = TensorNames {
    q_norm: "self_attn.query_layernorm",
    k_norm: "self_attn.key_layernorm",
    router: "mlp.gate.wg",
    shared: NetworkNames::split(
        "mlp.shared_mlp.gate_proj",
        "mlp.shared_mlp.up_proj",
        "mlp.shared_mlp.down_proj",
    ),
    ..TensorNames::LLAMA
};

fn attention(config: &ConfigJson, base: &Base) -> Result<AttentionSpec, LoadError> {
    let bias = config.flag("attention_bias", false)?;
    let qk_norm = QkNormSpec { order: NormOrder::AfterRope, ..QkNormSpec::HEADS };
    Ok(AttentionSpec {
        qkv_bias: bias,
        o_bias: bias,
        qk_norm: config.flag("use_qk_norm", true)?.then_some(qk_norm),
        ..base.attention.clone()
    })
}

/// Dense.
pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &HUNYUAN)?;
    let attention = attention(config, &base)?;
    Ok((base.uniform(attention, ffn::dense(config, false)?), NAMES))
}

/// A13B. What the experts are may differ from layer to layer.
pub(super) fn read_moe(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &HUNYUAN)?;
    let attention = attention(config, &base)?;
    let n = base.num_layers;
    let width = config.count("intermediate_size", MAX_WIDTH)?;
    let num_experts = config.count("num_experts", MAX_EXPERTS)?;
    let key = config.first_of(&["moe_topk", "num_experts_per_tok"]);
    let chosen = config.counts_by_layer(key, n, num_experts, 1)?;
    let widths = config.counts_by_layer("moe_intermediate_size", n, MAX_WIDTH, width)?;
    let shared = config.counts_by_layer("num_shared_expert", n, MAX_EXPERTS, 1)?;
    let layers = (0..n)
        .map(|index| {
            if chosen[index] == 0 || widths[index] == 0 {
                return Err(
                    config.error(key, format!("layer {index} has experts of no size, or chooses none"))
                );
            }
            let shared = match shared[index] {
                0 => None,
                number => ffn::shared(ffn::gated(config, number * width, false)?),
            };
            let moe = ffn::moe(config, num_experts, chosen[index], widths[index])?;
            let router = Router { renormalize: Renormalize::Sum, ..SOFTMAX };
            Ok(layer(attention.clone(), FfnSpec::Moe(MoeSpec { router, shared, ..moe })))
        })
        .collect::<Result<_, _>>()?;
    Ok((base.decoder(layers), NAMES))
}
