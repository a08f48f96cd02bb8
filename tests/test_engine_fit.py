"""Layers where they fit: the arithmetic on devices that are made up, against trying every possibility."""

from __future__ import annotations

import bisect
import random
import re
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import pytest

from ggufrun.engine.context import ContextParams
from ggufrun.engine.model import ModelParams
from ggufrun.engine.placement import fit
from ggufrun.engine.placement.devices import Device
from ggufrun.engine.placement.layer_sizes import Outline, outline, parts, sum_by_layer
from ggufrun.engine.placement.memory import Footprint, Place, Use
from ggufrun.engine.placement.offload import EXPERTS, NO_DEVICE, Placement
from ggufrun.errors import EngineError, UsageError
from tests.support.shapes import Shape, write_shape

MODEL, CONTEXT = ModelParams(Path("model.gguf")), ContextParams()
MB = 1 << 20


@dataclass
class Machine:
    """An engine that is made up: it puts layers where llama.cpp does, and its buffers grow as a graph's would."""

    free: list[int]
    sizes: Outline
    cache: int = 0
    buffers: int = 0
    asked: int = 0

    def measure(self, params: ModelParams, context: ContextParams) -> Footprint:
        self.asked += 1
        count, placement = len(self.sizes.dense), params.placement
        layers = min(count + 1, params.gpu_layers if params.gpu_layers is not None else 0)
        shares = list(placement.shares) or [float(free) for free in self.free]
        points = [part / (sum(shares) or 1) for part in accumulate(shares)]
        uses = [Use() for _ in self.free]
        host = Use(weights=MB)
        for index in range(count + 1):
            place = index - (count + 1 - layers)
            if index == count:
                use, experts = Use(weights=self.sizes.output), 0
            else:
                use, experts = Use(self.sizes.dense[index], self.cache), self.sizes.experts[index]
            if index < placement.cpu_experts:
                host += Use(weights=experts)
            else:
                use += Use(weights=experts)
            if place < 0 or not uses:
                host += use
            else:
                uses[bisect.bisect_right(points, place / layers)] += use
        # several devices together work on several batches at once, and keep their inputs so many times
        factor = 4 if layers == count + 1 and len(self.free) > 1 else 1
        uses = [use + Use(compute=factor * self.buffers * (1 + bool(layers > count))) for use in uses]
        devices = [Device(f"D{index}", "", "gpu", free, free) for index, free in enumerate(self.free)]
        return Footprint(
            Place(Device("CPU", "", "cpu", 1 << 40, 1 << 40), host),
            tuple(Place(device, use) for device, use in zip(devices, uses, strict=True)),
            context.n_ctx or 4096,
            count,
            8 if any(self.sizes.experts) else 0,
            4096,
        )

    def choose(self, margin: int = 0, params: ModelParams = MODEL) -> fit.Fit:
        found = fit.choose(params, CONTEXT, margin, self.measure, lambda _: self.sizes)
        assert found is not None
        return found


def roomy(footprint: Footprint, margin: int = 0) -> bool:
    return all(place.left >= margin for place in footprint.devices if place.use.weights)


# --- the arithmetic ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("costs", "room", "counts"),
    [
        ([5, 5, 5, 1], [100], (4,)),
        ([5, 5, 5, 1], [10], (2,)),
        ([5, 5, 5, 1], [0], (0,)),
        ([5, 5, 5, 1], [10, 6], (2, 2)),
        # the output does not fit the last device, and goes to the one before
        ([5, 5, 5, 9], [10, 6], (1, 0)),
        ([5, 5, 5, 1], [4, 100], (0, 4)),
    ],
)
def test_packing(costs: list[int], room: list[int], counts: tuple[int, ...]) -> None:
    assert fit.pack(costs, room) == counts


def test_all_devices_are_filled_alike() -> None:
    demand = fit.Demand((10,) * 12, (0,) * 12, 10, (0, 0))
    counts = fit.propose(demand, [200, 100]).counts
    assert sum(counts) == 13 and counts in ((9, 4), (8, 5))


def test_experts_leave_before_layers() -> None:
    demand = fit.Demand((10,) * 4, (90,) * 4, 10, (5,))
    assert fit.propose(demand, [500]) == fit.Proposal((5,), 0)
    assert fit.propose(demand, [5 + 50 + 2 * 90]) == fit.Proposal((5,), 2)
    assert fit.propose(demand, [5 + 50 + 2 * 90 - 1]) == fit.Proposal((5,), 3)
    assert fit.propose(demand, [5 + 50]) == fit.Proposal((5,), 4)
    assert fit.propose(demand, [5 + 49]) == fit.Proposal((4,), 4)


