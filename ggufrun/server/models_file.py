"""``models.toml``: how single models are served, where that differs from what the command line says of all.

A table is named after a model. ``alias`` gives it further names; the other keys are fields of `Settings`, in the words
of the command line. Paths are relative to the file.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ggufrun.errors import FormatError, NotFoundError
from ggufrun.regularfile import read_bytes
from ggufrun.server.catalog import Entry, plain
from ggufrun.server.plan import SAMPLING_FLAGS
from ggufrun.server.settings import Settings
from ggufrun.server.times import parse_time

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES = 1 << 20

NUMBERS = ("context", "parallel", "gpu_layers", "batch", "ubatch", "threads", "threads_batch", "cpu_experts")
TEXTS = ("style", "flash_attention", "cache_k", "cache_v", "split")
SWITCHES = ("think", "mmap", "mlock", "oversize")
FILES = ("draft", "mmproj")
OTHERS = ("alias", "keep_alive", "template", "adapters", "sampling", "template_variables")

assert {*NUMBERS, *TEXTS, *SWITCHES, *FILES, *OTHERS} - {"alias"} <= {item.name for item in fields(Settings)}


@dataclass(frozen=True)
class Table:
    """What the file says of one model."""

    aliases: tuple[str, ...]
    values: Mapping[str, Any]


def default_file() -> Path:
    """Where it is when nobody says otherwise."""
    from platformdirs import user_config_path

    return user_config_path("ggufrun", appauthor=False) / "models.toml"


def read(path: Path) -> dict[str, Table]:
    """The tables by the models' names, as `plain` writes them. Raises FormatError that names the file and the key."""
    try:
        tables = tomllib.loads(read_bytes(path, MAX_BYTES, "keep what you use").decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: {error}", "write it as TOML") from error
    found = {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise FormatError(f"{path}: {name} is outside of a table", 'a model begins with its name: ["NAME"]')
        values = {key: _value(path, name, key, value) for key, value in table.items()}
        aliases = values.pop("alias", ())
        found[plain(name)] = Table(aliases, values)
    return found


def applied(entry: Entry, tables: Mapping[str, Table]) -> Entry:
    """``entry`` as its table says, if it has one."""
    table = tables.get(plain(entry.name))
    if table is None:
        return entry
    values = dict(table.values)
    if "sampling" in values:
        values["sampling"] = {**entry.settings.sampling, **values["sampling"]}
    return replace(entry, aliases=(*entry.aliases, *table.aliases), settings=replace(entry.settings, **values))


def _value(path: Path, name: str, key: str, value: Any) -> Any:
    """The value of a field of `Settings`. Raises FormatError."""

    def wrong(wanted: str) -> FormatError:
        return FormatError(f"{path}: {name}: {key} = {value!r:.60}", wanted)

    def number(one: Any) -> bool:
        return isinstance(one, (int, float)) and not isinstance(one, bool)

    if key in NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong("give a whole number")
        return value
    if key in SWITCHES:
        if not isinstance(value, bool):
            raise wrong("give true or false")
        return value
    if key in TEXTS:
        if not isinstance(value, str):
            raise wrong("give a text")
        return value
    if key in FILES:
        return str(_file(path, name, key, value))
    if key == "keep_alive":
        return parse_time(str(value), f"{path}: {name}: keep_alive")
    if key == "template":
        return read_bytes(_file(path, name, key, value), MAX_BYTES, "give another template").decode("utf-8", "replace")
    if key == "alias":
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
            raise wrong("give a name or a list of names")
        return tuple(texts)
    if key == "adapters":
        pairs = [
            one if isinstance(one, list) else [one, 1.0] for one in (value if isinstance(value, list) else [value])
        ]
        if not all(len(pair) == 2 and number(pair[1]) for pair in pairs):
            raise wrong('give files, or pairs such as ["adapter.gguf", 0.5]')
        return tuple((str(_file(path, name, key, pair[0])), float(pair[1])) for pair in pairs)
    if key == "sampling":
        if not isinstance(value, dict) or not all(one in SAMPLING_FLAGS and number(value[one]) for one in value):
            raise wrong(f"give numbers for any of {', '.join(SAMPLING_FLAGS)}")
        return value
    if key == "template_variables":
        if not isinstance(value, dict):
            raise wrong("give a table")
        return value
    known = ", ".join(sorted((*NUMBERS, *TEXTS, *SWITCHES, *FILES, *OTHERS)))
    raise FormatError(f"{path}: {name}: there is no key {key!r}", f"choose from {known}")


def _file(path: Path, name: str, key: str, value: Any) -> Path:
    if not isinstance(value, str) or not value:
        raise FormatError(f"{path}: {name}: {key} = {value!r:.60}", "give the path of a file")
    found = (path.parent / Path(value).expanduser()).absolute()
    if not found.is_file():
        raise NotFoundError(f"{path}: {name}: {key}: there is no file {found}", "check the path")
    return found
