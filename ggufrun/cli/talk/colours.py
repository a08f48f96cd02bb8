"""Colours of code in an answer."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.syntax import SyntaxTheme

CODE_COLOURS: dict[tuple[str, ...], str] = {
    ("Comment",): "dim",
    ("Comment", "Preproc"): "magenta",
    ("Keyword",): "bright_blue",
    ("Keyword", "Type"): "cyan",
    ("Operator", "Word"): "bright_blue",
    ("Name", "Builtin"): "cyan",
    ("Name", "Function"): "bold",
    ("Name", "Class"): "bold",
    ("Name", "Exception"): "cyan",
    ("Name", "Decorator"): "magenta",
    ("Name", "Variable"): "red",
    ("Name", "Constant"): "red",
    ("Name", "Attribute"): "cyan",
    ("Name", "Tag"): "bright_blue",
    ("Literal", "String"): "green",
    ("Literal", "Number"): "magenta",
    ("Generic", "Deleted"): "red",
    ("Generic", "Inserted"): "green",
    ("Generic", "Heading"): "bold",
    ("Generic", "Subheading"): "bold",
    ("Generic", "Prompt"): "bold",
    ("Error",): "underline",
}
"""Kinds of words in code, by pygments' names, and their looks: the terminal's own colours, and of these the ones that
can be read on a dark background and on a light one. Few terminals tell which of the two it is.
"""


@cache
def code_theme() -> SyntaxTheme:
    """Colours for code."""
    from rich.style import Style
    from rich.syntax import ANSISyntaxTheme

    return ANSISyntaxTheme({kind: Style.parse(looks) for kind, looks in CODE_COLOURS.items()})
