//! The table of families: which function reads the config.json of which architecture.
//!
//! A family is not a forward pass. It is a function from config.json to a [`DecoderSpec`] and the names that its
//! checkpoints give to the tensors.

mod base;
mod bloom;
mod chatglm;
mod deepseek;
mod defaults;
mod ernie4_5;
mod ffn;
mod gemma;
mod glm;
mod gpt2;
mod gpt_oss;
mod grok;
mod hunyuan;
mod hy_v3;
mod internlm;
mod limits;
mod llama;
mod llama4;
mod masks;
mod minimax_m2;
mod mistral;
mod mixtral;
mod pangu;
mod phi;
mod qwen1;
mod qwen2;
mod qwen3;
mod qwen_moe;
mod refused;
mod rope;
mod skywork;
mod spark2_5;
mod step3;
mod step3_5;
mod wrapper;

use crate::{DecoderSpec, LoadError, config_json::ConfigJson, tensor_names::TensorNames};

/// What a family makes of a config.json.
pub(crate) struct Family {
    /// The architecture, as config.json spells it.
    pub architecture: &'static str,
    /// What is computed.
    pub spec: DecoderSpec,
    /// Where its weights are.
    pub names: TensorNames,
}

type ReadConfig = fn(&ConfigJson) -> Result<(DecoderSpec, TensorNames), LoadError>;

/// Architecture as in config.json's `architectures`, and the function that reads the rest of the file.
const FAMILIES: &[(&str, ReadConfig)] = &[
    ("BloomForCausalLM", bloom::read),
    ("ChatGLMForConditionalGeneration", chatglm::read),
    ("ChatGLMModel", chatglm::read),
    ("DeepseekV2ForCausalLM", deepseek::read_v2),
    ("DeepseekV3ForCausalLM", deepseek::read_v3),
    ("Ernie4_5ForCausalLM", ernie4_5::read),
    ("Ernie4_5_MoeForCausalLM", ernie4_5::read_moe),
    ("GPT2LMHeadModel", gpt2::read),
    ("Gemma2ForCausalLM", gemma::read_2),
    ("Gemma3ForCausalLM", gemma::read_3),
    ("Gemma3ForConditionalGeneration", gemma::read_3_multimodal),
    ("Glm4ForCausalLM", glm::read_0414),
    ("Glm4MoeForCausalLM", glm::read_moe),
    ("Glm4MoeLiteForCausalLM", glm::read_moe_lite),
    ("GlmForCausalLM", glm::read),
    ("GptOssForCausalLM", gpt_oss::read),
    ("Grok1ForCausalLM", grok::read_2),
    ("Grok1ModelForCausalLM", grok::read_1),
    ("HYV3ForCausalLM", hy_v3::read),
    ("HunYuanDenseV1ForCausalLM", hunyuan::read),
    ("HunYuanMoEV1ForCausalLM", hunyuan::read_moe),
    ("InternLM2ForCausalLM", internlm::read_2),
    ("InternLM3ForCausalLM", internlm::read_3),
    ("InternLMForCausalLM", internlm::read_1),
    ("InternS1ForConditionalGeneration", internlm::read_s1),
    ("Llama4ForCausalLM", llama4::read),
    ("Llama4ForConditionalGeneration", llama4::read_multimodal),
    ("LlamaForCausalLM", llama::read),
    ("MiniMaxM2ForCausalLM", minimax_m2::read),
    ("Ministral3ForCausalLM", mistral::read_ministral3),
    ("Mistral3ForConditionalGeneration", mistral::read_mistral3),
    ("MistralForCausalLM", mistral::read),
    ("MixtralForCausalLM", mixtral::read),
    ("PanguEmbeddedForCausalLM", pangu::read),
    ("PanguProMoEForCausalLM", pangu::read_pro_moe),
    ("PanguUltraMoEForCausalLM", pangu::read_ultra_moe),
    ("Phi3ForCausalLM", phi::read),
    ("PhiMoEForCausalLM", phi::read_moe),
    ("PhimoeForCausalLM", phi::read_moe),
    ("QWenLMHeadModel", qwen1::read),
    ("Qwen2ForCausalLM", qwen2::read),
    ("Qwen2MoeForCausalLM", qwen_moe::read_2),
    ("Qwen3ForCausalLM", qwen3::read),
    ("Qwen3MoeForCausalLM", qwen_moe::read_3),
    ("SkyworkForCausalLM", skywork::read),
    ("Spark2_5ForCausalLM", spark2_5::read),
    ("Step3VLForConditionalGeneration", step3::read_multimodal),
    ("Step3p5ForCausalLM", step3_5::read),
    ("Step3p7ForConditionalGeneration", step3_5::read_multimodal),
];

/// Reads a config.json of any family.
///
/// # Errors
/// For an unknown architecture, and for every value that is missing, absurd or not supported.
pub(crate) fn read(config: &ConfigJson) -> Result<Family, LoadError> {
    let architectures = config.optional_texts("architectures")?.unwrap_or_default();
    let [name] = architectures[..] else {
        return Err(
            config.error("architectures", format!("expected one architecture, found {architectures:?}"))
        );
    };
    if let Some(needs) = refused::lacks(name) {
        return Err(config.error("architectures", format!("{name} needs {needs}, not supported yet")));
    }
    let Some((architecture, read)) = FAMILIES.iter().find(|(known, _)| *known == name) else {
        return Err(LoadError::UnknownArchitecture {
            file: config.file().into(),
            name: name.into(),
            known: FAMILIES.iter().map(|(known, _)| *known).collect(),
        });
    };
    let (mut spec, names) = read(config)?;
    // A multimodal file may say it for all its parts at once.
    if spec.dtype.is_none() {
        spec.dtype = base::dtype(config)?;
    }
    Ok(Family { architecture, spec, names })
}

#[cfg(test)]
pub(crate) use tests::read_spec;

#[cfg(test)]
mod tests;
