"""What a model takes, measured without taking it, against the sizes that its shape and its file give."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ggufrun.engine.adapters import Adapter
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.model import Model, ModelParams
from ggufrun.engine.placement import memory, system_memory
from ggufrun.engine.placement.devices import Device, has_gpu
from ggufrun.engine.placement.memory import Footprint, Place, Use, measure, with_adapters
from ggufrun.errors import EngineError, NotFoundError
from ggufrun.native import library, memory_breakdown
from tests.oracles.completion_oracle import make_adapter
from tests.support.checkpoints import DEMO
from tests.support.shapes import Kind, Shape, write_shape

CONFIG = json.loads((DEMO / "config.json").read_text())
ON_HOST = 0
"""Layers on a GPU: these tests look at the computer's own memory wherever they run."""


def demo_cache(tokens: int) -> int:
    width = CONFIG["hidden_size"] // CONFIG["num_attention_heads"] * CONFIG["num_key_value_heads"]
    return int(CONFIG["num_hidden_layers"] * tokens * width * 2 * 2)


def test_the_cache_is_what_the_config_gives(demo_gguf: Callable[[str], Path]) -> None:
    found = measure(ModelParams(demo_gguf("f16"), ON_HOST), ContextParams(n_ctx=1024))
    assert found.total.cache == demo_cache(1024)
    assert found.context == 1024 and found.trained_context == CONFIG["max_position_embeddings"]
    assert found.layers == CONFIG["num_hidden_layers"] and found.experts == 0
    twice = measure(ModelParams(demo_gguf("f16"), ON_HOST), ContextParams(n_ctx=2048))
    assert twice.total.cache == 2 * found.total.cache


def test_a_quantized_cache_has_its_bits(demo_gguf: Callable[[str], Path]) -> None:
    params = ContextParams(n_ctx=1024, type_k="q8_0", type_v="q8_0", flash_attention="on")
    found = measure(ModelParams(demo_gguf("f16"), ON_HOST), params)
    assert found.total.cache == demo_cache(1024) * 8.5 / 16


def test_weights_are_the_tensors_of_the_file(demo_gguf: Callable[[str], Path]) -> None:
    path = demo_gguf("f16")
    with Model(ModelParams(path, ON_HOST)) as model:
        size = model.size
    weights = measure(ModelParams(path, ON_HOST)).total.weights
    # every tensor begins at a multiple of the buffer's alignment
    assert size <= weights <= size + 64 * 128


def test_compute_is_what_a_real_context_takes(demo_model: Model) -> None:
    params = ContextParams(n_ctx=777, n_ubatch=128)
    planned = measure(demo_model.params, params)
    with Context(demo_model, params) as context:
        real = memory.footprint_of(context)
    assert planned.total.compute == real.total.compute > 0
    assert planned.total.cache == real.total.cache > 0


def test_a_smaller_batch_takes_less(demo_gguf: Callable[[str], Path]) -> None:
    small, large = (
        measure(ModelParams(demo_gguf("f16"), ON_HOST), ContextParams(n_ubatch=count)).total.compute
        for count in (64, 512)
    )
    assert small < large


