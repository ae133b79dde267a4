//! `moe`: rows spread over experts as a router with random logits spreads them.

use std::error::Error;

use mosu_benches::Random;
use mosu_kernels::{
    Allocator, DType, Result, Tensor,
    ops::{Activation, ApplyRouterWeight, Expert, Experts, Glu, Linear, LinearPart, MoeWorkspace, moe},
};

use crate::{
    cases::MoeCase,
    sheet::{Sheet, Work},
};

pub fn run(sheet: &Sheet, case: &MoeCase) -> Result<(), Box<dyn Error>> {
    let &MoeCase { hidden: h, intermediate: i, experts: e, chosen, .. } = case;
    let most_rows = case.rows.iter().copied().max().unwrap_or(1);
    let experts = experts(case)?.to_device(&sheet.device)?;
    let mut workspace =
        MoeWorkspace::new(&Allocator::new(&sheet.device), most_rows, chosen, h, i, e, DType::BF16)?;
    let mut random = Random::new(1);
    for &rows in &case.rows {
        let ids: Vec<u32> = (0..rows).flat_map(|_| choose(&mut random, e, chosen)).collect();
        let hit = (0..e as u32).filter(|id| ids.contains(id)).count();
        let ids = Tensor::from_slice([rows, chosen], &ids)?.to_device(&sheet.device)?;
        let weights = vec![1.0 / chosen as f32; rows * chosen];
        let weights = Tensor::from_slice([rows, chosen], &weights)?.to_device(&sheet.device)?;
        let x = sheet.random([rows, h])?;
        let mut out = sheet.zeros([rows, h], DType::F32)?;
        let work = Work { bytes: 2 * 3 * hit * h * i, flops: 2 * rows * chosen * 3 * h * i };
        sheet.report(&format!("experts rows {rows}"), 1, work, || {
            moe(
                &sheet.device,
                out.view_mut()?,
                x.view(),
                ids.view(),
                weights.view(),
                &experts,
                Glu::Plain(Activation::Silu),
                ApplyRouterWeight::OnOutput,
                &mut workspace,
            )
        })?;
    }
    Ok(())
}

fn experts(case: &MoeCase) -> Result<Experts> {
    let mut random = Random::new(2);
    let mut linear = |parts: usize, n: usize, k: usize| -> Result<Linear> {
        let mut part = || Ok(LinearPart { weight: random.bf16([n, k])?.into(), bias: None });
        Linear::new((0..parts).map(|_| part()).collect::<Result<_>>()?)
    };
    let mut expert = || {
        let gate_up = linear(2, case.intermediate, case.hidden)?;
        Ok(Expert { gate_up, down: linear(1, case.hidden, case.intermediate)? })
    };
    Experts::new((0..case.experts).map(|_| expert()).collect::<Result<_>>()?)
}

/// `chosen` different experts of `experts`.
fn choose(random: &mut Random, experts: usize, chosen: usize) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..experts as u32).collect();
    for place in 0..chosen {
        let other = place + ((random.float() + 1.0) / 2.0 * (experts - place) as f32) as usize;
        ids.swap(place, other.min(experts - 1));
    }
    ids.truncate(chosen);
    ids
}
