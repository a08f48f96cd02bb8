"""The styles there are: the published ones, and those that the user has written down in ``styles.toml``.

A table of that file is a style: ``first``, ``bare``, ``later``, ``end``, ``system``, ``controls``, ``stops`` and
``sampling`` as in `ggufrun.chat.formats.styles`. ``like`` names a style whose other values count where the table says
nothing, and ``names`` are regular expressions: a model whose name one of them matches is talked to in this style.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ggufrun.chat.formats.styles import NAMES, PLACE, STYLES, TOKENS, Style
from ggufrun.engine.sampling.params import SamplingParams
from ggufrun.engine.vocabulary import Vocab
from ggufrun.errors import FormatError, GgufrunError, UsageError
from ggufrun.regularfile import read_bytes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TEXTS = ("first", "bare", "later", "end", "system")
LISTS = ("controls", "stops", "names")
MAX_BYTES = 1 << 20
"""A file of styles is not larger."""

HEAD = re.compile(r"""^\s*\[\s*["']?([^"'\].]+)""", re.MULTILINE)
"""The beginning of a table, whatever else is wrong."""

BRACES = re.compile(r"\{([a-z]+)\}")


@dataclass(frozen=True)
class Stylebook:
    """Styles by name, and patterns of model names with the style of each.

    Of a file with a mistake there are none: ``trouble`` says what is wrong, and ``meant`` are the styles it speaks of.
    """

    styles: Mapping[str, Style]
    names: tuple[tuple[str, str], ...]
    trouble: FormatError | None = None
    meant: frozenset[str] = frozenset()


def styles_file() -> Path:
    """Where the user's own styles are written down."""
    from platformdirs import user_config_path

    return user_config_path("ggufrun", appauthor=False) / "styles.toml"


def known() -> Mapping[str, Style]:
    """Every style by its name; the user's own come last, or in the place of one that is called so."""
    return MappingProxyType({**STYLES, **_own().styles})


def trouble() -> FormatError | None:
    """What is wrong with the user's own styles, none of which count then."""
    return _own().trouble


def means(name: str) -> bool:
    """Do the user's own styles speak of one called ``name``, whether it is sound or not?"""
    own = _own()
    return name in own.styles or name in own.meant


def find(name: str) -> Style:
    """The style called ``name``; raises UsageError with the names there are, FormatError where the user's own styles
    have one of that name, or may have, and something is wrong with them.
    """
    styles, own = known(), _own()
    style = styles.get(name) or styles.get(name.lower().replace("_", "-"))
    if own.trouble is not None and (style is None or own.meant & {name, style.name}):
        raise own.trouble
    if style is None:
        raise UsageError(f"there is no style {name!r}", f"choose from {', '.join(styles)}")
    return style


def guess(model_name: str, vocab: Vocab) -> tuple[Style, str] | None:
    """The style that a model's name or vocabulary reveals, and what revealed it; None when nothing does."""
    styles, name = known(), model_name.lower()
    for pattern, style in _own().names:
        if re.search(pattern, model_name, re.IGNORECASE):
            return styles[style], f"the model is called {model_name}, which {styles_file().name} knows"
    for pattern, style in NAMES:
        if re.search(pattern, name):
            return styles[style], f"the model is called {model_name}"
    for token, style in TOKENS:
        if vocab.control(token) is not None:
            return styles[style], f"the vocabulary has {token}"
    if vocab.control("<|im_start|>") is not None and re.search(r"chat|instruct", name):
        return styles["chatml"], "the vocabulary has <|im_start|>, and the model's name says that it talks"
    return None


@dataclass(frozen=True)
class _Place:
    """A table in a file, for saying what is wrong with it and where."""

    text: str
    where: str
    table: str

    def wrong(self, key: str, what: str, todo: str) -> FormatError:
        """An error that names the line of ``key``, or of the table's head."""
        lines = self.text.splitlines()
        start = self._find(rf"""\[?\s*["']?{re.escape(self.table)}["']?\s*[\].=]""", lines, 0)
        line = self._find(rf""".*?\b["']?{re.escape(key)}["']?\s*=""", lines, start) if key else start
        return FormatError(f"{self.where}: line {line + 1}: {what}", todo)

    @staticmethod
    def _find(pattern: str, lines: list[str], start: int) -> int:
        head = re.compile(rf"\s*{pattern}")
        return next((number for number in range(start, len(lines)) if head.match(lines[number])), start)


def _own() -> Stylebook:
    path = styles_file()
    try:
        status = path.stat()
    except OSError:
        return Stylebook({}, ())
    return _read(path, status.st_mtime_ns, status.st_size)


@cache
def _read(path: Path, changed: int, size: int) -> Stylebook:
    text = ""
    try:
        try:
            text = read_bytes(path, MAX_BYTES, "keep the styles that you use").decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FormatError(f"{path} cannot be read: {error}", "write it as UTF-8 text, or remove it") from error
        return parse(text, str(path))
    except FormatError as error:
        # A mistake in one style is no reason not to talk in another.
        return Stylebook({}, (), error, frozenset(HEAD.findall(text)))


def parse(text: str, where: str) -> Stylebook:
    """The styles of a file called ``where``. Raises FormatError that names the line, or the style and its key."""
    try:
        tables = tomllib.loads(text)
    # the former is a ValueError, and so is a number of too many digits
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: {error}", "write it as TOML, or remove the file") from error
    styles: dict[str, Style] = {}
    names: list[tuple[str, str]] = []
    for name, table in tables.items():
        place = _Place(text, where, name)
        if not isinstance(table, dict):
            raise place.wrong("", f"{name} is outside of a table", "a style begins with its name in [ ]")
        styles[name] = _style(name, table, styles, place)
        names += [(pattern, name) for pattern in _patterns(name, table.get("names", []), place)]
    return Stylebook(MappingProxyType(styles), tuple(names))


def _style(name: str, table: dict[str, Any], before: Mapping[str, Style], place: _Place) -> Style:
    like = table.get("like", "none")
    base = {**STYLES, **before}.get(like) if isinstance(like, str) else None
    if base is None:
        raise place.wrong("like", f"{name}.like is {like!r}", f"choose from {', '.join([*STYLES, *before])}")
    if "like" not in table and "first" not in table:
        raise place.wrong("", f"{name} says no first", "write how a conversation begins, or like = a style")
    values: dict[str, Any] = {"name": name}
    for key, value in table.items():
        if key in TEXTS:
            values[key] = _text(name, key, value, place)
        elif key in LISTS:
            if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
                raise place.wrong(key, f"{name}.{key} is not a list of texts", f'write {key} = ["..."]')
            if key != "names":
                values[key] = tuple(value)
        elif key == "sampling":
            values[key] = _sampling(name, value, place)
        elif key != "like":
            allowed = ", ".join((*TEXTS, *LISTS, "sampling", "like"))
            raise place.wrong(key, f"{name}.{key} is not part of a style", f"choose from {allowed}")
    if "like" not in table:
        # What is not said follows from what is.
        values.setdefault("bare", values["first"].replace("{s}", ""))
        values.setdefault("later", values["bare"].replace("{bos}", ""))
        values.setdefault("end", "{eos}")
    return replace(base, **values)


def _text(name: str, key: str, value: Any, place: _Place) -> str:
    if not isinstance(value, str):
        raise place.wrong(key, f"{name}.{key} is not text", f'write {key} = "..."')
    if key != "system":
        strange = next((place for place in BRACES.findall(value) if not PLACE.fullmatch(f"{{{place}}}")), None)
        if strange is not None:
            raise place.wrong(key, f"{name}.{key} has {{{strange}}}", "choose from {s}, {u}, {bos}, {eos}, {cut}")
        if key in ("first", "bare", "later") and "{u}" not in value:
            raise place.wrong(key, f"{name}.{key} has no {{u}}", "say where the message goes")
    return value


def _sampling(name: str, value: Any, place: _Place) -> Mapping[str, float]:
    kinds = {item.name: item.type for item in fields(SamplingParams)}
    if not isinstance(value, dict):
        raise place.wrong("sampling", f"{name}.sampling is not a table", "write sampling = {temp = 0.7}")
    for key, number in value.items():
        if kinds.get(key) not in ("int", "float"):
            raise place.wrong(key, f"{name}.sampling.{key} is not a setting", "/set in a conversation lists them")
        if type(number) not in (int, float):
            raise place.wrong(key, f"{name}.sampling.{key} is not a number", f"write {key} = 0.5")
    try:
        SamplingParams(**value)
    except GgufrunError as error:
        raise place.wrong("sampling", f"{name}.sampling: {error.what}", error.todo) from error
    return MappingProxyType(dict(value))


def _patterns(name: str, patterns: list[str], place: _Place) -> list[str]:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            what = f"{name}.names has {pattern!r}: {error}"
            raise place.wrong("names", what, "write a regular expression") from error
    return patterns
