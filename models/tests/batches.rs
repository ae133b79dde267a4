//! Steps: wrong batches are errors that name the field; what is sampled and reported is what the logits say; one row
//! without a token does not spoil the others.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use common::*;
use mosu_models::{
    Batch, KvPlaces, LogitFault, LogitOutput, LogitRow, LogitToken, Model, SampleParams, SeenToken,
    SeenTokens, StepError, StepOutput,
};

fn model() -> Model {
    load(fixture("llama31_bf16"), 2).unwrap()
}

/// Two sequences of 20 and 3 tokens, whole.
fn batch(model: &Model) -> Batch {
    let mut first = Sequence::new(&(10..30).collect::<Vec<u32>>(), 0);
    let mut second = Sequence::new(&[7, 8, 9], 2);
    advance(model, &mut [(&mut first, 20), (&mut second, 3)])
}

fn sampled(row: u32, params: SampleParams) -> LogitRow {
    LogitRow { row, token: LogitToken::Sampled(params), logprobs: None }
}

fn seen(slot: u32, id: u32) -> Option<SeenTokens> {
    Some(SeenTokens { slot, load: Some(vec![SeenToken { id, output_count: 1 }]) })
}

#[test]
fn wrong_batches_name_the_field() {
    let mut model = model();
    let params = |change: fn(&mut SampleParams)| {
        let mut params = greedy_params();
        change(&mut params);
        vec![sampled(22, params)]
    };
    type Change = Box<dyn Fn(&mut Batch)>;
    let cases: Vec<(&str, Change)> = vec![
        ("token_ids", Box::new(|b| *b = Batch::default())),
        ("token_ids", Box::new(|b| b.token_ids[3] = 128)),
        ("token_ids", Box::new(|b| b.token_ids[3] = u32::MAX)),
        ("token_ids", Box::new(|b| b.token_ids = vec![1; MAX_ROWS + 1])),
        ("positions", Box::new(|b| b.positions.truncate(22))),
        ("positions", Box::new(|b| b.positions[5] = 6)),
        ("positions", Box::new(|b| b.positions[22] = u32::MAX)),
        ("slot_mapping", Box::new(|b| b.kv[0].slot_mapping.push(0))),
        ("slot_mapping", Box::new(|b| b.kv[0].slot_mapping[0] = u32::MAX)),
        ("slot_mapping", Box::new(|b| b.kv[0].slot_mapping.swap(0, 20))),
        ("cu_seqlens_q", Box::new(|b| b.cu_seqlens_q[1] = 0)),
        ("cu_seqlens_q", Box::new(|b| b.cu_seqlens_q[1] = 24)),
        ("cu_seqlens_q", Box::new(|b| b.cu_seqlens_q[2] = 22)),
        ("cu_seqlens_q", Box::new(|b| b.cu_seqlens_q.clear())),
        ("cu_seqlens_q", Box::new(|b| b.context_lens.clear())),
        ("context_lens", Box::new(|b| b.context_lens[0] = 19)),
        ("context_lens", Box::new(|b| b.context_lens[1] = u32::MAX)),
        ("block_table_width", Box::new(|b| b.context_lens[0] = 40)),
        ("block_tables", Box::new(|b| b.kv[0].block_tables[0] = u32::MAX)),
        ("block_tables", Box::new(|b| b.kv[0].block_tables.clear())),
        ("block_tables", Box::new(|b| b.block_table_width = usize::MAX)),
        ("kv", Box::new(|b| b.kv.clear())),
        ("kv", Box::new(|b| b.kv.push(KvPlaces::default()))),
        ("logit_rows.row", Box::new(|b| b.logit_rows.last_mut().unwrap().row = 23)),
        ("logit_rows.row", Box::new(|b| b.logit_rows.swap(0, 1))),
        ("logit_rows.token", Box::new(|b| b.logit_rows[0].token = LogitToken::Given(128))),
        ("temperature", Box::new(move |b| b.logit_rows = params(|p| p.temperature = f32::NAN))),
        ("temperature", Box::new(move |b| b.logit_rows = params(|p| p.temperature = -1.0))),
        ("top_p", Box::new(move |b| b.logit_rows = params(|p| p.top_p = 0.0))),
        ("min_p", Box::new(move |b| b.logit_rows = params(|p| p.min_p = 1.5))),
        (
            "presence_penalty",
            Box::new(move |b| b.logit_rows = params(|p| p.presence_penalty = f32::INFINITY)),
        ),
        ("repetition_penalty", Box::new(move |b| b.logit_rows = params(|p| p.repetition_penalty = 0.0))),
        ("logit_bias", Box::new(move |b| b.logit_rows = params(|p| p.logit_bias = [(128, 1.0)].into()))),
        ("logit_bias", Box::new(move |b| b.logit_rows = params(|p| p.logit_bias = [(1, f32::NAN)].into()))),
        ("logit_bias", Box::new(move |b| b.logit_rows = params(|p| p.logit_bias = [(1, 0.5); 1025].into()))),
        ("banned", Box::new(move |b| b.logit_rows = params(|p| p.banned = [128].into()))),
        ("banned", Box::new(move |b| b.logit_rows = params(|p| p.banned = [1; 2049].into()))),
        ("seen.slot", Box::new(move |b| b.logit_rows = params(|p| p.seen = seen(u32::MAX, 1)))),
        ("seen.load", Box::new(move |b| b.logit_rows = params(|p| p.seen = seen(0, 128)))),
    ];
    let good = batch(&model);
    let expected = model.step_logits(&good).unwrap();
    let mut output = StepOutput::default();
    for (i, (expected, change)) in cases.into_iter().enumerate() {
        let mut wrong = good.clone();
        change(&mut wrong);
        match model.step(&wrong, &mut output) {
            Err(StepError::Batch { field, .. }) => assert_eq!(field, expected, "case {i}"),
            other => panic!("case {i} ({expected}): {other:?}"),
        }
    }
    let logits = model.step_logits(&good).unwrap();
    assert!(logits == expected, "the model is as it was");
}

