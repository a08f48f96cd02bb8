"""Models too large for the memory: refused before they are loaded, with what would fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ggufrun.engine.context import ContextParams
from ggufrun.engine.model import ModelParams
from ggufrun.engine.placement import memory_check
from ggufrun.engine.placement.devices import Device
from ggufrun.engine.placement.memory import Footprint, Place, Use
from ggufrun.errors import EngineError

GIB = 1 << 30


def host(total: int) -> Callable[[], Device]:
    return lambda: Device("CPU", "", "cpu", total, total)


def footprint(weights: float, cache: float, context: int = 4096, bits: float = 16.0) -> Footprint:
    use = Use(int(weights * GIB), int(cache * GIB), GIB // 4)
    place = Place(Device("CPU", "", "cpu", 0, 0), use)
    return Footprint(place, (), context, 32, 0, context, int(weights * GIB * 8 / bits))


@pytest.mark.parametrize(
    ("found", "total", "words"),
    [
        # Weights fit: 16 - 13 - 0.25 GiB for a cache of a GiB for 8192 tokens.
        (footprint(13, 16, 131072), 16, "-c 22528 would fit"),
        # 26 GiB of 16 bits in 0.9 * 16 - 2.25: 12.15 GiB, 7.5 bits.
        (footprint(26, 2), 16, "as Q6_K it would fit"),
        # 8.55 GiB, 5.3 bits
        (footprint(26, 2), 12, "as Q4_K_M it would fit"),
        # 1.75 of the 2 GiB that 4096 tokens take
        (footprint(13, 2, bits=4.85), 15, "-c 3584 would fit"),
        # 11.7 GiB of 14.9 with 4.85 bits: 3.8 bits
        (footprint(14.9, 0.6, bits=4.85), 14, "as Q2_K it would fit"),
        (footprint(140, 2), 16, "not even Q2_K"),
    ],
)
def test_what_would_fit(found: Footprint, total: int, words: str) -> None:
    error = memory_check.too_large(Path("model.gguf"), found, total * GIB)
    assert words in str(error) and f"and this computer has {total}.0 GiB" in str(error)


def test_a_file_is_measured_where_it_is_large(
    demo_gguf: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded model on a computer of some megabytes."""
    path = demo_gguf("f16")
    params, context = ModelParams(path), ContextParams(n_ctx=512)
    memory_check.check(params, context)
    size = path.stat().st_size
    monkeypatch.setattr(memory_check, "host_device", host(3 * size))
    measured: list[object] = []
    monkeypatch.setattr(memory_check, "measure", lambda *arguments: measured.append(arguments))
    memory_check.check(params, context)
    assert measured == []
    monkeypatch.undo()
    monkeypatch.setattr(memory_check, "host_device", host(int(1.1 * size)))
    with pytest.raises(EngineError, match=r"takes .* GiB with a context of 512 tokens"):
        memory_check.check(params, context)
    monkeypatch.setattr(memory_check, "host_device", host(0))
    memory_check.check(params, context)


def test_shards_count_together(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        (tmp_path / f"m-{number:05d}-of-00003.gguf").write_bytes(b"x" * number)
    assert memory_check.size_on_disk(tmp_path / "m-00001-of-00003.gguf") == 6
    assert memory_check.size_on_disk(tmp_path / "none.gguf") == 0


def test_the_memory_of_cards_counts(demo_gguf: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = demo_gguf("f16")
    params, context = ModelParams(path), ContextParams(n_ctx=512)
    monkeypatch.setattr(memory_check, "host_device", host(int(1.1 * path.stat().st_size)))
    monkeypatch.setattr(memory_check, "card_memory", lambda: GIB)
    memory_check.check(params, context)
