"""Which prompt format a model is talked to in, and why: what the user said, else what the model file says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ggufrun.chat.formats import stylebook, styles
from ggufrun.chat.formats.prompt import AffixPrompt, Format, StylePrompt
from ggufrun.chat.formats.template import ChatTemplate
from ggufrun.chat.formats.template_prompt import TemplatePrompt
from ggufrun.engine.model import Model
from ggufrun.errors import NotFoundError, UsageError
from ggufrun.regularfile import read_bytes

MAX_TEMPLATE = 1 << 20
"""Bytes of a file with a template; published ones take up to 20 KiB."""

BUILTIN_NAMES: dict[str, str] = {
    "llama2": "llama-2",
    "llama2-sys": "llama-2",
    "llama3": "llama-3",
    "mistral-v1": "mistral",
    "phi3": "phi-3",
}
"""llama.cpp's names for templates that are styles here by another name."""

SAMPLING_KEYS: dict[str, str] = {
    "temp": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repeat_penalty",
    "penalty_last_n": "repeat_last_n",
}
"""Keys ``general.sampling.*`` that a GGUF recommends settings with, and what they are called here."""


@dataclass(frozen=True)
class FormatOptions:
    """What the user asked for. ``template`` is Jinja text, a file of it, or the name of a style; ``raw`` feeds texts as
    they stand, without any format. ``variables`` are for the template, and ``think`` sets those of them that let a
    model think before it answers, or not.
    """

    style: str | None = None
    template: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    prefix_bos: bool = False
    reverse: tuple[str, ...] = ()
    raw: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict)
    think: bool | None = None

    @property
    def affixes(self) -> bool:
        """Did the user give affixes?"""
        return self.prefix is not None or self.suffix is not None or self.prefix_bos


@dataclass(frozen=True)
class Choice:
    """A format, why it was chosen, its default system prompt, the settings that suit the model, and what is to be said
    of it.
    """

    format: Format
    why: str
    system: str = ""
    sampling: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def choose(model: Model, options: FormatOptions) -> Choice:
    """The first that applies: the user's flags, the file's template, what its name or vocabulary reveals, none.

    Raises UsageError for flags that contradict one another or name nothing, FormatError for a broken template. Mistakes
    in the user's own styles are a warning, unless one of these was asked for.
    """
    choice, trouble = _choose(model, options), stylebook.trouble()
    if trouble is None:
        return choice
    return replace(choice, warnings=(f"{trouble}; your own styles do not count", *choice.warnings))


def _choose(model: Model, options: FormatOptions) -> Choice:
    given = [
        flag
        for flag, used in (
            ("--in-prefix/--in-suffix", options.affixes),
            ("--style", options.style is not None),
            ("--chat-template", options.template is not None),
        )
        if used
    ]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} each set the prompt format", "give one of them")
    vocab = model.vocab
    known = stylebook.guess(model.name, vocab)
    usual = {**(known[0].sampling if known else {}), **recommended(model)}
    if options.affixes or options.raw:
        affixes = AffixPrompt(
            vocab,
            prefix=options.prefix or "",
            suffix=options.suffix or "",
            prefix_bos=options.prefix_bos,
            reverse=options.reverse,
        )
        return Choice(affixes, "the flags say so", sampling=recommended(model))
    if options.style is not None:
        return _style(model, stylebook.find(options.style), options, "--style says so")
    if options.template is not None:
        name = BUILTIN_NAMES.get(options.template, options.template)
        if name in stylebook.known() or stylebook.means(name):
            return _style(model, stylebook.find(name), options, "--chat-template says so")
        return _template(model, _template_text(options.template), options, "--chat-template says so", usual)
    if model.chat_template is not None:
        return _template(model, model.chat_template, options, "the model file has a chat template", usual)
    if known is not None:
        return _style(model, known[0], options, known[1])
    return Choice(
        AffixPrompt(vocab, reverse=options.reverse) if options.reverse else StylePrompt(vocab, styles.STYLES["none"]),
        "nothing says how to talk to this model",
        sampling=usual,
        warnings=("this looks like a base model: it continues text and does not answer; --style sets a prompt format",),
    )


def _template(model: Model, source: str, options: FormatOptions, why: str, sampling: Mapping[str, float]) -> Choice:
    prompt = TemplatePrompt(model.vocab, ChatTemplate(source), options.reverse, options.variables)
    silent = options.think is not None and not prompt.think(options.think)
    warnings = ("this chat template has no switch for thinking",) if silent else ()
    return Choice(prompt, why, sampling=sampling, warnings=warnings)


def _style(model: Model, style: styles.Style, options: FormatOptions, why: str) -> Choice:
    return Choice(
        StylePrompt(model.vocab, style, options.reverse),
        why,
        system=style.system,
        sampling={**style.sampling, **recommended(model)},
    )


def recommended(model: Model) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, name in SAMPLING_KEYS.items():
        text = model.meta(f"general.sampling.{key}")
        if text is not None:
            try:
                found[name] = float(text)
            except ValueError:
                continue
    return found


def _template_text(given: str) -> str:
    if "{" in given:
        return given
    path = Path(given)
    if not path.exists():
        raise NotFoundError(
            f"--chat-template {given}: no such file, and no style of this name",
            f"give Jinja text, a file, or one of {', '.join(stylebook.known())}",
        )
    return read_bytes(path, MAX_TEMPLATE, "give another template").decode("utf-8", "replace")
