"""Golden logits of the tiny models in Hugging Face layout, by transformers.

    cargo run -p quarrel-model --example tiny_models -- target/tiny
    pip install torch==2.15.0 transformers==5.23.0
    python3 crates/model/tests/data/golden_hf.py target/tiny crates/model/tests/data/hf

The 40 tokens of tokens.txt in float32 with eager attention; of each position's
288 logits every 6th is kept: NAME.f32 holds [40, 48] little-endian floats.
"""

import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM

STRIDE = 6


def main():
    models, out = map(pathlib.Path, sys.argv[1:])
    tokens = [int(line) for line in (models / "tokens.txt").read_text().split()]
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for path in sorted(path.parent for path in models.glob("*/config.json")):
        model, info = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        if info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"]:
            raise SystemExit(f"{path}: {info}")
        with torch.no_grad():
            logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
        rows = logits[:, ::STRIDE].numpy().astype("<f4")
        (out / f"{path.name}.f32").write_bytes(rows.tobytes())
        print(f"{path.name}: {rows.shape}, standard deviation {rows.std():.3f}", file=sys.stderr)


main()
