//! A packed weight whose format is known at run time.

use super::{
    ggml::{Blocks, formats},
    packed::{CodedWeight, Fp8, Fp8Rows, Groups, Mxfp4, Mxfp4Rows, PackedWeight},
};
use crate::BlockType;

/// A packed weight `[N, K]` of any format.
#[derive(Clone, Copy)]
pub(crate) enum Packed<'a> {
    Mxfp4(Mxfp4Rows<'a>),
    Fp8(Fp8Rows<'a>),
    Blocks(BlockType, &'a [u8]),
}

/// What is done with the rows of a packed weight of any format.
pub(crate) trait WithPacked {
    fn run<W: PackedWeight>(self, rows: W::Rows<'_>);
}

/// What is done with the rows of a packed weight, by the kind of its elements.
pub(crate) trait ByKind {
    fn floats<W: PackedWeight>(self, rows: W::Rows<'_>);
    fn codes<W: CodedWeight>(self, rows: W::Rows<'_>);
}

impl Packed<'_> {
    /// Calls `with` for the format.
    pub(crate) fn run(self, with: impl WithPacked) {
        struct Any<T>(T);
        impl<T: WithPacked> ByKind for Any<T> {
            fn floats<W: PackedWeight>(self, rows: W::Rows<'_>) {
                self.0.run::<W>(rows);
            }
            fn codes<W: CodedWeight>(self, rows: W::Rows<'_>) {
                self.0.run::<W>(rows);
            }
        }
        self.by_kind(Any(with));
    }

    /// Calls `with` for the format.
    pub(crate) fn by_kind(self, with: impl ByKind) {
        match self {
            Packed::Fp8(rows) => with.floats::<Fp8>(rows),
            Packed::Mxfp4(rows) => with.codes::<Mxfp4>(rows),
            Packed::Blocks(blocks, rows) => match blocks {
                BlockType::Q4_0 => with.codes::<Blocks<formats::Q4_0>>(rows),
                BlockType::Q4_1 => with.codes::<Blocks<formats::Q4_1>>(rows),
                BlockType::Q5_0 => with.codes::<Blocks<formats::Q5_0>>(rows),
                BlockType::Q5_1 => with.codes::<Blocks<formats::Q5_1>>(rows),
                BlockType::Q8_0 => with.codes::<Blocks<formats::Q8_0>>(rows),
                BlockType::Q2K => with.codes::<Blocks<formats::Q2K>>(rows),
                BlockType::Q3K => with.codes::<Blocks<formats::Q3K>>(rows),
                BlockType::Q4K => with.codes::<Blocks<formats::Q4K>>(rows),
                BlockType::Q5K => with.codes::<Blocks<formats::Q5K>>(rows),
                BlockType::Q6K => with.codes::<Blocks<formats::Q6K>>(rows),
                BlockType::Iq4Nl => with.codes::<Blocks<formats::Iq4Nl>>(rows),
                BlockType::Iq4Xs => with.codes::<Blocks<formats::Iq4Xs>>(rows),
                BlockType::Mxfp4Block => with.codes::<Blocks<formats::Mxfp4Block>>(rows),
            },
        }
    }

    /// How the weight's elements meet inputs that are quantised, if they do.
    pub(crate) fn groups(self) -> Option<Groups> {
        struct Find<'a>(&'a mut Option<Groups>);
        impl ByKind for Find<'_> {
            fn floats<W: PackedWeight>(self, _: W::Rows<'_>) {}
            fn codes<W: CodedWeight>(self, _: W::Rows<'_>) {
                *self.0 = Some(W::GROUPS);
            }
        }
        let mut groups = None;
        self.by_kind(Find(&mut groups));
        groups
    }
}
