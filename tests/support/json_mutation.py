"""Changes to JSON that keep it JSON: values of other types, out of every range, missing, repeated, nested, renamed.

What byte fuzzing cannot reach, for nearly all of its cases end in the parser.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

Path = tuple[Any, ...]

BIG = 10**400
SCALARS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 255, 65536, 2**31 - 1, 2**31, -(2**31) - 1, 2**32, 2**63 - 1, 2**63, 2**64,
    10**30, 10**299, -(10**299), BIG, 0.0, -0.0, 0.5, -1.5, 1e-320, 1e38, 1e39, 1e308, float("inf"), float("-inf"),
    float("nan"), "", "0", "1", "a", "F32", "../x", "/etc/hosts", "a\0b", "\ud800", "字", "{{", "(", "x" * 70_000,
)  # fmt: skip
COMPOUND: tuple[Any, ...] = ([], {}, [[]], [{}], {"": {}}, [1], ["a"], [None], {"a": 1}, [[1, 2], [3]], [0] * 5000)
"""Values that nobody expects."""


def nested(depth: int, kind: type) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


def paths(value: Any, here: Path = ()) -> list[Path]:
    """Every place in a value; of long lists and objects the first ones and the last."""
    found = [here]
    if len(here) > 60:
        return found
    if isinstance(value, dict):
        names = list(value)
        for name in names[:60] + names[60:][-2:]:
            found += paths(value[name], (*here, name))
    elif isinstance(value, list):
        for index in sorted({*range(min(len(value), 6)), *range(max(0, len(value) - 2), len(value))}):
            found += paths(value[index], (*here, index))
    return found


def changed(value: Any, path: Path, change: Callable[[Any, Any], Any]) -> Any:
    """A copy of ``value`` in which ``change(container, key)`` was done at ``path``."""
    if not path:
        holder = [value]
        change(holder, 0)
        return holder[0] if holder else None
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(path) > 1:
        copy[path[0]] = changed(value[path[0]], path[1:], change)
    else:
        change(copy, path[0])
    return copy


def _alike(value: Any, chance: random.Random) -> Any:
    """Something near ``value``: what readers take for it at a first look."""
    if isinstance(value, bool) or value is None:
        return chance.choice(("true", 1, 0, [value], {"value": value}))
    if isinstance(value, int):
        return chance.choice((-value, value + 1, value - 1, value * 2, float(value), str(value), value << 20, [value]))
    if isinstance(value, float):
        return chance.choice((-value, value * 1e30, str(value), int(value), [value]))
    if isinstance(value, str):
        return chance.choice((value[:-1], value + "x", value * 2, [value], {"content": value}, len(value)))
    if isinstance(value, list):
        return chance.choice((value * 2, value[:-1], value[1:], [value], {"0": value[:1]}, len(value)))
    values = list(value.values())
    return chance.choice((list(value), values, [value], dict(list(value.items())[:-1]), " ".join(map(str, value))))


def mutate(value: Any, chance: random.Random) -> Any:
    """A parsed value with one to three changes."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        # near the top, where most of what is read stands
        places = sorted(paths(value), key=len)
        path = places[min(chance.randrange(len(places)), chance.randrange(len(places)))]
        kind = chance.randrange(10)
        if kind < 4:
            new = chance.choice(SCALARS)
        elif kind < 6:
            new = chance.choice((*COMPOUND, nested(60, list), nested(60, dict), nested(400, list)))
        else:
            new = None

        def change(container: Any, key: Any, kind: int = kind, new: Any = new) -> None:
            if kind < 6:
                container[key] = new
            elif kind < 8:
                container[key] = _alike(container[key], chance)
            elif kind == 8 and container:
                del container[key]
            elif isinstance(container, dict):
                # another name for it, or for its neighbour
                name = chance.choice((str(key) + "x", "", "__class__", "a" * 300, *map(str, container)))
                container[name] = container[key]
            elif container:
                container.append(container[key])

        value = changed(value, path, change)
    return value


def dumps(value: Any) -> bytes:
    """As Python writes it, whatever it holds."""
    limit = sys_digits(0)
    try:
        return json.dumps(value, skipkeys=True).encode()
    finally:
        sys_digits(limit)


def sys_digits(limit: int) -> int:
    import sys

    before = sys.get_int_max_str_digits() if hasattr(sys, "get_int_max_str_digits") else 0
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(limit)
    return before


def mutate_json(data: bytes, chance: random.Random) -> bytes:
    """A JSON file, changed."""
    while True:
        try:
            text = dumps(mutate(json.loads(data), chance))
            break
        except (OverflowError, RecursionError, ValueError):
            # a change of a change that cannot be written
            continue
    if chance.randrange(20) == 0:
        text = text.replace(b"1", b"1" * 6000, 1)
    return text


def mutate_header(data: bytes, chance: random.Random) -> bytes:
    """A safetensors file whose header was changed; its length stays true."""
    length = int.from_bytes(data[:8], "little")
    header = mutate_json(data[8 : 8 + length], chance)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]
