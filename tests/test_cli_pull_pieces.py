"""Models that were uploaded in pieces: pull joins them, checks the file, and does not fetch them again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.hubserver import HubServer, Repo, running

NAMES = {
    "poet.Q8_0.gguf": [f"poet.Q8_0.gguf.part{number}of3" for number in (1, 2, 3)],
    "poet-q4_k_m.gguf": [f"poet-q4_k_m.gguf-split-{letter}" for letter in "abc"],
}


def cut(data: bytes, names: list[str]) -> dict[str, bytes]:
    step = len(data) // len(names) + 1
    return {name: data[index * step : (index + 1) * step] for index, name in enumerate(names)}


@pytest.fixture
def hub(demo_gguf: Callable[[str], Path]) -> Iterator[HubServer]:
    with running() as server:
        files = cut(demo_gguf("q8_0").read_bytes(), NAMES["poet.Q8_0.gguf"])
        files |= cut(demo_gguf("q4_k_m").read_bytes(), NAMES["poet-q4_k_m.gguf"])
        files |= {"bad-Q6_K.gguf.part1of2": demo_gguf("q8_0").read_bytes()[:9000], "bad-Q6_K.gguf.part2of2": bytes(9)}
        files |= {"half-Q5_0.gguf.part1of2": bytes(2000)}
        server.repos["org/poet"] = Repo(files)
        yield server


def ggufrun(hub: HubServer, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ggufrun", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "GGUFRUN_MODELS": str(home / "models")},
    )


@pytest.mark.parametrize(("kind", "whole"), [("Q8_0", "poet.Q8_0.gguf"), ("Q4_K_M", "poet-q4_k_m.gguf")])
def test_pieces_are_joined(
    hub: HubServer, tmp_path: Path, demo_gguf: Callable[[str], Path], kind: str, whole: str
) -> None:
    result = ggufrun(hub, tmp_path, "pull", f"org/poet:{kind}", "--json")
    told = json.loads(result.stdout)
    assert Path(told["path"]).name == whole and told["received"] == 3, result.stderr
    folder = tmp_path / "models" / "org" / "poet"
    assert [path.name for path in folder.glob("*gguf*")] == [whole]
    assert (folder / whole).read_bytes() == demo_gguf(kind.lower()).read_bytes()
    hub.seen.clear()
    again = json.loads(ggufrun(hub, tmp_path, "pull", f"org/poet:{kind}", "--json").stdout)
    assert again["received"] == 0 and hub.received() == []
    (row,) = json.loads(ggufrun(hub, tmp_path, "list", "--json").stdout)["models"]
    assert row["type"] == kind and row["problem"] is None


def test_pieces_that_make_no_model(hub: HubServer, tmp_path: Path) -> None:
    result = ggufrun(hub, tmp_path, "pull", "org/poet:Q6_K")
    assert result.returncode == 1
    assert "the pieces of bad-Q6_K.gguf do not make a GGUF: bad-Q6_K.gguf is cut short" in result.stderr
    assert not list(tmp_path.rglob("bad-Q6_K.gguf"))
    result = ggufrun(hub, tmp_path, "pull", "org/poet:Q5_0")
    assert result.returncode == 1 and "it holds 1 of the 2 pieces of half-Q5_0" in result.stderr
