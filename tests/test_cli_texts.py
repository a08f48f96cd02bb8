"""Texts that are none, or have no end: every command that reads one says in a line what it seems to be."""

from __future__ import annotations

import gzip
import io
import random
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufrun.errors import FormatError, NotFoundError
from ggufrun.workflows import textfile
from tests.test_cli_convert import fails, ggufrun

POEM = "《静夜思》是李白的诗。床前明月光，疑是地上霜。举头望明月，低头思故乡。他不在家，有人说他在上国。\n" * 20
OLD = "《靜夜思》是李白的詩。他不在家，有人說他到這個國家來了，我們中的人也為他在。\n" * 20


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("word/document.xml", POEM)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GGUF\3\0\0\0", "is a GGUF, which holds a model, no UTF-8 text; give a text file here"),
        (b"a text\0with one", "holds NUL bytes, and is not text"),
        (b"text" * 500_000 + b"\0", "holds NUL bytes"),
        (random.Random(1).randbytes(5000).replace(b"\0", b"\1"), "is not UTF-8 text; give"),
        (POEM.encode("gb18030"), "is in gb18030, by its looks, not in UTF-8; convert it: iconv -f gb18030 -t utf-8"),
        (OLD.encode("big5"), "is in big5, by its looks"),
        ((POEM * 100).encode("gb18030") * 9, "is in gb18030, by its looks"),
        (POEM.encode("utf-16"), "is UTF-16, no UTF-8 text; convert it: iconv -f utf-16 -t utf-8"),
        ("你".encode("utf-16"), "is UTF-16"),
        (gzip.compress(POEM.encode()), "is compressed by gzip, no UTF-8 text; unpack it with gunzip"),
        (archive(), "is a ZIP archive"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_is_no_text(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(FormatError, match="^-f here " + re.escape(words)):
        textfile.read(path, "-f here")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        POEM.encode(),
        ("a" * (textfile.SAMPLE - 1) + POEM).encode(),
        b"GGUF and PK\3\4 and BZh begin what is not text",
        "Sous le pont Mirabeau coule la Seine et nos amours, faut-il qu'il m'en souvienne été".encode("latin-1"),
        b"caf\xe9",
        b"\xef\xbb\xbfwith a mark of order",
    ],
)
def test_what_is_read_as_it_stands(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(text)
    assert textfile.read(path, "-f").encode("utf-8", "surrogateescape") == text


def test_there_is_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"text" * textfile.SAMPLE)
    assert len(textfile.read(path, "-f", 4 * textfile.SAMPLE)) == 4 * textfile.SAMPLE
    with pytest.raises(FormatError, match=r"^-f holds more than 3 MiB, or has no end; give a part of it"):
        textfile.read(path, "-f", 3 << 20)
    with pytest.raises(NotFoundError, match="-f x: a folder"):
        textfile.read(tmp_path, "-f x")


def test_commands(tmp_path: Path, demo_gguf: Callable[[str], Path]) -> None:
    model = demo_gguf("q8_0")
    for command, *flags in (
        ("perplexity", "-f"),
        ("compare", model, "-f"),
        ("imatrix", "-f"),
        ("chat", "-f"),
        ("complete", "-f"),
        ("chat", "hi", "-sysf"),
        ("chat", "--output", "answers.jsonl", "--file"),
    ):
        fails(ggufrun(command, model, *flags, model, cwd=tmp_path), f"{flags[-1]} .*is a GGUF, which holds a model")
    for device in ("/dev/zero", "/dev/urandom"):
        words = f"-f {device} (holds NUL bytes, and is not text|is not UTF-8 text)"
        fails(ggufrun("perplexity", model, "-f", device, cwd=tmp_path), words)
    assert list(tmp_path.iterdir()) == []
    for command in ("chat", "complete"):
        with model.open("rb") as file:
            result = subprocess.run(
                [sys.executable, "-m", "ggufrun", command, model],
                stdin=file,
                capture_output=True,
                text=True,
                check=False,
            )
        fails(result, "stdin is a GGUF, which holds a model")


def test_a_text_from_a_pipe(demo_gguf: Callable[[str], Path]) -> None:
    """What is measured on is told; and one without an end is refused."""
    model = str(demo_gguf("q8_0"))
    command = [sys.executable, "-m", "ggufrun", "perplexity", model, "-c", "64", "--chunks", "1", "--json"]
    result = subprocess.run([*command, "-f", "-"], input=POEM, capture_output=True, text=True, check=True)
    assert '"text": "stdin"' in result.stdout
    shell = 'yes 静夜思 | "$@" -f -'
    result = subprocess.run(["sh", "-c", shell, "sh", *command], capture_output=True, text=True, check=False)
    fails(result, "stdin holds more than 64 MiB, or has no end")
