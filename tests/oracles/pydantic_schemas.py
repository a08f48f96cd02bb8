"""JSON schemas as pydantic writes them, with values that it takes and others.

``python -m tests.oracles.pydantic_schemas`` runs where pydantic is installed; the answers are kept in
``golden/pydantic.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent.parent / "golden" / "pydantic.json"


def cases() -> dict[str, tuple[Any, list[Any]]]:
    """Types, each with JSON values to try."""
    import datetime
    import enum
    import ipaddress
    import uuid
    from typing import Annotated, Literal

    from pydantic import AnyUrl, BaseModel, ConfigDict, Field

    class Colour(str, enum.Enum):
        RED = "red"
        BLUE = "blue"

    class Size(enum.IntEnum):
        SMALL = 1
        LARGE = 2

    class Point(BaseModel):
        x: int
        y: int = 0

    class Strict(BaseModel):
        model_config = ConfigDict(extra="forbid")
        name: Annotated[str, Field(min_length=1, max_length=4)]
        age: Annotated[int, Field(ge=0, le=130)]

    class Cat(BaseModel):
        kind: Literal["cat"]
        lives: Annotated[int, Field(gt=0, lt=10)]

    class Dog(BaseModel):
        kind: Literal["dog"]
        good: bool

    class Owner(BaseModel):
        pet: Annotated[Cat | Dog, Field(discriminator="kind")]

    class Tree(BaseModel):
        value: int
        children: list[Tree] = []

    class Everything(BaseModel):
        colour: Colour
        size: Size
        where: Point | None = None
        tags: Annotated[list[Annotated[str, Field(pattern=r"^[a-z]{2,5}$")]], Field(max_length=2)]
        extra: dict[str, float]

    return {
        "int bounds": (Annotated[int, Field(ge=-3, lt=12)], [-4, -3, 0, 9, 10, 11, 12, 100, "1"]),
        "int above": (Annotated[int, Field(gt=99)], [0, 99, 100, 12345, -100]),
        "int multiple": (Annotated[int, Field(ge=0, multiple_of=7)], [0, 7, 8, 14, 70, 700, 701]),
        "int of five": (Annotated[int, Field(multiple_of=5, ge=10, le=50)], [5, 10, 12, 50, 55]),
        "float bounds": (Annotated[float, Field(ge=0, le=1)], [0, 1, 0.5, 0.05, 1.01, -0.1, 2]),
        "float open": (Annotated[float, Field(gt=-1.5, lt=2.25)], [-1.5, -1.49, 0, 2.2, 2.25, 2.3, 2.249]),
        "pattern": (Annotated[str, Field(pattern=r"^\d{3}-\d{4}$")], ["555-1234", "555-12345", "x555-1234", ""]),
        "pattern within": (Annotated[str, Field(pattern="静夜|[Aa]b+")], ["背静夜思", "xAbbz", "a", "静"]),
        "quotation marks": (Annotated[str, Field(pattern=r'^"[^"\\]*"$')], ['"a"', '""', "a", '"a\\"']),
        "literal": (Literal["a", 2, True], ["a", 2, True, "b", 3]),
        "enum": (Colour, ["red", "green"]),
        "strict": (
            Strict,
            [{"name": "李白", "age": 61}, {"name": "", "age": 1}, {"name": "abcde", "age": 1},
             {"name": "a", "age": 131}, {"name": "a", "age": 1, "b": 2}, {"name": "a"}],
        ),
        "discriminator": (
            Owner,
            [{"pet": {"kind": "cat", "lives": 9}}, {"pet": {"kind": "cat", "lives": 10}},
             {"pet": {"kind": "dog", "good": True}}, {"pet": {"kind": "dog", "lives": 9}}],
        ),
        "tree": (Tree, [{"value": 1, "children": [{"value": 2, "children": []}]}, {"value": 1}, {"children": []}]),
        "tuple": (tuple[int, str], [[1, "a"], [1], [1, "a", 2], ["a", 1]]),
        "everything": (
            Everything,
            [
                {"colour": "red", "size": 1, "where": {"x": 1, "y": 2}, "tags": ["ab"], "extra": {"a": 1.5}},
                {"colour": "red", "size": 3, "where": None, "tags": ["ab"], "extra": {}},
                {"colour": "red", "size": 1, "where": None, "tags": ["AB"], "extra": {}},
                {"colour": "blue", "size": 2, "where": None, "tags": ["ab", "cd", "ef"], "extra": {}},
                {"colour": "blue", "size": 2, "tags": ["ab", "cdefg"], "extra": {}},
            ],
        ),
        "date": (datetime.date, ["2024-02-28", "2024-2-28"]),
        "time span": (datetime.timedelta, ["P3DT12H30M5S", "PT5M", "5 minutes"]),
        "address": (ipaddress.IPv4Address, ["192.168.0.1", "192.168.0.256", "1.2.3"]),
        "uuid": (uuid.UUID, ["123e4567-e89b-12d3-a456-426614174000", "123"]),
        "url": (AnyUrl, ["https://example.org/a?b=c", "no url"]),
    }  # fmt: skip


def record() -> dict[str, Any]:
    """For each case the schema, and of the values those that pydantic takes in strict mode and the others."""
    from pydantic import TypeAdapter, ValidationError

    def taken(adapter: TypeAdapter[Any], value: Any) -> bool:
        try:
            adapter.validate_json(json.dumps(value), strict=True)
        except ValidationError:
            return False
        return True

    found = {}
    for name, (kind, values) in cases().items():
        adapter = TypeAdapter(kind)
        good = [value for value in values if taken(adapter, value)]
        found[name] = {
            "schema": adapter.json_schema(),
            "good": good,
            "bad": [value for value in values if not any(json.dumps(value) == json.dumps(other) for other in good)],
        }
    return found


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(record(), ensure_ascii=False, indent=1) + "\n", "utf-8")
