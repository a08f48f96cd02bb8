"""The flags of where a model goes, the lines that are said about it, and stepping back when the driver refuses."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from ggufrun.cli.flags import placement
from ggufrun.cli.terminal import abort
from ggufrun.engine.context import ContextParams
from ggufrun.engine.model import ModelParams
from ggufrun.engine.placement import fit
from ggufrun.engine.placement.devices import Device, hidden_by
from ggufrun.engine.placement.memory import Footprint, Place, Use
from ggufrun.engine.placement.offload import Placement
from ggufrun.errors import EngineError, UsageError
from ggufrun.evaluate import machine
from ggufrun.workflows import open_model

GIB = 1 << 30


def test_flags_become_a_placement() -> None:
    flags = placement.PlaceFlags(
        gpu_layers="ALL",
        split_mode="row",
        tensor_split="3,1",
        main_gpu=1,
        override_tensor=["a=CPU,b.*=CUDA0"],
        n_cpu_moe=4,
    )
    assert placement.layers(flags) == -1
    assert placement.placement(flags) == Placement("row", (3.0, 1.0), 1, (("a", "CPU"), ("b.*", "CUDA0")), 4)
    assert placement.layers(placement.PLAIN) is None and placement.placement(placement.PLAIN) == Placement()
    assert placement.layers(replace(flags, gpu_layers="auto")) is None
    assert placement.layers(replace(flags, gpu_layers="12")) == 12
    assert placement.margin(placement.PLAIN) == fit.MARGIN
    assert placement.margin(placement.PlaceFlags(fit_target=3)) == 3 << 20


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"gpu_layers": "many"}, "-ngl many; give a number of layers, all, or auto"),
        ({"tensor_split": "3;1"}, "-ts 3;1; give one number a GPU"),
        ({"override_tensor": ["ffn"]}, "-ot 'ffn' is not REGEX=BUFFER"),
        ({"split_mode": "columns"}, "-sm columns is not a split mode"),
        ({"fit_target": -1}, "--fit-target is -1"),
    ],
)
def test_flags_that_make_no_sense(values: dict[str, Any], said: str) -> None:
    flags = placement.PlaceFlags(**values)
    with pytest.raises(UsageError, match=re.escape(said)):
        placement.layers(flags)
        placement.placement(flags)
        placement.margin(flags)


def test_an_idle_card_and_a_build_without_one() -> None:
    assert open_model.idle((), False) == ""
    assert "built without CUDA: `make cuda`" in open_model.idle((), True)
    assert open_model.idle(("CUDA",), False).startswith("the engine is built with CUDA but finds no GPU")
    assert "`make cpu`" in open_model.idle(("CUDA",), False) and "doctor" in open_model.idle(("CUDA",), True)


@pytest.mark.parametrize(
    ("backends", "environment", "variable"),
    [
        (("CUDA",), {"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES"),
        (("CUDA",), {"CUDA_VISIBLE_DEVICES": "-1"}, "CUDA_VISIBLE_DEVICES"),
        (("CUDA",), {"CUDA_VISIBLE_DEVICES": "0"}, ""),
        (("CUDA",), {}, ""),
        (("Vulkan",), {"GGML_VK_VISIBLE_DEVICES": ""}, "GGML_VK_VISIBLE_DEVICES"),
        (("MTL",), {"GGML_METAL_DEVICES": "0"}, "GGML_METAL_DEVICES"),
        # the other one may still find something
        (("CUDA", "Vulkan"), {"CUDA_VISIBLE_DEVICES": ""}, ""),
        (("SYCL",), {"CUDA_VISIBLE_DEVICES": ""}, ""),
        ((), {"CUDA_VISIBLE_DEVICES": ""}, ""),
    ],
)
def test_whoever_hides_the_cards_knows_it(
    backends: tuple[str, ...], environment: dict[str, str], variable: str
) -> None:
    assert hidden_by(backends, environment) == variable


def a_card_on_the_bus(root: Path, vendor: str = "0x10de", kind: str = "0x030200") -> None:
    folder = root / "sys" / "bus" / "pci" / "devices" / f"{vendor}-{kind}"
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(vendor + "\n")
    (folder / "class").write_text(kind + "\n")


def test_a_card_is_found_on_the_bus(tmp_path: Path) -> None:
    # a chip of Intel's, the sound on the card, the card itself
    for vendor, kind, found in (("0x8086", "0x030000", 0), ("0x10de", "0x040300", 0), ("0x10de", "0x030200", 1)):
        a_card_on_the_bus(tmp_path, vendor, kind)
        assert machine.on_bus(tmp_path) == machine.nvidia_present(tmp_path) == bool(found)
    # a container sees the bus of its host; what it may use are device files
    (tmp_path / ".dockerenv").touch()
    assert not machine.nvidia_present(tmp_path)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia3").touch()
    assert machine.nvidia_present(tmp_path)


def test_a_gpu_of_amds_wants_its_device_file(tmp_path: Path) -> None:
    a_card_on_the_bus(tmp_path, "0x1002", "0x030000")
    assert not machine.amd_present(tmp_path) and not machine.nvidia_present(tmp_path)
    (tmp_path / "dev" / "dri").mkdir(parents=True)
    (tmp_path / "dev" / "dri" / "renderD128").touch()
    assert machine.amd_present(tmp_path)


def test_wsl_has_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "dxg").touch()
    # there it is also for cards of others
    assert not machine.nvidia_present(tmp_path)
    (tmp_path / "usr/lib/wsl/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/wsl/lib/libcuda.so.1").touch()
    assert machine.nvidia_present(tmp_path)


def test_a_card_that_does_not_answer(tmp_path: Path) -> None:
    def card(said: str) -> machine.NvidiaCard:
        (found,) = machine.nvidia_cards(lambda _: said, tmp_path)
        return found

    a_card_on_the_bus(tmp_path)
    assert card("") == machine.NvidiaCard("NVIDIA card", None, None)
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27\n"
    (tmp_path / "proc/driver/nvidia/version").write_text(version)
    assert card("No devices were found\n") == machine.NvidiaCard("NVIDIA card", None, "580.65.06")
    updated = card("Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 590.11\n")
    assert updated.driver == "580.65.06" and "updated while it ran" in updated.problem and "restart" in updated.todo
    assert "start it again" in card("Failed to initialize NVML: Unknown Error\n").todo
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".containerenv").touch()
    assert "no card in this container" in card("").problem and "--gpus all" in card("").todo
    # lent after all, and without nvidia-smi
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia0").touch()
    assert card("") == machine.NvidiaCard("NVIDIA card", None, "580.65.06")


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("ggml-cuda.cu:109: CUDA error\nCUDA error: out of memory\n  current device: 0", "the card ran out of memory;"),
        ("x.cu:109: CUDA error\nCUDA error: no kernel image is available", "this engine is built for other cards"),
        ("CUDA error\nCUDA error: all CUDA-capable devices are busy or unavailable", "another program has the card"),
        (
            "x.cu:1: CUDA error\nCUDA error: an illegal memory access was encountered\n  in function f",
            "the card failed in the middle of the work (an illegal memory access was encountered); try again",
        ),
        ("x.cu:1: CUDA error\nCUDA error: operation not supported", "the card failed: operation not supported;"),
        ("/x/ggml-rpc.cpp:1: Remote RPC server crashed or returned malformed response", "a worker of --rpc died"),
        (
            "ggml.c:77: GGML_ASSERT(ne > 0) failed",
            "the engine gave up: ggml.c:77: GGML_ASSERT(ne > 0) failed; the model's file may be damaged",
        ),
        ("it crashed (SIGBUS)", "the model's file became shorter while it was in use"),
        ("it crashed (SIGSEGV)", "the engine crashed (SIGSEGV); the model's file may be damaged, or made to do harm"),
        ("", "the engine gave up: it gave no reason"),
    ],
)
def test_the_last_words_of_the_engine(message: str, said: str) -> None:
    assert abort.died(message).startswith(said) and "\n" not in abort.died(message)


def chosen(layers: int, experts: int = 0, shares: tuple[float, ...] = (), left: int = GIB) -> fit.Fit:
    places = tuple(
        Place(Device(f"D{index}", "", "gpu", 9 * GIB, 8 * GIB), Use(weights=8 * GIB - left))
        for index in range(max(1, len(shares)))
    )
    footprint = Footprint(Place(Device("CPU", "", "cpu", GIB, GIB), Use()), places, 4096, 32, 8, 4096)
    return fit.Fit(layers, 33, Placement(shares=shares, cpu_experts=experts), footprint, 0)


def test_what_is_said_of_a_choice() -> None:
    assert open_model.summary(chosen(33)) == ""
    said = open_model.summary(chosen(20))
    assert said == "20 of 33 layers fit on D0 (7.00 GiB of 8.00 GiB free); the processor does the rest"
    said = open_model.summary(chosen(33, experts=7, shares=(20.0, 13.0)))
    assert said.startswith("all layers, without the experts of 7 fit on D0 (7.00 GiB of 8.00 GiB free), D1 (")
    found = chosen(0)
    said = open_model.summary(replace(found, footprint=replace(found.footprint, devices=())))
    assert said == "no layer fits on a GPU, nor what would help the processor; it does all"


@dataclass
class Opened:
    params: ModelParams
    closed: bool = False

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("refused", ["model", "context"])
def test_a_refusal_of_the_driver_is_stepped_back_from(monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    monkeypatch.setattr(open_model, "fit_for", lambda *_: chosen(33, shares=(20.0, 13.0), left=4 * GIB))
    tried: list[Opened] = []

    def load(params: ModelParams) -> Any:
        tried.append(Opened(params))
        if refused == "model" and len(tried) < 3:
            raise EngineError("model.gguf cannot be loaded: unable to allocate CUDA0 buffer")
        return tried[-1]

    def context(model: Opened, _: ContextParams) -> Opened:
        if refused == "context" and len(tried) < 3:
            raise EngineError("no context of 4096 tokens: allocating 9.00 MiB: cudaMalloc failed: out of memory")
        return Opened(model.params)

    monkeypatch.setattr(open_model, "Context", context)
    said: list[str] = []
    found = open_model.open_model(ModelParams(Path("model.gguf")), ContextParams(), load=load, note=said.append)
    assert [one.params.gpu_layers for one in tried] == [33, 30, 24]
    assert [one.closed for one in tried] == [refused == "context"] * 2 + [False]
    params = cast(Opened, found).params
    assert params.gpu_layers == 24 and params.placement.shares == (11.0, 13.0)
    assert len(said) == 2 and all(line.startswith("the driver refused the memory (") for line in said)
    assert said[1].endswith("trying 24 layers")


@pytest.mark.parametrize("why", ["unknown architecture", "mmap failed: Cannot allocate memory"])
def test_other_errors_are_not_stepped_back_from(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    monkeypatch.setattr(open_model, "fit_for", lambda *_: chosen(33))

    def load(params: ModelParams) -> Any:
        raise EngineError(f"model.gguf cannot be loaded: {why}")

    with pytest.raises(EngineError, match=why):
        open_model.open_model(ModelParams(Path("model.gguf")), ContextParams(), load=load)


def test_nothing_fits_on_the_device_and_the_processor_refuses_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_model, "fit_for", lambda *_: chosen(2))
    tried = []

    def load(params: ModelParams) -> Any:
        tried.append((params.gpu_layers, params.placement.main))
        raise EngineError("unable to allocate buffer")

    with pytest.raises(EngineError, match="unable to allocate"):
        open_model.open_model(ModelParams(Path("model.gguf")), ContextParams(), load=load)
    # two layers, none, and at last without the device
    assert tried == [(2, 0), (0, 0), (0, -1)]
