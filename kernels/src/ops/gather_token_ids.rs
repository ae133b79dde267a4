//! `gather_token_ids`: tokens that were sampled become input, without going by way of the host.

mod cuda;

use super::{NO_TOKEN, check::Check};
use crate::{DType, Device, Result, View, ViewMut};

/// Bytes that [`gather_token_ids`] keeps between its kernels on a CUDA device, for up to `pairs` pairs.
pub fn gather_token_ids_scratch_bytes(pairs: usize) -> usize {
    pairs * size_of::<[u32; 2]>()
}

/// `ids[t] = sampled[d]` for each pair (t, d). Where nothing could be sampled ([`NO_TOKEN`]) it is token 0.
///
/// - `ids`: u32 `[T]`
/// - `sampled`: u32 `[D]`
/// - `pairs`: u32 `[n, 2]`, t below T and d below D
///
/// # Errors
/// When shapes or types do not fit, or an index is out of range.
pub fn gather_token_ids(
    device: &Device,
    mut ids: ViewMut<'_>,
    sampled: View<'_>,
    pairs: View<'_>,
) -> Result<()> {
    let check = Check("gather_token_ids");
    let [rows] = check.dims("ids", &ids)?;
    let [draws] = check.dims("sampled", &sampled)?;
    let [count, _] = check.dims("pairs", &pairs)?;
    check.dtype("ids", &ids, DType::U32)?;
    check.dtype("sampled", &sampled, DType::U32)?;
    check.is("pairs", &pairs, [count, 2], DType::U32)?;
    match device {
        Device::Cpu(_) => {
            let (sampled, pairs) = (sampled.as_slice::<u32>()?, pairs.as_slice::<u32>()?);
            let pairs = pairs.as_chunks::<2>().0;
            let outside = pairs.iter().find(|&&[t, d]| t as usize >= rows || d as usize >= draws);
            check.that(outside.is_none(), || {
                format!("pair {outside:?} of {rows} ids and {draws} sampled tokens")
            })?;
            let ids = ids.into_mut_slice::<u32>()?;
            for &[t, d] in pairs {
                let token = sampled[d as usize];
                ids[t as usize] = if token == NO_TOKEN { 0 } else { token };
            }
            Ok(())
        }
        Device::Cuda(gpu) => cuda::gather_token_ids(gpu, &mut ids, sampled, pairs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::*;

    #[test]
    fn puts_drawn_tokens_where_they_belong() {
        for device in every_device() {
            let sampled = upload(&device, [4], &[70u32, 71, NO_TOKEN, 73]);
            let ids: Vec<u32> = (0..600).collect();
            let mut ids = upload(&device, [600], &ids);
            let mut take = |pairs: &[u32]| {
                let pairs = upload(&device, [pairs.len() / 2, 2], pairs);
                gather_token_ids(&device, ids.view_mut().unwrap(), sampled.view(), pairs.view())
            };
            take(&(0..300).flat_map(|i| [2 * i, i % 4]).collect::<Vec<u32>>()).unwrap();
            take(&[]).unwrap();
            if let Device::Cpu(_) = device {
                for wrong in [[600, 0], [0, 4]] {
                    let error = take(&wrong).unwrap_err().to_string();
                    assert!(error.contains("of 600 ids and 4 sampled tokens"), "{error}");
                }
            }
            let expected = (0..600).map(|t| if t % 2 == 1 { t } else { [70, 71, 0, 73][t as usize / 2 % 4] });
            assert_eq!(ids.to_vec::<u32>(&device).unwrap(), expected.collect::<Vec<_>>());
        }
    }
}
