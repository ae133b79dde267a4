use super::*;
use crate::{
    DType, Device, KernelError, Tensor,
    ops::{Expert, Experts, Linear, LinearPart, StackedExperts, embedding, testing::cuda},
};

fn gpu(device: &Device) -> &CudaDevice {
    match device {
        Device::Cuda(gpu) => gpu,
        Device::Cpu(_) => panic!("not a GPU"),
    }
}

#[test]
fn copies_larger_than_the_staging_buffers_arrive_whole() {
    let Some(device) = cuda() else { return };
    let data: Vec<u32> = (0..5_000_003).map(|i| i * 7).collect();
    let tensor = Tensor::from_slice([data.len()], &data).unwrap().to_device(&device).unwrap();
    assert!(tensor.to_vec::<u32>(&device).unwrap() == data);
    let tail = tensor.view().slice(5_000_000, 3).unwrap();
    assert_eq!(tail.to_vec::<u32>(&device).unwrap(), data[5_000_000..]);
}

#[test]
fn tensors_in_device_memory_are_written_and_read_through_the_device_only() {
    let Some(device) = cuda() else { return };
    let mut tensor = Tensor::zeros_on(&device, [2, 3], DType::F32).unwrap();
    tensor.copy_from(&device, &[1.0f32, 2.0, 3.0, 4.0]).unwrap();
    assert_eq!(tensor.to_vec::<f32>(&device).unwrap(), [1.0, 2.0, 3.0, 4.0, 0.0, 0.0]);
    let square = tensor.view().prefix([2, 2]).unwrap();
    assert_eq!(square.to_vec::<f32>(&device).unwrap(), [1.0, 2.0, 3.0, 4.0]);
    assert!(tensor.view().prefix([7]).is_err() && tensor.copy_from(&device, &[0.0f32; 7]).is_err());
    for error in [
        tensor.as_slice::<f32>().unwrap_err(),
        tensor.to_vec::<f32>(&Device::cpu(None)).unwrap_err(),
        tensor.as_mut_slice::<f32>().unwrap_err(),
    ] {
        assert!(error.to_string().contains("lies in device memory"), "{error}");
    }
    assert!(tensor.to_vec::<u32>(&device).is_err(), "of another type");
}

/// Tests beside it take memory of the same device.
#[test]
fn memory_that_tensors_gave_back_is_free_again() {
    pass_in_child(
        ("CUSIM_SEED", "0"),
        &["--exact", "cuda::tests::the_driver_has_all_memory_back", "--ignored"],
    );
}

#[test]
#[ignore = "runs in a process of its own, whose device nobody else uses"]
fn the_driver_has_all_memory_back() {
    let Some(device) = cuda().map(|_| Device::cuda(0).unwrap()) else { return };
    let gpu = gpu(&device);
    let free = || gpu.memory().unwrap().0;
    let before = (free(), gpu.used_bytes());
    gpu.reserve(3 << 20).unwrap();
    let tensor = |_| Tensor::zeros_on(&device, [1 << 20], DType::F16).unwrap();
    // Two of the three do not fit the reservation.
    let mut tensors: Vec<Tensor> = (0..3).map(tensor).collect();
    assert_eq!((before.0 - free(), gpu.used_bytes() - before.1), (7 << 20, 6 << 20));
    tensors.pop();
    assert_eq!((before.0 - free(), gpu.used_bytes() - before.1), (5 << 20, 4 << 20));
    drop(tensors);
    assert_eq!((free(), gpu.used_bytes()), before, "the driver has all of it back");
}

#[test]
fn scratch_stays_in_place_until_more_is_asked_for() {
    let Some(device) = cuda().map(|_| Device::cuda(0).unwrap()) else { return };
    let gpu = gpu(&device);
    let used = gpu.used_bytes();
    assert_eq!(gpu.scratch_missing(1000), 1024);
    let small = gpu.scratch(1000).unwrap();
    assert_eq!((gpu.scratch(10).unwrap(), gpu.scratch_missing(1024)), (small, 0));
    gpu.plan_scratch(5000).unwrap();
    assert_ne!(gpu.scratch(1000).unwrap(), small);
    assert_eq!(gpu.used_bytes() - used, 1024 + 5120, "captured launches may use the smaller one");
}

