"""What attacks have found, each kind once: a change, the command it was found with, and what is said of it today.

``python -m tests.attack --found`` runs them all.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ggufrun.checkpoint.gguf.file import Kind
from ggufrun.checkpoint.gguf.tensor_types import BLOCKS, TensorType
from tests.attack.models import Model

Change = Callable[[Model], None]


@dataclass(frozen=True)
class Found:
    """``was`` is how it ended before: a signal, ``hang``, ``memory`` or ``abort``. ``said`` is a regular expression."""

    was: str
    family: str
    job: str
    change: Change
    said: str
    vocabulary: str = "sentencepiece"


def number(key: str, value: object, kind: Kind = Kind.UINT32) -> Change:
    """A number of the architecture's."""
    return lambda model: model.set(f"{model.architecture}.{key}", value, kind)


def word(key: str, value: str) -> Change:
    """A text of the vocabulary's."""
    return lambda model: model.set(f"tokenizer.ggml.{key}", value, Kind.STRING)


def numbers(key: str, value: list[int]) -> Change:
    """A list of the architecture's."""
    return lambda model: model.set(f"{model.architecture}.{key}", value, Kind.ARRAY, Kind.INT32)


def flags(key: str, value: list[bool]) -> Change:
    """The same of switches."""
    return lambda model: model.set(f"{model.architecture}.{key}", value, Kind.ARRAY, Kind.BOOL)


def typed(name: str, kind: TensorType) -> Change:
    """Every tensor of that name in another type."""

    def turn(model: Model) -> None:
        for tensor in model.tensors:
            if tensor.name.endswith(name) and tensor.shape[-1] % BLOCKS[kind][0] == 0:
                tensor.type = kind
                tensor.data = bytes(tensor.n_bytes)

    return turn


def shaped(name: str, columns: int) -> Change:
    """Every tensor of that name with so many columns."""

    def change(model: Model) -> None:
        for tensor in model.tensors:
            if tensor.name.endswith(name):
                tensor.shape = (*tensor.shape[:-1], columns)
                tensor.data = bytes(tensor.n_bytes)

    return change


def without(name: str) -> Change:
    """No tensor of that name."""

    def remove(model: Model) -> None:
        model.tensors = [tensor for tensor in model.tensors if not tensor.name.endswith(name)]

    return remove


def token(at: int, text: str) -> Change:
    """One token changed."""

    def change(model: Model) -> None:
        found = model.metadata["tokenizer.ggml.tokens"].decode()
        found[at] = text
        model.set("tokenizer.ggml.tokens", found, Kind.ARRAY, Kind.STRING)

    return change


