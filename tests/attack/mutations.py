"""What is changed in a sound model. Every change keeps the file a GGUF: what bytes alone can do, ``tests.fuzz`` does.

A change takes the model and the dice, alters the model in place and returns what it did in a few words; None where the
model has nothing of the kind.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import gguf
import numpy as np

from ggufrun.checkpoint.gguf.file import SCALARS, Kind, Value, encode
from ggufrun.checkpoint.gguf.tensor_types import BLOCKS, TensorType
from ggufrun.errors import FormatError
from tests.attack.models import Model, Tensor
from tests.attack.vocabularies import VOCABULARIES

Change = Callable[[Model, random.Random], str | None]

FILLED_WEIGHTS, MAX_WEIGHTS = 1 << 22, 1 << 26
"""Weights of a tensor up to which a change fills it with data, a larger one being a hole in the file; and the most."""


NUMBERS: dict[Kind, tuple[Any, ...]] = {
    Kind.UINT8: (0, 1, 2, 255),
    Kind.INT8: (0, 1, -1, -128, 127),
    Kind.UINT16: (0, 1, 3, 65535),
    Kind.INT16: (0, -1, 32767),
    Kind.UINT32: (
        0, 1, 2, 3, 5, 7, 31, 33, 127, 1000, 4096, 65537, 1 << 20, 1 << 24, 1 << 30, (1 << 31) - 1, 1 << 31,
        (1 << 32) - 1,
    ),
    Kind.INT32: (0, 1, 2, 3, 7, -1, -2, 100, 1 << 20, (1 << 31) - 1, -(1 << 31)),
    Kind.UINT64: (0, 1, 3, 1 << 33, (1 << 64) - 1),
    Kind.INT64: (0, -1, 1 << 40, -(1 << 63)),
    Kind.FLOAT32: (
        0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 1e-45, 1e30, -1e30, 3e38, float("inf"), float("-inf"), float("nan"),
    ),
    Kind.FLOAT64: (0.0, 1.0, -1.0, 1e300, float("inf"), float("nan")),
    Kind.BOOL: (False, True),
}  # fmt: skip

WORDS = (
    "", "x", "none", "linear", "yarn", "longrope", "su", "dynamic", "llama3", "default", "gelu", "silu", "llama",
    "1", "\0", "é" * 300, "a" * 70_000, "%s%n", "../../x", "<s>",
)  # fmt: skip

ARCHITECTURES = tuple(sorted(gguf.MODEL_ARCH_NAMES.values()))


def _arch_keys() -> tuple[str, ...]:
    """Every key that some architecture may read, with a place for its name."""
    found = []
    groups = ("LLM", "Attention", "Rope", "SSM", "KDA", "WKV", "PosNet", "ConvNext", "Classifier", "ShortConv")
    for group in groups:
        names = vars(getattr(gguf.Keys, group, object()))
        found += [value for value in names.values() if isinstance(value, str) and value.startswith("{arch}.")]
    return tuple(sorted({key for key in found if key.count("{") == 1}))


ARCH_KEYS = _arch_keys()
TOKENIZER_KEYS = tuple(
    sorted(value for value in vars(gguf.Keys.Tokenizer).values() if isinstance(value, str) and value.startswith("tok"))
)
TOKEN_IDS = tuple(key for key in TOKENIZER_KEYS if key.endswith("_token_id"))
MODELS = (
    "llama", "gpt2", "bert", "t5", "rwkv", "plamo2", "gemma4", "no_vocab", "none", "test", "hybriddna", "whitespace",
)  # fmt: skip
PRES = (
    "default", "llama-bpe", "deepseek-llm", "deepseek-coder", "deepseek-v3", "falcon", "mpt", "starcoder", "gpt-2",
    "jais-2", "gemma4", "roberta-bpe", "whitespace", "refact", "command-r", "qwen2", "qwen35", "stablelm2", "olmo",
    "dbrx", "smaug-bpe", "poro-chat", "chatglm-bpe", "glm4", "viking", "jais", "tekken", "smollm", "codeshell", "bloom",
    "gpt3-finnish", "exaone", "exaone-moe", "chameleon", "minerva-7b", "gpt-4o", "tiny_aya", "superbpe", "trillion",
    "bailingmoe", "seed-coder", "hunyuan", "hunyuan-dense", "joyai-llm", "kimi-k2", "grok-2", "afmoe", "minimax-m2",
    "solar-open", "jina-v2-de", "jina-v2-code", "megrez", "youtu", "spark2_5", "sarvam-moe", "hy_v4",
)  # fmt: skip

# --- metadata ---------------------------------------------------------------------------------------------------------


def _is_array(value: Value) -> bool:
    return value.kind is Kind.ARRAY


def _ours(model: Model) -> list[str]:
    """The keys of the architecture itself; what they say decides how the engine computes."""
    return [key for key in model.metadata if key.startswith(f"{model.architecture}.")]


def _scalar(kind: Kind, dice: random.Random) -> Any:
    if kind is Kind.STRING:
        return dice.choice(WORDS)
    values = NUMBERS[kind]
    return dice.choice(values)


def _near(value: Value, dice: random.Random) -> Any:
    """A number that could almost be the right one."""
    number = value.decode()
    if value.kind is Kind.BOOL:
        return not number
    if isinstance(number, int):
        low, high = {"b": (-128, 127), "h": (-(1 << 15), 32767), "i": (-(1 << 31), (1 << 31) - 1)}.get(
            SCALARS[value.kind], (0, (1 << (8 * len(value.raw))) - 1)
        )
        found = dice.choice((number + 1, number - 1, number * 2, number // 2, number * 3, number + 32, -number))
        return min(high, max(low, found))
    return dice.choice((-number, number * 1e6, number / 1e6, number + 1))


def change_number(model: Model, dice: random.Random) -> str | None:
    """One value of the architecture's own, of its own type."""
    keys = [key for key in _ours(model) if not _is_array(model.metadata[key])]
    if not keys:
        return None
    key = dice.choice(keys)
    value = model.metadata[key]
    near = value.kind is not Kind.STRING and dice.random() < 0.4
    new = _near(value, dice) if near else _scalar(value.kind, dice)
    try:
        model.set(key, new, value.kind)
    except Exception:
        return None
    return f"{key} = {str(new)[:40]!r}"


