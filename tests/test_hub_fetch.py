"""Fetching with the real client of the hub, against a hub on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import numpy as np
import pytest

from ggufrun import hub
from ggufrun.errors import FormatError, GgufrunError, NotFoundError, TargetError, UnsupportedError, UsageError
from ggufrun.hub import Progress, client, outline, places, transfer
from tests.support.checkpoints import DEMO
from tests.support.hubserver import TOKEN, HubServer, Repo, git_sha1, running


def noise(n_bytes: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(n_bytes)


BIG = noise(3_000_000)
CHECKPOINT = {
    "README.md": b"# a model\n",
    "config.json": b'{"architectures": ["X"]}',
    "model.safetensors": BIG,
    "pytorch_model.bin": noise(2000, 1),
    "tokenizer.json": b"{}" * 1000,
    "logo.png": b"png",
}
WANTED = {"README.md", "config.json", "model.safetensors", "tokenizer.json"}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with one model, and a client that knows only this hub and an empty cache."""
    with running() as found:
        found.repos["org/model"] = Repo(dict(CHECKPOINT))
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        template = found.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(transfer, "PAUSE", 0.001)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield found


def take_down(server: HubServer) -> None:
    """No hub any more, nor the connections that the client keeps open."""
    server.close()
    # which releases before 1.0 do not have
    getattr(huggingface_hub, "close_session", lambda: None)()


