"""Makes the files beside it: small tokenizers and the ids they give.

    pip install tokenizers==0.23.3
    python make.py
"""

import json
import pathlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog doesn't mind; it's used to foxes by now.",
    "It was 1984, or 2024: numbers like 12345 and 3.14159 come in groups of digits. They're everywhere!",
    "def add(a, b):\n    return a + b\n\n\nclass Point:\n    def __init__(self, x, y):\n        self.x = x\n",
    "Über die Brücke läuft ein größerer Hund. Привет, мир! 你好，世界。こんにちは世界 안녕하세요 세계",
    "I'll we've they'd I'M DON'T HelloWorld camelCase snake_case UPPER lower",
] * 8
TEXTS = [
    "", " ", "  ", "\n", "\n\n  \n", "Hello world", " Hello  world ", "The fox doesn't, IT'S the dog's",
    "1234567 3.14 ½ Ⅷ", "def f(x):\n\treturn x  # done\n", "Привет, мир! 你好世界 안녕", "e\u0301 vs é, n\u0303", "🦙👩‍👩‍👧 ok\u200b",
    "<s>the</s> dog<|im_end|>\n", "<tool>  x <tool>", "a<mask>b  <mask>  c", "HelloWorld's ABCdef", "\u3000\u00a0x", "x" * 40,
    "\x00\x7f\x80", "the the the dog",
]
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
QWEN2 = CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN2.replace(r"\p{N}| ?", r"\p{N}{1,3}| ?")
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_end|>"]


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), BYTES])


def byte_level(pre_tokenizer, normalizer=None, template=False):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return finish(tokenizer, template)


def byte_fallback(normalizer, pre_tokenizer):
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    special = SPECIAL + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=460, special_tokens=special, limit_alphabet=90, show_progress=False)
    # Word by word, so that merges are of words as in real vocabularies.
    tokenizer.train_from_iterator((word for text in CORPUS for word in text.split()), trainer)
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = [t for t in document["added_tokens"] if not t["content"].startswith("<0x")]
    return finish(Tokenizer.from_str(json.dumps(document)), template=True)


def finish(tokenizer, template):
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True)])
    if template:
        start = tokenizer.token_to_id("<s>")
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", start)])
    return tokenizer


def main():
    escape = normalizers.Replace(" ", "▁")
    prepend = normalizers.Sequence([normalizers.Prepend("▁"), escape])
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made = {
        "gpt2": byte_level(GPT2),
        "smollm": byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2])),
        "qwen2": byte_level(split(QWEN2), normalizer=normalizers.NFC()),
        "llama3": byte_level(split(LLAMA3), template=True),
        "llama2": byte_fallback(prepend, None),
        "gemma": byte_fallback(escape, pre_tokenizers.Split(" ", "merged_with_previous")),
        "metaspace": byte_fallback(None, metaspace),
    }
    for name, tokenizer in made.items():
        document = json.loads(tokenizer.to_str())
        if name == "llama3":
            document["model"]["ignore_merges"] = True
            tokenizer = Tokenizer.from_str(json.dumps(document))
        expected = [[text, tokenizer.encode(text).ids] for text in TEXTS]
        both = {"tokenizer": document, "expected": expected}
        text = json.dumps(both, ensure_ascii=False, separators=(",", ":"))
        (HERE / f"{name}.json").write_text(text + "\n", encoding="utf-8")


main()
