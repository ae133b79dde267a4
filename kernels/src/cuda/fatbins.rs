//! What the driver loads: the fatbins that nvcc made of the `.cu` files.

use std::borrow::Cow;

/// The fatbin of a `.cu` file.
#[cfg(feature = "cuda")]
pub(super) fn fatbin(file: &str) -> Option<Cow<'static, [u8]>> {
    #[repr(C, align(16))]
    struct Aligned<T>(T);

    static FATBINS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));
    let (_, bytes) = FATBINS.iter().find(|(name, _)| *name == file)?;
    Some(Cow::Borrowed(bytes))
}

/// The file's name, which only the simulated device of the tests takes for a fatbin.
#[cfg(not(feature = "cuda"))]
pub(super) fn fatbin(file: &str) -> Option<Cow<'static, [u8]>> {
    let name = std::ffi::CString::new(file).ok()?;
    Some(Cow::Owned(name.into_bytes_with_nul()))
}
