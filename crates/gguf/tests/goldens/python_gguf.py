"""Writes python_gguf.bin with PyPI gguf's writer, and python_gguf.txt with what
its reader finds in it:

    pip install gguf==0.19.0 && python crates/gguf/tests/goldens/python_gguf.py

Each line of the text is `key types values` or `name format shape bytes`; floats
are their bits, strings and tensors' data their bytes, all in hexadecimal.
"""

import pathlib
import struct

import gguf
import numpy as np
from gguf import GGUFValueType as Type

HERE = pathlib.Path(__file__).parent
LIMITS = {
    Type.UINT8: [0, 2**8 - 1],
    Type.INT8: [-(2**7), 2**7 - 1],
    Type.UINT16: [0, 2**16 - 1],
    Type.INT16: [-(2**15), 2**15 - 1],
    Type.UINT32: [0, 2**32 - 1],
    Type.INT32: [-(2**31), 2**31 - 1],
    Type.UINT64: [0, 2**64 - 1],
    Type.INT64: [-(2**63), 2**63 - 1],
    Type.FLOAT32: [-0.0, 3.5, float("inf"), float("nan"), 1e-45],
    Type.FLOAT64: [-0.0, 0.1, float("-inf"), float("nan"), 5e-324],
    Type.BOOL: [False, True],
    Type.STRING: ["", "plain", "Grüße, 世界 🦀", "nul\0 and\nnewline"],
}


def write(path):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(64)
    for value_type, values in LIMITS.items():
        for i, value in enumerate(values):
            writer.add_key_value(f"one.{value_type.name}.{i}", value, value_type)
        writer.add_key_value(f"many.{value_type.name}", values, Type.ARRAY, sub_type=value_type)
    writer.add_key_value("nested", [[1, -2], [3]], Type.ARRAY, sub_type=Type.ARRAY)
    writer.add_key_value("nested.deep", [[["a"], ["b", ""]], [["c"]]], Type.ARRAY, sub_type=Type.ARRAY)
    writer.add_key_value("ключ", 1, Type.UINT32)
    numbers = np.arange(24, dtype=np.float32)
    writer.add_tensor("f32.one", numbers[:3])
    writer.add_tensor("f32.four", numbers.reshape(2, 1, 3, 4))
    writer.add_tensor("f16", numbers.reshape(6, 4).astype(np.float16))
    writer.add_tensor("i64", numbers[:2].astype(np.int64))
    blocks = np.arange(3 * 36, dtype=np.uint8).reshape(3, 36)
    writer.add_tensor("q4_0", blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def show(part):
    """One value as the reader returns it: an array of one number, or a string's bytes."""
    value = part[0] if len(part) == 1 else None
    if isinstance(value, np.floating):
        return struct.pack(">f" if value.dtype == np.float32 else ">d", value).hex()
    return str(int(value))


def dump(path):
    reader = gguf.GGUFReader(path)
    for field in reader.fields.values():
        if field.name.startswith("GGUF."):
            continue
        is_text = field.types[-1] == Type.STRING
        values = [
            "x" + bytes(field.parts[i]).hex() if is_text else show(field.parts[i]) for i in field.data
        ]
        yield " ".join([field.name, ",".join(t.name for t in field.types), *values])
    for tensor in reader.tensors:
        shape = "x".join(str(dim) for dim in tensor.shape)
        yield f"{tensor.name} {tensor.tensor_type.name} {shape} {tensor.data.tobytes().hex()}"


write(HERE / "python_gguf.bin")
(HERE / "python_gguf.txt").write_text("\n".join(dump(HERE / "python_gguf.bin")) + "\n", encoding="utf-8")
