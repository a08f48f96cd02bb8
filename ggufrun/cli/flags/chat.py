"""The flags of ``ggufrun chat`` and ``ggufrun complete``: records of flags put together, and the kind of command.

Spellings and meanings are those of llama.cpp's interactive mode, so that a script written for it runs; ``_`` and ``-``
are the same in a name. A flag left out is None: then the model, the style or the engine decides.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from ggufrun.cli.flags.common import chat_names
from ggufrun.cli.flags.context import AdapterFlags, ContextFlags, PositionFlags
from ggufrun.cli.flags.draft import DraftFlags
from ggufrun.cli.flags.guidance import GuidanceFlags, GuidanceParams
from ggufrun.cli.flags.help import SectionedCommand
from ggufrun.cli.flags.option import SWITCH_VALUES, option
from ggufrun.cli.flags.placement import LoadFlags, PlaceFlags
from ggufrun.cli.flags.prompt import AnswerFlags, FormatFlags, TextFlags
from ggufrun.cli.flags.sampling import SamplingFlags
from ggufrun.cli.flags.talk import ListFlags, ScreenFlags, TalkFlags, TraceFlags
from ggufrun.errors import UsageError

if TYPE_CHECKING:
    from ggufrun.engine.context import ContextParams

OPTIONAL_VALUES: dict[str, str] = {"--color": "on", "-co": "on", "-fa": "on", "--flash-attn": "on"}
"""Flags that took no value in older llama.cpp and take one today, and what they mean alone."""

WITHOUT_EFFECT = frozenset(
    {
        *("--warmup", "--no-warmup", "--jinja", "--perf", "--no-perf", "--no-display-prompt"),
        *("--log-disable", "--log-timestamps", "--no-log-timestamps", "--log-prefix", "--no-log-prefix"),
    }
)
"""Flags of llama.cpp's tools, none with a value, that ask for what is so anyway or for nothing that is here."""


@dataclass(frozen=True)
class ModelFlags:
    """What names the model."""

    SECTION: ClassVar[str] = "Model"

    first: Annotated[
        str | None,
        typer.Argument(
            autocompletion=chat_names,
            metavar="MODEL",
            help="A .gguf file, a model that list shows, or org/name:TYPE on the hub.",
            show_default=False,
        ),
    ] = None
    model: Annotated[
        str | None,
        option("-m", "--model", "-hf", "--hf-repo", help="Name the model by a flag instead.", metavar="MODEL"),
    ] = None

    def name(self, second: str | None = None) -> tuple[str, str | None]:
        """What names the model, and the first message: with ``-m`` the positionals begin with the message.

        Raises UsageError.
        """
        if self.model is not None:
            if second is not None:
                raise UsageError("the model is given twice, by -m and before the instruction", "give it once")
            return self.model, self.first
        if self.first is None:
            raise UsageError("no model is given", "give a .gguf file, or a name that `ggufrun list` shows")
        return self.first, second


@dataclass(frozen=True)
class GenerationFlags:
    """What `chat` and `complete` share: the model, the text, and how a text is generated."""

    source: ModelFlags = field(default_factory=ModelFlags)
    text: TextFlags = field(default_factory=TextFlags)
    answer: AnswerFlags = field(default_factory=AnswerFlags)
    sampling: SamplingFlags = field(default_factory=SamplingFlags)
    context: ContextFlags = field(default_factory=ContextFlags)
    place: PlaceFlags = field(default_factory=PlaceFlags)
    loading: LoadFlags = field(default_factory=LoadFlags)
    adapters: AdapterFlags = field(default_factory=AdapterFlags)
    positions: PositionFlags = field(default_factory=PositionFlags)
    guidance: GuidanceFlags = field(default_factory=GuidanceFlags)
    draft: DraftFlags = field(default_factory=DraftFlags)
    trace: TraceFlags = field(default_factory=TraceFlags)

    def context_params(self) -> ContextParams:
        """The engine's record of the context, with adapters and positions. Raises UsageError, NotFoundError."""
        return self.context.params(self.positions, self.adapters)

    def guidance_params(self) -> GuidanceParams | None:
        """What answers are led away from. Raises UsageError."""
        return self.guidance.params(self.text.expanded, guesses=self.draft.wanted)


@dataclass(frozen=True)
class ChatFlags(GenerationFlags):
    """What stands on the command line of `chat`, unchecked."""

    second: Annotated[
        str | None, typer.Argument(metavar="INSTRUCTION", help="The first message.", show_default=False)
    ] = None
    talk: TalkFlags = field(default_factory=TalkFlags)
    format: FormatFlags = field(default_factory=FormatFlags)
    screen: ScreenFlags = field(default_factory=ScreenFlags)
    questions: ListFlags = field(default_factory=ListFlags)


class FlagCommand(SectionedCommand):
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
