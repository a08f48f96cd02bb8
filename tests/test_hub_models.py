"""The local models folder: what is found in it, and by which names."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufrun.errors import NotFoundError, UsageError
from ggufrun.hub import resolve_model
from ggufrun.hub.models import models_folder
from ggufrun.hub.scan import scan
from tests.support.checkpoints import DEMO, write_llama


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder as people have it; the GGUF files are empty, only their names count here."""
    folder = tmp_path / "models"
    monkeypatch.setenv("GGUFRUN_MODELS", str(folder))
    monkeypatch.chdir(tmp_path)
    for name in (
        "plain-Q4_K_M.gguf",
        "org/one/one-Q8_0.gguf",
        "org/two/two-Q4_0.gguf",
        "org/two/two-Q8_0-00001-of-00002.gguf",
        "org/two/two-Q8_0-00002-of-00002.gguf",
        "org/two/.cache/huggingface/download/two-Q2_K.gguf",
        "org/cut/cut-F16-00001-of-00003.gguf",
        "notes/readme.txt",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"12345")
    write_llama(folder / "org" / "checkpoint", shards=2)
    return folder


def test_scan(models: Path) -> None:
    found = {model.name: model for model in scan(models)}
    assert list(found) == [
        "org/checkpoint",
        "org/cut/cut-F16",
        "org/one/one-Q8_0",
        "org/two/two-Q4_0",
        "org/two/two-Q8_0",
        "plain-Q4_K_M",
    ]
    two = found["org/two/two-Q8_0"]
    assert (two.type, two.size, len(two.files), two.missing) == ("Q8_0", 10, 2, ())
    assert found["org/cut/cut-F16"].missing == ("cut-F16-00002-of-00003.gguf", "cut-F16-00003-of-00003.gguf")
    checkpoint = found["org/checkpoint"]
    assert not checkpoint.is_gguf and not checkpoint.missing
    assert checkpoint.size == sum(path.stat().st_size for path in (models / "org/checkpoint").iterdir())
    next((models / "org/checkpoint").glob("*-00002-of*.safetensors")).unlink()
    (checkpoint,) = (model for model in scan(models) if not model.is_gguf)
    assert checkpoint.missing == ("model-00002-of-00002.safetensors",)


def test_scan_does_not_follow_circles(models: Path) -> None:
    before = len(scan(models))
    (models / "org" / "again").symlink_to(models)
    assert len(scan(models)) == before


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain-Q4_K_M", "plain-Q4_K_M.gguf"),
        ("PLAIN-q4_k_m.gguf", "plain-Q4_K_M.gguf"),
        ("org/one", "org/one/one-Q8_0.gguf"),
        ("one", "org/one/one-Q8_0.gguf"),
        ("one-q8_0", "org/one/one-Q8_0.gguf"),
        ("org/two:q8_0", "org/two/two-Q8_0-00001-of-00002.gguf"),
        ("org/two:Q4-0", "org/two/two-Q4_0.gguf"),
        ("two/two-Q8_0-00002-of-00002.gguf", "org/two/two-Q8_0-00001-of-00002.gguf"),
        ("checkpoint", "org/checkpoint"),
    ],
)
def test_names(models: Path, name: str, expected: str) -> None:
    assert resolve_model(name) == models / expected


def test_a_path_that_exists_wins(models: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    assert resolve_model("one") == Path("one")
    assert resolve_model(str(models / "plain-Q4_K_M.gguf")) == models / "plain-Q4_K_M.gguf"


def test_no_such_model_and_too_many(models: Path) -> None:
    with pytest.raises(UsageError, match="org/two/two-Q4_0, org/two/two-Q8_0"):
        resolve_model("org/two")
    with pytest.raises(NotFoundError, match="did you mean plain-q4_k_m"):
        resolve_model("plane-Q4_K_M")
    with pytest.raises(NotFoundError, match="ggufrun list"):
        resolve_model("./nowhere/x.gguf")
    with pytest.raises(NotFoundError, match="checkpoint is a checkpoint, not a GGUF"):
        resolve_model("checkpoint", gguf_only=True)
    # a part of a name is no name
    with pytest.raises(NotFoundError):
        resolve_model("ne-Q8_0")
    for name in ("a\0b", "x" * 5000):
        with pytest.raises(NotFoundError, match="no such file"):
            resolve_model(name)


def test_where_the_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GGUFRUN_MODELS", "~/mine")
    assert models_folder() == Path.home() / "mine"
    monkeypatch.delenv("GGUFRUN_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert models_folder().name == "models" and models_folder().is_absolute()
    assert "ggufrun" in models_folder().parts
    with pytest.raises(NotFoundError, match="no such file"):
        resolve_model("x")
    (tmp_path / "models").mkdir()
    assert models_folder() == Path("models")


def test_the_converters_output_and_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_gguf: Callable[[str], Path]
) -> None:
    monkeypatch.setenv("GGUFRUN_MODELS", str(tmp_path))
    shutil.copy(demo_gguf("q8_0"), tmp_path / "poet-Q8_0.gguf")
    (tmp_path / "tang-poet").symlink_to(DEMO)
    assert [(model.name, model.is_gguf) for model in scan(tmp_path)] == [("poet-Q8_0", True), ("tang-poet", False)]
