//! `linear`: bf16 weights at decode's and prefill's numbers of rows.

use std::error::Error;

use mosu_benches::Random;
use mosu_kernels::{
    DType, Result,
    ops::{Linear, LinearPart, linear},
};

use crate::{
    cases::Cases,
    sheet::{Sheet, Work},
};

pub fn run(sheet: &Sheet, cases: &Cases) -> Result<(), Box<dyn Error>> {
    for case in &cases.linear {
        let (n, k) = (case.n, case.k);
        let weight = || -> Result<Linear> {
            let part = LinearPart { weight: Random::new(1).bf16([n, k])?.into(), bias: None };
            Linear::new(vec![part])?.to_device(&sheet.device)
        };
        let weights = (0..sheet.copies(2 * n * k)).map(|_| weight()).collect::<Result<Vec<_>>>()?;
        for &rows in &cases.linear_rows {
            let x = sheet.random([rows, k])?;
            let mut out = sheet.zeros([rows, n], DType::F32)?;
            let work = Work { bytes: 2 * (n * k + rows * k + rows * n), flops: 2 * rows * n * k };
            let name = format!("linear {} rows {rows}", case.name);
            sheet.report(&name, weights.len(), work, || {
                weights.iter().try_for_each(|weight| linear(&sheet.device, out.view_mut()?, x.view(), weight))
            })?;
        }
    }
    Ok(())
}
