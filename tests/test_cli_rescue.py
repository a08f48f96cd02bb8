"""Conversations that were cut off: each process keeps its own, a day long they are told of, and old ones go."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ggufrun.cli.talk import rescue


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(rescue, "_folder", lambda: tmp_path / "data")
    return tmp_path / "data"


def keep(pid: int, days: float, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "getpid", lambda: pid)
    path = rescue.rescue_file()
    path.write_text("{}")
    then = time.time() - days * rescue.DAY
    os.utime(path, (then, then))
    return path


def test_each_process_has_its_own_and_the_latest_comes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rescue.recently_rescued() == []
    first, second, old = (keep(pid, days, monkeypatch) for pid, days in ((7, 0.5), (8, 0.1), (9, 1.5)))
    assert len({first, second, old}) == 3 and first.parent == folder
    assert rescue.recently_rescued() == [second, first]


def test_one_that_is_continued_is_not_mentioned_and_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = keep(7, 0, monkeypatch)
    mine = folder.parent / kept.name
    mine.write_text("{}")
    before = mine.stat().st_mtime
    rescue.mark_continued(mine)
    assert mine.stat().st_mtime == before and rescue.recently_rescued() == [kept]
    rescue.mark_continued(kept)
    rescue.mark_continued(folder / "chat_hangup_gone.json")
    keep(8, 2, monkeypatch)
    assert rescue.recently_rescued() == [] and kept.exists()


def test_old_ones_go_with_what_belongs_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    old = keep(7, 31, monkeypatch)
    state = old.with_name(f"{old.name}.state")
    state.write_bytes(b"")
    other = old.with_name("history")
    other.write_text("")
    os.utime(other, (0, 0))
    new = keep(8, 0, monkeypatch)
    assert not old.exists() and not state.exists() and other.exists() and new.exists()
