"""Models that other programs keep: found by name, not downloaded again, verified, and never removed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ggufrun.errors import NotFoundError
from ggufrun.hub import resolve_model
from ggufrun.hub.models import all_models, completions, local_checkpoint, models_folder
from ggufrun.hub.stores import STORES
from tests.support import store_layouts
from tests.support.checkpoints import ROOT, write_llama
from tests.support.hubserver import HubServer, Repo, running
from tests.test_cli_convert import fails

Gguf = Callable[[str], Path]


def ggufrun(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ggufrun", *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | (env or {}),
    )


class Machine:
    """A home folder with a model in each store."""

    def __init__(self, home: Path, gguf: Gguf) -> None:
        self.home, self.work = home, home / "work"
        self.q8, self.q4, self.f16 = (gguf(kind).read_bytes() for kind in ("q8_0", "q4_k_m", "f16"))
        self.work.mkdir()
        (self.work / "mine-F16.gguf").write_bytes(self.f16)
        self.ollama = home / ".ollama" / "models"
        library = "registry.ollama.ai/library"
        self.blob = store_layouts.ollama(self.ollama, f"{library}/poet/4b", self.q4, system="你是诗人", license="MIT")
        store_layouts.ollama(self.ollama, f"{library}/poet/latest", self.q4)
        store_layouts.ollama(self.ollama, "registry.ollama.ai/somebody/other/v1", self.q8)
        store_layouts.ollama(self.ollama, "hf.co/org/poet-GGUF/Q8_0", self.q8)
        store_layouts.ollama(self.ollama, f"{library}/tuned/latest", self.q4, adapter="GGUF")
        studio = home / ".lmstudio" / "models" / "publisher" / "poet-GGUF"
        studio.mkdir(parents=True)
        (studio / "poet-Q8_0.gguf").write_bytes(self.q8)
        cache = home / ".cache" / "huggingface" / "hub"
        store_layouts.hub_cache(cache, "cached/verse-GGUF", {"verse-Q4_K_M.gguf": self.q4})
        folder = home / "checkpoint"
        write_llama(folder, shards=2)
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.snapshot = store_layouts.hub_cache(cache, "cached/small", files)
        (home / ".cache" / "llama.cpp").mkdir()
        (home / ".cache" / "llama.cpp" / "org_tale_tale-Q8_0.gguf").write_bytes(self.q8)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_gguf: Gguf) -> Machine:
    found = Machine(tmp_path, demo_gguf)
    for name in ("GGUFRUN_STORES", "OLLAMA_MODELS", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "LLAMA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(found.work)
    return found


def test_every_store_is_seen(machine: Machine) -> None:
    assert {(model.store, model.name) for model in all_models()} == {
        ("here", "mine-F16"),
        ("lm-studio", "publisher/poet-GGUF/poet-Q8_0"),
        ("ollama", "poet:4b"),
        ("ollama", "poet:latest"),
        ("ollama", "somebody/other:v1"),
        ("ollama", "hf.co/org/poet-GGUF:Q8_0"),
        ("hub", "cached/verse-GGUF/verse-Q4_K_M"),
        ("hub", "cached/small"),
        ("llama.cpp", "org_tale_tale-Q8_0"),
    }
    rows = {row["name"]: row for row in json.loads(ggufrun("list", "--json").stdout)["models"]}
    assert rows["poet:4b"]["store"] == "ollama" and rows["poet:4b"]["type"] == "Q4_K_M"
    assert not any(row["problem"] for row in rows.values())
    assert "LM Studio" in ggufrun("list").stdout
    assert json.loads(ggufrun("list", "--json", env={"GGUFRUN_STORES": "ollama"}).stdout)["models"][0]["name"] in rows


@pytest.mark.parametrize(
    ("name", "store"),
    [
        ("poet:4b", "ollama"),
        ("poet-4b", "ollama"),
        ("POET:latest", "ollama"),
        ("poet", "ollama"),
        ("library/poet:4b", None),
        ("somebody/other:v1", "ollama"),
        ("org/poet-GGUF:q8_0", "ollama"),
        ("publisher/poet-GGUF", "lm-studio"),
        ("poet-Q8_0", "lm-studio"),
        ("cached/verse-GGUF:Q4_K_M", "hub"),
        ("mine-f16", "here"),
        ("tuned", None),
    ],
)
def test_names(machine: Machine, name: str, store: str | None) -> None:
    if store is None:
        with pytest.raises(NotFoundError):
            resolve_model(name, gguf_only=True)
        return
    found = resolve_model(name, gguf_only=True)
    content = {"ollama": machine.q4, "lm-studio": machine.q8, "hub": machine.q4, "here": machine.f16}[store]
    if name.startswith(("somebody", "org")):
        content = machine.q8
    assert found.read_bytes() == content
    assert ("blobs" in found.parts) == (store == "ollama")


def test_the_models_folder_comes_first(machine: Machine) -> None:
    (machine.work / "models").mkdir()
    own = machine.work / "models" / "poet-Q8_0.gguf"
    own.write_bytes(machine.q8)
    assert resolve_model("poet-Q8_0") == Path("models/poet-Q8_0.gguf")
    (own.parent / "linked.gguf").symlink_to(machine.work / "mine-F16.gguf")
    assert [model.name for model in all_models() if model.store == "here"] == []


def test_checkpoints_of_the_cache(machine: Machine) -> None:
    found = local_checkpoint("small")
    assert found is not None and found.path == machine.snapshot and not found.missing
    # the hub is asked first what org/name is today
    assert local_checkpoint("cached/small") is None
    next(machine.snapshot.glob("*.safetensors")).resolve().unlink()
    with pytest.raises(NotFoundError, match="lacks model-0000"):
        local_checkpoint("small")


def test_completion_and_chat_and_verify(machine: Machine) -> None:
    assert "poet-4b" in completions("po") and "publisher/poet-GGUF/poet-Q8_0" in completions("pub")
    result = ggufrun("complete", "poet:4b", "-p", "床前明月光", "-n", "4", "--temp", "0")
    assert result.returncode == 0 and result.stdout.strip(), result.stderr
    result = ggufrun("verify", "poet:4b", "--json")
    assert "sha256 (Ollama)" in json.loads(result.stdout)["files"][0]["checks"], result.stdout
    data = bytearray(machine.blob.read_bytes())
    data[-1] ^= 1
    machine.blob.write_bytes(data)
    result = ggufrun("verify", "poet:4b")
    assert result.returncode == 1 and "sha256 differs from Ollama" in result.stdout
    assert "sha256 (hub)" in ggufrun("verify", "cached/verse-GGUF").stdout


def test_removing_refuses_and_says_what_would_be_freed(machine: Machine) -> None:
    fails(ggufrun("rm", "-y", "poet:4b"), "kept by Ollama; `ollama rm poet:4b` removes it", status=2)
    fails(ggufrun("rm", "-y", str(machine.blob)), "kept by Ollama; `ollama rm poet", status=2)
    fails(ggufrun("rm", "-y", "cached/verse-GGUF"), r"`h.*` removes all of cached/verse-GGUF, and frees 2\.\d MiB", 2)
    fails(ggufrun("rm", "-y", "poet-Q8_0"), r"is in LM Studio.*`ggufrun remove /.*poet-Q8_0.gguf` removes it", 2)
    fails(ggufrun("rm", "-y", "mine-F16"), r"current folder.*`ggufrun remove ./mine-F16.gguf`", status=2)
    assert machine.blob.exists() and (machine.work / "mine-F16.gguf").exists()
    assert ggufrun("rm", "-y", "./mine-F16.gguf").returncode == 0


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"[" * 5000,
        b'{"layers": 5}',
        b'{"layers": [5, {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../../etc/passwd"}]}',
        b'{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": 7}], "config": []}',
    ],
)
def test_damaged_manifests_are_passed_over(machine: Machine, manifest: bytes) -> None:
    place = machine.ollama / "manifests" / "registry.ollama.ai" / "library" / "poet"
    for path in place.iterdir():
        path.write_bytes(manifest)
    assert not [model for model in all_models() if model.name.startswith("poet:")]
    assert [model for model in all_models() if model.store == "lm-studio"]


def test_where_the_stores_are(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {store.key: store.folders for store in STORES}
    home = machine.home
    assert folders["ollama"]()[0] == home / ".ollama" / "models"
    monkeypatch.setenv("OLLAMA_MODELS", "~/elsewhere")
    assert folders["ollama"]() == [home / "elsewhere"]
    (home / ".lmstudio-home-pointer").write_text(f"{home}/studio\n")
    (home / "studio").mkdir()
    (home / "studio" / "settings.json").write_text(json.dumps({"downloadsFolder": f"{home}/downloads"}))
    assert folders["lm-studio"]()[:2] == [home / "downloads", home / "studio" / "models"]
    settings: tuple[dict[str, str], ...] = ({}, {"HF_HOME": "/a/b"}, {"HF_HUB_CACHE": "/c"}, {"XDG_CACHE_HOME": "/x"})
    for variables in settings:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert folders["hub"]() == [Path(shown.strip())]
        for name in variables:
            monkeypatch.delenv(name)


@pytest.fixture
def hub(machine: Machine) -> Iterator[HubServer]:
    with running() as server:
        server.repos["org/poet-GGUF"] = Repo({"poet-Q8_0.gguf": machine.q8, "poet-F16.gguf": machine.f16 + b"\0" * 32})
        yield server


def test_pull_downloads_nothing_twice(machine: Machine, hub: HubServer) -> None:
    environment = {"HF_ENDPOINT": hub.url, "NO_PROXY": "*"}
    result = ggufrun("pull", "org/poet-GGUF:Q8_0", "--json", env=environment)
    told = json.loads(result.stdout)
    assert (told["received"], told["taken"]) == (0, {"poet-Q8_0.gguf": "LM Studio"}), result.stderr
    assert hub.asked() == [], "no content was asked for"
    pulled = Path(told["path"])
    assert pulled.read_bytes() == machine.q8
    assert pulled.stat().st_nlink == 2, "a second name, not a second copy"
    assert "sha256 (hub)" in ggufrun("verify", str(pulled), env=environment).stdout
    # removing ours leaves theirs
    freed = ggufrun("rm", "-y", "org/poet-GGUF:Q8_0", env=environment).stderr
    assert re.search(r"\b\d{1,3} B freed", freed), "no more than the hub's note about the file"
    assert resolve_model("publisher/poet-GGUF").read_bytes() == machine.q8


def test_a_damaged_copy_is_not_taken(machine: Machine, hub: HubServer) -> None:
    for path in (resolve_model("publisher/poet-GGUF"), resolve_model("org_tale_tale-Q8_0")):
        data = bytearray(machine.q8)
        data[1000] ^= 1
        path.write_bytes(data)
    for path in (machine.ollama / "blobs").iterdir():
        if path.stat().st_size == len(machine.q8):
            path.write_bytes(bytes(len(machine.q8)))
    told = json.loads(ggufrun("pull", "org/poet-GGUF:Q8_0", "--json", env={"HF_ENDPOINT": hub.url}).stdout)
    assert (told["received"], told["taken"]) == (1, {})
    assert Path(told["path"]).read_bytes() == machine.q8


def test_offline_pull_finds_the_copy(machine: Machine, hub: HubServer) -> None:
    result = ggufrun("pull", "cached/verse-GGUF:Q4_K_M", env={"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "1"})
    assert result.returncode == 0 and Path(result.stdout.strip()).read_bytes() == machine.q4
    assert "using the copy on this machine" in result.stderr
    fails(ggufrun("pull", "cached/absent:Q4_K_M", env={"HF_HUB_OFFLINE": "1"}), "HF_HUB_OFFLINE is set")


def test_the_checkouts_models_are_nobodys_models_folder(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert models_folder() == machine.home / "data" / "ggufrun" / "models"