#[test]
fn more_memory_than_there_is_is_refused_with_numbers() {
    let Some(device) = cuda() else { return };
    let error = Tensor::zeros_on(&device, [1 << 50], DType::F32).unwrap_err();
    assert!(matches!(error, KernelError::DeviceMemory { needed, free, .. } if needed == 4 << 50 && free > 0));
    assert!(Tensor::zeros_on(&device, [usize::MAX, 2], DType::F32).is_err());
}

#[test]
fn launches_that_do_not_fit_their_kernel_are_refused() {
    let Some(device) = cuda() else { return };
    let grid = Grid { blocks: [1, 1, 1], threads: 32, shared_bytes: 0 };
    let message = |kernel, args: &Args| gpu(&device).launch(kernel, grid, args).unwrap_err().to_string();
    assert_eq!(
        message("embedding_f32", Args::new().u32(1)),
        "embedding_f32: arguments of sizes [4], the kernel takes [8, 8, 8, 4, 4]"
    );
    assert!(message("no_such_kernel", &Args::new()).contains("no kernel of this name"));
}

#[test]
fn a_gpu_that_is_not_there_is_named() {
    cuda();
    let error = Device::from_name("cuda:77", None).unwrap_err().to_string();
    assert!(error.starts_with("device \"cuda:77\": "), "{error}");
    assert!(error.contains("GPU") || error.contains("driver"), "{error}");
    for name in ["gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0"] {
        let error = Device::from_name(name, None).unwrap_err().to_string();
        assert!(error.contains("expected `cpu`, `cuda` or `cuda:<number>`"), "{error}");
    }
}

