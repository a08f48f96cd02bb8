"""Names and metadata that would move the cursor, break a table or be read as another: shown, and harmless."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufrun.checkpoint.gguf.file import Header, Kind, encode, serialize
from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.cli.terminal.console import shown
from ggufrun.cli.terminal.errors import one_line
from tests.support.terminal import Screen

NAME = "\x1b]0;title\x07\u202e静夜思\n\x9b31m"
SHOWN = r"\x1b]0;title\x07\u202e静夜思\n\x9b31m"
FILE = "b\n\x1b[9m静 夜  思\u2067[x].gguf"
FILE_SHOWN = r"b\n\x1b[9m静 夜  思\u2067[x].gguf"
ACTING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def test_what_is_shown_otherwise() -> None:
    assert shown("静夜思　“é” 🇨🇳 a\u200db \udc80") == "静夜思　“é” 🇨🇳 a\u200db \udc80"
    assert shown(NAME) == SHOWN
    assert shown("a\tb\nc\rd", lines=True) == "a\tb\nc\\rd"
    assert one_line("  it says:\n    line 3\n") == "it says: line 3"
    assert one_line("no such file: a  b\nc") == r"no such file: a  b\nc"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, demo_gguf: Callable[[str], Path]) -> Path:
    """Models of hostile names, one of which has nothing good in its metadata either."""
    made = tmp_path_factory.mktemp("names")
    source = demo_gguf("f16")
    header, data = read_header(source), source.read_bytes()
    values = dict(header.metadata) | {
        "general.name": encode(NAME, Kind.STRING),
        f"x.{NAME}": encode(NAME, Kind.STRING),
        "tokenizer.chat_template": encode(f"{{{{ messages }}}}{NAME}\nend", Kind.STRING),
    }
    (made / FILE).write_bytes(serialize(Header(values, header.tensors)) + data[len(serialize(header)) :])
    (made / "a.gguf").symlink_to(source)
    (made / f"{NAME.replace('/', '')}.gguf").write_bytes(b"GGUF")
    return made


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("list", "."), r" b\\n\\x1b\[9m静 夜  思\\u2067\[x\] +F16"),
        (("inspect", FILE), r"(?m)^name +" + re.escape(SHOWN)),
        (("inspect", FILE, "--json"), r'"name": "\\u001b\]0;title\\u0007\\u202e静夜思\\n\\u009b31m"'),
        (("inspect", FILE, "--diff", "a.gguf"), r"general\.name +" + re.escape(SHOWN)),
        (("verify", FILE), r"(?m)^ +ok +" + re.escape(FILE_SHOWN) + " +GGUF, 39 tensors"),
        (("quantize", FILE, "a.gguf", "q8_0", "--dry-run"), r"(?m)^ +b.*Q8_0"),
        (("inspect", NAME), r"^ggufrun: no such file, and no model in .*: " + re.escape(SHOWN) + ";"),
        (("quantize", f"{NAME}.gguf", "q8_0"), r"^ggufrun: " + re.escape(SHOWN)),
        (("rm", "-y", f"./{NAME}.gguf", NAME), r"ggufrun: no such file, .*" + re.escape(SHOWN)),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_commands(folder: Path, arguments: tuple[str, ...], expected: str) -> None:
    """In a pipe: no line is broken, nothing acts, Chinese stays as it is; JSON means the very name."""
    command = [sys.executable, "-m", "ggufrun", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert not ACTING.search(result.stdout + result.stderr), result.stdout + result.stderr
    assert re.search(expected, result.stdout + result.stderr), result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    if "--json" in arguments:
        assert json.loads(result.stdout)["name"] == NAME


def test_a_path_is_exact_in_a_pipe_and_shown_on_a_terminal(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ggufrun", "quantize", FILE, "q8_0", "-o", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
    made = Path(result.stdout.removesuffix("\n"))
    assert made.is_file() and made.name.startswith("b\n\x1b[9m静 夜  思")
    screen = Screen("quantize", str(folder / FILE), "q8_0", "-o", str(tmp_path), "--force", columns=200)
    assert screen.leave() == 0
    assert shown(made.name) in screen.text and b"\x1b[9m" not in screen.raw


def test_a_chat_and_a_template_on_a_terminal(folder: Path) -> None:
    """The first lines, the line under the prompt and the template say what they have to, and nothing acts."""
    screen = Screen("inspect", "--template", str(folder / FILE), columns=120)
    assert screen.leave() == 0
    assert SHOWN.split(r"\n")[0] in screen.text and "\nend" in screen.text
    for acting in ("\x1b]0;", "\u202e", "\x9b"):
        assert acting.encode() not in screen.raw
    screen = Screen("chat", str(folder / FILE), "--style", "none", columns=120)
    screen.prompt()
    screen.type("\x04")
    assert screen.leave() == 0
    assert SHOWN in screen.text
    for acting in ("\x1b]0;title", "\u202e", "\x9b31m"):
        assert acting.encode() not in screen.raw
