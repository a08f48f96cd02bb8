"""Layers where they fit: how many go to the devices, how they are shared out, and whether a mixture's experts stay.

The sizes of the layers come from the file's header, those of cache and buffers from the engine's own plan
(`ggufrun.engine.placement.memory`). The arithmetic proposes; the engine measures what was proposed; what it measured
corrects the next proposal. So nothing rests on a guess, and three or four measurements, each a fraction of a second,
are enough.

llama.cpp gives the devices the model's last layers, each device a run of neighbours in the engine's order, and the
output after them to the last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ggufrun.engine.context import ContextParams
from ggufrun.engine.model import ModelParams
from ggufrun.engine.placement.layer_sizes import Outline, outline
from ggufrun.engine.placement.memory import Footprint, measure
from ggufrun.engine.placement.offload import ALL_LAYERS, NO_DEVICE, Placement
from ggufrun.errors import EngineError

MARGIN = 512 << 20
"""Bytes of each device that are left alone: the driver's own growth, other programs' windows."""

ATTEMPTS = 8
"""Proposals that are measured, at most."""

REFUSED = re.compile(r"^(?!.*mmap failed).*(alloc|out of memory)", re.IGNORECASE)
"""What the engine says when there is no memory, in one way or another. Where a file cannot be mapped, it is the
computer's that is missing, of which fewer layers on a card take more.
"""

Measure = Callable[[ModelParams, ContextParams], Footprint]


@dataclass(frozen=True)
class Demand:
    """Bytes that the arithmetic counts with: of each layer without its experts but with its cache, of its experts, of
    the output. ``overhead`` is what each device takes whatever it holds: its compute buffers.
    """

    dense: tuple[int, ...]
    experts: tuple[int, ...]
    output: int
    overhead: tuple[int, ...]

    def costs(self, cpu_experts: int) -> list[int]:
        """Of each layer and the output on a device, when the experts of the first ``cpu_experts`` layers are not."""
        layers = [
            dense + (experts if index >= cpu_experts else 0)
            for index, (dense, experts) in enumerate(zip(self.dense, self.experts, strict=True))
        ]
        return [*layers, self.output]


@dataclass(frozen=True)
class Proposal:
    """``counts`` are layers a device, the output counting as one; ``cpu_experts`` as in -ncmoe."""

    counts: tuple[int, ...]
    cpu_experts: int = 0

    @property
    def layers(self) -> int:
        """-ngl."""
        return sum(self.counts)

    @property
    def rank(self) -> tuple[int, int]:
        """More layers are better, then more experts."""
        return self.layers, -self.cpu_experts


@dataclass(frozen=True)
class Fit:
    """What was chosen, and what it takes as measured. ``layers`` of ``of`` go to devices (the output is one)."""

    layers: int
    of: int
    placement: Placement
    footprint: Footprint
    margin: int

    @property
    def whole(self) -> bool:
        """Is everything on the devices that could be?"""
        return self.layers >= self.of and not (self.footprint.experts and self.placement.cpu_experts)

    def applied(self, params: ModelParams) -> ModelParams:
        """``params`` with this choice."""
        return replace(params, gpu_layers=self.layers, placement=self.placement)


def is_refusal(error: EngineError) -> bool:
    """Did a device, or the computer, not give the memory?"""
    return REFUSED.search(str(error.what)) is not None


def pack(costs: Sequence[int], room: Sequence[int]) -> tuple[int, ...]:
    """How many of ``costs``, taken from the back, go to each device, the last device being filled first.

    >>> pack([5, 5, 5, 1], [10, 6])
    (2, 2)
    """
    counts = [0] * len(room)
    index = len(costs)
    for device in range(len(room) - 1, -1, -1):
        left = room[device]
        while index and costs[index - 1] <= left:
            index -= 1
            left -= costs[index]
            counts[device] += 1
    return tuple(counts)


def propose(demand: Demand, room: Sequence[int]) -> Proposal:
    """The best use of ``room`` bytes on each device: all layers before all experts, and all devices filled alike."""
    count = len(demand.dense) + 1
    free = [max(0, have - need) for have, need in zip(room, demand.overhead, strict=True)]
    most = len(demand.dense) if any(demand.experts) else 0
    # the fewer experts stay behind, the more room is needed: the first number that lets every layer in
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if sum(pack(demand.costs(middle), free)) == count:
            high = middle
        else:
            low = middle + 1
    costs = demand.costs(low)
    if sum(pack(costs, free)) < count:
        return Proposal(pack(costs, free), low)
    return Proposal(_evenly(costs, free), low)


def _evenly(costs: Sequence[int], free: Sequence[int]) -> tuple[int, ...]:
    """All of ``costs`` with every device filled to the same degree, as far as whole layers allow."""
    best, low, high = pack(costs, free), 0.0, 1.0
    for _ in range(16):
        middle = (low + high) / 2
        tried = pack(costs, [int(size * middle) for size in free])
        if sum(tried) == len(costs):
            best, high = tried, middle
        else:
            low = middle
    return best


def choose(
    model: ModelParams,
    context: ContextParams,
    margin: int = MARGIN,
    measured: Measure = measure,
    outlined: Callable[[ModelParams], Outline] = lambda params: outline(params.path),
) -> Fit | None:
    """What goes where, leaving ``margin`` bytes of each device; None where there is no device to choose for.

    What ``model.placement`` already says (shares, a split, overrides) is kept, and only the number of layers chosen.
    Raises what `measure` raises.
    """
    whole = replace(model, gpu_layers=ALL_LAYERS)
    try:
        first = measured(whole, context)
    except EngineError as error:
        # the plan of a recurrent memory is not quite without memory
        if not is_refusal(error):
            raise
        return _alone(model, context, margin, measured)
    if not first.devices:
        return None
    of = first.layers + 1
    if _has_room(first, margin):
        return Fit(of, of, model.placement, first, margin)
    if replace(model.placement, devices=()) != Placement():
        return _search(model, context, margin, measured, of)
    return _arithmetic(model, context, margin, measured, outlined(model), first)


def _has_room(footprint: Footprint, margin: int) -> bool:
    # a device that nothing was put on may be as full as it likes, but for what helps the processor
    return all(
        place.left >= (margin if place.use.weights or place.use.cache else 0)
        for place in footprint.devices
        if place.use.total
    )


def _search(model: ModelParams, context: ContextParams, margin: int, measured: Measure, of: int) -> Fit:
    """The largest number of layers that has room, with everything else as it was asked for."""
    low, high = 0, of - 1
    best = measured(replace(model, gpu_layers=0), context)
    while low < high:
        middle = (low + high + 1) // 2
        found = measured(replace(model, gpu_layers=middle), context)
        if _has_room(found, margin):
            low, best = middle, found
        else:
            high = middle - 1
    return Fit(low, of, model.placement, best, margin)


def _arithmetic(
    model: ModelParams, context: ContextParams, margin: int, measured: Measure, sizes: Outline, first: Footprint
) -> Fit:
    count = len(first.devices)
    cache = first.total.cache // max(1, len(sizes.dense))
    demand = Demand(
        tuple(dense + cache for dense in sizes.dense),
        sizes.experts,
        sizes.output,
        tuple(place.use.compute for place in first.devices),
    )
    room = [place.device.free - margin for place in first.devices]
    best: tuple[Proposal, Footprint] | None = None
    ceiling = of = len(sizes.dense) + 1
    tried: dict[Proposal, Footprint] = {}
    whole, part = demand, demand
    if count > 1 and of > count:
        # Several devices with all of a model work on several batches at once, and keep their inputs so many times.
        fewer = Proposal(_shared(of - 1, count))
        part = replace(demand, overhead=_overhead(demand, fewer, measured(_with(model, fewer), context)))
        if any(sizes.experts):
            behind = Proposal(_shared(of, count), len(sizes.dense))
            whole = replace(demand, overhead=_overhead(demand, behind, measured(_with(model, behind), context)))
    for _ in range(ATTEMPTS):
        proposal = _next(whole, part, room, ceiling)
        if proposal in tried or not proposal.layers:
            break
        found = tried[proposal] = measured(_with(model, proposal), context)
        fits = _has_room(found, margin)
        if fits and (best is None or proposal.rank > best[0].rank):
            best = proposal, found
        # what was measured beyond the layers' own sizes is what this shape costs a device
        overhead = _overhead(demand, proposal, found)
        if proposal.layers == of or count == 1:
            whole = replace(demand, overhead=overhead)
        if proposal.layers < of or count == 1:
            part = replace(demand, overhead=overhead)
        if not fits and _next(whole, part, room, ceiling) in tried:
            ceiling = proposal.layers - 1
    # a graph with fewer layers has other buffers: one more may still fit, or one fewer be needed
    best = _creep(model, context, margin, measured, part, room, best, tried)
    if best is None:
        return _nothing(replace(model, gpu_layers=0), context, margin, measured, first.layers + 1)
    chosen = _with(model, best[0])
    assert chosen.gpu_layers is not None and len(best[0].counts) == count
    return Fit(chosen.gpu_layers, first.layers + 1, chosen.placement, best[1], margin)


def _next(whole: Demand, part: Demand, room: Sequence[int], ceiling: int) -> Proposal:
    """All layers where that has the room, else as many as have; the two differ in what a device takes beside them."""
    of = len(whole.dense) + 1
    proposal = propose(whole, room)
    if proposal.layers == of <= ceiling:
        return proposal
    return _capped(propose(part, room), min(ceiling, of - 1 if len(room) > 1 else of))


def _shared(layers: int, devices: int) -> tuple[int, ...]:
    """So many layers, as evenly as can be."""
    return tuple(layers // devices + (index < layers % devices) for index in range(devices))


def _nothing(model: ModelParams, context: ContextParams, margin: int, measured: Measure, of: int) -> Fit:
    """No layer on a device. They still help the processor with long prompts, unless even that has no room."""
    found = measured(model, context)
    if not _has_room(found, margin):
        return _alone(model, context, margin, measured)
    return Fit(0, of, model.placement, found, margin)


def _alone(model: ModelParams, context: ContextParams, margin: int, measured: Measure) -> Fit:
    """The processor by itself."""
    placement = replace(model.placement, shares=(), split="none", main=NO_DEVICE)
    found = measured(replace(model, gpu_layers=0, placement=placement), context)
    return Fit(0, found.layers + 1, placement, found, margin)


def _creep(
    model: ModelParams,
    context: ContextParams,
    margin: int,
    measured: Measure,
    demand: Demand,
    room: Sequence[int],
    best: tuple[Proposal, Footprint] | None,
    tried: dict[Proposal, Footprint],
) -> tuple[Proposal, Footprint] | None:
    """From the best so far, or from nothing, one layer at a time as long as the engine's measure has room."""
    if best is None:
        below = min((proposal.layers for proposal in tried), default=1)
        for layers in range(below - 1, 0, -1):
            proposal = _capped(propose(demand, room), layers)
            if not proposal.layers:
                proposal = Proposal((*[0] * (len(room) - 1), layers))
            found = measured(_with(model, proposal), context)
            if _has_room(found, margin):
                return proposal, found
        return None
    while (more := _one_more(best[0], demand)) is not None and more not in tried:
        found = tried[more] = measured(_with(model, more), context)
        if not _has_room(found, margin):
            break
        best = more, found
    return best


