"""Chat templates of published tokenizers, where ``make tokenizers`` has fetched them, after their conversion: the text
that they make of conversations is transformers', letter by letter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ggufrun.chat.formats import sandbox, template_process
from ggufrun.chat.formats.template import ChatTemplate
from ggufrun.convert.plan import Wishes, plan_vocabulary
from ggufrun.errors import FormatError
from tests.oracles.chat_oracle import CASES
from tests.published_tokenizers.check import REFUSED, is_here
from tests.published_tokenizers.sources import CACHE
from tests.published_tokenizers.strings import digest
from tests.published_tokenizers.templates import GOLDEN, Clock, default_of

RECORDED = json.loads(GOLDEN.read_text("utf-8"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The time at which the answers were recorded; the process that renders is a fork of this one."""
    monkeypatch.setattr(sandbox, "datetime", Clock)
    template_process.stop()
    yield
    template_process.stop()


def template_and_tokens(name: str, out: Path) -> tuple[str, dict[str, str]]:
    """Those of the GGUF; of a tokenizer that does not become one, those of its files."""
    if name in REFUSED:
        settings = json.loads((CACHE / name / "tokenizer_config.json").read_text("utf-8"))
        kinds = ("bos_token", "eos_token")
        return str(default_of(settings["chat_template"])), {key: settings[key] for key in kinds if settings.get(key)}
    plan = plan_vocabulary(CACHE / name, out, Wishes("tokenizer"))
    plan.close()
    header = plan.targets[0].header
    texts = header.get("tokenizer.ggml.tokens")
    ids = {kind: header.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("bos", "eos")}
    tokens = {f"{kind}_token": texts[number] for kind, number in ids.items() if number is not None}
    return str(header.get("tokenizer.chat_template")), tokens


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("name", RECORDED)
def test_as_transformers_renders(tmp_path: Path, name: str) -> None:
    if not is_here(name):
        pytest.skip("not fetched: make tokenizers")
    source, tokens = template_and_tokens(name, tmp_path / "out.gguf")
    template = ChatTemplate(source)
    found: dict[str, str | None] = {}
    for case, asked in CASES.items():
        try:
            text = template.render(
                asked["messages"], tokens=tokens, prompt=asked.get("prompt", True), variables=asked.get("variables", {})
            )
            found[case] = digest(text)
        except FormatError:
            found[case] = None
    assert found == RECORDED[name]
    assert sum(text is not None for text in found.values()) > 3
