"""docs/architecture.md and CONTRIBUTING.md name what is there, and all of it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.checkpoints import ROOT
from tests.test_imports import ROOMS

PACKAGE = ROOT / "ggufrun"
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
GUIDE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
LARGEST = 25
"""Modules in a folder whose listing still fits a screen."""


def folders() -> set[str]:
    return {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_dir() and any(path.glob("*.py")) and "__pycache__" not in path.parts
    }


def test_every_folder_is_named_and_every_name_exists() -> None:
    named = {name.rstrip("/") for name in re.findall(r"^\|(?: \d+ \|)? `([a-z_/]+/)` \|", PAGE, re.M)}
    assert named == folders()


def test_the_floors_follow_the_imports() -> None:
    floors = {room: int(floor) for floor, room in re.findall(r"^\| (\d+) \| `([a-z_]+)/` \|", PAGE, re.M)}
    assert floors
    for room, needs in ROOMS.items():
        for need in needs & floors.keys():
            if room in floors:
                assert floors[need] < floors[room], f"{room} imports {need}"


def test_modules_of_the_ground_floor_are_named() -> None:
    row = next(line for line in PAGE.splitlines() if "modules of the package" in line)
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert modules == set(re.findall(r"`([a-z]+)`", row))


def test_no_listing_is_longer_than_a_screen() -> None:
    crowded = {
        folder: count
        for folder in folders()
        if folder != "convert/arch" and (count := len(list((PACKAGE / folder).glob("*.py")))) > LARGEST
    }
    assert not crowded


def test_the_paths_of_the_guide_exist() -> None:
    paths = re.findall(r"`((?:ggufrun|tests|docs)/[\w/.]+)`", GUIDE)
    assert len(paths) > 12
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert Path(ROOT / "CHANGELOG.md").exists()
