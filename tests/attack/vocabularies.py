"""A small vocabulary of every kind that llama.cpp knows, all of one size: metadata under ``tokenizer.ggml``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gguf

from tests.families.family import VOCABULARY

Vocabulary = dict[str, Any]

NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6
"""``enum llama_token_type``."""

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def fill(tokens: list[str], piece: str) -> list[str]:
    """``tokens`` and as many numbered pieces as are missing."""
    return [*tokens, *(piece % number for number in range(VOCABULARY - len(tokens)))]


def sentencepiece() -> Vocabulary:
    tokens = fill(["<unk>", "<s>", "</s>", *BYTES, *"▁ehi"], "▁t%d")
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * (VOCABULARY - 259)]
    return {
        "model": "llama",
        "pre": "default",
        "tokens": tokens,
        "scores": [-float(number) for number in range(VOCABULARY)],
        "token_type": types,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        "add_bos_token": True,
    }


def alphabet() -> list[str]:
    """The characters that GPT-2's vocabularies write bytes with."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + number) for number in range(len(others))]


def bpe(pre: str) -> Vocabulary:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_pad|>"]
    pairs = [(left, right) for left in "aehistn" for right in "aehistno"]
    merged = [left + right for left, right in pairs][: VOCABULARY - 256 - len(special)]
    tokens = fill([*alphabet(), *merged, *special], "piece%d")
    types = [CONTROL if token in special else NORMAL for token in tokens]
    return {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": types,
        "merges": [f"{left} {right}" for left, right in pairs[: len(merged)]],
        "bos_token_id": tokens.index("<|endoftext|>"),
        "eos_token_id": tokens.index("<|im_end|>"),
    }


def wordpiece() -> Vocabulary:
    tokens = fill(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"▁{letter}" for letter in "abcdehi")], "t%d")
    return {
        "model": "bert",
        "pre": "default",
        "tokens": tokens,
        "token_type": [*[CONTROL] * 5, *[NORMAL] * (VOCABULARY - 5)],
        "padding_token_id": 0,
        "unknown_token_id": 1,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "seperator_token_id": 3,
        "mask_token_id": 4,
    }


def unigram() -> Vocabulary:
    return sentencepiece() | {"model": "t5", "unknown_token_id": 0, "add_eos_token": False}


def rwkv() -> Vocabulary:
    tokens = fill(["<s>", *(f"\\x{byte:02x}" for byte in range(256))], "t%d")
    types = [CONTROL, *[NORMAL] * (VOCABULARY - 1)]
    return {"model": "rwkv", "tokens": tokens, "token_type": types, "bos_token_id": 0, "eos_token_id": 0}


def plamo2() -> Vocabulary:
    special = ["<|plamo:unk|>", "<|plamo:bos|>", "<|plamo:eos|>", "<|plamo:pad|>"]
    tokens = fill([*special, *BYTES, *"▁ehi"], "t%d")
    types = [UNKNOWN, CONTROL, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * (VOCABULARY - 260)]
    return sentencepiece() | {"model": "plamo2", "tokens": tokens, "token_type": types, "pre": "default"}


PRETOKENIZERS = (
    "gpt-2", "llama-bpe", "qwen2", "deepseek-v3", "tekken", "kimi-k2", "gemma4", "glm4", "default", "hunyuan",
)  # fmt: skip

VOCABULARIES: dict[str, Callable[[], Vocabulary]] = {
    "sentencepiece": sentencepiece,
    "bpe": lambda: bpe("qwen2"),
    "wordpiece": wordpiece,
    "unigram": unigram,
    "rwkv": rwkv,
    "plamo2": plamo2,
    **{f"bpe-{pre}": (lambda pre=pre: bpe(pre)) for pre in PRETOKENIZERS},  # type: ignore[misc]
}


def write_to(name: str) -> Callable[[gguf.GGUFWriter], None]:
    """A stand-in for a checkpoint's tokenizer."""

    def write(writer: gguf.GGUFWriter) -> None:
        for key, value in VOCABULARIES[name]().items():
            full = f"tokenizer.ggml.{key}"
            if isinstance(value, list):
                writer.add_array(full, value)
            elif isinstance(value, bool):
                writer.add_bool(full, value)
            elif isinstance(value, int):
                writer.add_uint32(full, value)
            else:
                writer.add_string(full, value)

    return write
