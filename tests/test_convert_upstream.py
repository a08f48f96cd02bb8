"""Handing a checkpoint to llama.cpp's own converter: with a stand-in for it, and an archive made here."""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.cli.app import app
from ggufrun.cli.flags.common import WriteFlags
from ggufrun.cli.jobs import upstream as command
from ggufrun.convert import pipeline, upstream
from ggufrun.convert.plan import plan_quantize
from ggufrun.errors import FormatError, NotFoundError, TargetError, UnsupportedError, UsageError
from ggufrun.quantize.plan import AS_LLAMA_CPP
from ggufrun.quantize.types import FILE_TYPES
from tests.support.checkpoints import write_llama

ROOT = Path(__file__).parent.parent

FAKE = """
import pathlib, shutil, sys
folder, outtype, out = pathlib.Path(sys.argv[1]), sys.argv[3], sys.argv[5]
print("loading", folder)
if not (folder / "model.gguf").exists():
    raise NotImplementedError("Architecture 'Nonsuch' not supported!")
(folder / "asked").write_text(" ".join(sys.argv[2:4] + sys.argv[6:]))
shutil.copy(folder / "model.gguf", out)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    monkeypatch.setattr(upstream, "check_packages", lambda: None)
    monkeypatch.setattr(upstream, "installed", lambda: script)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "out").mkdir()
    return tmp_path


def run(folder: Path, *types: str, force: bool = False) -> None:
    kinds = [FILE_TYPES[name] for name in types]
    out = folder / "out"
    command.convert(
        folder / "checkpoint",
        kinds,
        lambda kind: out / f"m-{kind.name}.gguf",
        AS_LLAMA_CPP,
        "some name",
        None,
        WriteFlags(threads=1, force=force),
    )


def test_its_file_is_quantized_like_any_other(fake: Path, demo_gguf: Callable[[str], Path]) -> None:
    source = demo_gguf("f16")
    (fake / "checkpoint" / "model.gguf").write_bytes(source.read_bytes())
    run(fake, "F16", "Q4_K_M", "Q8_0")
    assert sorted(path.name for path in (fake / "out").iterdir()) == ["m-F16.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf"]
    assert (fake / "out" / "m-F16.gguf").read_bytes() == source.read_bytes()
    expected = plan_quantize(source, [FILE_TYPES["Q4_K_M"]], lambda kind: fake / "expected.gguf")
    pipeline.run(expected)
    assert (fake / "out" / "m-Q4_K_M.gguf").read_bytes() == (fake / "expected.gguf").read_bytes()
    assert (fake / "checkpoint" / "asked").read_text() == "--outtype auto --model-name some name"


def test_without_a_type_the_file_is_called_after_what_it_is(fake: Path, demo_gguf: Callable[[str], Path]) -> None:
    (fake / "checkpoint" / "model.gguf").write_bytes(demo_gguf("f16").read_bytes())
    run(fake)
    assert [path.name for path in (fake / "out").iterdir()] == ["m-F16.gguf"]
    assert read_header(fake / "out" / "m-F16.gguf").architecture == "llama"


def test_what_it_says_last_when_it_gives_up(fake: Path) -> None:
    with pytest.raises(UnsupportedError, match="NotImplementedError: Architecture 'Nonsuch' not supported!"):
        run(fake, "Q4_K_M")
    assert not any((fake / "out").iterdir())


def test_a_target_that_stands_is_found_before_it_runs(fake: Path) -> None:
    (fake / "out" / "m-Q8_0.gguf").write_text("mine")
    with pytest.raises(TargetError, match="exists"):
        run(fake, "Q8_0")
    assert not (fake / "checkpoint" / "asked").exists()


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "NEEDED", ("json", "no_such_package"))
    with pytest.raises(UnsupportedError, match=r"no_such_package; .*ggufrun\[upstream\]"):
        upstream.check_packages()


def test_the_release_is_the_engines() -> None:
    pinned = f'"{upstream.PACKAGE}=={upstream.VERSION}"'
    project = (ROOT / "pyproject.toml").read_text()
    assert pinned in project
    extra = re.search(r"^upstream = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert extra is not None
    assert all(f'"{name}' in extra[1] for name in upstream.NEEDED if name != "numpy")


def archive(path: Path, members: dict[str, bytes | str]) -> str:
    """A source archive; a text is the target of a link. Returns its digest."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_only_the_converters_files_are_unpacked(tmp_path: Path) -> None:
    base = "llama_cpp_python-0.3.36/vendor/llama.cpp"
    digest = archive(
        tmp_path / "a.tar.gz",
        {
            f"{base}/convert_hf_to_gguf.py": b"print()",
            f"{base}/conversion/base.py": b"1",
            f"{base}/gguf-py/gguf/constants.py": b"2",
            f"{base}/gguf-py/tests/test.py": b"no",
            f"{base}/conversion/run.sh": b"no",
            f"{base}/conversion/../../../../escape.py": b"no",
            f"{base}/conversion/link.py": "/etc/passwd",
            "/llama/vendor/llama.cpp/conversion/absolute.py": b"no",
            f"{base}/ggml/src/ggml.c": b"no",
        },
    )
    upstream.unpack(tmp_path / "a.tar.gz", tmp_path / "out", digest)
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {"convert_hf_to_gguf.py", "conversion/base.py", "gguf-py/gguf/constants.py"}
    assert not list(tmp_path.rglob("escape.py"))


