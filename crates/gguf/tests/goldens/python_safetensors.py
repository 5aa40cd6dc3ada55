"""Writes python_safetensors.bin with the reference implementation:

    pip install numpy ml_dtypes safetensors==0.8.0 && python crates/gguf/tests/goldens/python_safetensors.py
"""

import pathlib

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

numbers = np.arange(12, dtype=np.float32) - 5.5
save_file(
    {
        "model.embed_tokens.weight": numbers.reshape(4, 3),
        "model.norm.weight": numbers[:3].astype(np.float16),
        "lm_head.weight": numbers.reshape(2, 3, 2).astype(ml_dtypes.bfloat16),
        "scale": np.array(0.25, dtype=np.float32),
    },
    pathlib.Path(__file__).with_suffix(".bin"),
    metadata={"format": "pt"},
)
