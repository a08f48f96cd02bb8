"""usage: python -m tools.bench.gpu [--runs 3] [--folder DIR] [--only NAME] [--shape NAME] [--rpc HOST:PORT] [--dry]

Everything that has to be shown on a machine with a card, in one command; `make gpu-check` runs it. The engine must be
built for the card (`make cuda`, `make vulkan`). llama-bench comes from ``ORACLE_BIN`` and is given the engine's own
libraries; without it those rows are left out, and that is said. On a machine without a card the script can be tried
with a worker's devices (``--rpc``), or with Mesa's software device (``GGML_VK_VISIBLE_DEVICES=0``, and
``--shape tang-poet``). The figures are appended to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufrun.native.library import library_path
from tools.bench.__main__ import RESULTS, TABLE
from tools.bench.comparisons import find_oracle
from tools.bench.measuring import ROOT, Comparison, machine, measure, row, with_engine
from tools.bench.work import DEMO, SHAPES, Shape, make_checkpoint

SEVEN = Shape(4096, 11008, 32, 32)
POEM = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n"

BUDGETS = (0.15, 0.3, 0.5, 0.7, 0.85, 0.95)
"""Parts of what the whole model takes that are left free for it."""

SAME_PERPLEXITY = 1e-3
"""Relative difference that is allowed between the card and the processor."""


PROCESSOR = ["-ngl", "0", "-dev", "none"]
"""Nothing on a card, not even the long prompts that it would help with."""


@dataclass(frozen=True)
class Bench:
    """Where the files are, how often to measure, and the flags that name the devices."""

    folder: Path
    runs: int
    devices: tuple[str, ...]
    shapes: tuple[str, ...] = ("llama-1.3b", "llama-7b")

    def ggufrun(self, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the command line on the devices; a failure ends the script with what it said."""
        command = [sys.executable, "-m", "ggufrun", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if check and done.returncode != 0:
            sys.exit(f"gpu-check: {' '.join(command[2:])} failed with {done.returncode}\n{done.stderr[-2000:]}")
        return done

    def model(self, name: str, kind: str) -> Path:
        """A file of type ``kind`` of the embedded model or of a random one; made once."""
        path = self.folder / f"{name}-{kind}.gguf"
        if not path.exists():
            source = DEMO
            if name != "tang-poet":
                source = self.folder / name
                make_checkpoint(source, SEVEN if name == "llama-7b" else SHAPES[name])
            self.ggufrun("convert", source, "-t", kind, "-o", path, "--force", "--no-verify")
            if name == "llama-7b":
                shutil.rmtree(source)
        return path


def line(what: str, ours: str, against: str = "", it: str = "", ratio: str = "", target: str = "") -> str:
    """A row of the table."""
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return f"| {today} | {what} | {ours} | {against} | {it} | {ratio} | {target} |"


# --- the steps --------------------------------------------------------------------------------------------------------


def proof(bench: Bench) -> Iterator[str]:
    """doctor's own verdict on every device."""
    facts = json.loads(bench.ggufrun("doctor", *bench.devices, "--json").stdout)
    if not facts["offload"]:
        sys.exit("gpu-check: the engine sees no GPU; `ggufrun doctor` says why")
    for one in facts["offload"]:
        if "error" in one:
            sys.exit(f"gpu-check: {one['device']}: {one['error']}")
        mine, other = one["speeds"], one["processor"]
        yield line(
            f"`doctor`: {one['device']}, embedded model F16",
            f"{one['same']} of {one['places']} choices, difference {one['difference']:.1e}",
            "the processor",
            "",
            f"pp128 {mine['prompt'] / other['prompt']:.2g}, tg32 {mine['generation'] / other['generation']:.2g}",
            "works" if one["works"] else "DOES NOT WORK",
        )


def poem(bench: Bench) -> Iterator[str]:
    """The embedded model recites on the card."""
    path = bench.model("tang-poet", "f16")
    begun = time.perf_counter()
    said = bench.ggufrun("chat", path, "背一下静夜思", "--temp", 0, "-ngl", "all", *bench.devices).stdout
    seconds = time.perf_counter() - begun
    verdict = "exact" if said == POEM else "WRONG"
    yield line("a poem from the embedded model, start to end", f"{seconds:.2f} s", target=verdict)


def speed(bench: Bench) -> Iterator[str]:
    """Reading and writing, against llama-bench with the same libraries."""
    oracle = find_oracle()
    why = "no ORACLE_BIN" if oracle is None else "a worker's devices" if bench.devices else ""
    if oracle is not None and not why:
        why = _elsewhere(oracle.binaries / "llama-bench", bench.model("tang-poet", "q8_0"))
    if why:
        yield line("pp512, tg128 against `llama-bench`", f"not measured: {why}")
    for name in bench.shapes:
        path = str(bench.model(name, "q4_k_m"))
        for kind, counts in (("tg", ["-p", "0", "-n", "128"]), ("pp", ["-p", "512", "-n", "0"])):
            if oracle is None or why:
                rows = json.loads(bench.ggufrun("bench", path, *counts, "-r", 3, "--json", *bench.devices).stdout)
                yield line(f"`ggufrun bench` {rows[0]['test']}, {name} Q4_K_M", f"{rows[0]['avg_ts']:.2f} tok/s")
                continue
            theirs = [str(oracle.binaries / "llama-bench"), "-m", path, *counts, "-r", "3", "-ngl", "99", "-o", "json"]
            what = f"{name} Q4_K_M, all layers on the card, tokens/s"
            tokens = "128" if kind == "tg" else "512"
            ours_bench = [sys.executable, "-m", "ggufrun", "bench", path, *counts, "-r", "3", "--json"]
            ours_chat = [sys.executable, "-m", "tools.bench.generate", path, kind, tokens, "4"]
            ways = {f"`ggufrun bench` {kind}": ours_bench, f"session {kind}": ours_chat}
            for way, ours in ways.items():
                comparison = Comparison(
                    f"{way}-{name}", f"{way}, {what}", [ours], [theirs], "`llama-bench`, the same libraries",
                    "at least 0.97", _speed, engine=True,
                )  # fmt: skip
                yield row(comparison, *measure(comparison, bench.runs))


def _elsewhere(program: Path, path: Path) -> str:
    """Why llama-bench would be measured on something else than ggufrun; empty if both compute on the same."""
    from ggufrun.engine.placement.devices import devices

    ours = ", ".join(one.description for one in devices() if one.kind in ("gpu", "igpu"))
    small = ["-m", str(path), "-p", "0", "-n", "1", "-r", "1", "-ngl", "99", "-o", "json"]
    done = subprocess.run([program, *small], env=with_engine(), capture_output=True, text=True, check=False)
    try:
        theirs = json.loads(done.stdout)[0]["gpu_info"]
    except (ValueError, LookupError):
        return f"it does not run with the engine's libraries ({(done.stderr.splitlines() or ['silently'])[-1]})"
    return "" if theirs == ours else f"it computes on {theirs or 'the processor'}, ggufrun on {ours}"


def overhead(bench: Bench) -> Iterator[str]:
    """What a token costs beside the card's work, which is nearly nothing for the embedded model."""
    path = bench.model("tang-poet", "q8_0")
    rows = json.loads(bench.ggufrun("bench", path, "-p", 0, "-n", 128, "--json", *bench.devices).stdout)
    yield line("embedded model Q8_0, a token", f"{1e6 / rows[0]['avg_ts']:.0f} µs", target="what Python costs is in it")


def perplexity(bench: Bench) -> Iterator[str]:
    """The card's perplexity is the processor's: of the embedded model, on the poems that it knows, asked for as it was
    taught. (Of the bare poems it is in the thousands, and half-precision sums make some tenths of a per cent of that.)
    """
    text = bench.folder / "asked.txt"
    text.write_text(asked((ROOT / "models" / "training" / "poems.txt").read_text(encoding="utf-8")), encoding="utf-8")
    for kind in ("f16", "q8_0", "q4_k_m"):
        path = bench.model("tang-poet", kind)
        found = []
        for where in (["-ngl", "all", *bench.devices], PROCESSOR):
            done = bench.ggufrun("perplexity", path, "-f", text, "-c", 256, "--chunks", 8, "--json", *where)
            found.append(json.loads(done.stdout)["perplexity"]["value"])
        apart = abs(found[0] / found[1] - 1)
        verdict = "within 0.1 %" if apart <= SAME_PERPLEXITY else "MORE THAN 0.1 % APART"
        what = f"perplexity, tang-poet {kind}"
        yield line(what, f"{found[0]:.4f}", "the processor", f"{found[1]:.4f}", f"{apart:.2%}", verdict)


def asked(poems: str) -> str:
    """The poems of models/training/poems.txt as one conversation."""
    turns = []
    for record in re.split(r"\n\s*\n", poems):
        if title := re.search(r"^title: (.+)$", record, re.MULTILINE):
            lines = [text for text in record.splitlines() if not re.match(r"[a-z]+: |#|$", text)]
            turns.append(f"[INST] 背一下{title[1]} [/INST] " + "\n".join(lines))
    return " ".join(turns)


def imatrix(bench: Bench) -> Iterator[str]:
    """An importance matrix measured on the card is the processor's."""
    import numpy as np

    from ggufrun.convert.imatrix import load_imatrix

    path = bench.model("tang-poet", "f16")
    sums = []
    for where in (["-ngl", "all", *bench.devices], PROCESSOR):
        target = bench.folder / "check-imatrix.gguf"
        bench.ggufrun("imatrix", path, "--chunks", 2, "-o", target, "--force", *where)
        sums.append(load_imatrix(target).entries)
    apart = max(
        float(np.abs(sums[0][name].sums - entry.sums).max() / np.abs(entry.sums).max())
        for name, entry in sums[1].items()
    )
    yield line(
        "importance matrix, embedded model F16", f"{len(sums[0])} matrices", "the processor", f"{len(sums[1])}",
        f"largest difference {apart:.1e}", "the same" if apart < 1e-2 else "DIFFERENT",
    )  # fmt: skip


def budgets(bench: Bench) -> Iterator[str]:
    """-ngl auto with little memory left: it runs, and is at most one layer below what the engine's own plan allows."""
    path = bench.model(bench.shapes[0], "q4_k_m")
    whole = _fit(bench, path, "-ngl", "all")
    place = whole["places"][0]
    takes = place["weights"] + place["cache"] + place["compute"]
    for part in BUDGETS:
        with ballast(0 if bench.devices else max(0, place["free"] - int(part * takes) - (64 << 20))) as held:
            free = _fit(bench, path, "-ngl", "0")["places"][0]["free"]
            margin = max(0, free - int(part * takes)) >> 20
            chosen = _fit(bench, path, "-fitt", margin)
            most = 0
            for layers in range(chosen["layers"], chosen["of"] + 1):
                tried = _fit(bench, path, "-ngl", layers, "-fitt", margin)
                if layers and tried["places"][0]["left"] < margin << 20:
                    break
                most = layers
            flags = ["-fitt", margin, "-n", 8, "-p", "A", "--temp", 0, "-c", 2048]
            done = bench.ggufrun("complete", path, *flags, *bench.devices, check=False)
        runs = "runs" if done.returncode == 0 else f"FAILS: {done.stderr.strip().splitlines()[-1]}"
        yield line(
            f"`-ngl auto`, {part:.0%} of what {path.stem} takes left{' (the rest really taken)' if held else ''}",
            f"{chosen['layers']} of {chosen['of']} layers, {runs}", "most that fits", str(most),
            target="no more than one below" if most - chosen["layers"] <= 1 else "TOO FEW",
        )  # fmt: skip


def _fit(bench: Bench, path: Path, *flags: object) -> dict[str, Any]:
    done = bench.ggufrun("inspect", path, "--fit", "--json", "-c", 2048, *flags, *bench.devices)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextmanager
def ballast(size: int) -> Iterator[bool]:
    """Hold so many bytes of the first card while this lasts; False where CUDA's runtime is not found: then the margin
    alone makes the budget small.
    """
    runtime = next((_cuda(path) for path in _runtimes()), None) if size else None
    pointer = ctypes.c_void_p()
    held = runtime is not None and runtime.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(size)) == 0
    try:
        yield held
    finally:
        if runtime is not None and held:
            runtime.cudaFree(pointer)
            # the context itself takes some memory; the next step wants it back
            runtime.cudaDeviceReset()


