"""The engine of ``make cuda`` on cards that do not exist (tests/standin): memory, refusals, failures, interruptions.

What ggml-cuda takes and is refused is real; only what it computes is not, so tests/test_gpu.py is still needed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ggufrun.engine.placement import fit
from tests import standin
from tests.standin import MIB, Seen
from tests.support.shapes import Kind, Shape, write_shape
from tests.support.workers import LISTENING
from tools.setup import cards


def library() -> Path | None:
    """ggml-cuda of the installed engine, where it is CUDA 13's."""
    import importlib.util

    spec = importlib.util.find_spec("llama_cpp")
    found = Path(spec.origin).parent / "lib" / "libggml-cuda.so.0" if spec and spec.origin else None
    return found if found and found.exists() and standin.NAMES[0].encode() in found.read_bytes() else None


pytestmark = [
    pytest.mark.skipif(library() is None, reason="the engine is not built with CUDA 13 (`make cuda`; needs no card)"),
    pytest.mark.skipif(not (shutil.which(os.environ.get("CC", "cc"))), reason="no C compiler"),
]

MARGIN = fit.MARGIN // MIB

POOL = 128
"""MiB that ggml-cuda takes at most beside what llama.cpp's plan counts, seen with these models."""

SHAPES = {
    "seven": Shape(kind=Kind.Q4_K),
    "short": Shape(10, kind=Kind.Q4_K),
    "half": Shape(6),
    "long": Shape(12, 4096, 14336, 32, 8, 65536, kind=Kind.Q4_K),
    "mixture": Shape(24, 2048, 768, 32, 4, 32768, experts=64, used=8, kind=Kind.Q4_K),
}

WHOLE = 8 * 10 * 20
"""Kernels of eight micro-batches of ten layers, at the least."""

QUESTION = "床前明月光" * 400
"""More than a micro-batch."""


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str
    seen: Seen


