"""config.json, read strictly: a value that is missing, of the wrong kind or not understood is an error."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufrun.checkpoint.jsonfile import read_json as read_json
from ggufrun.checkpoint.jsonfile import read_object
from ggufrun.errors import FormatError, UnsupportedError


@dataclass(frozen=True)
class Config:
    """The values of a config.json over the defaults of its family.

    Every getter raises FormatError for a value of the wrong kind and for a missing one without a default.
    """

    path: Path
    values: Mapping[str, Any]

    def with_defaults(self, defaults: Mapping[str, Any]) -> Config:
        """The same with ``defaults`` where a key is absent or null, as transformers fills them in."""
        present = {key: value for key, value in self.values.items() if value is not None}
        return Config(self.path, {**self.values, **defaults, **present})

    @property
    def architectures(self) -> tuple[str, ...]:
        """The names of the model classes that the checkpoint was saved from."""
        names = self.values.get("architectures")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise FormatError(f"{self.path} names no architecture", 'add "architectures": ["LlamaForCausalLM"] or so')
        return tuple(names)

    def integer(self, key: str, low: int = 1, high: int = (1 << 31) - 1) -> int:
        """A whole number from ``low`` to ``high``."""
        value = self._value(key)
        if type(value) is not int or not low <= value <= high:
            raise self._bad(key, value, f"a whole number from {low} to {high}")
        return value

    def optional_integer(self, key: str) -> int | None:
        """A whole number, or None where the key is absent or null."""
        return None if self.values.get(key) is None else self.integer(key)

    def first(self, *keys: str) -> str | None:
        """The first of ``keys`` that is present and not null; None where none is."""
        return next((key for key in keys if self.has(key)), None)

    def any_of(self, *keys: str) -> str | None:
        """The same, but FormatError where null is all that is said."""
        found = self.first(*keys)
        if found is None:
            for key in keys:
                if key in self.values:
                    self._value(key)
        return found

    def has(self, key: str) -> bool:
        """Present and not null."""
        return self.values.get(key) is not None

    def number(self, key: str) -> float:
        """A finite number."""
        value = self._value(key)
        if type(value) not in (int, float) or not abs(value) < float("inf"):
            raise self._bad(key, value, "a number")
        return float(value)

    def flag(self, key: str) -> bool:
        """true or false; null is false, as it is for Python."""
        value = False if key in self.values and self.values[key] is None else self._value(key)
        if type(value) is not bool:
            raise self._bad(key, value, "true or false")
        return value

    def require(self, key: str, allowed: Collection[Any]) -> None:
        """Refuse a value outside ``allowed``: llama.cpp computes this kind of model with those alone, and a GGUF has no
        place for another."""
        value = self.values.get(key)
        if value is None and key in self.values and any(type(each) is bool for each in allowed):
            # to Python, null is false
            value = False
        if value is None or value in allowed:
            return
        only = f"with {' or '.join(map(repr, allowed))} only" if allowed else "without it only"
        raise UnsupportedError(
            f"{self.path.name} says {key} = {value!r}, and llama.cpp computes models of this kind {only}",
            "a GGUF has no place for it: run this model with another runtime",
        )

    def numbers(self, key: str) -> list[float]:
        """A list of finite numbers."""
        value = self._value(key)
        if not isinstance(value, list) or not all(
            type(item) in (int, float) and abs(item) < float("inf") for item in value
        ):
            raise self._bad(key, value, "a list of numbers")
        return [float(item) for item in value]

    def section(self, key: str) -> Config | None:
        """A nested object, or None."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._bad(key, value, "an object")
        return Config(self.path, value)

    def _value(self, key: str) -> Any:
        value = self.values.get(key)
        if value is None and key in self.values:
            raise FormatError(
                f"{self.path} says {key} = null, without which this model is not defined", "give it its value"
            )
        if value is None:
            raise FormatError(f"{self.path} lacks {key}", "complete the file or download it again")
        return value

    def _bad(self, key: str, value: Any, wanted: str) -> FormatError:
        return FormatError(f"{self.path} says {key} = {value!r}, not {wanted}", "correct the file or download it again")


def read_config(folder: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """The config.json of a checkpoint folder, with ``overrides`` in place of what it says.

    Overrides that name an architecture are a whole configuration, and need no file.
    """
    path = folder / "config.json"
    if overrides and "architectures" in overrides:
        return Config(path, overrides)
    return Config(path, {**read_object(path), **(overrides or {})})
