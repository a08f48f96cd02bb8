"""Classifier-free guidance: what answers are led away from, and how strongly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from ggufrun.cli.flags.option import option, read_text
from ggufrun.errors import UsageError

if TYPE_CHECKING:
    from ggufrun.chat.negative import Negative
    from ggufrun.engine.context import Context, ContextParams


@dataclass(frozen=True)
class GuidanceParams:
    """A scale other than 1, and the negative prompt, if there is one."""

    scale: float
    text: str | None


@dataclass(frozen=True)
class GuidanceFlags:
    """What stands on the command line about guidance."""

    SECTION: ClassVar[str] = "Guidance"

    cfg_scale: Annotated[float | None, option("--cfg-scale", help="Strength of classifier-free guidance (1: off).")] = (
        None
    )
    cfg_negative: Annotated[
        str | None,
        option(
            "--cfg-negative-prompt",
            help="System prompt that guidance leads answers away from.",
            metavar="TEXT",
        ),
    ] = None
    cfg_negative_file: Annotated[
        Path | None,
        option(
            "--cfg-negative-prompt-file",
            help="File with the system prompt that guidance leads answers away from.",
            metavar="FILE",
        ),
    ] = None

    def params(self, expanded: Callable[[str], str], *, guesses: bool) -> GuidanceParams | None:
        """What the flags ask for; None for no guidance. ``guesses``: somebody guesses ahead. Raises UsageError."""
        from ggufrun.engine.guidance import check_scale

        text = self.cfg_negative
        if self.cfg_negative_file is not None:
            if text is not None:
                raise UsageError("--cfg-negative-prompt is given twice, as a text and as a file", "give one of them")
            text = read_text(self.cfg_negative_file, "--cfg-negative-prompt-file")
        if self.cfg_scale is None:
            if text is not None:
                hint = "add --cfg-scale"
                raise UsageError("--cfg-negative-prompt says what to lead away from, not how strongly", hint)
            return None
        check_scale(self.cfg_scale)
        if self.cfg_scale == 1:
            return None
        if guesses:
            what = "--cfg-scale and guessing ahead (--lookup, -md) do not go together"
            raise UsageError(what, "leave one of them out")
        return GuidanceParams(self.cfg_scale, expanded(text) if text else None)


def with_room_for_guidance(params: ContextParams, guidance: GuidanceParams | None) -> ContextParams:
    """A context with room for the other side."""
    return params if guidance is None else replace(params, sequences=2, separate=True, outputs=2)


def negative(context: Context, guidance: GuidanceParams | None) -> Negative | None:
    """The other side of a conversation in ``context``."""
    if guidance is None:
        return None
    from ggufrun.chat.negative import Negative
    from ggufrun.engine.guidance import Guidance

    return Negative(Guidance(context, guidance.scale), context.model.vocab, guidance.text)
