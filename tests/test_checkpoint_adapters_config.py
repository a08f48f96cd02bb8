"""Every setting of peft's LoRA configuration is known: understood, harmless, or refused with what it means.

``golden/lora-config.json`` holds the fields and their defaults, beside the command that printed them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ggufrun.checkpoint.adapters.config import HARMLESS, MERGED_BY_PEFT, NOT_MERGEABLE, Settings
from ggufrun.errors import FormatError, UnsupportedError
from tests.conftest import Oracle

GOLDEN = Path(__file__).parent / "golden" / "lora-config.json"
PRINT = (
    "import dataclasses, json, peft; found = peft.LoraConfig(task_type='CAUSAL_LM'); "
    "print(json.dumps({'fields': sorted(field.name for field in dataclasses.fields(found)), "
    "'defaults': found.to_dict()}, default=str))"
)
KNOWN = {*HARMLESS, *NOT_MERGEABLE, *MERGED_BY_PEFT}

MS_SWIFT = {"lora_dtype": "fp16", "lorap_lr_ratio": 16.0, "lorap_emb_lr": 1e-06, "model_key_mapping": None}
"""What ms-swift 2 wrote besides."""


def settings(folder: Path, **values: object) -> Settings:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 8, **values}))
    return Settings(folder)


def check(tmp_path: Path, found: dict[str, object]) -> None:
    fields, defaults = found["fields"], found["defaults"]
    assert isinstance(fields, list) and isinstance(defaults, dict) and len(fields) > 40
    assert set(fields) <= KNOWN and set(defaults) <= KNOWN
    assert settings(tmp_path, **defaults).rank == 8


def test_todays_peft(tmp_path: Path) -> None:
    check(tmp_path, json.loads(GOLDEN.read_text()))


def test_peft_here(oracle: Oracle, tmp_path: Path, record: Path | None) -> None:
    printed = oracle.run(oracle.python, "-c", PRINT)
    fresh = json.JSONDecoder().raw_decode(printed[printed.index("{") :])[0]
    check(tmp_path, fresh)
    if record is not None:
        GOLDEN.write_text(json.dumps({"command": f"$ORACLE_PYTHON -c {PRINT!r}", **fresh}, indent=1) + "\n")


def test_ms_swift(tmp_path: Path) -> None:
    assert settings(tmp_path, **MS_SWIFT).scale("q_proj", 8) == 1


@pytest.mark.parametrize("key", sorted(NOT_MERGEABLE))
def test_what_no_merge_can_express(tmp_path: Path, key: str) -> None:
    with pytest.raises(UnsupportedError, match="no merge can express; use it with peft"):
        settings(tmp_path, **{key: [1]})
    settings(tmp_path, **{key: None})


@pytest.mark.parametrize("key", sorted(MERGED_BY_PEFT))
def test_what_peft_merges_otherwise(tmp_path: Path, key: str) -> None:
    with pytest.raises(UnsupportedError, match="merge it with peft and convert the result"):
        settings(tmp_path, **{key: [1]})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.21.2", (0, 21, 2)),
        ("0.19.1.dev0@abc", (0, 19, 1)),
        ("0.18.0rc1", (0, 18, 0)),
        ("1.0+local.7", (1, 0)),
        (None, ()),
        (18, ()),
        ("x.y", (0, 0)),
        ("9" * 400, (999999,)),
    ],
)
def test_versions(tmp_path: Path, text: object, expected: tuple[int, ...]) -> None:
    assert settings(tmp_path, peft_version=text).version == expected


@pytest.mark.parametrize("key", ["modules_to_save", "target_parameters"])
@pytest.mark.parametrize("value", ["lm_head", [1], [""], {"a": 1}, [["a"]]])
def test_lists_that_are_none(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(FormatError, match=key):
        settings(tmp_path, **{key: value})
