"""What can be typed after a slash: a table of commands, each of which says what is to be shown and shows nothing."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ggufrun.chat import read_files, set_command, store
from ggufrun.chat.export import export
from ggufrun.chat.formats import stylebook
from ggufrun.chat.formats.choose_format import FormatOptions, choose
from ggufrun.chat.formats.prompt import AffixPrompt
from ggufrun.chat.formats.template_prompt import TemplatePrompt
from ggufrun.chat.session import Event, Session
from ggufrun.chat.stats import describe, figures, session_notes
from ggufrun.errors import GgufrunError
from ggufrun.filelock import claimed

KEYS: tuple[tuple[str, str], ...] = (
    ("Enter", "send; after a backslash, or with Alt, a new line"),
    ('"""', "around a message of several lines"),
    ("↑  ↓  Tab", "earlier messages; completion"),
    ("Ctrl+C", "stop the answer; twice at the prompt: leave"),
    ("Ctrl+X Ctrl+E", "write the message in $EDITOR"),
)
"""What else there is to know, for /help."""

TAKES_FILE = ("read", "save", "load", "export", "model")
"""Commands whose argument is a file."""


@dataclass(frozen=True)
class Outcome:
    """What is to be done now.

    Lines to show, ``rows`` of two columns, an answer to stream, or the wish to leave. ``message`` is to be asked as if
    it had been typed, ``edit`` is a question to be changed and asked anew, ``copy`` a text for the clipboard,
    ``thinking`` says whether reasoning is to be shown from now on, ``model`` names the one that is to go on.
    """

    lines: tuple[str, ...] = ()
    rows: tuple[tuple[str, str], ...] = ()
    answer: Iterator[Event] | None = None
    leave: bool = False
    message: str | None = None
    edit: str | None = None
    copy: str | None = None
    thinking: bool | None = None
    model: str | None = None


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


ELSEWHERE = {"show": "model", "info": "stats", "temp": "set temp", "file": "read", "history": "export", "redo": "regen"}
"""Commands of other programs, and what is like them."""


def message(line: str) -> str:
    """What a line that is no command says to the model: of two slashes at its beginning, one."""
    return line.removeprefix("/") if line.startswith("//") else line


def typed(text: str) -> str:
    """The line that `message` makes ``text`` of.

    >>> typed("/help"), typed("hello")
    ('//help', 'hello')
    """
    return f"/{text}" if text.startswith("//") or parse(text) is not None else text


def run(session: Session, name: str, argument: str) -> Outcome:
    """Carry out a command; errors that the user can mend come back as lines."""
    command = BY_NAME.get(name)
    if command is None:
        near = [ELSEWHERE[name]] if name in ELSEWHERE else difflib.get_close_matches(name, BY_NAME, n=1, cutoff=0.7)
        hint = f"did you mean /{near[0]}?" if near else "/help lists them"
        return Outcome((f"there is no command /{name}; {hint}",))
    try:
        return command.run(session, argument)
    except GgufrunError as error:
        return Outcome((str(error),))


def _help(session: Session, argument: str) -> Outcome:
    name = argument.removeprefix("/").lower()
    if name:
        command = BY_NAME.get(name)
        if command is None:
            return Outcome((f"there is no command /{name}; /help lists them",))
        return Outcome(rows=((_usage(command), command.help),))
    return Outcome(rows=(*((_usage(command), command.help) for command in COMMANDS), ("", ""), *KEYS))


def _usage(command: Command) -> str:
    return f"/{command.names[0]} {command.argument}".strip()


def _system(session: Session, argument: str) -> Outcome:
    if not argument:
        return Outcome((session.system or "(no system prompt)",))
    if isinstance(session.format, AffixPrompt):
        return Outcome(("this format takes no system prompt; write it into -p, or change the format with /style",))
    session.system = "" if argument == "-" else argument
    session.clear()
    return Outcome(("the system prompt is set; the conversation starts again",))


def _regen(session: Session, argument: str) -> Outcome:
    if not session.past:
        return Outcome(("there is no answer yet",))
    return Outcome(answer=session.again())


def _undo(session: Session, argument: str) -> Outcome:
    last = session.undo()
    return Outcome((f"taken back: {_short(last.user)}" if last else "there is nothing to take back",))


