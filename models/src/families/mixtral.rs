//! Mixtral 8x7B and 8x22B: every layer is sparse, the chosen experts' weights sum to 1.

use mosu_kernels::ops::{Renormalize, Router};

use crate::{
    AttentionSpec, DecoderSpec, FfnSpec, LoadError, MoeSpec,
    config_json::ConfigJson,
    families::{
        base::{Base, DEFAULTS, Defaults, MAX_WIDTH},
        ffn::{self, SOFTMAX},
        masks,
    },
    tensor_names::TensorNames,
};

pub(super) fn read(config: &ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError> {
    let base = Base::read(config, &Defaults { norm_eps: 1e-5, rope_theta: 1e6, ..DEFAULTS })?;
    let attention = AttentionSpec { mask: masks::every_layer(config)?, ..base.attention.clone() };
    let moe = ffn::experts(config, config.count("intermediate_size", MAX_WIDTH)?)?;
    let moe = MoeSpec { router: Router { renormalize: Renormalize::Sum, ..SOFTMAX }, ..moe };
    Ok((base.uniform(attention, FfnSpec::Moe(moe)), TensorNames::MIXTRAL))
}
