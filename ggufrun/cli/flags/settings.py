"""From flags to what the rooms understand: the model, its context, its sampling, its prompt format and the texts given.

What is wrong with a flag is a UsageError that names it, raised before anything is loaded.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufrun import jsontext
from ggufrun.cli.flags import placement
from ggufrun.cli.flags.chat import SWITCH_VALUES, ChatFlags
from ggufrun.cli.terminal.console import err, literal, note
from ggufrun.errors import NotFoundError, UsageError
from ggufrun.workflows import textfile

if TYPE_CHECKING:
    from ggufrun.chat.formats.choose_format import Choice
    from ggufrun.engine.adapters import Adapter
    from ggufrun.engine.context import ContextParams
    from ggufrun.engine.model import Model
    from ggufrun.engine.rope import RopeParams
    from ggufrun.engine.sampling.sampler import SamplingParams


FORMAT_FLAGS = (
    "style",
    "chat_template",
    "chat_template_file",
    "chat_template_kwargs",
    "think",
    "reasoning",
    "reasoning_effort",
    "in_prefix",
    "in_suffix",
    "reverse",
    "conversation",
)
"""Flags that say how a message becomes tokens."""


def compatible(flags: ChatFlags) -> ChatFlags:
    """With ``--compat`` every flag that brings llama.cpp's way back, where no other says otherwise."""
    if not flags.compat:
        return flags
    return replace(
        flags,
        escape=flags.escape is None or flags.escape,
        slash_sends=True,
        keep=0 if flags.keep is None else flags.keep,
        context_shift=bool(flags.context_shift),
        n_predict=-1 if flags.n_predict is None else flags.n_predict,
    )


def model_name(flags: ChatFlags) -> tuple[str, str | None]:
    """What names the model, and the first message: with ``-m`` the positionals begin with the message."""
    if flags.model is not None:
        if flags.second is not None:
            raise UsageError("the model is given twice, by -m and before the instruction", "give it once")
        return flags.model, flags.first
    if flags.first is None:
        raise UsageError("no model is given", "give a .gguf file, or a name that `ggufrun list` shows")
    return flags.first, flags.second


def local_model(name: str) -> Path:
    """The file that ``name`` means, or the model of the local folder. Raises NotFoundError, UsageError."""
    from ggufrun.hub.models import resolve_model

    return resolve_model(name, gguf_only=True)


def model_and_instruction(flags: ChatFlags) -> tuple[Path, str | None]:
    """The model's path, and the first message."""
    name, instruction = model_name(flags)
    return local_model(name), instruction


def opening_text(flags: ChatFlags) -> str | None:
    """The text of ``-p`` or ``-f``, escapes expanded unless that is switched off."""
    if flags.prompt is not None and flags.prompt_file is not None:
        raise UsageError("-p and -f both give the prompt", "give one of them")
    text = flags.prompt if flags.prompt_file is None else read_text(flags.prompt_file, "-f")
    return expanded(flags, text) if text else None


def system_prompt(flags: ChatFlags) -> str | None:
    """The text of ``-sys`` or ``-sysf``; empty means none, None that nothing was said."""
    if flags.system is not None and flags.system_file is not None:
        raise UsageError("-sys and -sysf both give the system prompt", "give one of them")
    # llama.cpp expands no escapes here unless the user insists.
    text = flags.system if flags.system_file is None else read_text(flags.system_file, "-sysf")
    return expanded(flags, text) if text is not None and flags.escape else text


def expanded(flags: ChatFlags, text: str) -> str:
    """``text`` with its escapes expanded, unless --no-escape says otherwise."""
    from ggufrun.chat.escapes import expand

    return text if flags.escape is False else expand(text)


def read_text(path: Path, flag: str) -> str:
    """The file that ``flag`` names, or a pipe such as ``<(command)`` or ``-``, without its last newline."""
    return textfile.read(path, f"{flag} {path}").removesuffix("\n")


