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

/// Weights of this format meet quantised inputs there.
fn is_coded(format: Format, device: &Device) -> bool {
    matches!(device, Device::Cpu(_)) && format.is_packed() && format != Format::Fp8
}

/// `x` as the CPU quantises it: bytes times a scale for every 32.
fn quantized(x: &[bf16]) -> Vec<f64> {
    let of_group = |x: &[bf16]| {
        let scale = x.iter().fold(127.0 * f32::MIN_POSITIVE, |max, x| max.max(x.to_f32().abs())) / 127.0;
        x.iter()
            .map(|x| f64::from(scale * (x.to_f32() * (1.0 / scale)).round_ties_even()))
            .collect::<Vec<_>>()
    };
    x.chunks(32).flat_map(of_group).collect()
}

/// Sums in f64, and the sums of the products' magnitudes.
fn in_f64(parts: &[LinearPart], x: &[f64], k: usize) -> Vec<[f64; 2]> {
    let weights: Vec<(Vec<f32>, f32)> = parts
        .iter()
        .flat_map(|part| {
            let rows = part.weight.decoded(DType::F32).unwrap();
            let bias = part.bias.as_ref().unwrap().as_slice::<f32>().unwrap().to_vec();
            let rows: Vec<Vec<f32>> =
                rows.as_slice::<f32>().unwrap().chunks(k).map(<[f32]>::to_vec).collect();
            rows.into_iter().zip(bias).collect::<Vec<_>>()
        })
        .collect();
    let dot = |x: &[f64], (row, bias): &(Vec<f32>, f32)| {
        let products = x.iter().zip(row).map(|(x, w)| x * f64::from(*w));
        let (sum, magnitude) = products.fold((0.0, 0.0), |(sum, all), x| (sum + x, all + x.abs()));
        [sum + f64::from(*bias), magnitude + f64::from(bias.abs())]
    };
    x.chunks(k).flat_map(|x| weights.iter().map(move |row| dot(x, row))).collect()
}

/// Fails when a result is off by more than so much of its magnitude.
#[track_caller]
fn assert_near(found: &[f32], expected: &[[f64; 2]], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths");
    for (i, (found, [expected, magnitude])) in found.iter().zip(expected).enumerate() {
        let difference = (f64::from(*found) - expected).abs();
        // NaN is not below anything.
        assert!(
            difference <= tolerance * magnitude,
            "{what}: element {i} is {found}, expected {expected} of {magnitude}"
        );
    }
}

/// Bits are the same as those of the floats, but on Hopper, which multiplies floats with other instructions, and on the
/// CPU, where coded weights meet quantised inputs.
fn assert_agrees(device: &Device, format: Format, found: &[f32], floats: &[f32], tolerance: f64, what: &str) {
    let close = |tolerance| {
        let floats: Vec<f64> = floats.iter().map(|x| f64::from(*x)).collect();
        assert_close(found, &floats, tolerance, what);
    };
    match device {
        Device::Cuda(gpu) if gpu.capability() == (9, 0) => close(tolerance),
        _ if is_coded(format, device) => {
            let largest = floats.iter().fold(0f32, |max, x| max.max(x.abs()));
            close(0.02 * f64::from(largest));
        }
        _ => assert_same_bits(found, floats, what),
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
                assert_agrees(&device, format, &all, &run(false, 140).1, 1e-4, &what);
                let width: usize = n.iter().sum();
                for rows in [1, 2, 5, 9, 33] {
                    assert_same_bits(&run(true, rows).1, &all[..rows * width], &what);
                }
            }
        }
    }
}

