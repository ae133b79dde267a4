//! What a GPU gave: a file per wrapper, `<wrapper>.bin`. All its numbers are little-endian: a u64, the FNV-1a hash of
//! the input's bytes, then the u32 words of the output.

use std::path::Path;
use std::{fs, io};

const HASH_BYTES: usize = 8;

fn bytes(words: &[u32]) -> impl Iterator<Item = u8> {
    words.iter().flat_map(|word| word.to_le_bytes())
}

fn hash(input: &[u32]) -> u64 {
    bytes(input)
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Stores what `wrapper` made of `input`.
pub fn write(folder: &Path, wrapper: &str, input: &[u32], output: &[u32]) {
    let file: Vec<u8> = hash(input).to_le_bytes().into_iter().chain(bytes(output)).collect();
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join(format!("{wrapper}.bin")), file).unwrap();
}

/// What was stored; `None` where nothing was.
pub fn read(folder: &Path, wrapper: &str, input: &[u32]) -> Option<Vec<u32>> {
    let file = match fs::read(folder.join(format!("{wrapper}.bin"))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        file => file.unwrap(),
    };
    let (hash_bytes, words) = file.split_at(HASH_BYTES);
    assert_eq!(
        hash_bytes,
        hash(input).to_le_bytes(),
        "{wrapper} was recorded with other inputs: record it again"
    );
    Some(words.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect())
}
