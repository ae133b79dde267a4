//! `embedding` and `add_embedding`: rows of a table.

mod cuda;

use super::check::{Check, rows_per_task};
use crate::{
    CpuDevice, DType, Device, Matrix, Result, View, ViewMut,
    cpu::{Float, Floats, Kernel, LANES, Simd, with_decoded_row},
};

/// `out[t] = scale · table[ids[t]]`, as f32.
///
/// - `out`: f32 `[T, H]`
/// - `table`: any float `[V, H]`
/// - `ids`: u32 `[T]`, each below V
///
/// # Errors
/// When shapes or types do not fit, or an id is outside the table.
pub fn embedding(
    device: &Device,
    out: ViewMut<'_>,
    table: View<'_>,
    ids: View<'_>,
    scale: f32,
) -> Result<()> {
    let check = Check("embedding");
    check_rows(check, &out, table, ids)?;
    match device {
        Device::Cpu(cpu) => cpu_rows(cpu, check, out, table, ids, Pick { scale }),
        Device::Cuda(gpu) => cuda::embedding(gpu, out, table, ids, scale),
    }
}

/// As [`embedding`], from a table of any format: as floats of the type that it computes in.
///
/// # Errors
/// As there, and on a GPU when the table is packed.
pub fn matrix_embedding(
    device: &Device,
    out: ViewMut<'_>,
    table: &Matrix,
    ids: View<'_>,
    scale: f32,
) -> Result<()> {
    let Device::Cpu(cpu) = device else { return embedding(device, out, table.floats()?, ids, scale) };
    let Some(packed) = table.packed()? else { return embedding(device, out, table.floats()?, ids, scale) };
    let check = Check("embedding");
    let (&[entries, hidden], [rows]) = (table.shape().dims(), check.dims("ids", &ids)?) else {
        return Err(check.error(format!("`table` has shape {}, expected 2 dimensions", table.shape())));
    };
    check.is("out", &out, [rows, hidden], DType::F32)?;
    let ids = ids.as_slice::<u32>()?;
    check.indices("ids", ids, entries)?;
    cpu.pool.run_rows(out.into_mut_slice()?, hidden, rows_per_task(hidden), |first, out| {
        for (id, out) in ids[first..].iter().zip(out.chunks_exact_mut(hidden)) {
            with_decoded_row(cpu.isa, packed, *id as usize, hidden, |row| {
                let table = Floats::BF16(row);
                cpu.isa.run(Rows { out, table, ids: &[0], hidden, update: Pick { scale } });
            });
        }
    });
    Ok(())
}

/// `out[t] += table[ids[t]]`: learned positions.
///
/// - `out`: f32 `[T, H]`
/// - `table`: any float `[P, H]`
/// - `ids`: u32 `[T]`, each below P
///
/// # Errors
/// When shapes or types do not fit, or an id is outside the table.
pub fn add_embedding(device: &Device, out: ViewMut<'_>, table: View<'_>, ids: View<'_>) -> Result<()> {
    let check = Check("add_embedding");
    check_rows(check, &out, table, ids)?;
    match device {
        Device::Cpu(cpu) => cpu_rows(cpu, check, out, table, ids, Add),
        Device::Cuda(gpu) => cuda::add_embedding(gpu, out, table, ids),
    }
}

fn check_rows(check: Check, out: &ViewMut<'_>, table: View<'_>, ids: View<'_>) -> Result<()> {
    let [_, hidden] = check.dims("table", &table)?;
    let [rows] = check.dims("ids", &ids)?;
    check.is("out", out, [rows, hidden], DType::F32)?;
    check.float("table", &table)?;
    check.dtype("ids", &ids, DType::U32)
}

