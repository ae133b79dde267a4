//! mosu's side of the GPU performance sheet: every op that decides a model's speed, in the shapes of `cases.json`.
//!
//! Prints one JSON line a measurement, named as `reference.py` names it, so that `table.py` can put both side by side:
//!
//!     gpu_sheet benches/gpu/cases.json                 on cuda:0
//!     gpu_sheet benches/gpu/cases.json --smoke cpu     every measurement once, tiny, on another device

mod attention;
mod cases;
mod experts;
mod linears;
mod sheet;

use std::{env, error::Error, fs::File};

use mosu_kernels::Device;

use cases::Cases;
use sheet::Sheet;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let (path, smoke) = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [path] => (path, None),
        [path, "--smoke", device] => (path, Some(device)),
        _ => return Err("usage: gpu_sheet <cases.json> [--smoke <device>]".into()),
    };
    let mut cases: Cases = serde_json::from_reader(File::open(path)?)?;
    if smoke.is_some() {
        cases.shrink();
    }
    let device = Device::from_name(smoke.unwrap_or("cuda:0"), None)?;
    let sheet = Sheet::new(device, smoke.is_some());
    linears::run(&sheet, &cases)?;
    attention::prefill(&sheet, &cases.prefill_attention)?;
    attention::decode(&sheet, &cases.decode_attention)?;
    experts::run(&sheet, &cases.moe)
}
