"""On a GPU of this machine: what is computed there, in part or wholly, is what the processor computes.

Any backend will do. On a machine without a card Mesa's software device can be made visible to an engine of `make
vulkan` with ``GGML_VK_VISIBLE_DEVICES=0``. All runs in processes of its own, for the cards are hidden from the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import CARDS
from tests.oracles.completion_oracle import make_adapter
from tests.support.workers import LISTENING

POEM = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n"
PROCESSOR = ("-ngl", "0", "-dev", "none")

SEEING = {
    **{name: value for name, value in os.environ.items() if name not in CARDS},
    **{name: value for name, value in CARDS.items() if value is not None},
}
"""The environment as it was before the cards were hidden."""

ASK = "import json; from ggufrun.engine.placement.devices import devices; from dataclasses import asdict; "
ASK += "print(json.dumps([asdict(one) for one in devices() if one.kind in ('gpu', 'igpu')]))"


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL, check=False, env=SEEING
    )


CARD: dict[str, Any] = next(iter(json.loads(python("-c", ASK).stdout or "[]")), {})

pytestmark = pytest.mark.skipif(
    not CARD, reason="no GPU that the engine can use (a software one: `make vulkan`, GGML_VK_VISIBLE_DEVICES=0)"
)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    done = python("-m", "ggufrun", *map(str, arguments))
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def f16(demo_gguf: Callable[[str], Path]) -> Path:
    return demo_gguf("f16")


def test_the_doctor_proves_it() -> None:
    proofs = json.loads(run("doctor", "--json").stdout)["offload"]
    assert CARD["name"] in [proof["device"] for proof in proofs]
    for proof in proofs:
        assert proof["works"] and proof["layers"] == proof["of"] and proof["same"] == proof["places"]


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["-ngl", "all"],
        ["-ngl", "1"],
        ["-ngl", "3"],
        ["-ngl", "0"],
        ["-dev", "none"],
        ["-dev", CARD.get("name", ""), "-sm", "none"],
        ["-ot", "ffn_down=CPU"],
        ["-ngl", "2", "-fa", "off"],
        ["-fa", "on", "-ctk", "q8_0", "-ctv", "q8_0"],
        ["--no-mmap"],
    ],
    ids=" ".join,
)
def test_a_poem(f16: Path, flags: Sequence[str]) -> None:
    done = run("chat", f16, "背一下静夜思", "--temp", "0", *flags)
    assert (done.stdout, done.stderr) == (POEM, "")


def test_what_does_not_fit_stays_and_that_is_said(f16: Path) -> None:
    whole = json.loads(run("inspect", f16, "--fit", "--json", "-ngl", "all").stdout)
    place = whole["places"][0]
    assert place["name"] == CARD["name"] and place["weights"] > 0 and place["cache"] > 0 and whole["layers"] == 5
    # room for its buffers and some of the layers
    room = place["compute"] + (place["weights"] + place["cache"]) * 2 // 3
    margin = (place["free"] - room) >> 20
    part = json.loads(run("inspect", f16, "--fit", "--json", "-fitt", margin).stdout)
    assert 0 < part["layers"] < 5 and part["places"][0]["left"] >= margin << 20
    done = run("chat", f16, "背一下静夜思", "--temp", "0", "-fitt", margin)
    assert done.stdout == POEM
    assert done.stderr.startswith(f"{part['layers']} of 5 layers fit on {CARD['name']} (")


def test_a_device_that_is_not_there(f16: Path) -> None:
    done = python("-m", "ggufrun", "chat", str(f16), "x", "-dev", "CUDA77")
    assert done.returncode == 2 and f"no device CUDA77; choose from {CARD['name']}" in done.stderr


def test_experts_stay_with_the_processor(measured: Callable[[str], Path]) -> None:
    model = measured("moe-f16")
    texts = [
        run("complete", model, "-p", "白日", "-n", "12", "--temp", "0", *flags).stdout
        for flags in (PROCESSOR, ["-ngl", "all"], ["-ncmoe", "1"], ["-cmoe"])
    ]
    assert len(set(texts)) == 1 and texts[0]


def test_perplexity_and_importance_matrix(f16: Path, tmp_path: Path) -> None:
    from ggufrun.convert.imatrix import load_imatrix

    text = tmp_path / "text"
    poem = "[INST] 背一下静夜思 [/INST] " + POEM + "[INST] 作者是谁？ [/INST] 《静夜思》的作者是李白。 "
    text.write_text(poem * 8, encoding="utf-8")
    values, sums = [], []
    for number, flags in enumerate((PROCESSOR, ["-ngl", "all"], ["-ngl", "2"])):
        said = run("perplexity", f16, "-f", text, "-c", "128", "--chunks", "2", "--json", *flags).stdout
        values.append(json.loads(said)["perplexity"]["value"])
        target = tmp_path / f"{number}.gguf"
        run("imatrix", f16, "-f", text, "-c", "128", "--chunks", "2", "-o", target, *flags)
        sums.append(load_imatrix(target).entries)
    assert values[1:] == pytest.approx([values[0]] * 2, rel=1e-3)
    for other in sums[1:]:
        assert other.keys() == sums[0].keys()
        for name, entry in sums[0].items():
            assert np.abs(other[name].sums - entry.sums).max() <= 1e-2 * np.abs(entry.sums).max()


@pytest.mark.parametrize("there", [(PROCESSOR, ["-ngl", "all"]), (["-ngl", "all"], PROCESSOR)], ids=["to", "from"])
def test_a_session_moves(f16: Path, tmp_path: Path, there: tuple[Sequence[str], Sequence[str]]) -> None:
    session = tmp_path / "talk.json"
    first = run("chat", f16, "背一下静夜思", "--temp", "0", "--session", session, *there[0])
    assert first.stdout == POEM
    second = run("chat", f16, "作者是谁？", "--temp", "0", "--session", session, *there[1])
    assert second.stdout == "《静夜思》的作者是李白。\n"


def test_a_batch_of_questions(f16: Path, tmp_path: Path) -> None:
    questions, answers = tmp_path / "questions", []
    questions.write_text("背一下静夜思\n背一下春晓\n背一下相思\n", encoding="utf-8")
    for number, flags in enumerate((PROCESSOR, ["-ngl", "all"])):
        target = tmp_path / f"{number}.json"
        run("chat", f16, "--file", questions, "--output", target, "--temp", "0", *flags)
        answers.append(target.read_text(encoding="utf-8"))
    assert answers[0] == answers[1] and POEM.splitlines()[0] in answers[0]


def test_ways_of_generating(f16: Path, demo_gguf: Callable[[str], Path], tmp_path: Path) -> None:
    ways: list[list[str]] = [
        ["--lora", str(make_adapter(tmp_path / "adapter.gguf"))],
        ["--lookup"],
        ["-md", str(demo_gguf("q4_k_m"))],
        ["--cfg-scale", "1.5", "--cfg-negative-prompt", "春"],
        ["--grammar", 'root ::= [^a-z]+ "。"'],
        ["-c", "64", "-n", "80", "--ignore-eos"],
    ]
    for way in ways:
        texts = [
            run("complete", f16, "-p", "床前明月光，", "-n", "12", "--temp", "0", *way, *flags).stdout
            for flags in (PROCESSOR, ["-ngl", "all"])
        ]
        assert texts[0] == texts[1] != "", way


def test_its_worker_lends_it(f16: Path) -> None:
    command = [sys.executable, "-m", "ggufrun", "worker", "--port", "0"]
    process = subprocess.Popen(command, env=SEEING, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        assert process.stderr is not None
        said = ""
        while not (found := LISTENING.search(said)):
            said += process.stderr.readline()
        assert f"lending {CARD['name']}: " in said
        done = run("chat", f16, "背一下静夜思", "--temp", "0", "--rpc", found[1], "-dev", "RPC0", "-ngl", "all")
        assert done.stdout == POEM
    finally:
        process.kill()
        process.wait(10)
