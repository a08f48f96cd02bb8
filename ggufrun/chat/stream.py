"""From the bytes of tokens to text that can be shown at once.

A character is often split across tokens, and a stop text too: what is not yet certain is held back, and nothing that
has been handed out ever has to be taken back.
"""

from __future__ import annotations

import codecs
from bisect import bisect_right
from collections.abc import Sequence


class Utf8Stream:
    """Bytes in, whole characters out. Bytes that belong to no character are dropped, never shown as a mark."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")

    def feed(self, piece: bytes) -> str:
        """The characters that ``piece`` completes."""
        return self._decoder.decode(piece)


class StopStream:
    """Text in, text out up to the first of ``stops`` to appear in full, which is not handed out itself."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.released = 0
        self.stop: str | None = None

    def feed(self, text: str) -> str:
        """What can be shown now. After a stop text has appeared (`stop` names it) nothing more comes out."""
        if self.stop is not None:
            return ""
        self._held += text
        found = [(place, stop) for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            # The one that is complete first, of these the longest: however the text is cut, the same one.
            place, self.stop = min(found, key=lambda pair: (pair[0] + len(pair[1]), pair[0]))
            return self._release(place)
        return self._release(len(self._held) - self._doubtful())

    def flush(self) -> str:
        """What was held back, now that no more text comes."""
        return "" if self.stop is not None else self._release(len(self._held))

    def _release(self, length: int) -> str:
        ready, self._held = self._held[:length], self._held[length:]
        self.released += length
        return ready

    def _doubtful(self) -> int:
        """Length of the longest end of the held text that a stop text starts with."""
        longest = max((len(stop) for stop in self._stops), default=0)
        for length in range(min(longest - 1, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0


class AnswerStream:
    """The bytes of an answer's tokens to the text shown.

    ``strip_space`` drops one space at the very start: a SentencePiece vocabulary begins every word with it.
    """

    def __init__(self, stops: Sequence[str] = (), *, strip_space: bool = True) -> None:
        self._characters = Utf8Stream()
        self._text = StopStream(stops)
        self._strip = strip_space
        self._stripped = 0
        self._seen = 0
        self._ends: list[int] = []

    def feed(self, piece: bytes) -> str:
        """What one more token adds to the text shown."""
        text = self._characters.feed(piece)
        self._seen += len(text)
        self._ends.append(self._seen)
        return self._shown(self._text.feed(text))

    def flush(self) -> str:
        """What the end of the answer sets free. Half a character stays unseen."""
        return self._shown(self._text.flush())

    def _shown(self, text: str) -> str:
        if self._strip and text:
            self._strip = False
            self._stripped = int(text.startswith(" "))
            return text[self._stripped :]
        return text

    @property
    def stop(self) -> str | None:
        """The stop text that ended the answer, if one did."""
        return self._text.stop

    def tokens_within(self, length: int) -> int | None:
        """How many of the tokens fed make the first ``length`` characters shown; None when one is split there."""
        wanted = length + self._stripped if length else 0
        return bisect_right(self._ends, wanted) if wanted == 0 or wanted in self._ends else None

    @property
    def tokens_before_stop(self) -> int:
        """How many of the tokens fed lie wholly before the stop text; all of them when there was none."""
        if self.stop is None:
            return len(self._ends)
        return sum(end <= self._text.released for end in self._ends)
