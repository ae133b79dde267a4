//! `moe`: a mixture of experts, grouped so that every expert's rows run as one matrix product.

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;
mod workspace;

pub use workspace::MoeWorkspace;

use super::{check::Check, experts::Experts, gated_activation::Glu};
use crate::{DType, Device, Result, View, ViewMut};

/// Where a chosen expert's weight goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplyRouterWeight {
    /// It multiplies the expert's output.
    OnOutput,
    /// It multiplies the expert's input (Llama 4): gate and up of `weight · x`. For experts without biases.
    OnInput,
}

/// `out[t] = Σ_slot weights[t, slot] · down(glu(gate(x[t]), up(x[t])))` with the expert `ids[t, slot]`, summed in slot
/// order.
///
/// - `out`: f32 `[T, H]`
/// - `x`: compute `[T, H]`
/// - `ids`: u32 `[T, k]`, each below E
/// - `weights`: f32 `[T, k]`
///
/// # Errors
/// When shapes or types do not fit each other or the workspace, inputs of experts with biases are to be weighted, or
/// an id is out of range.
#[allow(clippy::too_many_arguments)] // One per tensor, as in every op.
pub fn moe(
    device: &Device,
    out: ViewMut<'_>,
    x: View<'_>,
    ids: View<'_>,
    weights: View<'_>,
    experts: &Experts,
    glu: Glu,
    weigh: ApplyRouterWeight,
    workspace: &mut MoeWorkspace,
) -> Result<()> {
    let check = Check("moe");
    let [rows, chosen] = check.dims("ids", &ids)?;
    check.dtype("ids", &ids, DType::U32)?;
    check.is("x", &x, [rows, experts.hidden_size()], experts.compute())?;
    check.is("weights", &weights, [rows, chosen], DType::F32)?;
    check.is("out", &out, [rows, experts.hidden_size()], DType::F32)?;
    check.that(weigh == ApplyRouterWeight::OnOutput || !experts.biased(), || {
        "cannot weigh the inputs of experts with biases".into()
    })?;
    workspace.check(check, rows, chosen, experts)?;
    match device {
        Device::Cpu(cpu) => cpu::moe(cpu, check, out, x, ids, weights, experts, glu, weigh, workspace),
        Device::Cuda(gpu) => cuda::moe(gpu, check, out, x, ids, weights, experts, glu, weigh, workspace),
    }
}