def choose_format(model: Model, flags: ChatFlags) -> Choice:
    """The prompt format that the flags ask for, else the one that the model reveals."""
    from ggufrun.chat.formats.choose_format import FormatOptions, choose

    template = flags.chat_template
    if flags.chat_template_file is not None:
        if template is not None:
            raise UsageError("--chat-template and --chat-template-file both give a template", "give one of them")
        template = read_text(flags.chat_template_file, "--chat-template-file")
    options = FormatOptions(
        style=flags.style,
        template=template,
        prefix=None if flags.in_prefix is None else expanded(flags, flags.in_prefix),
        suffix=None if flags.in_suffix is None else expanded(flags, flags.in_suffix),
        prefix_bos=flags.in_prefix_bos,
        reverse=tuple(expanded(flags, text) for text in flags.reverse or ()),
        raw=flags.conversation is False,
        variables=template_variables(flags),
        think=_thinks(flags),
    )
    return choose(model, options)


def says_format(flags: ChatFlags) -> bool:
    """Do the flags say anything about the prompt format?"""
    return flags.in_prefix_bos or any(getattr(flags, name) is not None for name in FORMAT_FLAGS)


def template_variables(flags: ChatFlags) -> dict[str, Any]:
    """``--chat-template-kwargs`` and ``--reasoning-effort``."""
    variables: Any = {}
    if flags.chat_template_kwargs is not None:
        try:
            variables = jsontext.parse(flags.chat_template_kwargs)
        except ValueError as error:
            raise UsageError(f"--chat-template-kwargs is not JSON: {error}", "give an object") from error
        if not isinstance(variables, dict):
            raise UsageError("--chat-template-kwargs is not a JSON object", 'write it as {"name": value}')
    effort = flags.reasoning_effort
    return variables if effort in (None, "default") else {**variables, "reasoning_effort": effort}


def _thinks(flags: ChatFlags) -> bool | None:
    switch = _switch("--reasoning", flags.reasoning)
    if switch is not None and flags.think is not None:
        raise UsageError("--think and --reasoning say the same", "give one of them")
    return {"on": True, "off": False}.get(switch or "", flags.think)


def n_predict(flags: ChatFlags) -> int | None:
    """The flag; None when it was left out: then an answer is no longer than the context."""
    if flags.n_predict is not None and flags.n_predict < -2:
        raise UsageError(f"-n is {flags.n_predict}", "give a count of tokens, -1 for no end, -2 for a full context")
    return flags.n_predict


