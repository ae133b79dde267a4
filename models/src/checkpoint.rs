//! A checkpoint: memory-mapped safetensors files, and which of their tensors have been claimed.

mod files;
mod integers;
mod open;
mod pieces;

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    mem,
    ops::Range,
    path::{Path, PathBuf},
};

use mosu_kernels::{Bytes, DType, Format, FormatTraits, KernelError, Matrix, Shape, Tensor};
use safetensors::tensor::Dtype;

use crate::{
    LoadError, Quantization,
    safetensors_header::Entry,
    weights::{Pass, TensorSource, bytes_mut},
};
pub(crate) use files::{headers, map, start_reading};

/// Rows and columns of an FP8 matrix that share a scale.
const FP8_BLOCK: usize = 128;

/// The tensors of one checkpoint, none of them read yet.
pub(crate) struct Checkpoint {
    /// What errors name when no file is to blame: the single file, or the index.
    file: PathBuf,
    /// Which tensor is said to be in which file; the files' headers decide.
    index: BTreeMap<String, String>,
    shards: Vec<Shard>,
    tensors: HashMap<String, Stored>,
    /// The type that its floats compute in: bf16 where there are some of it.
    compute: DType,
    /// As config.json says.
    quantization: Option<Quantization>,
    pass: Pass,
}

struct Shard {
    file: PathBuf,
    bytes: Bytes,
}

struct Stored {
    /// Its file, among the shards, and where in it; more than one where it lies in pieces.
    places: Vec<(usize, Entry)>,
    claimed: bool,
}

impl Shard {
    fn holds_pieces(&self) -> bool {
        self.file.file_name().and_then(OsStr::to_str).is_some_and(pieces::holds_pieces)
    }
}

impl Stored {
    /// The file that is to blame for it.
    fn shard<'a>(&self, shards: &'a [Shard]) -> Option<&'a Shard> {
        self.places.first().map(|(shard, _)| &shards[*shard])
    }
}

impl Checkpoint {
    /// The tensor's places, which from now on are claimed.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<(&Shard, &Entry)>, LoadError> {
        let claimed = self.tensors.get_mut(name).map(|stored| mem::replace(&mut stored.claimed, true));
        if claimed == Some(true) {
            return Err(LoadError::checkpoint(self.file_of(name), Some(name), "claimed twice"));
        }
        let stored = self.tensors.get(name).ok_or_else(|| self.absent(name, shape))?;
        Ok(stored.places.iter().map(|(shard, entry)| (&self.shards[*shard], entry)).collect())
    }

    /// A tensor that is needed is not there.
    fn absent(&self, name: &str, shape: &[usize]) -> LoadError {
        if let Some(path) = self.missing_shard_of(name) {
            return files::missing_shard(path, name);
        }
        let message = match self.index.get(name) {
            None => format!("not in the checkpoint, but config.json implies it, with shape {shape:?}"),
            Some(shard) => format!(
                "said to be in {shard}, but in no file of the index; config.json implies it, with shape {shape:?}"
            ),
        };
        LoadError::checkpoint(&self.file, Some(name), message)
    }

    /// The file that the index names for a tensor, if it is not there.
    fn missing_shard_of(&self, name: &str) -> Option<PathBuf> {
        let path = self.file.with_file_name(self.index.get(name)?);
        let is_there = self.shards.iter().any(|shard| shard.file == path);
        (!is_there).then_some(path)
    }

    /// The only place of a tensor whose shape is `shape` but for leading dimensions of 1.
    fn take_whole(&mut self, name: &str, shape: &[usize]) -> Result<(&Shard, &Entry), LoadError> {
        let file = self.file.clone();
        let places = self.take(name, shape)?;
        let &[(shard, entry)] = &places[..] else {
            return Err(LoadError::checkpoint(&file, Some(name), "lies in pieces in several files"));
        };
        check_shape(shard, entry, shape)?;
        Ok((shard, entry))
    }

    /// The shape that a tensor has in its file; nothing where there is none.
    fn shape_of(&self, name: &str) -> &[usize] {
        let place = self.tensors.get(name).and_then(|stored| stored.places.first());
        place.map_or(&[], |(_, entry)| &entry.shape)
    }

    fn dtype_of(&self, name: &str) -> Option<Dtype> {
        self.tensors.get(name)?.places.first().map(|(_, entry)| entry.dtype)
    }

    /// A tensor of integers: the file's bytes, and where it lies in them.
    fn take_bytes(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
    ) -> Result<(Bytes, Range<usize>), LoadError> {
        let (shard, entry) = self.take_whole(name, shape)?;
        if entry.dtype != dtype {
            let message = format!("has type {:?}, expected {dtype:?}", entry.dtype);
            return Err(LoadError::checkpoint(&shard.file, Some(name), message));
        }
        Ok((shard.bytes.clone(), entry.start..entry.start + entry.len))
    }

    /// An FP8 matrix. Its scales are in the tensor `<name>_scale_inv`, one for each block, or in `<name>_scale`: so, or one for
    /// each row, or one. A scale of the activations is for those who round them to FP8 too.
    fn claim_fp8(&mut self, name: &str, shape @ [rows, columns]: [usize; 2]) -> Result<Matrix, LoadError> {
        let (pass, (shard, entry)) = (self.pass, self.take_whole(name, &shape)?);
        let values = pass.in_place_or_copied(&shard.bytes, entry.start, shape.into(), DType::U8)?;
        let of_scales = ["_scale_inv", "_scale"].map(|end| format!("{name}{end}"));
        let of_scales = if self.contains(&of_scales[0]) { &of_scales[0] } else { &of_scales[1] };
        // One scale for all columns: a block is wider than the matrix.
        let whole = columns.next_power_of_two().max(32);
        let (block, stored) = match *self.shape_of(of_scales) {
            [] => ([rows, whole], Shape::new([])),
            [1] | [1, 1] => ([rows, whole], Shape::new([1])),
            [n] if n == rows => ([1, whole], Shape::new([n])),
            [n, 1] if n == rows && rows > 1 => ([1, whole], Shape::new([n, 1])),
            _ => ([FP8_BLOCK; 2], Shape::new([rows.div_ceil(FP8_BLOCK), columns.div_ceil(FP8_BLOCK)])),
        };
        let (scales, _) = self.floats_of(of_scales, stored)?;
        let blocks = [rows.div_ceil(block[0]), columns.div_ceil(block[1])];
        let scales = Tensor::from_slice(blocks, &scales)?;
        let of_inputs = name.replace(".weight", ".input_scale");
        if self.contains(&of_inputs) {
            let shape = if self.shape_of(&of_inputs).is_empty() { Shape::new([]) } else { Shape::new([1]) };
            self.claim(&of_inputs, shape)?;
        }
        self.unpacked(Matrix::fp8(values, scales, block)?)
    }

    /// Packed matrices meet bf16. Among floats that compute in f32 they are decoded.
    fn unpacked(&self, matrix: Matrix) -> Result<Matrix, LoadError> {
        match self.compute {
            DType::BF16 => Ok(matrix),
            other => Ok(matrix.decoded(other)?.into()),
        }
    }
}

