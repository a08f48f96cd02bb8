"""The Typer application, and the one place where errors become a line on stderr and an exit status."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from ggufrun import __version__
from ggufrun.cli.commands import (
    bench,
    chat,
    compare,
    complete,
    convert,
    doctor,
    edit,
    imatrix,
    inspect,
    perplexity,
    publish,
    pull,
    quantize,
    remove,
    serve,
    split,
    verify,
    worker,
)
from ggufrun.cli.commands import list as local
from ggufrun.cli.flags.aliases import Commands
from ggufrun.cli.flags.help import SectionedApp
from ggufrun.cli.terminal import console
from ggufrun.cli.terminal.errors import explain, fail, let_go
from ggufrun.errors import GgufrunError

INTERRUPTED = 130
"""128 + SIGINT: what a shell reports for a program that Ctrl+C ended."""

app = SectionedApp(
    name="ggufrun",
    cls=Commands,
    help="Convert checkpoints to GGUF, quantize them, and talk to them.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ROOMS = (
    convert,
    quantize,
    chat,
    complete,
    serve,
    imatrix,
    perplexity,
    compare,
    bench,
    inspect,
    edit,
    split,
    pull,
    local,
    remove,
    verify,
    publish,
    worker,
    doctor,
)

for room in ROOMS:
    room.register(app)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"ggufrun {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # under nohup a vanished terminal is to be ignored
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    _open_streams()
    console.write_anything()
    try:
        try:
            app()
        except SystemExit:
            # at Python's own end a full disk would be no line, and status 120
            sys.stdout.flush()
            raise
    except SystemExit as stop:
        # typer turns KeyboardInterrupt into a silent exit
        if stop.code == INTERRUPTED:
            fail("interrupted", INTERRUPTED)
        raise
    except GgufrunError as error:
        fail(str(error), error.exit_status)
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output went away (`ggufrun ... | head`).
        let_go()
        sys.exit(1)
    except OSError as error:
        fail(explain(error), 1)
    sys.exit(0)


def _open_streams() -> None:
    """A service may start a program with its streams closed: they lead nowhere then, and no file gets their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))


def _interrupt(number: int, frame: object) -> NoReturn:
    """A job that is told to end cleans up as after Ctrl+C."""
    raise KeyboardInterrupt
