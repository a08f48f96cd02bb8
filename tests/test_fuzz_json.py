"""A short run of the fuzzer of JSON values, the same every time, and that it finds what it should."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from ggufrun.engine.model import Model
from ggufrun.errors import GgufrunError
from tests import fuzz_json
from tests.fuzz import Target
from tests.support import json_mutation

ROUNDS = {"session": 60, "schema": 150, "llama": 40, "lora": 30, "tokenizer": 10, "vocab-json": 10, "tekken-json": 10}
"""The others get 20, a family 2."""


def rounds(name: str) -> int:
    return 2 if name.startswith("family ") else ROUNDS.get(name, 20)


@pytest.mark.parametrize("name", list(fuzz_json.targets(object())))
def test_values_that_nobody_expects_end_in_clean_errors(name: str, tmp_path: Path, demo_model: Model) -> None:
    target = fuzz_json.targets(demo_model)[name]
    done, findings = fuzz_json.run(name, target, rounds(name), 1, corpus=tmp_path)
    assert done == rounds(name) and findings == {}


@pytest.mark.parametrize("name", [*fuzz_json.PROMPTS, "session", "sharded", "meta", "fp8", "fp8-rows"])
def test_the_sound_files_are_sound(name: str, tmp_path: Path, demo_model: Model) -> None:
    target = fuzz_json.targets(demo_model)[name]
    target.make(tmp_path)
    target.read(tmp_path)


@pytest.mark.parametrize(
    "value", ['{"a": {"b": [1, 2.5, "x", null, true]}}', "[]", "{}", "1", '{"deep": [[[[1]]]], "": {"x": "y"}}']
)
def test_changes_stay_json_and_differ(value: str) -> None:
    chance = random.Random(1)
    found = {json_mutation.mutate_json(value.encode(), chance) for _ in range(300)}
    assert len(found) > 30
    kept = [text for text in found if b"1" * 4000 not in text and b"0" * 380 not in text]
    assert len(kept) > 30 and all(json.loads(text) != 7.25 for text in kept)


KEPT: list[tuple[str, str, dict[str, Any]]] = [
    ("granite-4-h-small", "layer_types", {"layer_types": [{}, {}]}),
    ("llama3-rope-freqs", "heads of", {"hidden_size": 2**31 - 1}),
]
"""Families, a word of the error, and values of config.json that were believed once."""


@pytest.mark.parametrize(("name", "word", "changes"), KEPT)
def test_kept_values(name: str, word: str, changes: dict[str, Any], tmp_path: Path) -> None:
    fuzz_json.family(tmp_path, name)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))
    with pytest.raises(GgufrunError, match=word):
        fuzz_json.convert_family(tmp_path)


def test_a_reader_that_believes_what_it_reads_is_found(tmp_path: Path) -> None:
    """Each of these is an error that a reader made once: a list for a text, a number that is too large, digits."""

    def careless(folder: Path) -> None:
        value = json.loads((folder / "x.json").read_bytes())
        float(value.get("theta", 1))
        {value.get("dtype")}

    sound = '{"theta": 10000.0, "dtype": "F32"}'
    target = Target(lambda folder: (folder / "x.json").write_text(sound), careless, ("x.json",))
    _, findings = fuzz_json.run("careless", target, 2000, 1, corpus=tmp_path)
    problems = " ".join(problem.strip().splitlines()[-1] for problem in findings.values())
    for kind in ("unhashable type: 'list'", "OverflowError", "digits", "has no attribute 'get'", "could not convert"):
        assert kind in problems
