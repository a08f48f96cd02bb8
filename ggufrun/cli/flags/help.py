"""How ``--help`` is laid out: options in sections with headings, each option on one line where nobody watches.

A terminal breaks long lines at its width. In a pipe an option stays in one line, so that ``| grep cache`` finds whole
descriptions.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer.core import TyperCommand

OPTIONS = "Options"
"""The heading of options that belong to no section."""

SECTIONS: dict[str, tuple[str, ...]] = {
    "Adapters": ("--lora", "--lora-out", "--lora-scaled"),
    "Types of tensors": (
        *("--type", "--fit", "--imatrix", "--tensor-type", "--output-tensor-type", "--token-embedding-type", "--pure"),
        *("--leave-output-tensor", "--allow-requantize", "--prune-layers"),
    ),
    "Vocabulary and metadata": ("--name", "--pretokenizer", "--chat-template", "--vocab-only", "--no-verify"),
    "Measurement": (
        *("--file", "--reference", "--chunks", "--from-chunk", "--process-output", "--parse-special", "--merge"),
        *("--n-prompt", "--n-gen", "-pg", "--repetitions", "--no-warmup"),
    ),
    "Context and computation": (
        *("--ctx-size", "--batch-size", "--ubatch-size", "--threads", "--threads-batch", "--flash-attn"),
        *("--cache-type-k", "--cache-type-v"),
    ),
    "Access": (
        *("--host", "--port", "--api-key", "--api-key-file", "--no-auth", "--cors-origin", "--allowed-host"),
        *("--ssl-key-file", "--ssl-cert-file"),
    ),
    "Limits": (
        *("--parallel", "--keep-alive", "--models-max", "--memory", "--max-queue", "--max-body", "--max-connections"),
        *("--request-timeout", "--grace"),
    ),
    "Prompt format": ("--style", "--chat-template-file", "--think"),
    "Loading": ("--mmap", "--mlock", "--oversize"),
    "Output": (
        *("--output", "--split-max-size", "--svg", "--receipt", "--save-every", "--dry-run", "--force", "--resume"),
        *("--json",),
    ),
}
"""The headings of options that are in no record."""

COLUMN = 30
"""The width of the names' column in a pipe; longer names push their description to the right."""


class SectionedCommand(TyperCommand):
    """A command whose options stand below the headings of their sections."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the sections in the order of their first option."""
        arguments: list[tuple[str, str]] = []
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            if row is None:
                continue
            if parameter.param_type_name == "argument":
                arguments.append(row)
            else:
                sections.setdefault(_heading(parameter), []).append(row)
        # --help, which Typer puts last, is an option of no section
        rest = sections.pop(OPTIONS, [])
        for title, rows in (("Arguments", arguments), *sections.items(), (OPTIONS, rest)):
            if rows:
                _section(formatter, title, rows)


class SectionedApp(typer.Typer):
    """An application whose commands are laid out so, unless they say otherwise."""

    def command(self, name: str | None = None, *, cls: type[TyperCommand] | None = None, **more: Any) -> Any:
        """Add a command, as Typer does."""
        return super().command(name, cls=cls or SectionedCommand, **more)


def _heading(parameter: Any) -> str:
    own: str | None = getattr(parameter, "rich_help_panel", None)
    return own or next((name for name, flags in SECTIONS.items() if set(flags) & set(parameter.opts)), OPTIONS)


def _section(formatter: Any, title: str, rows: list[tuple[str, str]]) -> None:
    with formatter.section(title):
        if _breaks_lines():
            formatter.write_dl(rows)
            return
        for names, text in rows:
            formatter.write(f"{'':>{formatter.current_indent}}{names:<{COLUMN}}  {text}\n")


def _breaks_lines() -> bool:
    return sys.stdout.isatty() or "COLUMNS" in os.environ