/// Fails unless a tensor's shape is `shape` but for leading dimensions of 1.
fn check_shape(shard: &Shard, entry: &Entry, shape: &[usize]) -> Result<(), LoadError> {
    let found = &entry.shape;
    let leading = found.len().saturating_sub(shape.len());
    if found.ends_with(shape) && found[..leading].iter().all(|dim| *dim == 1) {
        return Ok(());
    }
    let message = format!("has shape {found:?}, but config.json implies {shape:?}");
    Err(LoadError::checkpoint(&shard.file, Some(&entry.name), message))
}

impl TensorSource for Checkpoint {
    fn begin(&mut self, pass: Pass) {
        self.pass = pass;
        self.tensors.values_mut().for_each(|stored| stored.claimed = false);
        if pass == Pass::Load {
            self.shards.iter().for_each(|shard| start_reading(&shard.bytes));
        }
    }

    fn names(&self) -> [Vec<&str>; 2] {
        let (claimed, left): (Vec<_>, Vec<_>) = self.tensors.iter().partition(|(_, stored)| stored.claimed);
        [claimed, left].map(|tensors| {
            let mut names: Vec<&str> = tensors.into_iter().map(|(name, _)| name.as_str()).collect();
            names.sort_unstable();
            names
        })
    }

    fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name) || self.missing_shard_of(name).is_some()
    }

    fn claim(&mut self, name: &str, shape: Shape) -> Result<Tensor, LoadError> {
        let pass = self.pass;
        let places = self.take(name, shape.dims())?;
        if let &[(shard, entry)] = &places[..] {
            check_shape(shard, entry, shape.dims())?;
            let dtype = float(shard, entry)?;
            return Ok(pass.in_place_or_copied(&shard.bytes, entry.start, shape, dtype)?);
        }
        let shapes: Vec<&[usize]> = places.iter().map(|(_, entry)| entry.shape.as_slice()).collect();
        let cut = pieces::cut_dimension(&shapes, shape.dims());
        let dtypes =
            places.iter().map(|(shard, entry)| float(shard, entry)).collect::<Result<Vec<_>, _>>()?;
        let (Some(cut), true) = (cut, dtypes.windows(2).all(|pair| pair[0] == pair[1])) else {
            let message = format!("its pieces {shapes:?} do not make the {shape} that config.json implies");
            return Err(LoadError::checkpoint(&self.file, Some(name), message));
        };
        if pass == Pass::Plan {
            return Ok(Tensor::planned(shape, dtypes[0])?);
        }
        let piece = |((shard, entry), dtype): (&(&Shard, &Entry), &DType)| match entry.shape[..] {
            [n] => pass.in_place_or_copied(&shard.bytes, entry.start, Shape::new([n]), *dtype),
            [n, k] => pass.in_place_or_copied(&shard.bytes, entry.start, Shape::new([n, k]), *dtype),
            _ => Tensor::zeros([0], *dtype),
        };
        let pieces: Vec<Tensor> = places.iter().zip(&dtypes).map(piece).collect::<Result<_, _>>()?;
        Ok(pieces::join(&pieces, shape, cut)?)
    }

    fn claim_stack(&mut self, name: &str, count: usize, piece: Shape) -> Result<Vec<Tensor>, LoadError> {
        let pass = self.pass;
        let shape: Vec<usize> = [count].iter().chain(piece.dims()).copied().collect();
        let (shard, entry) = self.take_whole(name, &shape)?;
        let dtype = float(shard, entry)?;
        let piece_bytes = entry.len / count;
        let start = |index| entry.start + index * piece_bytes;
        let pieces =
            (0..count).map(|index| pass.in_place_or_copied(&shard.bytes, start(index), piece, dtype));
        Ok(pieces.collect::<Result<_, _>>()?)
    }

    fn claim_matrix(&mut self, module: &str, shape: [usize; 2]) -> Result<Matrix, LoadError> {
        if let Some(matrix) = self.claim_integers(module, shape)? {
            return Ok(matrix);
        }
        let name = format!("{module}.weight");
        let of_fp8 = |stored: &Stored| stored.places.iter().any(|(_, entry)| entry.dtype == Dtype::F8_E4M3);
        match self.tensors.get(&name).is_some_and(of_fp8) {
            true => self.claim_fp8(&name, shape),
            false => Ok(self.claim(&name, Shape::new(shape))?.into()),
        }
    }

    /// From the MXFP4 tensors `<name>_blocks` and `<name>_scales`.
    fn claim_packed(
        &mut self,
        name: &str,
        count: usize,
        [rows, columns]: [usize; 2],
    ) -> Result<Option<Vec<Matrix>>, LoadError> {
        if !self.contains(&format!("{name}_blocks")) {
            return Ok(None);
        }
        let FormatTraits { block, block_bytes, .. } = Format::Mxfp4.traits();
        let (pass, blocks) = (self.pass, columns / block);
        let (of_scales, scales) =
            self.take_bytes(&format!("{name}_scales"), Dtype::U8, &[count, rows, blocks])?;
        let (of_values, values) =
            self.take_bytes(&format!("{name}_blocks"), Dtype::U8, &[count, rows, blocks, block_bytes])?;
        let piece = |bytes: &Bytes, first: usize, index: usize, width: usize| {
            let start = first + index * rows * width;
            pass.in_place_or_copied(bytes, start, Shape::new([rows, width]), DType::U8)
        };
        let matrix = |index| {
            let values = piece(&of_values, values.start, index, blocks * block_bytes)?;
            let scales = piece(&of_scales, scales.start, index, blocks)?;
            self.unpacked(Matrix::mxfp4(values, scales)?)
        };
        (0..count).map(matrix).collect::<Result<_, _>>().map(Some)
    }

    fn totals(&self) -> (usize, u64) {
        (
            self.tensors.len(),
            self.tensors.values().flat_map(|stored| &stored.places).map(|(_, entry)| entry.len as u64).sum(),
        )
    }

    fn file(&self) -> &Path {
        &self.file
    }

    fn file_of(&self, name: &str) -> &Path {
        let shard = self.tensors.get(name).and_then(|stored| stored.shard(&self.shards));
        shard.map_or(&self.file, |shard| &shard.file)
    }
}

