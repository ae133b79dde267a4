//! Decode steps as captured launches. Steps in which every sequence has one row repeat the same launches over the same
//! buffers; captured once, they cost the processor one call. Other steps run launch by launch, with the same kernels,
//! so the logits are the same bits either way.

use std::{collections::HashMap, sync::Arc};

use mosu_kernels::{CudaDevice, CudaGraph, Device, Result};

use crate::{Batch, KvPlaces, kv_cache::BLOCK_SIZE};

/// What distinguishes graphs: both are powers of two, so that there are few.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StepShape {
    /// Rows, each of a sequence of its own.
    pub rows: usize,
    /// Entries of each block table.
    pub table_width: usize,
}

/// Graphs by shape. A shape is captured when it comes for the second time: what its kernels need is there then.
pub(crate) struct CudaGraphs {
    /// Where they run; without one no step is captured.
    gpu: Option<Arc<CudaDevice>>,
    graphs: HashMap<StepShape, Option<CudaGraph>>,
    max_rows: usize,
    max_table_entries: usize,
    /// First of the padding KV blocks.
    padding_block: u32,
    /// A batch, filled up to its shape.
    padded: Batch,
}

impl CudaGraphs {
    /// None yet, and on a processor or where they are not `wanted` none ever. Steps have at most `max_rows` rows and block
    /// tables of `max_table_entries` in all; the KV blocks from `padding_block` on are no sequence's.
    pub fn new(
        device: &Device,
        wanted: bool,
        max_rows: usize,
        max_table_entries: usize,
        padding_block: u32,
    ) -> CudaGraphs {
        let gpu = match device {
            Device::Cuda(gpu) if wanted => Some(Arc::clone(gpu)),
            _ => None,
        };
        let (graphs, padded) = (HashMap::new(), Batch::default());
        CudaGraphs { gpu, graphs, max_rows, max_table_entries, padding_block, padded }
    }

    /// The shape in which a checked batch can be captured, if it can.
    pub fn shape_of(&self, batch: &Batch) -> Option<StepShape> {
        self.gpu.as_ref().and_then(|_| self.shape(batch))
    }

    /// The shape of a checked batch, if it is a decode of all its rows.
    fn shape(&self, batch: &Batch) -> Option<StepShape> {
        let rows = batch.num_rows();
        let all_wanted = (0..).zip(&batch.logit_rows).all(|(row, wanted)| wanted.row == row);
        if batch.num_sequences() != rows || batch.logit_rows.len() != rows || !all_wanted {
            return None;
        }
        let shape = StepShape {
            rows: rows.next_power_of_two(),
            table_width: batch.block_table_width.next_power_of_two(),
        };
        let fits = shape.rows <= self.max_rows
            && shape.rows.checked_mul(shape.table_width)? <= self.max_table_entries;
        fits.then_some(shape)
    }

    /// The batch with rows and block tables added up to `shape`. The rows added are sequences of one token in the padding
    /// KV blocks, and nobody asks for their logits.
    pub fn pad(&mut self, batch: &Batch, shape: StepShape) -> &Batch {
        let StepShape { rows, table_width } = shape;
        let padded = &mut self.padded;
        padded.clear();
        padded.block_table_width = table_width;
        padded.token_ids.extend(&batch.token_ids);
        padded.token_ids.resize(rows, 0);
        padded.pending.extend(&batch.pending);
        padded.positions.extend(&batch.positions);
        padded.positions.resize(rows, 0);
        padded.context_lens.extend(&batch.context_lens);
        padded.context_lens.resize(rows, 1);
        padded.cu_seqlens_q.extend(0..=rows as u32);
        // Layers of different groups write to the same slots, each before it reads.
        let slots = (self.padding_block * BLOCK_SIZE as u32..).take(rows - batch.num_rows());
        padded.kv.resize_with(batch.kv.len(), KvPlaces::default);
        for (padded, kv) in padded.kv.iter_mut().zip(&batch.kv) {
            for table in kv.block_tables.chunks_exact(batch.block_table_width.max(1)) {
                add_table(&mut padded.block_tables, table, table_width);
            }
            slots.clone().for_each(|slot| {
                add_table(&mut padded.block_tables, &[slot / BLOCK_SIZE as u32], table_width)
            });
            padded.slot_mapping.extend(kv.slot_mapping.iter().copied().chain(slots.clone()));
        }
        padded
    }

