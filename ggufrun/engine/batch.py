"""Several texts continued together: one pass over the weights gives a token to each of them.

Generation is bound by reading the weights, so that eight sequences in a batch take little longer than one. They share
one pool of cells (llama.cpp's unified cache); when that runs out, the newest gives its cells back and goes on later,
from the tokens it has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from ggufrun.engine.context import Context
from ggufrun.engine.generate import StopReason
from ggufrun.engine.native import forget_log, llama, reason
from ggufrun.engine.sampler import Sampler, SamplingParams
from ggufrun.engine.sequence import ABORTED, OK
from ggufrun.errors import EngineError

NO_SLOT = 1
"""What ``llama_decode`` returns when the cache has no room for the batch."""


@dataclass
class Task:
    """A text to continue: ``ids``, then at most ``limit`` tokens, or ``longest`` in all.

    ``take`` hears every new token and answers whether that is enough. ``key`` is the caller's own name for it.
    """

    key: int
    ids: list[int]
    sampling: SamplingParams
    take: Callable[[int], bool]
    limit: int
    longest: int
    generated: list[int] = field(default_factory=list)
    reason: StopReason = StopReason.CLOSED

    @property
    def size(self) -> int:
        """Tokens so far."""
        return len(self.ids) + len(self.generated)


class _Slot:
    """A sequence of the memory at work on a task: ``done`` tokens are decoded, ``fed`` are in the batch, and ``output``
    is the place in it whose logits choose the next token.
    """

    def __init__(self, sequence: int, task: Task, sampler: Sampler) -> None:
        self.sequence = sequence
        self.task = task
        self.sampler = sampler
        self.done = 0
        self.fed = 0
        self.output = -1

    def waiting(self) -> list[int]:
        """What is not decoded yet."""
        task = self.task
        begun = len(task.ids)
        if self.done >= begun:
            return task.generated[self.done - begun :]
        return [*task.ids[self.done :], *task.generated]


class Batch:
    """Continues tasks in ``context``, which was made for several sequences and is borrowed."""

    def __init__(self, context: Context) -> None:
        api = llama()
        self._context = context
        self._batch = context.batch
        self._free = deque(range(context.params.sequences))
        self._slots: list[_Slot] = []
        self._again: deque[tuple[Task, Sampler]] = deque()
        self._stop = False
        self._abort = api.ggml_abort_callback(self._asked_to_stop)
        self._no_abort = api.ggml_abort_callback()

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
            self._free = deque(range(self._context.params.sequences))
            self._stop = False
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
                sampler = Sampler(self._context.model, task.sampling, self._context.n_ctx)
                sampler.accept(task.ids)
                if self._slots and not self._fits(task.size):
                    self._again.append((task, sampler))
                    return
            self._slots.append(_Slot(self._free.popleft(), task, sampler))

    def _fits(self, more: int) -> bool:
        """Would ``more`` tokens leave room for every sequence to grow?"""
        used = sum(slot.task.size for slot in self._slots)
        return used + more + 16 * (len(self._slots) + 1) <= self._context.n_ctx

    def _step(self) -> list[Task]:
        """Decode once, and choose a token for every sequence whose text is decoded whole; returns what is finished."""
        while sum(slot.task.size for slot in self._slots) > self._context.n_ctx and len(self._slots) > 1:
            self._put_off()
        prompts = self._fill()
        status = self._decode(prompts)
        if status == NO_SLOT and len(self._slots) > 1:
            self._put_off()
            return []
        if status == ABORTED or self._stop:
            raise KeyboardInterrupt
        if status != OK:
            why = reason(f"llama_decode returned {status}")
            raise EngineError(f"the model could not be run: {why}", "try fewer sequences (-np) or a smaller batch (-b)")
        finished = []
        self._context.ready = True
        for slot in [*self._slots]:
            slot.done += slot.fed
            if slot.output >= 0 and self._advance(slot):
                self._release(slot)
                slot.sampler.close()
                finished.append(slot.task)
        return finished

    def _fill(self) -> bool:
        """Put what waits into the batch: first the single tokens, so that no long prompt holds the others up. Returns
        whether there is more than single tokens.
        """
        size = 0
        prompts = False
        for slot in sorted(self._slots, key=lambda slot: len(slot.waiting()) > 1):
            waiting = slot.waiting()
            part = waiting[: self._batch.capacity - size]
            prompts = prompts or len(part) > 1
            stop = self._batch.put(size, part, slot.done, slot.sequence)
            slot.fed, slot.output = len(part), -1
            if part and len(part) == len(waiting):
                slot.output = stop - 1
                self._batch.outputs[stop - 1] = 1
            size = stop
        self._batch.native.n_tokens = size
        return prompts

    def _decode(self, prompts: bool) -> int:
        api, context = llama(), self._context.pointer
        # Called some hundred times a batch: nothing beside a prompt's work, too much beside a few tokens'.
        if prompts:
            api.llama_set_abort_callback(context, self._abort, None)
        try:
            forget_log()
            return int(api.llama_decode(context, self._batch.native))
        finally:
            if prompts:
                api.llama_set_abort_callback(context, self._no_abort, None)

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
        slot = self._slots[-1]
        self._release(slot)
        self._again.append((slot.task, slot.sampler))

    def _release(self, slot: _Slot) -> None:
        self._slots.remove(slot)
        llama().llama_memory_seq_rm(self._context.memory, slot.sequence, -1, -1)
        self._free.append(slot.sequence)

    def _asked_to_stop(self, _: object) -> bool:
        # Python delivers signals here, between two operations of the graph.
        try:
            return self._stop
        except KeyboardInterrupt:
            self._stop = True
            return True
