//! The launch of `logprobs`.

use super::{LogprobRow, LogprobTarget, places};
use crate::{
    CudaDevice, Result, View, ViewMut,
    cuda::{Args, Grid},
};

/// As in the `.cu` file.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Row {
    row: u32,
    target: u32,
    is_drawn: u32,
    top: u32,
    place: u32,
}

pub(super) fn logprobs(
    gpu: &CudaDevice,
    mut out: ViewMut<'_>,
    logits: View<'_>,
    sampled: View<'_>,
    rows: &[LogprobRow],
) -> Result<()> {
    let vocab = logits.shape().row_elements();
    let pack = |(row, place): (&LogprobRow, usize)| {
        let (target, is_drawn) = match row.target {
            LogprobTarget::Token(token) => (token, 0),
            LogprobTarget::Sampled(number) => (number as u32, 1),
        };
        let top = row.top.min(vocab) as u32;
        Row { row: row.row as u32, target, is_drawn, top, place: place as u32 }
    };
    let packed: Vec<Row> = rows.iter().zip(places(rows, vocab)).map(pack).collect();
    let scratch = gpu.scratch(size_of_val(&*packed))?;
    gpu.write(scratch, bytemuck::cast_slice(&packed))?;
    let mut args = Args::new();
    args.write(&mut out).read(&logits).read(&sampled).pointer(scratch).u32(vocab as u32);
    let threads = if vocab > 4096 { 512 } else { 128 };
    gpu.launch("logprobs_f32", Grid { blocks: [rows.len() as u32, 1, 1], threads, shared_bytes: 0 }, &args)
}
