"""Chat templates: Jinja from a model file, which is to say code from a stranger, rendered in a sandbox.

The environment is the one that the templates were written for, that of transformers' ``apply_chat_template``:
``trim_blocks``, ``lstrip_blocks``, loop controls, ``raise_exception``, ``strftime_now`` and a ``tojson`` that keeps
characters as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from ggufrun.errors import FormatError, UsageError

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

Message = Mapping[str, str]
"""``role`` and ``content``."""

MAX_RENDERED = 1 << 24
"""Characters; a template that writes more is broken or hostile."""

ADVICE = "use --style, or another template with --chat-template"


class TemplateRefusal(FormatError):
    """The template itself raised an exception about the messages, with ``raise_exception``."""


class ChatTemplate:
    """A compiled template. Raises FormatError, naming the line, when it is no valid Jinja."""

    def __init__(self, source: str) -> None:
        from jinja2 import TemplateError, TemplateSyntaxError

        self.source = source
        try:
            self._template = _environment().from_string(source)
        except TemplateSyntaxError as error:
            raise FormatError(f"the chat template is broken in line {error.lineno}: {error.message}", ADVICE) from error
        except (TemplateError, RecursionError, MemoryError, ValueError, OverflowError, SyntaxError) as error:
            raise FormatError(f"the chat template is broken: {error}", ADVICE) from error

    def render(self, messages: Sequence[Message], *, bos: str, eos: str, prompt: bool) -> str:
        """The conversation as text; with ``prompt`` it ends where the assistant's answer begins.

        Raises TemplateRefusal when the template does not accept the messages, FormatError when it fails.
        """
        from jinja2 import TemplateError

        pieces: list[str] = []
        length = 0
        try:
            for piece in self._template.generate(
                messages=[dict(message) for message in messages],
                add_generation_prompt=prompt,
                bos_token=bos,
                eos_token=eos,
                tools=None,
                documents=None,
            ):
                length += len(piece)
                if length > MAX_RENDERED:
                    raise FormatError("the chat template writes without end", ADVICE)
                pieces.append(piece)
        except (FormatError, UsageError):
            raise
        except TemplateError as error:
            raise FormatError(f"the chat template fails{_line(error)}: {error}", ADVICE) from error
        except Exception as error:
            # Whatever Python raises inside a stranger's expression: a division by zero, a missing key, a recursion.
            kind = type(error).__name__
            raise FormatError(f"the chat template fails{_line(error)}: {kind}: {error}", ADVICE) from error
        return "".join(pieces)


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks the assistant's words for training; here only the words count."""

        tags = {"generation"}  # noqa: RUF012 - the name and the type are jinja2's

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Sandbox(ImmutableSandboxedEnvironment):
        """Jinja's sandbox guards attributes and ranges; this one also products, which can eat all memory at once."""

        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            numbers = all(isinstance(side, int | float) for side in (left, right))
            if operator == "**" and not (numbers and abs(left) <= 1e6 and abs(right) <= 64):
                raise SecurityError("a power this large is not allowed")
            if operator == "*" and not numbers:
                length = max((len(side) for side in (left, right) if hasattr(side, "__len__")), default=1)
                times = max((side for side in (left, right) if isinstance(side, int)), default=1)
                if length * times > MAX_RENDERED:
                    raise SecurityError("a product this large is not allowed")
            return super().call_binop(context, operator, left, right)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _refuse(message: object = "") -> None:
    raise TemplateRefusal(f"the chat template does not accept these messages: {message}", ADVICE)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes <, > and & for HTML, which no model was trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _line(error: BaseException) -> str:
    """``" in line N"``, from the frames that Jinja rewrote to the template's lines."""
    line = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in ("<template>", "<unknown>"):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" in line {line}" if line is not None else ""
