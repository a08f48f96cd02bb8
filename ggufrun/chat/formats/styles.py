"""Prompt styles that authors published for their models, as data, and how one becomes token ids.

A pattern is text with places: ``{s}`` the system prompt, ``{u}`` the user's message, ``{bos}`` and ``{eos}`` the
model's tokens (written as tokens, never as text), ``{cut}`` a point where the text is tokenized in two separate pieces.
Texts listed in ``controls`` become the control token of that name where the vocabulary has one. What the user types
never becomes a control token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from ggufrun.engine.vocabulary import NULL, Vocab

PLACE = re.compile(r"\{(bos|eos|cut|s|u)\}")


def _sampling(**values: float) -> Mapping[str, float]:
    return MappingProxyType(values)


@dataclass(frozen=True)
class Style:
    """How a model was taught to see a conversation.

    ``first`` opens it with a system prompt, ``bare`` without one; ``later`` asks again, after an answer that ended with
    ``end``. ``stops`` are texts that end an answer too. ``sampling`` holds the settings its authors use.
    """

    name: str
    first: str
    bare: str
    later: str
    end: str = "{eos}"
    system: str = ""
    controls: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()
    sampling: Mapping[str, float] = field(default_factory=lambda: _sampling())


ALPACA_2_SYSTEM = "You are a helpful assistant. 你是一个乐于助人的助手。"
"""The system prompt of Chinese-Alpaca-2's own scripts."""

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

_ALPACA_INTRO = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
)
_ALPACA_TURN = "### Instruction:\n\n{u}\n\n### Response:\n\n"

# Llama 2's layout. From the second turn on, the three parts are tokenized apart, as an interactive llama.cpp does.
_LLAMA_2 = Style(
    "llama-2",
    first="{bos}[INST] <<SYS>>\n{s}\n<</SYS>>\n\n{u} [/INST]",
    bare="{bos}[INST] {u} [/INST]",
    later="{bos} [INST] {cut}{u}{cut} [/INST]",
)

_ALL = (
    replace(
        _LLAMA_2,
        name="alpaca-2",
        system=ALPACA_2_SYSTEM,
        sampling=_sampling(temp=0.5, top_k=40, top_p=0.9, repeat_penalty=1.1),
    ),
    _LLAMA_2,
    Style(
        "alpaca",
        first="{bos}{s}\n\n" + _ALPACA_TURN,
        bare="{bos}" + _ALPACA_INTRO + _ALPACA_TURN,
        later=_ALPACA_TURN,
        stops=("### Instruction:",),
        sampling=_sampling(temp=0.2, top_k=40, top_p=0.9, repeat_penalty=1.1),
    ),
    Style(
        "atom",
        first="{bos}{s}\nHuman: {u}\n{eos}{bos}Assistant: ",
        bare="{bos}Human: {u}\n{eos}{bos}Assistant: ",
        later="{bos}Human: {u}\n{eos}{bos}Assistant: ",
        stops=("Human:",),
        sampling=_sampling(temp=0.3, top_k=50, top_p=0.95, repeat_penalty=1.3),
    ),
    Style(
        "chatml",
        first="<|im_start|>system\n{s}<|im_end|>\n<|im_start|>user\n{u}<|im_end|>\n<|im_start|>assistant\n",
        bare="<|im_start|>user\n{u}<|im_end|>\n<|im_start|>assistant\n",
        later="\n<|im_start|>user\n{u}<|im_end|>\n<|im_start|>assistant\n",
        end="<|im_end|>",
        controls=("<|im_start|>", "<|im_end|>"),
        stops=("<|im_end|>", "<|im_start|>"),
    ),
    Style(
        "llama-3",
        first="{bos}<|start_header_id|>system<|end_header_id|>\n\n{s}<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n{u}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        bare="{bos}<|start_header_id|>user<|end_header_id|>\n\n{u}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        later="<|start_header_id|>user<|end_header_id|>\n\n{u}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        end="<|eot_id|>",
        controls=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        sampling=_sampling(temp=0.6, top_p=0.9),
    ),
    Style(
        "mistral",
        first="{bos}[INST] {s}\n\n{u} [/INST]",
        bare="{bos}[INST] {u} [/INST]",
        later="[INST] {u} [/INST]",
        controls=("[INST]", "[/INST]"),
        sampling=_sampling(temp=0.7),
    ),
    Style(
        "gemma",
        first="{bos}<start_of_turn>user\n{s}\n\n{u}<end_of_turn>\n<start_of_turn>model\n",
        bare="{bos}<start_of_turn>user\n{u}<end_of_turn>\n<start_of_turn>model\n",
        later="\n<start_of_turn>user\n{u}<end_of_turn>\n<start_of_turn>model\n",
        end="<end_of_turn>",
        controls=("<start_of_turn>", "<end_of_turn>"),
        stops=("<end_of_turn>",),
        sampling=_sampling(temp=1.0, top_k=64, top_p=0.95),
    ),
    Style(
        "phi-3",
        first="<|system|>\n{s}<|end|>\n<|user|>\n{u}<|end|>\n<|assistant|>\n",
        bare="<|user|>\n{u}<|end|>\n<|assistant|>\n",
        later="\n<|user|>\n{u}<|end|>\n<|assistant|>\n",
        end="<|end|>",
        controls=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        stops=("<|end|>",),
    ),
    Style(
        "vicuna",
        first="{bos}{s} USER: {u} ASSISTANT:",
        bare="{bos}USER: {u} ASSISTANT:",
        later="USER: {u} ASSISTANT:",
        system=VICUNA_SYSTEM,
        stops=("USER:",),
        sampling=_sampling(temp=0.7),
    ),
    Style(
        "zephyr",
        first="<|system|>\n{s}{eos}\n<|user|>\n{u}{eos}\n<|assistant|>\n",
        bare="<|user|>\n{u}{eos}\n<|assistant|>\n",
        later="\n<|user|>\n{u}{eos}\n<|assistant|>\n",
        stops=("<|user|>",),
        sampling=_sampling(temp=0.7, top_k=50, top_p=0.95),
    ),
    Style(
        "deepseek",
        first="{bos}{s}\n\nUser: {u}\n\nAssistant:",
        bare="{bos}User: {u}\n\nAssistant:",
        later="User: {u}\n\nAssistant:",
        sampling=_sampling(temp=0.7, top_p=0.95),
    ),
    Style(
        "baichuan2",
        first="{s}<reserved_106>{u}<reserved_107>",
        bare="<reserved_106>{u}<reserved_107>",
        later="<reserved_106>{u}<reserved_107>",
        controls=("<reserved_106>", "<reserved_107>"),
        stops=("<reserved_106>",),
        sampling=_sampling(temp=0.3, top_k=5, top_p=0.85, repeat_penalty=1.05),
    ),
    Style(
        "chatglm3",
        first="[gMASK]sop<|system|>\n {s}<|user|>\n {u}<|assistant|>",
        bare="[gMASK]sop<|user|>\n {u}<|assistant|>",
        later="<|user|>\n {u}<|assistant|>",
        end="",
        controls=("[gMASK]", "sop", "<|system|>", "<|user|>", "<|assistant|>"),
        stops=("<|user|>",),
        sampling=_sampling(temp=0.8, top_p=0.8),
    ),
    Style("none", first="{bos}{s}{u}", bare="{bos}{u}", later="{u}", end=""),
)

