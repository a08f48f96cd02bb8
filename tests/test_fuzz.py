"""A short run of the fuzzer, the same every time, and every file it has ever choked on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import fuzz

KEPT = sorted(path for path in fuzz.CORPUS.glob("*/*") if path.is_file())


@pytest.mark.parametrize("name", list(fuzz.TARGETS))
def test_mutated_files_end_in_clean_errors(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "CORPUS", tmp_path)
    done, findings = fuzz.run(name, rounds=60, seed=1)
    assert done == 60
    assert findings == {}


@pytest.mark.parametrize("name", list(fuzz.TARGETS))
def test_the_sound_files_are_sound(name: str, tmp_path: Path) -> None:
    """Otherwise every case would be refused for the wrong reason."""
    target = fuzz.TARGETS[name]
    target.make(tmp_path)
    target.read(tmp_path)


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_kept_files(kept: Path) -> None:
    assert fuzz.replay(kept.parent.name, kept) is None


def test_the_fuzzer_finds_what_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that trips over a byte is found and its input kept."""
    monkeypatch.setattr(fuzz, "CORPUS", tmp_path)

    def fragile(folder: Path) -> None:
        if b"\xff" in (folder / "x").read_bytes():
            raise KeyError("oops")

    target = fuzz.Target(lambda folder: (folder / "x").write_bytes(bytes(64)), fragile, ("x",))
    monkeypatch.setitem(fuzz.TARGETS, "fragile", target)
    _, findings = fuzz.run("fragile", rounds=300, seed=1)
    assert findings
    kept = Path(next(iter(findings)))
    assert "KeyError" in str(fuzz.replay("fragile", kept))
