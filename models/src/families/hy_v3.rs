//! Hy3: many experts, chosen by sigmoid plus a learned bias, and a network beside them; the first layer is dense.

use mosu_kernels::ops::{Renormalize, Router, RouterScore};

use crate::{
    AttentionSpec, DecoderSpec, FfnSpec, LoadError, MoeSpec, QkNormSpec,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, MAX_WIDTH, layer},
        ffn::{self, MAX_EXPERTS, SOFTMAX},
    },
    tensor_names::{NetworkNames, TensorNames},
};

const HY3: Defaults = Defaults { norm_eps: 1e-5, rope_theta: 11_158_840.0, head_dim: Some(128), ..DEFAULTS };

pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &HY3)?;
    let bias = config.flag("attention_bias", false)?;
    let mlp_bias = config.flag("mlp_bias", false)?;
    let attention = AttentionSpec {
        qkv_bias: bias,
        o_bias: bias,
        qk_norm: Some(QkNormSpec::HEADS),
        ..base.attention.clone()
    };
    let width = config.count("moe_intermediate_size", MAX_WIDTH)?;
    let num_shared = config.optional_count("num_shared_experts", MAX_EXPERTS)?.unwrap_or(1);
    let router = Router {
        score: RouterScore::Sigmoid,
        renormalize: Renormalize::SumPlus(1e-20),
        scale: config.optional_number("router_scaling_factor")?.unwrap_or(2.826) as f32,
        ..SOFTMAX
    };
    let shared = ffn::shared(ffn::gated(config, num_shared * width, mlp_bias)?);
    let moe = MoeSpec { router, e_score_correction_bias: true, shared, ..ffn::experts(config, width)? };
    let (sparse, dense) = (FfnSpec::Moe(moe), ffn::dense(config, mlp_bias)?);
    let layers = ffn::sparse_layers(config, base.num_layers, 1)?
        .into_iter()
        .map(|is_sparse| layer(attention.clone(), if is_sparse { sparse.clone() } else { dense.clone() }))
        .collect();
    let names = TensorNames {
        router: "mlp.router.gate",
        e_score_correction_bias: "mlp.expert_bias",
        shared: NetworkNames::split(
            "mlp.shared_mlp.gate_proj",
            "mlp.shared_mlp.up_proj",
            "mlp.shared_mlp.down_proj",
        ),
        ..TensorNames::LLAMA
    };
    Ok((base.decoder(layers), names))
}