def _clear(session: Session, argument: str) -> Outcome:
    session.clear()
    return Outcome(("the conversation starts again",))


def _stats(session: Session, argument: str) -> Outcome:
    return Outcome(figures(session))


def _model(session: Session, argument: str) -> Outcome:
    if argument:
        return Outcome(model=str(_path(argument)))
    model = session.context.model
    return Outcome((f"{model.name}: {model.path}", "/model NAME goes on with another, and with what was said"))


def _style(session: Session, argument: str) -> Outcome:
    if not argument:
        names = ", ".join(("auto", *stylebook.known()))
        return Outcome((f"format {session.format.name}: {session.why}", f"/style NAME changes it: {names}"))
    wanted = FormatOptions() if argument == "auto" else FormatOptions(style=argument)
    choice = choose(session.context.model, wanted)
    session.use(choice.format, choice.why if argument == "auto" else "/style says so")
    session.system = choice.system
    return Outcome((f"the format is {choice.format.name}; the conversation starts again",))


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


def _set(session: Session, argument: str) -> Outcome:
    return Outcome((set_command.change(session, argument),)) if argument else Outcome(rows=set_command.listed(session))


def _read(session: Session, argument: str) -> Outcome:
    found = read_files.read(argument)
    return Outcome(found.lines, message=found.message)


def _tokens(session: Session, argument: str) -> Outcome:
    if session.last is None:
        return Outcome(("nothing has been fed yet",))
    fed, answered = session.last.new_ids, session.last.generated
    return Outcome(
        (f"fed {len(fed)}:", describe(session, fed), f"answered {len(answered)}:", describe(session, answered))
    )


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


def _save(session: Session, argument: str) -> Outcome:
    if not argument:
        return Outcome(("name a file: /save FILE",))
    path = _path(argument)
    store.check_replaceable(path)
    with claimed(path, "choose another name"):
        store.save(session, path)
    return Outcome((f"saved {path}; /load {argument}, or --session, continues it",))


def _load(session: Session, argument: str) -> Outcome:
    if not argument:
        return Outcome(("name a file: /load FILE",))
    loaded = store.load(session, _path(argument))
    if loaded.sampling is not None:
        session.sampling = loaded.sampling
        session.limit = session.limit if loaded.limit is None else loaded.limit
    return Outcome(session_notes(_path(argument), loaded))


def _export(session: Session, argument: str) -> Outcome:
    if not argument:
        return Outcome(("name a file: /export FILE.md, or FILE.json",))
    export(session, _path(argument))
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
    Command(("regen", "retry"), "", "answer the last question again", _regen),
    Command(("edit",), "[TEXT]", "change the last question and ask it again", _edit),
    Command(("undo",), "", "take back the last question and its answer", _undo),
    Command(("clear", "new", "reset"), "", "forget the conversation", _clear),
    Command(("system",), "[TEXT]", "show the system prompt, or set it (- for none)", _system),
    Command(("model",), "[NAME]", "show the model, or continue with another one", _model),
    Command(("style",), "[NAME]", "show the prompt format, and why, or change it", _style),
    Command(("set",), "[NAME VALUE]", "show or change a setting, such as temp 0.5", _set),
    Command(("think",), "on|off|show|hide", "let it think first, or not; show that, or not", _think),
    Command(("read",), "FILE [QUESTION]", "send the text of a file, or of *.py, after a question", _read),
    Command(("copy",), "", "copy the last answer to the clipboard", _copy),
    Command(("save",), "FILE", "keep the conversation, and what is computed of it", _save),
    Command(("load",), "FILE", "continue a saved conversation", _load),
    Command(("export",), "FILE", "write it to be read: Markdown (.md) or JSON (.json)", _export),
    Command(("stats",), "", "how fast it was, and how full the context is", _stats),
    Command(("tokens",), "", "the token ids of the last turn", _tokens),
    Command(("exit", "quit", "bye"), "", "leave, as Ctrl+D does", _exit),
)
"""Every command, in the order of /help."""

BY_NAME: dict[str, Command] = {name: command for command in COMMANDS for name in command.names}
