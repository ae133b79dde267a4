use super::*;

/// The numbers of a mini-float with `exponent` and `mantissa` bits, by its definition.
fn by_definition(code: u8, exponent: u32, mantissa: u32) -> f64 {
    let bias = (1 << (exponent - 1)) - 1;
    let sign = if code >> (exponent + mantissa) & 1 == 1 { -1.0 } else { 1.0 };
    let e = i32::from(code >> mantissa) & ((1 << exponent) - 1);
    let fraction = f64::from(code & ((1 << mantissa) - 1)) / f64::from(1 << mantissa);
    match e {
        0 => sign * fraction * 2f64.powi(1 - bias),
        _ => sign * (1.0 + fraction) * 2f64.powi(e - bias),
    }
}

fn same(found: f32, expected: f64) -> bool {
    if expected.is_nan() { found.is_nan() } else { f64::from(found) == expected }
}

#[test]
fn all_codes_of_mxfp4_with_all_scales_are_exact() {
    let codes: Vec<u8> = (0..32).map(|i| i as u8 % 16).collect();
    let values: Vec<u8> = codes.chunks(2).map(|pair| pair[0] | pair[1] << 4).collect();
    for scale in 0..=255u8 {
        let mut wide = Tensor::zeros([1, 32], DType::F32).unwrap();
        let mut narrow = Tensor::zeros([1, 32], DType::BF16).unwrap();
        mxfp4(wide.view_mut().unwrap(), &values, &[scale]).unwrap();
        mxfp4(narrow.view_mut().unwrap(), &values, &[scale]).unwrap();
        let factor = if scale == 255 { f64::NAN } else { 2f64.powi(i32::from(scale) - 127) };
        let pairs = wide.as_slice::<f32>().unwrap().iter().zip(narrow.as_slice::<bf16>().unwrap());
        for (&code, (&wide, narrow)) in codes.iter().zip(pairs) {
            let exact = by_definition(code, 2, 1) * factor;
            let expected = if exact.abs() > f64::from(f32::MAX) { exact * f64::INFINITY } else { exact };
            assert!(same(wide, expected), "{code} with scale {scale}: {wide}, expected {expected}");
            let flushed = expected.abs() < 2f64.powi(-126) && narrow.to_f32() == 0.0;
            assert!(flushed || same(narrow.to_f32(), expected), "{code} with scale {scale}: {narrow}");
        }
    }
}

#[test]
fn all_codes_of_e4m3_are_exact_and_products_are_rounded_once_to_each_type() {
    let values: Vec<u8> = (0..=255).collect();
    for scale in [1.0f32, 0.0123, 3.7e-3] {
        let scales = Tensor::from_slice([1, 1], &[scale]).unwrap();
        let mut wide = Tensor::zeros([1, 256], DType::F32).unwrap();
        let mut narrow = Tensor::zeros([1, 256], DType::BF16).unwrap();
        fp8_e4m3(wide.view_mut().unwrap(), &values, scales.view(), [128, 256]).unwrap();
        fp8_e4m3(narrow.view_mut().unwrap(), &values, scales.view(), [128, 256]).unwrap();
        let pairs = wide.as_slice::<f32>().unwrap().iter().zip(narrow.as_slice::<bf16>().unwrap());
        for (&code, (&wide, narrow)) in values.iter().zip(pairs) {
            let value = if code & 0x7f == 0x7f { f64::NAN } else { by_definition(code, 4, 3) };
            // The product of 4 and 24 bits fits f64, so this rounds once.
            let expected = f64::from((value * f64::from(scale)) as f32);
            assert!(same(wide, expected), "{code:#x}: {wide}, expected {expected}");
            assert!(same(narrow.to_f32(), f64::from(bf16::from_f32(wide).to_f32())), "{code:#x}: {narrow}");
        }
    }
}

