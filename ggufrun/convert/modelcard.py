"""What a model card says of its model: the YAML between two lines of dashes at the head of README.md.

Read as llama.cpp's converter reads it, but within bounds: the ``gguf`` package's own reader takes a file of any kind
and size, and a few lines of YAML can stand for a value without end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ggufrun.errors import FormatError
from ggufrun.regularfile import read_text

MAX_BYTES = 64 << 20
"""Of the whole file, in which there may be pictures."""

MAX_HEAD = 4 << 20
"""Of the part that is YAML. Published ones with thousands of measurements take up to half a million."""

MAX_VALUES = 1 << 20
"""With what aliases repeat."""

TODO = "correct or remove README.md"


def read_model_card(folder: Path) -> dict[str, Any]:
    """The values of a model card; empty where there is none. FormatError for one that makes no sense."""
    import yaml

    path = folder / "README.md"
    if not path.is_file():
        return {}
    first, *lines = read_text(path, MAX_BYTES, TODO).splitlines() or [""]
    if first != "---":
        return {}
    head = "\n".join(lines[: lines.index("---")] if "---" in lines else lines) + "\n"
    if len(head) > MAX_HEAD:
        raise FormatError(f"the model card {path} is longer than any", TODO)
    # Norway's code is a language here, not a truth value; YAML takes no tabs, some cards have them all the same
    head = head.replace("- no\n", '- "no"\n').replace("\t", "  ")
    try:
        # the same loader in C, where the package has it
        found = yaml.load(head, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())[:100] or type(error).__name__
        raise FormatError(f"the model card {path} makes no sense: {why}", TODO) from error
    _check_amount(found, path)
    return found if isinstance(found, dict) else {}


def _check_amount(value: Any, path: Path) -> None:
    rest, count = [value], 0
    while rest:
        item = rest.pop()
        count += 1
        if count > MAX_VALUES:
            raise FormatError(f"the model card {path} repeats itself without end", TODO)
        if isinstance(item, dict):
            rest += [*item, *item.values()]
        elif isinstance(item, list | tuple | set):
            rest += item
