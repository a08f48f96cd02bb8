"""Commands whose flags stand in records: a frozen dataclass with one annotated field a flag."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints


def command_from(
    record: type,
    run: Callable[[Any], None],
    doc: str,
    without: frozenset[str] = frozenset(),
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Callable[..., None]:
    """A function for Typer with a parameter for every field of the dataclass ``record``; it calls ``run`` with one.

    Fields in ``without`` are no flags of this command: they keep their defaults. ``run`` works within ``around()``.
    """

    def command(**values: Any) -> None:
        with around():
            run(record(**values))

    found = [parameter for parameter in _parameters(record) if parameter.name not in without]
    return _dressed(command, found, doc, "command")


def expanded(
    command: Callable[..., None], around: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Callable[..., None]:
    """``command`` for Typer: in the place of each parameter that is a record stand that record's fields.

    It works within ``around()``.
    """
    # not get_type_hints, which until Python 3.11 hides the flag of a parameter whose default is None in an Optional
    own = inspect.signature(command, eval_str=True).parameters
    records = {name: parameter.annotation for name, parameter in own.items() if _is_record(parameter.annotation)}

    def wrapped(**values: Any) -> None:
        for name, record in records.items():
            values[name] = record(**{item.name: values.pop(item.name) for item in fields(record)})
        with around():
            command(**values)

    found: list[inspect.Parameter] = []
    for name, parameter in own.items():
        found += _parameters(records[name]) if name in records else [parameter.replace(kind=parameter.KEYWORD_ONLY)]
    return _dressed(wrapped, found, command.__doc__ or "", command.__name__)


def _is_record(annotation: Any) -> bool:
    return isinstance(annotation, type) and is_dataclass(annotation)


def _parameters(record: type) -> list[inspect.Parameter]:
    hints = get_type_hints(record, include_extras=True)
    return [
        inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=item.default, annotation=hints[item.name])
        for item in fields(record)
    ]


def _dressed(
    command: Callable[..., None], parameters: list[inspect.Parameter], doc: str, name: str
) -> Callable[..., None]:
    """What Typer looks at."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__, command.__name__ = doc, name
    return command
