//! `embedding`: rows of a table.

mod cuda;

use super::check::{Check, rows_per_task};
use crate::{
    CpuDevice, DType, Device, Result, View, ViewMut,
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
    check.float("table", &table)?;
    check.dtype("ids", &ids, DType::U32)?;
    match device {
        Device::Cpu(cpu) => cpu_embedding(cpu, check, out, table, ids, vocab),
        Device::Cuda(gpu) => cuda::embedding(gpu, out, table, ids, 1.0),
    }
}

fn cpu_embedding(
    cpu: &CpuDevice,
    check: Check,
    out: ViewMut<'_>,
    table: View<'_>,
    ids: View<'_>,
    vocab: usize,
) -> Result<()> {
    let hidden = table.shape().row_elements();
    let table = check.floats("table", table)?;
    let ids = ids.as_slice::<u32>()?;
    check.indices("ids", ids, vocab)?;
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
        let ids = [49u32, 0, 7, 7];
        for device in every_device() {
            let (table, index) = (upload(&device, [50, 37], &values), upload(&device, [4], &ids));
            let mut out = upload(&device, [4, 37], &[f32::NAN; 4 * 37]);
            embedding(&device, out.view_mut().unwrap(), table.view(), index.view()).unwrap();
            let out = out.to_vec::<f32>(&device).unwrap();
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
