"""How the engine is built for what computes: the processor, NVIDIA cards (CUDA), or Vulkan. Metal needs no plan: it is
llama.cpp's default on macOS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tools.setup.common import ROOT


@dataclass(frozen=True)
class Ready:
    """What a plan needs at the moment of building: CMake's paths and extra variables of the environment."""

    places: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """``defines``, ``recipe`` (files) and ``gpu`` decide what is built and are part of the key; ``prepare`` is called
    only when something is to be built, and may fetch a toolkit.

    ``tag`` goes into the wheel's name, ``requires`` into its requirements; ``libraries`` are installed with it here.
    ``minutes`` is the work of one core, ``disk`` what a build takes at its peak.
    """

    name: str = "cpu"
    defines: dict[str, str] = field(default_factory=dict)
    include: Path = ROOT / "tools" / "engine.cmake"
    recipe: tuple[Path, ...] = ()
    gpu: str = ""
    tag: str = ""
    requires: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    minutes: float = 5
    disk: int = 500 << 20
    prepare: Callable[[], Ready] = Ready


CPU = Plan()
