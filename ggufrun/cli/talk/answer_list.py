"""``ggufrun chat --file LIST --output PATH``: answers to a list, written as they come, in order at the end."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ggufrun import jsontext
from ggufrun.atomicfile import appearing
from ggufrun.cli.flags.guidance import negative, with_room_for_guidance
from ggufrun.cli.terminal.console import err, note, warn
from ggufrun.errors import EngineError, FormatError, GgufrunError, NotFoundError, TargetError, UsageError
from ggufrun.filelock import claimed
from ggufrun.regularfile import read_bytes
from ggufrun.workflows import textfile

if TYPE_CHECKING:
    from ggufrun.chat.question_list import Item, Result
    from ggufrun.cli.flags.chat import ChatFlags
    from ggufrun.engine.context import Context, ContextParams
    from ggufrun.engine.model import Model

SEQUENCES = 16
"""Decoded together unless ``-np`` says otherwise: a token then takes a third of the time it takes alone (measured with
142 million parameters in Q4_K_M on two cores; with eight, three fifths).
"""

WORTH_SHARING = 128
"""Tokens that a list's questions must begin with in common to be kept once."""

MAX_SEQUENCES = 256
"""``LLAMA_MAX_SEQ``."""

MAX_ANSWERS = 2 << 30
"""Bytes of a file of answers."""

Record = dict[str, Any]


def paths(list_file: Path | None, output: Path | None) -> tuple[Path, Path]:
    """Both of ``--file`` and ``--output``, checked."""
    if list_file is None or output is None:
        raise UsageError("--file and --output belong together", "give the list and where the answers go")
    if list_file.is_dir() or not list_file.exists():
        what = "a folder" if list_file.is_dir() else "no such file"
        raise NotFoundError(f"--file {list_file}: {what}", "check the path")
    if output.suffix not in (".json", ".jsonl"):
        raise UsageError(f"--output {output}", "give a name that ends in .jsonl or .json")
    if output.is_dir() or not output.parent.is_dir():
        raise TargetError(f"{output} cannot be written", "give a file in a folder that exists")
    return list_file, output


def read_list(path: Path) -> list[Item]:
    """The questions of ``--file``."""
    from ggufrun.chat.question_list import read_items

    text = textfile.read(path, f"--file {path}", textfile.MAX_MEASURED).removeprefix("\ufeff")
    # an answer's record has the question, and JSON no bytes
    items = read_items(
        text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"), document=path.suffix == ".json"
    )
    if not items:
        raise FormatError(f"{path.name} holds no instruction", "write one a line")
    return items


def _is_record(value: Any) -> bool:
    """Is ``value`` an answer, or why there is none, as `Answers.add` writes it?"""
    return isinstance(value, dict) and type(value.get("index")) is int