def change_kind(model: Model, dice: random.Random) -> str | None:
    """A value of another type."""
    key = dice.choice(sorted(model.metadata))
    kind = dice.choice([*NUMBERS, Kind.STRING])
    new = _scalar(kind, dice)
    model.set(key, new, kind)
    return f"{key} = {kind.name} {str(new)[:40]!r}"


def remove_key(model: Model, dice: random.Random) -> str:
    key = dice.choice(sorted(model.metadata))
    del model.metadata[key]
    return f"without {key}"


def add_key(model: Model, dice: random.Random) -> str:
    """A key that this or another architecture reads."""
    key = dice.choice(ARCH_KEYS).format(arch=model.architecture)
    present = model.metadata.get(key)
    kind = (
        present.kind
        if present and not _is_array(present)
        else dice.choice(
            (Kind.UINT32, Kind.UINT32, Kind.UINT32, Kind.FLOAT32, Kind.FLOAT32, Kind.BOOL, Kind.STRING, Kind.INT32)
        )
    )
    new = dice.choice((1, 2, 4, 8, 16)) if kind is Kind.UINT32 and dice.random() < 0.5 else _scalar(kind, dice)
    model.set(key, new, kind)
    return f"{key} = {kind.name} {str(new)[:40]!r} (added)"


def list_instead(model: Model, dice: random.Random) -> str | None:
    """One value a layer, or too few, or too many, in the place of one for all."""
    keys = [key for key in _ours(model) if model.metadata[key].kind in NUMBERS]
    if not keys:
        return None
    key = dice.choice(keys)
    value = model.metadata[key]
    layers = model.metadata.get(f"{model.architecture}.block_count")
    n = layers.decode() if layers and layers.kind is Kind.UINT32 else 2
    count = dice.choice((0, 1, max(0, n - 1), n, n + 1, 600, 5000)) if n < 600 else 1
    items = [value.decode() if dice.random() < 0.6 else _scalar(value.kind, dice) for _ in range(count)]
    kind = dice.choice((value.kind, value.kind, value.kind, Kind.INT32, Kind.FLOAT32, Kind.BOOL))
    try:
        model.metadata[key] = encode(items, Kind.ARRAY, kind)
    except Exception:
        return None
    return f"{key} = {kind.name}{str(items)[:60]}"


