"""Writes data/quantize.json: the error llama.cpp's quantisers make on seeded data.

    pip install gguf==0.19.0 numpy
    python goldens_quantize.py .../build/bin/libggml-base.so .../smollm2-135m.gguf

The library is that of llama.cpp as PyPI `llama-cpp-python==0.3.36` carries it;
the model is what `cargo xtask fixtures` fetches.
quantize.rs makes the same data from the same seeds (splitmix64, Box–Muller in
f64) and compares its errors with these. Each figure is the root mean square of
value minus quantised value over 65,536 elements.
"""

import ctypes
import json
import sys
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.gguf_reader import GGUFReader
from gguf.quants import dequantize

ROWS, COLUMNS = 256, 256
FORMATS = [
    T.F16, T.BF16, T.Q8_0, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1,
    T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K, T.IQ4_NL, T.TQ2_0,
]  # fmt: skip


def uniforms(seed, n):
    """n numbers of (0, 1): splitmix64's outputs as 53-bit fractions, from the middle."""
    mask = (1 << 64) - 1
    state, out = seed, []
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out.append((((z ^ (z >> 31)) >> 11) + 0.5) / (1 << 53))
    return np.array(out)


def gaussian(n):
    """Standard deviation 0.02, as trained weights have."""
    u = uniforms(1, 2 * n).reshape(n, 2)
    return 0.02 * np.sqrt(-2 * np.log(u[:, 0])) * np.cos(2 * np.pi * u[:, 1])


def laplace(n):
    """Scale 0.02: heavier tails than a trained matrix mostly has."""
    u = uniforms(2, 2 * n).reshape(n, 2)
    return 0.02 * np.log(u[:, 0]) * np.where(u[:, 1] < 0.5, -1, 1)


def outliers(n):
    """Gaussian whose columns differ in size, and whose every 64th element or so is eight times larger."""
    u = uniforms(3, n)
    columns = 0.25 + uniforms(4, COLUMNS)
    return gaussian(n) * np.tile(columns, n // COLUMNS) * np.where(u < 1 / 64, 8, 1)


def trained(path):
    """The first rows of a real model's embedding, which its file keeps in Q8_0."""
    (tensor,) = [t for t in GGUFReader(path).tensors if t.name == "token_embd.weight"]
    return lambda n: dequantize(tensor.data, tensor.tensor_type).ravel()[:n]


def peer(lib, values, fmt):
    """`values` through the peer's quantiser of `fmt` and back."""
    block_len, block_bytes = GGML_QUANT_SIZES[fmt]
    out = np.zeros(len(values) // block_len * block_bytes, np.uint8)
    written = lib.ggml_quantize_chunk(
        int(fmt), values.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_int64(0), ctypes.c_int64(len(values) // COLUMNS), ctypes.c_int64(COLUMNS), None,
    )  # fmt: skip
    assert written == len(out)
    if fmt == T.F16:
        return out.view("<f2").astype(np.float32)
    return dequantize(out.reshape(1, -1), fmt)[0]


def errors(lib, values):
    """Of each format, by name."""
    values = np.ascontiguousarray(values, np.float32)
    lost = {fmt.name: values.astype(np.float64) - peer(lib, values, fmt) for fmt in FORMATS}
    return {name: float(np.sqrt(np.mean(lost**2))) for name, lost in lost.items()}


def main():
    lib = ctypes.CDLL(sys.argv[1])
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    data = {"gaussian": gaussian, "laplace": laplace, "outliers": outliers, "trained": trained(sys.argv[2])}
    goldens = {name: errors(lib, make(ROWS * COLUMNS)) for name, make in data.items()}
    text = json.dumps(goldens, indent=2) + "\n"
    Path(__file__).with_name("data").joinpath("quantize.json").write_text(text)


if __name__ == "__main__":
    main()
