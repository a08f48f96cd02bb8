"""Well-known models by short names, and ModelScope as a second source."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ggufrun.errors import NotFoundError, UsageError
from ggufrun.hub import HubId, catalogue, parse, path_or_id
from ggufrun.hub.models import resolve_model
from ggufrun.quantize.types import FILE_TYPES
from tests.support import hubserver
from tests.support.checkpoints import DEMO, ROOT
from tests.support.hubserver import HubServer, Repo
from tests.support.modelscope_server import COMMIT, ModelScopeServer, running
from tests.test_cli_convert import fails

Gguf = Callable[[str], Path]


def test_the_table_is_sound() -> None:
    names = [entry.name for entry in catalogue.ENTRIES]
    assert len({name.replace(":", "-") for name in names}) == len(names) >= 30
    for entry in catalogue.ENTRIES:
        assert parse(entry.repo) == HubId(entry.repo), entry
        assert entry.name == entry.name.lower() and " " not in entry.name
        assert entry.is_checkpoint or entry.kind.endswith(".gguf") or entry.kind in FILE_TYPES
        # 0.5 bytes a weight at the least, 2 at the most
        assert 0.5 < entry.size / entry.parameters <= 2.05, entry
        assert re.fullmatch(r"[a-z0-9.-]+", entry.license)
    # the models that the Chinese community's guides begin with
    for size in ("1.3b", "7b", "13b"):
        assert catalogue.find(f"chinese-alpaca-2-{size}")
    for name in ("chinese-alpaca-2-7b-16k", "chinese-alpaca-2-13b-16k", "chinese-alpaca-2-7b-64k", "atom:7b"):
        assert catalogue.find(name)


def test_names() -> None:
    entry = catalogue.find("qwen3:4b")
    assert entry is not None and entry.spec == HubId("Qwen/Qwen3-4B-GGUF", None, "Q4_K_M")
    assert catalogue.find("Qwen3-4B") == entry and catalogue.find("qwen3") is None
    assert catalogue.find_with_type("qwen3:4b:Q8_0") == (entry, "Q8_0")
    assert catalogue.find_with_type("qwen3:4b") == (entry, None)
    assert catalogue.find_with_type("org/name:Q8_0") is None
    assert "qwen3-4b" in catalogue.completions("qwen3") and "qwen3:4b" in catalogue.similar("qwen3")


def ggufrun(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ggufrun", *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | environment,
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GGUFRUN_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models"


@pytest.fixture
def hub(folder: Path) -> Iterator[HubServer]:
    with hubserver.running() as server:
        yield server


@pytest.fixture
def modelscope(folder: Path) -> Iterator[ModelScopeServer]:
    with running() as server:
        yield server


def test_pull_by_name_and_talk(folder: Path, hub: HubServer, demo_gguf: Gguf) -> None:
    q4, q8 = demo_gguf("q4_k_m").read_bytes(), demo_gguf("q8_0").read_bytes()
    hub.repos["Qwen/Qwen3-4B-GGUF"] = Repo({"Qwen3-4B-Q4_K_M.gguf": q4, "Qwen3-4B-Q8_0.gguf": q8})
    alpaca = {f"ggml-model-{kind}.gguf": data for kind, data in (("q4_k", q4), ("q4_k-im", q8), ("q8_0", q8))}
    hub.repos["hfl/chinese-alpaca-2-7b-gguf"] = Repo(alpaca)
    fails(ggufrun("chat", "qwen3:4b", "hi"), "fetch it: ggufrun pull qwen3:4b")
    fails(ggufrun("complete", "chinese-alpaca-2-7b", "-p", "x"), "fetch it: ggufrun pull chinese-alpaca-2-7b")
    pulled = ggufrun("pull", "qwen3:4b", HF_ENDPOINT=hub.url)
    assert Path(pulled.stdout.strip()) == folder / "Qwen/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf", pulled.stderr
    assert ggufrun("pull", "qwen3-4b:q8_0", HF_ENDPOINT=hub.url).returncode == 0
    assert resolve_model("qwen3:4b").name == "Qwen3-4B-Q4_K_M.gguf"
    ggufrun("pull", "chinese-alpaca-2-7b", HF_ENDPOINT=hub.url)
    assert resolve_model("Chinese-Alpaca-2-7B", gguf_only=True).read_bytes() == q4
    rows = {row["name"]: row for row in json.loads(ggufrun("list", "--catalogue", "--json").stdout)}
    assert rows["qwen3:4b"]["here"] and not rows["qwen3:8b"]["here"]
    assert rows["qwen3:4b"]["license"] == "apache-2.0"
    table = ggufrun("list", "--catalogue").stdout
    assert "chinese-alpaca-2-13b-16k" in table and "hfl/chinese-alpaca-2-1.3b-rlhf-gguf" in table
    fails(ggufrun("pull", "qwen3"), "family of models; write one of qwen3:0.6b", status=2)
    fails(ggufrun("chat", "atom:7b", "hi"), "convert it: ggufrun convert FlagAlpha/Atom-7B-Chat -t q4_k_m")
    with pytest.raises(NotFoundError, match=r"the catalogue has yi1\.5:6b, yi1\.5:9b"):
        resolve_model("yi1.5")


def test_the_check_of_the_table(folder: Path, hub: HubServer) -> None:
    """It sees a file of another size, and a repository that is not there."""
    script = "from tests.catalogue_check import problems; from ggufrun.hub.catalogue import find; "
    script += "print(problems(find('qwen3:4b')), problems(find('qwen3:8b')))"
    hub.repos["Qwen/Qwen3-4B-GGUF"] = Repo({"Qwen3-4B-Q4_K_M.gguf": bytes(5000)})
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"HF_ENDPOINT": hub.url, "PYTHONPATH": str(ROOT)},
    )
    assert "GB, not 2.5" in done.stdout and "has no model Qwen/Qwen3-8B-GGUF" in done.stdout


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://modelscope.cn/models/Qwen/Qwen3-4B-GGUF", HubId("Qwen/Qwen3-4B-GGUF", source="modelscope")),
        ("https://www.modelscope.cn/models/a/b/summary", HubId("a/b", source="modelscope")),
        ("modelscope.cn/models/a/b/files", HubId("a/b", source="modelscope")),
        ("https://modelscope.cn/models/a/b@v1", HubId("a/b", "v1", source="modelscope")),
        ("https://modelscope.cn/models/a/b:Q8_0", HubId("a/b", None, "Q8_0", "modelscope")),
        (
            "https://modelscope.cn/models/a/b/file/view/master/c-Q8_0.gguf?status=2",
            HubId("a/b", None, "c-Q8_0.gguf", "modelscope"),
        ),
        ("https://modelscope.cn/models/a/b/resolve/master/c.gguf", HubId("a/b", None, "c.gguf", "modelscope")),
    ],
)
def test_links_to_modelscope(text: str, expected: HubId) -> None:
    assert parse(text) == expected == path_or_id(text)


def test_pull_from_modelscope(folder: Path, modelscope: ModelScopeServer, demo_gguf: Gguf) -> None:
    """Resumed where it was cut, checked against the SHA-256 of the list, and no token of the hub is sent along."""
    q8 = demo_gguf("q8_0").read_bytes()
    modelscope.repos["Qwen/Qwen3-4B-GGUF"] = {"Qwen3-4B-Q8_0.gguf": q8, "README.md": b"# Qwen"}
    modelscope.cuts = [100_000]
    environment = {"MODELSCOPE_ENDPOINT": modelscope.url, "HF_TOKEN": "hf_secret", "HF_ENDPOINT": "http://127.0.0.1:9"}
    result = ggufrun("pull", "Qwen/Qwen3-4B-GGUF:Q8_0", "--from", "modelscope", "--json", **environment)
    told = json.loads(result.stdout)
    assert (told["received"], told["commit"]) == (1, COMMIT), result.stderr
    assert Path(told["path"]).read_bytes() == q8
    assert [asked for path, asked, _ in modelscope.seen if "FilePath" in path] == [None, "bytes=100000-"]
    assert {token for _, _, token in modelscope.seen} == {None}
    assert "sha256 (hub)" in ggufrun("verify", told["path"]).stdout
    again = ggufrun("pull", "qwen3:4b:Q8_0", "--from", "ModelScope", "--json", **environment)
    assert json.loads(again.stdout)["received"] == 0
    ggufrun("pull", "Qwen/Qwen3-4B-GGUF:Q8_0", "--from", "modelscope", MODELSCOPE_API_TOKEN="ms-1", **environment)
    assert modelscope.seen[-1][2] == "Bearer ms-1"


def test_what_modelscope_refuses(folder: Path, modelscope: ModelScopeServer) -> None:
    def pull(name: str, *more: str) -> subprocess.CompletedProcess[str]:
        return ggufrun("pull", name, "--from", "modelscope", *more, MODELSCOPE_ENDPOINT=modelscope.url)

    fails(pull("nobody/nothing"), "127.0.0.1:.* has no model nobody/nothing at master, or it is private")
    modelscope.repos["a/b"] = {"b-Q8_0.gguf": b"GGUF" + bytes(2000)}
    fails(pull("a/b", "--revision", "v9"), "has no model a/b at v9")
    assert pull("a/b", "--revision", "v1").returncode == 0
    fails(pull("a/b:Q4_0"), "a/b@?.*: it holds no Q4_0; there are Q8_0")
    fails(ggufrun("pull", "a/b", "--from", "elsewhere"), "--from elsewhere is not a source", status=2)
    modelscope.close()
    fails(ggufrun("pull", "a/c", "--from", "modelscope", MODELSCOPE_ENDPOINT="http://127.0.0.1:9"), "cannot reach")


def test_convert_from_modelscope(folder: Path, modelscope: ModelScopeServer, demo_gguf: Gguf) -> None:
    modelscope.repos["org/tang-poet"] = {path.name: path.read_bytes() for path in DEMO.iterdir() if path.is_file()}
    link = "https://modelscope.cn/models/org/tang-poet"
    result = ggufrun("convert", link, "-t", "q4_k_m", MODELSCOPE_ENDPOINT=modelscope.url)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).read_bytes() == demo_gguf("q4_k_m").read_bytes()


@pytest.mark.parametrize(
    "data",
    [
        b"<html>",
        b'{"Code": 200}',
        b'{"Code": 200, "Data": {"Files": [{"Path": "a.gguf", "Size": "x"}]}}',
        b'{"Code": 200, "Data": {"Files": [{"Type": "blob", "Size": 3}]}}',
        b'{"Code": 200, "Data": []}',
        b"[1]",
    ],
)
def test_an_answer_that_is_not_modelscopes(
    folder: Path, modelscope: ModelScopeServer, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    from ggufrun.errors import FormatError
    from ggufrun.hub import client
    from ggufrun.hub import modelscope as source

    class Answer:
        def __enter__(self) -> tuple[None, list[bytes]]:
            return None, [data]

        def __exit__(self, *more: object) -> None:
            pass

    monkeypatch.setattr(client, "get", lambda *_: Answer())
    with pytest.raises((FormatError, NotFoundError, UsageError)):
        source.listing("a/b", None)