ROTATED, EPSILON = "rope.dimension_count", "attention.layer_norm_rms_epsilon"
FOUND = (
    *(
        Found("SIGSEGV", "llama-biases-yarn", "complete", typed("ffn_up.weight", kind), "cannot be multiplied")
        for kind in (TensorType.I8, TensorType.I16, TensorType.I32, TensorType.I64, TensorType.F64)
    ),
    Found("SIGSEGV", "granite-moe", "bench", typed("ffn_up_exps.weight", TensorType.F64), "cannot be multiplied"),
    Found("abort", "qwen2-vl", "pieces", typed("token_embd.weight", TensorType.I64), "cannot be multiplied"),
    Found("abort", "ministral-3", "chat", typed("ffn_norm.weight", TensorType.I16), "added or multiplied"),
    Found("abort", "olmoe", "perplexity", typed("attn_norm.weight", TensorType.F16), "added or multiplied"),
    Found("SIGSEGV", "phi3", "inspect", without("attn_qkv.weight"), "refused.*has no blk.0.attn_qkv.weight"),
    Found("SIGSEGV", "phi3", "fit", without("attn_qkv.weight"), "has no blk.0.attn_qkv.weight, which this layer needs"),
    Found("SIGSEGV", "falcon-h1", "complete", without("ssm_conv1d.bias"), "has no blk.0.ssm_conv1d.bias"),
    Found("SIGSEGV", "glm-5", "complete", without("indexer.proj.weight"), "has no blk.0.indexer.proj.weight"),
    Found("SIGSEGV", "qwen3.5-text", "verify", without("attn_qkv.weight"), "bad.*has no blk.0.attn_qkv"),
    Found("SIGSEGV", "qwen3.5-text", "imatrix", without("attn_gate.weight"), "has no blk.0.attn_gate.weight"),
    Found("hang", "chatglm-rope-ratio", "complete", number(ROTATED, 0), f"says {ROTATED} = 0"),
    Found("abort", "chatglm-rope-ratio", "complete", number(ROTATED, 7), f"says {ROTATED} = 7"),
    Found("abort", "baichuan-13b", "compare", number(ROTATED, 1000), f"says {ROTATED} = 1000"),
    Found("abort", "baichuan-7b", "draft", number(EPSILON, -1.0, Kind.FLOAT32), "rms_epsilon = -1.0"),
    Found("abort", "command-r7b", "template", number("attention.sliding_window", (1 << 31) - 1), "sliding_window ="),
    Found("memory", "command-r7b", "chat", number("attention.key_length", 1 << 20), "key_length = 1048576"),
    Found("abort", "qwen3.5", "grammar", numbers("rope.dimension_sections", [-2] * 4), "says rope.dimension_sections"),
    Found("memory", "qwen3-next-80b", "complete", number("ssm.inner_size", 1 << 24), "says ssm.inner_size = 16777216"),
    Found("SIGFPE", "gpt-oss", "complete", numbers("expert_used_count", [0, 2]), "used_count = 0 for layer 0"),
    Found("SIGSEGV", "olmoe", "chat", numbers("expert_used_count", [2, 0]), "says expert_used_count = 0 for layer 1"),
    Found("SIGFPE", "olmo2", "complete", numbers("attention.head_count", [0, 6]), "head_count = 0 for layer 0"),
    Found("SIGFPE", "glm-5", "complete", flags("attention.indexer.types", [False] * 4), "has no blk.0.indexer.attn_k"),
    Found("SIGSEGV", "glm-5", "complete", flags("attention.indexer.types", [True] * 4), "has no blk.2.indexer.attn_k"),
    Found("SIGFPE", "deepseek-v3.2", "complete", number("nextn_predict_layers", 3), "says nextn_predict_layers = 3"),
    Found("memory", "command-r-plus", "inspect", word("model", "rwkv"), "refused.*kind rwkv", "plamo2"),
    Found("memory", "llama-tied-linear", "complete", word("model", "rwkv"), "kind rwkv, but the byte .."),
    Found("abort", "llama-tied-linear", "complete", word("model", "plamo2"), "kind plamo2, but it has no token", "bpe"),
    Found("abort", "llama-tied-linear", "doctor", token(300, "▁t1"), "has the token '▁t1' twice"),
    Found("abort", "gpt-neox", "complete", token(3 + 0x20, ""), "no token for the byte 20"),
    Found("SIGSEGV", "llama-biases-yarn", "lora", typed("attn_q.weight.lora_a", TensorType.I8), "holds I8 values"),
    Found("abort", "llama-biases-yarn", "lora", shaped("attn_q.weight.lora_b", 8), "its matrices in model.gguf are"),
    Found("SIGSEGV", "granite-moe", "long", word("pre", "deepseek-v3"), "takes .* tokens, and the context has", "bpe"),
    Found("abort", "granite-moe", "long", word("pre", "whitespace"), "kind gpt2, but its text", "bpe"),
    Found("abort", "qwen2.5-vl", "bench", numbers("rope.dimension_sections", [8, 8, 8, 8]), "says rope.dimension_sect"),
    *(
        Found("abort", "bert", job, lambda model: None, r"\(bert\) does not continue text", "sentencepiece")
        for job in ("complete", "chat", "bench", "perplexity", "imatrix", "drafting")
    ),
    Found("abort", "qwen2", "pieces", number("attention.causal", False, Kind.BOOL), "does not continue text", "bpe"),
    Found("abort", "gpt2", "chat", number("context_length", 64), "positions for 64 tokens, not for 128", "bpe"),
    Found("memory", "falcon-h1", "fit", number("context_length", (1 << 31) - 1), "4,194,304 tokens would fit"),
    Found("SIGSEGV", "granite-moe", "grammar", token(300, "▁" * 100_000), "a token of 300000 bytes", "bpe"),
)


def run() -> Iterator[tuple[Found, str]]:
    """Each finding with what is wrong with how it ends today; an empty text where nothing is."""
    from tests.attack import child
    from tests.attack.__main__ import command, learn, prepare
    from tests.attack.jobs import ADAPTERS
    from tests.attack.models import adapter_of, base, with_vocabulary

    child.warm()
    with tempfile.TemporaryDirectory(prefix="ggufrun-attack-") as temporary:
        parent = Path(temporary)
        prepare(parent)
        learn(parent)
        folder = parent / "case"
        for found in FOUND:
            folder.mkdir(exist_ok=True)
            sound = with_vocabulary(base(found.family, "F16"), found.vocabulary)
            sound.write(folder / "sound.gguf")
            changed = adapter_of(sound) if found.job in ADAPTERS else sound.copy()
            found.change(changed)
            changed.write(folder / "model.gguf")
            outcome = child.run(command(found.job, folder), folder)
            said = " ".join((outcome.stdout + outcome.stderr).split())
            right = outcome.verdict is None and re.search(found.said, said)
            yield found, "" if right else f"{outcome.verdict}: {said[:300]}"
