"""Golden logits of the tiny models, by llama.cpp.

    cargo run -p quarrel-model --example tiny_models -- target/tiny
    pip install llama-cpp-python==0.3.36
    python3 crates/model/tests/data/golden_tiny.py target/tiny crates/model/tests/data/tiny

For each model: the 40 tokens of tokens.txt in one batch on one thread, KV cache
in f32, flash attention off, context 64. Of each position's 288 logits every
6th is kept: NAME.f32 holds [40, 48] little-endian floats.
llama-window has none: llama.cpp gives the llama architecture no window.
"""

import ctypes
import pathlib
import sys

import llama_cpp
import numpy as np

STRIDE = 6


def logits(path, tokens):
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise SystemExit(f"{path} does not load")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = 64
    params.n_batch = params.n_ubatch = 64
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = 0  # GGML_TYPE_F32
    params.flash_attn_type = 0
    context = llama_cpp.llama_init_from_model(model, params)
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i] = token
        batch.pos[i] = i
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = 0
        batch.logits[i] = 1
    if llama_cpp.llama_decode(context, batch) != 0:
        raise SystemExit(f"{path} does not run")
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    rows = llama_cpp.llama_get_logits(context)
    result = np.ctypeslib.as_array(ctypes.cast(rows, ctypes.POINTER(ctypes.c_float)), (len(tokens), n_vocab)).copy()
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return result


def main():
    models, out = map(pathlib.Path, sys.argv[1:])
    tokens = [int(line) for line in (models / "tokens.txt").read_text().split()]
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(models.glob("*.gguf")):
        if path.stem == "llama-window":
            continue
        rows = logits(path, tokens)[:, ::STRIDE].astype("<f4")
        if not np.isfinite(rows).all():
            raise SystemExit(f"{path}: logits are not finite")
        (out / f"{path.stem}.f32").write_bytes(rows.tobytes())
        print(f"{path.stem}: {rows.shape}, standard deviation {rows.std():.3f}", file=sys.stderr)


main()
