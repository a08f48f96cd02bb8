"""Chat with a model that brings no template: its prompt style, written as token ids exactly as `ggufrun chat` does.

llama.cpp's server would take ChatML for such a model without a word. The ids are made by the functions that `chat`
uses; only the child has the vocabulary, so texts are first collected, then tokenized there, then put together.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

from ggufrun.chat.formats import stylebook
from ggufrun.chat.formats.prompt import StylePrompt
from ggufrun.chat.formats.styles import Style, render
from ggufrun.chat.replay import replay
from ggufrun.engine.vocabulary import NULL, Vocab
from ggufrun.errors import GgufrunError
from ggufrun.server.errors import ApiError
from ggufrun.server.pool import Running
from ggufrun.server.service import child_error
from ggufrun.server.upstream import Vanished, ask

ROUNDS = 4
"""After so many rounds of tokenizing nothing is missing any more."""

PASSED = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "top_n_sigma", "repeat_penalty", "repeat_last_n",
    "presence_penalty", "frequency_penalty", "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n",
    "xtc_probability", "xtc_threshold", "dynatemp_range", "dynatemp_exponent", "mirostat", "mirostat_tau",
    "mirostat_eta", "seed", "logit_bias", "grammar", "json_schema", "ignore_eos", "samplers", "cache_prompt", "n_keep",
    "n", "id_slot", "lora",
)  # fmt: skip
"""What a request may say that means the same to ``/completion``."""


class ChildVocabulary:
    """The vocabulary of a child, as far as a style needs it. ``known`` are tokenized texts; what is asked for beyond
    them is in ``missing`` afterwards.
    """

    def __init__(self, facts: Mapping[str, Any], known: dict[str, list[int]]) -> None:
        self.bos: int = facts.get("bos", NULL)
        self.eos: int = facts.get("eos", NULL)
        self.eot: int = facts.get("eot", NULL)
        self.add_bos: bool = facts.get("add_bos", False)
        self.known = known
        self.missing: list[str] = []
        self._ends = frozenset(facts.get("eog", ()))
        self._controls: dict[str, int] = facts.get("controls", {})

    def tokenize(self, text: str, *, special: bool, bos: bool = False) -> list[int]:
        """The ids of ``text``; none, for the time being, of one that is not known yet. No control tokens: what names
        them is written by their ids.
        """
        if special or not text:
            return []
        if text not in self.known:
            self.missing.append(text)
            return []
        return list(self.known[text])

    def control(self, text: str) -> int | None:
        """The control token of that name."""
        return self._controls.get(text)

    def is_eog(self, token: int) -> bool:
        """Does it end an answer?"""
        return token in self._ends

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Not needed: nothing here writes."""
        return b""


def turns_of(messages: Any) -> tuple[str | None, list[tuple[str, str]], str]:
    """The system prompt (None where there is none), the pairs of question and answer, and the last question.

    Raises ApiError for what a style cannot say.
    """
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages is not a list of messages", param="messages")
    system: list[str] = []
    said: list[tuple[str, str]] = []
    for message in messages:
        role = message.get("role") if isinstance(message, dict) else None
        if role in ("tool", "function") or (isinstance(message, dict) and message.get("tool_calls")):
            raise ApiError(400, "this model was not taught to use tools", param="messages")
        text = _text(message.get("content")) if role in ("system", "developer", "user", "assistant") else None
        if text is None:
            raise ApiError(400, "a message needs a role (system, user, assistant) and text", param="messages")
        if role in ("system", "developer"):
            system.append(text)
        elif said and said[-1][0] == role:
            said[-1] = (role, f"{said[-1][1]}\n\n{text}")
        else:
            said.append((str(role), text))
    if said and said[0][0] == "assistant":
        raise ApiError(400, "the first message after the system's is the user's", param="messages")
    if not said or said[-1][0] != "user":
        raise ApiError(400, "the last message is the user's", param="messages")
    pairs = [(said[place][1], said[place + 1][1]) for place in range(0, len(said) - 1, 2)]
    return ("\n\n".join(system) if system else None), pairs, said[-1][1]