def content(folder: Path) -> dict[str, bytes]:
    """Name and bytes of the files below a folder, hidden ones left out."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in sorted(files.items()) if not name.startswith(".")}


def test_a_checkpoint_comes_into_the_cache_without_its_duplicates(server: HubServer) -> None:
    states: list[Progress] = []
    folder = hub.fetch("org/model", on_progress=states.append)
    assert content(folder) == {name: CHECKPOINT[name] for name in WANTED}
    assert set(server.received()) == WANTED
    total = sum(len(CHECKPOINT[name]) for name in WANTED)
    assert {state.total for state in states} == {total}
    assert [state.done for state in states] == sorted(state.done for state in states)
    assert states[-1] == Progress("model.safetensors", total, total)
    contents = [seen for seen in server.seen if seen.method == "GET" and "/api/" not in seen.path]
    # a compressed answer could not go on where it stopped
    assert {seen.headers["accept-encoding"] for seen in contents} == {"identity"}
    # the weights last: what is cut short is seen by their absence
    assert server.received()[-1] == "model.safetensors"


def test_the_clients_own_functions_find_what_was_fetched(server: HubServer) -> None:
    folder = hub.fetch("org/model")
    server.seen.clear()
    found = huggingface_hub.hf_hub_download("org/model", "model.safetensors")
    assert Path(found) == folder / "model.safetensors"
    assert huggingface_hub.snapshot_download("org/model", local_files_only=True) == str(folder)
    assert server.received() == []
    (repo,) = huggingface_hub.scan_cache_dir(server_cache()).repos
    assert (repo.repo_id, {name for rev in repo.revisions for name in rev.refs}) == ("org/model", {"main"})


def server_cache() -> str:
    return str(huggingface_hub.constants.HF_HUB_CACHE)


def test_again_fetches_nothing_and_a_new_commit_only_what_changed(server: HubServer) -> None:
    first = hub.fetch("org/model")
    server.seen.clear()
    assert hub.fetch("org/model") == first
    assert server.received() == []
    server.repos["org/model"].files["config.json"] = b'{"architectures": ["Y"]}'
    second = hub.fetch("org/model")
    assert second != first and (second / "config.json").read_bytes().endswith(b'"Y"]}')
    assert server.received() == ["config.json"]
    assert (second / "model.safetensors").read_bytes() == BIG


def test_a_transfer_cut_in_the_middle_goes_on_there_in_the_same_run(server: HubServer) -> None:
    server.cuts = [1_000_000, 500_000]
    folder = hub.fetch("org/model")
    assert (folder / "model.safetensors").read_bytes() == BIG
    # tokenizer.json is above the limit for small files, and took the first cut unharmed
    assert [asked for asked in server.asked() if asked] == ["bytes=500000-"]


def test_a_killed_transfer_goes_on_where_it_stopped_in_the_next_run(server: HubServer) -> None:
    def stop(state: Progress) -> None:
        if state.file == "model.safetensors" and state.done > 1_500_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.fetch("org/model", on_progress=stop)
    (partial,) = places.repo_folder("org/model").glob("blobs/*.incomplete")
    stopped = partial.stat().st_size
    assert 1_000_000 < stopped < len(BIG)
    server.seen.clear()
    states: list[Progress] = []
    folder = hub.fetch("org/model", on_progress=states.append)
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert server.asked() == [f"bytes={stopped}-"]
    assert states[0].done == stopped
    assert not list(places.repo_folder("org/model").glob("blobs/*.incomplete"))


def test_a_server_that_ignores_ranges_sends_all_again(server: HubServer) -> None:
    server.cuts, server.ranges = [10**9, 1_000_000], False
    states: list[Progress] = []
    folder = hub.fetch("org/model", on_progress=states.append)
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert server.asked()[-1] == "bytes=1000000-"
    assert states[-1].done == states[-1].total


def test_a_server_that_gives_up_is_named_with_what_came(server: HubServer, tmp_path: Path) -> None:
    server.cuts = [10**9, 1_000_000, *[0] * 20]
    with pytest.raises(NotFoundError, match=r"stopped after 1,000,000 of 3,000,000 bytes.*continues from there"):
        hub.fetch("org/model")
    assert len(server.cuts) == 20 - transfer.RETRIES
    server.cuts = []
    assert (hub.fetch("org/model") / "model.safetensors").read_bytes() == BIG
    assert server.asked()[-1] == "bytes=1000000-"


def test_a_server_out_of_order_is_asked_again(server: HubServer) -> None:
    server.broken = 3
    assert (hub.fetch("org/model") / "model.safetensors").read_bytes() == BIG
    server.repos["org/model"].files["model.safetensors"] = noise(5000, 2)
    server.broken = 1000
    with pytest.raises(NotFoundError, match=r"stopped after 0 of 5,000 bytes: .* error 503"):
        hub.fetch("org/model")


def test_a_server_that_falls_silent(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    server.stalls = [0.0, 0.5]
    assert (hub.fetch("org/model") / "model.safetensors").read_bytes() == BIG
    assert "bytes=1500000-" in server.asked()


@pytest.mark.parametrize("lie", [lambda data: data[:-1] + b"?", lambda data: data + b"?"], ids=["other", "longer"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_wrong_content_is_refused(server: HubServer, lie: Callable[[bytes], bytes], name: str) -> None:
    size = len(CHECKPOINT[name])
    server.repos["org/model"].lie = lambda data: lie(data) if len(data) == size else data
    with pytest.raises(FormatError, match=f"{name} (arrived damaged|is longer)"):
        hub.fetch("org/model")
    server.repos["org/model"].lie = bytes
    assert content(hub.fetch("org/model")) == {name: CHECKPOINT[name] for name in WANTED}


def test_a_damaged_partial_file_does_not_spoil_the_whole(server: HubServer) -> None:
    partial = places.repo_folder("org/model") / "blobs" / f"{hashlib.sha256(BIG).hexdigest()}.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * 1000)
    assert (hub.fetch("org/model") / "model.safetensors").read_bytes() == BIG


def test_an_overlong_partial_file_is_begun_again(server: HubServer, tmp_path: Path) -> None:
    file = client.listing("org/model", None).file("model.safetensors")
    partial = tmp_path / "partial"
    partial.write_bytes(BIG + b"more")
    transfer.fetch_file("org/model", "main", file, partial, lambda done: None)
    assert partial.read_bytes() == BIG


def test_revisions(server: HubServer) -> None:
    server.repos["org/model"].branches["v1/old"] = {"model.safetensors": b"old", "config.json": b"{}"}
    assert content(hub.fetch("org/model@v1/old"))["model.safetensors"] == b"old"
    commit = server.repos["org/model"].at("main")
    assert commit is not None
    folder = hub.fetch(f"org/model@{commit[0]}")
    assert folder.name == commit[0]
    with pytest.raises(NotFoundError, match="no revision v9"):
        hub.fetch("org/model@v9")


EXPLAINED = [
    ("org/absent", None, r"no model org/absent, or it is private; .*hf auth login"),
    ("org/absent", TOKEN, r"no model org/absent, or it is private; .*your token may read it"),
    ("org/private", None, r"no model org/private, or it is private; .*HF_TOKEN"),
    ("org/private", "hf_stranger", r"no model org/private.*your token"),
    ("org/gated", None, r"org/gated is gated; accept its terms at http.*/org/gated, then log in"),
    ("org/gated", "hf_stranger", r"org/gated is gated, and your token may not read it; ask for access at http"),
    ("org/model", "hf_wrong", r"does not accept your token; .*HF_TOKEN"),
]


@pytest.mark.parametrize(("repo", "token", "words"), EXPLAINED)
def test_what_cannot_be_had_is_explained(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, repo: str, token: str | None, words: str
) -> None:
    server.repos["org/private"] = Repo(dict(CHECKPOINT), private=True)
    server.repos["org/gated"] = Repo(dict(CHECKPOINT), gated=True)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(NotFoundError, match=words):
        hub.fetch(repo)


@pytest.mark.parametrize("where", ["environment", "file"])
@pytest.mark.parametrize("repo", ["org/private", "org/gated"])
def test_a_token_opens_and_stays_with_the_hub(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, repo: str, where: str
) -> None:
    server.repos[repo] = Repo(dict(CHECKPOINT), private=repo == "org/private", gated=repo == "org/gated")
    if where == "environment":
        monkeypatch.setenv("HF_TOKEN", TOKEN)
    else:
        Path(huggingface_hub.constants.HF_TOKEN_PATH).write_text(TOKEN)
    assert (hub.fetch(repo) / "model.safetensors").read_bytes() == BIG
    for seen in server.seen:
        assert (seen.headers.get("authorization") == f"Bearer {TOKEN}") == (seen.host == "hub"), seen


def test_offline_serves_what_is_complete(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as offline:
        offline.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(NotFoundError, match=r"HF_HUB_OFFLINE is set.*unset it"):
            hub.fetch("org/model")
    folder = hub.fetch("org/model")
    take_down(server)
    notes: list[str] = []
    # the network is down
    assert hub.fetch("org/model", on_note=notes.append) == folder
    assert "cannot reach 127.0.0.1" in notes[0] and "copy of org/model in the cache" in notes[0]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert hub.fetch("org/model") == folder
    assert hub.fetch(f"org/model@{folder.name}") == folder
    with pytest.raises(NotFoundError, match="HF_HUB_OFFLINE"):
        hub.fetch("org/model@v2")
    (folder / "model.safetensors").unlink()
    with pytest.raises(NotFoundError, match="HF_HUB_OFFLINE"):
        hub.fetch("org/model")


def test_offline_a_missing_shard_is_noticed(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    index = b'{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    files = {"config.json": b"{}", "model.safetensors.index.json": index, names[0]: BIG, names[1]: noise(5000, 3)}
    server.repos["org/sharded"] = Repo(files)
    folder = hub.fetch("org/sharded")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert hub.fetch("org/sharded") == folder
    (folder / names[1]).unlink()
    with pytest.raises(NotFoundError, match="HF_HUB_OFFLINE"):
        hub.fetch("org/sharded")


def test_no_network(server: HubServer) -> None:
    take_down(server)
    with pytest.raises(NotFoundError, match=r"cannot reach 127\.0\.0\.1:\d+ \(.*\); check the network"):
        hub.fetch("org/model")


def test_a_type_is_no_checkpoint(server: HubServer) -> None:
    with pytest.raises(UsageError, match="leave :Q4_0 out"):
        hub.fetch("org/model:Q4_0")
    assert server.seen == []


def test_into_a_folder(server: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    first = hub.obtain(hub.parse("org/model"), folder=folder)
    assert content(folder) == {name: CHECKPOINT[name] for name in WANTED}
    assert (first.received, set(first.files)) == (4, WANTED)
    server.seen.clear()
    again = hub.obtain(hub.parse("org/model"), folder=folder)
    assert (again.received, server.received()) == (0, [])
    # the client reads the notes, and has nothing to fetch either
    huggingface_hub.hf_hub_download("org/model", "model.safetensors", local_dir=folder)
    huggingface_hub.hf_hub_download("org/model", "config.json", local_dir=folder)
    assert server.received() == []


def test_a_file_that_stands_is_not_replaced(server: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("mine")
    (folder / "model.safetensors").write_bytes(BIG)
    with pytest.raises(TargetError, match=r"config\.json exists and is not the hub's.*--force"):
        hub.obtain(hub.parse("org/model"), folder=folder)
    assert server.received() == []
    found = hub.obtain(hub.parse("org/model"), folder=folder, force=True)
    assert (folder / "config.json").read_bytes() == CHECKPOINT["config.json"]
    # the weights were the hub's, and did not come again
    assert found.received == 3 and "model.safetensors" not in server.received()
    note = folder / ".cache" / "huggingface" / "download" / "model.safetensors.metadata"
    assert note.read_text().splitlines()[:2] == [found.commit, hashlib.sha256(BIG).hexdigest()]


def test_a_folder_resumes_too(server: HubServer, tmp_path: Path) -> None:
    server.cuts = [10**9, 1_234_567, *[0] * 20]
    with pytest.raises(NotFoundError, match="1,234,567"):
        hub.obtain(hub.parse("org/model"), folder=tmp_path)
    # nothing half-written under its name
    assert set(content(tmp_path)) == WANTED - {"model.safetensors"}
    server.cuts = []
    server.seen.clear()
    hub.obtain(hub.parse("org/model"), folder=tmp_path)
    assert server.asked() == ["bytes=1234567-"]
    assert (tmp_path / "model.safetensors").read_bytes() == BIG


@pytest.mark.parametrize("name", ["../evil.gguf", "/tmp/evil.gguf", "a/../../evil.gguf", "..\\evil.gguf", "C:\\e.gguf"])
def test_a_repository_cannot_write_elsewhere(server: HubServer, tmp_path: Path, name: str) -> None:
    server.repos["org/evil"] = Repo({name: BIG})
    with pytest.raises(FormatError, match="do not trust"):
        hub.obtain(hub.parse("org/evil"), hub.gguf_files(None), folder=tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("*evil*")) and server.received() == []


def test_too_little_space_is_found_before_the_first_byte(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)._replace(free=2_900_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(TargetError, match="no space left"):
        hub.fetch("org/model")
    assert server.received() == []


def test_files_too_large_for_plain_http_are_left_to_the_client(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "largest_plain", lambda: 1_000_000)
    assert (hub.fetch("org/model") / "model.safetensors").read_bytes() == BIG
    hub.obtain(hub.parse("org/model"), folder=tmp_path / "folder")
    assert content(tmp_path / "folder")["model.safetensors"] == BIG
    server.repos["org/model"].files["model.safetensors"] = BIG + b"!"
    server.repos["org/model"].lie = lambda data: data[:-1] + b"?" if len(data) > 10**6 else data
    with pytest.raises(FormatError, match="damaged"):
        hub.fetch("org/model")
    monkeypatch.setattr(huggingface_hub.constants, "MAX_HTTP_DOWNLOAD_SIZE", 1_000_000)
    with pytest.raises(GgufrunError, match="hf_xet"):
        hub.obtain(hub.parse("org/model"), folder=tmp_path / "other")


def test_two_at_once_fetch_once(server: HubServer, tmp_path: Path) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(hub.fetch("org/model"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert sorted(server.received()) == sorted(WANTED)


def test_digests_that_the_listing_does_not_tell_are_asked_for(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_known", lambda item: (None, None))
    file = client.listing("org/model", None).file("model.safetensors")
    assert (file.size, file.digest.hex) == (len(BIG), hashlib.sha256(BIG).hexdigest())
    small = client.listing("org/model", None).file("config.json")
    assert (small.size, small.digest.hex) == (24, git_sha1(CHECKPOINT["config.json"]))


def test_a_server_that_is_no_hub(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.hubserver import _Handler

    monkeypatch.setattr(_Handler, "_info", lambda self, path: self._send(200, {}, b"<html>log in to the wifi</html>"))
    with pytest.raises(FormatError, match="not as a hub; check HF_ENDPOINT"):
        hub.fetch("org/model")
    monkeypatch.setattr(_Handler, "_info", lambda self, path: self._send(200, {}, b"[]"))
    with pytest.raises(FormatError, match="not as a hub"):
        hub.fetch("org/model")


@pytest.mark.parametrize("ranges", [True, False])
def test_an_outline_has_headers_and_holes(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranges: bool
) -> None:
    weights = (DEMO / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(weights[:8], "little")
    files = {path.name: path.read_bytes() for path in DEMO.iterdir() if path.is_file()}
    server.repos["org/poet"] = Repo(files)
    server.ranges = ranges
    # as if it were a long header: the first request does not reach its end
    monkeypatch.setattr(outline, "FIRST", 100)
    folder = hub.fetch_outline(hub.parse("org/poet"), tmp_path)
    assert folder.name == "poet"
    path = folder / "model.safetensors"
    assert path.stat().st_size == len(weights)
    assert path.read_bytes() == weights[:header] + bytes(len(weights) - header)
    assert (folder / "tokenizer.model").read_bytes() == files["tokenizer.model"]
    assert [asked for asked in server.asked() if asked] == ["bytes=0-99", f"bytes=0-{header - 1}"]
    server.repos["org/old"] = Repo({"config.json": b"{}", "pytorch_model.bin": BIG})
    with pytest.raises(UnsupportedError, match="no safetensors"):
        hub.fetch_outline(hub.parse("org/old"), tmp_path / "old")
    server.repos["org/lie"] = Repo({"config.json": b"{}", "model.safetensors": BIG})
    with pytest.raises(FormatError, match="header has"):
        hub.fetch_outline(hub.parse("org/lie"), tmp_path / "lie")
