"""llama.cpp's tokenizer for a file that is not written yet, from its metadata alone.

What the loader makes of a token is asked, not assumed: it has lists of texts that it takes for special tokens, or for
ordinary ones, whatever the file says of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import gguf

from ggufrun.checkpoint.gguf import file
from ggufrun.checkpoint.gguf.file import Header, Value
from ggufrun.errors import EngineError
from ggufrun.native.library import llama_without_devices
from ggufrun.native.log import captured_log
from ggufrun.native.signals import defer_signals
from ggufrun.native.signatures import Llama

WHY = "error loading model"

SPM = 1
"""``LLAMA_VOCAB_TYPE_SPM``."""

UNKNOWN, CONTROL, USER_DEFINED = 1 << 0, 1 << 3, 1 << 4
"""Of ``enum llama_token_attr``."""

Tokenize = Callable[[bytes, bool], list[int]]


class CutOut(Enum):
    """When llama.cpp looks for a token's text as a whole, before it cuts up the rest."""

    ALWAYS = "in every text"
    PARSED = "where special tokens are parsed"
    NEVER = "nowhere"


@dataclass(frozen=True)
class EngineTokenizer:
    """``tokenize`` makes ids of bytes, parsing special tokens if told to, ``detokenize`` bytes of ids. ``kind`` is
    llama.cpp's number of the sort of vocabulary. ``overruled`` are texts of tokens that the loader takes for something
    else than the metadata says: what they are written as, and what they are to it.
    """

    tokenize: Tokenize
    detokenize: Callable[[list[int]], bytes]
    kind: int
    overruled: Mapping[str, tuple[CutOut, CutOut]]


@contextlib.contextmanager
def engine_tokenizer(metadata: Mapping[str, Value]) -> Iterator[EngineTokenizer]:
    """llama.cpp's tokenizer for a header. EngineError says why it cannot be loaded."""
    api = llama_without_devices()
    with captured_log() as log:
        model = _load(api, metadata)
    if not model:
        raise EngineError(
            f"llama.cpp cannot load the vocabulary: {_reason(''.join(log))}",
            "use the tokenizer that the checkpoint was trained with",
        )
    try:
        vocab = api.llama_model_get_vocab(model)
        yield EngineTokenizer(
            _tokenizer(api, vocab),
            _detokenizer(api, vocab),
            int(api.llama_vocab_type(vocab)),
            _overruled(api, vocab, Header(dict(metadata), ())),
        )
    finally:
        api.llama_model_free(model)


def _load(api: Llama, metadata: Mapping[str, Value]) -> Any:
    whole = {key: value for key, value in metadata.items() if not key.startswith("split.")}
    with tempfile.TemporaryDirectory(prefix="ggufrun-") as folder:
        path = Path(folder) / "vocabulary.gguf"
        path.write_bytes(file.serialize(Header(whole, ())))
        params = api.llama_model_default_params()
        params.vocab_only = True
        with defer_signals():
            return api.llama_model_load_from_file(os.fsencode(path), params)


def _tokenizer(api: Llama, vocab: Any) -> Tokenize:
    capacity = 4096
    buffer = (ctypes.c_int32 * capacity)()

    def tokenize(text: bytes, special: bool) -> list[int]:
        nonlocal capacity, buffer
        count = api.llama_tokenize(vocab, text, len(text), buffer, capacity, False, special)
        if count < 0:
            capacity = -count
            buffer = (ctypes.c_int32 * capacity)()
            count = api.llama_tokenize(vocab, text, len(text), buffer, capacity, False, special)
        return buffer[:count]

    return tokenize


def _detokenizer(api: Llama, vocab: Any) -> Callable[[list[int]], bytes]:
    buffer = ctypes.create_string_buffer(1024)

    def detokenize(ids: list[int]) -> bytes:
        found = b""
        for number in ids:
            length = api.llama_token_to_piece(vocab, number, buffer, len(buffer), 0, True)
            found += buffer.raw[: max(length, 0)]
        return found

    return detokenize


def _reason(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if WHY in line]
    return lines[0].partition(f"{WHY}: ")[2] if lines else "no reason given"


def _overruled(api: Llama, vocab: Any, header: Header) -> dict[str, tuple[CutOut, CutOut]]:
    tokens, types = header.get("tokenizer.ggml.tokens"), header.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list) or not isinstance(types, list):
        return {}
    found = {}
    for number, (text, kind) in enumerate(zip(tokens, types, strict=False)):
        written, loaded = WRITTEN.get(kind, CutOut.NEVER), _cut_out(api.llama_vocab_get_attr(vocab, number))
        if written != loaded:
            found[text] = (written, loaded)
    return found


def _cut_out(attributes: int) -> CutOut:
    if attributes & (CONTROL | UNKNOWN):
        return CutOut.PARSED
    return CutOut.ALWAYS if attributes & USER_DEFINED else CutOut.NEVER


WRITTEN: Mapping[int, CutOut] = {
    int(gguf.TokenType.CONTROL): CutOut.PARSED,
    int(gguf.TokenType.UNKNOWN): CutOut.PARSED,
    int(gguf.TokenType.USER_DEFINED): CutOut.ALWAYS,
}
