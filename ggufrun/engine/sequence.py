"""One text in a context's memory: which tokens it holds, and how some are added, taken back and moved.

The caller names the whole list of tokens; the sequence finds what it already holds and computes only the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from ggufrun.engine.decoder import ABORTED, OK, Decoder, Interrupted
from ggufrun.errors import EngineError
from ggufrun.native.library import llama

ADVICE = "try a shorter context (-c) or a smaller batch (-b)"


class ContextFull(EngineError):
    """The tokens do not fit into the context."""


class TokenSequence:
    """The tokens that a context holds under one number. ``n_ctx`` is how many they may be.

    ``ready`` says that the logits of the last decoded token are this sequence's.
    """

    def __init__(self, decoder: Decoder, number: int, n_ctx: int) -> None:
        self.decoder = decoder
        self.number = number
        self.n_ctx = n_ctx
        self.ready = False
        self._held: list[int] = []
        decoder.texts.append(self)

    @property
    def n_batch(self) -> int:
        """Tokens decoded in one call."""
        return self.decoder.n_batch

    @property
    def held(self) -> Sequence[int]:
        """The tokens in the memory, in order."""
        return self._held

    def append(self, token: int) -> None:
        """Somebody else has decoded ``token`` after what is held."""
        self._held.append(token)

    def adopt(self, ids: Sequence[int]) -> None:
        """The memory has been filled with ``ids`` by somebody else, or with something unknown (none)."""
        self._held = list(ids)
        self.ready = False

    def feed(self, ids: Sequence[int], known: int = 0) -> int:
        """Make the memory hold exactly ``ids``, with the logits of the last one ready; returns how many were decoded.

        The longest common prefix with what is held stays; whoever has fed the first ``known`` before, and has changed
        none of them since, saves looking at them again. Raises ContextFull, Interrupted, or EngineError.
        """
        if not ids:
            raise EngineError("there is nothing to decode")
        if len(ids) > self.n_ctx:
            raise ContextFull(
                f"{len(ids)} tokens do not fit into a context of {self.n_ctx}", "give a longer one with -c"
            )
        size = self.decoder.model.vocab.size
        self._settle()
        known = min(known, len(self._held))
        keep = known + common_prefix(self._held[known:], ids[known:])
        wrong = next((token for token in ids[keep:] if not 0 <= token < size), None)
        if wrong is not None:
            raise EngineError(f"token {wrong} is not in the vocabulary of {size} tokens")
        if keep == len(ids):
            if keep == len(self._held) and self.ready:
                return 0
            # Logits exist only for the last token decoded, so that one is decoded again.
            keep -= 1
        keep = self._cut(keep)
        self._prefill(ids, keep)
        return len(ids) - keep

    def push(self, token: int) -> None:
        """Append one token that is known to be in the vocabulary: the step of a generation.

        Raises ContextFull, or EngineError.
        """
        decoder, batch, place = self.decoder, self.decoder.batch, len(self._held)
        if place >= self.n_ctx:
            raise ContextFull(f"the context of {self.n_ctx} tokens is full", "start a new conversation, or give -c")
        batch.tokens[0], batch.positions[0], batch.sequences[0], batch.outputs[0] = token, place, self.number, 1
        status = decoder.decode(1)
        if status != OK:
            raise decoder.failure(status, ADVICE)
        self._held.append(token)
        self.ready = True

    def push_all(self, tokens: Sequence[int]) -> None:
        """Append tokens with the logits of every one ready, by their place; as many as may have logits.

        Raises ContextFull, or EngineError.
        """
        decoder, place = self.decoder, len(self._held)
        if place + len(tokens) > self.n_ctx:
            raise ContextFull(f"the context of {self.n_ctx} tokens is full", "start a new conversation, or give -c")
        if not 0 < len(tokens) <= min(decoder.outputs, decoder.batch.capacity):
            raise EngineError(f"{len(tokens)} tokens cannot all have logits here")
        stop = decoder.batch.put(0, tokens, place, self.number)
        decoder.batch.outputs[:stop] = 1
        status = decoder.decode(stop)
        if status != OK:
            raise decoder.failure(status, ADVICE)
        self._held.extend(tokens)
        self.ready = True

    def trim(self, count: int) -> None:
        """Take back all but the first ``count`` tokens. The logits are gone: decode something next."""
        self._cut(count)

    def discard(self, start: int, count: int) -> None:
        """Remove ``count`` tokens from position ``start`` on and move those after them up.

        Where the memory cannot do that, what is left is decoded anew. The logits are gone: decode something next.
        Raises Interrupted or EngineError.
        """
        api, memory = llama(), self.decoder.memory
        left = [*self._held[:start], *self._held[start + count :]]
        self.ready = False
        movable = self._complete() and api.llama_memory_can_shift(memory)
        if movable and api.llama_memory_seq_rm(memory, self.number, start, start + count):
            api.llama_memory_seq_add(memory, self.number, start + count, len(self._held), -count)
            self._held = left
        else:
            self.forget()
            if left:
                self._prefill(left, 0)

    def forget(self) -> None:
        """Hold nothing. Other sequences stay as they are."""
        decoder = self.decoder
        if len(decoder.texts) == 1:
            decoder.clear()
        else:
            llama().llama_memory_seq_rm(decoder.memory, self.number, -1, -1)
            self.adopt([])

    def _settle(self) -> None:
        """Make the memory hold what is written down here. Ctrl+C may come between its work and our note of it, and a
        state be saved like that.
        """
        api, memory, count = llama(), self.decoder.memory, len(self._held)
        last = api.llama_memory_seq_pos_max(memory, self.number)
        if last + 1 == count:
            return
        self.ready = False
        if last < count or not api.llama_memory_seq_rm(memory, self.number, count, -1):
            self.forget()

    def _complete(self, keep: int = 0) -> bool:
        """Is all there that a token after the first ``keep`` looks at? A sliding window forgets what lies before, and
        a recurrent memory all but the last state.
        """
        decoder = self.decoder
        oldest = llama().llama_memory_seq_pos_min(decoder.memory, self.number)
        window = decoder.model.window
        return bool(oldest <= (max(0, keep - window) if window else 0))

    def _cut(self, keep: int) -> int:
        """Remove what follows the first ``keep`` tokens; returns how many are really kept, perhaps none."""
        if keep == len(self._held):
            return keep
        self.ready = False
        memory = self.decoder.memory
        if keep == 0 or not self._complete(keep) or not llama().llama_memory_seq_rm(memory, self.number, keep, -1):
            self.forget()
            return 0
        del self._held[keep:]
        return keep

    def _prefill(self, ids: Sequence[int], start: int) -> None:
        decoder = self.decoder
        with decoder.interruptible():
            for first in range(start, len(ids), decoder.batch.stride):
                if decoder.interrupted:
                    raise Interrupted
                piece = list(ids[first : first + decoder.batch.stride])
                stop = decoder.batch.put(0, piece, len(self._held), self.number)
                decoder.batch.outputs[stop - 1] = 1
                status = decoder.decode(stop)
                if status != OK:
                    # The memory keeps the micro-batches that were finished.
                    done = llama().llama_memory_seq_pos_max(decoder.memory, self.number) + 1
                    self._held.extend(piece[: max(0, done - len(self._held))])
                    if status == ABORTED:
                        raise Interrupted
                    raise decoder.failure(status, ADVICE)
                self._held.extend(piece)
                self.ready = True


def common_prefix(held: Sequence[object], wanted: Sequence[object]) -> int:
    """How many tokens, or other things, both lists start with.

    >>> common_prefix([1, 2, 3], [1, 2, 4, 5])
    2
    """
    limit = min(len(held), len(wanted))
    if list(held[:limit]) == list(wanted[:limit]):
        return limit
    return next(i for i in range(limit) if held[i] != wanted[i])
