"""What a model family is: one record that says how its checkpoints become a GGUF."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.shared import rope
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.layout import (
    AHEAD,
    DECODER,
    WHOLE,
    Expected,
    Layer,
    Sizes,
    decoder_sizes,
    expected,
    n_blocks,
)
from ggufrun.convert.arch.shared.switches import in_force
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import Order, renamed
from ggufrun.convert.vocab.readers import VocabFunction, add_vocabulary
from ggufrun.errors import UnsupportedError

TIED = "tie_word_embeddings"
OUTPUT = "lm_head.weight"


def nothing_to_check(config: Config) -> None:
    """Every config.json can be expressed."""


def unchanged(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    """A tensor as it lies in the checkpoint."""
    return (tensor,)


def every_name(config: Config, name: str) -> str | None:
    """Every tensor, under the name that it has in the checkpoint."""
    return name


def without_output(config: Config, name: str) -> str | None:
    """Every tensor but the output matrix, which is the token embedding once more."""
    return None if name == OUTPUT else name


def without_tied_output(config: Config, name: str) -> str | None:
    """Every tensor, but not an output matrix that config.json says is the token embedding."""
    return None if name == OUTPUT and is_tied(config) else name


def as_they_are(config: Config, name: str) -> Order | None:
    """Columns in the order of the checkpoint."""
    return None


def no_tensors(config: Config) -> Iterable[Tensor]:
    """Nothing to add."""
    return ()


def all_used(config: Config, name: str) -> bool:
    """llama.cpp computes with every tensor that it wants."""
    return False


def none_ahead(config: Config, names: Collection[str] | None) -> int:
    """No layers after the last."""
    return 0


@dataclass(frozen=True)
class Stack:
    """Tensors of one shape that become one with a new first dimension, such as a layer's experts.

    ``pattern`` matches their names, with the groups ``layer``, ``number`` and ``part``; ``name`` is what the stack of
    a part is called, before it is mapped. The stacks of a layer's ``parts`` are written in their order here, where the
    last of the tensors stands.
    """

    pattern: str
    parts: tuple[str, ...]
    name: str
    count: Callable[[Config], int]


@dataclass(frozen=True)
class Family:
    """What it takes to map checkpoints of one family. Only the first three fields have no defaults.

    ``names`` are the architectures of config.json, each with published checkpoints that give it, as examples; ``title``
    is what people call the family, ``arch`` what llama.cpp calls it; where the ``gguf`` package does not know it,
    ``arch`` has the same tensors and ``arch_name`` is its name. ``left_out`` names the parts of a checkpoint that do
    not become part of the GGUF. ``defaults`` stand for keys that a config.json leaves out, as transformers has them;
    one that is a function also replaces null. ``rope_parameters`` completes the description of positions, ``scalings``
    are those a GGUF of the family can tell, ``sections`` whether it can tell those of a rotation by time, height and
    width. ``check`` refuses what else a GGUF could not express. ``first_metadata`` and ``metadata`` write the
    hyper-parameters, before and after the ``general.*`` keys. ``sizes``, ``whole`` and ``layer`` say which tensors
    there are (see ``layout``), ``tied`` whether the output may be the token embedding. ``kept_name`` says by a tensor's
    name whether the GGUF has it, and under which name it is transformed: of one that is left out, not even shape and
    type are looked at. ``columns`` gives the columns of a tensor of that name another order, then ``transform`` turns
    it into some others, and ``stacks`` are put together after that; what is not called as in a GGUF then is mapped by
    the ``gguf`` package's table. ``extra`` adds tensors in front, under their GGUF names. ``never_used`` names those
    that llama.cpp wants and does not compute with: zeros stand in where a checkpoint leaves them out. ``vocab`` reads
    the tokenizer files, one of the functions in ``convert.vocab``. ``ahead`` tells from config.json and the names of
    the checkpoint's tensors (None: not known) how many layers follow the last, which predict further tokens and are
    kept in the GGUF. ``chosen`` is for a name that stands for several kinds of GGUF.
    """

    names: Mapping[str, tuple[str, ...]]
    title: str
    arch: gguf.MODEL_ARCH
    arch_name: str = ""
    left_out: tuple[str, ...] = ()
    defaults: Mapping[str, Any | Callable[[Config], Any]] = field(default_factory=dict)
    rope_parameters: rope.Standard = rope.as_written
    scalings: tuple[str, ...] = rope.SCALED
    sections: bool = False
    check: Callable[[Config], None] = nothing_to_check
    first_metadata: Callable[[Config, gguf.GGUFWriter], None] = lambda config, writer: None
    metadata: Callable[[Config, gguf.GGUFWriter], None] = base_metadata
    sizes: Callable[[Config], Sizes] = decoder_sizes
    whole: str | Callable[[Config], str] = WHOLE
    layer: Layer = DECODER
    tied: bool = True
    kept_name: Callable[[Config, str], str | None] = every_name
    transform: Callable[[Config, Tensor], Iterable[Tensor]] = unchanged
    columns: Callable[[Config, str], Order | None] = as_they_are
    stacks: tuple[Stack, ...] = ()
    extra: Callable[[Config], Iterable[Tensor]] = no_tensors
    never_used: Callable[[Config, str], bool] = all_used
    vocab: VocabFunction = add_vocabulary
    ahead: Callable[[Config, Collection[str] | None], int] = none_ahead
    chosen: Callable[[Config], Family] | None = None

    @property
    def gguf_arch(self) -> str:
        """What a GGUF says under ``general.architecture``."""
        return self.arch_name or gguf.MODEL_ARCH_NAMES[self.arch]

    def complete(self, config: Config, names: Collection[str] | None = None) -> Config:
        """The values of a config.json with those of its text part, and the family's defaults.

        ``names`` are those of the checkpoint's tensors, where they are known.
        """
        text = (config.section("thinker_config") or config).section("text_config")
        values = {**config.values, **(text.values if text else {})}
        if config.values.get(TIED) is True and names is not None and not any(map(_is_output, names)):
            # of a model around the text's, its own word counts, and the text's config may say otherwise
            values[TIED] = True
        values = in_force(values, self.sections)
        for key, default in self.defaults.items():
            if callable(default):
                if values.get(key) is None:
                    values[key] = default(Config(config.path, values))
            elif key not in values:
                values[key] = default
        completed = Config(config.path, values)
        values["rope_parameters"] = rope.mirrored(completed, self.rope_parameters(completed))
        values[AHEAD] = self.ahead(completed, names)
        return completed

    def kept(self, config: Config, tensor: Tensor) -> Tensor | None:
        """The tensor under the name by which it is transformed; None for one that the GGUF leaves out."""
        name = self.kept_name(config, tensor.name)
        return None if name is None else renamed(tensor, name)

    def check_config(self, config: Config) -> None:
        """Raise UnsupportedError or FormatError for what the GGUF could not express."""
        rope.check_rope(config, self.scalings)
        self.sizes(config)
        if not self.tied and is_tied(config):
            raise UnsupportedError(
                f"{config.path} ties the output to the embedding, which llama.cpp does not know of this model",
                "save the checkpoint with an output matrix of its own",
            )
        self.check(config)

    def expected(self, config: Config) -> dict[str, Expected]:
        """Every tensor that a checkpoint has or may have, by GGUF name."""
        sizes = self.sizes(config)
        found = expected(self.whole if isinstance(self.whole, str) else self.whole(config), sizes)
        if is_tied(config) and "output.weight" in found:
            found["output.weight"] = Expected(found["output.weight"].shape, required=False)
        for number in range(n_blocks(config)):
            table = self.layer if isinstance(self.layer, str) else self.layer(config, number)
            found |= expected(table, sizes, f"blk.{number}.")
        return found


def is_tied(config: Config) -> bool:
    """Is the output matrix the token embedding?"""
    return config.has(TIED) and config.flag(TIED)


def _is_output(name: str) -> bool:
    return name == OUTPUT or name.endswith(f".{OUTPUT}")


def heads_if_null(config: Config) -> int:
    """The default of ``num_key_value_heads``: as many as there are query heads."""
    return config.integer("num_attention_heads", high=65536)


def if_null(key: str, null: Callable[[Config], Any], absent: Any) -> Callable[[Config], Any]:
    """A default of ``key`` that differs for a file that says null and for one that says nothing."""
    return lambda config: null(config) if key in config.values else absent


def head_if_null(config: Config) -> int:
    """The default of ``head_dim``: the model's width over its query heads."""
    return config.integer("hidden_size") // config.integer("num_attention_heads", high=65536)
