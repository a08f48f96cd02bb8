"""Every command that takes a model, given files that are none: one line with the next step, and no native crash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ggufrun.checkpoint.gguffile import Header, Kind, encode, read_header, serialize
from tests.test_cli_convert import fails, ggufrun

COMMANDS = (
    ("chat", "MODEL", "-p", "hi"),
    ("complete", "MODEL", "-p", "hi"),
    ("perplexity", "MODEL"),
    ("imatrix", "MODEL"),
    ("compare", "GOOD", "MODEL"),
    ("compare", "MODEL", "GOOD"),
    ("bench", "MODEL"),
    ("doctor", "MODEL"),
    ("inspect", "MODEL", "--fit"),
    ("quantize", "MODEL", "q4_0"),
)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory, demo_gguf: Callable[[str], Path]) -> dict[str, Path]:
    """Files by what is wrong with them."""
    folder = tmp_path_factory.mktemp("damaged")
    good = demo_gguf("f16")
    data, header = good.read_bytes(), read_header(good)
    (folder / "short.gguf").write_bytes(data[:3_000_000])
    (folder / "text.gguf").write_text("hello")
    (folder / "folder.gguf").mkdir()
    # llama.cpp has an assertion for this one
    many = Header(dict(header.metadata) | {"llama.block_count": encode(4000, Kind.UINT32)}, header.tensors)
    (folder / "layers.gguf").write_bytes(serialize(many) + data[len(serialize(header)) :])
    (folder / "loop.gguf").symlink_to("loop.gguf")
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("short", "cut short.*again"),
        ("text", "not a GGUF file"),
        ("folder", "folder|holds no"),
        ("layers", "block_count = 4000.*again"),
        ("loop", "no such file.*check the path"),
    ],
)
def test_one_line(
    tmp_path: Path,
    demo_gguf: Callable[[str], Path],
    damaged: dict[str, Path],
    command: tuple[str, ...],
    name: str,
    words: str,
) -> None:
    meant = {"MODEL": damaged[name], "GOOD": demo_gguf("f16")}
    fails(ggufrun(*(meant.get(word, word) for word in command), cwd=tmp_path), words)
    assert not list(tmp_path.iterdir())
