"""``ggufrun chat``: what the flags mean, a model opened as they say, and the way it is talked to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ggufrun.cli import batch
from ggufrun.cli.chat_flags import SWITCH_VALUES, ChatFlags, FlagCommand, command_from
from ggufrun.cli.console import err, note, warn
from ggufrun.cli.guessing import draft_params, guessing, widened
from ggufrun.errors import NotFoundError, TargetError, UsageError

if TYPE_CHECKING:
    from ggufrun.chat.choose import Choice
    from ggufrun.chat.session import Session
    from ggufrun.engine.adapters import Adapter
    from ggufrun.engine.context import Context
    from ggufrun.engine.draft import Speculation
    from ggufrun.engine.model import Model
    from ggufrun.engine.rope import RopeParams
    from ggufrun.engine.sampler import SamplingParams

DOC = """Talk to a model.

At a terminal it is a conversation: /help lists the commands, Ctrl+C stops an answer, Ctrl+D leaves. In a pipe, the
whole of stdin is one message (after INSTRUCTION, if there is one), and the answer is all that stdout gets; with -i,
every line is a message.
"""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("chat", cls=FlagCommand)(command_from(ChatFlags, run, DOC))


def run(flags: ChatFlags) -> None:
    """Open the model and talk, as ``flags`` say."""
    if flags.batch_file is not None or flags.batch_output is not None:
        if flags.lookup or flags.draft_model is not None:
            raise UsageError("--lookup and -md guess for a conversation, not for a batch", "leave them out")
        batch.run(flags)
        return
    path, instruction = model_and_instruction(flags)
    opening = opening_text(flags)
    if opening is not None and instruction is not None:
        raise UsageError("-p and INSTRUCTION are both the first message", "give one of them")
    from ggufrun.engine.context import Context

    draft = draft_params(flags)
    context_params, n_predict = widened(_context_params(flags), draft), _n_predict(flags)
    _sampling(flags, {})
    check_file(path)
    if flags.draft_model is not None:
        check_file(Path(flags.draft_model))
    with _load(path, flags) as model:
        choice = _choose(model, flags)
        sampling = _sampling(flags, choice.sampling)
        with Context(model, context_params) as context, guessing(flags, context, draft) as speculation:
            _talk(flags, context, choice, sampling, n_predict, instruction, opening, speculation)


def _talk(
    flags: ChatFlags,
    context: Context,
    choice: Choice,
    sampling: SamplingParams,
    n_predict: int | None,
    instruction: str | None,
    opening: str | None,
    speculation: Speculation | None = None,
) -> None:
    from ggufrun.chat.escapes import expand
    from ggufrun.chat.prompt import AffixPrompt
    from ggufrun.chat.session import Session
    from ggufrun.cli.chat_screen import Screen
    from ggufrun.cli.chat_talk import Talk

    system = system_prompt(flags)
    affixes = isinstance(choice.format, AffixPrompt)
    if choice.warning:
        warn(choice.warning)
    if system and isinstance(choice.format, AffixPrompt):
        placed = choice.format.with_system(opening, system) if opening is not None else None
        opening = placed or opening
        if placed is None and (opening is not None or not choice.format.takes_system):
            warn("the system prompt is not used: nothing says where it belongs beside these affixes; write it into -p")
    session = Session(
        context,
        choice.format,
        sampling,
        system=choice.system if system is None else system,
        # A model that never ends, in a context that never fills, would write for ever.
        limit=context.n_ctx if n_predict is None else n_predict,
        once=flags.once,
        shift=flags.context_shift,
        keep=flags.keep,
        speculation=speculation,
    )
    screen = Screen(
        color=SWITCH_VALUES.get((flags.color or "auto").lower(), "auto"),
        plain=flags.plain,
        show_tokens=flags.show_tokens,
        verbose_prompt=flags.verbose_prompt,
        markdown=flags.markdown,
    )
    typed = expand if flags.escape else str
    talk = Talk(session, screen, typed, file=flags.session, multiline=flags.multiline)
    if flags.session is not None and _resumed(session, flags.session, system):
        opening = None if affixes else opening
    if affixes:
        # Beside affixes -p is no message but the beginning of the text itself.
        first, raw = (typed(instruction) if instruction is not None else None), opening
    else:
        first, raw = (typed(instruction) if instruction is not None else opening), None
    terminal = sys.stdin.isatty()
    go_on = flags.interactive or flags.interactive_first
    if terminal and not flags.single_turn and (go_on or sys.stdout.isatty() or (first is None and raw is None)):
        talk.conversation(choice, first, raw)
    elif go_on and not flags.single_turn:
        talk.lines(sys.stdin.buffer, first, raw)
    else:
        piped = "" if terminal else read_piped()
        talk.single(*joined(first, raw, typed(piped)))


def _resumed(session: Session, path: Path, system: str | None) -> bool:
    """Take the session up that lies in ``path``, if there is one with something in it."""
    from ggufrun.chat import store
    from ggufrun.chat.commands import told

    if path.is_dir() or not path.parent.is_dir():
        raise TargetError(f"--session {path} cannot be written", "give a file in a folder that exists")
    if not path.exists():
        return False
    loaded = store.load(session, path, system)
    note(*told(path, loaded))
    return bool(session.past or session.ids)


def joined(first: str | None, raw: str | None, piped: str) -> tuple[str | None, str | None]:
    """What stdin brought goes after the text of the command line; one of the two texts is not None."""
    if raw is not None:
        return first, f"{raw}\n{piped}" if piped and raw else raw + piped
    text = "\n".join(part for part in (first or "", piped) if part)
    if not text.strip():
        raise UsageError("there is no message", "write one after the model, or pipe it in")
    return text, None


def read_piped() -> str:
    """All of stdin, without the newline that ``echo`` ends with."""
    return sys.stdin.buffer.read().decode("utf-8", "surrogateescape").rstrip("\r\n")


def model_and_instruction(flags: ChatFlags) -> tuple[Path, str | None]:
    """The model's path and the first message: with ``-m`` the positionals begin with the message."""
    if flags.model is not None:
        if flags.second is not None:
            raise UsageError("the model is given twice, by -m and before the instruction", "give it once")
        return Path(flags.model), flags.first
    if flags.first is None:
        raise UsageError("no model is given", "write `ggufrun chat MODEL.gguf`")
    return Path(flags.first), flags.second


