//! The products with packed weights are those with the floats that they decode to.

use half::bf16;

use super::{testing::*, *};
use crate::{Allocator, BlockType, DType, Device, Format, FormatTraits, KernelError, Matrix, Tensor};

/// Formats with CUDA kernels.
const FORMATS: [Format; 2] = [Format::Mxfp4, Format::Fp8];

/// Rows of the blocks of a format that `block_formats.py` made, in turn.
fn blocks(blocks: BlockType, [n, k]: [usize; 2], random: &mut Random) -> Matrix {
    let FormatTraits { block, block_bytes, gguf, .. } = Format::Blocks(blocks).traits();
    let file = include_bytes!("../matrix/block_formats.bin");
    let mut head = Vec::new();
    for word in [gguf.unwrap(), block as u32, block_bytes as u32] {
        head.extend(word.to_le_bytes());
    }
    let start = file.windows(12).position(|window| window == head).unwrap() + 12;
    let row_blocks = (0..n * k / block).flat_map(|_| {
        let at = start + random.below(3) * block_bytes;
        &file[at..at + block_bytes]
    });
    let bytes: Vec<u8> = row_blocks.copied().collect();
    Matrix::blocks(blocks, Tensor::from_slice([n, k / block * block_bytes], &bytes).unwrap()).unwrap()
}

/// A matrix `[n, k]` of random codes, whose elements are about as large as 1.
fn random(format: Format, [n, k]: [usize; 2], seed: u64) -> Matrix {
    let mut random = Random::new(seed);
    let bytes = |random: &mut Random, n: usize| -> Vec<u8> { (0..n).map(|_| random.next() as u8).collect() };
    match format {
        Format::Mxfp4 => {
            let values = Tensor::from_slice([n, k / 2], &bytes(&mut random, n * k / 2)).unwrap();
            let scales: Vec<u8> = bytes(&mut random, n * k / 32).iter().map(|byte| 122 + byte % 5).collect();
            Matrix::mxfp4(values, Tensor::from_slice([n, k / 32], &scales).unwrap()).unwrap()
        }
        Format::Fp8 => {
            let values: Vec<u8> = bytes(&mut random, n * k)
                .iter()
                .map(|code| if code & 0x7f == 0x7f { 0 } else { *code })
                .collect();
            let of_scales = [n.div_ceil(128), k.div_ceil(128)];
            let scales: Vec<f32> =
                (0..of_scales[0] * of_scales[1]).map(|_| (1.5 + random.float()) / 512.0).collect();
            let scales = Tensor::from_slice(of_scales, &scales).unwrap();
            Matrix::fp8(Tensor::from_slice([n, k], &values).unwrap(), scales, [128, 128]).unwrap()
        }
        Format::Blocks(of) => blocks(of, [n, k], &mut random),
        Format::Float(_) => panic!("not packed"),
    }
}

/// Parts of a linear: packed, or as the floats that they decode to.
fn parts(format: Format, packed: bool, n: &[usize], k: usize, seed: u64) -> Vec<LinearPart> {
    let part = |(i, &n): (usize, &usize)| {
        let weight = random(format, [n, k], seed + i as u64);
        let weight = if packed { weight } else { weight.decoded(DType::BF16).unwrap().into() };
        let bias: Vec<f32> = Random::new(seed + 7).floats(n, 1.0);
        LinearPart { weight, bias: Some(Tensor::from_slice([n], &bias).unwrap()) }
    };
    n.iter().enumerate().map(part).collect()
}

/// A layer of these parts on the first `rows` rows of `x`: the format of its first part there, and what comes out.
fn run_linear(device: &Device, parts: Vec<LinearPart>, x: &[bf16], rows: usize) -> (Format, Vec<f32>) {
    let layer = Linear::new(parts).unwrap().to_device(device).unwrap();
    let k = layer.in_features();
    let input = upload(device, [rows, k], &x[..rows * k]);
    let mut out = empty(device, [rows, layer.out_features()], DType::F32);
    super::linear(device, out.view_mut().unwrap(), input.view(), &layer).unwrap();
    (layer.parts()[0].weight.format(), to_vec(device, &out))
}

/// Bits are the same on the CPU, and on a GPU but for Hopper, which multiplies floats with other instructions.
fn assert_agrees(device: &Device, found: &[f32], expected: &[f32], tolerance: f64, what: &str) {
    match device {
        Device::Cuda(gpu) if gpu.capability() == (9, 0) => {
            let expected: Vec<f64> = expected.iter().map(|x| f64::from(*x)).collect();
            assert_close(found, &expected, tolerance, what);
        }
        _ => assert_same_bits(found, expected, what),
    }
}

#[test]
fn linear() {
    for format in FORMATS {
        for (n, k) in [(vec![16, 48], 64), (vec![144, 80], 160), (vec![272], 1056), (vec![64], 2080)] {
            let x: Vec<bf16> = rounded(&Random::new(3).floats(140 * k, 1.0));
            for device in every_device() {
                let run = |packed: bool, rows: usize| {
                    run_linear(&device, parts(format, packed, &n, k, 1), &x, rows)
                };
                let (of_packed, all) = run(true, 140);
                assert_eq!(of_packed, format, "stays packed on {}", kind(&device));
                let what = format!("{format} {n:?} x {k} on {}", kind(&device));
                assert_agrees(&device, &all, &run(false, 140).1, 1e-4, &what);
                let width: usize = n.iter().sum();
                for rows in [1, 2, 5, 9, 33] {
                    assert_same_bits(&run(true, rows).1, &all[..rows * width], &what);
                }
            }
        }
    }
}