def _text(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        return "".join(part["text"] for part in content)
    return None


def style_of(running: Running, body: Mapping[str, Any]) -> Style:
    """The style that a request is written in: its own, else the model's. Raises ApiError."""
    asked = body.get("style")
    plan = running.plan
    if asked is None and plan["format"] == "none":
        raise ApiError(
            400,
            f"{running.entry.name} is a base model: it has no chat template and its name tells no prompt style; give "
            '"style" in the request (or --style to ggufrun serve), or use /v1/completions',
            "no_chat_template",
        )
    if asked is not None and not isinstance(asked, str):
        raise ApiError(400, "style is not a text", param="style")
    try:
        return stylebook.find(asked or plan["style"])
    except GgufrunError as error:
        raise ApiError(400, str(error), param="style") from None


async def prompt_ids(running: Running, style: Style, messages: Any) -> list[int]:
    """The token ids of a conversation. Raises ApiError."""
    told, pairs, question = turns_of(messages)
    system = style.system if told is None else told
    known: dict[str, list[int]] = {}
    for _ in range(ROUNDS):
        vocabulary = ChildVocabulary(running.plan["vocabulary"], known)
        vocab = cast(Vocab, vocabulary)
        format = StylePrompt(vocab, style)
        past, ids = replay(format, vocab, system, pairs)
        prompt = format.turn(past, ids, system, question)
        if not vocabulary.missing:
            return prompt.ids
        for text in dict.fromkeys(vocabulary.missing):
            asked = {"content": text, "add_special": False, "parse_special": False}
            _, answer = await running.call("POST", "/tokenize", asked)
            known[text] = list(answer["tokens"])
    raise ApiError(500, "the prompt could not be tokenized")


def prompt_text(style: Style, messages: Any) -> str:
    """The conversation as text, without the tokens that have no text."""
    told, pairs, question = turns_of(messages)
    system = style.system if told is None else told
    users = [*(user for user, _ in pairs), question]
    parts = []
    for place, user in enumerate(users):
        pattern = style.later if place else style.first if system else style.bare
        parts.append(render(pattern, user=user, system=system))
        if place < len(pairs):
            parts.append(pairs[place][1])
    return "".join(parts)


def request_of(body: Mapping[str, Any], style: Style, ids: list[int], sampling: Mapping[str, float]) -> dict[str, Any]:
    """What ``/completion`` gets for a request of chat. ``sampling`` are the style's own settings."""
    asked: dict[str, Any] = {name: body[name] for name in PASSED if body.get(name) is not None}
    if body.get("tools"):
        raise ApiError(400, "this model was not taught to use tools", param="tools")
    names = {"temp": "temperature", "typical": "typical_p"}
    asked = {**{names.get(name, name): value for name, value in sampling.items()}, **asked}
    most = body.get("max_completion_tokens", body.get("max_tokens", body.get("n_predict")))
    if most is not None:
        asked["n_predict"] = most
    stop = body.get("stop") or []
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise ApiError(400, "stop is not a text or a list of texts", param="stop")
    asked["stop"] = [*style.stops, *stops]
    form = body.get("response_format")
    if isinstance(form, dict) and form.get("type") == "json_object":
        asked["json_schema"] = form.get("schema") or {"type": "object"}
    elif isinstance(form, dict) and form.get("type") == "json_schema":
        asked["json_schema"] = (form.get("json_schema") or {}).get("schema") or {}
    if body.get("logprobs"):
        asked["n_probs"] = max(1, int(body.get("top_logprobs") or 1))
    return {**asked, "prompt": ids, "stream": True}


async def events(running: Running, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The objects that ``/completion`` streams for a request of chat, the text's first space removed where it is the
    vocabulary's. Raises ApiError.
    """
    style = style_of(running, body)
    ids = await prompt_ids(running, style, body.get("messages"))
    # the model's own style has its settings in the child's command line already
    sampling = style.sampling if style.name != running.plan["style"] else {}
    data = json.dumps(request_of(body, style, ids, sampling)).encode()
    begun = style.name == "none"
    try:
        async with ask(running.socket, "POST", "/completion", data) as answer:
            if answer.status != 200:
                raise await child_error(answer)
            async for event in answer.events():
                if not begun and event.get("content"):
                    event["content"], begun = event["content"].removeprefix(" "), True
                yield event
    except Vanished:
        raise await running.gone() from None
