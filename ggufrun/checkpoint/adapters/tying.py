"""The token embedding and the output matrix of a model where they are one, under an adapter that changes either.

Running under peft, a module that was trained as a whole (``modules_to_save``) or has a low-rank change parts from its
tied twin: the twin keeps the base's values, unless the adapter changes it likewise (``ensure_weight_tying``). Trained
rows of tokens count for both. So a change of both by the same values leaves them one, any other makes them two.

Source: peft's forward pass. Its own ``merge_and_unload`` follows that for whole modules and for rows; a low-rank change
it adds to the common matrix, and so to both, which is not what was trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ggufrun.checkpoint.adapters.adapter import Delta, TokenRows
from ggufrun.checkpoint.adapters.matrices import read_floats
from ggufrun.checkpoint.adapters.model_names import canonical
from ggufrun.checkpoint.tensor import Tensor

EMBEDDINGS = frozenset(
    (
        "embed_tokens.weight",
        "tok_embeddings.weight",
        "wte.weight",
        "embedding.word_embeddings.weight",
        "word_embeddings.weight",
        "embed_in.weight",
    )
)
HEADS = frozenset(("lm_head.weight", "output.weight", "output_layer.weight"))
"""Canonical names of what has one row a token."""

HEAD = "lm_head.weight"
"""What the output is called in a base that has none of its own."""

CHUNK = 1 << 20
"""Values compared at once."""


@dataclass
class Edit:
    """What an adapter does to one tensor: put ``whole`` in its place, then ``tokens`` over some of its rows, then add
    ``delta`` or ``addend`` times ``scale``.

    ``trained`` tells a whole module that was trained from one that is only stored because the vocabulary may have
    grown; ``original`` is what the former was trained from, where it is stored.
    """

    whole: Tensor | None = None
    trained: bool = False
    original: Tensor | None = None
    tokens: TokenRows | None = None
    delta: Delta | None = None
    addend: Tensor | None = None
    scale: float = 1.0

    @property
    def untouched(self) -> Tensor | None:
        """The matrix before training, where the adapter holds it."""
        return self.original if self.trained else self.whole

    @property
    def parts_from_twin(self) -> bool:
        """Whether a tied twin without changes of its own does not follow."""
        return self.trained or self.delta is not None


def separate_head(embedding: Tensor, edit: Edit, head: Edit) -> Tensor | None:
    """What the output is before ``head`` changes it, if that makes it another matrix than the embedding.

    ``embedding`` is that of the base, ``edit`` the change of it. None where both stay one.
    """
    common = edit.untouched or embedding
    if head.parts_from_twin or head.tokens is not None:
        start = head.untouched or common
        same = (
            _same_delta(edit, head)
            and (edit.tokens is None) == (head.tokens is None)
            and (edit.tokens is None or head.tokens is None or _same_tokens(edit.tokens, head.tokens))
            and _same(edit.whole or embedding, head.whole or start)
        )
    elif head.whole is not None:
        start = head.whole
        same = edit.delta is None and _same(edit.whole or embedding, start)
    else:
        start, same = common, not edit.parts_from_twin
    return None if same else start


def _same(one: Tensor, other: Tensor) -> bool:
    if one is other:
        return True
    if one.shape != other.shape:
        return False
    step = max(1, CHUNK // max(1, one.n_per_row))
    for start in range(0, one.n_rows, step):
        stop = min(start + step, one.n_rows)
        if not np.array_equal(read_floats(one, start, stop), read_floats(other, start, stop), equal_nan=True):
            return False
    return True


def _same_tokens(one: TokenRows, other: TokenRows) -> bool:
    return one.tokens == other.tokens and _same(one.rows, other.rows)


def _same_delta(one: Edit, other: Edit) -> bool:
    """Of an embedding, which keeps its matrices the other way round, and an output."""
    if one.delta is None or other.delta is None:
        return one.delta is other.delta
    factors = [
        [read_floats(tensor, 0, tensor.n_rows).reshape(tensor.shape) for tensor in (edit.delta.a, edit.delta.b)]
        for edit in (one, other)
        if edit.delta is not None
    ]
    for edit, pair in zip((one, other), factors, strict=True):
        if edit.delta is not None and edit.delta.transposed:
            pair[:] = [pair[1].T, pair[0].T]
    plain = one.delta.magnitude is None and other.delta.magnitude is None
    return plain and one.scale == other.scale and all(map(np.array_equal, *factors))


def text_values(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values of a config.json with those of its text part over them."""
    _, text = _text_section(values)
    return {**values, **text}


def with_text_values(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a config.json that change so that its text part says ``changes``."""
    outer, text = _text_section(values)
    if not text:
        return dict(changes)
    section = {"text_config": {**text, **changes}}
    return {**changes, **({outer: {**values[outer], **section}} if outer else section)}


def _text_section(values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    outer = "thinker_config" if isinstance(values.get("thinker_config"), dict) else ""
    text = (values[outer] if outer else values).get("text_config")
    return outer, text if isinstance(text, dict) else {}


def find_name(tensors: Mapping[str, Tensor], wanted: frozenset[str]) -> str | None:
    """The first tensor with one of these canonical names."""
    return next((name for name in tensors if canonical(name) in wanted), None)
