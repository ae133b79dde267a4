//! gpt-oss: sinks in every head's softmax, every other layer slides, experts with biases and a clamped activation.

use mosu_kernels::ops::{Glu, RopeLayout, Router, RouterScore};

use crate::{
    AttentionSpec, DecoderSpec, FfnSpec, LoadError, MoeSpec, RopeScaling, RopeSpec,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, MAX_WIDTH, layer},
        ffn::{self, SOFTMAX},
        masks, rope,
    },
    tensor_names::{ExpertNames, TensorNames},
};

const GPT_OSS: Defaults = Defaults { norm_eps: 1e-5, rope_theta: 150_000.0, head_dim: Some(64), ..DEFAULTS };

pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let mut base = Base::without_rope(config, &GPT_OSS)?;
    let rope = match config.section(config.first_of(&["rope_scaling", "rope_parameters"]))? {
        Some(_) => rope::read(config, base.attention.head_dim, &GPT_OSS)?,
        None => default_rope(config, base.attention.head_dim)?,
    };
    base.extend_context(&rope.scaling);
    let bias = config.flag("attention_bias", true)?;
    let attention = AttentionSpec {
        qkv_bias: bias,
        o_bias: bias,
        sinks: true,
        rope: Some(rope),
        ..base.attention.clone()
    };
    let experts = MoeSpec {
        glu: Glu::SwigluOai {
            alpha: config.optional_number("swiglu_alpha")?.unwrap_or(1.702) as f32,
            limit: config.optional_number("swiglu_limit")?.unwrap_or(7.0) as f32,
        },
        expert_bias: true,
        router: Router { score: RouterScore::SoftmaxOfChosen, ..SOFTMAX },
        router_bias: true,
        ..ffn::experts(config, config.count("intermediate_size", MAX_WIDTH)?)?
    };
    let sliding = masks::some_layers(config, 128)?;
    let layers = masks::by_type(config, base.num_layers, sliding, |n| n % 2 == 0)?
        .into_iter()
        .map(|mask| layer(AttentionSpec { mask, ..attention.clone() }, FfnSpec::Moe(experts.clone())))
        .collect();
    let names = TensorNames {
        router: "mlp.router",
        experts: ExpertNames::Transposed {
            gate_up: "mlp.experts.gate_up_proj",
            down: "mlp.experts.down_proj",
            interleaved: true,
        },
        ..TensorNames::LLAMA
    };
    Ok((base.decoder(layers), names))
}

/// The published models' YaRN, where config.json does not mention it.
fn default_rope(config: &ConfigJson, head_dim: usize) -> Result<RopeSpec, LoadError> {
    let factor = 32.0;
    Ok(RopeSpec {
        theta: config.optional_number("rope_theta")?.unwrap_or(GPT_OSS.rope_theta),
        rotary_dim: head_dim,
        layout: RopeLayout::HalfSplit,
        scaling: RopeScaling::Yarn {
            factor,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_max_position: 4096,
            truncate: false,
            attention_factor: rope::yarn_mscale(factor, 1.0),
        },
    })
}