class Answers:
    """The file of answers. While the work lasts its records lie in the order in which they came, one a line; a .json
    file has them in a file beside it, which becomes the whole at the end.
    """

    def __init__(self, path: Path, model: str) -> None:
        self.path = path
        self.model = model
        self.journal = path if path.suffix == ".jsonl" else path.with_name(path.name + ".partial")
        self.records: dict[int, Record] = {}

    def restore(self, items: Sequence[Item]) -> list[Item]:
        """Take over the answers that are there; returns the items that have none.

        Raises FormatError when they are answers to other questions, or another model's.
        """
        for record in self._read():
            index = record["index"]
            if not 0 <= index < len(items) or record.get("input") != items[index].given:
                raise FormatError(f"{self.path.name} answers another list", "remove it, or choose another --output")
            if record.get("model") != self.model:
                raise FormatError(
                    f"{self.path.name} holds answers of {record.get('model')}", "remove it, or choose another --output"
                )
            if "output" in record:
                self.records[index] = record
        return [item for item in items if item.index not in self.records]

    def _read(self) -> list[Record]:
        lines: list[Any] = []
        other = FormatError(f"{self.path.name} is not a file of answers", "choose another --output")
        journal = read_bytes(self.journal, MAX_ANSWERS, other.todo) if self.journal.exists() else b""
        if self.path != self.journal and self.path.exists():
            try:
                found = jsontext.parse(read_bytes(self.path, MAX_ANSWERS, other.todo), max_values=None)
            except ValueError as error:
                raise other from error
            lines += found if isinstance(found, list) else [found]
        for line in filter(bytes.strip, journal.split(b"\n")):
            # The last line may have been cut by whatever ended the program.
            with contextlib.suppress(ValueError):
                lines.append(jsontext.parse(line, max_values=None))
        fine = [line for line in lines if _is_record(line)]
        if not fine and (lines or journal.strip()):
            raise other
        return fine

    @contextmanager
    def writing(self) -> Iterator[Answers]:
        """Append while this lasts; at the end, also an early one, the records are put in order."""
        self._put_in_order()
        try:
            with self.journal.open("ab") as self._file:
                yield self
        finally:
            self._put_in_order()

    def add(self, result: Result) -> None:
        """One more record, on the disk when this returns."""
        record: Record = {"index": result.item.index, "input": result.item.given}
        if result.error:
            record["error"] = result.error
        else:
            record |= {"output": result.answer, "reason": result.reason, "tokens": result.tokens}
            if result.reasoning:
                record["reasoning"] = result.reasoning
        record["model"] = self.model
        self.records[result.item.index] = record
        self._file.write(_line(record))
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        """All is answered: a .json file appears whole."""
        if self.path != self.journal:
            ordered = [self.records[index] for index in sorted(self.records)]
            with appearing(self.path) as temporary:
                temporary.write_bytes((json.dumps(ordered, ensure_ascii=False, indent=2) + "\n").encode())
            self.journal.unlink()

    def _put_in_order(self) -> None:
        with appearing(self.journal) as temporary:
            temporary.write_bytes(b"".join(_line(self.records[index]) for index in sorted(self.records)))


def _line(record: Record) -> bytes:
    # Lone surrogates, which a list may hold, have no place in UTF-8.
    return (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "replace")


@contextmanager
def pool(
    model: Model, params: ContextParams, sequences: int, common: int, needed: int | None
) -> Iterator[tuple[Context, int]]:
    """A context for ``sequences`` texts that begin with ``common`` tokens in common, and how long each may become: no
    longer than ``needed``, where that is known.

    Each gets a part of its own, because then none looks at the cells of the others, unless a long beginning is worth
    sharing or the memory does not suffice: then all share what a quarter of the memory holds.
    """
    from ggufrun.engine.context import DEFAULT_CONTEXT, Context

    trained = model.train_context
    longest = params.n_ctx or (trained if params.n_ctx == 0 else min(trained, DEFAULT_CONTEXT))
    model.check_length(longest)
    longest = longest if needed is None else min(longest, needed)
    total, affordable = longest * sequences, True
    if hasattr(os, "sysconf"):
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        tokens = physical // 4 // max(1, model.cache_bytes(1, 16, 16))
        affordable = total <= tokens
        total = max(longest, min(total, tokens))
    separate = affordable and (common < WORTH_SHARING or model.recurrent)
    params = replace(params, sequences=sequences, outputs=max(sequences, params.outputs), separate=separate)
    try:
        context = Context(model, replace(params, n_ctx=longest if separate else total))
    except EngineError:
        if total == longest:
            raise
        context = Context(model, replace(params, n_ctx=longest, separate=False))
    with context:
        yield context, min(longest, context.n_ctx)


def with_sequences(params: ContextParams, sequences: int) -> ContextParams:
    """A context as large as all texts at their longest would have it, to see what fits."""
    from ggufrun.engine.context import DEFAULT_CONTEXT

    longest = DEFAULT_CONTEXT if params.n_ctx is None else params.n_ctx
    return replace(params, n_ctx=longest * sequences, sequences=sequences, outputs=max(sequences, params.outputs))


def check_sequences(count: int | None) -> int:
    """``-np``."""
    if count is not None and not 1 <= count <= MAX_SEQUENCES:
        raise UsageError(f"-np is {count}", f"give a number from 1 to {MAX_SEQUENCES}")
    return count or SEQUENCES


