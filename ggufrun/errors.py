"""The errors that ggufrun raises on purpose.

::

    GgufrunError            something the user can act on
    ├── UsageError          the command line asks for something that does not exist (exit status 2)
    ├── NotFoundError       a file, folder or part of a checkpoint is missing
    ├── FormatError         a file is damaged, cut short or lies about itself
    ├── UnsupportedError    a file is sound, but ggufrun does not know what to do with it
    ├── TargetError         the output cannot be written
    └── EngineError         llama.cpp could not do what was asked
        └── EndlessError    llama.cpp takes too long, and may never come back

Rooms raise these; only ``cli`` catches and prints them, one line each.
"""

from __future__ import annotations


class GgufrunError(Exception):
    """An error with a next step.

    ``what`` says what is wrong, ``todo`` what to do about it; both are sentence fragments without a final full stop.
    """

    exit_status = 1

    def __init__(self, what: str, todo: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.todo = todo

    def __str__(self) -> str:
        return f"{self.what}; {self.todo}" if self.todo else self.what


class UsageError(GgufrunError):
    """The command line asks for something that does not exist."""

    exit_status = 2


class NotFoundError(GgufrunError):
    """A file, folder or part of a checkpoint is missing."""


class FormatError(GgufrunError):
    """A file is damaged, cut short or lies about itself."""


class UnsupportedError(GgufrunError):
    """A file is sound, but ggufrun does not know what to do with it."""


class TargetError(GgufrunError):
    """The output cannot be written."""


class EngineError(GgufrunError):
    """llama.cpp could not do what was asked."""


class EndlessError(EngineError):
    """llama.cpp takes too long over a call. A thread may compute until the process ends, which should be soon."""