Run = Callable[..., Done]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return standin.build(tmp_path_factory.mktemp("standin"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A file of one of ``SHAPES``, with a hole where its weights would be."""
    place = tmp_path_factory.mktemp("shapes")

    def path(name: str) -> Path:
        file = place / f"{name}.gguf"
        return file if file.exists() else write_shape(file, SHAPES[name])

    return path


@pytest.fixture
def seeing(folder: Path, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """The environment of a process that sees these cards."""

    def variables(cards: str, **more: object) -> dict[str, str]:
        given = standin.environment(folder, cards, tmp_path / "seen", **{"copy_up_to": 1 << 16, **more})
        return {**{name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}, **given}

    return variables


@pytest.fixture
def run(seeing: Callable[..., dict[str, str]], tmp_path: Path) -> Run:
    def command(cards: str, *arguments: object, **more: object) -> Done:
        (tmp_path / "seen").unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "ggufrun", *map(str, arguments)],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=300,
            env=seeing(cards, **more),
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr, standin.read(tmp_path / "seen"))

    return command


def planned(run: Run, cards: str, path: Path, *flags: object) -> dict[str, Any]:
    done = run(cards, "inspect", path, "--fit", "--json", *flags)
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def takes(place: dict[str, Any]) -> int:
    return int((place["weights"] + place["cache"] + place["compute"]) // MIB)


@pytest.mark.parametrize(
    ("name", "cards", "flags"),
    [
        ("seven", "24576:24000", ()),
        ("seven", "4000", ()),
        ("seven", "700", ()),
        ("seven", "3000,3000", ()),
        ("seven", "2000,1000,3000", ()),
        ("seven", "4500", ("-ub", 2048)),
        ("seven", "4000", ("-ctk", "q8_0", "-ctv", "q4_0")),
        ("half", "24000", ()),
        ("half", "2500", ()),
        ("long", "8192:8000", ("-c", 32768)),
        ("long", "4000", ("-c", 32768, "-fa", "off")),
        ("long", "3500,3500", ("-c", 16384, "-fa", "off")),
        ("mixture", "24576:24000", ()),
        ("mixture", "3000", ()),
        ("mixture", "2200,2200", ()),
    ],
)
def test_what_was_planned_is_what_is_taken(
    run: Run, model: Callable[[str], Path], name: str, cards: str, flags: tuple[object, ...]
) -> None:
    """Never out of memory, and with one layer more there would not be what is to stay free."""
    path, flags = model(name), (*(() if "-c" in flags else ("-c", 4096)), *flags)
    plan = planned(run, cards, path, *flags)
    done = run(cards, "complete", path, "-p", QUESTION, "-n", 1, *flags)
    assert done.code == 0 and not any(done.seen.refused), done.err
    free = [int(card.split(":")[-1]) for card in cards.split(",")]
    for place, peak, has in zip(plan["places"], done.seen.peak, free, strict=False):
        # what -fa off adds for a full context is not all used by a shorter one
        spare = 2048 if "-fa" in flags else 64
        assert takes(place) - spare <= peak // MIB <= takes(place) + POOL
        assert peak // MIB <= has - MARGIN + POOL
    if len(free) == 1 and plan["layers"] < plan["of"]:
        more = planned(run, cards, path, "-ngl", plan["layers"] + 1, *flags)
        assert takes(more["places"][0]) > free[0] - MARGIN


@pytest.mark.parametrize("room", [800, 1600, 1])
def test_a_driver_that_gives_less_than_it_says(run: Run, model: Callable[[str], Path], room: int) -> None:
    """Neither weights, nor cache, nor anything has the room: what is tried last is the first that has."""
    path, size = model("short"), ("-c", 4096)
    done = run(f"24000:24000:{room}", "complete", path, "-p", "床前", "-n", 1, *size)
    assert done.code == 0, done.err
    said = [line for line in done.err.splitlines() if line.startswith("the driver refused the memory (")]
    tried = [line.rpartition("trying ")[2] for line in said]
    needs = [takes(planned(run, "24000", path, "-ngl", count, *size)["places"][0]) for count in range(12)]
    if room == 1:
        assert tried[-2:] == ["0 layers", "the processor alone"] and done.seen.peak[0] == 0
    else:
        counts = [11, *(int(text.removesuffix(" layers")) for text in tried)]
        assert counts == sorted(counts, reverse=True) and len(counts) > 1
        assert needs[counts[-1]] <= room < needs[counts[-2]]


def test_a_card_that_runs_full_in_mid_answer(run: Run, model: Callable[[str], Path]) -> None:
    """With nothing left free (-fitt 0), what is not in the plan has no room."""
    path = model("short")
    need = takes(planned(run, "24000", path, "-c", 4096)["places"][0])
    done = run(f"{need + 1}", "complete", path, "-p", QUESTION, "-n", 1, "-c", 4096, "-fitt", 0)
    assert done.code == 1 and done.err.splitlines()[-1] == (
        "ggufrun: the card ran out of memory; give fewer layers (-ngl), a shorter context (-c) or a larger --fit-target"
    )


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"no_kernel": 1}, "this engine is built for other cards than this one; `make cuda` builds it"),
        ({"lost_after": 280}, "the card failed in the middle of the work (unspecified launch failure); try again"),
        ({"lost_after": 280, "lost_error": 214}, "the card failed in the middle of the work (uncorrectable ECC"),
    ],
)
def test_a_card_that_fails(
    run: Run, demo_gguf: Callable[[str], Path], tmp_path: Path, broken: dict[str, int], said: str
) -> None:
    """One line, and the conversation is kept."""
    session = tmp_path / "talk.session"
    flags = ("背一下静夜思", "--temp", 0, "-n", 64, "--session", session)
    done = run("8000", "chat", demo_gguf("f16"), *flags, **broken)
    assert done.code == 1 and done.err.startswith(f"ggufrun: {said}") and len(done.err.splitlines()) == 1, done.err
    if "no_kernel" not in broken:
        assert "the conversation is kept" in done.err and session.exists()


@pytest.mark.parametrize(
    ("cards", "used"),
    [("8192:0", []), ("8192:0,8192", [1]), ("8192,8192:0", [0]), ("8192:0,8192,8192:0,8192", [1, 3])],
)
def test_cards_of_which_others_have_all(
    run: Run, demo_gguf: Callable[[str], Path], cards: str, used: list[int]
) -> None:
    """ggml ends a process that only asks such a card for its memory, and llama.cpp asks every card."""
    path, count = demo_gguf("f16"), cards.count(",") + 1
    others = [index for index in range(count) if index not in used]
    question = ("complete", path, "-p", "床前", "-n", 2)
    done = run(cards, *question)
    assert done.code == 0, done.err
    told = [f"CUDA{index} is left out: other programs have all of its memory" for index in others]
    assert [line.partition(" (")[0] for line in done.err.splitlines()] == told
    assert [index for index, launches in enumerate(done.seen.launches) if launches] == used
    for flags in (("-ngl", 0), ("-dev", "none"), *(("-dev", f"CUDA{index}") for index in used)):
        done = run(cards, *question, *flags)
        assert done.code == 0 and done.err == "", done.err
    places = planned(run, cards, path)["places"]
    assert [place["name"] for place in places] == [*(f"CUDA{index}" for index in used), "CPU"]
    done = run(cards, *question, "-dev", f"CUDA{others[0]}")
    assert done.code == 1 and "cannot be used: out of memory" in done.err and len(done.err.splitlines()) == 1
    facts = json.loads(run(cards, "doctor", "--json").out)
    assert [proof["device"] for proof in facts["offload"]] == [f"CUDA{index}" for index in used]


def test_a_card_that_another_program_has_for_itself(run: Run, demo_gguf: Callable[[str], Path]) -> None:
    done = run("8192:0,8192", "complete", demo_gguf("f16"), "-p", "床前", "-n", 2, full_error=46)
    assert done.code == 0 and done.err.startswith("CUDA0 is left out: CUDA-capable device(s) is/are busy")


def test_a_driver_that_is_too_old(run: Run, demo_gguf: Callable[[str], Path]) -> None:
    done = run("8000", "complete", demo_gguf("f16"), "-p", "床前", "-n", 1, count_error=35)
    assert done.code == 0 and "finds no GPU, so the processor computes" in done.err


def test_the_doctor_sees_wrong_results(run: Run) -> None:
    """Nothing is computed, so both cards are found out."""
    done = run("24576:24000,8192:8000", "doctor", "--json", copy_up_to=-1)
    proofs = json.loads(done.out)["offload"]
    assert [proof["device"] for proof in proofs] == ["CUDA0", "CUDA1"]
    assert not any(proof["works"] for proof in proofs)
    assert all(done.seen.launches[:2])
    told = run("24576:24000", "doctor", copy_up_to=-1)
    assert "CUDA0 computes wrong results: 0 of " in told.out


@pytest.mark.parametrize("cards", ["24000", "24000,24000", "24000,24000,24000"])
def test_an_interruption_waits_for_few_micro_batches(
    seeing: Callable[..., dict[str, str]], model: Callable[[str], Path], tmp_path: Path, cards: str
) -> None:
    """A prompt of eight micro-batches, of which each takes seconds: three at most are on their way."""
    flags = ["complete", str(model("short")), "-p", "床前明月光" * 800, "-n", "1", "-c", "4096"]
    environment = seeing(cards, delay=10_000_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "ggufrun", *flags], env=environment, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    seen = tmp_path / "seen"
    while process.poll() is None and not (seen.exists() and sum(standin.read(seen).launches) > 100):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and said.decode().endswith("ggufrun: interrupted\n")
    assert sum(standin.read(seen).launches) < WHOLE / 2


def test_a_worker_lends_its_cards(
    seeing: Callable[..., dict[str, str]], model: Callable[[str], Path], tmp_path: Path
) -> None:
    """The client has no card, and what it plans for the worker's is what these are asked for."""
    command = [sys.executable, "-m", "ggufrun", "worker", "--port", "0"]
    worker = subprocess.Popen(command, env=seeing("3000,2000"), stderr=subprocess.PIPE, text=True)
    try:
        assert worker.stderr is not None
        address = next(found[1] for line in worker.stderr if (found := LISTENING.search(line)))
        flags = ["--rpc", address, "-c", "4096"]
        ours = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}

        def ggufrun(*arguments: object) -> str:
            done = subprocess.run(
                [sys.executable, "-m", "ggufrun", *map(str, arguments), *flags],
                capture_output=True, text=True, env=ours, stdin=subprocess.DEVNULL, check=False, timeout=300,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            return done.stdout

        plan = json.loads(ggufrun("inspect", model("seven"), "--fit", "--json"))
        remote = plan["places"][:2]
        assert [place["free"] // MIB for place in remote] == [3000, 2000]
        ggufrun("complete", model("seven"), "-p", QUESTION, "-n", 1)
        seen = standin.read(tmp_path / "seen")
        assert not any(seen.refused)
        for place, peak, has in zip(remote, seen.peak, (3000, 2000), strict=False):
            assert takes(place) - 64 <= peak // MIB <= min(takes(place) + POOL, has - MARGIN + POOL)
    finally:
        worker.terminate()
        worker.wait()


def test_ways_to_split(run: Run, demo_gguf: Callable[[str], Path]) -> None:
    flags = ("-p", "床前", "-n", 3)
    for how, used in (("layer", [True, True]), ("tensor", [True, True]), ("none", [True, False])):
        done = run("8192,8192", "complete", demo_gguf("f16"), *flags, "-sm", how, copy_up_to=-1)
        assert done.code == 0 and [bool(count) for count in done.seen.launches[:2]] == used, (how, done.err)
    done = run("8192,8192", "complete", demo_gguf("f16"), *flags, "-sm", "row")
    assert done.code == 1 and len(done.err.splitlines()) == 1 and "on NVIDIA cards also -sm tensor" in done.err


def test_the_cards_that_are_built_for(seeing: Callable[..., dict[str, str]]) -> None:
    """The driver's library tells what nvidia-smi would, as in a container."""
    command = [sys.executable, "-c", cards.LIBRARY]
    environment = seeing("8192,8192", capability=89, driver=12080)
    told = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout
    found = cards.parse_library(told)
    assert found == cards.Graphics((cards.Card("Stand-in 0", "89"), cards.Card("Stand-in 1", "89")), None, 12)
