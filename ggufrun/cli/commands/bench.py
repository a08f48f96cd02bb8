"""``ggufrun bench``: how fast models read and write."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufrun.cli.flags import common, measuring, placement
from ggufrun.cli.terminal import bench_table, console
from ggufrun.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ggufrun.engine.context import ContextParams
    from ggufrun.engine.model import Model
    from ggufrun.evaluate.bench import Result, Test

Counts = list[str] | None


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(placement.with_flags(bench))


def bench(
    names: Annotated[
        list[str],
        typer.Argument(autocompletion=common.model_names, metavar="MODEL", help="GGUF files.", show_default=False),
    ],
    prompt: Annotated[
        Counts,
        typer.Option("-p", "--n-prompt", metavar="N[,N]", help="Numbers of prompt tokens to test.  [default: 512]"),
    ] = None,
    generate: Annotated[
        Counts,
        typer.Option("-n", "--n-gen", metavar="N[,N]", help="Numbers of generated tokens to test.  [default: 128]"),
    ] = None,
    both: Annotated[
        Counts, typer.Option("-pg", metavar="PP,TG", help="Test of a prompt followed by generation, in one figure.")
    ] = None,
    repetitions: Annotated[
        int, typer.Option("-r", "--repetitions", metavar="N", min=1, help="Number of runs of every test.")
    ] = 5,
    threads: Annotated[
        Counts,
        typer.Option("-t", "--threads", metavar="N[,N]", help="Numbers of threads to test.  [default: one per core]"),
    ] = None,
    batch_size: Annotated[int, typer.Option("-b", "--batch-size", help="Largest number of tokens in one call.")] = 2048,
    ubatch_size: measuring.MicroBatch = 512,
    type_k: Annotated[str, typer.Option("-ctk", "--cache-type-k", help="Data type of the cached keys.")] = "f16",
    type_v: Annotated[str, typer.Option("-ctv", "--cache-type-v", help="Data type of the cached values.")] = "f16",
    flash_attention: measuring.FlashAttention = "auto",
    place: placement.PlaceFlags = placement.PLAIN,
    no_warmup: Annotated[
        bool, typer.Option("--no-warmup", help="Skip the warm-up run before the measured runs.")
    ] = False,
    as_json: common.Json = False,
) -> None:
    """Measure speed: tokens a second, reading and generating.

    Reading a prompt is called pp, generating tg. The tests and the table are llama-bench's.
    """
    from ggufrun.engine.context import ContextParams
    from ggufrun.engine.placement.devices import has_gpu
    from ggufrun.engine.threads import default_threads
    from ggufrun.evaluate.bench import Test

    tests = [Test(count, 0) for count in _numbers("-p", prompt, [512]) if count]
    tests += [Test(0, count) for count in _numbers("-n", generate, [128]) if count]
    tests += [_pair(text) for text in both or ()]
    if not tests:
        raise UsageError("there is nothing to measure", "give tokens with -p or -n")
    runs = [
        ContextParams(
            n_batch=batch_size,
            n_ubatch=ubatch_size,
            threads=count,
            flash_attention=flash_attention,
            type_k=type_k,
            type_v=type_v,
        )
        for count in _numbers("-t", threads, [default_threads()])
    ]
    placement.connect(place)
    largest = replace(runs[0], n_ctx=max(test.prompt + test.generate for test in tests))
    asked = {"ngl": has_gpu(), "fa": flash_attention != "auto", "threads": len(runs) > 1, "model": len(names) > 1}
    columns = bench_table.columns({name for name, is_asked in asked.items() if is_asked})
    rows: list[dict[str, Any]] = []
    sources = [measuring.find(name) for name in names]
    for source in sources:
        with measuring.open_model(source, place, largest) as model:
            for params in runs:
                _run(model, tests, params, repetitions, not no_warmup, rows, None if as_json else columns)
    if as_json:
        console.print_json(rows)


def _run(
    model: Model,
    tests: Sequence[Test],
    params: ContextParams,
    repetitions: int,
    warm_up: bool,
    rows: list[dict[str, Any]],
    columns: bench_table.Columns | None,
) -> None:
    from contextlib import closing

    from ggufrun.evaluate import bench as work

    status = console.err().status("") if console.err().is_terminal else None

    def say(test: Test, number: int) -> None:
        if status is not None:
            what = f"run {number} of {repetitions}" if number else "warm-up"
            status.update(console.literal(f"{model.path.name}: {test.name}, {what}"))

    if status is not None:
        status.start()
    try:
        with closing(work.run(model, tests, params, repetitions, warm_up, say)) as results:
            for result in results:
                row = _as_dict(model, result, params)
                rows.append(row)
                if columns is not None:
                    # else the row would stand behind what the status line says
                    if status is not None:
                        status.stop()
                    if len(rows) == 1:
                        bench_table.print_head(columns)
                    bench_table.print_row(row, columns)
                    if status is not None:
                        status.start()
    finally:
        if status is not None:
            status.stop()


def _numbers(flag: str, texts: Sequence[str] | None, default: list[int]) -> list[int]:
    found = []
    for part in (part for text in texts or () for part in text.split(",")):
        if not part.strip().isdecimal() or int(part) >= 1 << 24:
            raise UsageError(f"{flag} {part!r} is not a number of tokens or threads", f"for example {flag} 128,512")
        found.append(int(part))
    return found if texts else default


def _pair(text: str) -> Test:
    from ggufrun.evaluate.bench import Test

    numbers = _numbers("-pg", [text], [])
    if len(numbers) != 2 or not sum(numbers):
        raise UsageError(f"-pg {text} is not a pair", "write for example -pg 512,128")
    return Test(*numbers)


def _as_dict(model: Model, result: Result, params: ContextParams) -> dict[str, Any]:
    from ggufrun.engine.placement.devices import backends
    from ggufrun.evaluate.bench import deviation
    from ggufrun.native.library import llama

    nanoseconds = [round(1e9 * sample) for sample in result.samples]
    return {
        "backends": backends(),
        "model_filename": str(model.path),
        "model_type": model.description,
        "model_size": model.size,
        "model_n_params": model.parameters,
        "n_batch": params.n_batch,
        "n_ubatch": params.n_ubatch,
        "n_threads": result.threads,
        "type_k": params.type_k,
        "type_v": params.type_v,
        "n_gpu_layers": model.params.gpu_layers if model.params.gpu_layers is not None else -1,
        "flash_attn": params.flash_attention,
        "n_prompt": result.test.prompt,
        "n_gen": result.test.generate,
        "test": result.test.name,
        "avg_ns": round(sum(nanoseconds) / len(nanoseconds)),
        "stddev_ns": round(deviation(nanoseconds)),
        "avg_ts": result.mean,
        "stddev_ts": result.deviation,
        "samples_ns": nanoseconds,
        "samples_ts": list(result.speeds),
        "system": llama().llama_print_system_info().decode("utf-8", "replace").strip(),
        "processors": os.cpu_count(),
    }
