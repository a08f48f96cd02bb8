"""The documentation tells the truth: its transcripts are run, its links and commands exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import ROOT

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


def test_the_readme_has_a_transcript() -> None:
    assert transcripts(ROOT / "README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


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
