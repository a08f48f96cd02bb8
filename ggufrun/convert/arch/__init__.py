"""One short file a model family, and the registry that finds it by the name in config.json."""

from __future__ import annotations

import difflib
import importlib

from ggufrun.convert.arch.shared.family import Family
from ggufrun.convert.config import Config
from ggufrun.errors import UnsupportedError

__all__ = ["Family", "families", "find"]

MODULES = (
    "llama",
    "llama4",
    "qwen",
    "qwenhybrid",
    "qwenvl",
    "gemma",
    "gemma3n",
    "gemma4",
    "phi",
    "pangu",
    "deepseek",
    "deepseek32",
    "glm",
    "glm4moe",
    "glm4v",
    "internlm",
    "kimilinear",
    "baichuan",
    "minicpm",
    "minicpm3",
    "cohere",
    "olmo",
    "granite",
    "granitehybrid",
    "stablelm",
    "falcon",
    "falconh1",
    "gpt",
    "starcoder",
    "mistral3",
    "seedoss",
    "ernie",
    "gptoss",
    "hunyuan",
    "minimax",
    "youtu",
    "nemotron",
    "bailing",
    "exaone4",
    "lfm2",
    "bitnet",
)


def families() -> dict[str, Family]:
    """Every family by each of its names."""
    modules = (importlib.import_module(f"{__name__}.{name}") for name in MODULES)
    return {name: family for module in modules for family in module.FAMILIES for name in family.names}


def find(config: Config) -> Family:
    """The family of a checkpoint; UnsupportedError lists the known names that are most alike."""
    known = families()
    for name in config.architectures:
        # FSDP puts its name before that of a class that it has sharded
        family = known.get(name) or known.get(name.removeprefix("FSDP"))
        if family:
            return family.chosen(config) if family.chosen else family
    name = config.architectures[0]
    alike = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    others = f"{', '.join(alike)} and {len(known) - len(alike)} more" if alike else f"{len(known)} others"
    raise UnsupportedError(
        f"{config.path} is a {name[:80]}, which ggufrun does not convert itself",
        f"try --converter upstream, llama.cpp's own converter; ggufrun converts {others}",
    )
