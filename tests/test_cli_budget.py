"""The table of what goes where, and the doctor's verdict on a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufrun.cli.jobs import device_proof, doctor_findings
from ggufrun.cli.terminal import memory_table
from ggufrun.engine.context import ContextParams
from ggufrun.engine.model import ModelParams
from ggufrun.engine.placement import fit
from ggufrun.engine.placement.devices import Device
from ggufrun.engine.placement.memory import Footprint, Place, Use
from ggufrun.engine.placement.offload import Placement
from ggufrun.evaluate import device_check
from ggufrun.native.library import llama
from ggufrun.units import size_text
from ggufrun.workflows import memory_budget
from tests.support import workers
from tests.support.shapes import Kind, Shape, write_shape

GIB = 1 << 30
MODEL = ModelParams(Path("model.gguf"))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ggufrun", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL, check=False)


@pytest.fixture(scope="module")
def one() -> Iterator[workers.Worker]:
    if not llama().llama_supports_rpc():
        pytest.skip("this engine is built without RPC")
    with workers.running(1) as (started,):
        yield started


# --- the budget -------------------------------------------------------------------------------------------------------


def test_the_table_without_a_device(demo_gguf: Callable[[str], Path]) -> None:
    done = run("inspect", str(demo_gguf("f16")), "--fit", "-c", "512", "-ngl", "0")
    assert done.returncode == 0, done.stderr
    assert "CPU (system memory)" in done.stdout and "1.0 MiB" in done.stdout
    assert "a context of 4,096 tokens would fit as well" in done.stdout


def test_remote_memory_counts(one: workers.Worker, tmp_path: Path) -> None:
    shape = Shape(layers=8, width=1024, inner=2816, heads=8, kv_heads=8, kind=Kind.Q8_0)
    path = write_shape(tmp_path / "shape.gguf", shape)
    command = ["inspect", str(path), "--fit", "--rpc", one.address, "--json", "-c", "2048"]
    found = json.loads(run(*command).stdout)
    assert (found["layers"], found["of"], found["context"]) == (9, 9, 2048)
    remote, host = found["places"]
    # what tests/support/workers.py has them lend
    assert remote["free"] == 2048 << 20
    assert remote["description"] == one.address and remote["cache"] == shape.cache_bytes(2048) and host["cache"] == 0
    halved = json.loads(run(*command, "-ctk", "q8_0", "-ctv", "q8_0", "-fa", "on").stdout)
    assert halved["places"][0]["cache"] == shape.cache_bytes(2048, 8.5)
    four = json.loads(run(*command, "-ngl", "4").stdout)
    assert four["layers"] == 4 and four["advice"] == ["all layers would fit: leave -ngl out"]
    margin = str((remote["free"] - remote["weights"] * 2 // 3) >> 20)
    part = json.loads(run(*command, "-fitt", margin).stdout)
    assert 0 < part["layers"] < 9 and part["places"][0]["left"] >= int(margin) << 20


def footprint(context: int, free: int, used: int = 4 * GIB, host: int = 64 * GIB) -> Footprint:
    """A device that takes a megabyte a token beside ``used``."""
    use = Use(weights=used, cache=context << 20)
    return Footprint(
        Place(Device("CPU", "", "cpu", host, host), Use(weights=GIB)),
        (Place(Device("D0", "", "gpu", free, free), use),),
        context,
        32,
        0,
        32768,
    )


SHORT = ContextParams(n_ctx=1024)


def advised(free: int, whole: bool, params: ContextParams = SHORT, host: int = 64 * GIB) -> list[str]:
    def measured(model: ModelParams, context: ContextParams) -> Footprint:
        found = footprint(context.n_ctx or 0, free, host=host)
        if context.type_k == "q8_0":
            use = found.devices[0].use
            found = replace(found, devices=(replace(found.devices[0], use=replace(use, cache=use.cache // 2)),))
        return found

    found = fit.Fit(33 if whole else 20, 33, MODEL.placement, footprint(params.n_ctx or 0, free, host=host), 0)
    return memory_budget.advice(MODEL, params, found, measured)


def test_what_would_fit() -> None:
    # four gibibytes of weights leave room for so many tokens, rounded down in steps
    (line,) = advised(4 * GIB + (5000 << 20), whole=True)
    assert line.startswith("a context of ") and 4500 <= int(line.split()[3].replace(",", "")) <= 5000
    assert advised(4 * GIB + (40000 << 20), whole=True) == ["a context of 32,768 tokens would fit as well"]
    assert advised(4 * GIB + (600 << 20), whole=False) == [
        "everything on the devices would want 424.0 MiB more",
        "with -ctk q8_0 -ctv q8_0 -fa on all of it fits",
    ]
    long = ContextParams(n_ctx=2048)
    assert advised(4 * GIB + (600 << 20), whole=False, params=long)[-1] == "with -c 512 all of it fits"
    assert advised(3 * GIB, whole=False)[-1] == "a smaller type of the model would fit better: `ggufrun quantize`"
    assert "it does not fit: 512.0 MiB are missing on CPU" in advised(64 * GIB, whole=True, host=GIB // 2)


def test_sizes_and_the_summary() -> None:
    assert (size_text(3 << 20), size_text(-GIB * 3 // 2)) == ("3.0 MiB", "-1.50 GiB")
    found = fit.Fit(33, 33, Placement(shares=(20.0, 13.0), cpu_experts=600), footprint(1024, 9 * GIB), 512 << 20)
    assert memory_table.summary(found) == (
        "33 of 33 layers on the devices, context 1,024 of 32,768 tokens, shares 20,13, experts of 32 layers with the "
        "processor, 512.0 MiB kept free on each"
    )


# --- the proof --------------------------------------------------------------------------------------------------------


def test_a_device_is_proven(one: workers.Worker) -> None:
    done = run("doctor", "--rpc", one.address, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    (proof,) = facts["offload"]
    assert proof["device"] == "RPC0" and proof["works"]
    places = device_check.PLACES
    assert (proof["layers"], proof["of"], proof["same"], proof["places"]) == (4, 4, places, places)
    assert proof["difference"] < 1e-6 and min(proof["speeds"].values()) > 0
    (line,) = (finding for finding in facts["findings"] if finding["name"] == "offload")
    assert line["state"] == "ok" and line["value"].startswith("RPC0 works: 12 of 12 choices as the processor's")


PROOF: dict[str, Any] = {
    "device": "CUDA0",
    "difference": 2e-6,
    "same": 12,
    "places": 12,
    "layers": 4,
    "of": 4,
    "works": True,
    "speeds": {"prompt": 9000.0, "generation": 900.0, "load": 1.0},
    "processor": {"prompt": 4000.0, "generation": 800.0, "load": 0.1},
}


@pytest.mark.parametrize(
    ("change", "state", "words"),
    [
        ({}, "ok", "CUDA0 works: 12 of 12 choices"),
        ({"difference": 0.5, "same": 0, "works": False}, "bad", "CUDA0 computes wrong results: 0 of 12"),
        ({"layers": 3, "works": False}, "bad", "CUDA0 got 3 of 4 layers"),
        ({"error": "the card ran out of memory"}, "bad", "CUDA0 does not work: the card ran out of memory"),
        ({"error": "no model", "untried": True}, "hint", "CUDA0: not tried"),
    ],
)
def test_the_verdict(change: dict[str, Any], state: str, words: str) -> None:
    found = device_proof.verdict(PROOF | change)
    assert found[0] == state and found[1].startswith(words) and "\n" not in found[1]


def test_wrong_numbers_differ() -> None:
    random = np.random.default_rng(1)
    right = random.standard_normal((4, 100)).astype(np.float32)
    assert device_check.difference(right, right) == 0
    assert device_check.difference(right, right + np.float32(1e-4)) < device_check.WRONG
    assert device_check.difference(right, random.standard_normal((4, 100)).astype(np.float32)) > 1
    assert device_check.difference(right, np.full_like(right, np.nan)) == float("inf")


def test_a_device_that_ends_the_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(error: str) -> str:
        code = f"import sys, os; sys.stderr.write({error!r}); sys.stderr.flush(); os.abort()"
        monkeypatch.setattr(device_proof, "PROBE", code)
        return str(device_proof._prove(Path("model"), "CUDA0", "")["error"])

    message = "ggml_cuda_compute_forward: failed\nCUDA error: no kernel image is available for execution\nmore\n"
    assert end(message).startswith("this engine is built for other cards than this one")
    assert end("") == ("the engine gave up: it gave no reason; try again, and `ggufrun doctor` if that does not help")


# --- builds and cards -------------------------------------------------------------------------------------------------

CPU = {"name": "CPU", "description": "Example", "kind": "cpu", "total": 8 << 30, "free": 8 << 30}
CARD = {"name": "Example H1", "memory": 80 << 30, "driver": "580.65", "capability": "9.0"}


@pytest.mark.parametrize(
    ("backends", "features", "cards", "state", "words"),
    [
        (["CUDA"], [], [], "hint", "built with CUDA, and there is no GPU"),
        ([], [], [CARD], "hint", "not used, the engine is built without CUDA"),
        (["CUDA"], ["ARCHS=1200"], [CARD], "bad", "built for compute capability 12.0 and up, the card has 9.0"),
        (["CUDA"], ["ARCHS=900"], [CARD], "bad", "the engine's CUDA does not find it"),
        ([], [], [{**CARD, "driver": None}], "hint", "without a driver"),
    ],
)
def test_a_build_and_a_machine_that_do_not_go_together(
    backends: list[str], features: list[str], cards: list[dict[str, Any]], state: str, words: str
) -> None:
    engine = {"devices": [CPU], "gpu_backends": backends, "features": features}
    last = doctor_findings.judge_devices(engine, cards)[-1]
    assert last.state == state and words in last.value and last.hint


@pytest.mark.parametrize(
    ("why", "todo"),
    [
        ("CUDA driver version is insufficient for CUDA runtime version", "13 wants 580"),
        ("no CUDA-capable device is detected", "CUDA_VISIBLE_DEVICES names no card"),
        ("system not yet initialized", "nvidia-fabricmanager"),
        ("unknown error", "nvidia-modprobe"),
        ("a reason that nobody has seen yet", ""),
    ],
)
def test_the_engines_own_reason_is_told(why: str, todo: str) -> None:
    engine = {"devices": [CPU], "gpu_backends": ["CUDA"], "features": ["ARCHS=900"], "refusal": why}
    last = doctor_findings.judge_devices(engine, [CARD])[-1]
    assert last.state == "bad" and last.value.endswith(f"not used, {why}") and todo in last.hint


def test_a_gpu_of_amds() -> None:
    (line,) = doctor_findings.judge_amd({"devices": [CPU], "gpu_backends": []}, True)
    assert line.state == "hint" and "make vulkan" in line.hint
    assert doctor_findings.judge_amd({"devices": [CPU], "gpu_backends": ["Vulkan"]}, True) == []
    assert doctor_findings.judge_amd({"devices": [CPU], "gpu_backends": []}, False) == []
    assert doctor_findings.judge_amd({"error": "it does not load"}, True) == []


def test_cards_that_are_hidden_are_no_trouble() -> None:
    engine = {"devices": [CPU], "gpu_backends": ["CUDA"], "features": [], "hidden_by": "CUDA_VISIBLE_DEVICES"}
    last = doctor_findings.judge_devices(engine, [CARD])[-1]
    assert last.state == "ok" and last.value.startswith("CUDA_VISIBLE_DEVICES hides all GPUs")


def test_a_card_with_a_problem_of_its_own() -> None:
    card = {"name": "NVIDIA card", "memory": None, "driver": "580.65", "problem": "the parts differ", "todo": "restart"}
    engine = {"devices": [CPU], "gpu_backends": ["CUDA"], "features": []}
    last = doctor_findings.judge_devices(engine, [card])[-1]
    assert (last.state, last.hint) == ("bad", "restart") and last.value.endswith("driver 580.65: the parts differ")


def test_a_card_that_does_not_tell_its_memory() -> None:
    gpu = {**CPU, "name": "CUDA0", "kind": "gpu", "total": 0, "free": 0}
    engine = {"devices": [CPU, gpu], "gpu_backends": ["CUDA"], "features": []}
    last = doctor_findings.judge_devices(engine, [CARD])[-1]
    assert last.state == "bad" and last.value == "CUDA0 does not tell its memory" and "COMPUTE" in last.hint


@pytest.mark.parametrize(("why", "hint"), [("out of memory", "nvidia-smi` lists"), ("devices are busy", "COMPUTE")])
def test_a_card_that_refuses_a_program(why: str, hint: str) -> None:
    gpu = {**CPU, "name": "CUDA0", "kind": "gpu", "total": 0, "free": 0, "refused": why}
    engine = {"devices": [CPU, gpu], "gpu_backends": ["CUDA"], "features": []}
    last = doctor_findings.judge_devices(engine, [CARD])[-1]
    assert last.state == "bad" and last.value == f"CUDA0 cannot be used: {why}" and hint in last.hint


def test_a_card_in_use_needs_no_word() -> None:
    gpu = {**CPU, "name": "CUDA0", "kind": "gpu"}
    engine = {"devices": [CPU, gpu], "gpu_backends": ["CUDA"], "features": ["ARCHS=750,800,900"]}
    assert all(finding.name == "device" for finding in doctor_findings.judge_devices(engine, [CARD]))
    assert (
        doctor_findings.architecture_problem(["ARCHS=890"], None)
        == ""
        == doctor_findings.architecture_problem(["AVX2"], "9.0")
    )