# --- choosing ---------------------------------------------------------------------------------------------------------


def test_a_model_that_fits_goes_whole_and_is_measured_once() -> None:
    machine = Machine([100 * MB], Outline((MB,) * 8, (0,) * 8, MB), MB, MB)
    found = machine.choose()
    assert (found.layers, found.of, found.whole, machine.asked) == (9, 9, True, 1)
    assert found.applied(MODEL).gpu_layers == 9


def test_without_a_device_there_is_nothing_to_choose() -> None:
    machine = Machine([], Outline((MB,) * 8, (0,) * 8, MB))
    assert fit.choose(MODEL, CONTEXT, 0, machine.measure, lambda _: machine.sizes) is None


@pytest.mark.parametrize("seed", range(40))
def test_one_device_takes_as_many_layers_as_any_number_would(seed: int) -> None:
    dice = random.Random(seed)
    count = dice.randint(2, 60)
    sizes = Outline(tuple(dice.randint(1, 9) * MB for _ in range(count)), (0,) * count, dice.randint(1, 30) * MB)
    machine = Machine([dice.randint(1, 8 * count) * MB], sizes, dice.randint(0, 3) * MB, dice.randint(0, 12) * MB)
    margin = dice.choice([0, 5 * MB])
    found = machine.choose(margin)
    possible = [n for n in range(count + 2) if roomy(machine.measure(ModelParams(MODEL.path, n), CONTEXT), margin)]
    assert roomy(found.footprint, margin)
    assert max(possible) - 1 <= found.layers <= max(possible)
    assert found.footprint == machine.measure(found.applied(MODEL), CONTEXT)


@pytest.mark.parametrize("seed", range(40))
def test_several_devices_never_overflow_and_are_used(seed: int) -> None:
    dice = random.Random(seed)
    count, devices = dice.randint(2, 40), dice.randint(2, 4)
    sizes = Outline(tuple(dice.randint(3, 6) * MB for _ in range(count)), (0,) * count, dice.randint(1, 9) * MB)
    machine = Machine([dice.randint(1, 200) * MB for _ in range(devices)], sizes, MB, dice.randint(0, 3) * MB)
    found = machine.choose()
    assert roomy(found.footprint)
    # what plain packing holds with the buffers that were measured is the most that runs of neighbours allow
    buffers = [place.use.compute for place in found.footprint.devices]
    costs = [*(size + MB for size in sizes.dense), sizes.output]
    most = sum(fit.pack(costs, [max(0, free - use) for free, use in zip(machine.free, buffers, strict=True)]))
    assert found.layers >= most - 1


@pytest.mark.parametrize("seed", range(60))
def test_two_devices_whose_buffers_are_large(seed: int) -> None:
    """All layers want four times the buffers: where these have no room, most of the layers still may."""
    dice = random.Random(seed)
    count = dice.randint(2, 12)
    sizes = Outline((dice.randint(3, 6) * MB,) * count, (0,) * count, dice.randint(1, 9) * MB)
    machine = Machine([dice.randint(5, 60) * MB, dice.randint(5, 60) * MB], sizes, MB, dice.randint(2, 9) * MB)
    found = machine.choose()
    assert roomy(found.footprint)
    most = max(
        layers
        for layers in range(count + 2)
        for there in range(layers + 1)
        if not layers
        or roomy(
            machine.measure(
                ModelParams(MODEL.path, layers, placement=Placement(shares=(float(there), float(layers - there)))),
                CONTEXT,
            )
        )
    )
    assert most - 1 <= found.layers <= most


@pytest.mark.parametrize("seed", range(40))
def test_a_mixture_keeps_its_layers_and_sends_experts_away(seed: int) -> None:
    dice = random.Random(seed)
    count = dice.randint(2, 48)
    sizes = Outline((2 * MB,) * count, (dice.randint(10, 40) * MB,) * count, 3 * MB)
    machine = Machine([dice.randint(1, 30 * count) * MB], sizes, MB, dice.randint(0, 5) * MB)
    found = machine.choose()
    assert roomy(found.footprint)

    def measured(behind: int) -> Footprint:
        return machine.measure(ModelParams(MODEL.path, count + 1, placement=Placement(cpu_experts=behind)), CONTEXT)

    dense = [behind for behind in range(count + 1) if roomy(measured(behind))]
    if dense:
        assert found.layers == count + 1
        assert min(dense) <= found.placement.cpu_experts <= min(dense) + 1
    else:
        assert found.layers == 0 or found.placement.cpu_experts == count


