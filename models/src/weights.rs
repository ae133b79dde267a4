//! A spec and a source of tensors make the weights of a decoder. Each tensor is claimed exactly once, with the shape
//! that the spec implies. Whatever layout a checkpoint has ends here: the decoder sees `[out, in]` matrices, rows
//! q, k, v and gate, up.

mod claims;
mod layout;
mod left_over;
mod parts;
mod placement;
mod source;

use mosu_kernels::Allocator;

use crate::{DecoderSpec, LoadError, LoadProgress, tensor_names::TensorNames};
pub(crate) use layout::{bytes, bytes_mut};
pub(crate) use parts::{
    AttentionWeights, DecoderWeights, FfnWeights, LatentAttentionWeights, LatentQueries, LayerWeights,
    LowRankWeights, MixerWeights, NetworkWeights, NormWeights, QkvWeights,
};
pub(crate) use source::{Pass, TensorSource};

/// Claims every tensor that `spec` needs and moves it to the memory of `to`, layer by layer, so that of a model on a GPU
/// the host never holds more than a layer.
///
/// # Errors
/// When a tensor is missing or does not have the shape or type that it should, and when memory is short.
pub(crate) fn load(
    source: &mut dyn TensorSource,
    spec: &DecoderSpec,
    names: &TensorNames,
    to: &Allocator<'_>,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<DecoderWeights, LoadError> {
    claims::Claims::new(source, spec, names, progress).decoder(to)
}

/// The weights of a spec as `source` would give them, without elements, and the names of the tensors that are not needed.
///
/// # Errors
/// As [`load`], and when there is a tensor that nothing asks for in a module that is needed.
pub(crate) fn plan(
    source: &mut dyn TensorSource,
    spec: &DecoderSpec,
    names: &TensorNames,
    counted: &Allocator<'_>,
) -> Result<(DecoderWeights, Vec<String>), LoadError> {
    source.begin(Pass::Plan);
    let planned = load(source, spec, names, counted, &mut |_| ())?;
    let layers = format!("{}{}", claims::prefix(source, names), names.layers);
    Ok((planned, left_over::check(source, &layers, names.inert)?))
}
