"""``ggufrun edit``: change the metadata of a GGUF."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ggufrun.cli.flags import common
from ggufrun.cli.terminal import console

TEMPLATE = "tokenizer.chat_template"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(edit)


def edit(
    model: Annotated[
        str, typer.Argument(autocompletion=common.model_names, metavar="FILE", help="GGUF file.", show_default=False)
    ],
    values: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a key; repeat for more.")
    ] = None,
    removed: Annotated[list[str] | None, typer.Option("--remove", metavar="KEY", help="Remove a key.")] = None,
    template: Annotated[
        Path | None, typer.Option("--chat-template", metavar="FILE", help="Set the chat template from a file.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="PATH", help="Write a copy, and leave FILE as it is.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the changes, and write nothing.")] = False,
    force: common.Force = False,
    as_json: common.Json = False,
) -> None:
    """Change the metadata of a GGUF.

    Keys are set or removed, and the chat template is replaced. A value takes the type that its key has; a type before a
    colon (u32:4096, f32:1.0, bool:true, str:text) names another, and a list is written as JSON. The tensors stay as
    they are. A change that fits is written in place, any other as a copy that replaces the file when it is whole; of a
    split model, its first part is changed.
    """
    from ggufrun.checkpoint.gguf.header import read_header
    from ggufrun.convert.edit import changed_header, check_edit, parse_value, write_edit
    from ggufrun.errors import UsageError
    from ggufrun.hub import resolve_model
    from ggufrun.workflows.convert import read_template

    path = resolve_model(model, gguf_only=True)
    before = read_header(path)
    wanted = {}
    for text in values or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {text} is not KEY=VALUE", "write for example --set general.name=Poet")
        wanted[key] = parse_value(key, value, before.metadata.get(key))
    if template is not None:
        wanted[TEMPLATE] = parse_value(TEMPLATE, f"str:{read_template(template)}", None)
    if not wanted and not removed:
        raise UsageError("no change is asked for", "give --set KEY=VALUE, --remove KEY or --chat-template FILE")
    after = changed_header(before, wanted, removed or [])
    check_edit(path, before, after)
    changes = [_change(key, before.get(key), after.get(key)) for key in (*wanted, *(removed or []))]
    in_place = None if dry_run else write_edit(path, after, output or path, force)
    if as_json:
        told = {"path": str(output or path), "written": not dry_run, "in_place": in_place, "changes": changes}
        console.print_json(told)
        return
    for change in changes:
        console.note(f"  {change['key']}: {_shown(change['before'])} -> {_shown(change['after'])}")
    if dry_run:
        console.note("  nothing was written")
    else:
        console.print_path(output or path)


def _change(key: str, before: Any, after: Any) -> dict[str, Any]:
    return {"key": key, "before": before, "after": after}


def _shown(value: Any) -> str:
    text = "(none)" if value is None else str(value)
    return console.shown(text if len(text) <= 60 else f"{text[:57]}...")
