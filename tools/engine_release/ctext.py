"""C sources as text: prototypes, structures, enumerations, bodies of functions.

No compiler and no preprocessor: enough to compare two releases of the same project.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

PROTOTYPE = re.compile(
    r"\b(?:LLAMA_API|GGML_API|GGML_BACKEND_API)\s+([^;{}()]*?)\b(\w+)\s*\(([^;{}]*?)\)\s*;", re.DOTALL
)
LITERAL = r'"(?:\\.|[^"\\\n])*"'
COMMENT = re.compile(rf"({LITERAL})|'(?:\\.|[^'\\\n])+'|//[^\n]*|/\*.*?\*/", re.DOTALL)


@dataclass(frozen=True)
class Prototype:
    """A function as a header declares it: what it returns, and the types that it takes, without names."""

    result: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.result} ({', '.join(self.arguments) or 'void'})"


def without_comments(text: str) -> str:
    """``text`` with every comment as one space; what looks like one within quotation marks stays."""
    return COMMENT.sub(lambda match: match[0] if match[0][0] in "\"'" else " ", text)


def squeezed(text: str) -> str:
    """``text`` with every run of blanks as one, and none next to a sign: what a reformatting would not change."""
    return re.sub(r"\s*([^\w\s])\s*", r"\1", re.sub(r"\s+", " ", text)).strip()


def prototypes(header: str) -> dict[str, Prototype]:
    """The exported functions that a header declares, by name."""
    found = {}
    text = without_comments(header)
    # DEPRECATED(LLAMA_API int f(void), "use g") declares, too
    text = re.sub(rf"\bDEPRECATED\(\s*(.*?),\s*{LITERAL}(?:\s*{LITERAL})*\s*\)\s*;", r"\1;", text, flags=re.DOTALL)
    for match in PROTOTYPE.finditer(text):
        arguments = [_type(part) for part in match[3].split(",")]
        found[match[2]] = Prototype(_normal(match[1]), tuple(part for part in arguments if part not in ("", "void")))
    return found


def _normal(kind: str) -> str:
    words = [word for word in kind.replace("*", " * ").split() if word not in ("const", "struct", "enum")]
    return " ".join(words).replace(" *", "*")


def _type(parameter: str) -> str:
    """``const char * path`` -> ``char*``; a type without a name stays."""
    match = re.fullmatch(r"(.*[\s*])(\w+)((?:\s*\[\w*\])?)", parameter.strip(), re.DOTALL)
    if match and _normal(match[1]):
        return _normal(match[1]) + ("*" if match[3].strip() else "")
    return _normal(parameter)


def braced(text: str, opening: re.Pattern[str]) -> str | None:
    """The text between the brace that ``opening`` ends with and its counterpart; None where nothing matches."""
    match = opening.search(text)
    if match is None:
        return None
    depth = 1
    for place in re.finditer(rf"{LITERAL}|'(?:\\.|[^'\\\n])+'|[{{}}]", text[match.end() :]):
        depth += {"{": 1, "}": -1}.get(place[0], 0)
        if depth == 0:
            return text[match.end() : match.end() + place.start()]
    return None


def structure(text: str, name: str) -> str | None:
    """The members of ``struct name``, squeezed; None where it is not defined."""
    found = braced(without_comments(text), re.compile(rf"\bstruct\s+{name}\s*\{{"))
    return None if found is None else squeezed(found)


def enumeration(text: str, name: str) -> dict[str, str] | None:
    """The names of ``enum name`` with their values, counted where none is given; None where it is not defined."""
    body = braced(without_comments(text), re.compile(rf"\benum\s+{name}\s*\{{"))
    if body is None:
        return None
    found: dict[str, str] = {}
    following = 0
    for part in filter(None, (part.strip() for part in body.split(","))):
        word, _, value = part.partition("=")
        value = value.strip()
        if not value:
            value = str(following)
        found[word.strip()] = value
        number = found.get(value, value)
        following = int(number, 0) + 1 if re.fullmatch(r"-?(?:0x[0-9a-fA-F]+|\d+)", number) else following + 1
    return found


def function(text: str, name: str) -> str | None:
    """The body of the function ``name``, squeezed; None where it is not defined."""
    body = braced(without_comments(text), re.compile(rf"\b{name}\s*\([^;{{}}]*\)\s*(?:const\s*)?\{{"))
    return None if body is None else squeezed(body)


def literals(text: str) -> Iterator[str]:
    """The texts in quotation marks, those that follow one another as one, without comments."""
    joined = re.sub(r'"\s*(?:PRI\w+\s*)?"', "", without_comments(text))
    for match in re.finditer(LITERAL, joined):
        yield match[0][1:-1]