STYLES: Mapping[str, Style] = MappingProxyType({style.name: style for style in _ALL})
"""Every style by its name."""

NAMES: tuple[tuple[str, str], ...] = (
    (r"alpaca-?2", "alpaca-2"),
    (r"alpaca", "alpaca"),
    (r"atom.*chat", "atom"),
    (r"llama-?2.*chat", "llama-2"),
    (r"vicuna", "vicuna"),
    (r"zephyr", "zephyr"),
    (r"baichuan2.*chat", "baichuan2"),
    (r"chatglm3", "chatglm3"),
    (r"deepseek-llm.*chat", "deepseek"),
    (r"(mistral|mixtral).*instruct", "mistral"),
)
"""A pattern in a model's name, in lower case, and the style that such models were taught; the first match counts."""

TOKENS: tuple[tuple[str, str], ...] = (
    ("<|start_header_id|>", "llama-3"),
    ("<start_of_turn>", "gemma"),
)
"""A control token that only models of one style have; not ``<|im_start|>``, which base models of Qwen carry too."""


def encode(vocab: Vocab, style: Style, pattern: str, *, user: str = "", system: str = "") -> list[int]:
    """Token ids of ``pattern`` with its places filled.

    Text between two control tokens or cuts is tokenized in one piece, so that tokens may span the edges of what the
    user wrote, as they did in training.
    """
    ids: list[int] = []
    text = ""

    def flush() -> None:
        nonlocal text
        ids.extend(vocab.tokenize(text, special=False))
        text = ""

    for part, place in _parts(pattern):
        if place == "u":
            text += user
        elif place == "s":
            text += system
        elif place == "cut":
            flush()
        elif place:
            flush()
            token = vocab.bos if place == "bos" else vocab.eos
            ids.extend([token] if token != NULL else [])
        else:
            for run, control in _split(part, style.controls):
                token_id = vocab.control(run) if control else None
                if token_id is None:
                    text += run
                else:
                    flush()
                    ids.append(token_id)
    flush()
    return ids


def render(pattern: str, *, user: str = "", system: str = "") -> str:
    """``pattern`` as text, without the tokens that have no text; for showing and comparing."""
    fill = {"u": user, "s": system}
    return "".join(fill.get(place, "") if place else part for part, place in _parts(pattern))


def _parts(pattern: str) -> list[tuple[str, str]]:
    """``(text, "")`` and ``("", place)`` in order."""
    parts: list[tuple[str, str]] = []
    position = 0
    for match in PLACE.finditer(pattern):
        parts.append((pattern[position : match.start()], ""))
        parts.append(("", match.group(1)))
        position = match.end()
    return [*parts, (pattern[position:], "")]


def _split(text: str, controls: tuple[str, ...]) -> list[tuple[str, bool]]:
    """``text`` cut into runs, each with whether it is one of ``controls``."""
    if not controls:
        return [(text, False)]
    pieces = re.split("(" + "|".join(re.escape(control) for control in controls) + ")", text)
    return [(piece, piece in controls) for piece in pieces if piece]
