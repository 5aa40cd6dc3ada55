"""What llama.cpp makes of smollm2-135m, teacher-forced and greedily.

    cargo xtask fixtures
    cargo run --release -p quarrel-model --example quantize -- \\
        target/fixtures/smollm2-135m.gguf target/smollm2-f32.gguf F32
    pip install llama-cpp-python==0.3.36 numpy
    python3 crates/model/tests/data/golden_smollm2.py target/fixtures target/smollm2-f32.gguf \\
        crates/model/tests/data/smollm2

The goldens are of the dequantised weights, so that no rounding of activations to
8 bits, which every engine does its own way, stands in them. How far llama.cpp's
own run of the quantised weights is from them is printed; the test compares with it.

forced.bin: 2048 little-endian records of (token u16, ids u16[4], logits f16[4]):
the first 2048 tokens of the WikiText-2 test text in four contexts of 512, and at
each position the four tokens with the largest logits after it.
greedy.txt: for each prompt a line of its ids, a line of 64 greedy ids, and a line
of how far each was ahead of the next best logit.
"""

import ctypes
import pathlib
import sys

import llama_cpp
import numpy as np

CONTEXT = 512
CHUNKS = 4
PROMPTS = ["The capital of France is", "Once upon a time, there was a", "def fibonacci(n):\n", "Water boils when"]


class Model:
    def __init__(self, path):
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = CONTEXT
        self.context = llama_cpp.llama_init_from_model(self.model, params)

    def tokens(self, text):
        text = text.encode()
        ids = (llama_cpp.llama_token * (len(text) + 8))()
        n = llama_cpp.llama_tokenize(self.vocab, text, len(text), ids, len(ids), False, False)
        return list(ids[:n])

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def logits(self, ids, start):
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i] = token
            batch.pos[i] = start + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = 1
        if llama_cpp.llama_decode(self.context, batch) != 0:
            raise SystemExit("the batch does not run")
        n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)
        rows = ctypes.cast(llama_cpp.llama_get_logits(self.context), ctypes.POINTER(ctypes.c_float))
        rows = np.ctypeslib.as_array(rows, (len(ids), n_vocab)).copy()
        llama_cpp.llama_batch_free(batch)
        return rows


def top(rows, n):
    ids = np.argsort(-rows, axis=1, kind="stable")[:, :n]
    return ids, np.take_along_axis(rows, ids, axis=1)


def forced(model, tokens):
    rows = []
    for start in range(0, len(tokens), CONTEXT):
        model.clear()
        rows.append(model.logits(tokens[start : start + CONTEXT], 0))
    return np.concatenate(rows)


def greedy(model, file):
    for prompt in PROMPTS:
        model.clear()
        ids = model.tokens(prompt)
        row, position, chosen, ahead = model.logits(ids, 0)[-1:], len(ids), [], []
        for _ in range(64):
            best, logits = top(row, 2)
            chosen.append(int(best[0, 0]))
            ahead.append(float(logits[0, 0] - logits[0, 1]))
            row = model.logits(chosen[-1:], position)
            position += 1
        print(*ids, file=file)
        print(*chosen, file=file)
        print(*(f"{x:.4f}" for x in ahead), file=file)


def main():
    fixtures, exact, out = map(pathlib.Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    model = Model(exact)
    text = (fixtures / "wikitext-2-test.txt").read_text()
    tokens = model.tokens(text[:20000])[: CONTEXT * CHUNKS]
    records = np.zeros(len(tokens), dtype=[("token", "<u2"), ("ids", "<u2", 4), ("logits", "<f2", 4)])
    records["token"] = tokens
    ids, logits = top(forced(model, tokens), 4)
    records["ids"], records["logits"] = ids, logits
    (out / "forced.bin").write_bytes(records.tobytes())
    with open(out / "greedy.txt", "w") as file:
        greedy(model, file)
    quantised = forced(Model(fixtures / "smollm2-135m.gguf"), tokens)
    agree = (quantised.argmax(axis=1) == ids[:, 0]).mean()
    differences = np.abs(np.take_along_axis(quantised, ids, axis=1) - logits)
    print(f"quantised: {agree:.4f} agree, mean {differences.mean():.4f}, p99 {np.quantile(differences, 0.99):.4f}")


main()
