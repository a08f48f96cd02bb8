"""Folders of tokenizer files as model families publish them, around one small byte-level vocabulary.

``data/merges.txt`` was trained once with the ``tokenizers`` package, without any splitting of words, so that a
difference in splitting shows in the tokens.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import pre_tokenizers

from tests.support.checkpoints import TOKENIZER

MERGES = [
    line.split() for line in (Path(__file__).parent.parent / "data" / "merges.txt").read_text("utf-8").splitlines()
]
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
SIZE = len(ALPHABET) + len(MERGES)

Json = dict[str, Any]


def byte_level(regex: bool = True) -> Json:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex}


def split(regex: str, behavior: str = "Isolated", invert: bool = False) -> Json:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def steps(*parts: Json) -> Json:
    return {"type": "Sequence", "pretokenizers": list(parts)}


DIGITS: Json = {"type": "Digits", "individual_digits": True}
QWEN2 = (
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)
QWEN35 = QWEN2.replace("]?\\p{L}+", "]?[\\p{L}\\p{M}]+").replace("[^\\s\\p{L}", "[^\\s\\p{L}\\p{M}")
LLAMA3 = QWEN2.replace("\\p{N}|", "\\p{N}{1,3}|", 1)
GPT4O = (
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)
TEKKEN = GPT4O.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace("{1,3}", "")
KIMI = "[\\p{Han}]+|" + GPT4O.replace("\\p{M}]", "\\p{M}&&[^\\p{Han}]]").replace("[\\r\\n/]", "[\\r\\n]")
YOUTU = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥\u3040-ゟ゠-ヿ]+"
DEEPSEEK3 = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
    " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)

PUBLISHED: dict[str, Json] = {
    "gpt-2": byte_level(),
    "starcoder": steps(DIGITS, byte_level()),
    "llama-3": steps(split(LLAMA3), byte_level(False)),
    "qwen2": steps(split(QWEN2), byte_level(False)),
    "qwen35": steps(split(QWEN35), byte_level(False)),
    "gpt-4o": steps(split(GPT4O, "Removed", True), byte_level(False)),
    "tekken": steps(split(TEKKEN), byte_level(False)),
    "kimi-k2": steps(split(KIMI), byte_level(False)),
    "deepseek-coder": steps(
        split("[\r\n]"),
        split("\\s?\\p{L}+"),
        split("\\s?\\p{P}+"),
        split("[一-龥ࠀ-一가-\ud7ff]+"),
        DIGITS,
        byte_level(False),
    ),
    "deepseek-v3": steps(split("\\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"), split(DEEPSEEK3), byte_level(False)),
    "youtu": steps(split(YOUTU), split(GPT4O.replace("{1,3}", "")), byte_level(False)),
    "bloom": steps(split(" ?[^(\\s|[.,!?…。，、।۔،])]+"), byte_level(False)),
}
"""The pre_tokenizer of published tokenizer.json files."""


def added(*texts: str, special: bool = True, first: int = SIZE, normalized: bool = False) -> list[Json]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": normalized, "special": special}
    return [{"id": number, "content": text, **flags} for number, text in enumerate(texts, first)]


def tokenizer_json(
    pre_tokenizer: Json, tokens: Sequence[Json] = (), nfc: bool = False, pairs: bool = True, **model: Any
) -> Json:
    """A byte-level BPE tokenizer.json."""
    vocabulary = {text: number for number, text in enumerate([*ALPHABET, *("".join(pair) for pair in MERGES)])}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(tokens),
        "normalizer": {"type": "NFC"} if nfc else None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": byte_level(),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": MERGES if pairs else [" ".join(pair) for pair in MERGES],
            **model,
        },
    }


def slow_files(*special: str) -> dict[str, Any]:
    """The same as vocab.json and merges.txt, with ``special`` tokens at the end of the vocabulary."""
    texts = [*ALPHABET, *("".join(pair) for pair in MERGES), *special]
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES)]
    return {"vocab.json": {text: number for number, text in enumerate(texts)}, "merges.txt": "\n".join(lines) + "\n"}


def rank_table() -> bytes:
    """The same vocabulary as tiktoken writes it: bytes first, then tokens in the order of their merges."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    byte_of = {chr(byte): byte for byte in plain} | {chr(0x100 + index): byte for index, byte in enumerate(rest)}
    texts = [bytes(byte_of[char] for char in "".join(pair)) for pair in MERGES]
    tokens = dict.fromkeys([bytes([byte]) for byte in range(256)] + texts)
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


def write_folder(folder: Path, config: Mapping[str, Any], files: Mapping[str, Any], spm: bool = False) -> Path:
    """A folder with a config.json and tokenizer files; ``spm`` adds the embedded model's tokenizer.model."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if spm:
        shutil.copy(TOKENIZER, folder)
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder
