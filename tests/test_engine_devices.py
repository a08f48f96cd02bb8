"""Layers go to a GPU that is there, not to one that the build could use."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import pytest

from ggufrun.engine.placement import devices as devices_module
from ggufrun.engine.placement import offload
from ggufrun.engine.placement.devices import Device, devices, has_gpu
from ggufrun.native import abort, cuda
from ggufrun.native import library as native
from ggufrun.native.bindings import bindings


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


@pytest.mark.parametrize(
    ("why", "said"),
    [
        (
            "Failed to load shared library 'x/libllama.so': libcublas.so.13: cannot open shared object file",
            "whose libraries are not here (no libcublas.so.13); `pip install nvidia-cublas nvidia-cuda-runtime`",
        ),
        ("libcudart.so.12: cannot open shared object", "`pip install nvidia-cublas-cu12 nvidia-cuda-runtime-cu12`"),
        ("libvulkan.so.1: cannot open shared object file: No such file", "apt-get install libvulkan1`"),
        ("libgomp.so.1: cannot open shared object file", "cannot be loaded: libgomp.so.1: cannot open"),
    ],
)
def test_a_library_that_is_missing(why: str, said: str) -> None:
    assert said in str(native._unloadable(why))


ABORT = """
import ctypes
from ggufrun.native import abort as lastwords, library as native, log
native.llama()
library = ctypes.CDLL(str(native.library_path()))
with lastwords.last_words(lambda text: print(repr(text), flush=True)):
    log._write(log.ERROR, b"CUDA error: out of memory\\n", None)
    log._write(log.ERROR, b"  current device: 0, in function alloc\\n", None)
    library.ggml_abort(b"ggml-cuda.cu", 109, b"CUDA error")
"""


def test_an_end_is_told_with_what_was_logged_before_it() -> None:
    done = subprocess.run([sys.executable, "-c", ABORT], capture_output=True, text=True, check=False)
    said = "'ggml-cuda.cu:109: CUDA error\\nCUDA error: out of memory\\ncurrent device: 0, in function alloc'"
    assert done.stdout.strip() == said and done.returncode == -signal.SIGABRT


TELL = """
import json, sys
from ggufrun.engine.placement import devices, offload, system_memory as host, worker
from ggufrun.native import library as native
found = []
for most in (None, 5 << 20):
    (pointer,) = [pointer for name, pointer, kind in offload.device_pointers() if kind == offload.CPU]
    assert worker.tell_memory(pointer, most)
    free, total = worker.ctypes.c_size_t(), worker.ctypes.c_size_t()
    native.ggml().ggml_backend_dev_memory(pointer, worker.ctypes.byref(free), worker.ctypes.byref(total))
    found.append([free.value, total.value])
print(json.dumps([found, host.memory().available, host.memory().total]))
"""


def test_a_worker_tells_what_the_system_can_give_and_no_more_than_it_lends() -> None:
    done = subprocess.run([sys.executable, "-c", TELL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (whole, limited), available, total = json.loads(done.stdout)
    assert limited[0] == 5 << 20 and whole[1] <= total
    # other programs come and go meanwhile
    assert abs(whole[0] - available) < total // 4


THROW = """
import ctypes, os, sys
from ggufrun.cli.terminal import abort as ending
library = ctypes.CDLL("libstdc++.so.6")
with ending.guarded(lambda: "the conversation is kept"):
    getattr(library, sys.argv[1])(*sys.argv[2:] and [sys.argv[2].encode()])
