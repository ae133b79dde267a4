//! `embedding`: rows of a table.

use super::check::{Check, rows_per_task};
use crate::{
    DType, Device, Result, View, ViewMut,
    cpu::{Float, Floats, Kernel, LANES, Simd},
};

/// `out[t] = table[ids[t]]`, as f32.
///
/// - `out`: f32 `[T, H]`
/// - `table`: any float `[V, H]`
/// - `ids`: u32 `[T]`, each below V
///
/// # Errors
/// When shapes or types do not fit, or an id is outside the table.
pub fn embedding(device: &Device, out: ViewMut<'_>, table: View<'_>, ids: View<'_>) -> Result<()> {
    let check = Check("embedding");
    let [vocab, hidden] = check.dims("table", &table)?;
    let [rows] = check.dims("ids", &ids)?;
    check.is("out", &out, [rows, hidden], DType::F32)?;
    let table = check.floats("table", table)?;
    let ids = ids.as_slice::<u32>()?;
    check.indices("ids", ids, vocab)?;
    let cpu = device.as_cpu();
    cpu.pool.run_rows(out.into_mut_slice()?, hidden, rows_per_task(hidden), |first, out| {
        cpu.isa.run(Copy { out, table, ids: &ids[first..], hidden });
    });
    Ok(())
}

struct Copy<'a> {
    out: &'a mut [f32],
    table: Floats<'a>,
    ids: &'a [u32],
    hidden: usize,
}

impl Kernel for Copy<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (out, &id) in self.out.chunks_exact_mut(self.hidden).zip(self.ids) {
            let (start, end) = (id as usize * self.hidden, (id as usize + 1) * self.hidden);
            for (out, at) in out.chunks_mut(LANES).zip((start..).step_by(LANES)) {
                f32::store(s, out, self.table.load(s, at, end));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::{Tensor, ops::testing::*};

    fn check<T: Rounded>() {
        let values: Vec<T> = rounded(&Random::new(1).floats(50 * 37, 1.0));
        let (table, ids) = (View::from_slice([50, 37], &values).unwrap(), [49u32, 0, 7, 7]);
        for device in devices() {
            let mut out = vec![f32::NAN; 4 * 37];
            let view = ViewMut::from_slice([4, 37], &mut out).unwrap();
            embedding(&device, view, table, View::from_slice([4], &ids).unwrap()).unwrap();
            for (row, &id) in out.chunks(37).zip(&ids) {
                assert_eq!(row, widened(&values[id as usize * 37..][..37]), "{device:?}");
            }
        }
    }

    #[test]
    fn copies_rows_of_every_type() {
        check::<f32>();
        check::<f16>();
        check::<bf16>();
    }

    #[test]
    fn an_id_outside_the_table_is_named() {
        let table = Tensor::zeros([3, 8], DType::F32).unwrap();
        let mut out = Tensor::zeros([2, 8], DType::F32).unwrap();
        let ids = Tensor::from_slice([2], &[0u32, 3]).unwrap();
        let error = embedding(&devices()[0], out.view_mut().unwrap(), table.view(), ids.view()).unwrap_err();
        assert_eq!(error.to_string(), "embedding: ids[1] is 3, expected less than 3");
    }
}
