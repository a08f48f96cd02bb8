"""Long lists of tensors in few lines: ``model.layers.{0-27}.mlp.up_proj.weight BF16 8960x1536``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator

Entry = tuple[str, str, tuple[int, ...]]
"""Name, type, shape."""

NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
SET = re.compile(r"\{([\d,-]+)\}")

Numbers = tuple[int, ...]


def collapse(entries: Iterable[Entry]) -> list[str]:
    """The lines of ``entries``; names that differ in numbers alone share one. Their order is lost."""
    groups: dict[tuple[str, str, tuple[int, ...]], list[Numbers]] = {}
    for name, kind, shape in entries:
        key = NUMBER.sub("*", name), kind, shape
        groups.setdefault(key, []).append(tuple(map(int, NUMBER.findall(name))))
    lines = []
    for (template, kind, shape), numbers in groups.items():
        size = "x".join(map(str, shape)) or "scalar"
        for sets in _products(sorted(set(numbers))):
            parts = iter(sets)
            lines.append(f"{re.sub(re.escape('*'), lambda _: next(parts), template)} {kind} {size}")  # noqa: B023
    return lines


def expand(lines: Iterable[str]) -> Iterator[Entry]:
    """The entries of ``lines``, those of each line in the order of their numbers."""
    for line in lines:
        name, kind, size = line.split(" ")
        shape = () if size == "scalar" else tuple(map(int, size.split("x")))
        texts = SET.split(name)
        choices = [_members(text) if index % 2 else (text,) for index, text in enumerate(texts)]
        for parts in itertools.product(*choices):
            yield "".join(parts), kind, shape


def _members(text: str) -> list[str]:
    found = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += [str(number) for number in range(int(first), int(last or first) + 1)]
    return found


def _products(numbers: list[Numbers]) -> Iterator[tuple[str, ...]]:
    """``numbers``, sorted, as products of sets: one text for each place."""
    if not numbers[0]:
        yield ()
        return
    tails: dict[tuple[Numbers, ...], list[int]] = {}
    for first, group in itertools.groupby(numbers, key=lambda each: each[0]):
        tails.setdefault(tuple(each[1:] for each in group), []).append(first)
    for tail, firsts in tails.items():
        for rest in _products(list(tail)):
            yield _text(firsts), *rest


def _text(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return "{" + ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs) + "}"
