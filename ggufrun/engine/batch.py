"""Several texts continued together: one pass over the weights gives a token to each of them.

Generation is bound by reading the weights, so that many sequences in a batch take little longer than one. They share
one pool of cells (llama.cpp's unified cache), or have a part each (`ContextParams.separate`), which spares them looking
at one another's cells. When a pool runs out, the newest gives its cells back and goes on later, from the tokens it has.

What texts begin with in common is computed once: a sequence keeps the tokens of its last text for the next one, and in
a pool one may take the cells of another, if need be by waiting until they are computed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from ggufrun.engine.context import Context
from ggufrun.engine.decoder import ABORTED, NO_SLOT, OK
from ggufrun.engine.generate import StopReason
from ggufrun.engine.sampling.sampler import Sampler, SamplingParams
from ggufrun.engine.sampling.thinking import Thinking
from ggufrun.engine.sequence import common_prefix
from ggufrun.native.library import llama

WORTH_WAITING = 16
"""Tokens that a text must have in common with one that is being read to wait for them: a pass over the weights."""


@dataclass
class Task:
    """A text to continue: ``ids``, then at most ``limit`` tokens, or ``longest`` in all.

    ``take`` hears every new token and answers whether that is enough. ``key`` is the caller's own name for it.
    A grammar begins after ``thinking``.
    """

    key: int
    ids: list[int]
    sampling: SamplingParams
    take: Callable[[int], bool]
    limit: int
    longest: int
    thinking: Thinking | None = None
    generated: list[int] = field(default_factory=list)
    reason: StopReason = StopReason.CLOSED

    @property
    def size(self) -> int:
        """Tokens so far."""
        return len(self.ids) + len(self.generated)


class _Slot:
    """A sequence of the memory: the tokens ``held`` there are decoded, ``fed`` are in the batch, and ``output`` is the
    place in it whose logits choose the next token. It waits for ``source`` to hold ``shared`` tokens, then shares them.
    """

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.held: list[int] = []
        self.fed: list[int] = []
        self.output = -1
        self.source: _Slot | None = None
        self.shared = 0
        self._task: Task | None = None
        self._sampler: Sampler | None = None

    def begin(self, task: Task, sampler: Sampler) -> None:
        """Work on ``task`` from now on."""
        self._task, self._sampler = task, sampler
        self.output, self.source, self.shared = -1, None, 0

    @property
    def task(self) -> Task:
        """What it works on."""
        assert self._task is not None
        return self._task

    @property
    def sampler(self) -> Sampler:
        """The samplers of its task."""
        assert self._sampler is not None
        return self._sampler

    def waiting(self) -> list[int]:
        """What is not decoded yet."""
        task, done = self.task, len(self.held)
        begun = len(task.ids)
        if done >= begun:
            return task.generated[done - begun :]
        return [*task.ids[done:], *task.generated]


class Batch:
    """Continues tasks in ``context``, which was made for several sequences and is borrowed."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._decoder, self._batch = context.decoder, context.decoder.batch
        self._free = [_Slot(number) for number in range(context.params.sequences)]
        self._slots: list[_Slot] = []
        # A state is whole or nothing, and a window forgets what others might take over.
        self._sharing = not (context.model.recurrent or context.model.window)
        self._pooled = not context.params.separate
        self._again: deque[tuple[Task, Sampler]] = deque()

    def run(self, tasks: Iterable[Task]) -> Iterator[Task]:
        """Yields each task when it is finished, the quickest first; new ones take the places of the finished.

        A task of a prompt that no context could hold must not be among them. Raises EngineError, KeyboardInterrupt.
        """
        queue = iter(tasks)
        try:
            while True:
                self._admit(queue)
                if not self._slots:
                    return
                yield from self._step()
        finally:
            for sampler in (*(slot.sampler for slot in self._slots), *(sampler for _, sampler in self._again)):
                sampler.close()
            self._slots.clear()
            self._again.clear()
            self._free = [_Slot(number) for number in range(self._context.params.sequences)]
            self._decoder.resume()
            # Whoever gave up listening may have closed it already.
            self._context.clear()

    def _admit(self, queue: Iterator[Task]) -> None:
        """Fill the free places while there are cells for what their texts take now and a little more."""
        while self._free:
            if self._again:
                task, sampler = self._again[0]
                if self._slots and not self._fits(task.size):
                    return
                self._again.popleft()
            else:
                if self._slots and not self._fits(0):
                    return
                found = next(queue, None)
                if found is None:
                    return
                task = found
                sampler = Sampler(self._context.model, task.sampling, self._context.n_ctx, task.thinking)
                sampler.accept(task.ids)
                if self._slots and not self._fits(task.size):
                    self._again.append((task, sampler))
                    return
            self._slots.append(self._start(task, sampler))

    def _start(self, task: Task, sampler: Sampler) -> _Slot:
        """Give a free sequence to ``task``: the one that holds most of what it begins with, or may take it over."""
        # The last token is decoded in any case, for its logits.
        wanted = [*task.ids, *task.generated][:-1]
        slot = max(self._free, key=lambda one: common_prefix(one.held, wanted))
        self._free.remove(slot)
        kept = common_prefix(slot.held, wanted) if self._sharing else 0
        slot.begin(task, sampler)
        if self._sharing and self._pooled and self._slots:
            source = max(self._slots, key=lambda one: common_prefix(one.task.ids, wanted))
            shared = common_prefix(source.task.ids, wanted)
            if shared >= kept + WORTH_WAITING:
                slot.source, slot.shared, kept = source, shared, 0
        self._cut(slot, kept)
        return slot

    def _cut(self, slot: _Slot, kept: int) -> None:
        if kept < len(slot.held):
            memory = self._context.memory
            if not kept or not llama().llama_memory_seq_rm(memory, slot.sequence, kept, -1):
                llama().llama_memory_seq_rm(memory, slot.sequence, -1, -1)
                kept = 0
            del slot.held[kept:]

    def _take_over(self, slot: _Slot) -> bool:
        """Share what the slot waits for, if it is there; returns whether the slot can go on."""
        source = slot.source
        if source is None:
            return True
        prefix = slot.task.ids[: slot.shared]
        if source.held[: slot.shared] == prefix:
            llama().llama_memory_seq_cp(self._context.memory, source.sequence, slot.sequence, 0, slot.shared)
            slot.held = prefix
        elif source in self._slots and len(source.held) < slot.shared:
            return False
        else:
            # It has gone another way meanwhile.
            slot.shared = 0
        slot.source = None
        return True

    def _fits(self, more: int) -> bool:
        """Would ``more`` tokens leave room for every sequence to grow?"""
        if not self._pooled:
            return True
        if self._used() + more + 16 * (len(self._slots) + 1) <= self._context.n_ctx:
            return True
        self._empty_idle()
        return self._used() + more + 16 * (len(self._slots) + 1) <= self._context.n_ctx

    def _used(self) -> int:
        return sum(slot.task.size - slot.shared for slot in self._slots) + sum(len(slot.held) for slot in self._free)

    def _empty_idle(self) -> None:
        for slot in self._free:
            self._cut(slot, 0)

    def _step(self) -> list[Task]:
        """Decode once, and choose a token for every sequence whose text is decoded whole; returns what is finished."""
        if self._pooled and self._used() > self._context.n_ctx:
            self._empty_idle()
            while self._used() > self._context.n_ctx and len(self._slots) > 1:
                self._put_off()
        status = self._decode(*self._fill())
        if status == NO_SLOT and (len(self._slots) > 1 or any(slot.held for slot in self._free)):
            if any(slot.held for slot in self._free):
                self._empty_idle()
            else:
                self._put_off()
            return []
        if status == ABORTED or self._decoder.interrupted:
            raise KeyboardInterrupt
        if status != OK:
            raise self._decoder.failure(status, "try fewer sequences (-np) or a smaller batch (-b)")
        finished = []
        self._context.ready = True
        for slot in [*self._slots]:
            slot.held += slot.fed
            if slot.output >= 0 and self._advance(slot):
                self._slots.remove(slot)
                self._free.append(slot)
                slot.sampler.close()
                finished.append(slot.task)
        return finished

    def _fill(self) -> tuple[int, bool]:
        """Put what waits into the batch: first the single tokens, so that no long prompt holds the others up, and by
        number, because llama.cpp computes neighbours together. Returns how many tokens there are, and whether any text
        has more than one.
        """
        size = 0
        prompts = False
        waiting = {slot.sequence: slot.waiting() if self._take_over(slot) else [] for slot in self._slots}
        for slot in sorted(self._slots, key=lambda slot: (len(waiting[slot.sequence]) > 1, slot.sequence)):
            left = waiting[slot.sequence]
            part = left[: self._batch.capacity - size]
            prompts = prompts or len(part) > 1
            stop = self._batch.put(size, part, len(slot.held), slot.sequence)
            slot.fed, slot.output = part, -1
            if part and len(part) == len(left):
                slot.output = stop - 1
                self._batch.outputs[stop - 1] = 1
            size = stop
        return size, prompts

    def _decode(self, count: int, prompts: bool) -> int:
        if not prompts:
            return self._decoder.decode(count)
        with self._decoder.interruptible():
            return self._decoder.decode(count)

    def _advance(self, slot: _Slot) -> bool:
        """Choose the next token; returns whether the task is finished."""
        task = slot.task
        room = task.longest - len(task.ids)
        allowed = room if task.limit < 0 else min(task.limit, room)
        if len(task.generated) < allowed:
            token = slot.sampler.sample(self._context, slot.output)
            task.generated.append(token)
            if task.take(token):
                task.reason = StopReason.TEXT
            elif self._context.model.vocab.is_eog(token):
                task.reason = StopReason.END
            elif len(task.generated) < allowed:
                return False
        if task.reason is StopReason.CLOSED:
            task.reason = StopReason.LENGTH if 0 <= task.limit <= room else StopReason.FULL
        return True

    def _put_off(self) -> None:
        """The newest sequence gives its cells back; it goes on, from what it has, when there is room."""
        slot = self._slots.pop()
        self._again.append((slot.task, slot.sampler))
        self._free.append(slot)
        self._cut(slot, 0)
        for other in self._slots:
            if other.source is slot:
                other.source, other.shared = None, 0
