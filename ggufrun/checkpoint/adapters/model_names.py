"""What a checkpoint's files call a tensor, and what the model that an adapter was trained on calls it.

An adapter follows the names of the running model, its base those of the files, and the two differ: transformers 5 has
the text of a model that sees under ``model.language_model``, older releases had it under ``language_model.model``, and
a model of text alone under ``model``; a few modules were renamed. Both are brought to one form here. A mixture's
experts lie apart in most files (``experts.7.gate_proj.weight``) and are one parameter of the running model
(``experts.gate_up_proj``).

Source: transformers' ``conversion_mapping``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

OUTERMOST = ("thinker", "module", "model", "transformer", "gpt_neox")
"""First parts of a name that only some forms of it have."""

ANYWHERE = ("language_model", "_orig_mod", "_fsdp_wrapped_module")
"""Parts of a name that only some forms of it have, wherever they stand."""

RENAMED = (
    (r"\.block_sparse_moe\.input_linear\.weight$", ".mlp.experts.gate_up_proj"),
    (r"\.block_sparse_moe\.output_linear\.weight$", ".mlp.experts.down_proj"),
    (r"\.block_sparse_moe\.router\.layer\.", ".mlp.router."),
    (r"\.block_sparse_moe\.", ".mlp."),
    (r"\.self_attn\.(f_a_proj|f_b_proj)\.", r".self_attn.forget_gate.\1."),
    (r"^embed_out\.", "lm_head."),
)
"""Modules that transformers 5 calls otherwise than the files do: Granite's and Mixtral's mixtures, Kimi Linear's gate,
GPT-NeoX' output."""

APART = re.compile(r"(?P<module>(?:.*\.)?experts)\.(?P<number>\d{1,5})\.(?P<part>[a-z0-9_]+)\.weight")
"""The canonical name of one expert's matrix, where each has a tensor of its own."""

HALVES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "gate_up_proj": (("gate_proj", "w1"), ("up_proj", "w3")),
    "up_proj": (("up_proj", "w3"),),
    "down_proj": (("down_proj", "w2"),),
}
"""Parameters of the running model in the order in which its modules have them, and what lies over one another in each
expert's matrix, by the names that it may have in the files."""


def canonical(name: str) -> str:
    """The one form of a tensor's name."""
    parts = [part for part in name.split(".") if part not in ANYWHERE]
    while len(parts) > 1 and parts[0] in OUTERMOST:
        parts.pop(0)
    found = ".".join(parts)
    for pattern, replacement in RENAMED:
        found = re.sub(pattern, replacement, found)
    return found


class BaseNames:
    """The names of a checkpoint's tensors, to be found by those of the running model."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._canonical: dict[str, str | None] = {}
        self._experts: dict[tuple[str, str], dict[int, str]] = {}
        for name in names:
            key = canonical(name)
            # two tensors of one form: each is found by its own name alone
            self._canonical[key] = None if key in self._canonical else name
            if match := APART.fullmatch(key):
                self._experts.setdefault((match["module"], match["part"]), {})[int(match["number"])] = name

    def find(self, name: str) -> str | None:
        """What the files call the tensor that the running model calls ``name``."""
        return name if name in self._names else self._canonical.get(canonical(name))

    def experts(self, module: str, parameter: str) -> list[list[str]]:
        """The tensors that a parameter of ``module`` is put together from: for each expert, one a half.

        Nothing where the files do not keep such experts apart, or not all of them.
        """
        key = canonical(module)
        halves = []
        for names in HALVES.get(parameter, ()):
            found = next((self._experts[key, name] for name in names if (key, name) in self._experts), {})
            halves.append([found.get(number, "") for number in range(len(found))])
        if not halves or len({len(half) for half in halves}) > 1:
            return []
        experts = [list(each) for each in zip(*halves, strict=True)]
        return [] if any("" in each for each in experts) else experts