def test_what_the_user_said_stays() -> None:
    sizes = Outline((10 * MB,) * 10, (0,) * 10, 10 * MB)
    asked = ModelParams(MODEL.path, placement=Placement(shares=(1.0, 3.0)))
    found = Machine([50 * MB, 50 * MB], sizes).choose(0, asked)
    # of seven layers five lie on the second device, which holds no more
    assert found.placement == asked.placement and found.layers == 7
    assert roomy(found.footprint)


def test_nothing_fits() -> None:
    machine = Machine([MB], Outline((10 * MB,) * 4, (0,) * 4, 10 * MB))
    found = machine.choose()
    assert found.layers == 0 and not found.whole and found.placement == Placement()
    # not even the buffers with which it would help the processor
    machine = Machine([MB], Outline((10 * MB,) * 4, (0,) * 4, 10 * MB), buffers=2 * MB)
    assert machine.choose().placement == Placement(split="none", main=-1)


# --- the sizes of layers ----------------------------------------------------------------------------------------------


def test_the_outline_is_that_of_the_shape(tmp_path: Path) -> None:
    shape = Shape(layers=3, width=512, inner=1024, heads=8, kv_heads=2, experts=4)
    found = outline(write_shape(tmp_path / "moe.gguf", shape))
    assert found.experts == (3 * 4 * 512 * 1024 * 2,) * 3
    assert found.dense == (2 * (2 * 512 * 512 + 2 * 128 * 512) + 4 * (2 * 512 + 4 * 512),) * 3
    embedding = sum(found.dense) + sum(found.experts) + found.output
    assert shape.weight_bytes() - embedding == found.output - 512 * 4


def test_a_tied_output_counts_twice_and_inputs_do_not_count() -> None:
    assert sum_by_layer(iter([("token_embd.weight", 7), ("output_norm.weight", 1)])).output == 8
    assert sum_by_layer(iter([("token_embd.weight", 7), ("output.weight", 6), ("output_norm.weight", 1)])).output == 7


def test_parts_of_a_split_model() -> None:
    names = [path.name for path in parts(Path("/m/a-00002-of-00003.gguf"))]
    assert names == ["a-00001-of-00003.gguf", "a-00002-of-00003.gguf", "a-00003-of-00003.gguf"]
    assert parts(Path("/m/a.gguf")) == [Path("/m/a.gguf")]


# --- placements -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"split": "rows"}, "-sm rows"),
        ({"shares": (1.0, -1.0)}, "-ts wants shares"),
        ({"shares": (0.0, 0.0)}, "-ts wants shares"),
        ({"shares": (float("nan"), 1.0)}, "-ts wants shares"),
        ({"cpu_experts": -1}, "-ncmoe is -1"),
        ({"overrides": (("ffn(", "CPU"),)}, "not a regular expression"),
    ],
)
def test_what_cannot_be_placed(values: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        Placement(**values)  # type: ignore[arg-type]


def test_the_pattern_finds_experts_only() -> None:
    assert re.search(EXPERTS, "blk.1.ffn_gate_exps.weight") and re.search(EXPERTS, "blk.0.ffn_down_chexps.weight")
    assert not re.search(EXPERTS, "blk.1.ffn_gate.weight") and not re.search(EXPERTS, "blk.1.ffn_gate_shexp.weight")


def test_a_plan_that_is_refused_leaves_the_processor() -> None:
    """llama.cpp's plan of a recurrent memory takes that memory."""
    machine = Machine([100], Outline((10,) * 4, (0,) * 4, 10))

    def measured(params: ModelParams, context: ContextParams) -> Footprint:
        if params.placement.main != NO_DEVICE:
            raise EngineError("no context of 9 tokens: allocating 9.00 MiB: cudaMalloc failed: out of memory")
        return replace(machine.measure(params, context), devices=())

    found = fit.choose(MODEL, CONTEXT, 0, measured, lambda _: machine.sizes)
    assert found is not None and (found.layers, found.of, found.placement.main) == (0, 5, NO_DEVICE)

    def broken(params: ModelParams, context: ContextParams) -> Footprint:
        raise EngineError("the file is damaged")

    with pytest.raises(EngineError, match="damaged"):
        fit.choose(MODEL, CONTEXT, 0, broken, lambda _: machine.sizes)
