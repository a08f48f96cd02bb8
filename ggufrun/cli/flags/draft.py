"""``--lookup`` and ``-md``: who guesses ahead in a conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggufrun.errors import UsageError

if TYPE_CHECKING:
    from ggufrun.cli.flags.chat import ChatFlags
    from ggufrun.engine.draft import DraftParams


def draft_params(flags: ChatFlags) -> DraftParams | None:
    """The lengths of a guess; None when nobody is to guess. Raises UsageError."""
    from ggufrun.engine.draft import DraftParams

    if not flags.lookup and flags.draft_model is None:
        if any(value is not None for value in (flags.draft_max, flags.draft_min, flags.draft_p_min)):
            raise UsageError("the --draft flags say how much is guessed, not by whom", "add --lookup or -md")
        return None
    if flags.lookup and flags.draft_model is not None:
        raise UsageError("--lookup and -md both guess ahead", "give one of them")
    usual = DraftParams()
    return DraftParams(
        usual.most if flags.draft_max is None else flags.draft_max,
        usual.least if flags.draft_min is None else flags.draft_min,
        usual.sure if flags.draft_p_min is None else flags.draft_p_min,
    )
