"""What is said to a model: the text of the command line, and how a message becomes a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from ggufrun import jsontext
from ggufrun.cli.flags.option import option, read_text, switch
from ggufrun.errors import UsageError

if TYPE_CHECKING:
    from ggufrun.chat.formats.choose_format import FormatOptions


@dataclass(frozen=True)
class TextFlags:
    """The text that the command line brings, and what a backslash in a text means."""

    SECTION: ClassVar[str] = "Text"

    prompt: Annotated[
        str | None,
        option(
            "-p", "--prompt", help="First message, or the text to continue; unwrapped with --in-prefix or --in-suffix."
        ),
    ] = None
    prompt_file: Annotated[
        Path | None, option("-f", help="File with the first message, or with the text to continue.", metavar="FILE")
    ] = None
    escape: Annotated[
        bool | None,
        option(
            "-e/--no-escape",
            "--escape",
            help="Expand \\n and other escapes also in typed messages (-e), or nowhere (only in -p, -r and affixes).",
        ),
    ] = None

    def expanded(self, text: str) -> str:
        """``text`` with its escapes expanded, unless --no-escape says otherwise."""
        from ggufrun.chat.escapes import expand

        return text if self.escape is False else expand(text)

    def opening(self) -> str | None:
        """The text of ``-p`` or ``-f``, escapes expanded unless that is switched off. Raises UsageError."""
        if self.prompt is not None and self.prompt_file is not None:
            raise UsageError("-p and -f both give the prompt", "give one of them")
        text = self.prompt if self.prompt_file is None else read_text(self.prompt_file, "-f")
        return self.expanded(text) if text else None


@dataclass(frozen=True)
class AnswerFlags:
    """Where an answer ends."""

    SECTION: ClassVar[str] = "Length of answers"

    n_predict: Annotated[
        int | None,
        option(
            "-n",
            "--predict",
            "--n-predict",
            help="Largest number of tokens in an answer; -1 for no limit, -2 until the context is full.",
        ),
    ] = None
    reverse: Annotated[
        list[str] | None,
        option("-r", "--reverse-prompt", help="Stop an answer at this text; may be repeated.", metavar="TEXT"),
    ] = None

    def limit(self) -> int | None:
        """``-n``; None when it was left out: then an answer is not longer than the context. Raises UsageError."""
        if self.n_predict is not None and self.n_predict < -2:
            hint = "give a count of tokens, -1 for no end, -2 for a full context"
            raise UsageError(f"-n is {self.n_predict}", hint)
        return self.n_predict


@dataclass(frozen=True)
class FormatFlags:
    """How a message becomes a prompt."""

    SECTION: ClassVar[str] = "Prompt format"

    system: Annotated[str | None, option("-sys", "--system-prompt", help="System prompt.")] = None
    system_file: Annotated[
        Path | None, option("-sysf", "--system-prompt-file", help="File with the system prompt.", metavar="FILE")
    ] = None
    style: Annotated[
        str | None,
        option("--style", help="Built-in prompt format: alpaca-2, llama-2, chatml, none, ...", metavar="NAME"),
    ] = None
    chat_template: Annotated[
        str | None,
        option(
            "--chat-template", help="Jinja chat template, a file with one, or the name of a style.", metavar="JINJA"
        ),
    ] = None
    chat_template_file: Annotated[
        Path | None, option("--chat-template-file", help="File with a Jinja chat template.", metavar="FILE")
    ] = None
    chat_template_kwargs: Annotated[
        str | None,
        option("--chat-template-kwargs", help="Variables for the chat template, as a JSON object.", metavar="JSON"),
    ] = None
    think: Annotated[
        bool | None,
        option("--think/--no-think", help="Turn thinking on or off, where the chat template has a switch for it."),
    ] = None
    reasoning: Annotated[
        str | None,
        option(
            "-rea",
            "--reasoning",
            help="Turn thinking on or off, spelled as in llama.cpp.",
            metavar="[on|off|auto]",
        ),
    ] = None
    reasoning_effort: Annotated[
        str | None,
        option("--reasoning-effort", help="Amount of thinking: low, medium or high.", metavar="LEVEL"),
    ] = None
    in_prefix: Annotated[str | None, option("--in-prefix", help="Text to put before every message.")] = None
    in_suffix: Annotated[str | None, option("--in-suffix", help="Text to put after every message.")] = None
    in_prefix_bos: Annotated[
        bool, option("--in-prefix-bos", help="Put the beginning-of-text token before --in-prefix.")
    ] = False
    conversation: Annotated[
        bool | None,
        option(
            "-cnv/-no-cnv",
            "--conversation/--no-conversation",
            help="Use the model's prompt format, or no prompt format at all.",
        ),
    ] = None

    def system_prompt(self, text: TextFlags) -> str | None:
        """The text of ``-sys`` or ``-sysf``; empty means none, None that nothing was said. Raises UsageError."""
        if self.system is not None and self.system_file is not None:
            raise UsageError("-sys and -sysf both give the system prompt", "give one of them")
        # llama.cpp expands no escapes here unless the user insists.
        found = self.system if self.system_file is None else read_text(self.system_file, "-sysf")
        return text.expanded(found) if found is not None and text.escape else found

    def options(self, text: TextFlags, answer: AnswerFlags) -> FormatOptions:
        """What the prompt format is chosen by. Raises UsageError."""
        from ggufrun.chat.formats.choose_format import FormatOptions

        template = self.chat_template
        if self.chat_template_file is not None:
            if template is not None:
                raise UsageError("--chat-template and --chat-template-file both give a template", "give one of them")
            template = read_text(self.chat_template_file, "--chat-template-file")
        return FormatOptions(
            style=self.style,
            template=template,
            prefix=None if self.in_prefix is None else text.expanded(self.in_prefix),
            suffix=None if self.in_suffix is None else text.expanded(self.in_suffix),
            prefix_bos=self.in_prefix_bos,
            reverse=tuple(text.expanded(stop) for stop in answer.reverse or ()),
            raw=self.conversation is False,
            variables=self.variables(),
            think=self._thinks(),
        )

    def is_given(self, answer: AnswerFlags) -> bool:
        """Do the flags say anything about the prompt format? Not the system prompt, which is put into any."""
        own = {name: value for name, value in vars(self).items() if name not in ("system", "system_file")}
        return (
            self.in_prefix_bos
            or answer.reverse is not None
            or any(value is not None for name, value in own.items() if name != "in_prefix_bos")
        )

    def variables(self) -> dict[str, Any]:
        """``--chat-template-kwargs`` and ``--reasoning-effort``. Raises UsageError."""
        variables: Any = {}
        if self.chat_template_kwargs is not None:
            try:
                variables = jsontext.parse(self.chat_template_kwargs)
            except ValueError as error:
                raise UsageError(f"--chat-template-kwargs is not JSON: {error}", "give an object") from error
            if not isinstance(variables, dict):
                raise UsageError("--chat-template-kwargs is not a JSON object", 'write it as {"name": value}')
        effort = self.reasoning_effort
        return variables if effort in (None, "default") else {**variables, "reasoning_effort": effort}

    def _thinks(self) -> bool | None:
        wanted = switch("--reasoning", self.reasoning)
        if wanted is not None and self.think is not None:
            raise UsageError("--think and --reasoning say the same", "give one of them")
        return {"on": True, "off": False}.get(wanted or "", self.think)
