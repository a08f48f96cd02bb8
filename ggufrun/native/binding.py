"""A library of C functions as an object that the type checker knows: see `ggufrun.native.signatures`."""

from __future__ import annotations

import ctypes
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType, SimpleNamespace
from typing import Any, TypeVar, cast

T = TypeVar("T")


@dataclass(frozen=True)
class Signature:
    """What a C function returns and takes, as ctypes types; a structure of llama-cpp-python's is named by its name."""

    result: Any
    arguments: tuple[Any, ...]


class MissingFunctionError(Exception):
    """The library does not export a function. ``name`` is the function's."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def signature(function: Callable[..., Any]) -> Signature:
    """The signature that a function of a protocol declares by its annotations."""
    kinds = dict(function.__annotations__)
    result = kinds.pop("return")
    return Signature(_kind(result), tuple(_kind(kind) for kind in kinds.values()))


def _kind(annotation: Any) -> Any:
    return None if annotation is None else annotation.__metadata__[0]


def signatures(protocol: type) -> dict[str, Signature]:
    """The functions of a protocol by name."""
    return {
        name: signature(value)
        for name, value in vars(protocol).items()
        if isinstance(value, FunctionType) and not name.startswith("__") and name != "_proto_hook"
    }


def declare(function: Any, wanted: Signature, structures: Mapping[str, Any]) -> Any:
    """Tell ctypes the signature of ``function``, and return it."""

    def resolved(kind: Any) -> Any:
        return structures[kind] if isinstance(kind, str) else kind

    function.restype = resolved(wanted.result)
    function.argtypes = [resolved(kind) for kind in wanted.arguments]
    return function


def bind(protocol: type[T], library: ctypes.CDLL, structures: Mapping[str, Any] | None = None) -> T:
    """The functions of ``protocol`` as ``library`` exports them. ``structures`` has what the protocol takes from
    llama-cpp-python, by name. Raises MissingFunctionError.
    """
    given = structures or {}
    members: dict[str, Any] = {name: given[name] for name in inspect.get_annotations(protocol)}
    for name, wanted in signatures(protocol).items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise MissingFunctionError(name) from None
        members[name] = declare(function, wanted, given)
    return cast(T, SimpleNamespace(**members))


def bind_if_exported(protocol: type[T], library: ctypes.CDLL) -> T | None:
    """As `bind`; None for a library without one of the functions."""
    try:
        return bind(protocol, library)
    except MissingFunctionError:
        return None


def function_if_exported(protocol: type[T], library: ctypes.CDLL, name: str) -> T | None:
    """The function ``name`` with the signature of the protocol's ``__call__``; None where it is not exported."""
    function = getattr(library, name, None)
    if function is None:
        return None
    return cast(T, declare(function, signature(cast(Any, protocol).__call__), {}))