#[test]
fn scales_belong_to_blocks_of_rows_and_columns() {
    // Enough rows for more than one thread, and blocks that the matrix ends within.
    let (rows, columns, block) = (5003usize, 437usize, [128, 128]);
    let values: Vec<u8> = (0..rows * columns).map(|i| (i * i / 7 + i) as u8 & 0x77).collect();
    let shape = [rows.div_ceil(128), columns.div_ceil(128)];
    let scales: Vec<f32> = (0..shape[0] * shape[1]).map(|i| 1.0 + i as f32 / 64.0).collect();
    let scales_tensor = Tensor::from_slice(shape, &scales).unwrap();
    let mut out = Tensor::zeros([rows, columns], DType::F32).unwrap();
    fp8_e4m3(out.view_mut().unwrap(), &values, scales_tensor.view(), block).unwrap();
    for (i, (&found, &code)) in out.as_slice::<f32>().unwrap().iter().zip(&values).enumerate() {
        let (row, column) = (i / columns, i % columns);
        let scale = scales[row / 128 * shape[1] + column / 128];
        let expected = by_definition(code, 4, 3) * f64::from(scale);
        assert!(f64::from(found) == expected, "[{row}, {column}] is {found}, expected {expected}");
    }
}

#[test]
fn blocks_of_mxfp4_keep_their_scales_on_many_threads() {
    let (rows, columns) = (4000, 640);
    let values: Vec<u8> = (0..rows * columns / 2).map(|i| (i * i / 7 + i) as u8).collect();
    let scales: Vec<u8> = (0..rows * columns / 32).map(|i| 100 + (i * 31 % 50) as u8).collect();
    let mut out = Tensor::zeros([rows, columns], DType::BF16).unwrap();
    mxfp4(out.view_mut().unwrap(), &values, &scales).unwrap();
    for (i, found) in out.as_slice::<bf16>().unwrap().iter().enumerate() {
        let code = if i % 2 == 0 { values[i / 2] & 15 } else { values[i / 2] >> 4 };
        let expected = by_definition(code, 2, 1) * 2f64.powi(i32::from(scales[i / 32]) - 127);
        assert!(same(found.to_f32(), expected), "element {i} is {found}, expected {expected}");
    }
}

#[test]
fn kv_b_is_split_by_head_and_its_keys_are_transposed() {
    let (heads, nope, value, latent) = (3, 2, 4, 5);
    let all: Vec<f32> = (0..heads * (nope + value) * latent).map(|i| i as f32).collect();
    let kv_b = View::from_slice([heads * (nope + value), latent], &all).unwrap();
    let [w_uk, w_uv] = split_kv_b(kv_b, heads, nope).unwrap();
    assert_eq!((w_uk.shape().dims(), w_uv.shape().dims()), (&[3, 5, 2][..], &[3, 4, 5][..]));
    for head in 0..heads {
        for l in 0..latent {
            let of = |row: usize| ((head * (nope + value) + row) * latent + l) as f32;
            for n in 0..nope {
                assert_eq!(w_uk.as_slice::<f32>().unwrap()[(head * latent + l) * nope + n], of(n));
            }
            for d in 0..value {
                assert_eq!(w_uv.as_slice::<f32>().unwrap()[(head * value + d) * latent + l], of(nope + d));
            }
        }
    }
}

#[test]
fn misfits_are_named() {
    let mut out = Tensor::zeros([2, 48], DType::BF16).unwrap();
    let error = mxfp4(out.view_mut().unwrap(), &[0; 48], &[0; 3]).unwrap_err();
    assert_eq!(error.to_string(), "convert::mxfp4: 48 bytes of values and 3 scales do not make up [2, 48]");
    let scales = Tensor::zeros([1, 1], DType::F32).unwrap();
    let error = fp8_e4m3(out.view_mut().unwrap(), &[0; 96], scales.view(), [128, 32]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "convert::fp8_e4m3: 96 values with scales [1, 1] do not make up [2, 48] in blocks of [128, 32]"
    );
    let error = fp8_e4m3(out.view_mut().unwrap(), &[0; 96], scales.view(), [128, 0]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "convert::fp8_e4m3: blocks of [128, 0] in [2, 48], expected blocks of a matrix"
    );
    let mut half = Tensor::zeros([1, 32], DType::F16).unwrap();
    let error = mxfp4(half.view_mut().unwrap(), &[0; 16], &[0]).unwrap_err();
    assert_eq!(error.to_string(), "convert::mxfp4: `out` is float16, expected bfloat16");
    let error = split_kv_b(out.view(), 3, 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "convert::split_kv_b: [2, 48] is not made of 3 heads with 1 rows of keys each"
    );
}
