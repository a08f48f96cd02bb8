"""How a model is served: what the command line says of all of them, and ``models.toml`` of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

MARGIN = 512 << 20


@dataclass(frozen=True)
class Settings:
    """Options of a model, as plain values: they go to the process that plans it as JSON.

    ``context`` is tokens of each request (None: 4096, or less where the model was trained with less; 0: what it was
    trained with), ``parallel`` how many requests are answered at once, ``keep_alive`` seconds that an idle model stays
    loaded (negative: for ever). ``gpu_layers`` None puts as many on the devices as fit. ``adapters`` are pairs of path
    and scale. ``style`` names a prompt style, ``template`` is Jinja text. ``sampling`` are defaults of requests.
    """

    context: int | None = None
    parallel: int = 4
    keep_alive: float = 300.0
    gpu_layers: int | None = None
    split: str = "layer"
    shares: tuple[float, ...] = ()
    main: int = 0
    overrides: tuple[tuple[str, str], ...] = ()
    cpu_experts: int = 0
    devices: tuple[str, ...] = ()
    rpc: str = ""
    margin: int = MARGIN
    batch: int = 2048
    ubatch: int = 512
    threads: int | None = None
    threads_batch: int | None = None
    flash_attention: str = "auto"
    cache_k: str = "f16"
    cache_v: str = "f16"
    mmap: bool = True
    mlock: bool = False
    oversize: bool = False
    adapters: tuple[tuple[str, float], ...] = ()
    draft: str = ""
    mmproj: str = ""
    style: str | None = None
    template: str | None = None
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    think: bool | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Settings:
        """The reverse of `as_json`."""
        known = {item.name for item in fields(cls)}
        plain = {name: value for name, value in values.items() if name in known}
        for name in ("shares", "devices"):
            plain[name] = tuple(plain.get(name, ()))
        for name in ("overrides", "adapters"):
            plain[name] = tuple((one[0], one[1]) for one in plain.get(name, ()))
        return cls(**plain)