/// The element type of a tensor, which must be a float that the ops know.
fn float(shard: &Shard, entry: &Entry) -> Result<DType, LoadError> {
    match entry.dtype {
        Dtype::F32 => Ok(DType::F32),
        Dtype::F16 => Ok(DType::F16),
        Dtype::BF16 => Ok(DType::BF16),
        other => {
            let message = format!("has type {other:?}; supported are F32, F16 and BF16");
            Err(LoadError::checkpoint(&shard.file, Some(&entry.name), message))
        }
    }
}

impl Pass {
    /// The tensor that `fill` fills, in a pass for use.
    fn filled(
        self,
        shape: Shape,
        dtype: DType,
        fill: impl FnOnce(&mut Tensor) -> Result<(), KernelError>,
    ) -> Result<Tensor, KernelError> {
        if self == Pass::Plan {
            return Tensor::planned(shape, dtype);
        }
        let mut tensor = Tensor::zeros(shape, dtype)?;
        fill(&mut tensor)?;
        Ok(tensor)
    }

    /// The tensor at byte `start` in place; a copy only where the file does not align its elements.
    pub(crate) fn in_place_or_copied(
        self,
        bytes: &Bytes,
        start: usize,
        shape: Shape,
        dtype: DType,
    ) -> Result<Tensor, KernelError> {
        let data = &bytes.as_slice()[start..];
        if self == Pass::Load && (data.as_ptr() as usize).is_multiple_of(dtype.size()) {
            return Tensor::from_bytes(bytes.clone(), start, shape, dtype);
        }
        self.filled(shape, dtype, |tensor| {
            let tensor = bytes_mut(tensor)?;
            tensor.copy_from_slice(&data[..tensor.len()]);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