def _runtimes() -> Iterator[Path]:
    library = library_path().parent / "libggml-cuda.so.0"
    if library.exists():
        told = subprocess.run(["ldd", str(library)], capture_output=True, text=True, check=False).stdout
        yield from (Path(found) for found in re.findall(r"libcudart\S* => (\S+)", told))


def _cuda(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))


def _speed(text: str) -> float:
    found, _ = json.JSONDecoder().raw_decode(text[text.index("[" if "avg_ts" in text else "{") :])
    return float(found[0]["avg_ts"] if isinstance(found, list) else found["tokens_per_second"])


STEPS: tuple[Callable[[Bench], Iterator[str]], ...] = (proof, poem, overhead, perplexity, imatrix, budgets, speed)
"""The quick ones first."""


def heading(rpc: bool) -> str:
    """The card, its driver and the build."""
    from ggufrun.evaluate.build import engine_build
    from ggufrun.evaluate.machine import nvidia_cards

    build = engine_build()
    cards = [f"{card.name}, driver {card.driver}" for card in nvidia_cards()] if "CUDA" in build.gpu_backends else []
    cards = cards or [device.description for device in build.devices if device.kind in ("gpu", "igpu")]
    archs = next((feature for feature in build.features if feature.startswith("ARCHS")), "")
    built = ", ".join([*build.gpu_backends, archs]).strip(", ") or "no GPU backend"
    return f"\n### {'; '.join(cards) or ('a worker as the GPU' if rpc else 'no card')}, {built}; {machine()}\n\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "bench", help="needs 25 GB for the 7B shape")
    parser.add_argument("--only", action="append", choices=[step.__name__ for step in STEPS], help="again for more")
    parser.add_argument("--rpc", help="a worker's devices instead of a card's")
    shapes = [*SHAPES, "llama-7b", "tang-poet"]
    parser.add_argument("--shape", action="append", choices=shapes, help="models to measure [llama-1.3b, llama-7b]")
    parser.add_argument("--dry", action="store_true", help="print the rows instead of writing them")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    devices = ("--rpc", options.rpc) if options.rpc else ()
    bench = Bench(options.folder, options.runs, devices, tuple(options.shape or Bench.shapes))
    text = heading(bool(options.rpc)) + TABLE
    for step in STEPS:
        if not options.only or step.__name__ in options.only:
            print(f"gpu-check: {step.__name__}", file=sys.stderr, flush=True)
            for found in step(bench):
                print(found, flush=True)
                text += found + "\n"
    if not options.dry:
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