#[test]
fn layers_become_one_weight_and_one_bias() {
    let Some(device) = cuda() else { return };
    let part = |n: usize, first: f32, bias: Option<Tensor>| {
        let values: Vec<f32> = (0..n * 2).map(|i| first + i as f32).collect();
        LinearPart { weight: Tensor::from_slice([n, 2], &values).unwrap().into(), bias }
    };
    let bias = Tensor::from_slice([1], &[half::bf16::from_f32(7.0)]).unwrap();
    let layer = Linear::new(vec![part(2, 0.0, None), part(1, 4.0, Some(bias))]).unwrap();
    let layer = layer.to_device(&device).unwrap();
    let [LinearPart { weight, bias: Some(bias) }] = layer.parts() else { panic!("{:?}", layer.parts()) };
    assert_eq!((weight.shape().dims(), bias.shape().dims()), (&[3, 2][..], &[3][..]));
    assert_eq!(weight.values().to_vec::<f32>(&device).unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(bias.to_vec::<f32>(&device).unwrap(), [0.0, 0.0, 7.0]);
    assert!(layer.to_device(&device).is_err(), "it lies there already");
}

#[test]
fn experts_are_stacked() {
    let Some(device) = cuda() else { return };
    let linear = |parts: usize, [n, k]: [usize; 2], first: usize| {
        let part = |part: usize| {
            let values: Vec<f32> = (0..n * k).map(|i| (first + part * n * k + i) as f32).collect();
            let bias = vec![(first + part) as f32; n];
            LinearPart {
                weight: Tensor::from_slice([n, k], &values).unwrap().into(),
                bias: Some(Tensor::from_slice([n], &bias).unwrap()),
            }
        };
        Linear::new((0..parts).map(part).collect()).unwrap()
    };
    let expert = |e: usize| Expert { gate_up: linear(2, [3, 2], 12 * e), down: linear(1, [2, 3], 6 * e) };
    let experts = Experts::new((0..4).map(expert).collect()).unwrap().to_device(&device).unwrap();
    let StackedExperts { gate_up, down, gate_up_bias, down_bias } = experts.stacked().unwrap();
    let numbers = |n: usize| (0..n).map(|i| i as f32).collect::<Vec<f32>>();
    assert_eq!((gate_up.shape(), down.shape()), ([4, 6, 2].into(), [4, 2, 3].into()));
    assert_eq!(gate_up.values().to_vec::<f32>(&device).unwrap(), numbers(48));
    assert_eq!(down.values().to_vec::<f32>(&device).unwrap(), numbers(24));
    let biases = gate_up_bias.as_ref().unwrap().to_vec::<f32>(&device).unwrap();
    assert_eq!(biases[6..12], [12.0, 12.0, 12.0, 13.0, 13.0, 13.0]);
    let biases = down_bias.as_ref().unwrap().to_vec::<f32>(&device).unwrap();
    assert_eq!(biases, [0.0, 0.0, 6.0, 6.0, 12.0, 12.0, 18.0, 18.0]);
    assert_eq!((experts.count(), experts.as_slice().len()), (4, 0));
}

#[test]
fn recorded_launches_run_again_on_what_is_there_then() {
    // A device of its own: other tests would be captured too.
    let Some(device) = cuda().map(|_| Device::cuda(0).unwrap()) else { return };
    let Device::Cuda(gpu) = &device else { panic!("not a GPU") };
    let table = Tensor::from_slice([2, 2], &[1.0f32, 2.0, 3.0, 4.0]).unwrap().to_device(&device).unwrap();
    let mut ids = Tensor::zeros_on(&device, [2], DType::U32).unwrap();
    let mut out = Tensor::zeros_on(&device, [2, 2], DType::F32).unwrap();
    let graph =
        CudaGraph::capture(gpu, || embedding(&device, out.view_mut()?, table.view(), ids.view(), 2.0))
            .unwrap();
    assert_eq!(out.to_vec::<f32>(&device).unwrap(), [0.0; 4], "not run yet");
    for (wanted, expected) in [([1, 0], [6.0, 8.0, 2.0, 4.0]), ([1, 1], [6.0, 8.0, 6.0, 8.0])] {
        ids.copy_from::<u32>(&device, &wanted).unwrap();
        graph.run().unwrap();
        assert_eq!(out.to_vec::<f32>(&device).unwrap(), expected);
    }
    let error = CudaGraph::capture(gpu, || ids.copy_from(&device, &[1u32])).unwrap_err();
    assert!(error.to_string().contains("while launches are captured"), "{error}");
    graph.run().unwrap();
}

/// Runs tests of this program on another simulated device, which takes a process of its own. Of a real one there is no
/// other.
fn pass_in_child(variable: (&str, &str), tests: &[&str]) {
    if cuda().is_none() || std::env::var_os("MOSU_TEST_CUDA").is_some() {
        return;
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let output = child.args(tests).env(variable.0, variable.1).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !said.contains("running 0 tests"), "{said}");
}

/// Hopper has kernels of its own.
#[test]
fn the_products_run_on_a_hopper_too() {
    pass_in_child(
        ("CUSIM_CAPABILITY", "9.0"),
        &[
            "ops::linear::",
            "ops::gated_linear::",
            "ops::packed_tests::",
            "ops::paged_attention::tests::prefill",
            "tests::long_contexts",
            "limits::cuda::",
        ],
    );
}

/// A kernel's fault ends the process's use of the device.
#[test]
fn a_kernel_that_fails_is_an_error_from_then_on() {
    let test = "cuda::tests::with_a_launch_that_fails";
    pass_in_child(("CUSIM_FAIL_LAUNCH", "2"), &["--exact", test, "--ignored"]);
}

#[test]
#[ignore = "runs in a process of its own, where the second launch fails"]
fn with_a_launch_that_fails() {
    let device = cuda().unwrap();
    let table = Tensor::zeros_on(&device, [2, 2], DType::F32).unwrap();
    let ids = Tensor::zeros_on(&device, [1], DType::U32).unwrap();
    let mut out = Tensor::zeros_on(&device, [1, 2], DType::F32).unwrap();
    let embed = |out: &mut Tensor| embedding(&device, out.view_mut().unwrap(), table.view(), ids.view(), 1.0);
    embed(&mut out).unwrap();
    assert_eq!(out.to_vec::<f32>(&device).unwrap(), [0.0; 2]);
    // The launch itself may well return before the kernel has failed; the next wait cannot.
    let error = embed(&mut out).and_then(|()| out.to_vec::<f32>(&device).map(|_| ())).unwrap_err();
    assert!(matches!(&error, KernelError::DeviceLost { device, .. } if device == "cuda:0"), "{error}");
    for again in [
        embed(&mut out).unwrap_err(),
        gpu(&device).synchronize().unwrap_err(),
        Tensor::zeros_on(&device, [4], DType::F32).unwrap_err(),
    ] {
        assert!(matches!(again, KernelError::DeviceLost { .. }), "{again}");
    }
}
