"""A conversation: what was said, the tokens that the model has seen, and the answers as a stream of events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufrun.chat.formats.history import Exchange, Step, Trace, reach, rendered_trace
from ggufrun.chat.formats.prompt import AffixPrompt, Format, Prompt
from ggufrun.chat.negative import Negative
from ggufrun.chat.reply import Reply, Text, Thought
from ggufrun.chat.token_budget import Budget
from ggufrun.engine.context import Context
from ggufrun.engine.draft import Speculation
from ggufrun.engine.generate import GenerationStats, StopReason, generate
from ggufrun.engine.sampling.sampler import RANDOM_SEED, Sampler, SamplingParams
from ggufrun.engine.sequence import ContextFull, common_prefix
from ggufrun.errors import EngineError


@dataclass(frozen=True)
class Start:
    """The question has become tokens: ``new_ids`` follow what the model has seen."""

    new_ids: tuple[int, ...]


@dataclass(frozen=True)
class Done:
    """The end of an answer: ``new_ids`` were fed for it, ``generated`` came out, the context now takes ``used``."""

    stats: GenerationStats
    new_ids: tuple[int, ...]
    generated: tuple[int, ...]
    used: int

    @property
    def reason(self) -> StopReason:
        """Why the answer ended."""
        return self.stats.reason


REVERSE_WINDOW = 32
"""Tokens in which llama.cpp looks for a reverse prompt."""

Event = Start | Text | Thought | Done


class Session:
    """One conversation with one model. The context is borrowed, not owned.

    ``once`` forgets everything between questions but the system prompt. ``limit`` bounds the tokens of an answer. With
    ``shift``, a full context loses its older half but for the beginning: what the system prompt takes, or ``keep``
    tokens as llama.cpp counts them (BOS not included, negative or too many: all of the first turn). Answers are led
    away from ``negative``. ``why`` says what made the format be chosen. With ``budget`` the limit is llama.cpp's count.
    ``exports`` are the files that it was written to, to be read, and ``placed`` the ids of a text that it began with.
    """

    def __init__(
        self,
        context: Context,
        format: Format,
        sampling: SamplingParams,
        *,
        system: str = "",
        limit: int = -1,
        once: bool = False,
        shift: bool = False,
        keep: int | None = None,
        speculation: Speculation | None = None,
        why: str = "",
        negative: Negative | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.context = context
        self.format = format
        self.sampling = sampling
        self.system = system
        self.limit = limit
        self.once = once
        self.shift = shift
        self.keep = keep
        self.speculation = speculation
        self.negative = negative
        self.budget = budget
        self.why = why
        self.past: list[Exchange] = []
        self.ids: list[int] = []
        self.last: Done | None = None
        self.exports: set[Path] = set()
        self.placed: tuple[int, ...] = ()
        self.forgotten = 0
        self._attempt = 0
        self._unfinished: Callable[[], object] | None = None

    def open(self, text: str) -> Iterator[Event]:
        """Let the model continue ``text``, taken as it stands: llama.cpp's ``-p`` beside affixes."""
        yield from self._answer(text, self._opening(text), opened=True)

    def waits_after(self, text: str) -> bool:
        """Does the opening end with a reverse prompt, so that it is the user's turn at once?"""
        return self.format.keep_stop and any(text.endswith(stop) for stop in self.format.stops)

    def hand_back(self, text: str) -> Start | None:
        """Take in a message after which it is the user's turn again: what is fed for it ends with a reverse prompt or
        an end of text, as after an empty line. None, and nothing taken in, for any other.
        """
        if not self.format.keep_stop or not self.ids:
            return None
        prompt = self._turn(text)
        new = prompt.ids[len(self.ids) :][-REVERSE_WINDOW:]
        vocab = self.context.model.vocab
        fed = b"".join(vocab.piece(token, special=True) for token in new)
        ended = bool(new) and vocab.is_eog(new[-1])
        if not ended and not any(fed.endswith(stop.encode("utf-8", "surrogateescape")) for stop in self.format.stops):
            return None
        start = Start(tuple(prompt.ids[len(self.ids) :]))
        self._limit(text, start.new_ids)
        self.ids = prompt.ids
        return start

    def place(self, text: str) -> Start:
        """Take ``text`` as the beginning of the context without an answer."""
        self.ids = self._opening(text).ids
        self.placed = tuple(self.ids)
        return Start(self.placed)

    def ask(self, text: str) -> Iterator[Event]:
        """Ask, and stream the answer: a `Start`, `Text` pieces, then one `Done`.

        The question and as much of the answer as came are kept, also when it was interrupted or the caller stopped
        listening. A question that got no answer is not kept. Raises ContextFull when it does not fit; nothing has
        changed then.
        """
        self._attempt = 0
        if self.once:
            self.clear()
        yield from self._answer(text, self._turn(text))

    def again(self) -> Iterator[Event]:
        """Answer the last question anew. With a fixed seed, the next seed is taken, or nothing would change."""
        last = self.undo()
        if last is None:
            return
        self._attempt += 1
        if last.opened:
            yield from self._answer(last.user, self._opening(last.user), opened=True)
        else:
            yield from self._answer(last.user, self._turn(last.user))

    def undo(self) -> Exchange | None:
        """Take back the last question and its answer; None when there is none."""
        if not self.past:
            return None
        last = self.past.pop()
        self.ids = last.step.taken_back(self.ids)
        return last

    def salvage(self) -> bool:
        """Keep what an answer has so far, for the engine will never finish it; returns whether there is anything."""
        if self._unfinished is not None:
            keep, self._unfinished = self._unfinished, None
            keep()
        return bool(self.past)

    def clear(self) -> None:
        """Forget the conversation. The system prompt stays."""
        self.past.clear()
        self.ids = []
        self.last = None
        self.exports.clear()
        self.placed = ()
        self.forgotten = 0

    def use(self, format: Format, why: str = "") -> None:
        """Talk in another format. The conversation starts again, for its ids are in the old one."""
        self.clear()
        self.format, self.why = format, why

    def _limit(self, text: str, new_ids: Sequence[int], opened: bool = False) -> int:
        """The most tokens of an answer to ``text``, for which ``new_ids`` are fed."""
        if self.budget is None:
            return self.limit
        if opened:
            count = 0
        elif isinstance(self.format, AffixPrompt):
            count = len(self.context.model.vocab.tokenize(text, special=False))
        else:
            count = len(new_ids)
        return self.budget.question(self.limit, count)

    def _opening(self, text: str) -> Prompt:
        if not isinstance(self.format, AffixPrompt):
            raise EngineError(f"the format {self.format.name} opens with a question, not with plain text")
        return self.format.opening(text)

    def _turn(self, user: str) -> Prompt:
        room = self.context.n_ctx
        prompt = self.format.turn(self.past, self.ids, self.system, user, room if self.shift else None)
        if self.shift and not self._seen(prompt) and (prompt.first or len(prompt.ids) >= room):
            return self._shortened(prompt, user)
        return prompt

    def _shortened(self, prompt: Prompt, user: str) -> Prompt:
        """Of a template that writes the past anew, what fits: the oldest turns are left out, as few as possible."""
        low, high = reach(self.past, self.context.n_ctx), len(self.past)
        fitting: Prompt | None = None
        while low <= high:
            first = (low + high) // 2
            shorter = self.format.turn(self.past[first:], [], self.system, user)
            prompt = replace(shorter, first=first)
            if len(shorter.ids) < self.context.n_ctx:
                fitting, high = prompt, first - 1
            else:
                low = first + 1
        return fitting or prompt

    def _seen(self, prompt: Prompt) -> int:
        """How many of a prompt's ids are older than its turn."""
        if prompt.seen is not None:
            return prompt.seen
        return len(self.ids) if prompt.ids[: len(self.ids)] == self.ids else 0

    def _pinned(self, user: str, ids: list[int], opened: bool) -> int:
        """How many of the first of ``ids``, the conversation with its newest turn, stay when the context is shifted."""
        vocab = self.context.model.vocab
        first, opened = (self.past[0].user, self.past[0].opened) if self.past else (user, opened)
        if self.keep is not None or isinstance(self.format, AffixPrompt):
            if self.placed:
                opening = list(self.placed)
            else:
                prompt = self._opening(first) if opened else self.format.turn([], [], self.system, first)
                opening = prompt.ids
            if self.keep is not None:
                return len(opening) if not 0 <= self.keep <= len(opening) else self.keep + vocab.add_bos
            if self.placed or opened:
                # As much of -p as leaves half of the context to talk in.
                return min(len(opening), self.context.n_ctx // 2)
        # What does not depend on the question.
        one, other = (self.format.turn([], [], self.system, text).ids for text in ("A", "一"))
        return min(common_prefix(ids, one), common_prefix(ids, other), self.context.n_ctx // 2)

    def _answer(self, user: str, prompt: Prompt, opened: bool = False) -> Iterator[Event]:
        context, vocab = self.context, self.context.model.vocab
        seen = self._seen(prompt)
        if len(prompt.ids) - (seen if self.shift else 0) >= context.n_ctx:
            raise ContextFull(
                f"the conversation takes {len(prompt.ids)} tokens, and the context has {context.n_ctx}",
                "shorten the text, give a longer context with -c, or start a new conversation",
            )
        before = self.ids
        new_ids = tuple(prompt.ids[seen:])
        stats = GenerationStats()
        reply = Reply(self.format, prompt)
        generated: list[int] = []

        def said() -> list[int]:
            return generated if self.format.keep_stop else generated[: reply.stream.tokens_before_stop]

        def keep_words() -> bool:
            kept = said()
            if kept or stats.reason not in (StopReason.INTERRUPTED, StopReason.CLOSED):
                self.ids = [*prompt.ids, *kept]
                for shift in stats.shifts:
                    shift.apply(self.ids)
                self.forgotten += sum(shift.count for shift in stats.shifts)
                words = Exchange(
                    user,
                    reply.answer,
                    Step.between(before, self.ids),
                    size=len(vocab.tokenize(user, special=False)) + len(kept),
                    rendered=rendered_trace(prompt.rendered, prompt.first),
                    opened=opened,
                )
                if reply.splitter.thought:
                    place = reply.place(len(prompt.ids), len(kept))
                    words = replace(
                        words,
                        size=words.size - (place[1] - place[0] if place is not None else 0),
                        reasoning=reply.reasoning,
                        said=reply.said,
                        thought=None if stats.shifts else place,
                        after=Trace.of_ids(self.ids),
                    )
                self.past.append(words)
                return True
            return False

        limit = self._limit(user, new_ids, opened)
        yield Start(new_ids)
        context.resume()
        sampler = Sampler(context.model, self._sampling(), context.n_ctx, self.format.thinking(prompt))
        try:
            sampler.accept(new_ids)
            keep = self._pinned(user, prompt.ids, opened) if self.shift else None
            if self.negative is not None:
                self.negative.ask(self.format, self.past, user, prompt.ids, seen, opened=opened, shift=self.shift)
            answer = generate(
                context,
                sampler,
                prompt.ids,
                limit=limit,
                stats=stats,
                seen=seen,
                keep=keep,
                speculation=self.speculation,
                guidance=self.negative.guidance if self.negative is not None else None,
            )
            self._unfinished = keep_words
            for token in answer:
                generated.append(token)
                named = self.format.named.get(token)
                yield from reply.feed(b"" if vocab.is_eog(token) else named or vocab.piece(token))
                if reply.stream.stop is not None:
                    stats.reason = StopReason.TEXT
                    break
            yield from reply.flush()
        finally:
            sampler.close()
            if self.budget is not None:
                self.budget.answer(self.limit, len(generated))
            self._unfinished = None
            if keep_words() and self.negative is not None:
                self.negative.answered(self.past[-1], said())
        self.last = Done(stats, new_ids, tuple(generated), len(self.ids))
        yield self.last

    def _sampling(self) -> SamplingParams:
        seed = self.sampling.seed
        if not self._attempt or seed in (-1, RANDOM_SEED):
            return self.sampling
        return replace(self.sampling, seed=(seed + self._attempt) % RANDOM_SEED)
