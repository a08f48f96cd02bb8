"""Hub ids, ``pull`` and ``list`` as a shell sees them, with the real client and a hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ggufrun.cli.app import app
from tests.support.checkpoints import DEMO, ROOT
from tests.support.hubserver import HubServer, Repo, running


class Shell:
    """A user's shell: an environment, a folder to work in, and a hub."""

    def __init__(self, server: HubServer, home: Path) -> None:
        self.server, self.home = server, home
        self.models = home / "models"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "GGUFRUN"))}
        self.environment = kept | {
            "GGUFRUN_STORES": "none",
            "HF_HOME": str(home / "hf"),
            "HF_ENDPOINT": server.url,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "*",
        }

    def start(self, *arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "ggufrun", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.home,
            env=self.environment | environment,
        )

    def __call__(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=150)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def does(self, *arguments: str | Path, **environment: str) -> str:
        """stdout of a command that works, and that keeps bars and colours out of pipes."""
        result = self(*arguments, **environment)
        assert result.returncode == 0, result.stderr
        assert "\x1b" not in result.stdout + result.stderr and "\r" not in result.stderr
        assert "%|" not in result.stderr
        return result.stdout

    def fails(self, words: str, *arguments: str | Path, status: int = 1, **environment: str) -> None:
        """A command that says in one line what is wrong and what to do."""
        result = self(*arguments, **environment)
        assert result.returncode == status, result.stderr
        assert re.search(words, result.stderr), result.stderr
        assert result.stdout == "" and len(result.stderr.splitlines()) == 1, result.stderr


@pytest.fixture
def shell(tmp_path: Path, demo_gguf: Callable[[str], Path]) -> Iterator[Shell]:
    checkpoint = {path.name: path.read_bytes() for path in DEMO.iterdir() if path.is_file()}
    files = {f"poet-{kind.upper()}.gguf": demo_gguf(kind).read_bytes() for kind in ("q8_0", "q4_k_m")}
    halves = {f"poet-F16-0000{n}-of-00002.gguf": files["poet-Q8_0.gguf"] + b"\0" * n for n in (1, 2)}
    with running() as server:
        server.repos["org/tang-poet"] = Repo(checkpoint | {"pytorch_model.bin": b"x" * 5000, "LICENSE": b"MIT"})
        server.repos["org/poet-GGUF"] = Repo(files | halves | {"README.md": b"# poet"})
        yield Shell(server, tmp_path)


def test_convert_from_the_hub_equals_convert_from_a_folder(shell: Shell, demo_gguf: Callable[[str], Path]) -> None:
    assert shell.does("convert", "org/tang-poet", "-t", "q4_k_m") == "tang-poet-Q4_K_M.gguf\n"
    assert (shell.home / "tang-poet-Q4_K_M.gguf").read_bytes() == demo_gguf("q4_k_m").read_bytes()
    assert not {"pytorch_model.bin", "LICENSE"} & set(shell.server.received())
    assert (shell.home / "hf" / "hub" / "models--org--tang-poet").is_dir()
    shell.server.close()
    options = ("-t", "q4_k_m", "--force", "--json")
    offline = shell("convert", "org/tang-poet@main", *options, HF_HUB_OFFLINE="1")
    assert offline.returncode == 0 and json.loads(offline.stdout)[0]["type"] == "Q4_K_M"
    assert "using the copy of org/tang-poet in the cache" in offline.stderr
    assert (shell.home / "tang-poet-Q4_K_M.gguf").read_bytes() == demo_gguf("q4_k_m").read_bytes()


def test_a_dry_run_fetches_headers_only(shell: Shell) -> None:
    from_hub = json.loads(shell.does("convert", "org/tang-poet", "-t", "q4_k_m", "--dry-run", "--json"))
    weights = hashlib.sha256((DEMO / "model.safetensors").read_bytes()).hexdigest()
    asked = [seen.headers.get("range") for seen in shell.server.seen if seen.path.endswith(weights)]
    assert asked == ["bytes=0-262143"]
    assert not list(shell.home.rglob("*.safetensors")) and not list(shell.home.glob("*.gguf"))
    assert from_hub == json.loads(shell.does("convert", DEMO, "-t", "q4_k_m", "--dry-run", "--json"))


