"""A text as the chunks of tokens that a model is measured on, cut as llama.cpp's perplexity and imatrix programs do."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import numpy as np

from ggufrun.engine.model import Model
from ggufrun.engine.token_batch import Tokens
from ggufrun.errors import EngineError, UnsupportedError, UsageError


@dataclass(frozen=True)
class Text:
    """``chunks`` has the shape (chunks, length), int32; each starts with BOS if the model wants one, in the place of
    its first token. ``targets`` are the same tokens without that change.
    """

    chunks: Tokens
    targets: Tokens

    @property
    def length(self) -> int:
        """Tokens of a chunk."""
        return int(self.chunks.shape[1])

    def __len__(self) -> int:
        return len(self.chunks)


def cut_into_chunks(
    model: Model, text: str, length: int, limit: int | None = None, special: bool = False, skip: int = 0
) -> Text:
    """Tokenize ``text``, a whole file's, and cut it into chunks of ``length`` tokens, at most ``limit`` of them.

    ``special`` reads the names of control tokens as those tokens; ``skip`` leaves out as many chunks at the start. A
    last chunk that is not full is left out. UsageError for a text of less than two chunks: llama.cpp asks for as many.
    """
    if model.vocab.add_eos:
        raise UnsupportedError(
            f"{model.path.name} ends every text with an end-of-text token", "it cannot be measured on running text"
        )
    # as llama.cpp reads a file: without the last line's end
    tokens = np.array(model.vocab.tokenize(text.removesuffix("\n"), special=special, bos=True), np.int32)
    if skip and (skip + 2) * length >= len(tokens):
        raise UsageError(
            f"too few of {len(tokens)} tokens are left after {skip} chunks of {length}", "start from an earlier chunk"
        )
    if len(tokens) < 2 * length:
        raise UsageError(
            f"the text has {len(tokens)} tokens, two chunks of {length} take {2 * length}",
            "give a longer text with -f, or shorter chunks with -c",
        )
    tokens = tokens[skip * length :]
    count = len(tokens) // length
    if limit is not None:
        count = min(count, limit)
    if len(tokens) and int(tokens.max()) >= model.vocab.size:
        raise EngineError("the tokenizer gave a token outside the vocabulary", "convert the model again")
    targets = tokens[: count * length].reshape(count, length)
    chunks = targets.copy()
    if model.vocab.add_bos:
        chunks[:, 0] = model.vocab.bos
    return Text(chunks, targets)


CALIBRATION, SAMPLE = "calibration", "sample"
"""The texts that come with the package: for importance matrices, and a short other one to measure on."""


def builtin_text(name: str) -> str:
    """A text of our own: Chinese, English and code."""
    return (resources.files("ggufrun") / "data" / f"{name}.txt").read_text("utf-8")
