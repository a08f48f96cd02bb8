"""The flags of ``ggufrun chat``: a record with one field a flag, and the command made from it.

Spellings and meanings are those of llama.cpp's interactive mode, so that a script written for it runs; ``_`` and ``-``
are the same in a name. A flag left out is None: then the model, the style or the engine decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ggufrun.cli.flags import placement
from ggufrun.cli.flags.common import model_names

OPTIONAL_VALUES: dict[str, str] = {"--color": "on", "-co": "on", "-fa": "on", "--flash-attn": "on"}
"""Flags that took no value in older llama.cpp and take one today, and what they mean alone."""

WITHOUT_EFFECT = frozenset(
    {
        *("--warmup", "--no-warmup", "--jinja", "--perf", "--no-perf", "--no-display-prompt"),
        *("--log-disable", "--log-timestamps", "--no-log-timestamps", "--log-prefix", "--no-log-prefix"),
    }
)
"""Flags of llama.cpp's tools, none with a value, that ask for what is so anyway or for nothing that is here."""

SWITCH_VALUES: dict[str, str] = {
    **dict.fromkeys(("on", "1", "true", "enabled"), "on"),
    **dict.fromkeys(("off", "0", "false", "disabled"), "off"),
    **dict.fromkeys(("auto", "-1"), "auto"),
}
"""The words for on, off and auto that llama.cpp understands."""


def _option(*names: str, help: str, metavar: str | None = None) -> Any:
    # whether a file can be read is told by who reads it
    return typer.Option(*names, help=help, metavar=metavar, show_default=False, readable=False)


