"""The table of families in docs/checkpoints.md, made from their declarations: ``python -m tests.layouts.table``."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from ggufrun.convert.arch import Family, families
from ggufrun.convert.arch.shared.family import none_ahead

EXAMPLES = 2
"""How many checkpoints are shown for each name: the first ones of the declaration."""

HEAD = """| family | name in `config.json` | for example | kept | left out |
|---|---|---|---|---|
"""


def table() -> str:
    """Markdown, a row for each family in the order of the registry."""
    titles: dict[str, list[Family]] = {}
    for family in families().values():
        found = titles.setdefault(family.title, [])
        if family not in found:
            found.append(family)
    return HEAD + "".join(_row(title, found) for title, found in titles.items())


def _row(title: str, found: Iterable[Family]) -> str:
    names = [name for family in found for name in family.names]
    shown = [checkpoint for family in found for examples in family.names.values() for checkpoint in examples[:EXAMPLES]]
    kept = ["text"] + ["layers that predict further tokens"] * any(family.ahead is not none_ahead for family in found)
    left = [part for family in found for part in family.left_out]
    cells = (
        title,
        ", ".join(f"`{name}`" for name in names),
        ", ".join(dict.fromkeys(shown)),
        ", ".join(kept),
        ", ".join(dict.fromkeys(left)),
    )
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    sys.stdout.write(table())
