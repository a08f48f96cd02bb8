"""``ggufrun card`` and ``ggufrun push``: publish a folder of quantizations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ggufrun.cli.flags import common
from ggufrun.cli.terminal import console
from ggufrun.units import size_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ggufrun.hub.upload import Upload
    from ggufrun.workflows.card import Quantization


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(card)
    app.command()(push)


Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Folder with GGUF files.", show_default=False, readable=False)
]


def card(
    folder: Folder,
    repo: Annotated[
        str | None, typer.Option("--repo", metavar="ORG/NAME", help="Where the files are to be published.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option("--base-model", metavar="ORG/NAME", help="What they were made from.")
    ] = None,
    license_name: Annotated[str | None, typer.Option("--license", metavar="ID", help="Such as apache-2.0.")] = None,
    language: Annotated[
        list[str] | None, typer.Option("--language", metavar="CODE", help="Such as zh; repeat for more.")
    ] = None,
    force: common.Force = False,
    as_json: common.Json = False,
) -> None:
    """Write a model card and checksums for quantizations.

    README.md gets the front matter that the hub reads, a table of files with sizes, bits per weight and the figures
    that `--receipt` has measured, and how to run them; SHA256SUMS the checksums. What the files do not say is taken
    from the flags.
    """
    from ggufrun.atomicfile import appearing
    from ggufrun.cli.terminal.progress import bytes_bar
    from ggufrun.errors import NotFoundError, TargetError
    from ggufrun.workflows import card as work

    if not folder.is_dir():
        raise NotFoundError(f"no such folder: {folder}", "name the folder with the quantizations")
    found = work.quantizations(folder)
    _warn_of_paths(found)
    paths = [folder / work.CARD, folder / work.SUMS]
    for path in paths:
        if path.exists() and not force:
            raise TargetError(f"{path} exists", "pass --force to replace it")
    options = work.CardOptions(repo, base_model, license_name, tuple(language or ()))
    text = work.card(folder, found, options)
    with bytes_bar(sum(path.stat().st_size for path in folder.glob("*.gguf")), "checksums") as advance:
        sums = work.checksums(folder, advance)
    for path, content in zip(paths, (text, sums), strict=True):
        with appearing(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
        if not as_json:
            console.print_path(path)
    if as_json:
        rows = [{"file": one.name, "type": one.type, "bytes": one.bytes, "receipt": one.receipt} for one in found]
        console.print_json({"files": [str(path) for path in paths], "models": rows})


def push(
    folder: Folder,
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Repository on the hub.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="BRANCH", help="Branch.  [default: main]")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent, and send nothing.")] = False,
    as_json: common.Json = False,
) -> None:
    """Publish a folder on the hub.

    The files are sent one by one by the hub's own client, which needs `hf auth login` or HF_TOKEN. A push that was cut
    continues when the command is run again: what the hub has already, as its digest says, is not sent again.
    """
    from ggufrun.checkpoint.gguf.header import read_header
    from ggufrun.errors import NotFoundError, UsageError
    from ggufrun.hub import parse, upload
    from ggufrun.workflows.card import local_paths

    spec = parse(repo)
    if spec.kind or spec.revision:
        raise UsageError(f"{repo} is not the name of a repository", "write ORG/NAME, and --revision for a branch")
    if not folder.is_dir():
        raise NotFoundError(f"no such folder: {folder}", "name the folder to publish")
    files = upload.files_to_upload(folder)
    for one in files:
        if one.path.suffix.lower() == ".gguf":
            _warn(one.path, local_paths(read_header(one.path)))
    sent: list[str] = []

    def report(one: Upload, was_sent: bool) -> None:
        if was_sent:
            sent.append(one.name)
        console.note(f"  {one.name}, {size_text(one.size)}: {'sent' if was_sent else 'there already'}")

    address = ""
    if dry_run:
        for one in files:
            console.note(f"  {one.name}, {size_text(one.size)}")
        console.note("  nothing was sent")
    else:
        address = upload.upload(spec.repo, files, private, revision, report)
    if as_json:
        console.print_json({"repo": spec.repo, "address": address, "files": [one.name for one in files], "sent": sent})
    elif address:
        console.say(address)


def _warn_of_paths(found: Sequence[Quantization]) -> None:
    from ggufrun.workflows.card import local_paths

    for one in found:
        _warn(one.model.path, local_paths(one.header))


def _warn(path: Path, found: dict[str, str]) -> None:
    for key, text in found.items():
        name = Path(text.replace("\\", "/")).name
        todo = f"change it: ggufrun edit {path} --set {key}={name}"
        console.warn(f"{path.name} holds a path of this machine in {key}; {todo}")