@dataclass(frozen=True)
class ChatFlags:
    """What stands on the command line, unchecked."""

    first: Annotated[
        str | None,
        typer.Argument(
            autocompletion=model_names,
            metavar="MODEL",
            help="A .gguf file, a model that list shows, or org/name:TYPE on the hub.",
            show_default=False,
        ),
    ] = None
    second: Annotated[
        str | None, typer.Argument(metavar="INSTRUCTION", help="The first message.", show_default=False)
    ] = None

    model: Annotated[
        str | None, _option("-m", "--model", "-hf", "--hf-repo", help="The same as a flag.", metavar="MODEL")
    ] = None
    prompt: Annotated[
        str | None, _option("-p", "--prompt", help="The first message; beside --in-* the text as it stands.")
    ] = None
    prompt_file: Annotated[Path | None, _option("-f", help="Read the text of -p from a file.", metavar="FILE")] = None
    system: Annotated[str | None, _option("-sys", "--system-prompt", help="The system prompt.")] = None
    system_file: Annotated[
        Path | None, _option("-sysf", "--system-prompt-file", help="Read it from a file.", metavar="FILE")
    ] = None

    style: Annotated[
        str | None, _option("--style", help="A prompt style: alpaca-2, llama-2, chatml, none, ...", metavar="NAME")
    ] = None
    chat_template: Annotated[
        str | None, _option("--chat-template", help="A Jinja template, a file of one, or a style.", metavar="JINJA")
    ] = None
    chat_template_file: Annotated[
        Path | None, _option("--chat-template-file", help="A file with a Jinja template.", metavar="FILE")
    ] = None
    chat_template_kwargs: Annotated[
        str | None, _option("--chat-template-kwargs", help="Variables for the template.", metavar="JSON")
    ] = None
    think: Annotated[
        bool | None, _option("--think/--no-think", help="Let the model think first, where its template has a switch.")
    ] = None
    reasoning: Annotated[
        str | None, _option("-rea", "--reasoning", help="The same, as in llama.cpp.", metavar="[on|off|auto]")
    ] = None
    reasoning_effort: Annotated[
        str | None, _option("--reasoning-effort", help="How much it thinks: low, medium, high.", metavar="LEVEL")
    ] = None
    hide_thinking: Annotated[
        bool, _option("--hide-thinking", "--hidethinking", help="Do not show what the model thinks.")
    ] = False
    in_prefix: Annotated[str | None, _option("--in-prefix", help="Put before every message.")] = None
    in_suffix: Annotated[str | None, _option("--in-suffix", help="Put after every message.")] = None
    in_prefix_bos: Annotated[bool, _option("--in-prefix-bos", help="Put BOS before the prefix.")] = False
    reverse: Annotated[
        list[str] | None,
        _option("-r", "--reverse-prompt", help="Stop the answer at this text; repeats.", metavar="TEXT"),
    ] = None
    conversation: Annotated[
        bool | None,
        _option("-cnv/-no-cnv", "--conversation/--no-conversation", help="Use the model's prompt format, or none."),
    ] = None
    escape: Annotated[
        bool | None,
        _option(
            "-e/--no-escape",
            "--escape",
            help="Expand \\n and the like: also in what is typed (-e), or nowhere; else in -p, affixes and -r.",
        ),
    ] = None

    interactive: Annotated[bool, _option("-i", "--interactive", help="Go on after the first answer.")] = False
    interactive_first: Annotated[bool, _option("-if", "--interactive-first", help="Wait for a message first.")] = False
    single_turn: Annotated[bool, _option("-st", "--single-turn", help="Leave after the first answer.")] = False
    once: Annotated[bool, _option("--once", help="Every question starts a fresh conversation.")] = False
    multiline: Annotated[
        bool, _option("-mli", "--multiline-input", help="A message goes on until a line ends in \\ or /.")
    ] = False
    slash_sends: Annotated[
        bool, _option("--slash-sends", help="A line that ends in / loses it, as in llama.cpp; else it is kept.")
    ] = False
    compat: Annotated[
        bool,
        _option("--compat", help="As llama.cpp's interactive mode in all that is different here: see docs/chat.md."),
    ] = False
    session: Annotated[
        Path | None, _option("--session", help="Keep the conversation in a file, and go on with it.", metavar="FILE")
    ] = None
    markdown: Annotated[
        bool, _option("--markdown/--no-markdown", help="Draw answers as Markdown at a terminal, or as they are.")
    ] = True
    batch_file: Annotated[
        Path | None, _option("--file", help="Answer a list: one instruction a line, or JSON.", metavar="LIST")
    ] = None
    batch_output: Annotated[
        Path | None, _option("-o", "--output", help="The answers to --file: .jsonl or .json.", metavar="PATH")
    ] = None
    parallel: Annotated[
        int | None, _option("-np", "--parallel", help="Answers of --file decoded together (16).", metavar="N")
    ] = None
    color: Annotated[str | None, _option("-co", "--color", help="Colours.", metavar="[on|off|auto]")] = None
    plain: Annotated[bool, _option("--plain", "--simple-io", help="No line editing, colour or status line.")] = False
    show_tokens: Annotated[bool, _option("--show-tokens", help="Print the token ids of every turn on stderr.")] = False
    stats: Annotated[
        bool, _option("--stats", "--show-timings", help="Print what /stats shows after every answer, on stderr.")
    ] = False
    verbose_prompt: Annotated[bool, _option("--verbose-prompt", help="Print each token fed, with its text.")] = False

    n_predict: Annotated[
        int | None,
        _option("-n", "--predict", "--n-predict", help="Most tokens of an answer (-1: no end, -2: what fits)."),
    ] = None
    keep: Annotated[
        int | None,
        _option("--keep", help="Tokens kept when the context is shifted (default: the system prompt; -1: all of -p)."),
    ] = None
    context_shift: Annotated[
        bool | None,
        _option("--context-shift/--no-context-shift", help="Forget the older half of a full context, or stop there."),
    ] = None
    ctx_size: Annotated[
        int | None, _option("-c", "--ctx-size", help="Context in tokens (4096; 0: the model's own).")
    ] = None
    batch: Annotated[int | None, _option("-b", "--batch-size", help="Tokens decoded in one call.")] = None
    ubatch: Annotated[int | None, _option("-ub", "--ubatch-size", help="Tokens computed at once.")] = None
    threads: Annotated[int | None, _option("-t", "--threads", help="Threads (default: one a core).")] = None
    threads_batch: Annotated[int | None, _option("-tb", "--threads-batch", help="Threads for prompts.")] = None
    gpu_layers: placement.GpuLayers = None
    split_mode: placement.SplitMode = None
    tensor_split: placement.TensorSplit = None
    main_gpu: placement.MainGpu = None
    override_tensor: placement.Overrides = None
    cpu_moe: placement.AllExperts = False
    n_cpu_moe: placement.SomeExperts = None
    device: placement.Devices = None
    rpc: placement.Remote = None
    fit_target: placement.Margin = None
    flash_attention: Annotated[
        str | None, _option("-fa", "--flash-attn", help="Flash attention.", metavar="[on|off|auto]")
    ] = None
    cache_k: Annotated[str | None, _option("-ctk", "--cache-type-k", help="Type of the key cache (f16).")] = None
    cache_v: Annotated[str | None, _option("-ctv", "--cache-type-v", help="Type of the value cache (f16).")] = None
    swa_full: Annotated[
        bool, _option("--swa-full", help="Keep all of a sliding window's past: more memory, quicker /undo and shifts.")
    ] = False
    mmap: Annotated[bool, _option("--mmap/--no-mmap", help="Map the file, or read it.")] = True
    oversize: Annotated[
        bool, _option("--oversize", help="Try a model that is larger than the memory all the same.")
    ] = False
    mlock: Annotated[bool, _option("--mlock", help="Keep the model from being swapped out.")] = False

    seed: Annotated[int | None, _option("-s", "--seed", help="Seed of the random choices (-1: a new one).")] = None
    temp: Annotated[float | None, _option("--temp", "--temperature", help="Temperature (0: the most probable).")] = None
    top_k: Annotated[int | None, _option("--top-k", help="Only the K most probable tokens (0: all).")] = None
    top_p: Annotated[float | None, _option("--top-p", help="Only tokens that make up this probability.")] = None
    min_p: Annotated[float | None, _option("--min-p", help="Only tokens this probable against the first.")] = None
    typical: Annotated[float | None, _option("--typical", "--typical-p", help="Locally typical sampling.")] = None
    repeat_penalty: Annotated[float | None, _option("--repeat-penalty", help="Penalty for repeated tokens.")] = None
    repeat_last_n: Annotated[int | None, _option("--repeat-last-n", help="Tokens that it looks back over.")] = None
    presence_penalty: Annotated[float | None, _option("--presence-penalty", help="Penalty for any repetition.")] = None
    ignore_eos: Annotated[bool, _option("--ignore-eos", help="Never end an answer; -n or Ctrl+C does.")] = False
    frequency_penalty: Annotated[float | None, _option("--frequency-penalty", help="Penalty for each one.")] = None
    top_n_sigma: Annotated[
        float | None, _option("--top-n-sigma", "--top-nsigma", help="Only logits this many deviations below the first.")
    ] = None
    dry_multiplier: Annotated[float | None, _option("--dry-multiplier", help="DRY: strength (0: off).")] = None
    dry_base: Annotated[float | None, _option("--dry-base", help="DRY: base of the penalty (1.75).")] = None
    dry_allowed_length: Annotated[
        int | None, _option("--dry-allowed-length", help="DRY: repetitions up to this long are free (2).")
    ] = None
    dry_penalty_last_n: Annotated[
        int | None, _option("--dry-penalty-last-n", help="DRY: tokens that it looks back over (64).")
    ] = None
    dry_breakers: Annotated[
        list[str] | None,
        _option(
            "--dry-sequence-breaker",
            help="DRY: repetitions end at this text; repeats; none for no text.",
            metavar="TEXT",
        ),
    ] = None
    xtc_probability: Annotated[float | None, _option("--xtc-probability", help="XTC: how often (0: off).")] = None
    xtc_threshold: Annotated[float | None, _option("--xtc-threshold", help="XTC: tokens this probable may go.")] = None
    dynatemp_range: Annotated[
        float | None, _option("--dynatemp-range", help="The temperature moves this far either way.")
    ] = None
    dynatemp_exp: Annotated[float | None, _option("--dynatemp-exp", help="How it follows the entropy (1.0).")] = None
    mirostat: Annotated[int | None, _option("--mirostat", help="Mirostat 1 or 2 instead of all filters.")] = None
    mirostat_lr: Annotated[float | None, _option("--mirostat-lr", help="Mirostat: learning rate (0.1).")] = None
    mirostat_ent: Annotated[float | None, _option("--mirostat-ent", help="Mirostat: target entropy (5.0).")] = None
    adaptive_target: Annotated[
        float | None, _option("--adaptive-target", help="adaptive_p: tokens near this probability.")
    ] = None
    adaptive_decay: Annotated[float | None, _option("--adaptive-decay", help="adaptive_p: decay (0.9).")] = None
    samplers: Annotated[
        str | None, _option("--samplers", help="The samplers, in order: penalties;dry;top_k;...", metavar="NAMES")
    ] = None
    sampler_seq: Annotated[
        str | None,
        _option("--sampler-seq", "--sampling-seq", help="The same in letters: edskypmxt.", metavar="LETTERS"),
    ] = None
    logit_bias: Annotated[
        list[str] | None,
        _option(
            "-l", "--logit-bias", help="Make a token likelier or less likely: 15043+1; repeats.", metavar="ID+BIAS"
        ),
    ] = None
    grammar: Annotated[str | None, _option("--grammar", help="GBNF that answers keep to.", metavar="GBNF")] = None
    grammar_file: Annotated[Path | None, _option("--grammar-file", help="Read it from a file.", metavar="FILE")] = None
    json_schema: Annotated[
        str | None, _option("-j", "--json-schema", help="A JSON schema that answers keep to.", metavar="JSON")
    ] = None
    json_schema_file: Annotated[
        Path | None, _option("-jf", "--json-schema-file", help="Read it from a file.", metavar="FILE")
    ] = None

    lora: Annotated[
        list[str] | None, _option("--lora", help="A LoRA adapter as GGUF; repeats, or with commas.", metavar="FILE")
    ] = None
    lora_scaled: Annotated[
        list[str] | None, _option("--lora-scaled", help="The same with a scale.", metavar="FILE:SCALE")
    ] = None
    rope_scaling: Annotated[
        str | None, _option("--rope-scaling", help="How positions are stretched.", metavar="[none|linear|yarn]")
    ] = None
    rope_scale: Annotated[float | None, _option("--rope-scale", help="Stretch the context by this factor.")] = None
    rope_freq_base: Annotated[float | None, _option("--rope-freq-base", help="RoPE's frequency base.")] = None
    rope_freq_scale: Annotated[float | None, _option("--rope-freq-scale", help="1 / --rope-scale.")] = None
    yarn_orig_ctx: Annotated[int | None, _option("--yarn-orig-ctx", help="YaRN: context trained with.")] = None
    yarn_ext_factor: Annotated[float | None, _option("--yarn-ext-factor", help="YaRN: extrapolation.")] = None
    yarn_attn_factor: Annotated[float | None, _option("--yarn-attn-factor", help="YaRN: attention's scale.")] = None
    yarn_beta_slow: Annotated[float | None, _option("--yarn-beta-slow", help="YaRN: high correction.")] = None
    yarn_beta_fast: Annotated[float | None, _option("--yarn-beta-fast", help="YaRN: low correction.")] = None
    ntk_alpha: Annotated[
        str | None, _option("--ntk-alpha", help="NTK factor for a longer context.", metavar="A|auto")
    ] = None

    cfg_scale: Annotated[
        float | None, _option("--cfg-scale", help="Lead answers away from the negative prompt this strongly (1: not).")
    ] = None
    cfg_negative: Annotated[
        str | None,
        _option("--cfg-negative-prompt", help="What to lead away from, in the system prompt's place.", metavar="TEXT"),
    ] = None
    cfg_negative_file: Annotated[
        Path | None, _option("--cfg-negative-prompt-file", help="Read it from a file.", metavar="FILE")
    ] = None

    lookup: Annotated[
        bool, _option("--lookup", help="Guess ahead from what the conversation has said before; the answers stay.")
    ] = False
    draft_model: Annotated[
        str | None,
        _option("-md", "--model-draft", "--spec-draft-model", help="Guess ahead with a small model.", metavar="MODEL"),
    ] = None
    draft_max: Annotated[
        int | None,
        _option("--draft-max", "--draft", "--draft-n", "--spec-draft-n-max", help="Most tokens guessed at once (16)."),
    ] = None
    draft_min: Annotated[
        int | None, _option("--draft-min", "--draft-n-min", "--spec-draft-n-min", help="Fewest worth a try (0).")
    ] = None
    draft_p_min: Annotated[
        float | None, _option("--draft-p-min", "--spec-draft-p-min", help="How sure -md must be of a guess (0.5).")
    ] = None


class FlagCommand(TyperCommand):
    """A command whose flags may be spelled with ``_``, and whose on/off flags may stand without a value."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["context_settings"] = {
            **(kwargs.get("context_settings") or {}),
            "token_normalize_func": lambda name: name.replace("_", "-"),
        }
        super().__init__(*args, **kwargs)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put in the values that were left out, then parse."""
        return super().parse_args(ctx, complete(args))


def complete(args: list[str]) -> list[str]:
    """``args`` with the missing values of `OPTIONAL_VALUES` put in, and without `WITHOUT_EFFECT`.

    >>> complete(["--color", "-i", "--no-warmup"])
    ['--color', 'on', '-i']
    """
    full: list[str] = []
    for index, arg in enumerate(args):
        if arg.replace("_", "-") in WITHOUT_EFFECT:
            continue
        full.append(arg)
        if arg == "--":
            return full + args[index + 1 :]
        value = args[index + 1] if index + 1 < len(args) else ""
        if arg in OPTIONAL_VALUES and value.lower() not in SWITCH_VALUES:
            full.append(OPTIONAL_VALUES[arg])
    return full
