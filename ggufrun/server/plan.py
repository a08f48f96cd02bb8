"""What loading a model takes, found out in a process of its own: ``python -m ggufrun.server.plan``, JSON in and out.

It does what `chat` does before it loads a model, with the same functions: the file is checked, its size held against
the memory, layers put where they fit, the prompt format chosen. The front itself never loads the engine: a CUDA context
would take hundreds of megabytes of a card for nothing, and what ends the engine would end the server.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from ggufrun.errors import FormatError, GgufrunError
from ggufrun.server.settings import Settings

CHAT, EMBEDDING, RERANK = "chat", "embedding", "rerank"
RANK_POOLING = 4
"""``LLAMA_POOLING_TYPE_RANK``."""

SAMPLING_FLAGS: dict[str, str] = {
    "temp": "--temp",
    "top_k": "--top-k",
    "top_p": "--top-p",
    "min_p": "--min-p",
    "typical": "--typical",
    "top_n_sigma": "--top-nsigma",
    "repeat_penalty": "--repeat-penalty",
    "repeat_last_n": "--repeat-last-n",
    "presence_penalty": "--presence-penalty",
    "frequency_penalty": "--frequency-penalty",
    "dry_multiplier": "--dry-multiplier",
    "dry_base": "--dry-base",
    "dry_allowed_length": "--dry-allowed-length",
    "dry_penalty_last_n": "--dry-penalty-last-n",
    "xtc_probability": "--xtc-probability",
    "xtc_threshold": "--xtc-threshold",
    "dynatemp_range": "--dynatemp-range",
    "dynatemp_exp": "--dynatemp-exp",
    "mirostat": "--mirostat",
    "mirostat_lr": "--mirostat-lr",
    "mirostat_ent": "--mirostat-ent",
    "seed": "--seed",
}
"""Sampling settings, and llama-server's flags for them."""

INTEGERS = {"top_k", "repeat_last_n", "dry_allowed_length", "dry_penalty_last_n", "mirostat", "seed"}


def plan(path: Path, settings: Settings, kind: str = "") -> dict[str, Any]:
    """How the model at ``path`` is to be served as a ``kind`` of model (empty: what it is).

    ``flags`` are llama-server's; ``host`` and ``devices`` the bytes that it will take; ``whole`` says that more memory
    would not help. Raises GgufrunError.
    """
    from ggufrun.checkpoint.gguf.checks import check_is_model
    from ggufrun.checkpoint.gguf.header import read_header
    from ggufrun.workflows.open_model import check_file

    check_file(path)
    header = read_header(path)
    check_is_model(path, header)
    facts = describe(path, header)
    kind = kind or facts["kind"]
    if kind == CHAT and facts["kind"] != CHAT:
        raise FormatError(f"{path.name} is a model for {facts['kind']}s, it does not write", "ask another model")
    trained = facts["trained"] or 4096
    per = settings.context or (trained if settings.context == 0 else min(trained, 4096))
    if kind != CHAT:
        per = min(per, trained) if facts["kind"] != CHAT else per
    found = _chat(path, settings, per) if facts["kind"] == CHAT else _encoder(path, settings)
    flags = [
        "-c", str(per * settings.parallel), "-np", str(settings.parallel), "--kv-unified", "-fit", "off", "--offline",
        "--no-ui", "--slots", "--jinja", "--metrics", "-lv", "2", "--threads-http", str(2 * settings.parallel + 16),
        "--timeout", "86400", "-fa", settings.flash_attention, "-ctk", settings.cache_k, "-ctv", settings.cache_v,
        *([] if settings.mmproj else ["--no-mmproj"]),
    ]  # fmt: skip
    if kind == CHAT:
        flags += ["--kv-unified-per-slot", str(per), "-b", str(settings.batch), "-ub", str(settings.ubatch)]
        flags += ["--reasoning-format", "auto", "--cache-ram", str(_prompt_cache())]
    else:
        # a text is embedded in one pass
        flags += ["-b", str(per), "-ub", str(per), "--rerank" if kind == RERANK else "--embeddings"]
        if kind == EMBEDDING and facts["kind"] == CHAT:
            flags += ["--pooling", "mean"]
    return {**facts, **found, "kind": kind, "n_ctx": per, "flags": flags + found["flags"]}