def opening_text(flags: ChatFlags) -> str | None:
    """The text of ``-p`` or ``-f``, escapes expanded unless that is switched off."""
    if flags.prompt is not None and flags.prompt_file is not None:
        raise UsageError("-p and -f both give the prompt", "give one of them")
    text = flags.prompt if flags.prompt_file is None else _read(flags.prompt_file, "-f")
    return _expanded(flags, text) if text else None


def system_prompt(flags: ChatFlags) -> str | None:
    """The text of ``-sys`` or ``-sysf``; empty means none, None that nothing was said."""
    if flags.system is not None and flags.system_file is not None:
        raise UsageError("-sys and -sysf both give the system prompt", "give one of them")
    # llama.cpp expands no escapes here unless the user insists.
    text = flags.system if flags.system_file is None else _read(flags.system_file, "-sysf")
    return _expanded(flags, text) if text is not None and flags.escape else text


def _expanded(flags: ChatFlags, text: str) -> str:
    from ggufrun.chat.escapes import expand

    return text if flags.escape is False else expand(text)


def _read(path: Path, flag: str) -> str:
    if not path.is_file():
        raise NotFoundError(f"{flag} {path}: no such file", "check the path")
    return path.read_bytes().decode("utf-8", "surrogateescape").removesuffix("\n")


def check_file(path: Path) -> None:
    """Refuse a file that is no sound GGUF before the engine touches it; the error says what is wrong with it."""
    if path.is_dir():
        raise NotFoundError(f"{path} is a folder, not a .gguf file", f"convert it first: ggufrun convert {path}")
    if not path.exists():
        raise NotFoundError(f"{path}: no such file", "give the path of a .gguf file")
    from ggufrun.checkpoint.ggufchecks import check_hyperparameters
    from ggufrun.checkpoint.gguffile import read_header

    check_hyperparameters(path, read_header(path))