#[test]
fn linear_with_block_formats() {
    let (n, k) = (vec![40, 24], 768);
    let x: Vec<bf16> = rounded(&Random::new(3).floats(70 * k, 1.0));
    for format in Format::ALL.into_iter().filter(|format| matches!(format, Format::Blocks(_))) {
        for device in every_device() {
            let run =
                |packed: bool, rows: usize| run_linear(&device, parts(format, packed, &n, k, 1), &x, rows).1;
            let (all, what) = (run(true, 70), format!("{format} on {}", kind(&device)));
            assert_same_bits(&all, &run(false, 70), &what);
            for rows in [1, 2, 5, 33] {
                assert_same_bits(&run(true, rows), &all[..rows * 64], &what);
            }
        }
    }
}

#[test]
fn embedding() {
    let (v, h) = (19, 512);
    let ids: Vec<u32> = (0..40).map(|i| (i * i) % 19).collect();
    for format in Format::ALL.into_iter().filter(|format| format.is_packed()) {
        let floats = random(format, [v, h], 1).decoded(DType::BF16).unwrap();
        for device in every_device() {
            let run = |table: Matrix| {
                let mut table = Linear::new(vec![LinearPart { weight: table, bias: None }]).unwrap();
                table = table.to_device(&device).unwrap();
                let mut out = empty(&device, [40, h], DType::F32);
                let ids = upload(&device, [40], &ids);
                let weight = &table.parts()[0].weight;
                matrix_embedding(&device, out.view_mut().unwrap(), weight, ids.view(), 1.5)?;
                // What is below the normal numbers of bf16 may be 0.
                let flushed = |x: f32| if x.abs() < 1.5 * f32::MIN_POSITIVE { 0.0 } else { x };
                Ok::<_, KernelError>(to_vec(&device, &out).into_iter().map(flushed).collect::<Vec<f32>>())
            };
            let expected =
                run(Tensor::from_slice([v, h], floats.as_slice::<bf16>().unwrap()).unwrap().into());
            match run(random(format, [v, h], 1)) {
                Ok(found) => assert_same_bits(&found, &expected.unwrap(), &format!("{format}")),
                Err(error) => assert!(FORMATS.contains(&format) && error.to_string().contains("floats")),
            }
        }
    }
}

/// Shapes that no kernel of the GPU decodes, and tails of K.
#[test]
fn weights_that_a_gpu_does_not_decode_become_floats() {
    for (format, n, k) in [(Format::Fp8, 20, 64), (Format::Fp8, 16, 40), (Format::Fp8, 5, 437)] {
        let x: Vec<bf16> = rounded(&Random::new(3).floats(9 * k, 1.0));
        for device in every_device() {
            let run = |packed: bool| run_linear(&device, parts(format, packed, &[n], k, 1), &x, 9);
            let (of_packed, found) = run(true);
            let expected = if matches!(device, Device::Cpu(_)) { format } else { Format::Float(DType::BF16) };
            assert_eq!(of_packed, expected);
            assert_same_bits(&found, &run(false).1, "decoded");
        }
    }
}

#[test]
fn formats_mix_in_a_layer() {
    let k = 96;
    let x: Vec<bf16> = rounded(&Random::new(3).floats(40 * k, 1.0));
    for device in every_device() {
        let run = |packed: bool| {
            let mut mixed = parts(Format::Mxfp4, packed, &[32], k, 1);
            mixed.extend(parts(Format::Fp8, packed, &[48], k, 5));
            mixed.extend(parts(Format::Fp8, false, &[16], k, 9));
            run_linear(&device, mixed, &x, 40).1
        };
        assert_same_bits(&run(true), &run(false), "mixed");
    }
}

#[test]
fn moe() {
    let (h, i, e, k) = (160, 96, 5, 2);
    let x: Vec<bf16> = rounded(&Random::new(4).floats(300 * h, 1.0));
    let slot_weights = Random::new(5).floats(300 * k, 1.0);
    let ids: Vec<u32> = (0..300 * k).map(|n| [0, 1, 2, 4][(n * n + n / 7) % 4]).collect();
    let glu = Glu::SwigluOai { alpha: 1.702, limit: 7.0 };
    for format in FORMATS {
        for device in every_device() {
            let run = |packed: bool, rows: usize| {
                let expert = |e: usize| Expert {
                    gate_up: Linear::new(parts(format, packed, &[i, i], h, 10 * e as u64)).unwrap(),
                    down: Linear::new(parts(format, packed, &[h], i, 10 * e as u64 + 5)).unwrap(),
                };
                let experts = Experts::new((0..e).map(expert).collect()).unwrap();
                let experts = experts.to_device(&device).unwrap();
                let memory = Allocator::new(&device);
                let mut workspace = MoeWorkspace::new(&memory, rows, k, h, i, e, DType::BF16).unwrap();
                let mut out = empty(&device, [rows, h], DType::F32);
                super::moe(
                    &device,
                    out.view_mut().unwrap(),
                    upload(&device, [rows, h], &x[..rows * h]).view(),
                    upload(&device, [rows, k], &ids[..rows * k]).view(),
                    upload(&device, [rows, k], &slot_weights[..rows * k]).view(),
                    &experts,
                    glu,
                    WeighExperts::Output,
                    &mut workspace,
                )
                .unwrap();
                (experts.size_in_bytes(), to_vec::<f32>(&device, &out))
            };
            let what = format!("experts of {format} on {}", kind(&device));
            let ((bytes, all), (of_floats, expected)) = (run(true, 300), run(false, 300));
            assert!(bytes < of_floats * 6 / 10, "{what}: {bytes} bytes, {of_floats} as floats");
            assert_agrees(&device, &all, &expected, 1e-4, &what);
            for rows in [1, 7, 60] {
                assert_same_bits(&run(true, rows).1, &all[..rows * h], &what);
            }
        }
    }
}