def describe(path: Path, header: Any) -> dict[str, Any]:
    """What a file's header says: nothing is loaded for it."""
    from ggufrun.quantize.types import name_of

    arch = header.architecture
    pooling = header.get(f"{arch}.pooling_type", 0)
    encoder = header.get(f"{arch}.attention.causal", True) is False
    kind = RERANK if pooling == RANK_POOLING else EMBEDDING if pooling or encoder else CHAT
    file_type = header.get("general.file_type")
    trained = header.get(f"{arch}.context_length", 0)
    return {
        "kind": kind,
        "architecture": arch,
        "trained": trained if isinstance(trained, int) else 0,
        "embedding_length": header.get(f"{arch}.embedding_length", 0),
        "parameters": sum(prod(info.shape) for info in header.tensors),
        "type": name_of(file_type) if isinstance(file_type, int) else "",
        "template": isinstance(header.get("tokenizer.chat_template"), str),
        "template_text": header.get("tokenizer.chat_template", "") if kind == CHAT else "",
    }


def _chat(path: Path, settings: Settings, per: int) -> dict[str, Any]:
    from ggufrun.engine.adapters import Adapter
    from ggufrun.engine.context import ContextParams
    from ggufrun.engine.model import ModelParams
    from ggufrun.engine.placement import memory_check
    from ggufrun.engine.placement.memory import measure
    from ggufrun.engine.placement.offload import Placement
    from ggufrun.engine.placement.remote import connect, parse
    from ggufrun.engine.threads import default_threads
    from ggufrun.native.kernels import wants_copy
    from ggufrun.workflows import open_model

    if settings.rpc:
        connect(parse(settings.rpc))
    place = Placement(
        split=settings.split,
        shares=settings.shares,
        main=settings.main,
        overrides=settings.overrides,
        cpu_experts=settings.cpu_experts,
        devices=settings.devices,
    )
    model = ModelParams(path, settings.gpu_layers, settings.mmap, settings.mlock, placement=place)
    context = ContextParams(
        n_ctx=per * settings.parallel,
        n_batch=settings.batch,
        n_ubatch=settings.ubatch,
        threads=settings.threads,
        threads_batch=settings.threads_batch,
        flash_attention=settings.flash_attention,
        type_k=settings.cache_k,
        type_v=settings.cache_v,
        outputs=settings.parallel,
        sequences=settings.parallel,
        adapters=tuple(Adapter(Path(name), scale) for name, scale in settings.adapters),
    )
    if not settings.oversize:
        memory_check.check(model, context)
    notes: list[str] = []
    open_model.check_adapters(path, context.adapters, notes.append)
    found = open_model.fit_for(model, context, settings.margin)
    if found is not None:
        notes += [line] if (line := open_model.summary(found)) else []
        model, footprint = found.applied(model), found.footprint
    else:
        footprint = measure(model, context)
    flags = ["-m", str(path), *_placement_flags(model, settings)]
    threads = settings.threads or default_threads()
    flags += ["-t", str(threads), "-tb", str(settings.threads_batch or threads)]
    if not wants_copy():
        flags.append("--no-repack")
    flags += [] if settings.mmap else ["--load-mode", "none"]
    flags += ["--load-mode", "mmap+mlock"] if settings.mlock and settings.mmap else []
    if settings.adapters:
        flags += ["--lora-scaled", ",".join(f"{name}:{scale}" for name, scale in settings.adapters)]
    host = footprint.host.use.total
    for extra, flag in ((settings.mmproj, "--mmproj"), (settings.draft, "-md")):
        if extra:
            host += Path(extra).stat().st_size
            flags += [flag, extra]
    if settings.draft:
        open_model.check_file(Path(settings.draft))
        flags += ["--spec-type", "draft-simple"]
    chosen = _format(path, settings)
    flags += _sampling_flags({**chosen["sampling"], **settings.sampling})
    if settings.template_variables or settings.think is not None:
        switched = {} if settings.think is None else dict.fromkeys(("enable_thinking", "thinking"), settings.think)
        flags += ["--chat-template-kwargs", json.dumps({**switched, **settings.template_variables})]
    return {
        **chosen,
        "flags": flags,
        "host": host,
        "devices": {one.device.name: one.use.total for one in footprint.devices},
        "whole": found is None or found.whole,
        "notes": [*notes, *chosen["warnings"]],
        "vision": bool(settings.mmproj),
    }


