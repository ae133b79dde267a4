//! The demonstration model, embedded in the program. It stands in `demo/` beside the scripts that made it.

/// Gives embedded bytes the alignment that a mapped file has.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static CHECKPOINT: &Aligned<[u8]> = &Aligned(*include_bytes!("../demo/model.safetensors"));

/// model.safetensors.
pub(crate) fn weights() -> &'static [u8] {
    &CHECKPOINT.0
}

/// Any other file of the model.
pub(crate) fn file(name: &str) -> Option<&'static [u8]> {
    match name {
        "config.json" => Some(include_bytes!("../demo/config.json")),
        "generation_config.json" => Some(include_bytes!("../demo/generation_config.json")),
        "tokenizer.json" => Some(include_bytes!("../demo/tokenizer.json")),
        "tokenizer_config.json" => Some(include_bytes!("../demo/tokenizer_config.json")),
        _ => None,
    }
}
