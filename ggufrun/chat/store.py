"""Conversations in files that can be gone on with.

A session is two files: ``FILE`` is JSON with the words and the token ids, ``FILE.state`` what the model has computed of
them. The words are written first, and each file appears whole; whatever the second one is worth, the conversation can
be had again from the first.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ggufrun import jsontext
from ggufrun.atomicfile import appearing
from ggufrun.chat.formats import stylebook
from ggufrun.chat.formats.history import Exchange
from ggufrun.chat.formats.prompt import AffixPrompt, Format, StylePrompt
from ggufrun.chat.formats.template import ChatTemplate
from ggufrun.chat.formats.template_prompt import TemplatePrompt
from ggufrun.chat.replay import replay
from ggufrun.chat.saved_turn import ids, largest_lost, read_first_form, read_turn, text
from ggufrun.chat.session import Session
from ggufrun.engine.sampling.params import SamplingParams
from ggufrun.engine.state import identity, load_state, save_state, state_size
from ggufrun.engine.vocabulary import Vocab
from ggufrun.errors import EngineError, FormatError, GgufrunError, NotFoundError, TargetError
from ggufrun.regularfile import read_bytes, read_start

VERSION = 2
"""Of the files that are written; those of version 1 are read."""

HEAD = b'{"ggufrun session":'
"""How a session's file begins."""

MAX_BYTES = 512 << 20
"""Of a session's file. The words of a full day take a thousandth of that."""

CHEAP = 64 << 20
"""Bytes of a state that are written after every turn; a larger one is written when the conversation ends."""


@dataclass(frozen=True)
class Loaded:
    """What became of a session: ``turns`` of conversation, ``tokens`` that need not be computed again, and why not all
    of them (``note``). ``sampling`` and ``limit`` are the settings that it was held with, if the file tells.
    """

    turns: int
    tokens: int
    note: str = ""
    sampling: SamplingParams | None = None
    limit: int | None = None


def state_path(path: Path) -> Path:
    """Where the state of the session ``path`` lies."""
    return path.with_name(path.name + ".state")


def save(session: Session, path: Path, *, always: bool = True, words_only: bool = False) -> None:
    """Write the session; its state only when it is cheap or ``always``, not for ``words_only``. Raises TargetError."""
    value = {
        "ggufrun session": VERSION,
        "model": session.context.model.name,
        "identity": identity(session.context),
        "format": session.format.key,
        "prompt": session.format.described,
        "sampling": asdict(session.sampling),
        # an answer that may fill the context may fill another one too
        "limit": None if session.limit == session.context.n_ctx else session.limit,
        "system": session.system,
        "placed": list(session.placed),
        "ids": session.ids,
    }
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    turns = ",".join(exchange.saved for exchange in session.past)
    try:
        write_whole(path, f'{text[:-1]},"turns":[{turns}]}}')
    except OSError as error:
        raise TargetError(f"the session cannot be saved in {path}: {error.strerror}", "save it elsewhere") from error
    try:
        if words_only:
            state_path(path).unlink(missing_ok=True)
        elif session.context.held and (always or state_size(session.context) <= CHEAP):
            save_state(session.context, state_path(path))
    except (OSError, EngineError) as error:
        why = error.strerror if isinstance(error, OSError) else error.what
        raise TargetError(f"the words are saved in {path}, but no state: {why}", "free some space") from error


def check_replaceable(path: Path) -> None:
    """Raise TargetError for a file that is not a session: another one may be written over it, nothing else."""
    try:
        if not path.exists() or (path.is_file() and _head(path) in (b"", HEAD)):
            return
    except OSError:
        # what cannot be read cannot be told from a session
        pass
    raise TargetError(f"{path} exists and is not a session", "choose another name")


