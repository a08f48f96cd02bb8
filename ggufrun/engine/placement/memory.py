"""What a model takes, and where: weights, key/value cache and compute buffers of every device, in bytes.

Nothing is guessed. llama.cpp can load a model without allocating (``no_alloc``): it reads the header, decides which
tensor goes to which device, builds its graphs for the worst case, and reports the sizes. That costs the reading of the
header and of the vocabulary, and no memory. A GGUF with a hole for its data can be measured as well as a whole one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.model import Model, ModelParams
from ggufrun.engine.placement import system_memory
from ggufrun.engine.placement.devices import Device, devices
from ggufrun.native.library import ggml, llama
from ggufrun.native.log import warnings
from ggufrun.native.memory_breakdown import breakdown, devices_of


@dataclass(frozen=True)
class Use:
    """Bytes."""

    weights: int = 0
    cache: int = 0
    compute: int = 0

    @property
    def total(self) -> int:
        """All three."""
        return self.weights + self.cache + self.compute

    def __add__(self, other: Use) -> Use:
        return Use(self.weights + other.weights, self.cache + other.cache, self.compute + other.compute)


@dataclass(frozen=True)
class Place:
    """A device, and what a model takes of it."""

    device: Device
    use: Use

    @property
    def left(self) -> int:
        """Bytes that stay free; negative when it does not fit."""
        return self.device.free - self.use.total


@dataclass(frozen=True)
class Footprint:
    """What a model with a context takes. ``devices`` are those that the engine spreads it over, in its order (that of
    ``-ts``); without a GPU there are none. ``host`` is the computer's own memory, ``free`` what it can give now.

    ``layers`` is the number of blocks; one more, the output, counts in ``-ngl``. ``experts`` is 0 for a dense model.
    """

    host: Place
    devices: tuple[Place, ...]
    context: int
    layers: int
    experts: int
    trained_context: int
    parameters: int = 0

    @property
    def bits(self) -> float:
        """Bits a weight, all tensors together; 0 when the number of weights is not known."""
        return 8 * self.total.weights / self.parameters if self.parameters else 0.0

    @property
    def total(self) -> Use:
        """The sum over all places."""
        return sum((place.use for place in self.devices), self.host.use)

    @property
    def fits(self) -> bool:
        """Does every place have the room?"""
        return all(place.left >= 0 for place in (self.host, *self.devices))


def measure(model: ModelParams, context: ContextParams | None = None) -> Footprint:
    """What ``model`` takes with ``context`` (the default one, if None), without taking it.

    Adapters count by the sizes of their files, and go where the weights go. Raises NotFoundError, EngineError (a file
    that cannot be loaded, a context that cannot be made) or UnsupportedError.
    """
    context = context or ContextParams()
    with (
        Model(replace(model, no_alloc=True, mlock=False)) as opened,
        Context(opened, replace(context, adapters=())) as made,
    ):
        found = _with_scores(_footprint(opened, made), _scores(made, warnings()))
    return with_adapters(found, sum(one.path.stat().st_size for one in context.adapters if one.path.is_file()))


def _scores(context: Context, warned: Sequence[str]) -> int:
    """Bytes that each device takes beside the plan where flash attention is off, because it was asked to be or, as
    llama.cpp ``warned``, because a device has no kernel for this model: the scores of a micro-batch against the whole
    context are made F16 before they meet the values (CUDA's pool, Vulkan's buffer of a product's second factor).
    """
    if context.params.flash_attention != "off" and not any("Flash Attention not supported" in line for line in warned):
        return 0
    heads = int(llama().llama_model_n_head(context.model.pointer))
    return 2 * heads * context.n_ctx * min(context.n_ctx, int(llama().llama_n_ubatch(context.pointer)))


def _with_scores(found: Footprint, size: int) -> Footprint:
    def more(place: Place) -> Place:
        return replace(place, use=place.use + Use(compute=size)) if place.use.cache else place

    return replace(found, devices=tuple(more(place) for place in found.devices))


def with_adapters(found: Footprint, size: int) -> Footprint:
    """``found`` and so many bytes of adapters: their matrices lie beside those that they change."""

    def more(place: Place) -> Place:
        part = place.use.weights / max(1, found.total.weights)
        return replace(place, use=place.use + Use(weights=round(size * part)))

    return replace(found, host=more(found.host), devices=tuple(more(place) for place in found.devices))


def footprint_of(context: Context) -> Footprint:
    """What an open context and its model take; ``free`` is what is left beside them."""
    return _footprint(context.model, context)


def host_device() -> Device:
    """The computer's own memory as a device: ``free`` is what the system can give without pushing others out, within
    what a container allows.
    """
    memory = system_memory.memory()
    total = memory.total or 0
    limit = total if memory.limit is None else memory.limit
    return Device("CPU", "system memory", "cpu", limit, limit if memory.available is None else memory.available)


def _footprint(model: Model, context: Context) -> Footprint:
    known = {device.name: device for device in devices()}
    names = list(_device_names(model))
    uses = dict.fromkeys(names, Use())
    host_use = Use()
    for buffer_type, sizes in breakdown(context.pointer):
        use, name = Use(*sizes), _device_of(buffer_type)
        # Memory of the host that a GPU's driver pins belongs to the host, and so do repacked weights.
        if name in uses and not ggml().ggml_backend_buft_is_host(buffer_type):
            uses[name] += use
        else:
            host_use += use
    architecture = model.architecture
    experts = model.meta(f"{architecture}.expert_count") or "0"
    return Footprint(
        host=Place(host_device(), host_use),
        # several devices that are used as one are none of the list
        devices=tuple(Place(known.get(name, Device(name, "", "meta", 0, 0)), uses[name]) for name in names),
        context=context.n_ctx,
        layers=int(llama().llama_model_n_layer(model.pointer)),
        experts=int(experts) if experts.isdigit() else 0,
        trained_context=model.train_context,
        parameters=model.parameters,
    )


def _device_of(buffer_type: int) -> str:
    """The name of a buffer type's device; empty for the plain memory of the host."""
    device = ggml().ggml_backend_buft_get_device(buffer_type)
    return ggml().ggml_backend_dev_name(device).decode("utf-8", "replace") if device else ""


def _device_names(model: Model) -> Iterator[str]:
    """The devices that the model is spread over, in the engine's order."""
    for device in devices_of(model.pointer):
        yield ggml().ggml_backend_dev_name(device).decode("utf-8", "replace")