def change_list(model: Model, dice: random.Random) -> str | None:
    """A list of another length, with other items, or of another type."""
    keys = [key for key, value in model.metadata.items() if _is_array(value) and not key.startswith("general.")]
    if not keys:
        return None
    key = dice.choice(keys)
    items = list(model.metadata[key].decode())
    item = Kind(int.from_bytes(model.metadata[key].raw[:4], "little"))
    how = dice.randrange(6)
    if how == 0:
        items = items[: dice.choice((0, 1, len(items) // 2, len(items) - 1))]
    elif how == 1:
        items = items * dice.choice((2, 3, 100) if len(items) < 100 else (2,))
    elif how == 2 and items:
        for _ in range(dice.choice((1, 1, 5, len(items)))):
            items[dice.randrange(len(items))] = _scalar(item, dice)
    elif how == 3:
        item = dice.choice([*NUMBERS, Kind.STRING])
        items = [_scalar(item, dice) for _ in items]
    elif how == 4:
        dice.shuffle(items)
    else:
        items = [_scalar(item, dice)] * len(items)
    model.metadata[key] = encode(items, Kind.ARRAY, item)
    return f"{key} = {item.name}{str(items)[:40]} ({len(items)})"


def other_architecture(model: Model, dice: random.Random) -> str:
    """Another family's name, its keys renamed or left as they are."""
    old, new = model.architecture, dice.choice(ARCHITECTURES)
    renames = dice.random() < 0.8
    if renames:
        model.metadata = {
            (f"{new}.{key.removeprefix(old + '.')}" if key.startswith(f"{old}.") else key): value
            for key, value in model.metadata.items()
        }
    model.set("general.architecture", new, Kind.STRING)
    return f"architecture {new}" + ("" if renames else " without its keys")


# --- vocabulary -------------------------------------------------------------------------------------------------------


def _tokens(model: Model) -> list[Any]:
    value = model.metadata.get("tokenizer.ggml.tokens")
    found = value.decode() if value else []
    return found if isinstance(found, list) else []


def token_id(model: Model, dice: random.Random) -> str:
    """A special token that does not exist, or that is another."""
    key, size = dice.choice(TOKEN_IDS), len(_tokens(model))
    kind = dice.choice((Kind.UINT32, Kind.UINT32, Kind.UINT32, Kind.INT32, Kind.UINT64, Kind.FLOAT32, Kind.STRING))
    if kind is Kind.UINT32:
        new: Any = dice.choice((0, 1, max(0, size - 1), size, size + 1, dice.randrange(size or 1), *NUMBERS[kind]))
    else:
        new = _scalar(kind, dice)
    model.set(key, new, kind)
    return f"{key} = {kind.name} {str(new)[:40]!r}"


def vocabulary_kind(model: Model, dice: random.Random) -> str:
    """A vocabulary that says to be of another kind."""
    new = dice.choice(MODELS)
    model.set("tokenizer.ggml.model", new, Kind.STRING)
    return f"tokenizer.ggml.model = {new}"


def pretokenizer(model: Model, dice: random.Random) -> str:
    new = dice.choice(PRES)
    model.set("tokenizer.ggml.pre", new, Kind.STRING)
    return f"tokenizer.ggml.pre = {new}"


def whole_vocabulary(model: Model, dice: random.Random) -> str:
    """Another sound vocabulary's lists over those that are there."""
    name = dice.choice(sorted(VOCABULARIES))
    for key, value in VOCABULARIES[name]().items():
        if isinstance(value, list) or dice.random() < 0.5:
            kind = {list: Kind.ARRAY, bool: Kind.BOOL, int: Kind.UINT32, str: Kind.STRING}[type(value)]
            model.set(f"tokenizer.ggml.{key}", value, kind)
    return f"the lists of {name}"


def tokens(model: Model, dice: random.Random) -> str | None:
    """Tokens that are empty, twice there, no text, very long, too few or too many."""
    found = _tokens(model)
    if not found:
        return None
    how = dice.choice(("empty", "twice", "bytes", "long", "fewer", "more", "space", "no bytes", "escape", "all alike"))
    at = dice.randrange(len(found))
    if how == "empty":
        found[at] = ""
    elif how == "twice":
        found[at] = found[at - 1]
    elif how == "bytes":
        for _ in range(dice.choice((1, 20))):
            found[dice.randrange(len(found))] = bytes(dice.choices(range(256), k=dice.randint(1, 9)))
    elif how == "long":
        found[at] = dice.choice(("x", "<", "▁", "\\x")) * dice.choice((300, 5000, 1 << 20))
    elif how == "fewer":
        found = found[: dice.choice((0, 1, 2, len(found) // 2, len(found) - 1))]
    elif how == "more":
        found += [f"more{number}" for number in range(dice.choice((1, 1000, 100_000)))]
    elif how == "space":
        found[at] = dice.choice((" ", "\n", "\0", "a\0b", "▁", "<0x>", "<0xZZ>", "<0x0A", "<0x0>"))
    elif how == "no bytes":
        for number in range(len(found)):
            if dice.random() < 0.3:
                found[number] = f"n{number}"
    elif how == "escape":
        found[at] = dice.choice(("\\", "\\x", "\\xg", "\\x4", "\\u12", "\\U0001", "a\\", "\\t\\n\\r\\"))
    else:
        found = ["x"] * len(found)
    model.metadata["tokenizer.ggml.tokens"] = encode(found, Kind.ARRAY, Kind.STRING)
    if how in ("fewer", "more") and dice.random() < 0.7:
        for name, fill in (("scores", 0.0), ("token_type", 1)):
            key = f"tokenizer.ggml.{name}"
            value = model.metadata.get(key)
            if value is not None and _is_array(value):
                item = Kind.FLOAT32 if name == "scores" else Kind.INT32
                items = [*value.decode()[: len(found)]]
                items += [fill] * (len(found) - len(items))
                try:
                    model.metadata[key] = encode(items, Kind.ARRAY, item)
                except Exception:
                    return None
    return f"tokens: {how}"


def token_types(model: Model, dice: random.Random) -> str:
    size = len(_tokens(model))
    how = dice.randrange(4)
    if how == 0:
        model.metadata.pop("tokenizer.ggml.token_type", None)
        return "no token types"
    kinds = ((1,), (2,), (3,), (6,), (5,), (0, 1, 2, 3, 4, 5, 6), (-1, 7, 1 << 30))
    chosen = dice.choice(kinds)
    types = [dice.choice(chosen) for _ in range(size)]
    model.metadata["tokenizer.ggml.token_type"] = encode(types, Kind.ARRAY, Kind.INT32)
    return f"token types of {chosen}"


def scores(model: Model, dice: random.Random) -> str:
    size = len(_tokens(model))
    if dice.random() < 0.3:
        model.metadata.pop("tokenizer.ggml.scores", None)
        return "no scores"
    values = dice.choice(((float("nan"),), (float("inf"), float("-inf")), (0.0,), (1e38, -1e38), (1.0, float("nan"))))
    found = [dice.choice(values) for _ in range(size)]
    model.metadata["tokenizer.ggml.scores"] = encode(found, Kind.ARRAY, Kind.FLOAT32)
    return f"scores of {values}"


def merges(model: Model, dice: random.Random) -> str:
    key = "tokenizer.ggml.merges"
    value = model.metadata.get(key)
    found = value.decode() if value and _is_array(value) else ["a b", "c d"]
    if not isinstance(found, list) or not all(isinstance(item, (str, bytes)) for item in found):
        found = ["a b"]
    how = dice.choice(("no space", "empty", "unknown", "twice", "backwards", "many", "bytes", "gone"))
    if how == "gone":
        model.metadata.pop(key, None)
    elif how == "many":
        found = found * dice.choice((2, 500))
    elif how == "backwards":
        found = found[::-1]
    elif how == "twice":
        found += found[:3]
    else:
        new = {"no space": "ab", "empty": "", "unknown": "zq qz", "bytes": b"\xff \xfe"}[how]
        for _ in range(dice.choice((1, 5))):
            found[dice.randrange(len(found))] = new
    if how != "gone":
        model.metadata[key] = encode(found, Kind.ARRAY, Kind.STRING)
    return f"merges: {how}"


def charsmap(model: Model, dice: random.Random) -> str:
    """The table by which Unigram vocabularies rewrite a text first."""
    size = dice.choice((0, 3, 4, 5, 12, 64, 1024))
    data = bytes(dice.choices(range(256), k=size))
    if size > 4 and dice.random() < 0.7:
        inner = dice.choice((0, 1, 4, size - 5, size - 4 - (size % 4), 0xFFFFFFFB, 0xFFFFFFFF))
        data = inner.to_bytes(4, "little") + data[4:]
    model.metadata["tokenizer.ggml.precompiled_charsmap"] = encode([*data], Kind.ARRAY, Kind.UINT8)
    model.set("tokenizer.ggml.model", "t5", Kind.STRING)
    return f"a charsmap of {size} bytes"


def tokenizer_key(model: Model, dice: random.Random) -> str:
    key = dice.choice(TOKENIZER_KEYS)
    kind = dice.choice((Kind.BOOL, Kind.UINT32, Kind.STRING, Kind.FLOAT32, Kind.ARRAY))
    if kind is Kind.ARRAY:
        item = dice.choice((Kind.INT32, Kind.UINT32, Kind.STRING, Kind.UINT8))
        items = [_scalar(item, dice) for _ in range(dice.choice((0, 1, 5)))]
        model.metadata[key] = encode(items, Kind.ARRAY, item)
        return f"{key} = {str(items)[:40]}"
    new = _scalar(kind, dice)
    model.set(key, new, kind)
    return f"{key} = {kind.name} {str(new)[:40]!r}"


# --- tensors ----------------------------------------------------------------------------------------------------------


def _pick(model: Model, dice: random.Random, matrix: bool | None = None) -> Tensor | None:
    found = [tensor for tensor in model.tensors if matrix is None or (len(tensor.shape) > 1) == matrix]
    return dice.choice(found) if found else None


def _fill(tensor: Tensor, dice: random.Random) -> None:
    weights = int(np.prod(tensor.shape, dtype=object))
    if weights > FILLED_WEIGHTS:
        tensor.data = b""
    elif len(tensor.data) != tensor.n_bytes:
        data = tensor.data or b"\0"
        tensor.data = (data * (tensor.n_bytes // len(data) + 1))[: tensor.n_bytes]


def tensor_type(model: Model, dice: random.Random) -> str | None:
    """Another type, with bytes as many as it takes."""
    tensor = _pick(model, dice)
    if tensor is None:
        return None
    kinds = [kind for kind in TensorType if tensor.shape[-1] % BLOCKS[kind][0] == 0]
    tensor.type = dice.choice(kinds)
    _fill(tensor, dice)
    return f"{tensor.name} as {tensor.type.name}"


def all_types(model: Model, dice: random.Random) -> str | None:
    """Every tensor of a name in another type."""
    tensor = _pick(model, dice)
    if tensor is None:
        return None
    ending = tensor.name.split(".", 2)[-1]
    kind = dice.choice([kind for kind in TensorType if tensor.shape[-1] % BLOCKS[kind][0] == 0])
    for other in model.tensors:
        if other.name.split(".", 2)[-1] == ending and other.shape[-1] % BLOCKS[kind][0] == 0:
            other.type = kind
            _fill(other, dice)
    return f"all {ending} as {kind.name}"


def tensor_shape(model: Model, dice: random.Random) -> str | None:
    tensor = _pick(model, dice)
    if tensor is None:
        return None
    shape = list(tensor.shape)
    at = dice.randrange(len(shape))
    how = dice.choice(("transposed", "one", "double", "half", "huge", "flat", "more", "plus", "minus", "padded"))
    if how == "transposed":
        shape.reverse()
    elif how == "one":
        shape[at] = 1
    elif how == "double":
        shape[at] *= 2
    elif how == "half":
        shape[at] = max(1, shape[at] // 2)
    elif how == "huge":
        shape[at] = dice.choice((1 << 16, 1 << 20, 1 << 24))
    elif how == "flat":
        shape = [int(np.prod(shape))]
    elif how == "more":
        shape = [dice.choice((1, 2)), *shape][-4:]
    elif how == "plus":
        shape[at] += 1
    elif how == "minus":
        shape[at] = max(1, shape[at] - 1)
    else:
        shape = [*shape, 1][-4:]
    block = BLOCKS[tensor.type][0]
    total = int(np.prod([int(size) for size in shape], dtype=object))
    if tuple(shape) == tensor.shape or shape[-1] % block or total > MAX_WEIGHTS:
        return None
    tensor.shape = tuple(shape)
    _fill(tensor, dice)
    return f"{tensor.name} {how}: {tensor.shape}"


def remove_tensor(model: Model, dice: random.Random) -> str | None:
    tensor = _pick(model, dice)
    if tensor is None:
        return None
    model.tensors.remove(tensor)
    return f"without {tensor.name}"


def remove_kind(model: Model, dice: random.Random) -> str | None:
    """All tensors of a name."""
    tensor = _pick(model, dice)
    if tensor is None:
        return None
    ending = tensor.name.split(".", 2)[-1]
    model.tensors = [other for other in model.tensors if other.name.split(".", 2)[-1] != ending]
    return f"without any {ending}"


def swap_tensors(model: Model, dice: random.Random) -> str | None:
    if len(model.tensors) < 2:
        return None
    one, two = dice.sample(model.tensors, 2)
    one.name, two.name = two.name, one.name
    return f"{one.name} and {two.name} swapped"


def rename_tensor(model: Model, dice: random.Random) -> str | None:
    tensor = _pick(model, dice)
    if tensor is None:
        return None
    new = dice.choice((tensor.name + ".x", "x", tensor.name.replace("0", "7"), tensor.name.replace("weight", "bias")))
    if any(other.name == new for other in model.tensors):
        return None
    old, tensor.name = tensor.name, new
    return f"{old} called {new}"


EXTRA = (
    "output.weight", "output.bias", "output_norm.weight", "output_norm.bias", "rope_freqs.weight",
    "rope_factors_long.weight", "rope_factors_short.weight", "token_types.weight", "position_embd.weight",
    "token_embd_norm.weight", "cls.weight", "cls.output.weight", "blk.0.attn_q.bias", "blk.0.attn_k.bias",
    "blk.0.attn_qkv.bias", "blk.0.attn_output.bias", "blk.0.attn_norm.bias", "blk.0.ffn_norm.bias",
    "blk.0.ffn_up.bias", "blk.0.ffn_gate.bias", "blk.0.ffn_down.bias", "blk.0.ffn_down.scale", "blk.0.attn_q.scale",
    "blk.0.attn_q_norm.weight", "blk.0.attn_k_norm.weight", "blk.0.rope_freqs.weight", "blk.0.ffn_gate_inp.weight",
    "blk.0.exp_probs_b.bias", "blk.0.ffn_gate_exps.weight", "blk.0.attn_sinks.weight", "blk.0.ffn_up_shexp.weight",
    "blk.0.attn_qkv.weight", "blk.0.ffn_act.scales", "blk.0.ffn_gate.weight", "blk.0.attn_rot.weight",
)  # fmt: skip


def add_tensor(model: Model, dice: random.Random) -> str | None:
    """A tensor that the family may look for, with a shape that another one has."""
    name, like = dice.choice(EXTRA), _pick(model, dice)
    if like is None or any(tensor.name == name for tensor in model.tensors):
        return None
    model.tensors.append(Tensor(name, like.shape, like.type, like.data))
    return f"{name} as {like.name} is"


def copy_layer(model: Model, dice: random.Random) -> str | None:
    """More or fewer layers than the tensors have."""
    key = f"{model.architecture}.block_count"
    value = model.metadata.get(key)
    if value is None or value.kind is not Kind.UINT32:
        return None
    new = max(0, value.decode() + dice.choice((-1, 1, 2, 100)))
    model.set(key, new, Kind.UINT32)
    return f"{key} = {new}"


# --- weights ----------------------------------------------------------------------------------------------------------


def weights(model: Model, dice: random.Random) -> str | None:
    """Values that no training leaves behind, in one tensor or in all."""
    tensor = _pick(model, dice)
    if tensor is None:
        return None
    chosen = [tensor] if dice.random() < 0.6 else model.tensors
    how = dice.choice(("zero", "ones", "random", "nan", "inf", "huge"))
    for one in chosen:
        if how in ("nan", "inf", "huge") and one.type in (TensorType.F32, TensorType.F16):
            kind = np.float32 if one.type is TensorType.F32 else np.float16
            value = {"nan": np.nan, "inf": np.inf, "huge": np.finfo(kind).max}[how]
            one.data = np.full(one.n_bytes // np.dtype(kind).itemsize, value, kind).tobytes()
        else:
            byte = {"zero": b"\0", "random": None}.get(how, b"\xff")
            one.data = dice.randbytes(one.n_bytes) if byte is None else byte * one.n_bytes
    return f"{tensor.name if len(chosen) == 1 else 'all weights'}: {how}"


CHANGES: dict[Change, int] = {
    change_number: 10, add_key: 7, list_instead: 3, change_kind: 2, remove_key: 2, change_list: 5,
    other_architecture: 3, token_id: 3, vocabulary_kind: 2, pretokenizer: 1, whole_vocabulary: 2, tokens: 4,
    token_types: 2, scores: 1, merges: 1, charsmap: 1, tokenizer_key: 2, tensor_type: 5, all_types: 4, tensor_shape: 5,
    remove_tensor: 2, remove_kind: 2, swap_tensors: 3, rename_tensor: 1, add_tensor: 4, copy_layer: 1, weights: 3,
}  # fmt: skip
"""Every change, and how often it is chosen."""


def change(model: Model, dice: random.Random) -> list[str]:
    """Change the model a little; what was done."""
    done: list[str] = []
    wanted = dice.choice((1, 1, 1, 1, 2, 3))
    while len(done) < wanted:
        (how,) = dice.choices([*CHANGES], [*CHANGES.values()])
        if not model.metadata:
            break
        try:
            said = how(model, dice)
        except FormatError:
            # a value that no GGUF can hold
            continue
        if said is not None:
            done.append(said)
    return done
