//! What loading reports.

/// How far loading is. Files are mapped, not read: their bytes count as done once a tensor has its place.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadProgress {
    /// Tensors in place.
    pub tensors_done: usize,
    /// Tensors in all.
    pub tensors_total: usize,
    /// Bytes of the tensors in place.
    pub bytes_done: u64,
    /// Bytes of all.
    pub bytes_total: u64,
}
