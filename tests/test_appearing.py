"""Small files: whole or not at all, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufrun.atomicfile import appearing


def test_it_takes_the_place_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / ("诗" * 80 + ".json")
    path.write_text("old")
    path.chmod(0o640)
    with appearing(path) as temporary:
        assert temporary.parent == tmp_path and temporary.read_bytes() == b""
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), appearing(path) as temporary:
        temporary.write_text("ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    path.unlink()
    with pytest.raises(ValueError, match="half"), appearing(path):
        raise ValueError("half")
    assert list(tmp_path.iterdir()) == []


def test_permissions(tmp_path: Path) -> None:
    mine, plain = tmp_path / "mine", tmp_path / "plain"
    for _ in range(2):
        with appearing(mine, 0o600) as temporary:
            assert temporary.stat().st_mode & 0o777 == 0o600
        assert mine.stat().st_mode & 0o777 == 0o600
        mine.chmod(0o644)
    with appearing(plain):
        pass
    (tmp_path / "usual").touch()
    assert plain.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_files_of_similar_names_stay(tmp_path: Path) -> None:
    """What lay beside it under the names that such files had before was written over, links followed."""
    path, other = tmp_path / "talk.json", tmp_path / "mine.txt"
    other.write_text("mine")
    beside = [tmp_path / "talk.json.tmp", tmp_path / ".talk.json.part"]
    beside[0].symlink_to(other)
    beside[1].write_text("mine")
    with appearing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new" and other.read_text() == "mine"
    assert beside[0].is_symlink() and beside[1].read_text() == "mine"


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    real, link = tmp_path / "far" / "talk.json", tmp_path / "talk.json"
    real.write_text("old")
    link.symlink_to(real)
    with appearing(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink() and real.read_text() == "new" and sorted(tmp_path.rglob("*.part")) == []
