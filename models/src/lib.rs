//! Checkpoints, model families and the decoder of mosu: *what is computed*.
//!
//! [`Model::load`] turns a directory in Hugging Face layout, or a GGUF file, into a decoder in memory; [`Model::step`] advances many
//! sequences at once by one [`Batch`]. A family is a function from config.json to a [`DecoderSpec`], see
//! `src/families.rs`; README.md says how to add one.

mod batch;
mod batch_check;
mod chat_template;
mod checkpoint;
mod config_json;
mod cuda_graphs;
mod decoder;
mod demo;
mod dummy;
mod end_tokens;
mod error;
mod families;
mod gguf;
mod info;
mod inputs;
mod inspect;
mod kv_cache;
mod kv_groups;
mod kv_layout;
mod memory;
mod model;
mod plan;
mod position_tables;
mod python_json;
mod quantization;
mod rope;
mod safetensors_header;
mod sampler;
mod sampling_defaults;
mod size;
mod source;
mod spec;
mod tensor_names;
mod tokenizer;
mod weight_files;
mod weights;
mod workspace;

pub use batch::{Batch, KvPlaces, LogitFault, LogitOutput, LogitRow, LogitToken, PendingToken, StepOutput};
pub use batch_check::StepError;
pub use chat_template::{ChatRequest, ChatTemplate, ChatTemplateError};
pub use error::LoadError;
pub use info::ModelInfo;
pub use inspect::{Inspection, TokenizerFacts, inspect};
pub use kv_cache::BLOCK_SIZE;
pub use kv_groups::{KvGroups, KvReach};
pub use model::{LoadFormat, LoadProgress, Model, ModelOptions, USUAL_TOKENS};
pub use mosu_kernels::{
    DType, Device, Gpu, KernelError, gpus, limits,
    ops::{
        Activation, ApplyRouterWeight, AttentionMask, ExpertGroups, Glu, GroupRank, MAX_BANNED,
        MAX_BIASED_TOKENS, NormKind, NormOrder, NormSpan, Renormalize, RopeLayout, Router, RouterLogits,
        RouterScore, SampleParams, SeenToken, SeenTokens, TokenLogprobs,
    },
};
pub use plan::MemoryPlan;
pub use quantization::Quantization;
pub use sampling_defaults::SamplingDefaults;
pub use source::ModelSource;
pub use spec::{
    AttentionSpec, DecoderSpec, DenseSpec, EmbeddingSpec, FfnActivation, FfnSpec, HeadSpec,
    LatentAttentionSpec, LayerSpec, LowRankSpec, Mixer, MoeSpec, NormSpec, QkNormSpec, RopeScaling, RopeSpec,
    SharedSpec, Temperature,
};
pub use tokenizer::{Joining, SpecialTokens, TextJoiner, TokenPiece, Tokenizer, TokenizerError};
pub use weight_files::WeightFiles;
