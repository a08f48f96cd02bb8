"""What can be typed after a slash: a table of commands, each of which says what is to be shown and shows nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ggufrun.chat import store, stylebook
from ggufrun.chat.choose import FormatOptions, choose
from ggufrun.chat.prompt import AffixPrompt, TemplatePrompt
from ggufrun.chat.session import Event, Session
from ggufrun.engine.sampler import SamplingParams
from ggufrun.errors import GgufrunError

MAX_READ = 16 << 20
"""Bytes of a file that is sent as a message; no context holds more."""

NAME = re.compile(r"""(?:["']([^"']+)["']|(\S+))(.*)""", re.DOTALL)
"""A file's name and what follows it."""

TAKES_FILE = ("read", "save", "load", "export")
"""Commands whose argument is a file."""


@dataclass(frozen=True)
class Outcome:
    """Lines to show, an answer to stream, or the wish to leave. ``message`` is to be asked as if it had been typed,
    ``edit`` is a question to be changed and asked anew, ``copy`` a text for the clipboard, ``thinking`` says whether
    reasoning is to be shown from now on.
    """

    lines: tuple[str, ...] = ()
    answer: Iterator[Event] | None = None
    leave: bool = False
    message: str | None = None
    edit: str | None = None
    copy: str | None = None
    thinking: bool | None = None


@dataclass(frozen=True)
class Command:
    """A command: its names, what may follow them, one line of help, and what it does."""

    names: tuple[str, ...]
    argument: str
    help: str
    run: Callable[[Session, str], Outcome]


def parse(line: str) -> tuple[str, str] | None:
    """``/name rest`` as a pair, or None for a message. A path such as ``/etc/hosts`` is a message, and so is ``//…``.

    >>> parse("/set temp 0.5")
    ('set', 'temp 0.5')
    """
    if not line.startswith("/") or line.startswith("//"):
        return None
    name, _, rest = line[1:].partition(" ")
    return (name.lower(), rest.strip()) if name and "/" not in name else None


def run(session: Session, name: str, argument: str) -> Outcome:
    """Carry out a command; errors that the user can mend come back as lines."""
    command = BY_NAME.get(name)
    if command is None:
        return Outcome((f"there is no command /{name}; /help lists them",))
    try:
        return command.run(session, argument)
    except GgufrunError as error:
        return Outcome((str(error),))


def _help(session: Session, argument: str) -> Outcome:
    width = max(len(_usage(command)) for command in COMMANDS)
    return Outcome(tuple(f"{_usage(command):<{width}}  {command.help}" for command in COMMANDS))


def _usage(command: Command) -> str:
    return f"/{command.names[0]} {command.argument}".strip()


def _system(session: Session, argument: str) -> Outcome:
    if not argument:
        return Outcome((session.system or "(no system prompt)",))
    if isinstance(session.format, AffixPrompt):
        return Outcome(("this format takes no system prompt; write it into -p, or change the format with /style",))
    session.system = "" if argument == "-" else argument
    session.clear()
    return Outcome(("the system prompt is set; the conversation starts anew",))


def _regen(session: Session, argument: str) -> Outcome:
    if not session.past:
        return Outcome(("there is no answer yet",))
    return Outcome(answer=session.again())


def _undo(session: Session, argument: str) -> Outcome:
    last = session.undo()
    return Outcome((f"taken back: {_short(last.user)}" if last else "there is nothing to take back",))


def _clear(session: Session, argument: str) -> Outcome:
    session.clear()
    return Outcome(("the conversation starts anew",))


def _stats(session: Session, argument: str) -> Outcome:
    lines = [f"context  {len(session.ids)} of {session.context.n_ctx} tokens, {len(session.past)} questions"]
    if session.last is not None:
        stats = session.last.stats
        decoded, speed = stats.decoded_prompt_tokens, stats.tokens_per_second
        lines += [
            f"prompt   {decoded} of {stats.prompt_tokens} tokens decoded in {stats.prompt_time:.2f} s",
            f"answer   {stats.tokens} tokens in {stats.time:.2f} s, {speed:.1f} tokens/s ({stats.reason.value})",
        ]
    return Outcome(tuple(lines))


def _style(session: Session, argument: str) -> Outcome:
    if not argument:
        return Outcome((f"format: {session.format.name}", f"styles: {', '.join(stylebook.known())}"))
    choice = choose(session.context.model, FormatOptions(style=argument))
    session.use(choice.format)
    session.system = choice.system
    return Outcome((f"the format is {choice.format.name}; the conversation starts anew",))


def _think(session: Session, argument: str) -> Outcome:
    word = argument.lower()
    if word in ("show", "hide"):
        hidden = "shown" if word == "show" else "hidden"
        return Outcome((f"what the model thinks is {hidden}",), thinking=word == "show")
    if word not in ("on", "off"):
        return Outcome(("write /think on, off, show or hide",))
    if not isinstance(session.format, TemplatePrompt) or not session.format.think(word == "on"):
        return Outcome(("this prompt format has no switch for thinking; /think hide leaves it out of sight",))
    return Outcome((f"thinking is {word}, from the next answer on",))


def _tokens(session: Session, argument: str) -> Outcome:
    if session.last is None:
        return Outcome(("nothing has been fed yet",))
    fed, answered = session.last.new_ids, session.last.generated
    return Outcome(
        (f"fed {len(fed)}:", describe(session, fed), f"answered {len(answered)}:", describe(session, answered))
    )


def describe(session: Session, ids: tuple[int, ...]) -> str:
    """Token ids with the text of each."""
    vocab = session.context.model.vocab
    return " ".join(f"{token}:{vocab.text(token)!r}" for token in ids)


