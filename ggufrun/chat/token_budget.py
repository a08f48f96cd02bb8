"""``-n`` as llama.cpp's interactive mode counts it: one count that runs on through questions and answers.

As read in ``tools/completion/completion.cpp``: every token of a message and of an answer takes one from it, an end of
text does not renew it, and only when nothing is left does it begin anew, with the user's turn.
"""

from __future__ import annotations


class Budget:
    """What is left of a total, which may change between turns; a negative total has no end."""

    def __init__(self) -> None:
        self._left: int | None = None

    def question(self, total: int, tokens: int) -> int:
        """Take a question of ``tokens``; returns the most that its answer may have.

        That is 0 when the question has used up what was left: it is fed, and then it is the user's turn.
        """
        if total < 0:
            return total
        left = (total if self._left is None else self._left) - tokens
        self._left = left if left > 0 else total
        return max(left, 0)

    def answer(self, total: int, tokens: int) -> None:
        """Take an answer of ``tokens``, the one that ended it included."""
        if total >= 0 and tokens:
            self.question(total, tokens)
