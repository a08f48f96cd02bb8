"""A source that changes while it is read is noticed before the target appears."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ggufrun.checkpoint.adapters.adapter import AdapterRequest
from ggufrun.checkpoint.gguf.file import Kind, encode
from ggufrun.convert import pipeline
from ggufrun.convert.annotate import annotate
from ggufrun.convert.plan import Plan, plan_convert, plan_quantize
from ggufrun.errors import FormatError
from ggufrun.quantize.types import FILE_TYPES
from ggufrun.regularfile import read_bytes, recorded
from tests.fuzz import SMALL, adapter
from tests.support.checkpoints import write_llama


def overwrite(path: Path) -> None:
    """The same number of other bytes in the same place, as a download that starts again puts them there."""
    with path.open("r+b") as file:
        data = file.read()
        file.seek(len(data) // 2)
        file.write(bytes(16))
    # a clock may not have moved between two writes of a test
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def replace(path: Path) -> None:
    """Another file in its place."""
    shutil.copy(path, path.with_name("other"))
    path.with_name("other").replace(path)


def refused(plan: Plan, change: Callable[[], object], folder: Path) -> None:
    """Run a plan, with the change in its midst: it must say so, and leave nothing."""
    before = {path for path in folder.rglob("*") if path.is_file()}
    changed = False

    def progress(_: int) -> None:
        nonlocal changed
        if not changed:
            change()
        changed = True

    try:
        with pytest.raises(FormatError, match="changed while it was read; run this again when nothing"):
            pipeline.run(plan, threads=1, on_progress=progress)
    finally:
        plan.close()
    assert changed and {path for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("change", [overwrite, replace])
def test_a_gguf(tmp_path: Path, demo_gguf: Callable[[str], Path], change: Callable[[Path], None]) -> None:
    source = tmp_path / "model.gguf"
    shutil.copy(demo_gguf("f16"), source)
    plan = plan_quantize(source, [FILE_TYPES["Q8_0"]], lambda kind: tmp_path / "out.gguf")
    refused(plan, lambda: change(source), tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.model"])
def test_a_checkpoint(tmp_path: Path, name: str) -> None:
    write_llama(tmp_path, **SMALL)
    plan = plan_convert(tmp_path, [FILE_TYPES["F16"]], lambda kind: tmp_path / "out.gguf")
    refused(plan, lambda: overwrite(tmp_path / name), tmp_path)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "base/model.safetensors"])
def test_an_adapter_and_what_it_is_merged_into(tmp_path: Path, name: str) -> None:
    adapter(tmp_path)
    target = tmp_path / "out.gguf"
    plan = plan_convert(
        tmp_path / "base", [FILE_TYPES["F16"]], lambda kind: target, adapters=[AdapterRequest(tmp_path, 1.0)]
    )
    refused(plan, lambda: overwrite(tmp_path / name), tmp_path)


def test_other_files_may_come_and_go(tmp_path: Path) -> None:
    """What was not read does not matter, nor a file that is gone: it was read as it was."""
    write_llama(tmp_path, **SMALL)
    plan = plan_convert(tmp_path, [FILE_TYPES["F16"]], lambda kind: tmp_path / "out.gguf")

    def change(_: int) -> None:
        (tmp_path / "notes.txt").write_text(str(np.random.default_rng().random()))
        (tmp_path / "config.json").unlink(missing_ok=True)

    pipeline.run(plan, threads=1, on_progress=change)
    plan.close()
    assert (tmp_path / "out.gguf").is_file()


def test_files_that_are_read_twice_are_the_same_twice(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({}))
    with recorded() as read:
        read_bytes(path, 100)
        read_bytes(path, 100)
        read.check()
        overwrite(path)
        with pytest.raises(FormatError, match=r"config\.json changed while it was read"):
            read_bytes(path, 100)
        with pytest.raises(FormatError, match=r"config\.json changed while it was read"):
            read.check()
    read_bytes(path, 100)


def test_notes_in_a_file_that_changes(
    tmp_path: Path, demo_gguf: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ggufrun.convert import annotate as room

    path = tmp_path / "model.gguf"
    shutil.copy(demo_gguf("q8_0"), path)
    monkeypatch.setattr(room, "check_targets", lambda *_, **__: overwrite(path))
    with pytest.raises(FormatError, match="changed while it was read"):
        annotate(path, "x.", {"x.y": encode("z", Kind.STRING)})
    assert [file.name for file in tmp_path.iterdir()] == ["model.gguf"]
