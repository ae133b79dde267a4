//! The launch of `sample`: parameters go to the device in one copy.

use super::{MAX_BANNED, MAX_BIASED_TOKENS, SampleParams, SampleRow, SampleWorkspace, race};
use crate::{
    CudaDevice, Result, View, ViewMut,
    cuda::{Args, Grid},
};

/// Where adjusted logits may start: at whole vectors.
const ADJUSTED_ALIGNMENT: usize = 16;

/// As in the `.cu` file.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Row {
    key: u64,
    row: u32,
    top_k: u32,
    /// Its slot, or [`NO_SLOT`].
    slot: u32,
    /// 1 when the slot is loaded with the list that follows, else 0.
    loads: u32,
    seen: u32,
    seen_count: u32,
    bias: u32,
    bias_count: u32,
    banned: u32,
    banned_count: u32,
    temperature: f32,
    top_p: f32,
    least: f32,
    repetition_penalty: f32,
    presence_penalty: f32,
    frequency_penalty: f32,
}

/// Stands for the slot of a row that needs none.
const NO_SLOT: u32 = u32::MAX;

/// Parameters as the kernel reads them, kept from step to step.
#[derive(Debug, Default)]
pub(super) struct Packed {
    rows: Vec<Row>,
    /// The rows, then their lists.
    words: Vec<u32>,
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Row({})", self.row)
    }
}

impl Packed {
    fn pack(&mut self, rows: &[SampleRow<'_>]) {
        self.rows.clear();
        let size = rows.len() * size_of::<Row>() / 4;
        self.words.clear();
        self.words.resize(size, 0);
        for &SampleRow { row, params } in rows {
            let row = self.row(row, params, size);
            self.rows.push(row);
        }
        self.words[..size].copy_from_slice(bytemuck::cast_slice(&self.rows));
    }

    /// A row's parameters; its lists are appended to the words, counted from `first`.
    fn row(&mut self, row: usize, params: &SampleParams, first: usize) -> Row {
        let load = params.seen.as_ref().and_then(|seen| seen.load.as_deref());
        let seen = load.unwrap_or_default();
        let mut list = |words: &mut dyn Iterator<Item = u32>| {
            let start = self.words.len() - first;
            self.words.extend(words);
            start as u32
        };
        Row {
            key: race::key(params.seed, params.position),
            row: row as u32,
            top_k: params.top_k,
            slot: params.seen.as_ref().map_or(NO_SLOT, |seen| seen.slot),
            loads: load.is_some().into(),
            seen: list(&mut seen.iter().flat_map(|seen| [seen.id, seen.output_count])),
            seen_count: seen.len() as u32,
            bias: list(&mut params.logit_bias.iter().flat_map(|&(id, bias)| [id, bias.to_bits()])),
            bias_count: params.logit_bias.len() as u32,
            banned: list(&mut params.banned.iter().copied()),
            banned_count: params.banned.len() as u32,
            temperature: params.temperature,
            top_p: params.top_p,
            least: params.least(),
            repetition_penalty: params.repetition_penalty,
            presence_penalty: params.presence_penalty,
            frequency_penalty: params.frequency_penalty,
        }
    }
}

impl Row {
    fn adjusts(&self) -> bool {
        self.bias_count + self.banned_count > 0 || self.slot != NO_SLOT
    }
}

/// See [`sample_scratch_bytes`](super::sample_scratch_bytes).
pub(super) fn scratch_bytes(gpu: &CudaDevice, rows: usize, vocab: usize, seen: usize) -> usize {
    let entries = |lists: [usize; 3]| lists.iter().sum::<usize>() * size_of::<u32>();
    let lists = entries([2 * seen.min(vocab), 2 * MAX_BIASED_TOKENS, MAX_BANNED]);
    let parameters = rows * (size_of::<Row>() + lists);
    let adjusted = rows.min(gpu.multiprocessors() as usize) * vocab * size_of::<f32>();
    parameters.next_multiple_of(ADJUSTED_ALIGNMENT) + adjusted
}

pub(super) fn sample(
    gpu: &CudaDevice,
    mut out: ViewMut<'_>,
    logits: View<'_>,
    rows: &[SampleRow<'_>],
    workspace: &mut SampleWorkspace,
) -> Result<()> {
    let SampleWorkspace { packed, counts, .. } = workspace;
    packed.pack(rows);
    let vocab = logits.shape().row_elements();
    let blocks = rows.len().min(gpu.multiprocessors() as usize);
    // Each thread block has a row of adjusted logits to itself, where there are any.
    let adjusted = if packed.rows.iter().any(Row::adjusts) { blocks * vocab } else { 0 };
    let lists_at = rows.len() * size_of::<Row>();
    let adjusted_at = (4 * packed.words.len()).next_multiple_of(ADJUSTED_ALIGNMENT);
    let scratch = gpu.scratch(adjusted_at + 4 * adjusted)?;
    gpu.write(scratch, bytemuck::cast_slice(&packed.words))?;
    let mut args = Args::new();
    args.write(&mut out)
        .read(&logits)
        .write(&mut counts.view_mut()?)
        .pointer(scratch)
        .pointer(scratch.offset(lists_at));
    args.pointer(scratch.offset(adjusted_at)).u32(vocab as u32).u32(rows.len() as u32);
    let threads = if vocab > 4096 { 512 } else { 128 };
    gpu.launch("sample_f32", Grid { blocks: [blocks as u32, 1, 1], threads, shared_bytes: 0 }, &args)
}