def context_params(flags: ChatFlags) -> ContextParams:
    """The flags of the context, else the engine's defaults."""
    from ggufrun.engine.context import ContextParams

    given = {
        "n_ctx": flags.ctx_size,
        "n_batch": flags.batch,
        "n_ubatch": flags.ubatch,
        # llama.cpp's own default is -1: as many as the machine has.
        "threads": None if flags.threads in (-1, 0) else flags.threads,
        "threads_batch": None if flags.threads_batch in (-1, 0) else flags.threads_batch,
        "flash_attention": _switch("-fa", flags.flash_attention),
        "type_k": flags.cache_k,
        "type_v": flags.cache_v,
        "swa_full": flags.swa_full,
        "rope": rope_params(flags),
        "adapters": adapters(flags),
    }
    return ContextParams(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def rope_params(flags: ChatFlags) -> RopeParams:
    """How positions are stretched."""
    from ggufrun.engine.rope import RopeParams

    scale, alpha = flags.rope_freq_scale, None
    if flags.rope_scale is not None:
        if scale is not None or flags.rope_scale <= 0:
            raise UsageError(f"--rope-scale {flags.rope_scale}", "give it a number above 0, and not --rope-freq-scale")
        scale = 1 / flags.rope_scale
    if flags.ntk_alpha is not None:
        try:
            alpha = 0.0 if flags.ntk_alpha.lower() == "auto" else float(flags.ntk_alpha) or -1.0
        except ValueError:
            raise UsageError(f"--ntk-alpha {flags.ntk_alpha}", "give a number, or auto") from None
    return RopeParams(
        scaling=flags.rope_scaling,
        freq_base=flags.rope_freq_base,
        freq_scale=scale,
        yarn_orig_ctx=flags.yarn_orig_ctx,
        yarn_ext_factor=flags.yarn_ext_factor,
        yarn_attn_factor=flags.yarn_attn_factor,
        yarn_beta_slow=flags.yarn_beta_slow,
        yarn_beta_fast=flags.yarn_beta_fast,
        ntk_alpha=alpha,
    )


def adapters(flags: ChatFlags) -> tuple[Adapter, ...]:
    """``--lora`` and ``--lora-scaled``, each file's header checked."""
    from ggufrun.engine.adapters import Adapter, scaled

    found = []
    for text in flags.lora or ():
        # A comma may also stand in a name.
        names = [text] if Path(text).exists() else text.split(",")
        found += [Adapter(Path(name)) for name in names]
    for text in flags.lora_scaled or ():
        found += scaled(text)
    for adapter in found:
        if adapter.path.is_dir():
            hint = f"make a GGUF of it: ggufrun convert BASE --lora {adapter.path} --lora-out FILE"
            raise NotFoundError(f"{adapter.path} is a folder, not a GGUF adapter", hint)
        if not adapter.path.is_file():
            raise NotFoundError(f"{adapter.path}: no such file", "give the path of a GGUF adapter")
        from ggufrun.checkpoint.gguf.header import read_header

        # An adapter says less about the model than a model does.
        read_header(adapter.path)
    return tuple(found)


def _switch(flag: str, value: str | None) -> str | None:
    if value is None:
        return None
    if value.lower() not in SWITCH_VALUES:
        raise UsageError(f"{flag} {value}", "choose from on, off, auto")
    return SWITCH_VALUES[value.lower()]


def sampling_params(flags: ChatFlags, usual: Any) -> SamplingParams:
    """The flags, else what suits the model, else llama.cpp's defaults."""
    from dataclasses import fields

    from ggufrun.engine.sampling.sampler import SamplingParams

    values: dict[str, Any] = {}
    for item in fields(SamplingParams):
        value = getattr(flags, item.name)
        if value is None:
            value = usual.get(item.name)
            # Metadata brings every number as a float.
            value = int(value) if value is not None and item.type == "int" else value
        if value is not None:
            values[item.name] = value
    return SamplingParams(**{**values, **_told(flags)})


def _told(flags: ChatFlags) -> dict[str, Any]:
    """The settings that are no numbers, read from their flags."""
    from ggufrun.engine.sampling.params import logit_bias, sampler_letters, sampler_names

    told: dict[str, Any] = {}
    if flags.samplers is not None and flags.sampler_seq is not None:
        raise UsageError("--samplers and --sampler-seq both give an order", "give one of them")
    if flags.samplers is not None:
        told["samplers"] = sampler_names(flags.samplers)
    if flags.sampler_seq is not None:
        told["samplers"] = sampler_letters(flags.sampler_seq)
    if flags.dry_breakers:
        told["dry_breakers"] = tuple(expanded(flags, text) for text in flags.dry_breakers if text != "none")
    if flags.logit_bias:
        told["logit_bias"] = tuple(logit_bias(text) for text in flags.logit_bias)
    given = [name for name in ("grammar", "grammar_file", "json_schema", "json_schema_file") if getattr(flags, name)]
    if len(given) > 1:
        raise UsageError("a grammar or JSON schema is given twice", "give one of them")
    if flags.grammar_file is not None:
        told["grammar"] = read_text(flags.grammar_file, "--grammar-file")
    schema = flags.json_schema
    if flags.json_schema_file is not None:
        schema = read_text(flags.json_schema_file, "--json-schema-file")
    if schema is not None:
        from ggufrun.engine.sampling.schema import to_grammar

        told["grammar"] = to_grammar(schema)
    return told


def open_model(path: Path, flags: ChatFlags, context: ContextParams) -> Model:
    """The model, where it fits with such a context; with its progress on a terminal."""
    from ggufrun.engine.model import Model, ModelParams
    from ggufrun.engine.placement import memory_check
    from ggufrun.workflows import open_model as workflow

    place = placement.of(flags)
    params = placement.params(path, place, mmap=flags.mmap, mlock=flags.mlock)
    if not flags.oversize:
        memory_check.check(params, context)

    def load(params: ModelParams) -> Model:
        if not (sys.stderr.isatty() and sys.stdin.isatty()) or flags.plain:
            return Model(params)
        with err().status(literal(f"loading {path.name}")) as status:

            def progress(fraction: float) -> bool:
                status.update(literal(f"loading {path.name} {fraction:.0%}"))
                return True

            return Model(params, progress)

    return workflow.open_model(params, context, placement.margin(place), load, note)
