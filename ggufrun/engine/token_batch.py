"""A ``llama_batch``: tokens on their way into a model, each with its place in one of the texts that share a memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from ggufrun.native.library import llama


class TokenBatch:
    """Room for ``capacity`` tokens in arrays of our own, which ``native`` points into."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.tokens = np.zeros(capacity, np.int32)
        self.positions = np.zeros(capacity, np.int32)
        self.sequences = np.zeros(capacity, np.int32)
        self.outputs = np.zeros(capacity, np.int8)
        self._counts = np.ones(capacity, np.int32)
        self._pointers = self.sequences.ctypes.data + 4 * np.arange(capacity, dtype=np.uintp)
        self.native = llama().llama_batch()
        kinds = dict(self.native._fields_)
        for name, array in (
            ("token", self.tokens),
            ("pos", self.positions),
            ("n_seq_id", self._counts),
            ("seq_id", self._pointers),
            ("logits", self.outputs),
        ):
            setattr(self.native, name, ctypes.cast(array.ctypes.data, kinds[name]))

    def put(self, place: int, tokens: Sequence[int], position: int, sequence: int) -> int:
        """Write ``tokens`` from ``place`` on, the first of them at ``position``; returns the place after them.

        None of them gets logits, and the batch's length is set by the caller.
        """
        stop = place + len(tokens)
        self.tokens[place:stop] = tokens
        self.positions[place:stop] = np.arange(position, position + len(tokens))
        self.sequences[place:stop] = sequence
        self.outputs[place:stop] = 0
        return stop
