"""What the flags of ``ggufrun serve`` mean: the models and their settings, who may ask, and how long things last."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ggufrun.cli.flags import placement
from ggufrun.errors import UsageError
from ggufrun.units import parse_size

if TYPE_CHECKING:
    from ggufrun.server.catalog import Catalog
    from ggufrun.server.guard import Rules
    from ggufrun.server.settings import Settings

KEY_VARIABLE = "GGUFRUN_API_KEY"
MOST_KEYS = 1000


def placed(settings: Settings, flags: placement.PlaceFlags) -> Settings:
    """``settings`` with where the flags put models."""
    place = placement.placement(flags)
    return replace(
        settings,
        gpu_layers=placement.layers(flags),
        split=place.split,
        shares=place.shares,
        main=place.main,
        overrides=place.overrides,
        cpu_experts=place.cpu_experts,
        devices=place.devices,
        rpc=flags.rpc or "",
        margin=placement.margin(flags),
    )


def adapters(plain: Sequence[Path], scaled: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """``--lora`` and ``--lora-scaled``. Raises UsageError, NotFoundError."""
    from ggufrun.engine.adapters import Adapter
    from ggufrun.engine.adapters import scaled as parsed
    from ggufrun.errors import NotFoundError

    found = [*(Adapter(path) for path in plain), *(one for text in scaled for one in parsed(text))]
    for one in found:
        if not one.path.is_file():
            raise NotFoundError(f"{one.path}: no such file", "give the path of a GGUF adapter")
    return tuple((str(one.path.absolute()), one.scale) for one in found)


def keys(given: Sequence[str], file: Path | None) -> tuple[str, ...]:
    """The API keys: of the flags, of a file with one a line, of the environment. Raises UsageError."""
    found = [*given, *filter(None, [os.environ.get(KEY_VARIABLE)])]
    if file is not None:
        from ggufrun.regularfile import read_text

        lines = (line.strip() for line in read_text(file, 1 << 20).splitlines())
        found += [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise UsageError(f"--api-key-file {file} has no key in it", "write one a line")
    if len(found) > MOST_KEYS or not all(0 < len(key) < 1000 for key in found):
        raise UsageError("an API key is empty or too long", "give keys of up to 999 characters")
    return tuple(dict.fromkeys(found))


def loopback(host: str) -> bool:
    """Can only this machine connect to ``host``?"""
    import ipaddress

    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def rules(
    host: str, api_keys: tuple[str, ...], no_auth: bool, origins: Sequence[str], hosts: Sequence[str], max_body: str
) -> Rules:
    """Who may ask. Raises UsageError for an open address without a key."""
    from ggufrun.server.guard import Rules

    if not loopback(host) and not api_keys and not no_auth:
        raise UsageError(
            f"{host} can be reached from other machines, and no API key is set",
            f"give --api-key or --api-key-file (or set {KEY_VARIABLE}), or --no-auth to let everybody in",
        )
    names = tuple(name.lower() for name in hosts)
    return Rules(api_keys, loopback(host), tuple(origins), names, parse_size(max_body))


def catalog(models: Sequence[str], settings: Settings, file: Path | None = None) -> Catalog:
    """The models of the command line, ``NAME=PATH`` among them; without any, those of the models folder. ``file`` is
    another ``models.toml`` than the user's own.

    Raises NotFoundError, UsageError.
    """
    from ggufrun.hub.models import models_folder, resolve_model
    from ggufrun.hub.scan import scan
    from ggufrun.server.catalog import Catalog, Entry
    from ggufrun.server.models_file import applied, default_file, read

    place = file or default_file()
    tables = read(place) if file is not None or place.is_file() else {}
    if not models:
        folder = models_folder()

        def local() -> list[Entry]:
            found = scan(folder) if folder.is_dir() else []
            return [
                applied(Entry(one.name, one.path.absolute(), settings, local=one), tables)
                for one in found
                if one.is_gguf and not one.missing
            ]

        return Catalog([], local)
    entries: list[Entry] = []
    for text in models:
        alias, equals, rest = text.partition("=")
        if not equals or Path(text).exists():
            alias, rest = "", text
        path = resolve_model(rest, gguf_only=True)
        if path.is_dir():
            raise UsageError(f"{rest} is a folder, not a .gguf file", f"convert it first: ggufrun convert {rest}")
        name = alias or (model_name(path) if Path(rest).exists() else rest)
        if name in {entry.name for entry in entries}:
            raise UsageError(f"two models are called {name}", "give one of them another name: NAME=PATH")
        entries.append(applied(Entry(name, path.absolute(), settings), tables))
    return Catalog(entries)


def model_name(path: Path) -> str:
    """What a file's model is called."""
    from ggufrun.hub.select import SPLIT

    return SPLIT.sub("", path.stem)
