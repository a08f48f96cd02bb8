"""``ggufrun doctor``: reading the machine, judging it, and surviving a broken engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ggufrun.cli.commands import doctor
from ggufrun.cli.jobs import device_proof, doctor_findings
from ggufrun.engine.placement import system_memory
from ggufrun.evaluate import build, machine
from ggufrun.native.library import stock_quantizer
from ggufrun.quantize import kernels
from tests.support.checkpoints import ROOT

CPUINFO = """\
processor\t: 0
model name\t: Example 9000 @ 3.0GHz
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu sse2 avx avx2 fma f16c avx512f

processor\t: 1
model name\t: Example 9000 @ 3.0GHz
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu sse2 avx avx2 fma f16c avx512f

processor\t: 2
model name\t: Example 9000 @ 3.0GHz
physical id\t: 0
core id\t\t: 1
flags\t\t: fpu sse2 avx avx2 fma f16c avx512f
"""

ENGINE: dict[str, Any] = {
    "version": "0.3.36",
    "features": ["AVX2"],
    "devices": [{"name": "CPU", "description": "Example", "kind": "cpu", "total": 8 << 30, "free": 8 << 30}],
    "rpc": True,
}


def test_measuring_tells_tuned_from_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    speed = kernels.measure(n_rows=1, n_per_row=256, repeat=1)
    assert speed.q4_k > 0
    assert speed.iq4_xs > 0
    # A library built with our kernels, and only such a one, holds llama.cpp's own beside them.
    assert speed.tuned is (stock_quantizer("q4_K") is not None)
    assert (speed.stock_q4_k is None) is (speed.stock_iq4_xs is None) is (not speed.tuned)
    monkeypatch.setattr(kernels, "stock_quantizer", lambda name: None)
    stock = kernels.measure(n_rows=1, n_per_row=256, repeat=1)
    assert (stock.tuned, stock.stock_q4_k) == (False, None)


def test_cpuinfo_counts_cores_not_threads() -> None:
    model, features, cores = machine.parse_cpuinfo(CPUINFO)
    assert model == "Example 9000 @ 3.0GHz"
    assert features == ("avx", "avx2", "fma", "f16c", "avx512f")
    assert cores == 2


def test_cpuinfo_of_an_arm_board_has_no_cores() -> None:
    model, features, cores = machine.parse_cpuinfo("processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd0b\n")
    assert (model, features, cores) == ("", ("asimd", "asimddp"), None)


def test_memory_is_read_in_bytes() -> None:
    text = "MemTotal:       24684092 kB\nMemFree:  1 kB\nMemAvailable:   20555164 kB\n"
    assert system_memory.parse_meminfo(text) == (24684092 * 1024, 20555164 * 1024)
    assert system_memory.parse_meminfo("") == (None, None)


def test_vm_stat_adds_the_pages_that_can_be_had() -> None:
    text = (
        "Mach Virtual Memory Statistics: (page size of 16384 bytes)\n"
        "Pages free:          100.\nPages active:        900.\nPages inactive:       50.\nPages speculative:     7.\n"
    )
    assert system_memory.parse_vm_stat(text) == 157 * 16384


def test_nvidia_smi_lines_become_cards() -> None:
    assert machine.parse_nvidia_smi("Example H1, 143771, 580.65.06\nnonsense\n") == [
        machine.NvidiaCard("Example H1", 143771 << 20, "580.65.06")
    ]


def test_system_info_keeps_what_is_on() -> None:
    text = "CUDA : ARCHS = 900 | USE_GRAPHS = 1 | CPU : SSE3 = 1 | AVX2 = 0 | REPACK = 1 | "
    assert build.parse_system_info(text) == ("ARCHS=900", "USE_GRAPHS", "SSE3", "REPACK")


def one(findings: list[doctor_findings.Finding]) -> doctor_findings.Finding:
    assert len(findings) == 1
    return findings[0]


def test_stock_kernels_get_a_hint() -> None:
    stock = one(doctor_findings.judge_kernels({"q4_k": 20.0, "iq4_xs": 5.9, "tuned": False}))
    assert stock.state == "hint"
    assert stock.value == "stock: Q4_K 20, IQ4_XS 6 million values/s a core"
    assert "make setup" in stock.hint
    speeds = {"q4_k": 200.0, "iq4_xs": 228.0, "stock_q4_k": 20.0, "stock_iq4_xs": 6.0, "tuned": True}
    tuned = one(doctor_findings.judge_kernels(speeds))
    assert tuned.state == "ok"
    assert "Q4_K 200 million values/s a core (10 times stock)" in tuned.value
    assert "IQ4_XS 228 million values/s a core (38 times stock)" in tuned.value


def test_the_kernels_that_multiply_are_named() -> None:
    def said(kernels: str) -> str:
        return doctor_findings.judge_engine({**ENGINE, "kernels": kernels})[-1].value

    assert said("avx512") == "ggufrun's for AVX-512 with VNNI, on the file's own layout"
    assert said("stock") == "llama.cpp's"
    assert set(doctor_findings.MATRIX_KERNELS) | {"stock"} >= {build.engine_build().kernels}


def test_a_card_that_lies_idle_gets_a_hint() -> None:
    card = {"name": "Example H1", "memory": 80 << 30, "driver": "580.65"}
    hint = doctor_findings.judge_devices(ENGINE, [card])[-1]
    assert hint.state == "hint"
    assert "make cuda" in hint.hint
    gpu = {**ENGINE["devices"][0], "kind": "gpu"}
    with_gpu = {**ENGINE, "devices": [*ENGINE["devices"], gpu]}
    assert all(finding.state == "ok" for finding in doctor_findings.judge_devices(with_gpu, [card]))
    assert "driver" in doctor_findings.judge_devices(ENGINE, [{**card, "driver": None}])[-1].hint


def test_little_room_gets_a_hint() -> None:
    assert one(doctor_findings.judge_disk(1 << 30)).state == "hint"
    assert one(doctor_findings.judge_disk(100 << 30)).state == "ok"
    plenty = {"total": 64 << 30, "available": 32 << 30, "limit": None}
    assert one(doctor_findings.judge_memory(plenty)).state == "ok"
    assert one(doctor_findings.judge_memory({**plenty, "limit": 1 << 30})).state == "hint"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "another processor"),
        ("import os; os.abort()", "SIGABRT"),
        ("raise ImportError('no libgomp here')", "no libgomp here"),
        ("pass", "cannot be asked"),
    ],
)
def test_a_broken_engine_is_one_line(code: str, said: str) -> None:
    engine = doctor.ask_engine([sys.executable, "-c", code])["engine"]
    finding = one(doctor_findings.judge_engine(engine))
    assert finding.state == "bad"
    assert said in finding.value
    assert "make engine" in finding.hint


def run(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    command = [sys.executable, "-m", "ggufrun", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize(
    "code", ["import os, signal; os.kill(os.getpid(), signal.SIGILL)", "raise OSError('libgomp.so.1: not found')"]
)
def test_a_broken_engine_still_gets_a_report_and_status_1(code: str, tmp_path: Path) -> None:
    (tmp_path / "llama_cpp").mkdir()
    (tmp_path / "llama_cpp" / "__init__.py").touch()
    (tmp_path / "llama_cpp" / "llama_cpp.py").write_text(code + "\n", encoding="utf-8")
    done = run("doctor", path=tmp_path)
    assert done.returncode == 1
    names = {line.split("\t")[0] for line in done.stdout.splitlines()}
    assert {"ggufrun", "engine", "processor", "memory", "disk", "models"} <= names
    assert len(done.stderr.splitlines()) == 1
    assert "make engine" in done.stderr or "reinstall" in done.stderr


def test_json_holds_every_fact() -> None:
    done = run("doctor", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert facts["engine"]["version"] == "0.3.36"
    assert any(device["kind"] == "cpu" for device in facts["engine"]["devices"])
    assert facts["kernels"]["q4_k"] > 0
    assert facts["processor"]["threads"] >= 1
    assert {finding["state"] for finding in facts["findings"]} <= {"ok", "hint"}


def test_in_a_pipe_the_report_is_plain_lines() -> None:
    done = run("doctor")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert all(1 <= line.count("\t") <= 2 for line in done.stdout.splitlines())
    assert "kernels\t" in done.stdout


def test_the_models_folder_is_the_one_that_list_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GGUFRUN_MODELS", str(tmp_path))
    (tmp_path / "some.gguf").touch()
    listed = json.loads(run("list", "--json").stdout)
    assert json.loads(run("doctor", "--json").stdout)["models"] == {"folder": listed["folder"], "files": 1}


def test_the_embedded_model_comes_along() -> None:
    """In a clone it is found where it stands, in a package where the build configuration puts it."""
    assert device_proof.EMBEDDED == ROOT / "models" / "tang-poet"
    line = '"models/tang-poet" = "ggufrun/data/tang-poet"'
    assert line in (ROOT / "pyproject.toml").read_text("utf-8")
    assert device_proof.PACKAGE / "data" == ROOT / "ggufrun" / "data"
