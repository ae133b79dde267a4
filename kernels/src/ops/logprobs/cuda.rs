//! The launch of `logprobs`, and its results read back.

use super::{LogprobRow, TokenLogprobs};
use crate::{
    CudaDevice, Result, View,
    cuda::{Args, Grid},
};

/// As in the `.cu` file.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Row {
    row: u32,
    target: u32,
    top: u32,
    first: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Report {
    logprob: f32,
    log_sum: f32,
    rank: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Token {
    id: u32,
    logit: f32,
}

pub(super) fn logprobs(
    gpu: &CudaDevice,
    out: &mut [TokenLogprobs],
    logits: View<'_>,
    rows: &[LogprobRow],
) -> Result<()> {
    let vocab = logits.shape().row_elements();
    let mut tokens = 0;
    let packed: Vec<Row> = rows
        .iter()
        .map(|&LogprobRow { row, target, top }| {
            let (top, first) = (top.min(vocab), tokens);
            tokens += top;
            Row { row: row as u32, target, top: top as u32, first: first as u32 }
        })
        .collect();
    // Rows, then reports and tokens, which are read back together.
    let results = rows.len() * size_of::<Row>();
    let result_bytes = rows.len() * size_of::<Report>() + tokens * size_of::<Token>();
    let scratch = gpu.scratch(results + result_bytes)?;
    gpu.write(scratch, bytemuck::cast_slice(&packed))?;
    let mut args = Args::new();
    args.pointer(scratch.offset(results));
    args.pointer(scratch.offset(results + rows.len() * size_of::<Report>()));
    args.read(&logits).pointer(scratch).u32(vocab as u32);
    let threads = if vocab > 4096 { 512 } else { 128 };
    gpu.launch("logprobs_f32", Grid { blocks: [rows.len() as u32, 1, 1], threads, shared_bytes: 0 }, &args)?;

    let mut words = vec![0u32; result_bytes / 4];
    gpu.read(bytemuck::cast_slice_mut(&mut words), scratch.offset(results))?;
    let (reports, tokens) = words.split_at(rows.len() * size_of::<Report>() / 4);
    let (reports, mut tokens): (&[Report], &[Token]) =
        (bytemuck::cast_slice(reports), bytemuck::cast_slice(tokens));
    for ((out, report), row) in out.iter_mut().zip(reports).zip(packed) {
        let top;
        (top, tokens) = tokens.split_at(row.top as usize);
        out.logprob = report.logprob;
        out.rank = report.rank;
        out.top.clear();
        out.top.extend(top.iter().map(|token| (token.id, token.logit)));
        // Best first, ties to the lowest id; -0 and 0 are equal.
        out.top.sort_unstable_by(|a, b| (b.1 + 0.0).total_cmp(&(a.1 + 0.0)).then(a.0.cmp(&b.0)));
        out.top.iter_mut().for_each(|(_, logit)| *logit -= report.log_sum);
    }
    Ok(())
}
