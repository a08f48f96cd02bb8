"""``--cfg-scale`` and ``--cfg-negative-prompt``: what answers are led away from, and how strongly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ggufrun.errors import UsageError

if TYPE_CHECKING:
    from ggufrun.chat.negative import Negative
    from ggufrun.cli.flags.chat import ChatFlags
    from ggufrun.engine.context import Context, ContextParams


@dataclass(frozen=True)
class GuidanceParams:
    """A scale other than 1, and the negative prompt, if there is one."""

    scale: float
    text: str | None


def guidance_params(flags: ChatFlags) -> GuidanceParams | None:
    """What the flags ask for; None for no guidance. Raises UsageError."""
    from ggufrun.cli.flags import settings
    from ggufrun.engine.guidance import check_scale

    text = flags.cfg_negative
    if flags.cfg_negative_file is not None:
        if text is not None:
            raise UsageError("--cfg-negative-prompt is given twice, as a text and as a file", "give one of them")
        text = settings.read_text(flags.cfg_negative_file, "--cfg-negative-prompt-file")
    if flags.cfg_scale is None:
        if text is not None:
            raise UsageError("--cfg-negative-prompt says what to lead away from, not how strongly", "add --cfg-scale")
        return None
    check_scale(flags.cfg_scale)
    if flags.cfg_scale == 1:
        return None
    if flags.lookup or flags.draft_model is not None:
        raise UsageError("--cfg-scale and guessing ahead (--lookup, -md) do not go together", "leave one of them out")
    return GuidanceParams(flags.cfg_scale, settings.expanded(flags, text) if text else None)


def doubled(params: ContextParams, guidance: GuidanceParams | None) -> ContextParams:
    """A context with room for the other side."""
    return params if guidance is None else replace(params, sequences=2, separate=True, outputs=2)


def negative(context: Context, guidance: GuidanceParams | None) -> Negative | None:
    """The other side of a conversation in ``context``."""
    if guidance is None:
        return None
    from ggufrun.chat.negative import Negative
    from ggufrun.engine.guidance import Guidance

    return Negative(Guidance(context, guidance.scale), context.model.vocab, guidance.text)
