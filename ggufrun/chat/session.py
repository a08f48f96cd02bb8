"""A conversation: what was said, the tokens that the model has seen, and the answers as a stream of events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ggufrun.chat.prompt import AffixPrompt, Exchange, Format, Prompt
from ggufrun.chat.stream import AnswerStream
from ggufrun.engine.context import Context, ContextFull
from ggufrun.engine.generate import GenerationStats, StopReason, generate
from ggufrun.engine.sampler import RANDOM_SEED, Sampler, SamplingParams
from ggufrun.errors import EngineError


@dataclass(frozen=True)
class Start:
    """The question has become tokens: ``new_ids`` follow what the model has seen."""

    new_ids: tuple[int, ...]


@dataclass(frozen=True)
class Text:
    """A piece of the answer, ready to be shown: whole characters only."""

    text: str


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


Event = Start | Text | Done


class Session:
    """One conversation with one model. The context is borrowed, not owned.

    ``once`` forgets everything between questions but the system prompt. ``limit`` bounds the tokens of an answer.
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
    ) -> None:
        self.context = context
        self.format = format
        self.sampling = sampling
        self.system = system
        self.limit = limit
        self.once = once
        self.past: list[Exchange] = []
        self.ids: list[int] = []
        self.last: Done | None = None
        self._attempt = 0

    def open(self, text: str) -> Iterator[Event]:
        """Let the model continue ``text``, taken as it stands: llama.cpp's ``-p`` beside affixes."""
        yield from self._answer(text, self._opening(text), opened=True)

    def waits_after(self, text: str) -> bool:
        """Does the opening end with a reverse prompt, so that it is the user's turn at once?"""
        return self.format.keep_stop and any(text.endswith(stop) for stop in self.format.stops)

    def place(self, text: str) -> None:
        """Take ``text`` as the beginning of the context without an answer."""
        self.ids = self._opening(text).ids

    def ask(self, text: str) -> Iterator[Event]:
        """Ask, and stream the answer: a `Start`, `Text` pieces, then one `Done`.

        The question and as much of the answer as came are kept, also when it was interrupted or the caller stopped
        listening. A question that got no answer is not kept. Raises ContextFull when it does not fit; nothing has
        changed then.
        """
        self._attempt = 0
        if self.once:
            self.clear()
        yield from self._answer(text, self.format.turn(self.past, self.ids, self.system, text))

    def again(self) -> Iterator[Event]:
        """Answer the last question anew. With a fixed seed, the next seed is taken, or nothing would change."""
        last = self.undo()
        if last is None:
            return
        self._attempt += 1
        if last.opened:
            yield from self._answer(last.user, self._opening(last.user), opened=True)
        else:
            yield from self._answer(last.user, self.format.turn(self.past, self.ids, self.system, last.user))

    def undo(self) -> Exchange | None:
        """Take back the last question and its answer; None when there is none."""
        if not self.past:
            return None
        last = self.past.pop()
        self.ids = list(last.before)
        return last

    def clear(self) -> None:
        """Forget the conversation. The system prompt stays."""
        self.past.clear()
        self.ids = []
        self.last = None

    def use(self, format: Format) -> None:
        """Talk in another format. The conversation starts anew, for its ids are in the old one."""
        self.clear()
        self.format = format

    def _opening(self, text: str) -> Prompt:
        if not isinstance(self.format, AffixPrompt):
            raise EngineError(f"the format {self.format.name} opens with a question, not with a text as it stands")
        return self.format.opening(text)

    def _answer(self, user: str, prompt: Prompt, opened: bool = False) -> Iterator[Event]:
        context, vocab = self.context, self.context.model.vocab
        if len(prompt.ids) >= context.n_ctx:
            raise ContextFull(
                f"the conversation takes {len(prompt.ids)} tokens, and the context has {context.n_ctx}",
                "shorten the text, give a longer context with -c, or start a new conversation",
            )
        before = tuple(self.ids)
        continued = prompt.ids[: len(before)] == self.ids
        new_ids = tuple(prompt.ids[len(before) :] if continued else prompt.ids)
        stats = GenerationStats()
        stream = AnswerStream(self.format.stops, strip_space=self.format.strip_space)
        shown: list[str] = []
        generated: list[int] = []
        yield Start(new_ids)
        context.resume()
        sampler = Sampler(context.model, self._sampling(), context.n_ctx)
        try:
            sampler.accept(new_ids)
            for token in generate(context, sampler, prompt.ids, limit=self.limit, stats=stats):
                generated.append(token)
                text = stream.feed(b"" if vocab.is_eog(token) else vocab.piece(token))
                if text:
                    shown.append(text)
                    yield Text(text)
                if stream.stop is not None:
                    stats.reason = StopReason.TEXT
                    break
            rest = stream.flush()
            if rest:
                shown.append(rest)
                yield Text(rest)
        finally:
            sampler.close()
            kept = generated if self.format.keep_stop else generated[: stream.tokens_before_stop]
            if kept or stats.reason not in (StopReason.INTERRUPTED, StopReason.CLOSED):
                self.ids = [*prompt.ids, *kept]
                self.past.append(Exchange(user, "".join(shown), before, tuple(self.ids), prompt.rendered, opened))
        self.last = Done(stats, new_ids, tuple(generated), len(self.ids))
        yield self.last

    def _sampling(self) -> SamplingParams:
        seed = self.sampling.seed
        if not self._attempt or seed in (-1, RANDOM_SEED):
            return self.sampling
        return replace(self.sampling, seed=(seed + self._attempt) % RANDOM_SEED)