def load(session: Session, path: Path, system: str | None = None, *, adopt: bool = True) -> Loaded:
    """Put the conversation of ``path`` in the place of the session's, and what was computed of it into the context.

    With ``adopt`` a session that was held with this model brings its prompt format along. With another model, format or
    ``system`` the words are tokenized anew. Raises NotFoundError, FormatError.
    """
    value = _read(path)
    try:
        turns, placed, said = _turns(value), ids(value.get("placed")), text(value.get("system"))
    except ValueError as error:
        raise _damaged(path) from error
    settings = _settings(value, path)
    vocab = session.context.model.vocab
    known = identity(session.context)
    if adopt and (value.get("identity") == known or value.get("model") == session.context.model.name):
        kept = _format(value.get("prompt"), vocab, path)
        if kept is not None and kept.key != session.format.key:
            session.format, session.why = kept, "the session was held in it"
    session.clear()
    session.system = said if system is None else system
    same = value.get("identity") == known and value.get("format") == session.format.key and session.system == said
    if not same:
        session.past, session.ids = replay(
            session.format,
            vocab,
            session.system,
            [(turn.user, turn.answer) for turn in turns],
            opened=bool(turns) and turns[0].opened,
            reasoning=[turn.reasoning for turn in turns],
            room=session.context.n_ctx if session.shift else None,
        )
        session.context.clear()
        note = "it was held with another model or format: its words are read again"
        return Loaded(len(turns), 0, note if turns else "", *settings)
    session.past, session.ids = turns, list(value["ids"])
    session.placed = tuple(placed)
    if max([*session.ids, *placed, largest_lost(turns)]) >= vocab.size:
        session.clear()
        raise _damaged(path)
    if not session.ids:
        return Loaded(0, 0, "", *settings)
    try:
        return Loaded(len(turns), load_state(session.context, state_path(path)), "", *settings)
    except (FormatError, OSError) as error:
        session.context.clear()
        why = error.what if isinstance(error, FormatError) else f"{state_path(path).name} is missing"
        return Loaded(len(turns), 0, f"{why}: the conversation is computed again", *settings)


def _format(value: Any, vocab: Vocab, path: Path) -> Format | None:
    """The format that `Format.described` describes; None for a style that is not known here, or for nothing."""
    if value is None:
        return None
    try:
        reverse = [str(stop) for stop in value["stops"]]
        if "template" in value:
            return TemplatePrompt(vocab, ChatTemplate(text(value["template"])), reverse, dict(value["variables"]))
        if "affixes" in value:
            prefix, suffix, bos = value["affixes"]
            return AffixPrompt(vocab, prefix=str(prefix), suffix=str(suffix), prefix_bos=bos is True, reverse=reverse)
        style = stylebook.known().get(value["style"])
        return StylePrompt(vocab, style, reverse) if style is not None else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path) from error


def _settings(value: dict[str, Any], path: Path) -> tuple[SamplingParams | None, int | None]:
    """Sampling and limit, as far as the file tells: older ones do not."""
    found, limit = value.get("sampling"), value.get("limit")
    if found is None:
        return None, None
    kinds = {item.name: item.type for item in fields(SamplingParams)}
    try:
        given = {name: _tuples(item) for name, item in found.items() if name in kinds}
        if not all(_is(str(kinds[name]), item) for name, item in given.items()):
            raise _damaged(path)
        return SamplingParams(**given), limit if type(limit) is int else None
    except (GgufrunError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path) from error


def _is(kind: str, value: Any) -> bool:
    """Is ``value`` of a setting's type?"""
    if not kind.startswith("tuple"):
        return type(value).__name__ in {"float": ("float", "int")}.get(kind, (kind,))
    if kind == "tuple[str, ...]":
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    pairs = value if isinstance(value, tuple) else (None,)
    return all(isinstance(pair, tuple) and list(map(type, pair)) in ([int, float], [int, int]) for pair in pairs)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all, readable by its owner only: what people say is theirs."""
    with appearing(path, 0o600) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))


def _read(path: Path) -> dict[str, Any]:
    try:
        value = jsontext.parse(read_bytes(path, MAX_BYTES, "choose another file"))
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: no such session", "check the path") from error
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read: {error.strerror}", "check the path") from error
    except ValueError as error:
        raise _damaged(path) from error
    if not isinstance(value, dict):
        raise _damaged(path)
    version = value.get("ggufrun session")
    if type(version) is int and version > VERSION:
        raise FormatError(f"{path} was written by a newer ggufrun", "update this one")
    if version not in (1, VERSION):
        raise _damaged(path)
    return value


def _turns(value: dict[str, Any]) -> list[Exchange]:
    """The turns, of either version. ValueError."""
    turns, whole = value.get("turns"), ids(value.get("ids"))
    if not isinstance(turns, list):
        raise ValueError("no turns")
    if value["ggufrun session"] == 1:
        return [read_first_form(turn, whole) for turn in turns]
    return [read_turn(turn, index) for index, turn in enumerate(turns)]


def _head(path: Path) -> bytes:
    return read_start(path, len(HEAD))


def _damaged(path: Path) -> FormatError:
    return FormatError(f"{path} is not a session, or damaged", "choose another file, or remove it to start again")
