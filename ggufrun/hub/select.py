"""Which files of a repository are needed: the weights once, in the best format, and what explains them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath

from ggufrun.errors import NotFoundError, UsageError

Selector = Callable[[Sequence[str]], list[str]]
"""Names in a repository -> the names wanted; a GgufrunError where nothing suits."""

COMPANIONS = (
    "config.json",
    "generation_config.json",
    "params.json",
    "adapter_config.json",
    "quantize_config.json",
    "quant_config.json",
    "hf_quant_config.json",
    "tokenizer*.json",
    "tokenizer*.model",
    "spiece.model",
    "*.tiktoken",
    "tiktoken.model",
    "tekken.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "checklist.chk",
    "README.md",
)
"""What goes with the weights: hyper-parameters, tokenizer, generation settings, chat template, how pictures and sound
are prepared, what makes vectors of texts, model card."""

WITHIN = (
    "additional_chat_templates/*.jinja",
    "*_Pooling/config.json",
    "*_Dense/config.json",
    "*_Normalize/config.json",
)
"""What of it lies one folder down."""

WEIGHTS: tuple[tuple[str, ...], ...] = (
    ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json"),
    ("consolidated.[0-9][0-9].pth",),
    ("adapter_model.safetensors",),
    ("adapter_model.bin",),
    ("*.safetensors", "*.safetensors.index.json"),
    ("gptq_model*.bin", "gptq_model*.bin.index.json"),
)
"""The formats, best first; the first one present is fetched, the others are duplicates."""

ADAPTER = "adapter_config.json"

SPLIT = re.compile(r"-(\d{5})-of-(\d{5})$")
"""How ``llama-gguf-split`` ends the stem of a shard."""

_TYPE = re.compile(r"(?:UD-)?(?:(?:I?Q|TQ)\d(?:_[A-Z0-9]+)*|MXFP4(?:_MOE)?|BF16|FP?16|FP?32|F64)", re.IGNORECASE)
_ALIASES = {"FP16": "F16", "FP32": "F32"}
DEFAULT_TYPE = "Q4_K_M"
"""What a bare REPO means where there are several; llama.cpp and Ollama choose the same."""


@dataclass(frozen=True)
class GgufSet:
    """One model in one or several GGUF files of a repository; ``count`` shards belong to it.

    ``joined`` is the name of the file that the ``names`` are pieces of, cut by bytes; empty for shards.
    """

    stem: str
    kind: str
    names: tuple[str, ...]
    count: int
    joined: str = ""


def checkpoint_files(names: Sequence[str]) -> list[str]:
    """The files that a conversion needs: of the top folder, the weights in one format and their companions."""
    top = [name for name in names if "/" not in name]
    for patterns in WEIGHTS:
        weights = _matching(top, patterns)
        if any(not name.endswith(".json") for name in weights):
            return sorted({*weights, *companion_files(names)})
    if any(name.lower().endswith(".gguf") for name in names):
        raise NotFoundError("it holds GGUF files, no checkpoint", "fetch one with `ggufrun pull`")
    raise NotFoundError(
        "it holds no weights that can be converted (safetensors, pytorch_model*.bin, consolidated.*.pth)",
        "look for the original checkpoint of this model",
    )


def adapter_files(names: Sequence[str]) -> list[str]:
    """The files of a LoRA adapter: of the top folder, its weights in one format and their companions."""
    top = [name for name in names if "/" not in name]
    weights = next(
        (name for name in ("adapter_model.safetensors", "adapter_model.bin") if name in top and ADAPTER in top), None
    )
    if weights is None:
        whole = any(fnmatch(name, pattern) for name in top for patterns in WEIGHTS[:3] for pattern in patterns)
        raise NotFoundError(
            "it holds a whole model, not a LoRA adapter" if whole else "it holds no LoRA adapter (adapter_config.json)",
            "convert that by itself" if whole else "check the name",
        )
    return sorted({weights, *companion_files(names)})


def companion_files(names: Sequence[str]) -> list[str]:
    """What explains the weights, without them: enough for a vocabulary."""
    top = [name for name in names if "/" not in name]
    within = [name for name in names if name.count("/") == 1]
    return sorted({*_matching(top, COMPANIONS), *_matching(within, WITHIN)})


def upstream_files(names: Sequence[str]) -> list[str]:
    """The files that llama.cpp's own converter may ask for: also the code and the settings that came with a model."""
    extra = [name for name in names if (name.count("/") <= 1 and fnmatch(name, "*.json")) or fnmatch(name, "*.py")]
    others = {"pytorch_model.bin.index.json", "model.safetensors.index.json"}
    return sorted({*checkpoint_files(names), *(name for name in extra if name not in others)})


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def gguf_sets(names: Sequence[str]) -> list[GgufSet]:
    """The models among ``names``, shards put together, in the order of their names."""
    found: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name in names:
        if name.lower().endswith(".gguf"):
            stem = name[: -len(".gguf")]
            split = SPLIT.search(stem)
            key = (stem[: split.start()], int(split[2])) if split else (stem, 1)
            found[key].append(name)
    sets = [GgufSet(stem, type_label(stem), tuple(sorted(found[stem, n])), n) for stem, n in sorted(found)]
    whole = {item.stem for item in sets}
    return sets + [item for item in _cut_sets(names) if item.stem not in whole]


def piece(name: str) -> tuple[str, int, int] | None:
    """Of a piece of a file that was cut by bytes (``x.gguf.part1of2``, ``x.gguf-split-a``): the file's name, the
    piece's number from 1, and how many there are, 0 where the name does not say; None for another file.
    """
    if found := _NUMBERED.fullmatch(name):
        return found[1], int(found[2]), int(found[3])
    if found := _LETTERED.fullmatch(name):
        return found[1], ord(found[2].lower()) - ord("a") + 1, 0
    return None