fn cpu_rows(
    cpu: &CpuDevice,
    check: Check,
    out: ViewMut<'_>,
    table: View<'_>,
    ids: View<'_>,
    update: impl Update,
) -> Result<()> {
    let (entries, hidden) = (table.shape().dims()[0], table.shape().row_elements());
    let (table, ids) = (Floats::new(table)?, ids.as_slice::<u32>()?);
    check.indices("ids", ids, entries)?;
    cpu.pool.run_rows(out.into_mut_slice()?, hidden, rows_per_task(hidden), |first, out| {
        cpu.isa.run(Rows { out, table, ids: &ids[first..], hidden, update });
    });
    Ok(())
}

/// What a table's row does to a row of the output.
trait Update: Copy + Sync {
    fn apply<S: Simd>(self, s: S, out: &[f32], row: S::V) -> S::V;
}

#[derive(Clone, Copy)]
struct Pick {
    scale: f32,
}

impl Update for Pick {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, _: &[f32], row: S::V) -> S::V {
        s.mul(row, s.splat(self.scale))
    }
}

#[derive(Clone, Copy)]
struct Add;

impl Update for Add {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, out: &[f32], row: S::V) -> S::V {
        s.add(f32::load(s, out), row)
    }
}

struct Rows<'a, U> {
    out: &'a mut [f32],
    table: Floats<'a>,
    ids: &'a [u32],
    hidden: usize,
    update: U,
}

impl<U: Update> Kernel for Rows<'_, U> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (out, &id) in self.out.chunks_exact_mut(self.hidden).zip(self.ids) {
            let (start, end) = (id as usize * self.hidden, (id as usize + 1) * self.hidden);
            for (out, at) in out.chunks_mut(LANES).zip((start..).step_by(LANES)) {
                let updated = self.update.apply(s, out, self.table.load(s, at, end));
                f32::store(s, out, updated);
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
            let (table, ids_tensor) = (upload(&device, [50, 37], &values), upload(&device, [4], &ids));
            let mut out = empty(&device, [4, 37], DType::F32);
            for scale in [1.0, 0.3] {
                let view = out.view_mut().unwrap();
                embedding(&device, view, table.view(), ids_tensor.view(), scale).unwrap();
                let found = to_vec::<f32>(&device, &out);
                for (row, &id) in found.chunks(37).zip(&ids) {
                    let expected: Vec<f32> =
                        values[id as usize * 37..][..37].iter().map(|x| x.widen() * scale).collect();
                    assert_eq!(row, expected, "{device:?}");
                }
            }
            add_embedding(&device, out.view_mut().unwrap(), table.view(), ids_tensor.view()).unwrap();
            for (row, &id) in to_vec::<f32>(&device, &out).chunks(37).zip(&ids) {
                let row_of = |x: &T| x.widen() * 0.3 + x.widen();
                let expected: Vec<f32> = values[id as usize * 37..][..37].iter().map(row_of).collect();
                assert_eq!(row, expected, "{device:?}");
            }
        }
    }

    #[test]
    fn picks_and_adds_rows_of_every_type() {
        check::<f32>();
        check::<f16>();
        check::<bf16>();
    }

    #[test]
    fn misfits_are_named() {
        let table = Tensor::zeros([3, 8], DType::F32).unwrap();
        let mut out = Tensor::zeros([2, 8], DType::F32).unwrap();
        let device = &devices()[0];
        let ids = Tensor::from_slice([2], &[0u32, 3]).unwrap();
        let error = embedding(device, out.view_mut().unwrap(), table.view(), ids.view(), 1.0).unwrap_err();
        assert_eq!(error.to_string(), "embedding: ids[1] is 3, expected less than 3");
        let error = add_embedding(device, out.view_mut().unwrap(), table.view(), ids.view()).unwrap_err();
        assert_eq!(error.to_string(), "add_embedding: ids[1] is 3, expected less than 3");
        let ids = Tensor::zeros([3], DType::U32).unwrap();
        let error = add_embedding(device, out.view_mut().unwrap(), table.view(), ids.view()).unwrap_err();
        assert_eq!(error.to_string(), "add_embedding: `out` has shape [2, 8], expected [3, 8]");
    }
}
