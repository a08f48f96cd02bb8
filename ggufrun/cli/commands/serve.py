"""``ggufrun serve``: models over HTTP."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufrun.cli.flags import placement, records
from ggufrun.cli.flags.common import model_names
from ggufrun.cli.terminal import console
from ggufrun.errors import GgufrunError, NotFoundError
from ggufrun.units import parse_size

if TYPE_CHECKING:
    from ggufrun.server.catalog import Catalog, Entry


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("serve")(records.with_records_expanded(serve))


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL...]",
            help="Files, or names that list shows; NAME=MODEL serves a model under another name.",
            show_default=False,
            autocompletion=model_names,
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="Port to listen on; 0 for any free port.")
    ] = 8080,
    api_key: Annotated[
        list[str] | None,
        typer.Option("--api-key", metavar="KEY", help="Key that requests must carry; may be repeated."),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", metavar="FILE", help="File with API keys, one per line.", show_default=False),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Accept requests from other machines without a key.")
    ] = False,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--cors-origin", metavar="URL", help="Origin of a web page that may send requests; may be repeated."
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option("--allowed-host", metavar="NAME", help="Another host name of this server; may be repeated."),
    ] = None,
    ssl_key_file: Annotated[
        Path | None, typer.Option("--ssl-key-file", metavar="FILE", help="Private key for HTTPS.", show_default=False)
    ] = None,
    ssl_cert_file: Annotated[
        Path | None, typer.Option("--ssl-cert-file", metavar="FILE", help="Certificate for HTTPS.", show_default=False)
    ] = None,
    parallel: Annotated[
        int,
        typer.Option(
            "-np", "--parallel", metavar="N", min=1, max=256, help="Number of requests served at once, per model."
        ),
    ] = 4,
    keep_alive: Annotated[
        str, typer.Option("--keep-alive", metavar="TIME", help="Time that an idle model stays loaded (-1: forever).")
    ] = "5m",
    models_file: Annotated[
        Path | None,
        typer.Option("--models-file", metavar="FILE", help="Settings of single models.  [default: models.toml]"),
    ] = None,
    models_max: Annotated[
        int,
        typer.Option("--models-max", metavar="N", min=0, help="Largest number of loaded models (0: as many as fit)."),
    ] = 0,
    memory: Annotated[
        str | None,
        typer.Option("--memory", metavar="SIZE", help="Memory for all models together.  [default: most of the memory]"),
    ] = None,
    max_queue: Annotated[
        int,
        typer.Option(
            "--max-queue", metavar="N", min=0, max=100000, help="Largest number of waiting requests, per model."
        ),
    ] = 256,
    max_body: Annotated[str, typer.Option("--max-body", metavar="SIZE", help="Largest size of a request.")] = "64M",
    max_connections: Annotated[
        int,
        typer.Option("--max-connections", metavar="N", min=1, max=100000, help="Largest number of open connections."),
    ] = 2048,
    request_timeout: Annotated[
        str, typer.Option("--request-timeout", metavar="TIME", help="Longest time that a request waits for a model.")
    ] = "1h",
    stall_timeout: Annotated[
        str, typer.Option("--stall-timeout", metavar="TIME", help="A busy model that does not react is ended.")
    ] = "10m",
    grace: Annotated[
        str, typer.Option("--grace", metavar="TIME", help="Time that running answers get to finish at shutdown.")
    ] = "10s",
    page: Annotated[bool, typer.Option("--page/--no-page", help="The web page at /.")] = True,
    metrics: Annotated[bool, typer.Option("--metrics", help="Offer figures for Prometheus at /metrics.")] = False,
    log_requests: Annotated[
        bool, typer.Option("--log-requests", help="Log one line per request, without the content.")
    ] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show the output of llama.cpp's server.")] = False,
    ctx_size: Annotated[
        int | None,
        typer.Option(
            "-c",
            "--ctx-size",
            metavar="N",
            min=0,
            help="Length of the context per request; 0 for all that the model has.  [default: 4096]",
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option("-b", "--batch-size", metavar="N", min=1, help="Largest number of prompt tokens in one call.")
    ] = 2048,
    ubatch: Annotated[
        int,
        typer.Option(
            "-ub", "--ubatch-size", metavar="N", min=1, help="Largest number of prompt tokens computed at once."
        ),
    ] = 512,
    threads: Annotated[
        int | None,
        typer.Option(
            "-t", "--threads", metavar="N", min=1, max=512, help="Number of threads.  [default: one per core]"
        ),
    ] = None,
    threads_batch: Annotated[
        int | None,
        typer.Option("-tb", "--threads-batch", metavar="N", min=1, max=512, help="Number of threads for prompts."),
    ] = None,
    flash_attention: Annotated[
        str, typer.Option("-fa", "--flash-attn", metavar="on|off|auto", help="Use flash attention.")
    ] = "auto",
    cache_k: Annotated[
        str, typer.Option("-ctk", "--cache-type-k", metavar="TYPE", help="Data type of the cached keys.")
    ] = "f16",
    cache_v: Annotated[
        str, typer.Option("-ctv", "--cache-type-v", metavar="TYPE", help="Data type of the cached values.")
    ] = "f16",
    mmap: Annotated[
        bool, typer.Option("--mmap/--no-mmap", help="Map model files into memory, or read the whole files.")
    ] = True,
    mlock: Annotated[
        bool, typer.Option("--mlock", help="Lock models in memory, so that the system cannot swap them out.")
    ] = False,
    oversize: Annotated[bool, typer.Option("--oversize", help="Load models even if larger than the memory.")] = False,
    lora: Annotated[
        list[Path] | None, typer.Option("--lora", metavar="FILE", help="LoRA adapter in GGUF; may be repeated.")
    ] = None,
    lora_scaled: Annotated[
        list[str] | None,
        typer.Option("--lora-scaled", metavar="FILE:SCALE", help="LoRA adapter in GGUF with a scale; may be repeated."),
    ] = None,
    mmproj: Annotated[
        Path | None,
        typer.Option(
            "--mmproj", metavar="FILE", help="Projector file (mmproj) of a model that sees images.", show_default=False
        ),
    ] = None,
    draft: Annotated[
        str | None,
        typer.Option(
            "-md", "--draft-model", metavar="MODEL", help="Small draft model that guesses tokens.", show_default=False
        ),
    ] = None,
    style: Annotated[
        str | None,
        typer.Option("--style", metavar="NAME", help="Built-in prompt format, as in chat.", show_default=False),
    ] = None,
    chat_template: Annotated[
        Path | None,
        typer.Option(
            "--chat-template-file", metavar="FILE", help="File with a Jinja chat template.", show_default=False
        ),
    ] = None,
    think: Annotated[
        bool | None,
        typer.Option(
            "--think/--no-think", help="Turn thinking on or off, where the chat template has a switch for it."
        ),
    ] = None,
    place: placement.PlaceFlags = placement.PLAIN,
) -> None:
    """Serve models over HTTP: OpenAI's API, Ollama's and others.

    Without MODEL, every GGUF that list shows is offered. A model is loaded when a request asks for it, into a process
    of its own, and ends when it was idle for long enough or another one needs the memory.
    """
    from ggufrun import __version__
    from ggufrun.cli.flags import serve as meant
    from ggufrun.engine.context import ContextParams
    from ggufrun.server.executable import executable
    from ggufrun.server.pool import Limits, Pool
    from ggufrun.server.run import Listening
    from ggufrun.server.run import serve as listen
    from ggufrun.server.settings import Settings
    from ggufrun.server.times import parse_time

    keys = meant.keys(api_key or (), api_key_file)
    rules = meant.rules(host, keys, no_auth, cors_origin or (), allowed_host or (), max_body)
    # what is wrong with these is said before anything begins
    ContextParams(ctx_size, batch, ubatch, threads, threads_batch, flash_attention, cache_k, cache_v)
    settings = Settings(
        context=ctx_size,
        parallel=parallel,
        keep_alive=parse_time(keep_alive, "--keep-alive"),
        batch=batch,
        ubatch=ubatch,
        threads=threads,
        threads_batch=threads_batch,
        flash_attention=flash_attention,
        cache_k=cache_k,
        cache_v=cache_v,
        mmap=mmap,
        mlock=mlock,
        oversize=oversize,
        adapters=meant.adapters(lora or (), lora_scaled or ()),
        mmproj=_file(mmproj, "--mmproj"),
        draft=_draft(draft),
        style=_style(style),
        template=_template(chat_template),
        think=think,
    )
    catalog = meant.catalog(models or (), meant.placed(settings, place), models_file)
    if not catalog.entries:
        console.note("no models here yet; fetch one with `ggufrun pull org/name:Q4_K_M`")
    limits = Limits(
        models_max,
        max_queue,
        parse_time(request_timeout, "--request-timeout"),
        None if memory is None else parse_size(memory),
        max(1.0, parse_time(stall_timeout, "--stall-timeout")),
    )
    program = executable()
    listening = Listening(
        host,
        port,
        _file(ssl_key_file, "--ssl-key-file") or None,
        _file(ssl_cert_file, "--ssl-cert-file") or None,
        max_connections,
        parse_time(grace, "--grace"),
    )

    def ready(host: str, port: int) -> None:
        shown = f"[{host}]" if ":" in host else host
        _introduce(catalog, bool(keys), rules.loopback)
        sys.stdout.write(f"{listening.scheme}://{shown}:{port}\n")
        sys.stdout.flush()

    status = listen(
        catalog,
        lambda: Pool(program, limits, console.note, _kind, heard=console.note if verbose else None),
        _described,
        rules,
        listening,
        __version__,
        metrics=metrics,
        page=page,
        logged=_log if log_requests else None,
        ready=ready,
        preload=catalog.default if models else None,
        note=console.note,
    )
    raise typer.Exit(status)


def _introduce(catalog: Catalog, has_keys: bool, loopback: bool) -> None:
    names = [entry.name for entry in catalog.entries]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    console.note(
        f"{len(names)} model{'s' if len(names) != 1 else ''}: {', '.join(names[:8])}{more}" if names else "no models"
    )
    if has_keys:
        console.note("API keys are asked for")
    else:
        console.note(
            "no API key: this machine only" if loopback else "warning: no API key: everybody who can connect may ask"
        )
    console.note("Ctrl+C ends")


def _kind(entry: Entry) -> str:
    """What a model is for; empty where its file cannot be read, which loading will say better."""
    try:
        return str(_described(entry)["kind"])
    except (GgufrunError, OSError):
        return ""


def _described(entry: Entry) -> dict[str, Any]:
    stat = entry.path.stat()
    return _header(entry.path, stat.st_mtime_ns, stat.st_size)


_headers: dict[tuple[Path, int, int], dict[str, Any]] = {}


def _header(path: Path, changed: int, size: int) -> dict[str, Any]:
    from ggufrun.checkpoint.gguf.header import read_header
    from ggufrun.server.plan import describe

    key = (path, changed, size)
    if key not in _headers:
        _headers[key] = describe(path, read_header(path))
    return _headers[key]


def _log(method: str, path: str, status: int, seconds: float, notes: dict[str, Any]) -> None:
    model = f" {notes['model']}" if "model" in notes else ""
    console.note(f"{method} {path[:200]} {status}{model} {1000 * seconds:.0f} ms")


def _file(path: Path | None, flag: str) -> str:
    if path is None:
        return ""
    if not path.is_file():
        raise NotFoundError(f"{flag} {path}: no such file", "check the path")
    return str(path.absolute())


def _draft(name: str | None) -> str:
    if name is None:
        return ""
    from ggufrun.hub.models import resolve_model

    return str(resolve_model(name, gguf_only=True).absolute())


def _style(name: str | None) -> str | None:
    if name is not None:
        from ggufrun.chat.formats import stylebook

        return stylebook.find(name).name
    return None


def _template(path: Path | None) -> str | None:
    if path is None:
        return None
    from ggufrun.workflows import textfile

    return textfile.read(path, f"--chat-template-file {path}")
