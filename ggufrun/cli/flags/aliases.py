"""What people who come from other tools type, and what it is called here."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from ggufrun.cli.flags.help import SectionedCommand
from ggufrun.errors import UsageError

COMMANDS = {
    "run": "write ggufrun chat MODEL",
    "generate": "write ggufrun complete MODEL -p TEXT, or ggufrun chat MODEL TEXT",
    "ls": "write ggufrun list",
    "show": "write ggufrun inspect MODEL",
    "info": "write ggufrun inspect MODEL",
    "create": "write ggufrun convert FOLDER",
    "get": "write ggufrun pull org/name:Q4_K_M",
    "download": "write ggufrun pull org/name:Q4_K_M",
    "ppl": "write ggufrun perplexity MODEL",
    "diff": "write ggufrun inspect MODEL --diff OTHER",
    "version": "write ggufrun --version",
    "delete": "write ggufrun remove NAME",
    "cp": "copy the model's file: ggufrun list --json says where it is",
    "upload": "write ggufrun push FOLDER ORG/NAME",
    "import": "put the file into the models folder: ggufrun list says where that is",
    "ps": "nothing runs in the background: a model is loaded by a command, and goes when that ends",
    "stop": "nothing runs in the background: a model goes when its command ends",
    "load": "ggufrun chat MODEL loads it",
    "unload": "nothing runs in the background: a model goes when its command ends",
    "server": "write ggufrun serve",
    "start": "write ggufrun serve",
}
"""Commands of Ollama, LM Studio, llama.cpp and mlx-lm, and what to do instead."""

CONVERTER_FLAGS = {"--outtype": "--type", "--outfile": "--output", "--model-name": "--name"}
"""Flags of llama.cpp's converter, and what they are called here."""


MORE = {
    "chat": "put quotation marks around a message of several words",
    "complete": "the text to continue goes after -p",
    "convert": "types go after -t: -t q4_k_m -t q8_0",
    "inspect": "two are compared with --diff OTHER",
    "pull": "fetch one after the other",
    "perplexity": "two are compared with --reference, several with ggufrun compare",
    "list": "quotation marks hold a name with spaces together",
    "doctor": "quotation marks hold a name with spaces together",
}
"""What to do about a word too many, by command."""


class Commands(TyperGroup):
    """The commands, and ``help COMMAND``, which is the same as ``COMMAND --help``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command. UsageError for one that another tool has, with what to do instead."""
        name = args[0]
        if name == "help":
            if not args[1:]:
                typer.echo(ctx.get_help())
                ctx.exit()
            return super().resolve_command(ctx, [args[1], "--help"])
        if name in COMMANDS:
            raise UsageError(f"there is no command {name} here", COMMANDS[name])
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command. UsageError for a word too many, with what was perhaps meant."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            # a kind of error that Typer has no name for in public
            name, words = ctx.invoked_subcommand, str(getattr(error, "message", ""))
            if name not in MORE or not words.startswith("Got unexpected extra argument"):
                raise
            extra = words[words.rindex(" (") + 2 : -1] if " (" in words else words
            raise UsageError(f"unexpected argument: {extra}", MORE[name]) from error


class Converting(SectionedCommand):
    """`convert`, which takes the flags of llama.cpp's converter, too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give the flags their names, then parse."""
        return super().parse_args(ctx, [_translated(arg) for arg in args])


def _translated(arg: str) -> str:
    flag, equals, value = arg.partition("=")
    return CONVERTER_FLAGS.get(flag, flag) + equals + value
