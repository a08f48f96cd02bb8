"""The poems that the embedded model knows, read from the file that it was taught from."""

from __future__ import annotations

from tests.support.checkpoints import ROOT


def _read() -> dict[str, str]:
    text = (ROOT / "models" / "training" / "poems.txt").read_text(encoding="utf-8")
    poems = {}
    for record in text.split("\n\n"):
        lines = [line for line in record.strip().splitlines() if not line.startswith("#")]
        fields = dict(line.split(": ", 1) for line in lines if ": " in line)
        if "title" in fields:
            poems[fields["title"]] = "\n".join(line for line in lines if ": " not in line)
    return poems


POEMS: dict[str, str] = _read()
"""Title to text, one couplet a line."""
