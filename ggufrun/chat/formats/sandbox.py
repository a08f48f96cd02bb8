"""Jinja from a model file, which is to say code from a stranger, rendered in a sandbox.

The sandbox keeps it from everything but its own values, and its bounds stop what is written in Python. They cannot stop
a single call that does not come back, such as a comparison of lists that hold one another a thousand times; that is
what `template_process` is for.

The environment is the one that the templates were written for, that of transformers' ``apply_chat_template``:
``trim_blocks``, ``lstrip_blocks``, loop controls, ``generation`` blocks, ``raise_exception``, ``strftime_now`` and a
``tojson`` that keeps characters as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from ggufrun.chat.formats.limits import Bounds, OutOfTime, bounded
from ggufrun.errors import FormatError, UsageError

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_RENDERED = 1 << 24
"""Characters; a template that writes more is broken or hostile."""

MAX_MESSAGE = 400
"""Characters of an error that are shown."""

ADVICE = "use --style, or another template with --chat-template"


class TemplateRefusal(FormatError):
    """The template itself raised an exception about the messages, with ``raise_exception``."""


class TemplateExcess(FormatError):
    """The template wants more time, memory or room than any that is sound: no use in trying it in another way."""


class Compiled:
    """A template that this process renders by itself. Raises FormatError, naming the line, when it is not valid Jinja.

    ``bounds`` hold for compiling and for each rendering.
    """

    def __init__(self, source: str, bounds: Bounds) -> None:
        from jinja2 import TemplateError, TemplateSyntaxError, meta

        self.bounds = bounds
        try:
            environment = _environment()
            with bounded(bounds):
                # What is constant is computed already here.
                self._template = environment.from_string(source)
                self.variables = frozenset(meta.find_undeclared_variables(environment.parse(source)))
        except OutOfTime as error:
            raise TemplateExcess("the chat template does not come to an end", ADVICE) from error
        except TemplateSyntaxError as error:
            what = f"the chat template is broken in line {error.lineno}: {_short(error.message)}"
            raise FormatError(what, ADVICE) from error
        except MemoryError as error:
            raise TemplateExcess("the chat template wants too much memory", ADVICE) from error
        except (TemplateError, RecursionError, ValueError, OverflowError, SyntaxError) as error:
            raise FormatError(f"the chat template is broken: {_short(error)}", ADVICE) from error

    def render(self, values: Mapping[str, Any]) -> str:
        """The text that the template makes of ``values``. Raises TemplateRefusal, TemplateExcess, FormatError."""
        from jinja2 import TemplateError

        pieces: list[str] = []
        length = 0
        try:
            with bounded(self.bounds):
                for piece in self._template.generate(values):
                    length += len(piece)
                    if length > MAX_RENDERED:
                        raise TemplateExcess("the chat template writes without end", ADVICE)
                    pieces.append(piece)
        except OutOfTime as error:
            raise TemplateExcess(f"the chat template does not come to an end{_line(error)}", ADVICE) from error
        except MemoryError as error:
            raise TemplateExcess(f"the chat template wants too much memory{_line(error)}", ADVICE) from error
        except (FormatError, UsageError):
            raise
        except TemplateError as error:
            raise FormatError(f"the chat template fails{_line(error)}: {_short(error)}", ADVICE) from error
        except Exception as error:
            # Whatever Python raises inside a stranger's expression: a division by zero, a missing key, a recursion.
            kind = type(error).__name__
            raise FormatError(f"the chat template fails{_line(error)}: {kind}: {_short(error)}", ADVICE) from error
        return "".join(pieces)


def _short(said: object) -> str:
    """What an error says, in one line."""
    text = str(said)
    return " ".join(text[:MAX_MESSAGE].split()) + ("…" if len(text) > MAX_MESSAGE else "")


def prepare_sandbox() -> None:
    """Load what compiling needs."""
    _environment()


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """``{% generation %}`` marks the assistant's words for training; here only the words count.

        As in transformers the words are a block of their own: what is set in it is not seen behind it.
        """

        tags = {"generation"}  # noqa: RUF012 - the name and the type are jinja2's

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_words"), [], [], body).set_lineno(line)

        def _words(self, caller: Callable[[], str]) -> str:
            return caller()

    class Notebook(Namespace):
        """``namespace()``, which keeps no names that begin with an underscore: they might reach into Python."""

        def __init__(*args: Any, **values: Any) -> None:
            # a name may be called "self"
            itself, *rest = args
            kept = dict(*rest, **values)
            for name in kept:
                _check_name(name)
            Namespace.__init__(itself, kept)

        def __setitem__(self, name: str, value: Any) -> None:
            _check_name(name)
            super().__setitem__(name, value)

    def _check_name(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace may not keep {name!r}")

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
    environment.globals["namespace"] = Notebook
    return environment


def _refuse(message: object = "") -> None:
    raise TemplateRefusal(f"the chat template does not accept these messages: {_short(message)}", ADVICE)


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
