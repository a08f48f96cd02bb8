"""Folders as Meta ships Llama: ``consolidated.NN.pth``, ``params.json``, ``tokenizer.model`` there or one folder up.

Such a folder presents itself as the Hugging Face checkpoint that it would become: the same names in the same order, the
rows of wq and wk in the order that layout has, and the values of a config.json. So whatever is done to a Hugging Face
checkpoint (merging an adapter, most of all) works on it unchanged. Nothing is stitched in memory: a row is read from
the shards when it is asked for.

Source of the rules: Meta's ``llama/model.py`` (which layers are split along which dimension) and the conversion script
of transformers for what config.json would say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ggufrun.checkpoint.jsonfile import read_object
from ggufrun.checkpoint.tensor import Rows, Tensor
from ggufrun.checkpoint.torchfile import TorchFile, read_torch_file
from ggufrun.errors import FormatError, NotFoundError, UnsupportedError

COLUMN, ROW, WHOLE, EITHER = "column", "row", "whole", "either"
"""How a weight is split over the shards: along dimension 0, dimension 1, not at all, or as its shape tells."""

TOP = {
    "tok_embeddings.weight": ("model.embed_tokens.weight", EITHER),
    "norm.weight": ("model.norm.weight", WHOLE),
    "output.weight": ("lm_head.weight", COLUMN),
}
LAYER = {
    "attention.wq.weight": ("self_attn.q_proj.weight", COLUMN),
    "attention.wk.weight": ("self_attn.k_proj.weight", COLUMN),
    "attention.wv.weight": ("self_attn.v_proj.weight", COLUMN),
    "attention.wo.weight": ("self_attn.o_proj.weight", ROW),
    "feed_forward.w1.weight": ("mlp.gate_proj.weight", COLUMN),
    "feed_forward.w2.weight": ("mlp.down_proj.weight", ROW),
    "feed_forward.w3.weight": ("mlp.up_proj.weight", COLUMN),
    "attention_norm.weight": ("input_layernorm.weight", WHOLE),
    "ffn_norm.weight": ("post_attention_layernorm.weight", WHOLE),
}
"""Meta's name -> (name in the Hugging Face layout, how it is split)."""

INNER_FREQUENCIES = "attention.inner_attention.rope.freqs"
FREQUENCIES = "rope.freqs"
"""Tables that llama.cpp computes itself. The first is in Llama 1 only."""

PARAMETERS = frozenset(
    (
        "dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier", "norm_eps",
        "rope_theta", "use_scaled_rope", "rope_scaling_factor", "max_seq_len", "max_batch_size",
    )
)  # fmt: skip
AGAIN = "download it again"
NAMED = re.compile(r"layers\.(0|[1-9][0-9]{0,4})\.(.+)")

LLAMA_3_2_WIDTHS = (2048, 3072)
"""Llama 3.2's text models; they scale positions by 32 where Llama 3.1's scale by 8, and params.json does not say."""


