//! `mosu doctor`: what this machine offers, and whether the model runs on it.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use clap::{Args, builder::BoolishValueParser};
use mosu::{Event, Gpu, Request, StopConditions, gpus, limits};
use serde::Serialize;

use super::{
    exit::Failure,
    machine::Machine,
    model_args::{self, ModelArgs},
    terminal, units,
};

const EXAMPLES: &str = "\
Examples:
  mosu doctor                    this machine, and whether the demonstration model runs
  mosu doctor -m ./Qwen3-0.6B    whether this model does
  mosu doctor --json             for a bug report";

/// `mosu doctor`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long, env = "MOSU_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Serialize)]
struct Report {
    machine: Machine,
    devices: Vec<DeviceReport>,
    /// Threads that the limits are of.
    threads: usize,
    /// Bytes a second.
    read_bandwidth: f64,
    /// bf16 operations a second; a multiply-add is two.
    bf16_dot_peak: f64,
    model: Option<ModelReport>,
    /// Why there is no `model`.
    model_error: Option<String>,
}

#[derive(Serialize)]
struct DeviceReport {
    name: String,
    usable: bool,
    note: String,
    /// What a GPU is.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu: Option<GpuReport>,
}

#[derive(Serialize)]
struct GpuReport {
    model: String,
    compute_capability: String,
    multiprocessors: u32,
    memory_bytes: u64,
    memory_free_bytes: u64,
    /// The newest version of CUDA that the driver supports.
    driver_cuda: String,
}

/// A model that was loaded and has sampled a token.
#[derive(Serialize)]
struct ModelReport {
    name: String,
    architecture: String,
    device: String,
    load_seconds: f64,
    first_token_seconds: f64,
    /// The shares of the device's memory, in bytes.
    memory: Vec<Share>,
}

/// A share of the memory.
#[derive(Serialize)]
struct Share {
    name: &'static str,
    bytes: u64,
}

/// Looks, measures, and lets the model draw a token.
///
/// # Errors
/// What keeps the model from running, after the rest has been printed.
pub fn doctor(args: DoctorArgs) -> Result<(), Failure> {
    let machine = Machine::detect();
    let threads = args.model.threads();
    let (model, failure) = match try_model(&args.model) {
        Ok(model) => (Some(model), None),
        Err(failure) => (None, Some(failure)),
    };
    let report = Report {
        machine,
        devices: devices(),
        threads,
        read_bandwidth: limits::read_bandwidth(threads),
        bf16_dot_peak: limits::bf16_dot_peak(threads),
        model,
        model_error: failure.as_ref().map(Failure::to_string),
    };
    let text = if args.json { terminal::json(&report)? } else { terminal::table(&report.rows()) };
    io::stdout().write_all(text.as_bytes())?;
    failure.map_or(Ok(()), Err)
}

/// The processor, and the GPUs or why there is none.
fn devices() -> Vec<DeviceReport> {
    let mut devices =
        vec![DeviceReport { name: "cpu".into(), usable: true, note: "usable".into(), gpu: None }];
    match gpus() {
        Ok(gpus) => devices.extend(gpus.into_iter().map(DeviceReport::of)),
        Err(error) => devices.push(DeviceReport {
            name: "cuda".into(),
            usable: false,
            note: error.to_string(),
            gpu: None,
        }),
    }
    devices
}

impl DeviceReport {
    fn of(gpu: Gpu) -> DeviceReport {
        let version = |(major, minor): (i32, i32)| format!("{major}.{minor}");
        let report = GpuReport {
            model: gpu.model,
            compute_capability: format!("{}.{}", gpu.capability.0, gpu.capability.1),
            multiprocessors: gpu.multiprocessors,
            memory_bytes: gpu.memory_bytes,
            memory_free_bytes: gpu.memory_free_bytes,
            driver_cuda: version(gpu.driver_version),
        };
        let note = format!(
            "usable: {}, compute capability {}, {} of {} free, driver for CUDA {}",
            report.model,
            report.compute_capability,
            units::bytes(report.memory_free_bytes),
            units::bytes(report.memory_bytes),
            report.driver_cuda
        );
        DeviceReport { name: gpu.name, usable: true, note, gpu: Some(report) }
    }
}

fn try_model(args: &ModelArgs) -> Result<ModelReport, Failure> {
    let start = Instant::now();
    let engine = model_args::load(args.engine_options())?;
    let load_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let request = Request {
        stop: StopConditions { max_tokens: Some(1), ..StopConditions::default() },
        ..Request::new(vec![0])
    };
    let failed = engine.generate(request)?.find_map(|event| match event {
        Event::Failed(error) => Some(error),
        _ => None,
    });
    let info = engine.model_info();
    failed.map_or(Ok(()), Err)?;
    Ok(ModelReport {
        name: info.name.clone(),
        architecture: info.architecture.clone(),
        device: info.device.clone(),
        load_seconds,
        first_token_seconds: start.elapsed().as_secs_f64(),
        memory: info.memory.rows().into_iter().map(|(name, bytes)| Share { name, bytes }).collect(),
    })
}

impl Report {
    fn rows(&self) -> Vec<(&str, String)> {
        let machine = &self.machine;
        let size = |bytes: Option<u64>| bytes.map_or("unknown".into(), units::bytes);
        let mut rows = vec![
            ("mosu", format!("{} for {}, {}", machine.mosu, machine.os, machine.architecture)),
            ("CPU", machine.cpu.clone().unwrap_or("unknown".into())),
            ("cores", machine.cores.to_string()),
            ("features", machine.features.join(" ")),
            ("instruction set", machine.instruction_set.into()),
            ("memory", size(machine.memory_bytes)),
            ("memory available", size(machine.memory_available_bytes)),
        ];
        rows.extend(machine.memory_limit_bytes.map(|bytes| ("memory limit", units::bytes(bytes))));
        rows.extend(machine.huge_pages.clone().map(|chosen| ("huge pages", chosen)));
        rows.extend(machine.open_files.map(|limit| ("open files", format!("at most {limit}"))));
        let threads = units::count(self.threads, "thread");
        rows.push(("read bandwidth", format!("{:.1} GB/s with {threads}", self.read_bandwidth / 1e9)));
        rows.push(("bf16 dot peak", format!("{:.2} TFLOP/s with {threads}", self.bf16_dot_peak / 1e12)));
        rows.extend(self.devices.iter().map(|device| (device.name.as_str(), device.note.clone())));
        if let Some(model) = &self.model {
            rows.push(("model", model.describe()));
            rows.extend(model.memory.iter().map(|share| (share.name, units::bytes(share.bytes))));
        }
        rows.extend(self.model_error.clone().map(|error| ("model", error)));
        rows
    }
}

impl ModelReport {
    fn describe(&self) -> String {
        let [load, token] =
            [self.load_seconds, self.first_token_seconds].map(Duration::from_secs_f64).map(units::duration);
        format!("{} ({}) runs: loaded in {load}, first token after {token}", self.name, self.architecture)
    }
}