def test_pull_by_type_list_and_use_by_name(shell: Shell, demo_gguf: Callable[[str], Path]) -> None:
    shell.models.mkdir()
    printed = shell.does("pull", "org/poet-GGUF:q4_k_m")
    assert printed == "models/org/poet-GGUF/poet-Q4_K_M.gguf\n"
    pulled = shell.home / printed.strip()
    assert pulled.read_bytes() == demo_gguf("q4_k_m").read_bytes()
    assert shell.server.received() == ["poet-Q4_K_M.gguf"]
    found = json.loads(shell.does("pull", "org/poet-GGUF:F16", "--json"))
    assert [Path(path).name[-19:] for path in found["files"]] == ["00001-of-00002.gguf", "00002-of-00002.gguf"]
    assert (found["type"], found["received"], found["path"]) == ("F16", 2, found["files"][0])
    # what is there does not come again
    shell.server.seen.clear()
    assert json.loads(shell.does("pull", "org/poet-GGUF:F16", "--json"))["received"] == 0
    assert shell.server.received() == []
    pulled.with_name("cut-Q8_0.gguf").write_bytes(demo_gguf("q8_0").read_bytes()[:5000])
    listed = {row["name"]: row for row in json.loads(shell.does("list", "--json"))["models"]}
    row = listed["org/poet-GGUF/poet-Q4_K_M"]
    assert (row["type"], row["architecture"], row["parameters"]) == ("Q4_K_M", "llama", 3_410_176)
    assert row["problem"] is None and row["bytes"] == pulled.stat().st_size
    assert listed["org/poet-GGUF/poet-F16"]["files"] == 2
    assert listed["org/poet-GGUF/cut-Q8_0"]["problem"].startswith("damaged")
    table = shell.does("list")
    assert re.search(r"org/poet-GGUF/poet-Q4_K_M +Q4_K_M +2\.1 MiB +llama +3,410,176 +\d{4}-", table)
    assert json.loads(shell.does("inspect", "org/poet-gguf:q4_k_m", "--json"))["path"] == printed.strip()
    assert "39 tensors" in shell.does("verify", "poet-Q4_K_M")
    # llama.cpp's flag for it; in a pipe nothing is fetched unasked
    for command in ("chat", "complete"):
        assert shell.does(command, "-hf", "org/poet-GGUF:q4_k_m", "-p", "hi", "-n", "2")
        result = shell(command, "-hf", "org/other-GGUF:q4_k_m", "-p", "hi")
        assert result.returncode == 1 and "fetch it: ggufrun pull org/other-GGUF:q4_k_m" in result.stderr
    target = shell.home / "again.gguf"
    shell.does("quantize", "poet-q4_k_m", "q8_0", "--allow-requantize", "-o", target)
    assert target.is_file()


def test_a_pull_that_is_stopped_goes_on_there(shell: Shell, demo_gguf: Callable[[str], Path]) -> None:
    shell.server.stalls = [60.0]
    process = shell.start("pull", "org/poet-GGUF:q8_0", "-o", "here")
    half = demo_gguf("q8_0").stat().st_size // 2
    deadline = time.monotonic() + 150
    # the last that came may still be in a buffer; when it stays there for long, the client asks again
    while not any(path.stat().st_size >= half - (1 << 16) for path in shell.home.rglob("*.incomplete")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=150)
    assert (process.returncode, err) == (130, "ggufrun: interrupted\n")
    assert not (shell.home / "here" / "poet-Q8_0.gguf").exists()
    (partial,) = shell.home.rglob("*.incomplete")
    there = partial.stat().st_size
    assert half - (1 << 16) <= there <= half
    line = "poet-Q8_0.gguf: a pull was stopped after 1.8 MiB; pull it again to continue\n"
    assert line in shell("list", "here").stderr
    assert json.loads(shell.does("list", "here", "--json"))["stopped"] == [{"name": "poet-Q8_0.gguf", "bytes": there}]
    shell.server.seen.clear()
    shell.does("pull", "org/poet-GGUF:q8_0", "-o", "here")
    assert shell.server.asked() == [f"bytes={there}-"]
    assert (shell.home / "here" / "poet-Q8_0.gguf").read_bytes() == demo_gguf("q8_0").read_bytes()


def test_what_was_pulled_is_removed_without_a_trace(shell: Shell) -> None:
    """Notes, locks and empty folders go too, and it can come again."""
    shell.models.mkdir()
    for kind in ("q4_k_m", "F16"):
        shell.does("pull", f"org/poet-GGUF:{kind}")
    shell.does("rm", "-y", "org/poet-GGUF:q4_k_m")
    left = sorted(path.name for path in (shell.models / "org").rglob("*") if path.is_file())
    assert all("F16" in name or name in (".gitignore", "CACHEDIR.TAG") for name in left), left
    assert json.loads(shell.does("pull", "org/poet-GGUF:q4_k_m", "--json"))["received"] == 1
    shell.does("rm", "-y", "poet-F16", "poet-q4_k_m")
    assert list(shell.models.iterdir()) == []
    shell.does("pull", "org/tang-poet")
    shell.does("rm", "-y", "tang-poet")
    assert list(shell.models.iterdir()) == []