def _set(session: Session, argument: str) -> Outcome:
    kinds = {name: type(value) for name, value in asdict(SamplingParams()).items()}
    if not argument:
        shown = [f"{name} {getattr(session.sampling, name)}" for name in kinds]
        return Outcome((*shown, f"n {session.limit}"))
    name, _, value = argument.replace("=", " ").partition(" ")
    name = name.replace("-", "_")
    try:
        if name == "n":
            session.limit = int(value)
        elif name in kinds:
            changes = {name: kinds[name](value)}
            session.sampling = replace(session.sampling, **changes)
        else:
            return Outcome((f"there is no setting {name}; choose from {', '.join([*kinds, 'n'])}",))
    except ValueError:
        return Outcome((f"{name} wants a number, not {value.strip()!r}",))
    return Outcome((f"{name} is {value.strip()}",))


def _edit(session: Session, argument: str) -> Outcome:
    if not session.past:
        return Outcome(("there is no question to change",))
    last = session.past[-1]
    if last.opened:
        return Outcome(("the text of -p cannot be changed here",))
    if argument:
        session.undo()
        return Outcome(message=argument)
    return Outcome(edit=last.user)


def _copy(session: Session, argument: str) -> Outcome:
    if not session.past:
        return Outcome(("there is no answer yet",))
    answer = session.past[-1].answer
    return Outcome(
        (f"{len(answer)} characters are in the clipboard, if this terminal allows it (OSC 52)",), copy=answer
    )


def _read(session: Session, argument: str) -> Outcome:
    """``/read FILE`` or ``/read FILE QUESTION``; quotation marks hold a name with spaces together."""
    if not argument:
        return Outcome(("name a file: /read FILE, or /read FILE QUESTION",))
    path, question = Path(argument).expanduser(), ""
    if not path.is_file():
        match = NAME.match(argument)
        name, question = (match[1] or match[2], match[3].strip()) if match else (argument, "")
        path = Path(name).expanduser()
    try:
        if path.stat().st_size > MAX_READ:
            return Outcome((f"{path} is larger than {MAX_READ >> 20} MiB; give a part of it",))
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return Outcome((f"{path} is no UTF-8 text",))
    except OSError as error:
        return Outcome((f"{path} cannot be read: {(error.strerror or str(error)).lower()}",))
    if "\0" in text or not text.strip():
        return Outcome((f"{path} holds no text",))
    text = text.rstrip("\r\n")
    return Outcome((f"read {path}: {len(text)} characters",), message=f"{question}\n\n{text}" if question else text)


def _save(session: Session, argument: str) -> Outcome:
    if not argument:
        return Outcome(("name a file: /save FILE",))
    path = _path(argument)
    store.save(session, path)
    return Outcome((f"saved {path}; /load {argument}, or --session, goes on from it",))


def _load(session: Session, argument: str) -> Outcome:
    if not argument:
        return Outcome(("name a file: /load FILE",))
    loaded = store.load(session, _path(argument))
    if loaded.sampling is not None:
        session.sampling = loaded.sampling
        session.limit = session.limit if loaded.limit is None else loaded.limit
    return Outcome(told(_path(argument), loaded))


def told(path: Path, loaded: store.Loaded) -> tuple[str, ...]:
    """What to say of a session that was loaded."""
    ready = f", {loaded.tokens} tokens ready" if loaded.tokens else ""
    line = f"{path}: {loaded.turns} questions{ready}"
    return (f"{line} ({loaded.note})" if loaded.note else line,)


def _export(session: Session, argument: str) -> Outcome:
    if not argument:
        return Outcome(("name a file: /export FILE.md, or FILE.json",))
    store.export(session, _path(argument))
    return Outcome((f"wrote {_path(argument)}",))


def _path(argument: str) -> Path:
    return Path(argument.strip("\"'")).expanduser()


def _exit(session: Session, argument: str) -> Outcome:
    return Outcome(leave=True)


def _short(text: str, width: int = 40) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


COMMANDS: tuple[Command, ...] = (
    Command(("help", "?"), "", "this list", _help),
    Command(("system",), "[TEXT]", "show or set the system prompt (- for none) and start anew", _system),
    Command(("regen", "retry"), "", "answer the last question again", _regen),
    Command(("undo",), "", "take back the last question and its answer", _undo),
    Command(("clear", "new"), "", "forget the conversation", _clear),
    Command(("stats",), "", "speed, and how full the context is", _stats),
    Command(("style",), "[NAME]", "show or change the prompt format", _style),
    Command(("think",), "on|off|show|hide", "let the model think before it answers, or show what it thinks", _think),
    Command(("tokens",), "", "the token ids of the last turn", _tokens),
    Command(("set",), "[NAME VALUE]", "show or change a sampling setting, such as temp 0.5; n limits an answer", _set),
    Command(("edit",), "[TEXT]", "change the last question and ask it again", _edit),
    Command(("read",), "FILE [QUESTION]", "send the text of a file, after a question about it", _read),
    Command(("copy",), "", "copy the last answer to the clipboard", _copy),
    Command(("save",), "FILE", "keep the conversation, and what is computed of it, in a file", _save),
    Command(("load",), "FILE", "go on with a conversation that was saved", _load),
    Command(("export",), "FILE", "write the conversation as Markdown (.md) or JSON (.json)", _export),
    Command(("exit", "quit", "bye"), "", "leave, as Ctrl+D does", _exit),
)
"""Every command, in the order of /help."""

BY_NAME: dict[str, Command] = {name: command for command in COMMANDS for name in command.names}
