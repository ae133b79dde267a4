//! What no row sees has no influence, whatever lies there: KV blocks behind the windows of their layers, those of others,
//! and those that pad captured steps.

use std::{collections::HashSet, num::NonZeroUsize};

use mosu_kernels::{Device, Isa};

use super::*;
use crate::{KvPlaces, LogitRow, LogitToken, ModelSource, kv_cache::BLOCK_SIZE};

/// Sliding windows of 12 tokens beside full attention, with and without sinks, and on every layer; chunks of 16; latents.
const FIXTURES: [&str; 6] = ["gemma3", "gpt_oss_bf16", "llama4", "mistral", "step3_5", "deepseek_v3_bf16"];

fn devices() -> Vec<Device> {
    let cpus = Isa::available().map(|isa| Device::cpu_with_isa(NonZeroUsize::new(2), isa));
    let gpu = cusim::for_tests().unwrap().then(|| Device::cuda(0).unwrap());
    cpus.chain(gpu).collect()
}

fn load(name: &str, device: &Device) -> Model {
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let source = ModelSource::Directory([&package, "tests", "fixtures", name].iter().collect());
    let options = ModelOptions {
        kv_cache_bytes: Some(256 << 10),
        max_batch_tokens: Some(128),
        ..ModelOptions::new(device.clone())
    };
    Model::load(&source, &options, &mut |_| {}).unwrap()
}

/// Rows `first..end` of a sequence with these tokens, which has every G-th KV block of the cache in each of G groups; and
/// the KV blocks that the rows see.
fn batch(model: &Model, ids: &[u32], first: usize, end: usize) -> (Batch, HashSet<u32>) {
    let reaches = model.info().kv_groups.reaches();
    let width = ids.len().div_ceil(BLOCK_SIZE);
    let mut seen = HashSet::new();
    let in_group = |(group, reach): (usize, &crate::KvReach)| {
        let visible = reach.first_visible(first) / BLOCK_SIZE..end.div_ceil(BLOCK_SIZE);
        let block = |index: usize| (1 + index * reaches.len() + group) as u32;
        let table: Vec<u32> =
            (0..width).map(|index| if visible.contains(&index) { block(index) } else { 0 }).collect();
        seen.extend(table.iter().filter(|&&block| block > 0));
        let slot =
            |position: usize| table[position / BLOCK_SIZE] as usize * BLOCK_SIZE + position % BLOCK_SIZE;
        KvPlaces {
            slot_mapping: (first..end).map(|position| slot(position) as u32).collect(),
            block_tables: table,
        }
    };
    let kv = reaches.iter().enumerate().map(in_group).collect();
    let logit_row = |row| LogitRow { row, token: LogitToken::Given(0), logprobs: None };
    let batch = Batch {
        token_ids: ids[first..end].into(),
        positions: (first as u32..end as u32).collect(),
        cu_seqlens_q: vec![0, (end - first) as u32],
        context_lens: vec![end as u32],
        kv,
        block_table_width: width,
        logit_rows: (0..(end - first) as u32).map(logit_row).collect(),
        ..Batch::default()
    };
    (batch, seen)
}

/// Bits of the logits, computed in chunks; before each, all KV blocks that it does not see are filled with NaN.
fn bits(model: &mut Model, ids: &[u32], chunk: usize, poison: bool) -> Vec<u32> {
    let mut bits = Vec::new();
    for first in (0..ids.len()).step_by(chunk) {
        let (batch, seen) = batch(model, ids, first, ids.len().min(first + chunk));
        if poison {
            let device = model.device.clone();
            model.decoder.cache_mut().poison(&device, |block| seen.contains(&(block as u32)));
        }
        let logits = model.step_logits(&batch).unwrap();
        assert!(logits.iter().all(|logit| logit.is_finite()));
        bits.extend(logits.into_iter().map(f32::to_bits));
    }
    bits
}

#[test]
fn what_no_row_sees_may_hold_anything() {
    let ids: Vec<u32> = (0..90).map(|i| (i * i * 11 + i * 5) % 90 + 3).collect();
    for device in devices() {
        for name in FIXTURES {
            let mut model = load(name, &device);
            let expected = bits(&mut model, &ids, ids.len(), false);
            for chunk in [1, 25] {
                let found = bits(&mut model, &ids, chunk, true);
                assert!(found == expected, "{name} on {}, chunks of {chunk}", device.name());
            }
        }
    }
}
