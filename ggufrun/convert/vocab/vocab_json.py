"""``vocab.json`` and ``merges.txt``: byte-level BPE as it was published before tokenizer.json.

The two files hold tokens and merges, but not how text is split: that, and the special tokens, are the tokenizer class's
to say. Put together they make the tokenizer.json that transformers would write.

Source: the classes ``GPT2Tokenizer``, ``CodeGenTokenizer`` and ``Qwen2Tokenizer`` of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ggufrun.convert.vocab import pretokenizers
from ggufrun.errors import FormatError, UnsupportedError


@dataclass(frozen=True)
class TokenizerClass:
    """``rule`` is the regular expression of a splitting step before the bytes, or empty for GPT-2's own."""

    rule: str
    composes: bool
    special: tuple[str, ...] = ("<|endoftext|>",)


GPT2 = TokenizerClass("", False)
QWEN2 = TokenizerClass(pretokenizers.QWEN2.removeprefix("Split "), True)

CLASSES = {"GPT2Tokenizer": GPT2, "CodeGenTokenizer": GPT2, "Qwen2Tokenizer": QWEN2}
ARCHITECTURES = {
    "GPT2LMHeadModel": GPT2,
    "PhiForCausalLM": GPT2,
    "Qwen2ForCausalLM": QWEN2,
    "Qwen2MoeForCausalLM": QWEN2,
    "Qwen3ForCausalLM": QWEN2,
    "Qwen3MoeForCausalLM": QWEN2,
}
"""Where tokenizer_config.json names no class: the one that models of an architecture have."""


def assembled(
    vocabulary: Mapping[str, Any], merges: str, settings: Mapping[str, Any], architectures: Sequence[Any]
) -> dict[str, Any]:
    """The two files, by what tokenizer_config.json and config.json say, as a tokenizer.json.

    UnsupportedError for a class of tokenizers whose splitting is not known.
    """
    name = settings.get("tokenizer_class")
    known = CLASSES.get(str(name).removesuffix("Fast")) if name else None
    if name is None:
        known = next((ARCHITECTURES[item] for item in architectures if item in ARCHITECTURES), None)
    if known is None:
        raise UnsupportedError(
            f"vocab.json and merges.txt do not say how text is split, and {name or 'config.json'} is not known to",
            "put the model's tokenizer.json next to them",
        )
    steps: list[dict[str, Any]] = []
    if known.rule:
        steps.append({"type": "Split", "pattern": {"Regex": known.rule}, "behavior": "Isolated", "invert": False})
    space = settings.get("add_prefix_space") is True
    bytes_step = {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": True, "use_regex": not known.rule}
    return {
        "version": "1.0",
        "added_tokens": [_added(text, vocabulary[text]) for text in known.special if text in vocabulary],
        "normalizer": {"type": "NFC"} if known.composes else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*steps, bytes_step]},
        "decoder": bytes_step,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": _pairs(merges)},
    }


def _added(text: str, number: Any) -> dict[str, Any]:
    return {"id": number, "content": text, "special": True, "normalized": False} | dict.fromkeys(
        ("single_word", "lstrip", "rstrip"), False
    )


def _pairs(text: str) -> list[list[str]]:
    """One merge a line; the first line may name a version."""
    pairs = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        parts = line.rstrip("\r").split(" ")
        if len(parts) != 2:
            raise FormatError(f"merges.txt has no merge in line {number}: {line[:40]!r}", "download it again")
        pairs.append(parts)
    return pairs
