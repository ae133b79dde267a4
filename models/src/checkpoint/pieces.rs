//! Tensors that lie in pieces in several files, one for each device that they were published for
//! (`*-TP-000.safetensors`, `*-TP-001.safetensors`, ...). They are copied together.

use mosu_kernels::{KernelError, Shape, Tensor};

use crate::weights::{bytes, bytes_mut};

/// Whether a file of that name may hold pieces.
pub(super) fn holds_pieces(name: &str) -> bool {
    let rank = name.strip_suffix(".safetensors").and_then(|name| name.rsplit_once("-TP-"));
    rank.is_some_and(|(_, rank)| !rank.is_empty() && rank.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether a file of that name belongs to a checkpoint in pieces.
pub(super) fn belongs_to_pieces(name: &str) -> bool {
    holds_pieces(name) || name.ends_with("-TP-common.safetensors")
}

/// The dimension along which pieces of these shapes make `whole`.
pub(super) fn cut_dimension(pieces: &[&[usize]], whole: &[usize]) -> Option<usize> {
    (0..whole.len()).find(|&cut| {
        let sizes = pieces.iter().map(|piece| piece.get(cut).copied().unwrap_or(0));
        let same_elsewhere = |piece: &&[usize]| {
            piece.len() == whole.len() && (0..whole.len()).all(|i| i == cut || piece[i] == whole[i])
        };
        sizes.sum::<usize>() == whole[cut] && pieces.iter().all(same_elsewhere)
    })
}

/// The tensor `shape` made of pieces that were cut along dimension `cut`.
///
/// # Errors
/// When memory is short.
pub(super) fn join(pieces: &[Tensor], shape: Shape, cut: usize) -> Result<Tensor, KernelError> {
    let Some(first) = pieces.first() else { return Tensor::zeros(shape, mosu_kernels::DType::F32) };
    let mut whole = Tensor::zeros(shape, first.dtype())?;
    let rows: usize = shape.dims()[..cut].iter().product();
    let row_bytes = whole.size_in_bytes() / rows.max(1);
    let to = bytes_mut(&mut whole)?;
    let mut offset = 0;
    for piece in pieces {
        let piece_bytes = piece.size_in_bytes() / rows.max(1);
        for (row, from) in bytes(piece)?.chunks(piece_bytes.max(1)).enumerate() {
            to[row * row_bytes + offset..][..piece_bytes].copy_from_slice(from);
        }
        offset += piece_bytes;
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_say_what_is_in_pieces() {
        assert!(holds_pieces("pytorch_model-00001-TP-007.safetensors"));
        for name in
            ["model-00001-of-00002.safetensors", "x-TP-common.safetensors", "x-TP-.safetensors", "x-TP-1.bin"]
        {
            assert!(!holds_pieces(name), "{name}");
        }
        assert!(belongs_to_pieces("x-TP-common.safetensors"));
    }

    #[test]
    fn pieces_join_along_rows_or_columns() {
        let piece = |shape: [usize; 2], values: &[f32]| Tensor::from_slice(shape, values).unwrap();
        let pieces = [piece([1, 2], &[1.0, 2.0]), piece([2, 2], &[3.0, 4.0, 5.0, 6.0])];
        assert_eq!(cut_dimension(&[&[1, 2], &[2, 2]], &[3, 2]), Some(0));
        let rows = join(&pieces, Shape::new([3, 2]), 0).unwrap();
        assert_eq!(rows.as_slice::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let pieces = [piece([2, 1], &[1.0, 4.0]), piece([2, 2], &[2.0, 3.0, 5.0, 6.0])];
        assert_eq!(cut_dimension(&[&[2, 1], &[2, 2]], &[2, 3]), Some(1));
        let columns = join(&pieces, Shape::new([2, 3]), 1).unwrap();
        assert_eq!(columns.as_slice::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(cut_dimension(&[&[2, 1], &[2, 1]], &[2, 3]), None);
        assert_eq!(cut_dimension(&[&[2], &[1]], &[2, 3]), None);
    }
}