"""


@pytest.mark.parametrize(
    ("call", "said"),
    [
        # std::__throw_runtime_error(char const *), and no exception at all
        (["_ZSt21__throw_runtime_errorPKc", "vk::Queue::submit: ErrorDeviceLost"], "the card failed in the middle"),
        (["_ZSt21__throw_runtime_errorPKc", "something else"], "the engine gave up: something else; try again, and"),
        (["_ZSt9terminatev"], "the engine gave up: terminate called without an active exception; try again"),
        (["abort"], "the engine gave up: it ended the process (SIGABRT); try again"),
    ],
)
def test_an_exception_that_nobody_catches(call: list[str], said: str) -> None:
    if abort._runtime() is None or sys.platform == "darwin":
        pytest.skip("another C++ library")
    done = subprocess.run([sys.executable, "-c", THROW, *call], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"ggufrun: {said}") and done.stderr.endswith("; the conversation is kept\n")


def test_which_memory_is_a_cards_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def one(name: str, kind: str) -> Device:
        return Device(name, "", kind, 7, 5)

    found = (one("CUDA0", "gpu"), one("Vulkan1", "igpu"), one("MTL0", "gpu"), one("CPU", "cpu"), one("RPC0", "gpu"))
    monkeypatch.setattr(devices_module, "devices", lambda: found)
    assert devices_module.card_memory() == 14


@pytest.mark.parametrize(
    ("card", "layers", "devices", "computes"),
    [
        (True, None, (), True),
        (True, 5, ("D1",), True),
        (True, 0, (), False),
        (True, None, ("none",), False),
        (False, None, (), False),
    ],
)
def test_whether_a_device_computes(
    monkeypatch: pytest.MonkeyPatch, card: bool, layers: int | None, devices: tuple[str, ...], computes: bool
) -> None:
    monkeypatch.setattr(offload, "has_gpu", lambda: card)
    assert offload.on_devices(layers, offload.Placement(devices=devices)) is computes


@pytest.mark.parametrize(
    ("names", "layers", "placement", "ahead"),
    [
        (("D0",), None, {}, True),
        (("D0", "D1"), -1, {}, True),
        (("D0",), 33, {}, True),
        (("D0",), 32, {}, False),
        (("D0",), None, {"cpu_experts": 1}, False),
        (("D0",), None, {"overrides": (("ffn", "CPU"),)}, False),
        (("D0", "RPC0[a:1]"), None, {}, False),
        (("D0", "RPC0[a:1]"), None, {"devices": ("D0",)}, True),
        ((), None, {}, False),
    ],
)
def test_whether_devices_go_ahead(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], layers: int | None, placement: dict[str, Any], ahead: bool
) -> None:
    monkeypatch.setattr(offload, "devices", lambda: tuple(Device(name, "", "gpu", 7, 5) for name in names))
    monkeypatch.setattr(offload, "has_gpu", lambda: bool(names))
    assert offload.goes_ahead(layers, offload.Placement(**placement), 32) is ahead


class _Function:
    restype: Any = None

    def __call__(self, status: int) -> bytes:
        return b"out of memory"


class Runtime:
    """CUDA's runtime with three cards, of which others have the first wholly."""

    def __init__(self) -> None:
        self.current = 0
        self.fetched = False
        self.cudaGetErrorString = _Function()

    def cudaGetDeviceCount(self, count: Any) -> int:
        count._obj.value = 3
        return 0

    def cudaSetDevice(self, index: int) -> int:
        self.current = index
        return 2 if index == 0 else 0

    def cudaMemGetInfo(self, free: Any, total: Any) -> int:
        return 0

    def cudaGetLastError(self) -> int:
        self.fetched = True
        return 0


def test_cards_that_refuse_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime()
    monkeypatch.setattr(cuda, "_runtime", lambda: runtime)
    assert cuda.refusals.__wrapped__() == {"CUDA0": "out of memory"}
    # what follows happens on a card that works, and no error is left for ggml to find
    assert runtime.current == 1 and runtime.fetched


def test_without_a_card_that_refuses_the_engine_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    native = bindings().llama_model_params()
    offload.Placement().apply(native)
    assert not native.devices and not native.no_host
    found = (
        Device("CUDA0", "", "gpu", 0, 0, "out of memory"),
        Device("CUDA1", "", "gpu", 7, 5),
        Device("Vulkan0", "", "igpu", 7, 5),
        Device("RPC0", "", "gpu", 7, 5),
    )
    monkeypatch.setattr(offload, "devices", lambda: found)
    assert offload._usual() == ["RPC0", "CUDA1"]
    assert not found[0].is_gpu and found[1].is_gpu


def test_shares_of_nothing_are_even(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, shares in ((0, (1.0, 1.0)), (5, ())):
        gpus = (Device("D0", "", "gpu", 9, 0), Device("D1", "", "gpu", 9, free), Device("CPU", "", "cpu", 9, 9))
        monkeypatch.setattr(offload, "devices", lambda gpus=gpus: gpus)
        assert offload._of_nothing() == shares
