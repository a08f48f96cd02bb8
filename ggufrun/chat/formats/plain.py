"""Plain continuation: the prompt is all there is, and the text goes on where it ends."""

from __future__ import annotations

from ggufrun.chat.formats.prompt import AffixPrompt


class PlainPrompt(AffixPrompt):
    """What `AffixPrompt` opens with, but every space counts, and a stop text at the prompt's very end is part of it."""

    name = "plain"
    keep_stop = False
    strip_space = False