def _one_more(proposal: Proposal, demand: Demand) -> Proposal | None:
    """The next better proposal; None when everything is on the devices."""
    if proposal.layers == len(demand.dense) + 1:
        return replace(proposal, cpu_experts=proposal.cpu_experts - 1) if proposal.cpu_experts else None
    # another layer joins the front of the first run
    first = next((index for index, count in enumerate(proposal.counts) if count), len(proposal.counts) - 1)
    counts = list(proposal.counts)
    counts[first] += 1
    return replace(proposal, counts=tuple(counts))


def _overhead(demand: Demand, proposal: Proposal, found: Footprint) -> tuple[int, ...]:
    costs = demand.costs(proposal.cpu_experts)
    start = len(costs) - proposal.layers
    overhead = []
    for count, place in zip(proposal.counts, found.devices, strict=True):
        overhead.append(max(0, place.use.total - sum(costs[start : start + count])))
        start += count
    return tuple(overhead)


def _capped(proposal: Proposal, layers: int) -> Proposal:
    """``proposal`` with no more than so many layers; those at the front go."""
    counts, surplus = list(proposal.counts), proposal.layers - layers
    for device, count in enumerate(counts):
        taken = min(count, max(0, surplus))
        counts[device] -= taken
        surplus -= taken
    return replace(proposal, counts=tuple(counts))


def _with(model: ModelParams, proposal: Proposal) -> ModelParams:
    several = len(proposal.counts) > 1
    placement = replace(
        model.placement,
        shares=tuple(float(count) for count in proposal.counts) if several else (),
        cpu_experts=proposal.cpu_experts,
    )
    return replace(model, gpu_layers=proposal.layers, placement=placement)