@pytest.mark.parametrize("experts", [0, 8])
def test_a_model_larger_than_the_machine_is_measured_from_its_header(tmp_path: Path, experts: int) -> None:
    shape = Shape(layers=80, width=8192, inner=28672, heads=64, kv_heads=8, experts=experts, kind=Kind.Q8_0)
    path = write_shape(tmp_path / "huge.gguf", shape)
    assert path.stat().st_blocks * 512 < 10 << 20
    found = measure(ModelParams(path, ON_HOST), ContextParams(n_ctx=4096))
    assert found.total.cache == shape.cache_bytes(4096)
    assert 0 <= found.total.weights - shape.weight_bytes() < 1 << 20
    assert found.layers == 80 and found.experts == experts
    if (total := system_memory.memory().total) is not None and total < shape.weight_bytes():
        assert not found.fits and found.host.left < 0


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_adapters_lie_where_the_weights_lie(demo_gguf: Callable[[str], Path], tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter.gguf")
    params = ModelParams(demo_gguf("f16"))
    plain = measure(params, ContextParams(n_ctx=512))
    more = measure(params, ContextParams(n_ctx=512, adapters=(Adapter(adapter), Adapter(adapter))))
    assert more.total.weights - plain.total.weights == 2 * adapter.stat().st_size
    gpu = Place(Device("D0", "", "gpu", 1 << 30, 1 << 30), Use(weights=300, compute=7))
    split = replace(plain, host=replace(plain.host, use=Use(weights=100, cache=5)), devices=(gpu,))
    found = with_adapters(split, 40)
    assert (found.host.use, found.devices[0].use) == (Use(110, 5), Use(330, 0, 7))


def test_without_a_gpu_everything_is_the_hosts(demo_gguf: Callable[[str], Path]) -> None:
    found = measure(ModelParams(demo_gguf("q4_k_m")))
    assert found.devices == () and found.total == found.host.use
    assert 0 < found.host.device.free <= found.host.device.total
    assert found.fits and found.host.left == found.host.device.free - found.total.total


def test_files_that_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        measure(ModelParams(tmp_path / "none.gguf"))
    (tmp_path / "bad.gguf").write_bytes(b"GGUF, but no more")
    with pytest.raises(EngineError):
        measure(ModelParams(tmp_path / "bad.gguf"))


# --- the map's layout -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [memory_breakdown.GNU, memory_breakdown.LLVM])
def test_a_tree_is_walked_whole(layout: memory_breakdown._Layout) -> None:
    nodes = [(ctypes.c_size_t * 8)() for _ in range(5)]
    for number, node in enumerate(nodes):
        node[4], node[5], node[6], node[7] = 100 + number, number, 10 * number, 1000 * number
    for parent, side, child in ((0, layout.left, 1), (0, layout.right, 2), (2, layout.left, 3), (3, layout.right, 4)):
        nodes[parent][side] = ctypes.addressof(nodes[child])
    found = dict(memory_breakdown._walk(ctypes.addressof(nodes[0]), layout))
    assert found == {100 + number: (number, 10 * number, 1000 * number) for number in range(5)}
    assert list(memory_breakdown._walk(0, layout)) == []


def test_an_engine_without_the_report_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_libllama", lambda: ctypes.CDLL(None))
    with pytest.raises(EngineError, match="make engine"):
        library.memory_report.__wrapped__()


# --- the host's memory ------------------------------------------------------------------------------------------------


def test_a_container_gives_what_its_limit_leaves() -> None:
    stat = "anon 5\nfile 7\ninactive_file 300\nactive_file 9\n"
    assert system_memory.parse_cgroup(1000, "600\n", stat) == 700
    assert system_memory.parse_cgroup(1000, "600\n", "") == 400
    assert system_memory.parse_cgroup(1000, "", "") == 1000
    assert system_memory.parse_cgroup(1000, "2000", "") == 0


def test_without_flash_attention_the_scores_count_too(demo_model: Model) -> None:
    """What a GPU makes F16 of them for a micro-batch and a context: tests/test_cuda_standin.py sees it taken."""
    scores = 2 * CONFIG["num_attention_heads"] * 512 * 64
    warning = ["llama_context: Flash Attention not supported, set to disabled"]
    for asked, warned, size in (("off", [], scores), ("auto", warning, scores), ("auto", [], 0)):
        with Context(demo_model, ContextParams(n_ctx=512, n_ubatch=64, threads=1, flash_attention=asked)) as context:
            assert memory._scores(context, warned) == size
    gpu, idle = Device("D0", "", "gpu", 9, 9), Device("D1", "", "gpu", 9, 9)
    places = (Place(gpu, Use(1, 1, 1)), Place(idle, Use()))
    more = memory._with_scores(Footprint(Place(gpu, Use()), places, 512, 4, 0, 512), 5)
    assert [place.use.compute for place in more.devices] == [6, 0]
