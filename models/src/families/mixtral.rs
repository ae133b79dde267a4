//! Mixtral 8x7B and 8x22B: every layer is sparse, the chosen experts' weights sum to 1.

use crate::{
    AttentionSpec, DecoderSpec, LayerSpec, LoadError,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, MAX_WIDTH},
        moe, sliding,
    },
    tensor_names::{GatedNames, TensorNames},
};

const NAMES: TensorNames = TensorNames {
    router: "block_sparse_moe.gate",
    experts: "block_sparse_moe.experts",
    expert: GatedNames { gate: "w1", up: "w3", down: "w2" },
    ..TensorNames::LLAMA
};

pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &Defaults { rms_norm_eps: 1e-5, rope_theta: 1e6, ..DEFAULTS })?;
    let intermediate_size = config.count("intermediate_size", MAX_WIDTH)?;
    let layer = LayerSpec {
        attention: AttentionSpec { mask: sliding::every_layer(config)?, ..base.attention.clone() },
        ffn: moe::read(config, intermediate_size, true)?,
    };
    let layers = vec![layer; base.num_layers];
    Ok((base.decoder(layers), NAMES))
}