class MetaSource:
    """A Meta folder as the Hugging Face checkpoint it would become."""

    least_tokens = 0
    notes: tuple[str, ...] = ()

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        self.path = path
        self.files = (*files, path / "params.json")
        self.tokenizer = path if (path / "tokenizer.model").is_file() else path.parent
        self.tensors: dict[str, Tensor] = {}
        self.overrides: Mapping[str, Any] = {}
        self._parts: list[TorchFile] = []
        try:
            params = _Params(path)
            for file in files:
                self._parts.append(read_torch_file(file))
            names = self._parts[0].tensors.keys()
            for part in self._parts[1:]:
                if part.tensors.keys() != names:
                    lost = min(part.tensors.keys() ^ names)
                    raise FormatError(f"{path} has {lost} in some of its files only", "download the missing files")
            self.tensors = _tensors(params, self._parts)
            self.overrides = params.config(self.tensors, names)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the files."""
        for part in self._parts:
            part.file.close()


def open_folder(path: Path) -> MetaSource | None:
    """The Meta checkpoint in a folder; None if there is none."""
    files = sorted(path.glob("consolidated.*.pth"))
    if not files:
        return None
    expected = [path / f"consolidated.{number:02}.pth" for number in range(len(files))]
    for file in expected:
        if file not in files:
            raise NotFoundError(f"no {file.name} in {path}, which has {len(files)} such files", "download the rest")
    return MetaSource(path, files)


class _Params:
    """params.json, strictly: a key that is not known may change what the weights mean."""

    def __init__(self, path: Path) -> None:
        self.path = path / "params.json"
        values = read_object(self.path)
        nested = values.get("model", values)
        self._values: dict[str, Any] = nested if isinstance(nested, dict) else {}
        strange = sorted(self._values.keys() - PARAMETERS)
        if strange:
            raise UnsupportedError(
                f"{self.path} says {strange[0]}, which no Llama of Meta's layout has", "use the Hugging Face checkpoint"
            )
        self.width, self.n_heads = self._integer("dim"), self._integer("n_heads")
        self.n_kv_heads = self._integer("n_kv_heads", self.n_heads)
        if self.width % self.n_heads or self.n_heads % self.n_kv_heads:
            raise FormatError(
                f"{self.path} says {self.width} wide, {self.n_heads} heads, {self.n_kv_heads} for keys and values",
                "these do not divide; correct the file",
            )

    def config(self, tensors: Mapping[str, Tensor], names: Sequence[str] | Any) -> dict[str, Any]:
        """What config.json would say, held against the weights."""
        vocabulary = self._vocabulary(tensors)
        theta = self._number("rope_theta", 10000.0)
        scaled = self._values.get("use_scaled_rope") or False
        if not isinstance(scaled, bool):
            raise self._bad("use_scaled_rope")
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": self.width,
            "intermediate_size": self._inner_width(),
            "max_position_embeddings": self._context(scaled, theta, names),
            "num_attention_heads": self.n_heads,
            "num_hidden_layers": self._integer("n_layers"),
            "num_key_value_heads": self.n_kv_heads,
            "rms_norm_eps": self._number("norm_eps", 1e-5),
            "rope_theta": theta,
            "tie_word_embeddings": "lm_head.weight" not in tensors,
            "vocab_size": vocabulary,
        }
        if scaled:
            factor = self._number("rope_scaling_factor", 32.0 if self.width in LLAMA_3_2_WIDTHS else 8.0)
            config["rope_scaling"] = {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }
        return config

    def _inner_width(self) -> int:
        """The width of the feed-forward layer: two thirds of four widths, widened, rounded up."""
        multiple = self._integer("multiple_of", 256)
        inner = int(self._number("ffn_dim_multiplier", 1.0) * int(8 * self.width / 3))
        return -(-inner // multiple) * multiple

    def _vocabulary(self, tensors: Mapping[str, Tensor]) -> int:
        embeddings = tensors.get("model.embed_tokens.weight")
        if embeddings is None:
            raise NotFoundError(f"the files in {self.path.parent} hold no tok_embeddings.weight", AGAIN)
        found = embeddings.shape[0]
        if self._values.get("vocab_size") not in (None, -1) and self._integer("vocab_size") != found:
            raise FormatError(
                f"{self.path} says a vocabulary of {self._integer('vocab_size')}, the weights have {found}",
                "params.json does not belong to these weights",
            )
        return found

    def _context(self, scaled: bool, theta: float, names: Any) -> int:
        """Tokens of context, which params.json does not say but every release of Llama shows in some way."""
        epsilon = self._number("norm_eps", 1e-5)
        releases = (
            (any(name.endswith(INNER_FREQUENCIES) for name in names), 2048),
            (scaled, 131072),
            (theta == 500000.0, 8192),
            (theta == 1000000.0, 16384),
            (theta == 10000.0 and epsilon == 1e-5, 4096),
            (theta == 10000.0 and epsilon == 1e-6, 2048),
        )
        for holds, context in releases:
            if holds:
                return context
        raise UnsupportedError(
            f"{self.path} is of no Llama release that is known, so the length of its context is not either",
            "use the Hugging Face checkpoint",
        )

    def _integer(self, key: str, default: int | None = None) -> int:
        value = self._values.get(key)
        value = default if value is None else value
        if type(value) is not int or not 0 < value < 1 << 31:
            raise self._bad(key)
        return value

    def _number(self, key: str, default: float) -> float:
        value = self._values.get(key)
        value = default if value is None else value
        if type(value) not in (int, float) or not 0 < value < 1e12:
            raise self._bad(key)
        return float(value)

    def _bad(self, key: str) -> FormatError:
        return FormatError(f"{self.path} says {key} = {str(self._values.get(key))[:40]}", AGAIN)


def _tensors(params: _Params, parts: Sequence[TorchFile]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name in parts[0].tensors:
        inner = NAMED.fullmatch(name)
        if name == FREQUENCIES or name.endswith(INNER_FREQUENCIES):
            continue
        target, split = (LAYER.get(inner[2]) if inner else TOP.get(name)) or ("", "")
        if not target:
            raise UnsupportedError(f"no Llama of Meta's layout has {name[:80]}", "use the Hugging Face checkpoint")
        if name == "output.weight" and all(part.aliases.get(name) == "tok_embeddings.weight" for part in parts):
            # the very same bytes: tied, as the Hugging Face layout says by leaving it out
            continue
        shards = [part.tensors[name] for part in parts]
        tensor = _stitched(params, name, shards, split)
        if name.endswith(".wq.weight"):
            tensor = _rotary_halves(tensor, params.n_heads)
        if name.endswith(".wk.weight"):
            tensor = _rotary_halves(tensor, params.n_kv_heads)
        final = f"model.layers.{inner[1]}.{target}" if inner else target
        found[final] = replace(tensor, name=final)
    return dict(sorted(found.items()))


def _stitched(params: _Params, name: str, shards: Sequence[Tensor], split: str) -> Tensor:
    first = shards[0]
    rank = 1 if split == WHOLE else 2
    if any(len(shard.shape) != rank or (shard.shape, shard.dtype) != (first.shape, first.dtype) for shard in shards):
        raise FormatError(f"the parts of {name} do not fit together", "download the files again")
    if split == WHOLE:
        return replace(first, rows=_agreeing(name, shards))
    if split == EITHER:
        # Llama 1 and 2 split the width of an embedding, Llama 3 splits the vocabulary
        if params.width not in (first.shape[1], first.shape[1] * len(shards)):
            raise FormatError(
                f"{name} is {first.shape[1]} wide in {len(shards)} files, params.json says {params.width}",
                "params.json does not belong to these weights, or a file is missing",
            )
        split = COLUMN if first.shape[1] == params.width else ROW
    rows, columns = first.shape
    if split == COLUMN:
        return replace(first, shape=(rows * len(shards), columns), rows=_one_below_another(shards))
    return replace(first, shape=(rows, columns * len(shards)), rows=_side_by_side(shards))


def _agreeing(name: str, shards: Sequence[Tensor]) -> Callable[[int, int], Rows]:
    def rows(start: int, stop: int) -> Rows:
        first, *others = (shard.rows(start, stop) for shard in shards)
        if any(first.tobytes() != other.tobytes() for other in others):
            raise FormatError(f"{name} is not the same in all files", "they belong to different models")
        return first

    return rows


def _one_below_another(shards: Sequence[Tensor]) -> Callable[[int, int], Rows]:
    height = shards[0].shape[0]

    def rows(start: int, stop: int) -> Rows:
        first = min(start // height, len(shards) - 1)
        pieces = [
            shards[number].rows(max(start - number * height, 0), min(stop - number * height, height))
            for number in range(first, max(-(-stop // height), first + 1))
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    return rows


def _side_by_side(shards: Sequence[Tensor]) -> Callable[[int, int], Rows]:
    def rows(start: int, stop: int) -> Rows:
        pieces = [shard.rows(start, stop) for shard in shards]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)

    return rows


def _rotary_halves(tensor: Tensor, n_heads: int) -> Tensor:
    """The order of the Hugging Face layout: of each head, the first rows of all rotation pairs, then the second."""
    if tensor.shape[0] % (2 * n_heads):
        raise FormatError(
            f"{tensor.name} has {tensor.shape[0]} rows, no even number for each of {n_heads} heads",
            "params.json does not belong to these weights",
        )
    head = tensor.shape[0] // n_heads
    order = np.arange(head).reshape(-1, 2).T.reshape(-1)

    def rows(start: int, stop: int) -> Rows:
        first, last = start // head, -(-stop // head)
        heads = tensor.rows(first * head, last * head).reshape(last - first, head, tensor.n_per_row)[:, order]
        return np.ascontiguousarray(heads.reshape(-1, tensor.n_per_row)[start - first * head : stop - first * head])

    return replace(tensor, rows=rows)
