"""A list of questions answered together: items in, results out in the order in which they are finished."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ggufrun import jsontext
from ggufrun.chat.formats.prompt import Format, Prompt
from ggufrun.chat.replay import replay
from ggufrun.chat.reply import Reply
from ggufrun.chat.session import Session
from ggufrun.engine.batch import Batch, Task
from ggufrun.engine.context import Context
from ggufrun.engine.sampling.sampler import SamplingParams
from ggufrun.engine.sequence import common_prefix
from ggufrun.engine.vocabulary import Vocab
from ggufrun.errors import FormatError, GgufrunError

QUESTION_KEYS = ("instruction", "prompt", "question", "text")
"""Where data sets keep the question of a JSON object; ``input`` beside it goes on the lines after."""

SAMPLE, MEASURED = 16, 5000
"""Questions that are looked at for what they have in common, and those of a list that are measured before it starts."""


@dataclass(frozen=True)
class Item:
    """One question. ``given`` is what the list says, ``turns`` what was said before, ``error`` why it is none.

    ``system`` None means the same as for all.
    """

    index: int
    given: Any
    user: str = ""
    turns: tuple[tuple[str, str], ...] = ()
    system: str | None = None
    error: str = ""


@dataclass(frozen=True)
class Result:
    """An answer, or the reason why there is none (``error``).

    ``reason`` says why the answer ended, ``reasoning`` is what the model thought before.
    """

    item: Item
    answer: str = ""
    tokens: int = 0
    reason: str = ""
    error: str = ""
    reasoning: str = ""


def read_items(text: str, *, document: bool = False) -> list[Item]:
    """One item a line: plain text, or a JSON object. With ``document`` the whole text is one JSON list of them.

    Empty lines do not count. Raises FormatError for a document that is not a list.
    """
    if document:
        try:
            # a list has the size that its reader allows
            values = jsontext.parse(text, max_values=None, halves=True)
        except ValueError as error:
            raise FormatError(
                f"the list is not JSON: {error}", "write one instruction a line, or a JSON list"
            ) from error
        if not isinstance(values, list):
            raise FormatError("the list is not a JSON list", "write one instruction a line, or a JSON list")
        return [_item(index, value) for index, value in enumerate(values)]
    lines = [line.strip("\r\n") for line in text.split("\n")]
    return [_item(index, _value(line)) for index, line in enumerate(line for line in lines if line.strip())]


def _value(line: str) -> Any:
    if line.lstrip().startswith("{"):
        try:
            value = jsontext.parse(line, halves=True)
        except ValueError:
            return line
        return value if isinstance(value, dict) else line
    return line


def _item(index: int, given: Any) -> Item:
    if isinstance(given, str):
        return Item(index, given, given)
    if not isinstance(given, dict):
        return Item(index, given, error="is neither text nor an object")
    if "messages" in given:
        return _conversation(index, given)
    found = [given[key] for key in QUESTION_KEYS if isinstance(given.get(key), str)]
    more = given.get("input")
    parts = [*found[:1], *([more] if isinstance(more, str) else [])]
    text = "\n".join(part for part in parts if part)
    if not text:
        return Item(index, given, error=f"has none of {', '.join((*QUESTION_KEYS, 'input', 'messages'))}")
    system = given.get("system")
    return Item(index, given, text, system=system if isinstance(system, str) else None)


def _conversation(index: int, given: dict[str, Any]) -> Item:
    """Roles in the order that formats know: perhaps a system prompt, then question and answer by turns, a question."""
    messages = given["messages"]
    pairs = [
        (message.get("role"), message.get("content"))
        for message in (messages if isinstance(messages, list) else [])
        if isinstance(message, dict)
    ]
    if not pairs or len(pairs) != len(messages) or not all(isinstance(content, str) for _, content in pairs):
        return Item(index, given, error="its messages are not a list of objects with role and content")
    system = None
    if pairs[0][0] == "system":
        system = str(pairs.pop(0)[1])
    roles = [role for role, _ in pairs]
    if roles != ["user" if place % 2 == 0 else "assistant" for place in range(len(pairs))] or len(pairs) % 2 == 0:
        return Item(index, given, error="its messages are not user and assistant by turns, with a user's at the end")
    said = [str(content) for _, content in pairs]
    return Item(index, given, said[-1], tuple(zip(said[:-1:2], said[1::2], strict=True)), system)


class _Work:
    """An item on its way: its task, and the text that has come so far."""

    def __init__(self, item: Item, format: Format, prompt: Prompt, vocab: Vocab) -> None:
        self.item = item
        self._vocab = vocab
        self._named = format.named
        self.reply = Reply(format, prompt)

    def take(self, token: int) -> bool:
        """One more token; True when a stop text has appeared."""
        vocab = self._vocab
        piece = b"" if vocab.is_eog(token) else self._named.get(token) or vocab.piece(token)
        # nobody looks on: what is shown is kept in the reply
        deque(self.reply.feed(piece), maxlen=0)
        return self.reply.stream.stop is not None

    def result(self, tokens: int, reason: str) -> Result:
        """The whole answer, now that no more comes."""
        deque(self.reply.flush(), maxlen=0)
        return Result(self.item, self.reply.answer, tokens, reason, reasoning=self.reply.reasoning)


def answer_all(
    context: Context,
    format: Format,
    sampling: SamplingParams,
    items: Sequence[Item],
    *,
    system: str = "",
    limit: int = -1,
    longest: int,
) -> Generator[Result, None, None]:
    """Answer every item as a conversation of its own of at most ``longest`` tokens; results as they are finished.

    What is wrong with one item becomes its result's error. Raises EngineError when the model cannot be run at all, and
    KeyboardInterrupt.
    """
    works: dict[int, _Work] = {}
    failed: list[Result] = []

    def tasks() -> Iterable[Task]:
        for item in items:
            try:
                prompt = _prompt(item, format, context.model.vocab, system)
                ids = prompt.ids
                if len(ids) >= longest:
                    raise FormatError(f"takes {len(ids)} tokens, and the context has {longest}")
            except GgufrunError as error:
                failed.append(Result(item, error=str(error)))
                continue
            work = works[item.index] = _Work(item, format, prompt, context.model.vocab)
            yield Task(item.index, ids, sampling, work.take, limit, longest, format.thinking(prompt))

    for task in Batch(context).run(tasks()):
        yield from failed
        failed.clear()
        work = works.pop(task.key)
        yield work.result(len(task.generated), task.reason.value)
    yield from failed


def answer_each(session: Session, items: Sequence[Item]) -> Generator[Result, None, None]:
    """The same, one after another in ``session``, which may guess ahead or be led away from something."""
    system = session.system
    for item in items:
        session.clear()
        session.system = system if item.system is None else item.system
        try:
            if item.error:
                raise FormatError(item.error)
            vocab = session.context.model.vocab
            session.past, session.ids = replay(session.format, vocab, session.system, item.turns)
            deque(session.ask(item.user), maxlen=0)
        except GgufrunError as error:
            yield Result(item, error=str(error))
            continue
        assert session.last is not None
        stats, said = session.last.stats, session.past[-1]
        yield Result(item, said.answer, stats.tokens, stats.reason.value, reasoning=said.reasoning)


def sizes(items: Sequence[Item], format: Format, vocab: Vocab, system: str) -> tuple[int, int | None]:
    """How many tokens most questions begin with in common, and how many the longest has.

    The former is seen from the first ones; of a very long list the latter is not known.
    """
    prompts = []
    for item in items if len(items) <= MEASURED else items[:SAMPLE]:
        with contextlib.suppress(GgufrunError):
            prompts.append(_prompt(item, format, vocab, system).ids)
    lengths = sorted(common_prefix(one, other) for one, other in itertools.pairwise(prompts[:SAMPLE]))
    longest = max((len(prompt) for prompt in prompts), default=0)
    return lengths[len(lengths) // 2] if lengths else 0, longest if len(items) <= MEASURED else None


def _prompt(item: Item, format: Format, vocab: Vocab, system: str) -> Prompt:
    if item.error:
        raise FormatError(item.error)
    system = system if item.system is None else item.system
    past, ids = replay(format, vocab, system, item.turns)
    return format.turn(past, ids, system, item.user)
