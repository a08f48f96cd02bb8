"""How many threads: cores, hardware threads, quotas of control groups, on machines that are made up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ggufrun import processors as module
from ggufrun.convert import pipeline
from ggufrun.processors import Processors, processors, quota

V1 = "cpu,cpuacct/x"


@pytest.mark.parametrize(
    ("machine", "throughput", "latency"),
    [
        (Processors(16, 8), 16, 8),
        (Processors(4, 4), 4, 4),
        (Processors(16, 8, 2.5), 3, 2),
        (Processors(16, 8, 12.0), 12, 8),
        (Processors(16, 8, 0.1), 1, 1),
        (Processors(1, 1), 1, 1),
    ],
)
def test_threads(machine: Processors, throughput: int, latency: int) -> None:
    assert (machine.for_throughput, machine.for_latency) == (throughput, latency)


def test_this_machine() -> None:
    found = processors()
    assert 1 <= found.cores <= found.logical
    assert 1 <= found.for_latency <= found.for_throughput <= found.logical
    assert pipeline.default_threads() == found.for_throughput


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity to set")
def test_affinity_counts() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert (processors().logical, processors().cores) == (1, 1)
    finally:
        os.sched_setaffinity(0, before)


def test_siblings_are_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu, mask in enumerate(("5", "a", "5", "a")):
        (tmp_path / f"cpu{cpu}").write_text(mask + "\n")
    monkeypatch.setattr(module, "SIBLINGS", str(tmp_path / "cpu{}"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    assert (processors().logical, processors().cores) == (4, 2)


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5),
        ("0::/a/b\n", {"a/cpu.max": "150000 100000\n", "a/b/cpu.max": "max 100000\n"}, 1.5),
        # a container that sees its own group as the root
        ("0::/docker/123\n", {"cpu.max": "400000 100000\n"}, 4.0),
        (
            "3:cpu,cpuacct:/x\n",
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "50000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
            0.5,
        ),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "0"}, None),
        ("nonsense", {"cpu.max": "nonsense"}, None),
        ("2:memory:/m\n", {"memory/m/cpu.max": "100000 100000"}, None),
    ],
)
def test_quotas(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    membership: str,
    files: dict[str, str],
    expected: float | None,
) -> None:
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(module, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(module, "CGROUPS", tmp_path / "fs")
    assert quota() == expected