def work(answers: Answers, items: Sequence[Item], results: Generator[Result, None, None]) -> None:
    """Write the results as they come, and say how far it is. Raises GgufrunError when some items have no answer."""
    started, tokens, failed = perf_counter(), 0, 0
    done = len(answers.records)
    if done:
        note(f"{done} of {len(items)} are answered already")
    shown = err().status("") if err().is_terminal else contextlib.nullcontext()
    with contextlib.closing(results), answers.writing(), shown as status:
        for result in results:
            answers.add(result)
            tokens += result.tokens
            done += 1
            if result.error:
                failed += 1
                warn(f"item {result.item.index} {result.error}")
            if status is not None:
                speed = tokens / (perf_counter() - started)
                status.update(f"{done} of {len(items)} · {speed:.1f} tokens/s")
    answers.finish()
    seconds = perf_counter() - started
    note(
        f"{answers.path}: {done - failed} answers, {tokens} tokens in {seconds:.1f} s, {tokens / seconds:.1f} tokens/s"
    )
    if failed:
        raise GgufrunError(f"{failed} of {len(items)} items have no answer", "see `error` in the file; run it again")


def run(flags: ChatFlags) -> None:
    """Answer the list, as ``flags`` say."""
    list_file, output = paths(flags.questions.batch_file, flags.questions.batch_output)
    with claimed(output, "wait for it, or choose another --output"):
        _run(flags, list_file, output)


def _run(flags: ChatFlags, list_file: Path, output: Path) -> None:
    from ggufrun.chat.formats import template_process
    from ggufrun.chat.question_list import answer_all, answer_each, sizes
    from ggufrun.chat.session import Session
    from ggufrun.cli.flags import settings
    from ggufrun.cli.talk import choose_model
    from ggufrun.engine.context import Context

    model_path, instruction = settings.model_and_instruction(flags)
    if instruction is not None or flags.text.prompt is not None or flags.text.prompt_file is not None:
        raise UsageError("--file holds the messages", "leave INSTRUCTION, -p and -f out; -sys gives a system prompt")
    from ggufrun.workflows.open_model import check_file
    from ggufrun.workflows.speculation import speculation, with_room_for_draft

    sequences, limit = check_sequences(flags.questions.parallel), flags.answer.limit()
    params, _ = flags.context_params(), flags.sampling.params({}, flags.text.expanded)
    items = read_list(list_file)
    check_file(model_path)
    answers = Answers(output, model_path.name)
    left = answers.restore(items)
    if not left:
        note(f"{output}: all {len(items)} items are answered already")
        return
    draft, guidance = flags.draft.params(), flags.guidance_params()
    alone = draft is not None or guidance is not None
    if alone and flags.questions.parallel not in (None, 1):
        raise UsageError("-np, with guessing ahead or guidance", "leave it out: questions are answered one by one")
    small = None if flags.draft.draft_model is None else choose_model.find_model(flags.draft.draft_model)
    if alone:
        params = with_room_for_guidance(with_room_for_draft(params, draft), guidance)
    template_process.prepare()
    count = min(sequences, len(left))
    asked = params if alone else with_sequences(params, count)
    with settings.open_model(model_path, flags, asked, plain=flags.screen.plain) as model:
        choice = settings.choose_format(model, flags)
        for warning in choice.warnings:
            warn(warning)
        sampling = flags.sampling.params(choice.sampling, flags.text.expanded)
        told = flags.format.system_prompt(flags.text)
        system = choice.system if told is None else told
        limit = -1 if limit is None or limit < 0 else limit
        if alone:
            with (
                Context(model, params) as context,
                speculation(context, draft, small, flags.loading.mmap, note) as guesses,
            ):
                away = negative(context, guidance)
                session = Session(
                    context,
                    choice.format,
                    sampling,
                    system=system,
                    limit=limit,
                    speculation=guesses,
                    negative=away,
                )
                work(answers, items, answer_each(session, left))
            return
        common, question = sizes(left, choice.format, model.vocab, system)
        needed = None if question is None or limit < 0 else question + limit + 1
        with pool(model, params, count, common, needed) as (context, longest):
            results = answer_all(context, choice.format, sampling, left, system=system, limit=limit, longest=longest)
            work(answers, items, results)