def _choose(model: Model, flags: ChatFlags) -> Choice:
    from ggufrun.chat.choose import FormatOptions, choose

    template = flags.chat_template
    if flags.chat_template_file is not None:
        if template is not None:
            raise UsageError("--chat-template and --chat-template-file both give a template", "give one of them")
        template = _read(flags.chat_template_file, "--chat-template-file")
    options = FormatOptions(
        style=flags.style,
        template=template,
        prefix=None if flags.in_prefix is None else _expanded(flags, flags.in_prefix),
        suffix=None if flags.in_suffix is None else _expanded(flags, flags.in_suffix),
        prefix_bos=flags.in_prefix_bos,
        reverse=tuple(_expanded(flags, text) for text in flags.reverse or ()),
        raw=flags.conversation is False,
    )
    return choose(model, options)


def _n_predict(flags: ChatFlags) -> int | None:
    """The flag; None when it was left out: then an answer is no longer than the context."""
    if flags.n_predict is not None and flags.n_predict < -2:
        raise UsageError(f"-n is {flags.n_predict}", "give a count of tokens, -1 for no end, -2 for a full context")
    return flags.n_predict


def _context_params(flags: ChatFlags) -> Any:
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
        "rope": _rope(flags),
        "adapters": _adapters(flags),
    }
    return ContextParams(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def _rope(flags: ChatFlags) -> RopeParams:
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


def _adapters(flags: ChatFlags) -> tuple[Adapter, ...]:
    from ggufrun.engine.adapters import Adapter, scaled

    found = []
    for text in flags.lora or ():
        # A comma may also stand in a name.
        names = [text] if Path(text).exists() else text.split(",")
        found += [Adapter(Path(name)) for name in names]
    for text in flags.lora_scaled or ():
        found += scaled(text)
    for adapter in found:
        if not adapter.path.is_file():
            raise NotFoundError(f"{adapter.path}: no such file", "give the path of a GGUF adapter")
        from ggufrun.checkpoint.gguffile import read_header

        # An adapter says less about the model than a model does.
        read_header(adapter.path)
    return tuple(found)


def _switch(flag: str, value: str | None) -> str | None:
    if value is None:
        return None
    if value.lower() not in SWITCH_VALUES:
        raise UsageError(f"{flag} {value}", "choose from on, off, auto")
    return SWITCH_VALUES[value.lower()]


def _sampling(flags: ChatFlags, usual: Any) -> SamplingParams:
    """The flags, else what suits the model, else llama.cpp's defaults."""
    from dataclasses import fields

    from ggufrun.engine.sampler import SamplingParams

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
    from ggufrun.engine.sampling import logit_bias, sampler_letters, sampler_names

    told: dict[str, Any] = {}
    if flags.samplers is not None and flags.sampler_seq is not None:
        raise UsageError("--samplers and --sampler-seq both give an order", "give one of them")
    if flags.samplers is not None:
        told["samplers"] = sampler_names(flags.samplers)
    if flags.sampler_seq is not None:
        told["samplers"] = sampler_letters(flags.sampler_seq)
    if flags.dry_breakers:
        told["dry_breakers"] = tuple(_expanded(flags, text) for text in flags.dry_breakers if text != "none")
    if flags.logit_bias:
        told["logit_bias"] = tuple(logit_bias(text) for text in flags.logit_bias)
    given = [name for name in ("grammar", "grammar_file", "json_schema", "json_schema_file") if getattr(flags, name)]
    if len(given) > 1:
        raise UsageError("a grammar or JSON schema is given twice", "give one of them")
    if flags.grammar_file is not None:
        told["grammar"] = _read(flags.grammar_file, "--grammar-file")
    schema = flags.json_schema
    if flags.json_schema_file is not None:
        schema = _read(flags.json_schema_file, "--json-schema-file")
    if schema is not None:
        from ggufrun.engine.schema import to_grammar

        told["grammar"] = to_grammar(schema)
    return told


def _gpu_layers(flags: ChatFlags) -> int | None:
    text = flags.gpu_layers
    if text is None or text == "auto":
        return None
    if text == "all":
        return -1
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"-ngl {text}", "give a number of layers, or all") from None


def _load(path: Path, flags: ChatFlags) -> Model:
    from ggufrun.engine.model import Model, ModelParams

    params = ModelParams(path, gpu_layers=_gpu_layers(flags), mmap=flags.mmap, mlock=flags.mlock)
    if not (sys.stderr.isatty() and sys.stdin.isatty()) or flags.plain:
        return Model(params)
    with err().status(f"loading {path.name}") as status:

        def progress(fraction: float) -> bool:
            status.update(f"loading {path.name} {fraction:.0%}")
            return True

        return Model(params, progress)
