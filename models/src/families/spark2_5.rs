//! iFlytek's Spark-X2.5: a gate per head, sliding layers between full ones, which rotate a part of each head; GeGLU.

use mosu_kernels::ops::{Activation, AttentionMask, Glu};

use crate::{
    AttentionSpec, DecoderSpec, DenseSpec, FfnActivation, FfnSpec, LoadError,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, MAX_WIDTH, layer},
        masks, rope,
    },
    tensor_names::{QkvNames, TensorNames},
};

const SPARK: Defaults = Defaults { partial_rotary: Some(1.0), ..DEFAULTS };

const NAMES: TensorNames = TensorNames {
    embedding: "model.embedding",
    qkv: QkvNames::Fused("self_attn.q_k_v_proj"),
    o_proj: "self_attn.out_proj",
    ..TensorNames::LLAMA
};

pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let mut base = Base::without_rope(config, &SPARK)?;
    let head_dim = base.attention.head_dim;
    let full = rope::read_for(config, masks::FULL, head_dim, &SPARK)?;
    let sliding = rope::read_for(config, masks::SLIDING, head_dim, &SPARK)?;
    base.extend_context(&full.scaling);
    let output_gate = config.flag("headwise_attn_output_gate", true)?;
    let ffn = FfnSpec::Dense(DenseSpec {
        intermediate_size: config.count("intermediate_size", MAX_WIDTH)?,
        activation: FfnActivation::Gated(Glu::Plain(Activation::GeluTanh)),
        bias: false,
    });
    let masks = masks::by_type(config, base.num_layers, masks::every_layer(config)?, |_| false)?;
    let layers = masks
        .into_iter()
        .map(|mask| {
            let rope = Some(if mask == AttentionMask::Full { full.clone() } else { sliding.clone() });
            layer(AttentionSpec { mask, rope, output_gate, ..base.attention.clone() }, ffn.clone())
        })
        .collect();
    Ok((base.decoder(layers), NAMES))
}