_NUMBERED = re.compile(r"(.+\.gguf)\.part(\d{1,3})of(\d{1,3})", re.IGNORECASE)
_LETTERED = re.compile(r"(.+\.gguf)-split-([a-z])", re.IGNORECASE)


def _cut_sets(names: Sequence[str]) -> list[GgufSet]:
    pieces: dict[str, dict[int, tuple[str, int]]] = defaultdict(dict)
    for name in names:
        if found := piece(name):
            pieces[found[0]][found[1]] = (name, found[2])
    sets = []
    for joined, parts in sorted(pieces.items()):
        stem = joined[: -len(".gguf")]
        count = max(parts[next(iter(parts))][1], max(parts))
        sets.append(GgufSet(stem, type_label(stem), tuple(parts[n][0] for n in sorted(parts)), count, joined))
    return sets


def type_label(stem: str) -> str:
    """The type that a file's name tells (``Q4_K_M``, ``UD-IQ2_XXS``), from its folder if need be; or nothing."""
    path = PurePosixPath(stem)
    for text in (path.name, path.parent.name):
        labels = [label for label in map(_label, _pieces(text)) if label]
        if labels:
            return labels[-1]
    return ""


def _pieces(text: str) -> list[str]:
    joined = re.sub(r"(?i)(^|[-.])UD-", r"\1UD~", text)
    return [piece.replace("~", "-") for piece in re.split(r"[-.]", joined)]


def _label(piece: str) -> str:
    upper = piece.upper()
    if not _TYPE.fullmatch(upper):
        # names like ggml_model_q4_0
        ending = re.search(r"_((?:I?Q\d(?:_[A-Z0-9]+)*|BF16|F16|F32))$", upper)
        upper = ending[1] if ending else ""
    return _ALIASES.get(upper, upper)


def gguf_files(kind: str | None, on_choice: Callable[[GgufSet], None] | None = None) -> Selector:
    """Select the GGUF files of one type, or of one name; without ``kind`` the only model there is, else Q4_K_M.

    Raises NotFoundError that lists the types where none suits, UsageError where several do.
    """

    def select(names: Sequence[str]) -> list[str]:
        sets = gguf_sets(names)
        if not sets:
            raise NotFoundError("it holds no GGUF files", "leave the type out to fetch the checkpoint")
        chosen = _choose(sets, kind)
        if len(chosen.names) != chosen.count:
            parts = "pieces" if chosen.joined else "shards"
            raise NotFoundError(
                f"it holds {len(chosen.names)} of the {chosen.count} {parts} of {chosen.stem}", "choose another type"
            )
        if on_choice:
            on_choice(chosen)
        return list(chosen.names)

    return select


def gguf_or_checkpoint(kind: str | None, on_choice: Callable[[GgufSet], None] | None = None) -> Selector:
    """Select GGUF files where there are any, or the checkpoint."""

    def select(names: Sequence[str]) -> list[str]:
        has_gguf = bool(gguf_sets(names))
        return gguf_files(kind, on_choice)(names) if has_gguf or kind else checkpoint_files(names)

    return select


def _choose(sets: list[GgufSet], kind: str | None) -> GgufSet:
    if kind is None:
        # mmproj-*.gguf and imatrix files go with a model; nobody who asks for the model means them
        models = [item for item in sets if item.kind and not _is_companion(item)] or sets
        if len(models) == 1:
            return models[0]
        matching = [item for item in models if item.kind == DEFAULT_TYPE]
        if len(matching) == 1:
            return matching[0]
        raise UsageError(f"it holds several: {_types(models)}", "write one of these after a colon")
    for matching in _readings(sets, kind):
        if len(matching) == 1:
            return matching[0]
        if matching:
            names = ", ".join(_offer(item, sets) for item in matching[:8])
            raise UsageError(f"{len(matching)} models are {kind}: {names}", "write one of these after the colon")
    raise NotFoundError(f"it holds no {kind}", f"there are {_types(sets)}")


def _readings(sets: list[GgufSet], kind: str) -> Iterator[list[GgufSet]]:
    """What ``kind`` may mean, the most exact reading first."""
    asked = kind.upper()
    label = _ALIASES.get(asked.replace("-", "_"), asked.replace("-", "_"))
    tests: list[Callable[[GgufSet], bool]] = [
        lambda item: asked in {item.stem.upper(), f"{item.stem}.gguf".upper(), *map(str.upper, item.names)},
        lambda item: asked.removesuffix(".GGUF") == PurePosixPath(item.stem).name.upper(),
        lambda item: item.kind.replace("-", "_") == label and not _is_companion(item),
        lambda item: item.kind.removeprefix("UD-") == label and not _is_companion(item),
    ]
    for test in tests:
        yield [item for item in sets if test(item)]


def _offer(item: GgufSet, sets: list[GgufSet]) -> str:
    """The shortest of its type, its name and its path that means this model when it is written after the colon."""
    for text in (item.kind, PurePosixPath(item.stem).name):
        found = next(filter(None, _readings(sets, text)), []) if text else []
        if found == [item]:
            return text
    return item.stem


_COMPANION = re.compile(r"(^|[-._])mmproj([-._]|$)|imatrix|(^|[-._])(draft|eagle3?)([-._]|$)")
"""Projectors, importance matrices and draft models, wherever the name says so."""


def _is_companion(item: GgufSet) -> bool:
    name = PurePosixPath(item.stem).name.lower()
    return _COMPANION.search(name) is not None


def _types(sets: list[GgufSet]) -> str:
    models = [item for item in sets if not _is_companion(item)]
    others = [item for item in sets if _is_companion(item)]
    return ", ".join(dict.fromkeys(_offer(item, sets) for item in (*models, *others)))
