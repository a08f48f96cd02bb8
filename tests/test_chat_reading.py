"""Files that become a message."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufrun.chat import read_files
from ggufrun.chat.read_files import read
from ggufrun.errors import GgufrunError


def refusal(argument: object) -> str:
    with pytest.raises(GgufrunError) as caught:
        read(str(argument))
    return str(caught.value)


def test_one_file(tmp_path: Path) -> None:
    path, spaced = tmp_path / "poem.txt", tmp_path / "a poem.txt"
    path.write_text("\ufeff床前明月光\n", encoding="utf-8")
    spaced.write_text("two\nlines\n")
    assert read(str(path)).message == "床前明月光"
    assert read(f"{path} What is this?").message == "What is this?\n\n床前明月光"
    assert read(str(spaced)).message == "two\nlines"
    assert read(f'"{spaced}" Why?').message == "Why?\n\ntwo\nlines"


def test_what_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "zero").write_bytes(b"a\0b")
    (tmp_path / "empty").write_bytes(b" \n")
    for name, words in (("binary", "not UTF-8"), ("zero", "no text"), ("empty", "no text"), ("none", "cannot be read")):
        assert words in refusal(tmp_path / name)
    assert "is a folder" in refusal(tmp_path)
    assert "name a file" in refusal("")


def test_all_files_that_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(1, 8):
        (tmp_path / f"{number}.py").write_text(f"line {number}\n")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "8.py").write_text("八")
    (tmp_path / "a[1].txt").write_text("name")
    found = read("[12].py What is this?")
    assert found.message == "What is this?\n\n1.py:\n\nline 1\n\n2.py:\n\nline 2"
    assert found.lines == ("read 2 files: 12 characters", "1.py", "2.py")
    found = read(f"{tmp_path}/**/*.py")
    assert found.message.endswith("in/8.py:\n\n八")
    assert found.lines[0] == "read 8 files: 43 characters" and found.lines[-1] == "and 3 more"
    # a file that is called so is meant itself
    assert read("a[1].txt").message == "name"
    assert refusal("*.md") == "no file fits *.md"
    (tmp_path / "9.py").write_bytes(b"\xff")
    assert refusal("*.py") == "9.py is not UTF-8 text"
    (tmp_path / "9.py").unlink()
    monkeypatch.setattr(read_files, "MAX_READ", 20)
    assert "larger than" in refusal("*.py")
