"""The documentation tells the truth: its transcripts are run, its links and commands exist."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from ggufrun.cli.app import app
from ggufrun.cli.flags.chat import WITHOUT_EFFECT
from tests.support.checkpoints import ROOT

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TIMES = re.compile(r"\d+\.\d s, \d+ MB/s")


def transcripts(page: Path) -> list[list[tuple[str, str]]]:
    """The ``console`` blocks of a page, each as (command, output) pairs."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE):
        parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)
        assert parts[0] == "", f"{page.name}: a transcript starts with a command"
        found.append(list(zip(parts[1::2], parts[2::2], strict=True)))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_transcripts_are_true(page: Path, tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    (tmp_path / "build" / "demo").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    launcher = tmp_path / "bin" / "ggufrun"
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ggufrun "$@"\n')
    launcher.chmod(0o755)
    environment = os.environ | {"PATH": f"{launcher.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for block in transcripts(page):
        for command, expected in block:
            result = subprocess.run(
                command,
                shell=True,
                cwd=tmp_path,
                env=environment,
                text=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
            # stdout and stderr are told apart by nobody here, so their order is not compared
            shown = sorted(TIMES.sub("TIME", result.stdout).splitlines())
            assert shown == sorted(TIMES.sub("TIME", expected).splitlines()), command
    shutil.rmtree(tmp_path / "build")


def blocks(page: Path) -> str:
    """The lines of a page's blocks of code, the indented ones too."""
    text = page.read_text("utf-8")
    fenced = re.findall(r"^```(?:sh|console)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return "\n".join([*fenced, *re.findall(r"^    .*$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M)])


def commands_in(line: str) -> list[list[str]]:
    """The arguments of every call of ggufrun in a line for a shell, without what is redirected."""
    if "ggufrun" not in line:
        return []
    words = shlex.shlex(re.sub(r"^\s*(?:\w*\$\s+)?", "", line), posix=True, punctuation_chars="|&;<>")
    words.whitespace_split = True
    calls: list[list[str]] = []
    parts: list[list[str]] = [[]]
    for word in words:
        if set(word) <= set("|&;"):
            parts.append([])
        else:
            parts[-1].append(word)
    for part in parts:
        if part and part[0] == "ggufrun":
            ends = [index for index, word in enumerate(part) if word in ("<", ">")]
            calls.append(part[1 : min(ends, default=len(part))])
    return calls


def program() -> dict[str, Any]:
    """The commands by their names, whichever way this release of typer makes them."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    return dict(group.commands)


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What the program makes of a command, without carrying it out."""
    return dict(program()[arguments[0]].make_context(arguments[0], arguments[1:]).params)


USAGE_ERROR = typer.BadParameter.__mro__[1]
"""The error of wrong usage, of click or of what typer has in its place."""

SHOWN = [
    pytest.param(arguments, id=" ".join(arguments))
    for page in PAGES
    for line in blocks(page).splitlines()
    for arguments in commands_in(line)
]


@pytest.mark.parametrize("arguments", SHOWN)
def test_commands_are_understood(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parsed(arguments)


def test_commands_are_found_and_held_against_the_program() -> None:
    line = "printf 'a | b' | ggufrun chat m.gguf 'a > b' -i > out.txt && ggufrun list  # ggufrun worker"
    assert commands_in(line) == [["chat", "m.gguf", "a > b", "-i"], ["list"]]
    assert commands_in("here$  ggufrun doctor") == [["doctor"]]
    assert len(SHOWN) > 40 and {part.values[0][0] for part in SHOWN} == set(program())  # type: ignore[index]
    for wrong in (["chat", "--no-such-flag"], ["quantize"], ["bench", "m.gguf", "-p"], ["list", "too", "much"]):
        with pytest.raises(USAGE_ERROR):
            parsed(wrong)


FOREIGN_FLAGS: dict[str, str] = {
    "--gpus": "docker's",
    "--tag": "sha256sum's",
    "--kl-divergence": "llama-perplexity's",
    "--record": "of the tests",
    **dict.fromkeys(("--only", "--dry"), "of tools.bench"),
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_exist(page: Path) -> None:
    """In running text: whatever looks like a flag is one, of some command."""
    known = {"-h", "--help", "--version", "--install-completion", *WITHOUT_EFFECT, *FOREIGN_FLAGS}
    for command in program().values():
        known |= {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.S | re.M)
    found = {
        flag.replace("_", "-")
        for code in re.findall(r"`([^`]+)`", text)
        for flag in re.findall(r"(?<![\w|-])--?[a-z][\w-]*", code)
        # the beginning of several, as --dry-*
        if not code.startswith(("docker", "pip", "ssh")) and not flag.endswith("-")
    }
    assert found <= known, found - known


def test_the_readme_has_a_transcript() -> None:
    assert transcripts(ROOT / "README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def test_the_readmes_commands_run_in_order(tmp_path: Path) -> None:
    """From a checkpoint to a chat, each line on what the ones before it made."""
    shutil.copytree(ROOT / "models" / "tang-poet", tmp_path / "FOLDER")
    (tmp_path / "text.txt").write_text("床前明月光，疑是地上霜。\n" * 60, "utf-8")
    block = (ROOT / "README.md").read_text("utf-8").partition("in this order:")[2].split("```")[1]
    # talking needs a terminal, and what measures for long has tests of its own
    left_out = ("# talk to it", "--imatrix auto", " imatrix FOLDER")
    shorter = {
        " -f text.txt": " -f text.txt -c 64",
        " bench ": " bench -p 8 -n 4 -r 1 ",
        " compare ": " compare --chunks 2 ",
        "--fit 8G -c 2048 --force": "q8_0 --force",
    }
    lines = [line for line in block.splitlines() if not any(words in line for words in left_out)]
    script = "\n".join(lines).replace("ggufrun ", f"{shlex.quote(sys.executable)} -m ggufrun ")
    for long, short in shorter.items():
        assert long in script
        script = script.replace(long, short)
    result = subprocess.run(
        ["sh", "-euc", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert len(block.strip().splitlines()) > 10
    assert "举头望明月" in (tmp_path / "answer.txt").read_text("utf-8")


def test_every_command_is_in_the_readme_and_only_those() -> None:
    shown = subprocess.run([sys.executable, "-m", "ggufrun", "--help"], capture_output=True, text=True, check=True)
    commands = re.findall(r"^  ([a-z]+)  ", shown.stdout.partition("Commands:")[2], re.MULTILINE)
    assert len(commands) >= 5
    readme = (ROOT / "README.md").read_text("utf-8")
    mentioned = set(re.findall(r"^(?:\$ .*\| |\$ |echo .* \| )?ggufrun ([a-z]+)", readme, re.MULTILINE))
    assert mentioned == set(commands)


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in set(re.findall(r"\bmake ([a-z]+)\b", (ROOT / "README.md").read_text("utf-8"))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_help_lists_every_type() -> None:
    from ggufrun.cli.flags.common import TYPES
    from ggufrun.quantize.types import FILE_TYPES

    assert set(re.findall(r"\b[A-Z]+[0-9]\w*", TYPES)) == set(FILE_TYPES)
    for name, bits in re.findall(r"(\w+) \((\d[\d.]*)", TYPES):
        assert float(FILE_TYPES[name].about.split()[0]) == float(bits), name
    for command in ("convert", "quantize"):
        shown = subprocess.run(
            [sys.executable, "-m", "ggufrun", command, "-h"], capture_output=True, text=True, check=True
        )
        assert all(line.strip() in shown.stdout for line in TYPES.splitlines()[1:])


def test_what_other_tools_call_it() -> None:
    """A command of another tool is answered with ours, which exists; `help COMMAND` is `COMMAND --help`."""
    from ggufrun.cli.flags.aliases import COMMANDS, CONVERTER_FLAGS, MORE

    for name, advice in COMMANDS.items():
        assert name not in program()
        named = set(re.findall(r"ggufrun ([a-z]+) ", advice + " ")) - {"makes"}
        assert named <= set(program()), advice

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "ggufrun", *words], capture_output=True, text=True, check=False)

    result = run("run", "model.gguf")
    assert (result.returncode, result.stderr) == (
        2,
        "ggufrun: there is no command run here; write ggufrun chat MODEL\n",
    )
    result = run("complete", "model.gguf", "Once upon", "a")
    assert result.stderr == "ggufrun: unexpected argument: Once upon a; the text to continue goes after -p\n"
    assert result.returncode == 2
    assert set(MORE) <= set(program())
    assert run("help").stdout == run("--help").stdout
    assert run("help", "pull").stdout == run("pull", "--help").stdout != ""
    assert run("help", "nothing").returncode == 2
    flags = {flag for parameter in program()["convert"].params for flag in parameter.opts}
    assert set(CONVERTER_FLAGS.values()) <= flags and not flags & set(CONVERTER_FLAGS)


def test_the_list_of_commands_is_whole() -> None:
    """No description is cut off on a screen of 80 columns."""
    environment = os.environ | {"COLUMNS": "80"}
    shown = subprocess.run(
        [sys.executable, "-m", "ggufrun"], capture_output=True, text=True, check=False, env=environment
    )
    commands = (shown.stdout + shown.stderr).partition("Commands:")[2]
    assert "doctor" in commands and "..." not in commands
