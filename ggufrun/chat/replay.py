"""A conversation from words alone: what the ids would be had the model said those answers."""

from __future__ import annotations

from collections.abc import Sequence

from ggufrun.chat.formats.history import Exchange, Step, rendered_trace
from ggufrun.chat.formats.prompt import AffixPrompt, Format
from ggufrun.engine.vocabulary import NULL, Vocab


def replay(
    format: Format,
    vocab: Vocab,
    system: str,
    turns: Sequence[tuple[str, str]],
    *,
    opened: bool = False,
    reasoning: Sequence[str] = (),
    room: int | None = None,
) -> tuple[list[Exchange], list[int]]:
    """Past and ids after ``turns``, pairs of question and answer, each answer closed by the model's end of text.

    ``opened`` says that the first was plain text instead of a question. ``reasoning``, where there was any, is kept
    beside the answers; what the model is to see of it is the format's affair. ``room`` is as for `Format.turn`.

    Raises FormatError when a template does not accept the messages.
    """
    past: list[Exchange] = []
    ids: list[int] = []
    for place, (user, answer) in enumerate(turns):
        before = ids
        raw = False
        if opened and not past and isinstance(format, AffixPrompt):
            raw, prompt = True, format.opening(user)
        else:
            prompt = format.turn(past, ids, system, user, room)
        end = next((token for token in (vocab.eot, vocab.eos) if token != NULL), None)
        answered = vocab.tokenize(answer, special=False)
        ids = [*prompt.ids, *answered, *([] if end is None else [end])]
        thoughts = reasoning[place] if place < len(reasoning) else ""
        past.append(
            Exchange(
                user,
                answer,
                Step.between(before, ids),
                size=len(vocab.tokenize(user, special=False)) + len(answered),
                rendered=rendered_trace(prompt.rendered, prompt.first),
                opened=raw,
                reasoning=thoughts,
            )
        )
    return past, ids
