"""Markdown as HTML in which nothing is active: for the page, which puts what comes from here into the document.

A line's end is one, as in a poem. Raw HTML in the text stays text, links lead to http, https or mailto only, and
pictures are links.
"""

from __future__ import annotations

from functools import cache
from typing import Any

MAX_TEXT = 400_000
"""Characters; an answer has some thousand."""

MAX_CODE = 50_000
"""Characters of a block of code that are coloured."""

SCHEMES = ("http://", "https://", "mailto:")


def html(text: str) -> str:
    """``text`` rendered. What is too long comes back as plain text."""
    from html import escape

    if len(text) > MAX_TEXT:
        return f"<pre>{escape(text)}</pre>"
    return str(_parser().render(text))


@cache
def _parser() -> Any:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False, "breaks": True, "maxNesting": 20, "highlight": _coloured})
    parser.enable(["table", "strikethrough"])
    parser.disable(["image"])
    parser.validateLink = lambda url: url.strip().lower().startswith(SCHEMES)
    parser.add_render_rule("link_open", _link)
    return parser


def _link(self: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    tokens[index].attrSet("rel", "noopener noreferrer")
    tokens[index].attrSet("target", "_blank")
    return str(self.renderToken(tokens, index, options, env))


def _coloured(code: str, language: str, attributes: str) -> str:
    """The HTML inside of a block of code; empty leaves it without colours."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    if not language or len(code) > MAX_CODE:
        return ""
    try:
        lexer = get_lexer_by_name(language)
    except ClassNotFound:
        return ""
    return str(highlight(code, lexer, HtmlFormatter(nowrap=True)))