def test_another_archive_is_refused(tmp_path: Path) -> None:
    archive(tmp_path / "a.tar.gz", {"x/vendor/llama.cpp/convert_hf_to_gguf.py": b"print()"})
    with pytest.raises(FormatError, match="not the release"):
        upstream.unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_cut_archive_and_one_without_a_converter(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    archive(path, {"x/vendor/llama.cpp/conversion/base.py": bytes(100_000)})
    with pytest.raises(FormatError, match=r"no convert_hf_to_gguf\.py"):
        upstream.unpack(path, tmp_path / "out", hashlib.sha256(path.read_bytes()).hexdigest())
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(FormatError, match="damaged"):
        upstream.unpack(path, tmp_path / "cut", hashlib.sha256(path.read_bytes()).hexdigest())


def test_the_cache_is_asked_first_and_pip_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def fetch(folder: Path) -> Path:
        fetched.append(folder)
        digest = archive(folder / "a.tar.gz", {"x/vendor/llama.cpp/convert_hf_to_gguf.py": b"print()"})
        monkeypatch.setattr(upstream.unpack, "__defaults__", (digest,))
        return folder / "a.tar.gz"

    monkeypatch.setattr(upstream, "_fetch", fetch)
    first = upstream.installed(tmp_path)
    assert upstream.installed(tmp_path) == first
    assert first.read_text() == "print()"
    assert len(fetched) == 1
    assert [path.name for path in (tmp_path / "upstream").iterdir()] == [upstream.VERSION]


def test_a_download_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = tmp_path / "pip"
    pip.write_text("#!/bin/sh\necho 'ERROR: no matching distribution' >&2\nexit 1\n")
    pip.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(pip))
    with pytest.raises(NotFoundError, match="no matching distribution"):
        upstream.installed(tmp_path)
    assert not any((tmp_path / "upstream").iterdir())


def test_the_error_for_an_unknown_architecture_offers_it(tmp_path: Path) -> None:
    from ggufrun.convert import arch
    from ggufrun.convert.config import Config

    config = Config(tmp_path / "config.json", json.loads('{"architectures": ["Qwen9ForCausalLM"]}'))
    with pytest.raises(UnsupportedError) as error:
        arch.find(config)
    assert "--converter upstream" in error.value.todo
    alike, _, more = error.value.todo.partition("converts ")[2].partition(" and ")
    assert len(set(alike.split(", ")) & {name for name in arch.families() if name.startswith("Qwen")}) == 3
    assert more == f"{len(arch.families()) - 3} more"


@pytest.mark.parametrize("option", ["--dry-run", "--resume", "--split-max-size=1G"])
def test_options_that_it_goes_without(tmp_path: Path, option: str) -> None:
    write_llama(tmp_path / "model")
    result = CliRunner().invoke(app, ["convert", str(tmp_path / "model"), "--converter", "upstream", option])
    assert isinstance(result.exception, UsageError)
    assert "goes without" in result.exception.what


def test_a_converter_that_does_not_exist(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["convert", str(tmp_path), "--converter", "sideways"])
    assert isinstance(result.exception, UsageError)
