"""The strings that are compared, in groups by what could come between a tokenizer and llama.cpp's. Needs no package."""

from __future__ import annotations

import hashlib
import itertools
import json
import unicodedata
from collections.abc import Callable, Sequence

from ggufrun.convert.vocab.probe import probe

SAMPLES = 16
"""So many of the strings have their ids recorded one by one."""

CONVERSATIONS = (
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
    "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
    "[INST] Hi [/INST] Hello</s>[INST] 你好 [/INST]",
    "<｜User｜>Hi<｜Assistant｜>Hello<｜end▁of▁sentence｜>",
    "<|start|>user<|message|>Hi<|end|><|start|>assistant",
    "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi<|END_OF_TURN_TOKEN|>",
)
"""Text with special tokens in it, of several families: to each of the others it is plain text."""

Encode = Callable[[Sequence[str]], list[list[int]]]


def group(text: str) -> str:
    """What is special about a text, a letter each: it is not in composed form, it has combining marks, letters beyond
    ASCII that have case, capitals within words, a space in front, or an end of text that llama.cpp knows by its text.
    Empty for nothing."""
    kinds = [unicodedata.category(char) for char in text]
    pairs = itertools.pairwise(kinds)
    found = {
        "n": unicodedata.normalize("NFC", text) != text,
        "m": any(kind[0] == "M" for kind in kinds),
        "c": any(kind in ("Lu", "Ll", "Lt") and not char.isascii() for kind, char in zip(kinds, text, strict=True)),
        "k": any(one[0] == "L" and one not in ("Lu", "Lt") and two in ("Lu", "Lt") for one, two in pairs),
        "f": text.startswith(" "),
        "e": "</s>" in text,
    }
    return "".join(letter for letter, holds in found.items() if holds)


def digests(encode: Encode) -> dict[str, str]:
    """A digest of the ids of every group of strings."""
    groups: dict[str, list[list[int]]] = {}
    texts = probe()
    for text, ids in zip(texts, encode(texts), strict=True):
        groups.setdefault(group(text), []).append(ids)
    return {letters: digest(ids) for letters, ids in sorted(groups.items())}


def samples() -> tuple[str, ...]:
    """Some of the strings: lines and mixtures."""
    texts = probe()
    return texts[15 : len(texts) : len(texts) // SAMPLES][:SAMPLES]


def digest(found: object) -> str:
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]
