"""The proof of a vocabulary: llama.cpp, given the new file's header, must cut text up as the original tokenizer does.

It is made before any tensor is encoded, from the metadata alone. What ends llama.cpp's process (a token twice, no byte
tokens) has been refused when the vocabulary was read.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ggufrun.checkpoint.gguf.file import Value
from ggufrun.convert.vocab import pretokenizers
from ggufrun.convert.vocab.engine_tokenizer import SPM, CutOut, engine_tokenizer
from ggufrun.convert.vocab.probe import probe
from ggufrun.convert.vocab.vocabulary import Original
from ggufrun.errors import UnsupportedError

SHOWN = 60
"""Characters of a string, and ids, that an error shows."""

INVALID = (b"\xff", b"\xc3", b"a\x80b", b"\xe4\xbd", b"\xf0\x9f\x98", b"ok \xfe\xff\xfe\xff", b"\xed\xa0\x80")
"""Bytes that are no characters."""


@dataclass(frozen=True)
class Proof:
    """``strings`` were compared with the tokenizer called ``name``. ``loss``: what it does to text first and llama.cpp
    does not, in words, if anything. On ``differing`` of the strings they differ, because of the characters that
    ``approximate`` names, with which llama.cpp is known to go wrong. ``overruled`` are texts that
    the original cuts out of every text, and that llama.cpp takes for special tokens; strings with one are not compared.
    """

    strings: int
    name: str
    loss: str
    approximate: str = ""
    differing: int = 0
    overruled: tuple[str, ...] = ()


def prove(metadata: Mapping[str, Value], original: Original) -> Proof:
    """Compare the vocabulary in ``metadata`` with the original tokenizer.

    UnsupportedError shows the first string on which they differ, EngineError says why llama.cpp cannot load it.
    """
    compared = differing = 0
    with engine_tokenizer(metadata) as engine:
        # what the one cuts out of every text, and the other does not
        unlike = [text for text, kinds in engine.overruled.items() if CutOut.ALWAYS in kinds]
        ordinary = {text for text, (_, loaded) in engine.overruled.items() if loaded == CutOut.NEVER}
        special = [text for text, _ in original.added]
        for text, theirs in _plain(original, unlike):
            ours = engine.tokenize(text.encode(), False)
            compared += 1
            if ours == theirs:
                continue
            if not any(RISKY[kind](text) for kind in original.approximate):
                cause = next((token for token in special if token in text), None)
                raise _differ(original, text, ours, theirs, _advice(engine.kind, cause))
            differing += 1
        for token, text, theirs in _special(original):
            if token in ordinary:
                continue
            ours = engine.tokenize(text.encode(), True)
            compared += 1
            if ours != theirs:
                raise _differ(original, text, ours, theirs, _advice(engine.kind, token))
        if engine.kind == SPM:
            for data in INVALID:
                compared += 1
                if engine.detokenize(engine.tokenize(data, False)).lstrip(b" ") != data:
                    raise UnsupportedError(
                        f"the GGUF's vocabulary does not give the bytes {data!r} back", "use the model's own tokenizer"
                    )
        overruled = tuple(text for text, kinds in engine.overruled.items() if kinds == (CutOut.ALWAYS, CutOut.PARSED))
    approximate = " and ".join(original.approximate) if differing else ""
    return Proof(compared, original.name, original.loss, approximate, differing, overruled)


def _plain(original: Original, unlike: Collection[str]) -> Iterator[tuple[str, list[int]]]:
    """Text as llama.cpp gets it, and what the original makes of it, special tokens being text like any other; none that
    holds one of the texts ``unlike``."""
    ignored = (*original.ignored, *unlike)
    texts = [text for text in probe() if not any(part in text for part in ignored)]
    normalize = original.normalize or (lambda text: text)
    for text, theirs in zip(texts, original.encode(texts, False), strict=True):
        given = normalize(text)
        if given or not text:
            yield given, theirs


def _special(original: Original) -> Iterator[tuple[str, str, list[int]]]:
    """Every added token, alone and within a text where the original finds it there: token, text, ids."""
    alone = [text for text, _ in original.added]
    if not original.known:
        first, last = original.encode(["a", "1"], False)
        for text, number in original.added:
            yield text, text, [number]
            yield text, f"a{text}1", [*first, number, *last]
        return
    after = "1" if original.prefixed else ""
    yield from zip(alone, alone, original.encode(alone, True), strict=True)
    within = [f"a{text}{after}" for text in alone]
    for (token, number), text, theirs in zip(original.added, within, original.encode(within, True), strict=True):
        if number in theirs:
            yield token, text, theirs


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


def _advice(kind: int, token: str | None) -> str:
    """What to do about a difference, which is due to the special token ``token``, if any."""
    if token is not None:
        return (
            f"compare what the tokenizer files say of the token {token[:SHOWN]!r} with the published ones, or write "
            "the file all the same with --no-verify"
        )
    if kind == SPM:
        return "use the model's own tokenizer.model, or write the file all the same with --no-verify"
    return "name the right splitting with --pretokenizer, or write the file all the same with --no-verify"


def _differ(original: Original, text: str, ours: Sequence[int], theirs: Sequence[int], advice: str) -> UnsupportedError:
    shown = repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")
    at = next((n for n, (one, two) in enumerate(zip(ours, theirs, strict=False)) if one != two), 0)
    start = max(0, min(at - 5, SHOWN))
    return UnsupportedError(
        f"the GGUF's vocabulary cuts {shown} into {list(ours[start : start + SHOWN])}, "
        f"{original.name} into {list(theirs[start : start + SHOWN])}",
        advice,
    )
