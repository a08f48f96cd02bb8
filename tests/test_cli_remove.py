"""``ggufrun remove`` as a shell and as a terminal see it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufrun.convert.imatrix import save_imatrix
from ggufrun.quantize.imatrix import Imatrix
from ggufrun.workflows.imatrix import MODEL_KEY, model_digest
from tests.support.terminal import Screen
from tests.test_cli_convert import fails, ggufrun

Gguf = Callable[[str], Path]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_gguf: Gguf) -> Path:
    folder = tmp_path / "models" / "org" / "poet"
    folder.mkdir(parents=True)
    for name, kind in (("poet-F16", "f16"), ("poet-Q8_0", "q8_0"), ("诗-Q4_K_M", "q4_k_m")):
        shutil.copyfile(demo_gguf(kind), folder / f"{name}.gguf")
    monkeypatch.setenv("GGUFRUN_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return folder


def test_without_a_terminal_it_takes_a_flag(models: Path) -> None:
    fails(
        ggufrun("remove", "poet-F16"), "nothing was removed, .*no terminal to ask at; --yes removes this model unasked"
    )
    fails(ggufrun("rm", "poet-F16", "poet-Q8_0"), "these 2 models unasked")
    fails(ggufrun("rm", "-y", "poet-F16", "nothing"), "no such file, and no model in .*nothing")
    assert len(list(models.iterdir())) == 3
    result = ggufrun("remove", "--yes", "org/poet:f16")
    assert (result.stdout, result.stderr) == (f"{models / 'poet-F16.gguf'}\n", "  6.6 MiB freed\n")
    result = ggufrun("rm", "-y", "poet-Q8_0", "诗-q4_k_m", "诗-Q4_K_M.gguf", "--json")
    told = json.loads(result.stdout)
    assert [one["name"] for one in told["removed"]] == ["org/poet/poet-Q8_0", "org/poet/诗-Q4_K_M"]
    assert told["bytes"] > 5_000_000 and result.stderr == ""
    assert [one["files"] for one in told["removed"]] == [[one["path"]] for one in told["removed"]]
    assert list(models.parent.parent.iterdir()) == []


def test_a_matrix_goes_with_the_model_that_it_was_measured_on(models: Path) -> None:
    matrix, digest = models / "poet-imatrix.gguf", model_digest(models / "poet-F16.gguf")
    save_imatrix(matrix, Imatrix({}, (), 0, 0, ""), extra={MODEL_KEY: digest})
    ggufrun("rm", "-y", "poet-Q8_0")
    assert matrix.exists()
    # by a link to the model it does not go either, since the model stays
    (models / "poet-BF16.gguf").symlink_to("poet-F16.gguf")
    ggufrun("rm", "-y", "poet-BF16")
    assert matrix.exists()
    result = ggufrun("rm", "-y", "poet-F16", "poet-imatrix")
    assert result.stdout.splitlines() == [str(models / "poet-F16.gguf"), str(matrix)]
    assert [path.name for path in models.iterdir()] == ["诗-Q4_K_M.gguf"]


def test_the_cache_is_told_of(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    blobs = tmp_path / "hf" / "hub" / "models--org--poet" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "abc").write_bytes(b"12345")
    result = ggufrun("rm", "-y", "poet-F16", "poet-Q8_0")
    assert result.stderr.count("the hub's cache still has org/poet, 5 B: `h") == 1
    assert (blobs / "abc").exists()


def test_it_asks_at_a_terminal(models: Path) -> None:
    """Enter means no; what goes and the room it frees is said first."""

    def asked(answer: str, *names: str) -> tuple[int, str]:
        screen = Screen("remove", *names, columns=120, env=dict(os.environ))
        screen.until("[y/N]")
        screen.type(answer)
        return screen.leave(), screen.text

    status, text = asked("\r", "poet-F16")
    assert status == 1 and "Remove this model, and free 6.6 MiB? [y/N]" in text and "nothing was removed" in text
    status, text = asked("n\r", "诗-Q4_K_M", "poet-F16")
    assert status == 1 and "Remove these 2 models, and free 8.6 MiB? [y/N]" in text
    assert "诗-Q4_K_M.gguf: GGUF, 2.1 MiB" in " ".join(text.split())
    status, _ = asked("\x03", "poet-F16")
    assert status == 130 and len(list(models.iterdir())) == 3
    status, text = asked("y\r", "poet-F16")
    assert status == 0 and "6.6 MiB freed" in text and not (models / "poet-F16.gguf").exists()
