use half::bf16;

use super::*;

fn bytes(shape: [usize; 2], values: &[u8]) -> Tensor {
    Tensor::from_slice(shape, values).unwrap()
}

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
        let matrix = Matrix::mxfp4(bytes([1, 16], &values), bytes([1, 1], &[scale])).unwrap();
        let [wide, narrow] = [DType::F32, DType::BF16].map(|dtype| matrix.decoded(dtype).unwrap());
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
        let matrix = Matrix::fp8(bytes([1, 256], &values), scales, [128, 256]).unwrap();
        let [wide, narrow] = [DType::F32, DType::BF16].map(|dtype| matrix.decoded(dtype).unwrap());
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
    let of_blocks = Tensor::from_slice(shape, &scales).unwrap();
    let matrix = Matrix::fp8(bytes([rows, columns], &values), of_blocks, block).unwrap();
    let out = matrix.decoded(DType::F32).unwrap();
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
    let matrix =
        Matrix::mxfp4(bytes([rows, columns / 2], &values), bytes([rows, columns / 32], &scales)).unwrap();
    let out = matrix.decoded(DType::BF16).unwrap();
    for (i, found) in out.as_slice::<bf16>().unwrap().iter().enumerate() {
        let code = if i % 2 == 0 { values[i / 2] & 15 } else { values[i / 2] >> 4 };
        let expected = by_definition(code, 2, 1) * 2f64.powi(i32::from(scales[i / 32]) - 127);
        assert!(same(found.to_f32(), expected), "element {i} is {found}, expected {expected}");
    }
}

#[test]
fn misfits_are_named() {
    let message = |matrix: Result<Matrix>| matrix.unwrap_err().to_string();
    let u8s = |shape: [usize; 2]| Tensor::zeros(shape, DType::U8).unwrap();
    let f32s = |shape: [usize; 2]| Tensor::zeros(shape, DType::F32).unwrap();
    assert_eq!(
        message(Matrix::mxfp4(u8s([2, 24]), u8s([2, 2]))),
        "Matrix: values [2, 24] and scales [2, 2] do not make up a matrix of MXFP4"
    );
    assert!(
        Matrix::mxfp4(f32s([2, 32]), u8s([2, 2])).is_err()
            && Matrix::mxfp4(u8s([2, 32]), f32s([2, 2])).is_err()
    );
    let fp8 = "Matrix: values [2, 48] and scales [1, 1] do not make up a matrix of FP8";
    for block in [[128, 32], [128, 0], [0, 128], [128, 48], [1, 64]] {
        assert_eq!(message(Matrix::fp8(u8s([2, 48]), f32s([1, 1]), block)), fp8, "{block:?}");
    }
    let good = Matrix::fp8(u8s([2, 48]), f32s([1, 1]), [128, 64]).unwrap();
    assert_eq!((good.size_in_bytes(), good.compute(), good.shape().dims()), (100, DType::BF16, &[2, 48][..]));
    assert!(good.floats().is_err_and(|error| error.to_string().contains("this one is FP8")));
    assert!(good.decoded(DType::F16).unwrap_err().to_string().contains("`out` is float16"));
}

/// Blocks and the floats that llama.cpp's package decodes them to: see `block_formats.py`.
#[test]
fn block_formats_decode_as_in_llama_cpp() {
    let mut rest = &include_bytes!("block_formats.bin")[..];
    let mut take = |bytes: usize| {
        let (first, others) = rest.split_at(bytes);
        rest = others;
        (first, others.is_empty())
    };
    let mut tested = Vec::new();
    loop {
        let words: Vec<u32> =
            take(12).0.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
        let (elements, size) = (words[1] as usize, words[2] as usize);
        let is_it =
            |format: &Format| matches!(format, Format::Blocks(_)) && format.traits().gguf == Some(words[0]);
        let format = Format::ALL.into_iter().find(is_it).unwrap();
        let Format::Blocks(blocks) = format else { panic!("{format}") };
        assert_eq!((format.traits().block, format.traits().block_bytes), (elements, size), "{format}");
        let matrix = Matrix::blocks(blocks, bytes([1, 3 * size], take(3 * size).0)).unwrap();
        assert_eq!(matrix.shape().dims(), [1, 3 * elements]);
        let (expected, is_last) = take(3 * elements * 4);
        let found = matrix.decoded(DType::F32).unwrap();
        let found = found.as_slice::<f32>().unwrap();
        for (i, (found, expected)) in found.iter().zip(expected.chunks(4)).enumerate() {
            let expected = f32::from_le_bytes(expected.try_into().unwrap());
            assert!(*found == expected, "{format}, element {i}: {found}, expected {expected}");
        }
        tested.push(format);
        if is_last {
            break;
        }
    }
    let all = Format::ALL.into_iter().filter(|format| matches!(format, Format::Blocks(_)));
    assert_eq!(tested.len(), all.count());
}
