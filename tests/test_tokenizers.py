"""Published tokenizers, where ``make tokenizers`` has fetched them: their ids, against recorded ones."""

from __future__ import annotations

import json

import pytest

from tests.published_tokenizers.check import OTHERWISE, REFUSED, differences, is_here
from tests.published_tokenizers.record import GOLDEN
from tests.published_tokenizers.sources import SAVED, SOURCES

RECORDED = json.loads(GOLDEN.read_text())


def test_all_are_recorded() -> None:
    saved = {f"{name}{SAVED}" for name, source in SOURCES.items() if source.package}
    assert set(RECORDED) == set(SOURCES) | saved
    assert {*REFUSED, *OTHERWISE} <= set(RECORDED)


@pytest.mark.parametrize("name", RECORDED)
def test_published_tokenizer(name: str) -> None:
    if not is_here(name):
        pytest.skip("not fetched: make tokenizers")
    found = differences(name, RECORDED[name])
    found.pop("strings", None)
    assert not found
