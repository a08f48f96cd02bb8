"""The proof of a vocabulary: llama.cpp, given the new file's header, must cut text up as the original tokenizer does.

It is made before any tensor is encoded, from the metadata alone. What ends llama.cpp's process (a token twice, no byte
tokens) has been refused when the vocabulary was read.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufrun.checkpoint import gguffile
from ggufrun.checkpoint.gguffile import Header, Value
from ggufrun.convert.vocab import pretokenizers
from ggufrun.convert.vocab.probe import probe
from ggufrun.convert.vocab.vocabulary import Original
from ggufrun.errors import EngineError, UnsupportedError
from ggufrun.native.bindings import bindings
from ggufrun.native.signals import held

WHY = "error loading model"
SHOWN = 60
"""Characters of a string, and ids, that an error shows."""

INVALID = (b"\xff", b"\xc3", b"a\x80b", b"\xe4\xbd", b"\xf0\x9f\x98", b"ok \xfe\xff\xfe\xff", b"\xed\xa0\x80")
"""Bytes that are no characters."""

SPM = 1
"""``LLAMA_VOCAB_TYPE_SPM``."""

Tokenize = Callable[[bytes, bool], list[int]]


@dataclass(frozen=True)
class Proof:
    """``strings`` were compared with the tokenizer called ``name``. ``loss``: what it does to text first and llama.cpp
    does not, in words, if anything. On ``differing`` of the strings they differ, because of the characters that
    ``approximate`` names, with which llama.cpp is known to go wrong."""

    strings: int
    name: str
    loss: str
    approximate: str = ""
    differing: int = 0


def prove(metadata: Mapping[str, Value], original: Original) -> Proof:
    """Compare the vocabulary in ``metadata`` with the original tokenizer.

    UnsupportedError shows the first string on which they differ, EngineError says why llama.cpp cannot load it.
    """
    compared = differing = 0
    with _vocabulary(metadata) as (tokenize, detokenize, kind):
        for text, theirs in _plain(original):
            ours = tokenize(text.encode(), False)
            compared += 1
            if ours == theirs:
                continue
            if not any(RISKY[kind](text) for kind in original.approximate):
                raise _differ(original, text, ours, theirs)
            differing += 1
        for text, theirs in _special(original):
            ours = tokenize(text.encode(), True)
            compared += 1
            if ours != theirs:
                raise _differ(original, text, ours, theirs)
        if kind == SPM:
            for data in INVALID:
                compared += 1
                if detokenize(tokenize(data, False)).lstrip(b" ") != data:
                    raise UnsupportedError(
                        f"the GGUF's vocabulary does not give the bytes {data!r} back", "use the model's own tokenizer"
                    )
    approximate = " and ".join(original.approximate) if differing else ""
    return Proof(compared, original.name, original.loss, approximate, differing)


def _plain(original: Original) -> Iterator[tuple[str, list[int]]]:
    """Text as llama.cpp gets it, and what the original makes of it, special tokens being text like any other."""
    texts = [text for text in probe() if not any(ignored in text for ignored in original.ignored)]
    normalize = original.normalize or (lambda text: text)
    for text, theirs in zip(texts, original.encode(texts, False), strict=True):
        given = normalize(text)
        if given or not text:
            yield given, theirs


def _special(original: Original) -> Iterator[tuple[str, list[int]]]:
    """Every added token alone, and within a text where the original finds it there."""
    alone = [text for text, _ in original.added]
    if not original.known:
        first, last = original.encode(["a", "1"], False)
        for text, number in original.added:
            yield text, [number]
            yield f"a{text}1", [*first, number, *last]
        return
    after = "1" if original.prefixed else ""
    yield from zip(alone, original.encode(alone, True), strict=True)
    within = [f"a{text}{after}" for text in alone]
    for (_, number), text, theirs in zip(original.added, within, original.encode(within, True), strict=True):
        if number in theirs:
            yield text, theirs


def _has_mark(text: str) -> bool:
    return any(unicodedata.category(char).startswith("M") for char in text)


def _has_case_beyond_ascii(text: str) -> bool:
    return any(not char.isascii() and unicodedata.category(char) in ("Lu", "Ll", "Lt") for char in text)


def _has_capital_within(text: str) -> bool:
    """After a letter that is none."""
    kinds = map(unicodedata.category, text)
    return any(one[0] == "L" and one not in CAPITALS and two in CAPITALS for one, two in itertools.pairwise(kinds))


CAPITALS = ("Lu", "Lt")
RISKY: Mapping[str, Callable[[str], bool]] = {
    pretokenizers.MARKS: _has_mark,
    pretokenizers.CASED_BEYOND_ASCII: _has_case_beyond_ascii,
    pretokenizers.CAPITALS_WITHIN: _has_capital_within,
}
"""Does a text hold characters with which llama.cpp is known to go wrong?"""


def _differ(original: Original, text: str, ours: Sequence[int], theirs: Sequence[int]) -> UnsupportedError:
    shown = repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")
    at = next((n for n, (one, two) in enumerate(zip(ours, theirs, strict=False)) if one != two), 0)
    start = max(0, min(at - 5, SHOWN))
    return UnsupportedError(
        f"the GGUF's vocabulary cuts {shown} into {list(ours[start : start + SHOWN])}, "
        f"{original.name} into {list(theirs[start : start + SHOWN])}",
        "name the right splitting with --pretokenizer, or write the file all the same with --no-verify",
    )


@contextlib.contextmanager
def _vocabulary(metadata: Mapping[str, Value]) -> Iterator[tuple[Tokenize, Callable[[list[int]], bytes], int]]:
    """llama.cpp's tokenizer for a header: text to ids, ids to text, and its kind."""
    api = bindings()

    log: list[str] = []

    def append(_level: int, text: bytes, _data: ctypes.c_void_p) -> None:
        log.append(text.decode(errors="replace"))

    keep = api.llama_log_callback(append)
    previous, data = api.llama_log_callback(), ctypes.c_void_p()
    api.llama_log_get(ctypes.byref(previous), ctypes.byref(data))
    api.llama_log_set(keep, ctypes.c_void_p(0))
    model = None
    try:
        model = _load(api, metadata)
        if not model:
            raise EngineError(
                f"llama.cpp cannot load the vocabulary: {_reason(''.join(log))}",
                "use the tokenizer that the checkpoint was trained with",
            )
        vocab = api.llama_model_get_vocab(model)
        yield _tokenizer(api, vocab), _detokenizer(api, vocab), int(api.llama_vocab_type(vocab))
    finally:
        if model:
            api.llama_model_free(model)
        # the library must not be left with a callback that Python is about to collect
        api.llama_log_set(previous, data)


def _load(api: Any, metadata: Mapping[str, Value]) -> Any:
    whole = {key: value for key, value in metadata.items() if not key.startswith("split.")}
    with tempfile.TemporaryDirectory(prefix="ggufrun-") as folder:
        path = Path(folder) / "vocabulary.gguf"
        path.write_bytes(gguffile.serialize(Header(whole, ())))
        params = api.llama_model_default_params()
        params.vocab_only = True
        with held():
            return api.llama_model_load_from_file(os.fsencode(path), params)


def _tokenizer(api: Any, vocab: Any) -> Tokenize:
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


def _detokenizer(api: Any, vocab: Any) -> Callable[[list[int]], bytes]:
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