/// Log-probabilities from the softmax in f64.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    logits.iter().map(|logit| f64::from(logit - max) - sum.ln()).collect()
}

#[test]
fn given_and_drawn_tokens_come_with_their_logprobs() {
    let mut model = model();
    let logits = model.step_logits(&batch(&model)).unwrap();
    let rows: Vec<&[f32]> = logits.chunks(128).collect();
    let mut wanted = batch(&model);
    wanted.logit_rows = vec![
        LogitRow { row: 0, token: LogitToken::Given(11), logprobs: Some(0) },
        LogitRow { logprobs: Some(5), ..sampled(19, greedy_params()) },
        LogitRow { row: 19, token: LogitToken::Given(3), logprobs: None },
        LogitRow { logprobs: Some(200), ..sampled(22, greedy_params()) },
    ];
    let mut output = StepOutput::default();
    model.step(&wanted, &mut output).unwrap();
    let [first, second, third, fourth] = &output.rows[..] else { panic!("{:?}", output.rows) };
    assert_eq!((first.token, third.token, &third.logprobs), (11, 3, &None));
    for (found, row, top) in [(first, 0, 0), (second, 19, 5), (fourth, 22, 128)] {
        let expected = log_softmax(rows[row]);
        let report = found.logprobs.as_ref().unwrap();
        let own = expected[found.token as usize];
        assert!((f64::from(report.logprob) - own).abs() <= 1e-5);
        let rank = 1 + expected.iter().filter(|other| **other > own).count();
        assert_eq!((report.rank as usize, report.top.len()), (rank, top));
        for pair in report.top.windows(2) {
            assert!(pair[0].1 >= pair[1].1);
        }
        for (id, logprob) in &report.top {
            assert!((f64::from(*logprob) - expected[*id as usize]).abs() <= 1e-5);
        }
    }
    assert_eq!(second.logprobs.as_ref().unwrap().top[0].0, second.token, "greedy is the most probable");
}

#[test]
fn more_logit_rows_than_are_computed_at_a_time() {
    let mut model = model();
    let ids: Vec<u32> = (0..200).map(|i| 8 + i % 100).collect();
    let mut sequence = Sequence::new(&ids, 0);
    let mut batch = advance(&model, &mut [(&mut sequence, 200)]);
    for (i, wanted) in batch.logit_rows.iter_mut().enumerate() {
        if i % 3 == 0 {
            wanted.token = LogitToken::Sampled(greedy_params());
        }
    }
    let mut output = StepOutput::default();
    model.step(&batch, &mut output).unwrap();
    let logits = model.step_logits(&batch).unwrap();
    for (i, (output, logits)) in output.rows.iter().zip(logits.chunks(128)).enumerate() {
        let best = (0..128).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
        let expected = if i % 3 == 0 { best as u32 } else { 0 };
        assert_eq!(output, &LogitOutput { token: expected, logprobs: None, fault: None }, "row {i}");
    }
}

#[test]
fn a_row_without_a_token_leaves_the_others_alone() {
    let mut model = model();
    let mut batch = batch(&model);
    let nothing = SampleParams { banned: (0..128).collect(), ..greedy_params() };
    batch.logit_rows = vec![sampled(19, nothing), sampled(22, greedy_params())];
    let mut output = StepOutput::default();
    model.step(&batch, &mut output).unwrap();
    assert_eq!(output.rows[0].fault, Some(LogitFault::NoToken));
    assert_eq!(output.rows[1].fault, None);
    let alone = greedy(&mut model, &[7, 8, 9], 1);
    assert_eq!(output.rows[1].token, alone[0]);
}

/// A weight that is NaN reaches every logit; the step itself goes well and says so row by row.
#[test]
fn logits_that_are_not_numbers_are_faults() {
    let dir = copy_of("llama");
    let path = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let mut model = load(dir.path(), 1).unwrap();
    let mut batch = batch(&model);
    batch.logit_rows = vec![
        LogitRow { row: 19, token: LogitToken::Given(4), logprobs: Some(1) },
        LogitRow { logprobs: Some(1), ..sampled(22, greedy_params()) },
    ];
    let mut output = StepOutput::default();
    model.step(&batch, &mut output).unwrap();
    let faults: Vec<_> = output.rows.iter().map(|row| (row.fault, row.logprobs.is_some())).collect();
    assert_eq!(faults, [(Some(LogitFault::NotFinite), false), (Some(LogitFault::NoToken), false)]);
}