    /// Runs a step of this shape: `launch` makes its launches.
    ///
    /// # Errors
    /// Those of `launch`, and the device's.
    pub fn run(&mut self, shape: StepShape, launch: impl FnOnce() -> Result<()>) -> Result<()> {
        let Some(gpu) = &self.gpu else { return launch() };
        match self.graphs.get_mut(&shape) {
            None => {
                self.graphs.insert(shape, None);
                launch()
            }
            Some(graph) => {
                if graph.is_none() {
                    *graph = Some(CudaGraph::capture(gpu, launch)?);
                }
                graph.as_ref().map_or(Ok(()), CudaGraph::run)
            }
        }
    }
}

/// Adds a block table, filled up to `width` entries.
fn add_table(tables: &mut Vec<u32>, table: &[u32], width: usize) {
    tables.extend(table);
    tables.resize(tables.len().next_multiple_of(width), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LogitRow, LogitToken, PendingToken};

    fn decode(contexts: &[u32], width: usize) -> Batch {
        let rows = 0..contexts.len() as u32;
        let kv = |group: u32| KvPlaces {
            slot_mapping: rows.clone().map(|row| 16 * row + group).collect(),
            block_tables: (0..contexts.len() * width).map(|i| 50 * group + i as u32).collect(),
        };
        let logit_row = |row| LogitRow { row, token: LogitToken::Given(0), logprobs: None };
        Batch {
            token_ids: rows.clone().map(|row| 40 + row).collect(),
            positions: contexts.iter().map(|context| context - 1).collect(),
            cu_seqlens_q: (0..=contexts.len() as u32).collect(),
            context_lens: contexts.into(),
            kv: (0..2).map(kv).collect(),
            block_table_width: width,
            pending: vec![PendingToken { row: 1, sampled_by: 5 }],
            logit_rows: rows.map(logit_row).collect(),
        }
    }

    #[test]
    fn decodes_are_filled_up_to_powers_of_two() {
        let mut steps = CudaGraphs::new(&Device::cpu(None), true, 256, 64, 100);
        let batch = decode(&[40, 33, 2], 3);
        let shape = steps.shape(&batch).unwrap();
        assert_eq!(shape, StepShape { rows: 4, table_width: 4 });
        let padded = steps.pad(&batch, shape);
        assert_eq!(padded.token_ids, [40, 41, 42, 0]);
        assert_eq!(padded.pending, batch.pending);
        assert_eq!(padded.kv[0].slot_mapping, [0, 16, 32, 1600]);
        assert_eq!(padded.kv[1].slot_mapping, [1, 17, 33, 1600]);
        assert_eq!(padded.context_lens, [40, 33, 2, 1]);
        assert_eq!(padded.cu_seqlens_q, [0, 1, 2, 3, 4]);
        let tables = [0, 1, 2, 0, 3, 4, 5, 0, 6, 7, 8, 0, 100, 0, 0, 0];
        assert_eq!(padded.kv[0].block_tables, tables);
        let tables = [50, 51, 52, 0, 53, 54, 55, 0, 56, 57, 58, 0, 100, 0, 0, 0];
        assert_eq!(padded.kv[1].block_tables, tables);
    }

    #[test]
    fn other_steps_are_not_recorded() {
        let steps = CudaGraphs::new(&Device::cpu(None), true, 8, 64, 100);
        let mut prefill = decode(&[3, 3], 1);
        prefill.context_lens.pop();
        assert_eq!(steps.shape(&prefill), None, "two rows of one sequence");
        let mut silent = decode(&[3, 3], 1);
        silent.logit_rows.pop();
        assert_eq!(steps.shape(&silent), None, "a row without logits");
        assert_eq!(steps.shape(&decode(&[1; 9], 1)), None, "more rows than buffers");
        assert_eq!(steps.shape(&decode(&[1; 5], 9)), None, "tables larger than planned");
        assert!(steps.shape(&decode(&[1; 5], 8)).is_some());
    }
}
