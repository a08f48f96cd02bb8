"""A ``llama_batch``: tokens on their way into a model, each with its place in one of the texts that share a memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ggufrun.native.library import llama

Tokens = npt.NDArray[np.int32]


class TokenBatch:
    """Room for ``capacity`` tokens in arrays of our own, which ``native`` points into. ``stride`` is how many of a long
    text are decoded in one call: all that there is room for, unless something wants to be asked in between.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = self.stride = capacity
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

    def put_grid(self, tokens: Tokens, positions: Tokens, outputs: npt.NDArray[np.bool_]) -> int:
        """Write the same ``positions`` of several sequences, numbered from 0: ``tokens`` has the shape (sequences,
        positions), and ``outputs`` says which positions have logits. Returns the place after them.
        """
        n_sequences, n_positions = tokens.shape
        size = tokens.size
        self.tokens[:size] = tokens.reshape(-1)
        self.positions[:size] = np.tile(positions, n_sequences)
        self.sequences[:size] = np.repeat(np.arange(n_sequences, dtype=np.int32), n_positions)
        self.outputs[:size] = np.tile(outputs, n_sequences)
        return size
