"""What can be typed after a slash: a table of commands, each of which says what is to be shown and shows nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

from ggufrun.chat import styles
from ggufrun.chat.choose import FormatOptions, choose
from ggufrun.chat.prompt import AffixPrompt
from ggufrun.chat.session import Event, Session
from ggufrun.engine.sampler import SamplingParams
from ggufrun.errors import GgufrunError


@dataclass(frozen=True)
class Outcome:
    """Lines to show, an answer to stream, or the wish to leave."""

    lines: tuple[str, ...] = ()
    answer: Iterator[Event] | None = None
    leave: bool = False


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
        return Outcome((f"format: {session.format.name}", f"styles: {', '.join(styles.STYLES)}"))
    choice = choose(session.context.model, FormatOptions(style=argument))
    session.use(choice.format)
    session.system = choice.system
    return Outcome((f"the format is {choice.format.name}; the conversation starts anew",))


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
    Command(("tokens",), "", "the token ids of the last turn", _tokens),
    Command(("set",), "[NAME VALUE]", "show or change a sampling setting, such as temp 0.5; n limits an answer", _set),
    Command(("exit", "quit", "bye"), "", "leave, as Ctrl+D does", _exit),
)
"""Every command, in the order of /help."""

BY_NAME: dict[str, Command] = {name: command for command in COMMANDS for name in command.names}