/// On the CPU: products of the decoded weights with the inputs as they are quantised, and near those with the inputs
/// themselves. On a GPU they become floats.
#[test]
fn linear_with_coded_formats() {
    for (n, blocks) in [(vec![40, 24], 3), (vec![5], 1), (vec![16, 33], 4)] {
        for format in Format::ALL.into_iter().filter(|format| is_coded(*format, &devices()[0])) {
            let FormatTraits { block, .. } = format.traits();
            let (k, width) = (blocks * block, n.iter().sum::<usize>());
            let mut x: Vec<bf16> = rounded(&Random::new(3).floats(70 * k, 1.0));
            x[..32].fill(bf16::ZERO);
            x[k + 1] = bf16::from_f32(4.0);
            let inputs: Vec<f64> = x.iter().map(|x| f64::from(x.to_f32())).collect();
            let weights = parts(format, true, &n, k, 1);
            let expected = [in_f64(&weights, &quantized(&x), k), in_f64(&weights, &inputs, k)];
            let mut first: Option<(String, Vec<f32>)> = None;
            for device in every_device() {
                let run = |packed: bool, rows: usize| {
                    run_linear(&device, parts(format, packed, &n, k, 1), &x, rows).1
                };
                let (all, what) = (run(true, 70), format!("{format} {n:?} x {k} on {}", kind(&device)));
                for rows in [1, 2, 5, 33] {
                    assert_same_bits(&run(true, rows), &all[..rows * width], &what);
                }
                match &device {
                    Device::Cpu(_) => {
                        assert_near(&all, &expected[0], 2e-6, &what);
                        assert_near(&all, &expected[1], 0.03, &what);
                    }
                    Device::Cuda(_) => assert_agrees(&device, format, &all, &run(false, 70), 1e-4, &what),
                }
                match &first {
                    Some((seen, bits)) if *seen == kind(&device) => assert_same_bits(&all, bits, "threads"),
                    _ => first = Some((kind(&device), all)),
                }
            }
        }
    }
}

/// Blocks can meet f32 too.
#[test]
fn linear_with_blocks_that_meet_f32() {
    let (n, k, of) = (48, 512, Format::Blocks(BlockType::Q4K));
    let x = Random::new(3).floats(20 * k, 1.0);
    let layer = || {
        let meeting_f32 = |part: LinearPart| LinearPart { weight: part.weight.meeting_f32(), ..part };
        Linear::new(parts(of, true, &[n], k, 1).into_iter().map(meeting_f32).collect()).unwrap()
    };
    let inputs: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    let expected = in_f64(&parts(of, true, &[n], k, 1), &inputs, k);
    for device in every_device() {
        let layer = layer().to_device(&device).unwrap();
        let run = |rows: usize| {
            let mut out = empty(&device, [rows, n], DType::F32);
            let input = upload(&device, [rows, k], &x[..rows * k]);
            super::linear(&device, out.view_mut().unwrap(), input.view(), &layer).unwrap();
            to_vec::<f32>(&device, &out)
        };
        let tolerance = if is_coded(of, &device) { 0.03 } else { 1e-6 };
        assert_near(&run(20), &expected, tolerance, &kind(&device));
        assert_same_bits(&run(1), &run(20)[..n], &kind(&device));
    }
}

/// A fault stays with its row, and is not hidden.
#[test]
fn inputs_that_are_not_finite_give_nan() {
    let k = 512;
    for format in [Format::Blocks(BlockType::Q4K), Format::Blocks(BlockType::Q6K), Format::Mxfp4] {
        for device in devices() {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x: Vec<bf16> = rounded(&Random::new(3).floats(3 * k, 1.0));
                x[k + 77] = bf16::from_f32(bad);
                for rows in [2, 3] {
                    let found = run_linear(&device, parts(format, true, &[20], k, 1), &x, rows).1;
                    let is_nan: Vec<bool> =
                        found.chunks(20).map(|row| row.iter().all(|x| x.is_nan())).collect();
                    let finite: Vec<bool> =
                        found.chunks(20).map(|row| row.iter().all(|x| x.is_finite())).collect();
                    assert_eq!(
                        (is_nan[1], finite[0], finite.get(2)),
                        (true, true, [None, Some(&true)][rows - 2])
                    );
                }
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
        assert_agrees(&device, Format::Mxfp4, &run(true), &run(false), 1e-4, "mixed");
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
                    ApplyRouterWeight::OnOutput,
                    &mut workspace,
                )
                .unwrap();
                (experts.size_in_bytes(), to_vec::<f32>(&device, &out))
            };
            let what = format!("experts of {format} on {}", kind(&device));
            let ((bytes, all), (of_floats, expected)) = (run(true, 300), run(false, 300));
            assert!(bytes < of_floats * 6 / 10, "{what}: {bytes} bytes, {of_floats} as floats");
            assert_agrees(&device, format, &all, &expected, 1e-4, &what);
            for rows in [1, 7, 60] {
                assert_same_bits(&run(true, rows).1, &all[..rows * h], &what);
            }
        }
    }
}
