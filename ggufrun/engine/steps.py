"""How a generation goes on after a token: plainly, led away from a negative prompt, or with guesses.

`generate` decides whether there is a next step; a step decodes the token, and knows where the logits after it are.
"""

from __future__ import annotations

from time import perf_counter

from ggufrun.engine.context import Context
from ggufrun.engine.context_shift import Shift
from ggufrun.engine.draft import Speculation
from ggufrun.engine.guidance import Guidance


class Steps:
    """One pass of the model a token. ``place`` is where in the last batch the logits are that come next. With ``ahead``
    a pass costs no time to begin, and the caller's work goes on meanwhile.
    """

    ahead = False

    def __init__(self, context: Context) -> None:
        self.context = context
        self.place = -1

    def push(self, token: int, room: int) -> None:
        """Decode ``token``, after which at most ``room`` may come. Raises ContextFull, Interrupted, or EngineError."""
        self.context.push(token)

    def drawn(self, token: int) -> bool:
        """``token`` has been drawn; has it been decoded before?"""
        return False

    def shifted(self, shift: Shift) -> None:
        """The memory has lost some tokens."""

    def settle(self) -> None:
        """Forget what was only guessed: the memory is about to be changed."""


class GuidedSteps(Steps):
    """Both sides of the guidance in one pass."""

    def __init__(self, context: Context, guidance: Guidance) -> None:
        super().__init__(context)
        self._guidance = guidance

    def push(self, token: int, room: int) -> None:
        """Decode on both sides."""
        self.place = 0
        self._guidance.push(token)


class GuessedSteps(Steps):
    """Several tokens a pass: one that is drawn, and guesses of what follows it.

    ``drafted`` tokens were guessed and ``accepted`` of them drawn.
    """

    def __init__(self, context: Context, speculation: Speculation) -> None:
        super().__init__(context)
        self.drafted = self.accepted = 0
        self._speculation = speculation
        self._known = list(context.held)
        speculation.begin()
        # Guesses that are decoded but not yet confirmed.
        self._guessed: list[int] = []
        self._since = 0.0

    def push(self, token: int, room: int) -> None:
        """Decode the token with as many guesses as pay."""
        context = self.context
        self.place = -1
        self._guessed = self._speculation.guess(self._known, min(room, context.n_ctx - len(context.held) - 2))
        self._since = perf_counter()
        if self._guessed:
            self.drafted += len(self._guessed)
            self.place = 0
            context.push_all([token, *self._guessed])
        else:
            context.push(token)

    def drawn(self, token: int) -> bool:
        """Was it guessed? Then the logits after it are there already."""
        guessed = self._guessed
        if self._since:
            self._speculation.timed(len(guessed) + 1, perf_counter() - self._since)
            self._since = 0.0
        self._known.append(token)
        if not guessed:
            return False
        if self.place < len(guessed) and token == guessed[self.place]:
            self.accepted += 1
            self.place += 1
            return True
        self._speculation.learn(len(guessed), self.place)
        return False

    def shifted(self, shift: Shift) -> None:
        """What is known is what the memory holds."""
        shift.apply(self._known)
        self._speculation.begin()

    def settle(self) -> None:
        """What was guessed from the first wrong token on is worth nothing."""
        if self._guessed:
            self.context.trim(len(self.context.held) - len(self._guessed) + self.place)
            self._guessed = []


def steps_for(context: Context, speculation: Speculation | None, guidance: Guidance | None) -> Steps:
    """The way that was asked for. What ``context`` holds is the prompt."""
    if guidance is not None:
        return GuidedSteps(context, guidance)
    if speculation is not None:
        return GuessedSteps(context, speculation)
    plain = Steps(context)
    plain.ahead = context.ahead
    return plain
