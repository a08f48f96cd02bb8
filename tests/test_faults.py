"""A few rounds of each kind of fault; ``python -m tests.faults`` runs as many as one likes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest

from tests.faults import disk, kill, pickles, truncate
from tests.fuzz import small_llama

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such signals and limits")


def findings(rounds: Iterator[tuple[str, str]]) -> tuple[int, list[str]]:
    done = [f"{what}: {problem}" if problem else "" for what, problem in rounds]
    return len(done), [line for line in done if line]


@pytest.mark.parametrize("run", [pickles.run, truncate.run], ids=["pickles", "truncate"])
def test_files(run: Callable[[int, int], Iterator[tuple[str, str]]]) -> None:
    assert findings(run(60, 3)) == (60, [])


@pytest.mark.parametrize("run", [kill.run, disk.run], ids=["kill", "disk"])
def test_jobs(run: Callable[[int, int, tuple[str, ...]], Iterator[tuple[str, str]]]) -> None:
    assert findings(run(3, 4, ("quantize",))) == (3, [])


def test_the_judge_can_say_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a reader that believes anything, and one that runs what it reads."""
    kind = truncate.Kind(small_llama, lambda folder: None, "config.json")
    monkeypatch.setattr(truncate, "KINDS", {"any": kind})
    assert all(line.endswith("it was taken for whole") for line in findings(truncate.run(6, 1))[1])
    monkeypatch.setattr(pickles, "open_checkpoint", lambda folder: (folder.parent / "canary").touch())
    done, wrong = findings(pickles.run(6, 1))
    assert done == len(wrong) == 6 and all(line.endswith("it ran") for line in wrong)
