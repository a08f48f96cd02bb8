"""Answers that keep to a grammar in GBNF, llama.cpp's notation: a token that does not fit is never chosen."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ggufrun.engine.sampling.ambiguity import MOST, widest
from ggufrun.engine.sampling.grammar_sampler import TOKEN_DATA, GrammarSampler, candidates
from ggufrun.engine.sampling.thinking import Gate, Thinking
from ggufrun.engine.vocabulary import Vocab
from ggufrun.errors import EngineError, FormatError
from ggufrun.native.library import llama

MAX_BYTES = 1 << 20
"""Size of a grammar."""

MAX_DEPTH = 200
"""Parentheses within parentheses; llama.cpp reads them by recursion, and its stack is no larger than others."""

MAX_REPEATS = 2000
"""The count in ``{m,n}``; llama.cpp writes every repetition out, and a lower count above the higher one without end."""

PART = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*|\{[^}\n]*\}?|.', re.DOTALL)
"""A literal, a class of characters, a comment, a repetition, or any other character."""


class Grammar:
    """A grammar and how far the answer has come in it. It begins where ``thinking``, if there is any, has ended.

    Raises FormatError, with the line, for a text that is not a grammar.
    """

    def __init__(self, vocab: Vocab, text: str, thinking: Thinking | None = None) -> None:
        self._vocab = vocab
        check(text)
        source = text.encode("utf-8", "surrogateescape")
        with _heard() as heard:
            self._sampler = GrammarSampler(vocab, text)
        if self._sampler.failure is not None:
            self._sampler.close()
            raise FormatError(_why(text, heard[0], self._sampler.failure), "see llama.cpp's grammars/README.md")
        # Candidates, made once: ids never change, logits are copied in for every token.
        self._data = np.zeros(vocab.size, TOKEN_DATA)
        self._ids = np.arange(vocab.size, dtype=np.int32)
        # a grammar that describes the thoughts itself has the whole answer
        described = thinking is not None and any(span.closing in source for span in thinking.spans)
        self._gate = Gate(thinking) if thinking is not None and not described else None
        self._held: list[int] = []

    def sample(self, chain: Any, logits: Any) -> int:
        """The token that ``chain`` draws from ``logits`` (a ``float *``) if it fits, else drawn again from those that
        do, as ``common_sampler_sample`` does it. The chain and the grammar accept it.
        """
        token, _ = self._draw(chain, logits, fitting=False)
        if self._gate is not None and not self._gate.passed:
            passed = self._before_grammar(self._gate, chain, logits, token)
            if passed is not None:
                return passed
        if not self._sampler.fits(token):
            token, logit = self._draw(chain, logits, fitting=True)
            if logit == -math.inf or not self._sampler.fits(token):
                # Accepting it would end the process.
                raise EngineError("no token fits the grammar here", "change the grammar, or allow more tokens")
        self._sampler.accept(token)
        llama().llama_sampler_accept(chain, token)
        return token

    def _before_grammar(self, gate: Gate, chain: Any, logits: Any, token: int) -> int | None:
        """``token`` or another, accepted, as long as the model thinks or begins to; None once the grammar begins."""
        vocab = self._vocab
        # an answer that ends within its thoughts has ended
        ends = gate.thinks and vocab.is_eog(token)
        piece = vocab.piece(token, special=True)
        if not ends and not gate.admits(piece):
            if self._replay():
                gate.close()
                return None
            # a mark was begun that no answer begins with: the rest of the mark has to follow
            barred = [other for other in range(vocab.size) if not gate.admits(vocab.piece(other, special=True))]
            token, logit = self._draw(chain, logits, fitting=False, barred=barred)
            if logit == -math.inf:
                raise EngineError("no token fits the grammar here", "change the grammar, or allow more tokens")
            piece = vocab.piece(token, special=True)
        if not ends:
            gate.see(piece)
            self._held = [*self._held, token] if gate.partial else []
        llama().llama_sampler_accept(chain, token)
        return token

    def _replay(self) -> bool:
        """Let the grammar accept what looked like the beginning of a mark; False if it is not an answer's beginning."""
        held, self._held = self._held, []
        for token in held:
            if not self._sampler.fits(token):
                self._held = held
                self._sampler.reset()
                return False
            self._sampler.accept(token)
        return True

    def _draw(self, chain: Any, logits: Any, *, fitting: bool, barred: Sequence[int] = ()) -> tuple[int, float]:
        self._data["id"] = self._ids
        self._data["logit"] = np.ctypeslib.as_array(logits, (len(self._ids),))
        self._data["logit"][list(barred)] = -math.inf
        self._data["p"] = 0.0
        if fitting:
            self._sampler.apply(self._data)
        array = candidates(self._data)
        llama().llama_sampler_apply(chain, ctypes.byref(array))
        if not 0 <= array.selected < array.size:
            raise EngineError("the samplers left no token", "loosen the sampling settings")
        chosen = array.data[array.selected]
        return int(chosen.id), float(chosen.logit)

    def reset(self) -> None:
        """Back to the beginning."""
        self._sampler.reset()
        self._held = []
        if self._gate is not None:
            self._gate.restart()

    def close(self) -> None:
        """Free it. Closing twice is fine."""
        self._sampler.close()


