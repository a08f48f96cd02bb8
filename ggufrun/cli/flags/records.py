"""Commands whose flags are in records: frozen dataclasses with one annotated field a flag, or with records as fields.

A record with a ``SECTION`` has a heading of its own in ``--help``.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")


def command_from(
    record: type,
    run: Callable[[Any], None],
    doc: str,
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Callable[..., None]:
    """A function for Typer with a parameter for every flag of ``record``, which calls ``run`` with one.

    It works within ``around()``.
    """

    def command(**values: Any) -> None:
        with around():
            run(build(record, values))

    return _dressed(command, list(parameters(record)), doc, "command")


def with_records_expanded(
    command: Callable[..., None], around: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Callable[..., None]:
    """``command`` for Typer: each parameter that is a record is replaced by that record's flags.

    It works within ``around()``.
    """
    # not get_type_hints, which until Python 3.11 hides the flag of a parameter whose default is None in an Optional
    own = inspect.signature(command, eval_str=True).parameters
    records = {name: parameter.annotation for name, parameter in own.items() if _is_record(parameter.annotation)}

    def wrapped(**values: Any) -> None:
        for name, record in records.items():
            flags = {parameter.name: values.pop(parameter.name) for parameter in parameters(record)}
            values[name] = build(record, flags)
        with around():
            command(**values)

    found: list[inspect.Parameter] = []
    for name, parameter in own.items():
        kept = [parameter.replace(kind=parameter.KEYWORD_ONLY)]
        found += parameters(records[name]) if name in records else kept
    return _dressed(wrapped, found, command.__doc__ or "", command.__name__)


def build(record: type[T], values: dict[str, Any]) -> T:
    """``record`` from flags by their names, those of its parts among them; what is not named keeps its default.

    Raises TypeError for a name that no flag has.
    """
    left = dict(values)
    made = _taken(record, left)
    if left:
        raise TypeError(f"{record.__name__} has no flag {next(iter(left))!r}")
    return made


def _taken(record: type[T], values: dict[str, Any]) -> T:
    hints = get_type_hints(record)
    own: dict[str, Any] = {}
    for item in fields(record):  # type: ignore[arg-type]
        if _is_record(hints[item.name]):
            own[item.name] = _taken(hints[item.name], values)
        elif item.name in values:
            own[item.name] = values.pop(item.name)
    return record(**own)


@cache
def parameters(record: type, section: str | None = None) -> tuple[inspect.Parameter, ...]:
    """The flags of a record, and of the records in it, as parameters of a command."""
    return tuple(_parameters(record, section))


def _parameters(record: type, section: str | None) -> Iterator[inspect.Parameter]:
    section = getattr(record, "SECTION", section)
    hints = get_type_hints(record, include_extras=True)
    for item in fields(record):
        hint = hints[item.name]
        if _is_record(hint):
            yield from parameters(hint, section)
        else:
            yield inspect.Parameter(
                item.name, inspect.Parameter.KEYWORD_ONLY, default=_default(item), annotation=_under(hint, section)
            )


def _default(item: Field[Any]) -> Any:
    assert item.default is not MISSING, f"a flag has a default: {item.name}"
    return item.default


def _under(hint: Any, section: str | None) -> Any:
    """The annotation of a flag, with its section's heading."""
    extras = getattr(hint, "__metadata__", ())
    if section is None or not extras:
        return hint
    option = copy.copy(extras[0])
    option.rich_help_panel = section
    changed = copy.copy(hint)
    changed.__metadata__ = (option, *extras[1:])
    return changed


def _is_record(annotation: Any) -> bool:
    return isinstance(annotation, type) and is_dataclass(annotation)


def _dressed(
    command: Callable[..., None], parameters: list[inspect.Parameter], doc: str, name: str
) -> Callable[..., None]:
    """What Typer looks at."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__, command.__name__ = doc, name
    return command
