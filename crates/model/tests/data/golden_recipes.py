"""Formats that llama-quantize chooses, for the shapes of four models.

    pip install gguf==0.19.0 numpy
    python3 crates/model/tests/data/golden_recipes.py LLAMA_QUANTIZE > crates/model/tests/data/recipes.txt

LLAMA_QUANTIZE is llama.cpp's program (here of llama-cpp-python 0.3.36's vendored
copy). The models are sparse files: names and shapes, no weights.
"""

import re
import subprocess
import sys
import tempfile

import gguf
import numpy as np

RECIPES = """F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K_S Q3_K_M Q3_K_L
Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K IQ4_NL""".split()

# architecture, layers, width, feed-forward width, heads, kv heads, experts, tied
MODELS = [
    ("llama", 30, 576, 1536, 9, 3, 0, True),  # SmolLM2-135M: rows that are no whole blocks of 256
    ("qwen2", 28, 1536, 8960, 12, 2, 0, True),  # Qwen2.5-1.5B
    ("llama", 32, 4096, 14336, 32, 8, 8, False),  # Mixtral-8x7B
    ("llama", 80, 8192, 28672, 64, 8, 0, False),  # Llama-2-70B
]


def shapes(layers, width, ff, heads, kv_heads, experts, tied):
    kv = width // heads * kv_heads
    result = [("token_embd.weight", (32000, width)), ("output_norm.weight", (width,))]
    if not tied:
        result.append(("output.weight", (32000, width)))
    stack = (experts,) if experts else ()
    suffix = "_exps" if experts else ""
    for i in range(layers):
        layer = [
            ("attn_norm", (width,)),
            ("attn_q", (width, width)),
            ("attn_k", (kv, width)),
            ("attn_v", (kv, width)),
            ("attn_output", (width, width)),
            ("ffn_norm", (width,)),
            ("ffn_gate" + suffix, (*stack, ff, width)),
            ("ffn_up" + suffix, (*stack, ff, width)),
            ("ffn_down" + suffix, (*stack, width, ff)),
        ]
        if experts:
            layer.append(("ffn_gate_inp", (experts, width)))
        result += [(f"blk.{i}.{name}.weight", shape) for name, shape in layer]
    return result


def write(path, architecture, layers, width, ff, heads, kv_heads, experts, tied):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(4096)
    writer.add_block_count(layers)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(ff)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(2)
    size = 0
    for name, shape in shapes(layers, width, ff, heads, kv_heads, experts, tied):
        nbytes = 4 * int(np.prod(shape))
        writer.add_tensor_info(name, shape, np.dtype(np.float32), nbytes)
        size += (nbytes + 31) // 32 * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with open(path, "r+b") as file:
        file.truncate(file.seek(0, 2) + size + 32)


def chosen(program, path, recipe):
    done = subprocess.run([program, "--dry-run", path, recipe], capture_output=True, text=True, errors="replace")
    lines = (done.stdout + done.stderr).splitlines()
    formats = {}
    for line in lines:
        found = re.match(r"\[ *\d+/ *\d+\] +(\S+) +- \[.*?\], type = +(\S+),(.*)", line)
        if found:
            name, was, rest = found.groups()
            to = re.search(r"\((\w+)\)\s*$", rest)
            formats[name] = (to.group(1) if to else was).upper()
    return formats


def runs(names):
    result = []
    for name in names:
        if result and result[-1][0] == name:
            result[-1][1] += 1
        else:
            result.append([name, 1])
    return " ".join(f"{name}*{count}" for name, count in result)


def main():
    print("# Made by golden_recipes.py: model = architecture, layers, heads, kv heads, experts;")
    print("# tensor = name and shape, innermost first; recipe = name and formats in that order.")
    for model in MODELS:
        architecture, layers, _, _, heads, kv_heads, experts, _ = model
        print("model", architecture, layers, heads, kv_heads, experts)
        listed = shapes(*model[1:])
        for name, shape in listed:
            print("tensor", name, *reversed(shape))
        with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
            write(file.name, *model)
            for recipe in RECIPES:
                formats = chosen(sys.argv[1], file.name, recipe)
                print("recipe", recipe, runs([formats[name] for name, _ in listed]))


main()
