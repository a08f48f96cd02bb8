"""Long lists of tensors in few lines: ``model.layers.{0-27}.mlp.{gate_proj,up_proj}.weight BF16 8960x1536``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator

Entry = tuple[str, str, tuple[int, ...]]
"""Name, type, shape."""

NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
SET = re.compile(r"\{([^}]+)\}")
RANGE = re.compile(r"(\d+)-(\d+)")

Numbers = tuple[int, ...]


def collapse(entries: Iterable[Entry]) -> list[str]:
    """The lines of ``entries``; those of one type and shape share one if their names are alike. Their order is lost."""
    groups: dict[tuple[str, str, tuple[int, ...]], list[Numbers]] = {}
    for name, kind, shape in entries:
        key = NUMBER.sub("*", name), kind, shape
        groups.setdefault(key, []).append(tuple(map(int, NUMBER.findall(name))))
    kinds: dict[tuple[str, str], list[str]] = {}
    for (template, kind, shape), numbers in groups.items():
        size = "x".join(map(str, shape)) or "scalar"
        for sets in _products(sorted(set(numbers))):
            parts = iter(sets)
            name = re.sub(re.escape("*"), lambda _: next(parts), template)  # noqa: B023
            kinds.setdefault((kind, size), []).append(name)
    return [f"{name} {kind} {size}" for (kind, size), names in kinds.items() for name in _joined(names)]


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
    found: list[str] = []
    for part in text.split(","):
        match = RANGE.fullmatch(part)
        found += map(str, range(int(match[1]), int(match[2]) + 1)) if match else [part]
    return found


def _joined(names: list[str]) -> list[str]:
    """Names that differ in one part alone as one, from the last part to the first."""
    for place in range(1, 1 + max(name.count(".") + 1 for name in names)):
        groups: dict[tuple[str, ...], list[str]] = {}
        for name in names:
            parts = name.split(".")
            if len(parts) >= place:
                groups.setdefault((*parts[:-place], "", *parts[len(parts) - place + 1 :]), []).append(parts[-place])
            else:
                groups[tuple(parts)] = [""]
        names = []
        for key, found in groups.items():
            parts = list(key)
            if len(parts) >= place:
                alike = [text for text in found if "{" not in text]
                parts[-place] = "{" + ",".join(alike) + "}" if len(alike) > 1 else "".join(alike)
                choices = ([parts[-place]] if alike else []) + [text for text in found if "{" in text]
                names += [".".join([*parts[:-place], text, *parts[len(parts) - place + 1 :]]) for text in choices]
            else:
                names.append(".".join(parts))
    return names


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
