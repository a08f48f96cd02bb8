"""Guessing ahead (speculative decoding): who guesses, and how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from ggufrun.cli.flags.option import option
from ggufrun.errors import UsageError

if TYPE_CHECKING:
    from ggufrun.engine.draft import DraftParams


@dataclass(frozen=True)
class DraftFlags:
    """What stands on the command line about guessing ahead."""

    SECTION: ClassVar[str] = "Speculative decoding"

    lookup: Annotated[
        bool, option("--lookup", help="Guess tokens from earlier text of the conversation; answers do not change.")
    ] = False
    draft_model: Annotated[
        str | None,
        option(
            "-md",
            "--model-draft",
            "--spec-draft-model",
            help="Guess tokens with a small draft model; answers do not change.",
            metavar="MODEL",
        ),
    ] = None
    draft_max: Annotated[
        int | None,
        option(
            "--draft-max",
            "--draft",
            "--draft-n",
            "--spec-draft-n-max",
            help="Largest number of tokens guessed at once (16).",
        ),
    ] = None
    draft_min: Annotated[
        int | None,
        option("--draft-min", "--draft-n-min", "--spec-draft-n-min", help="Smallest number of tokens to guess (0)."),
    ] = None
    draft_p_min: Annotated[
        float | None,
        option("--draft-p-min", "--spec-draft-p-min", help="Lowest probability of a token guessed by -md (0.5)."),
    ] = None

    @property
    def wanted(self) -> bool:
        """Is anybody to guess?"""
        return self.lookup or self.draft_model is not None

    def params(self) -> DraftParams | None:
        """The lengths of a guess; None when nobody is to guess. Raises UsageError."""
        from ggufrun.engine.draft import DraftParams

        if not self.wanted:
            if any(value is not None for value in (self.draft_max, self.draft_min, self.draft_p_min)):
                raise UsageError("the --draft flags say how much is guessed, not by whom", "add --lookup or -md")
            return None
        if self.lookup and self.draft_model is not None:
            raise UsageError("--lookup and -md both guess ahead", "give one of them")
        usual = DraftParams()
        return DraftParams(
            usual.most if self.draft_max is None else self.draft_max,
            usual.least if self.draft_min is None else self.draft_min,
            usual.sure if self.draft_p_min is None else self.draft_p_min,
        )
