"""Writes data/dequantize.bin: random blocks of every format Quarrel reads and
their values according to PyPI `gguf`.

    pip install gguf==0.19.0 numpy && python goldens_dequantize.py

The file is a sequence of: format id and number of blocks (u32 each), the
blocks' bytes, the elements' values as f32; everything little-endian. Half
scales run through the extremes before they are random.
"""

from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

ELEMENTS = 2048
# Byte offsets of the half floats in a block.
HALVES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
    T.IQ4_NL: [0], T.IQ4_XS: [0], T.MXFP4: [],
    T.F32: [], T.F16: [], T.BF16: [], T.TQ2_0: [64],
}  # fmt: skip
# Largest, smallest, negative zero, infinity.
EXTREMES = [0x7BFF, 0x0001, 0x8000, 0xFC00]


def random_blocks(rng, fmt):
    block_len, block_bytes = GGML_QUANT_SIZES[fmt]
    blocks = rng.integers(0, 256, (ELEMENTS // block_len, block_bytes), dtype=np.uint8)
    for at in HALVES[fmt]:
        halves = rng.integers(0, 1 << 16, len(blocks), dtype=np.uint16)
        # No NaN: its payload is nobody's promise.
        halves = np.where(halves & 0x7C00 == 0x7C00, halves & 0xBBFF, halves).astype("<u2")
        halves[: len(EXTREMES)] = EXTREMES
        blocks[:, at : at + 2] = halves.view(np.uint8).reshape(-1, 2)
    return blocks


def main():
    rng = np.random.default_rng(20261123)
    out = bytearray()
    for fmt in HALVES:
        blocks = random_blocks(rng, fmt)
        with np.errstate(all="ignore"):
            if fmt == T.F32:
                values = blocks.reshape(1, -1).view("<f4")
            elif fmt == T.F16:
                values = blocks.reshape(1, -1).view("<f2").astype("<f4")
            else:
                values = dequantize(blocks.reshape(1, -1), fmt)
        out += np.array([fmt, len(blocks)], "<u4").tobytes()
        out += blocks.tobytes() + values.astype("<f4").tobytes()
    Path(__file__).with_name("data").joinpath("dequantize.bin").write_bytes(out)


if __name__ == "__main__":
    main()