def test_pull_a_checkpoint(shell: Shell, demo_gguf: Callable[[str], Path]) -> None:
    folder = shell.does("pull", "hf://org/tang-poet", GGUFRUN_MODELS=str(shell.home / "mine")).strip()
    assert folder == str(shell.home / "mine" / "org" / "tang-poet")
    assert not (Path(folder) / "pytorch_model.bin").exists()
    assert "model.safetensors" in shell.does("verify", folder)
    listed = json.loads(shell.does("list", "--json", GGUFRUN_MODELS=str(shell.home / "mine")))
    (row,) = listed["models"]
    assert (row["name"], row["kind"], row["type"]) == ("org/tang-poet", "checkpoint", "BF16")
    assert (row["architecture"], row["parameters"]) == ("LlamaForCausalLM", 3_410_176)
    (Path(folder) / "config.json").write_text("{}")
    shell.fails(r"config\.json exists and is not the hub's; .*--force", "pull", "org/tang-poet", "-o", folder)
    shell.does("pull", "org/tang-poet", "-o", folder, "--force")
    assert (Path(folder) / "config.json").read_bytes() == (DEMO / "config.json").read_bytes()


def test_errors_in_one_line(shell: Shell) -> None:
    shell.server.repos["org/gated"] = Repo({"x-Q4_0.gguf": b"x" * 2000}, gated=True)
    shell.fails("org/gated is gated; accept its terms", "pull", "org/gated")
    shell.fails("no Q6_K; there are F16, Q4_K_M, Q8_0", "pull", "org/poet-GGUF:Q6_K")
    shell.fails("is not a model id; write org/name", "pull", "poet", status=2)
    shell.fails("no such file or folder: ./org/tang-poet", "convert", "./org/tang-poet")
    shell.fails("holds GGUF files, no checkpoint; fetch one with `ggufrun pull`", "convert", "org/poet-GGUF")
    shell.fails(r"cannot reach 127\.0\.0\.1:9 ", "convert", "org/tang-poet", HF_ENDPOINT="http://127.0.0.1:9")


def test_an_empty_models_folder(shell: Shell) -> None:
    shell.models.mkdir()
    result = shell("list")
    assert (result.returncode, result.stdout) == (0, "") and "no models in models" in result.stderr
    assert json.loads(shell.does("list", "--json")) == {"folder": "models", "models": []}


def test_the_documentation_names_commands_and_settings_that_exist() -> None:
    text = (ROOT / "docs" / "hub.md").read_text("utf-8")
    for line in re.findall(r"^ggufrun (.+)$", text, re.MULTILINE):
        words = line.partition("  #")[0].split()
        help_text = CliRunner().invoke(app, [words[0], "--help"]).output
        for option in (word for word in words if word.startswith("-")):
            assert option in help_text, line
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "ggufrun").rglob("*.py"))
    for name in set(re.findall(r"GGUFRUN_[A-Z]+", text)):
        assert f'"{name}"' in sources


def test_the_shell_completes(shell: Shell, demo_gguf: Callable[[str], Path]) -> None:
    """Commands, flags, and the names of local models; where no model is called so the shell offers files."""
    (shell.models / "org").mkdir(parents=True)
    (shell.models / "org" / "poet-Q8_0.gguf").symlink_to(demo_gguf("q8_0"))

    def completed(*words: str) -> list[str]:
        told = {"_GGUFRUN_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(["ggufrun", *words])}
        environment = shell.environment | told | {"COMP_CWORD": str(len(words))}
        command = "import sys; sys.argv[0] = 'ggufrun'; from ggufrun.__main__ import main; main()"
        result = subprocess.run(
            [sys.executable, "-c", command], capture_output=True, text=True, cwd=shell.home, env=environment, check=True
        )
        assert result.stderr == ""
        return result.stdout.split()

    assert completed("verif") == ["verify"]
    assert completed("convert", "--split") == ["--split-max-size"]
    for command in (
        "chat",
        "complete",
        "inspect",
        "quantize",
        "bench",
        "perplexity",
        "compare",
        "imatrix",
        "verify",
        "remove",
    ):
        assert completed(command, "or") == ["org/poet-Q8_0"], command
    assert completed("chat", "nothing") == []