def check(text: str) -> None:
    """Refuse what llama.cpp's parser would not survive. Raises FormatError with the line."""
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise FormatError("the grammar is longer than a megabyte", "give a smaller one")
    if "\0" in text:
        raise FormatError("the grammar holds a zero byte", "write it as text")
    depth, line = 0, 1
    for match in PART.finditer(text):
        part = match[0]
        depth += (part == "(") - (part == ")")
        if depth > MAX_DEPTH:
            raise FormatError(f"the grammar nests over {MAX_DEPTH} parentheses in line {line}", "name its parts")
        if part.startswith("{"):
            _check_count(part, line)
        line += part.count("\n")
    rule, ways = widest(text)
    if ways > MOST:
        raise FormatError(f"the grammar can continue in over {MOST} ways where {rule} begins", "let them differ sooner")


def _check_count(part: str, line: int) -> None:
    low, _, high = part.strip("{}").partition(",")
    try:
        first = int(low or "0")
        last = int(high) if high.strip() else first
    except ValueError:
        raise FormatError(f"the grammar is broken in line {line}: {part} is not a repetition", "write {2,5}") from None
    if not 0 <= first <= last <= MAX_REPEATS:
        raise FormatError(
            f"the grammar is broken in line {line}: {part} is not a possible repetition",
            f"the lower count first, and none above {MAX_REPEATS}",
        )


@contextlib.contextmanager
def _heard() -> Iterator[list[str]]:
    """What C code writes straight to stderr, which is where llama.cpp's grammar parser complains."""
    heard: list[str] = []
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        try:
            os.dup2(file.fileno(), 2)
            yield heard
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            heard.append(file.read().decode("utf-8", "replace"))


def _why(text: str, heard: str, default: str) -> str:
    """llama.cpp ends its message with all that it has not read; the line where that begins says as much."""
    message = heard.partition("error parsing grammar: ")[2]
    if not message:
        return f"the grammar is broken: {default}"
    # After the message comes the grammar itself.
    message = message.strip().removesuffix(text.strip()).rstrip() + " "
    what, at, rest = message.partition(" at ")
    what = what.strip()
    if what == "unexpected end of input":
        rest = ""
    elif not at:
        word = re.search(r"'([^']*)'", what)
        place = re.search(rf"(?<![\w-]){re.escape(word[1])}(?![\w-])", text) if word else None
        line = f" in line {text[: place.start()].count(chr(10)) + 1}" if place else ""
        return f"the grammar is broken{line}: {what}"
    line_number = text.rstrip().removesuffix(rest.strip()).count("\n") + 1
    shown = rest.strip().splitlines()[0][:40] if rest.strip() else "the end"
    return f"the grammar is broken in line {line_number}: {what} at {shown}"
