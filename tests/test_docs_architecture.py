"""The page about adding an architecture shows the code that is in the tree, and names what is there."""

from __future__ import annotations

import re
from pathlib import Path

from ggufrun.convert.arch import families
from tests.layouts.table import table

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "adding-an-architecture.md").read_text()

SHOWN = re.findall(r"<!-- from: (\S+) -->\n```python\n(.*?)```", PAGE, re.DOTALL)


def test_shown_code_is_the_codes() -> None:
    assert len(SHOWN) == PAGE.count("```python")
    for path, code in SHOWN:
        assert code in (ROOT / path).read_text(), f"{path} has changed: {code.splitlines()[0]}"


def test_named_files_and_options_exist() -> None:
    for name in re.findall(r"`(tests/[\w*/.]+|ggufrun/[\w/.]+)`", PAGE):
        assert list(ROOT.glob(name.rstrip("/"))), name
    assert "InternLM2ForCausalLM" in families()
    assert '"--converter"' in (ROOT / "ggufrun" / "cli" / "commands" / "convert.py").read_text()


def test_the_table_of_families_is_made_from_their_declarations() -> None:
    """``python -m tests.layouts.table`` prints it."""
    found = (ROOT / "docs" / "checkpoints.md").read_text("utf-8").partition("<!-- families -->\n")[2]
    assert found.partition("\n\n")[0] + "\n" == table()


def test_every_family_is_listed() -> None:
    table = (ROOT / "docs" / "checkpoints.md").read_text().partition("<!-- families -->")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"`(\w+)`", table)) == sorted(families())
    assert re.findall(r"\b(\d+) architectures", (ROOT / "README.md").read_text("utf-8")) == [str(len(families()))]
