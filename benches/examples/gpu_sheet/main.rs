//! mosu's side of the GPU performance sheet: every op that decides a model's speed, in the shapes of `cases.json`.
//!
//! Prints one JSON line a measurement, named as `reference.py` names it, so that `table.py` can put both side by side:
//!
//!     gpu_sheet benches/gpu/cases.json                        on cuda:0
//!     gpu_sheet benches/gpu/cases.json --smoke cpu            every measurement once, tiny, on another device
//!     gpu_sheet benches/gpu/cases.json --sections experts     a part of it

mod attention;
mod cases;
mod experts;
mod linears;
mod sheet;

use std::{env, error::Error, fs::File};

use mosu_kernels::Device;

use cases::Cases;
use sheet::Sheet;

type Section = fn(&Sheet, &Cases) -> Result<(), Box<dyn Error>>;

/// What `--sections` chooses from, as in `reference.py`.
const SECTIONS: [(&str, Section); 4] = [
    ("linear", linears::run),
    ("prefill_attention", |sheet, cases| attention::prefill(sheet, &cases.prefill_attention)),
    ("decode_attention", |sheet, cases| attention::decode(sheet, &cases.decode_attention)),
    ("experts", |sheet, cases| experts::run(sheet, &cases.moe)),
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let usage = "usage: gpu_sheet <cases.json> [--smoke <device>] [--sections <section>...]";
    let mut cases: Cases = serde_json::from_reader(File::open(args.next().ok_or(usage)?)?)?;
    let (mut device, mut smoke, mut sections) = ("cuda:0".to_owned(), false, SECTIONS.to_vec());
    while let Some(flag) = args.next() {
        match flag.as_str() {
            "--smoke" => (device, smoke) = (args.next().ok_or(usage)?, true),
            "--sections" => {
                let wanted: Vec<String> = args.by_ref().collect();
                sections.retain(|(name, _)| wanted.iter().any(|wanted| wanted == name));
                if sections.len() != wanted.len() {
                    return Err(format!("sections are {:?}", SECTIONS.map(|(name, _)| name)).into());
                }
            }
            _ => return Err(usage.into()),
        }
    }
    if smoke {
        cases.shrink();
    }
    let sheet = Sheet::new(Device::from_name(&device, None)?, smoke);
    sections.into_iter().try_for_each(|(_, run)| run(&sheet, &cases))
}
