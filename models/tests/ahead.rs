//! Steps that are started before the one before them is waited for, with tokens that nobody has seen as input.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use common::*;
use mosu_models::{
    Batch, LogitFault, LogitToken, Model, ModelOptions, PendingToken, SampleParams, StepError, StepOutput,
};

/// Models on the processor and, where there is one, on the CUDA device.
fn models(name: &str) -> Vec<Model> {
    let gpu = cuda().map(|device| ModelOptions { device, ..options(1) });
    let all = [Some(options(2)), gpu].into_iter().flatten();
    all.map(|options| load_with(fixture(name), &options).unwrap()).collect()
}

/// The next step of sequences of which nothing but their blocks is known from position `first` on. Each draws a token.
fn step(model: &Model, sequences: &mut [Sequence], rows: usize, pending: bool) -> Batch {
    let mut all: Vec<_> = sequences.iter_mut().map(|sequence| (sequence, rows)).collect();
    let mut batch = advance(model, &mut all);
    let is_last = |row: u32| batch.cu_seqlens_q[1..].contains(&(row + 1));
    batch.logit_rows.retain(|wanted| is_last(wanted.row));
    for wanted in &mut batch.logit_rows {
        wanted.token = LogitToken::Sampled(greedy_params());
        wanted.logprobs = Some(2);
    }
    if pending {
        batch.token_ids.fill(0);
        batch.pending =
            (0..batch.num_rows() as u32).map(|row| PendingToken { row, sampled_by: row }).collect();
    }
    batch
}

/// Three sequences: prompts of 20 tokens, room for `count` more.
fn sequences(count: usize) -> Vec<Sequence> {
    let prompt =
        |s: u32| (0..20).map(move |i| (s * 31 + i * i * 7 + i * 3) % 90 + 3).chain((0..count).map(|_| 0));
    (0..3).map(|s| Sequence::new(&prompt(s).collect::<Vec<u32>>(), 4 * s)).collect()
}

#[test]
fn steps_ahead_draw_the_same_tokens() {
    let count = 12;
    for mut model in models("qwen3_bf16") {
        let mut output = StepOutput::default();
        let mut expected = Vec::new();
        let mut waited_for = sequences(count);
        for i in 0..count {
            model
                .step(&step(&model, &mut waited_for, if i == 0 { 20 } else { 1 }, false), &mut output)
                .unwrap();
            for (sequence, row) in waited_for.iter_mut().zip(&output.rows) {
                sequence.ids[20 + i] = row.token;
            }
            expected.push(output.rows.clone());
        }
        let mut ahead = sequences(count);
        model.start(&step(&model, &mut ahead, 20, false)).unwrap();
        for (i, expected) in expected.iter().enumerate() {
            if i + 1 < count {
                model.start(&step(&model, &mut ahead, 1, true)).unwrap();
            }
            model.finish(&mut output).unwrap();
            assert_eq!(&output.rows, expected, "step {i}");
        }
    }
}

/// A step that builds on a token which could not be sampled is computed like any other; its caller drops the result.
#[test]
fn a_token_that_could_not_be_drawn_harms_no_other_row() {
    for mut model in models("llama31_bf16") {
        let mut alone = StepOutput::default();
        let prompt = sequences(1);
        let mut first = prompt.clone();
        model.start(&step(&model, &mut first, 20, false)).unwrap();
        model.start(&step(&model, &mut first, 1, true)).unwrap();
        model.finish(&mut alone).unwrap();
        model.finish(&mut alone).unwrap();

        let mut sequences = prompt;
        let mut batch = step(&model, &mut sequences, 20, false);
        let nothing = SampleParams { banned: (0..128).collect(), ..greedy_params() };
        batch.logit_rows[1].token = LogitToken::Sampled(nothing);
        let mut output = StepOutput::default();
        model.start(&batch).unwrap();
        model.start(&step(&model, &mut sequences, 1, true)).unwrap();
        model.finish(&mut output).unwrap();
        assert_eq!(output.rows[1].fault, Some(LogitFault::NoToken));
        model.finish(&mut output).unwrap();
        assert_eq!([&output.rows[0], &output.rows[2]], [&alone.rows[0], &alone.rows[2]]);
    }
}

#[test]
fn steps_out_of_order_and_wrong_tokens_are_refused() {
    for mut model in models("llama31_bf16") {
        let mut output = StepOutput::default();
        let refused = |result: Result<(), StepError>| result.unwrap_err().to_string();
        assert_eq!(refused(model.finish(&mut output)), "no step is in flight: start one");
        let early = step(&model, &mut sequences(1), 20, true);
        assert!(
            refused(model.start(&early))
                .starts_with("batch: pending.sampled_by: 0: the step before sampled 0")
        );
        let mut sequences = sequences(3);
        model.start(&step(&model, &mut sequences, 20, false)).unwrap();
        for (pending, message) in [
            ([(0, 0), (0, 1)], "pending.row"),
            ([(0, 0), (3, 1)], "pending.row"),
            ([(0, 0), (1, 3)], "pending.sampled_by"),
        ] {
            let mut batch = step(&model, &mut sequences.clone(), 1, false);
            batch.pending = pending.map(|(row, sampled_by)| PendingToken { row, sampled_by }).into();
            let error = refused(model.start(&batch));
            assert!(error.starts_with(&format!("batch: {message}")), "{error}");
        }
        model.start(&step(&model, &mut sequences, 1, true)).unwrap();
        let error = refused(model.start(&step(&model, &mut sequences, 1, true)));
        assert_eq!(error, "two steps are in flight already: finish one");
        assert_eq!(output.rows.len(), 0);
        for _ in 0..2 {
            model.finish(&mut output).unwrap();
            assert!(output.rows.len() == 3 && output.rows.iter().all(|row| row.fault.is_none()));
        }
    }
}
