"""Layers go to a GPU that is there, not to one that the build could use."""

from __future__ import annotations

import pytest

from ggufrun.engine import offload
from ggufrun.engine.devices import devices, has_gpu


def test_there_is_a_cpu() -> None:
    found = devices()
    assert any(device.kind == "cpu" and device.total > 0 for device in found)
    assert has_gpu() == any(device.kind in ("gpu", "igpu") for device in found)


@pytest.mark.parametrize(
    ("gpu", "asked", "layers"),
    [
        (True, None, offload.ALL_LAYERS),
        (True, -1, offload.ALL_LAYERS),
        (True, 7, 7),
        (True, 0, 0),
        (False, None, 0),
        (False, 99, 0),
    ],
)
def test_layers(monkeypatch: pytest.MonkeyPatch, gpu: bool, asked: int | None, layers: int) -> None:
    monkeypatch.setattr(offload, "has_gpu", lambda: gpu)
    assert offload.gpu_layers(asked) == layers
