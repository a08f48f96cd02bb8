"""``ggufrun doctor``: this machine, the engine's build, and what will be used."""

from __future__ import annotations

import json
import platform
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ggufrun import __version__
from ggufrun.cli.flags import measuring, placement
from ggufrun.cli.jobs import device_proof
from ggufrun.cli.jobs.doctor_findings import Finding, judge
from ggufrun.cli.terminal import abort, console, memory_table
from ggufrun.errors import EngineError, GgufrunError

MARKS = {"ok": ("✓", "+", "green"), "hint": ("!", "!", "yellow"), "bad": ("✗", "x", "red")}
"""Marks of the states, those where there is no Unicode, and colours."""

PROBE = "import sys; from ggufrun.cli.commands.doctor import probe; probe(*sys.argv[1:])"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def doctor(
        model: Annotated[
            str | None,
            typer.Argument(metavar="MODEL", help="Model whose place on the devices is shown.", show_default=False),
        ] = None,
        context: Annotated[
            int | None, typer.Option("-c", "--ctx-size", help="Length of the context for MODEL, in tokens.")
        ] = None,
        rpc: Annotated[
            str | None, typer.Option("--rpc", metavar="HOST:PORT,..", help="Also test the devices of these workers.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
    ) -> None:
        """Look at this machine: engine, kernels, devices, memory.

        It says what will be used, and what to mend. Every GPU is tried: the embedded model, all of it there, must give
        the processor's results.
        """
        facts = collect(rpc or "")
        findings = judge(facts)
        with abort.guarded():
            chosen = budget_of(model, context, rpc) if model is not None else None
        if as_json:
            extra = {} if chosen is None else {"budget": memory_table.as_json(*chosen)}
            console.print_json({**facts, **extra, "findings": [asdict(finding) for finding in findings]})
        else:
            show(findings)
            if chosen is not None:
                memory_table.show(*chosen)
        # A broken engine is worth an exit status, so that a script may ask.
        if problem := facts["engine"].get("error"):
            raise EngineError(problem, facts["engine"]["todo"])


# --- collecting -------------------------------------------------------------------------------------------------------


def collect(rpc: str = "") -> dict[str, Any]:
    """All facts, as they go into ``--json``; ``rpc`` names workers whose devices count."""
    from ggufrun.engine.placement import system_memory
    from ggufrun.engine.threads import default_threads
    from ggufrun.evaluate import machine
    from ggufrun.hub.models import models_folder
    from ggufrun.server.executable import try_out

    models = models_folder()
    server = try_out()
    engine = ask_engine((sys.executable, "-c", PROBE, rpc))
    return {
        "ggufrun": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": {**asdict(machine.processor()), "threads": default_threads()},
        "memory": asdict(system_memory.memory()),
        "disk_free": machine.disk_free(Path()),
        "engine": engine.get("engine", {}),
        "server": None if server is None else asdict(server),
        "kernels": engine.get("kernels", {}),
        "offload": device_proof.prove_all(engine.get("engine", {}).get("devices", []), rpc),
        "nvidia": [asdict(card) for card in machine.nvidia_cards()],
        "amd": machine.amd_present(),
        "models": {
            "folder": str(models.absolute()),
            "files": len(list(models.rglob("*.gguf"))) if models.is_dir() else None,
        },
    }


def probe(rpc: str = "") -> None:
    """Print what the engine says about itself as JSON: the part of the report that a broken engine could end."""
    from ggufrun.evaluate.build import engine_build

    result: dict[str, Any] = {}
    try:
        if rpc:
            from ggufrun.engine.placement.remote import connect, parse

            connect(parse(rpc))
        result["engine"] = asdict(engine_build())
        from ggufrun.quantize.kernels import measure

        speed = measure()
        result["kernels"] = {**asdict(speed), "tuned": speed.tuned}
    except GgufrunError as error:
        result["engine"] = {"error": error.what, "todo": error.todo}
    sys.stdout.write("\n" + json.dumps(result))


def ask_engine(command: Iterable[str] = (sys.executable, "-c", PROBE)) -> dict[str, Any]:
    """Run ``probe`` in a process of its own, and say in words how it ended if it ended badly."""
    try:
        done = subprocess.run([*command], capture_output=True, text=True, errors="replace", timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return {"engine": broken("the engine does not answer")}
    if done.returncode < 0:
        try:
            name = signal.Signals(-done.returncode).name
        except ValueError:
            name = f"signal {-done.returncode}"
        if name == "SIGILL":
            return {"engine": broken("the engine was built for another processor (SIGILL)")}
        said = f": {abort.died(done.stderr.strip())}" if "error" in done.stderr.lower() else ""
        return {"engine": broken(f"the engine ends the process that loads it ({name}){said}")}
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        return {"engine": broken(f"the engine cannot be asked: {last}")}
    return answer


def broken(what: str) -> dict[str, str]:
    """The facts about an engine that does not work."""
    return {"error": what, "todo": "build it again: `make engine`, or `pip install --force-reinstall llama-cpp-python`"}


def budget_of(name: str, context: int | None, rpc: str | None) -> tuple[Any, list[str]]:
    """Where the model called ``name`` would go."""
    from ggufrun.engine.context import ContextParams
    from ggufrun.workflows.memory_budget import budget

    flags = placement.PlaceFlags(rpc=rpc)
    model = placement.params(measuring.find(name), flags)
    return budget(model, ContextParams(n_ctx=context), placement.margin(flags))


# --- showing ----------------------------------------------------------------------------------------------------------


def show(findings: list[Finding]) -> None:
    """A table for people, plain lines for pipes."""
    if not sys.stdout.isatty():
        for finding in findings:
            line = f"{finding.name}\t{finding.value}" + (f"\t{finding.hint}" if finding.hint else "")
            sys.stdout.write(line + "\n")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mark, plain, colour = MARKS[finding.state]
        value = console.literal(finding.value)
        if finding.hint:
            value.append(f"\n{finding.hint}", style="dim" if finding.state == "ok" else colour)
        table.add_row(
            Text(mark if console.can_write(mark) else plain, style=colour), Text(finding.name, style="bold"), value
        )
    console.out().print(table)
