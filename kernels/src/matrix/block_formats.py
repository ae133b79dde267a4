"""Writes block_formats.bin: random blocks of every block format of GGUF files, and the floats that they decode to by
gguf-py (`pip install gguf`), llama.cpp's own package.

Of each format in turn (little endian): its number u32, elements and bytes of a block u32; then BLOCKS blocks; then their
elements in f32.
"""

import struct
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize

BLOCKS = 3
# Where the 16-bit scales lie, from a block's start.
SCALES = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0], Type.Q2_K: [80, 82],
    Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208], Type.IQ4_NL: [0], Type.IQ4_XS: [0],
    Type.MXFP4: [],
}

random = np.random.default_rng(7)
out = b""
for kind, offsets in SCALES.items():
    elements, size = GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
    for offset in offsets:
        scales = random.uniform(-2, 2, BLOCKS).astype("<f2")
        blocks[:, offset : offset + 2] = scales.view(np.uint8).reshape(BLOCKS, 2)
    if kind == Type.MXFP4:
        blocks[:, 0] = [0, 1, 130]
    values = dequantize(blocks, kind).astype("<f4")
    out += struct.pack("<III", kind, elements, size) + blocks.tobytes() + values.tobytes()
Path(__file__).with_name("block_formats.bin").write_bytes(out)