def _encoder(path: Path, settings: Settings) -> dict[str, Any]:
    """A model for embeddings or for ranking: it is small, and has no prompt format."""
    from ggufrun.engine.placement.layer_sizes import parts
    from ggufrun.engine.threads import default_threads

    layers = "999" if settings.gpu_layers is None or settings.gpu_layers < 0 else str(settings.gpu_layers)
    threads = settings.threads or default_threads()
    size = sum(part.stat().st_size for part in parts(path))
    return {
        "format": "none",
        "style": "",
        "system": "",
        "sampling": {},
        "vocabulary": {},
        "flags": ["-m", str(path), "-ngl", layers, "-t", str(threads), "-tb", str(threads)],
        "host": size + size // 4 + (64 << 20),
        "devices": {},
        "whole": True,
        "notes": [],
        "vision": False,
    }


def _placement_flags(model: Any, settings: Settings) -> list[str]:
    """llama-server's flags for where layers go."""
    from ggufrun.engine.placement.devices import has_gpu
    from ggufrun.engine.placement.offload import NO_DEVICE, gpu_layers

    place = model.placement
    flags = ["--rpc", settings.rpc] if settings.rpc else []
    if not has_gpu() or place.main == NO_DEVICE:
        return [*flags, "-ngl", "0", *(["-dev", "none"] if has_gpu() else [])]
    flags += ["-ngl", str(gpu_layers(model.gpu_layers)), "-sm", place.split]
    flags += ["-ts", ",".join(f"{share:g}" for share in place.shares)] if place.shares else []
    flags += ["-mg", str(place.main)] if place.main else []
    flags += ["-ncmoe", str(place.cpu_experts)] if place.cpu_experts else []
    flags += ["-dev", ",".join(place.devices)] if place.devices else []
    for pattern, name in place.overrides:
        flags += ["-ot", f"{pattern}={name}"]
    return flags


def _sampling_flags(values: Mapping[str, float]) -> list[str]:
    flags: list[str] = []
    for name, value in values.items():
        if name in SAMPLING_FLAGS:
            flags += [SAMPLING_FLAGS[name], str(int(value)) if name in INTEGERS else f"{value:g}"]
    return flags


def _format(path: Path, settings: Settings) -> dict[str, Any]:
    """The prompt format: by the model's template, which llama-server renders, or by a style, which the front does."""
    from ggufrun.chat.formats.choose_format import FormatOptions, choose
    from ggufrun.chat.formats.prompt import StylePrompt
    from ggufrun.chat.formats.template_prompt import TemplatePrompt
    from ggufrun.engine.model import Model, ModelParams

    options = FormatOptions(style=settings.style, template=settings.template)
    with Model(ModelParams(path, 0, vocab_only=True)) as model:
        choice = choose(model, options)
        vocab = model.vocab
        found: dict[str, Any] = {
            "format": "template",
            "style": "",
            "system": choice.system,
            "why": choice.why,
            "sampling": dict(choice.sampling),
            "warnings": list(choice.warnings),
            "vocabulary": {},
            "template_file": "",
        }
        # a request may name a style, whatever the model brings
        controls = {name: token for name in _controls() if (token := vocab.control(name)) is not None}
        found["vocabulary"] = {
            "bos": vocab.bos,
            "eos": vocab.eos,
            "eot": vocab.eot,
            "add_bos": vocab.add_bos,
            "eog": [token for token in (vocab.eos, vocab.eot) if token >= 0 and vocab.is_eog(token)],
            "controls": controls,
        }
        if isinstance(choice.format, TemplatePrompt):
            # the user's own goes into a file for llama-server
            found["template_file"] = choice.format.template.source if settings.template else ""
            return found
        if isinstance(choice.format, StylePrompt):
            style = choice.format.style
            base = style.name == "none" and settings.style is None
            found["format"] = "none" if base else "style"
            found["style"] = style.name
        return found


def _controls() -> set[str]:
    """Names of control tokens that any style knows: a request may name another style than the model's."""
    from ggufrun.chat.formats import stylebook

    return {name for style in stylebook.known().values() for name in style.controls}


def _prompt_cache() -> int:
    """Mebibytes for prompts of earlier requests: a quarter of what is free."""
    from ggufrun.engine.placement import system_memory

    available = system_memory.memory().available or 0
    return max(0, min(8192, available >> 22))


def main() -> None:
    """Read ``{"path", "settings", "kind"}``, write ``{"plan"}`` or ``{"error": {"what", "todo"}}``."""
    request = json.load(sys.stdin)
    try:
        found = plan(Path(request["path"]), Settings.from_json(request["settings"]), request.get("kind", ""))
        answer: dict[str, Any] = {"plan": found}
    except GgufrunError as error:
        answer = {"error": {"what": error.what, "todo": error.todo}}
    except OSError as error:
        answer = {"error": {"what": f"{request['path']} cannot be read: {error.strerror}", "todo": ""}}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
