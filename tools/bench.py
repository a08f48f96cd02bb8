"""``make bench``: ggufrun against llama.cpp's own tools, side by side, written to docs/benchmarks.md.

usage: python tools/bench.py [--runs 5] [--only NAME] [--folder DIR] [--dry]

The work: random checkpoints of the shapes in `SHAPES`, made once. Both sides of a comparison run in turn, page
cache warm, thread counts equal; a row has the medians and the median of the ratios of neighbouring runs. Seconds and
peak memory are the operating system's account of the finished process.

llama.cpp's tools come from ``ORACLE_BIN``, ``ORACLE_PYTHON`` and ``ORACLE_CONVERT`` (or the file that sets them, see
tests/conftest.py); without them only the comparisons with ``cp`` and the absolute figures are made.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "models" / "tang-poet"
RESULTS = ROOT / "docs" / "benchmarks.md"
THREADS = 2
VOCABULARY = 55296


@dataclass(frozen=True)
class Shape:
    """A Llama's sizes; ``tied`` embeddings serve as the output too. The vocabulary is Chinese-LLaMA-2's."""

    width: int
    inner: int
    layers: int
    heads: int
    tied: bool = False


SHAPES = {"llama-1.3b": Shape(4096, 11008, 4, 32), "llama-142m": Shape(768, 2560, 12, 12, tied=True)}
"""Chinese-LLaMA-2-1.3B's (1.26 G parameters, 2.35 GiB of bf16), and a small one of its family (142 M, 270 MiB)."""


GGUFS = (
    ("llama-1.3b", "f16", "f16.gguf"),
    ("llama-1.3b", "q4_k_m", "q4_k_m.gguf"),
    ("llama-142m", "q4_k_m", "142m-q4_k_m.gguf"),
)
"""Checkpoint, type and name of the files that the comparisons run."""


@dataclass(frozen=True)
class Run:
    """One measured run: seconds of wall time, peak resident MiB of its largest process, what it printed."""

    seconds: float
    peak: float
    output: str


@dataclass(frozen=True)
class Oracle:
    """llama.cpp's own tools."""

    binaries: Path
    python: Path
    convert: Path


@dataclass(frozen=True)
class Comparison:
    """Two ways to do one thing; each is a list of commands that are timed together.

    ``score`` reads the figure from the last command's output (more is better); without it the figure is the seconds.
    """

    name: str
    what: str
    ours: Sequence[Sequence[str]]
    theirs: Sequence[Sequence[str]]
    theirs_is: str
    target: str
    score: Callable[[str], float] | None = None


def run(commands: Sequence[Sequence[str]], environment: dict[str, str] | None = None) -> Run:
    """Run commands one after another; a failure ends the benchmark."""
    output, peak = "", 0.0
    start = time.perf_counter()
    for command in commands:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, **(environment or {})}
        )
        assert process.stdout is not None
        output = process.stdout.read().decode(errors="replace")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"bench: {shlex.join(command)} failed with status {process.returncode}")
        # macOS counts bytes, Linux kibibytes
        peak = max(peak, usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10))
    return Run(time.perf_counter() - start, peak, output)


def find_oracle() -> Oracle | None:
    """The tools named by the environment, or by the file that their build leaves."""
    values = dict(os.environ)
    file = Path(os.environ.get("GGUFRUN_ORACLE", Path.home() / ".cache" / "ggufrun-oracle")) / "env"
    if "ORACLE_BIN" not in values and file.is_file():
        for line in file.read_text().splitlines():
            name, _, value = line.removeprefix("export ").partition("=")
            values[name] = value
    try:
        return Oracle(*(Path(values[name]) for name in ("ORACLE_BIN", "ORACLE_PYTHON", "ORACLE_CONVERT")))
    except KeyError:
        return None


def make_checkpoint(folder: Path, shape: Shape) -> None:
    """A random bf16 checkpoint of a shape."""
    if (folder / "done").exists():
        return
    print(f"making {folder}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, shape.width),
        "model.norm.weight": (shape.width,),
    }
    if not shape.tied:
        shapes["lm_head.weight"] = (VOCABULARY, shape.width)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        shapes |= {
            prefix + "input_layernorm.weight": (shape.width,),
            prefix + "post_attention_layernorm.weight": (shape.width,),
            prefix + "mlp.gate_proj.weight": (shape.inner, shape.width),
            prefix + "mlp.up_proj.weight": (shape.inner, shape.width),
            prefix + "mlp.down_proj.weight": (shape.width, shape.inner),
        } | {f"{prefix}self_attn.{which}_proj.weight": (shape.width, shape.width) for which in "qkvo"}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, dims in sorted(shapes.items()):
        size = 2 * int(np.prod(dims))
        header[name] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, dims in sorted(shapes.items()):
            left = int(np.prod(dims))
            while left:
                count = min(left, 1 << 22)
                values = random.standard_normal(count, dtype=np.float32) * np.float32(0.02)
                values += np.float32("norm" in name)
                file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
                left -= count
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "max_position_embeddings": 4096,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": shape.tied,
        "vocab_size": VOCABULARY,
    }
    (folder / "config.json").write_text(json.dumps(config))
    # the real vocabulary of that size is not ours to ship; the rest of the ids are padding, as a converter makes it
    shutil.copy(DEMO / "tokenizer.model", folder)
    (folder / "done").touch()


def comparisons(folder: Path, oracle: Oracle | None) -> list[Comparison]:
    """What is measured, and the target it is held to."""
    checkpoint, source = folder / "llama-1.3b", folder / "llama-1.3b" / "model.safetensors"
    out, theirs = folder / "ours.gguf", folder / "theirs.gguf"
    f16 = folder / "f16.gguf"
    ggufrun = [sys.executable, "-m", "ggufrun"]
    flags = ["-o", str(out), "--force", "-j", str(THREADS)]
    to_q4 = [*ggufrun, "convert", str(checkpoint), "-t", "q4_k_m", *flags]
    found = [
        Comparison(
            "f16-cp",
            "bf16 -> F16 GGUF",
            [[*ggufrun, "convert", str(checkpoint), "-t", "f16", *flags]],
            [["cp", str(source), str(theirs)]],
            "`cp` of the checkpoint",
            "at most 1.3 of the time, under 600 MB",
        )
    ]
    if oracle is None:
        return found
    convert = [str(oracle.python), str(oracle.convert), str(checkpoint), "--outfile", str(theirs), "--outtype"]
    quantizer = [str(oracle.binaries / "llama-quantize")]
    return [
        *found,
        Comparison(
            "f16",
            "bf16 -> F16 GGUF",
            [[*ggufrun, "convert", str(checkpoint), "-t", "f16", *flags]],
            [[*convert, "f16"]],
            "`convert_hf_to_gguf.py`",
            "",
        ),
        Comparison(
            "q4",
            "bf16 -> Q4_K_M GGUF",
            [to_q4],
            [[*convert, "f16"], [*quantizer, str(theirs), str(folder / "theirs-q4.gguf"), "Q4_K_M", str(THREADS)]],
            "`convert_hf_to_gguf.py`, then `llama-quantize`",
            "at least 4 times faster",
        ),
        Comparison(
            "q4-quantize",
            "bf16 -> Q4_K_M GGUF",
            [to_q4],
            [[*quantizer, str(f16), str(theirs), "Q4_K_M", str(THREADS)]],
            "`llama-quantize` alone, from F16",
            "at least 2.5 times faster",
        ),
        Comparison(
            "quantize",
            "F16 GGUF -> Q4_K_M",
            [[*ggufrun, "quantize", str(f16), "q4_k_m", *flags]],
            [[*quantizer, str(f16), str(theirs), "Q4_K_M", str(THREADS)]],
            "`llama-quantize`",
            "",
        ),
        *_speeds(folder, oracle),
    ]


def _speeds(folder: Path, oracle: Oracle) -> list[Comparison]:
    """Reading and generating, with the libraries that llama-bench is given too."""
    found = []
    for name, size, file in (("1.3B", "", "q4_k_m.gguf"), ("142M", "-142m", "142m-q4_k_m.gguf")):
        path = str(folder / file)
        for kind, tokens, what in (
            ("tg", 128, "generation with the default samplers"),
            ("pp", 512, "reading a prompt"),
        ):
            counts = ["-p", "0", "-n", str(tokens)] if kind == "tg" else ["-p", str(tokens), "-n", "0"]
            ours = [sys.executable, str(ROOT / "tools" / "bench_generate.py"), path, kind, str(tokens), str(THREADS)]
            theirs = [str(oracle.binaries / "llama-bench"), "-m", path, *counts, "-r", "1", "-t", str(THREADS)]
            found.append(
                Comparison(
                    kind + size,
                    f"{what}, {name} Q4_K_M, tokens/s",
                    [ours],
                    [[*theirs, "-o", "json"]],
                    f"`llama-bench` {kind}{tokens} on the same libraries",
                    "at least 0.97",
                    lambda text: _speed(json.loads(text)),
                )
            )
    return found


def _speed(found: object) -> float:
    if isinstance(found, list):
        return float(found[0]["avg_ts"])
    assert isinstance(found, dict)
    return float(found["tokens_per_second"])


def measure(comparison: Comparison, runs: int) -> tuple[list[Run], list[Run]]:
    """Run both sides in turn, once uncounted."""
    import llama_cpp

    # llama-bench then measures the very libraries that ggufrun uses
    libraries = {"LD_LIBRARY_PATH": str(Path(llama_cpp.__file__).parent / "lib")} if comparison.score else {}
    ours, theirs = [], []
    for number in range(runs + 1):
        pair = run(comparison.ours), run(comparison.theirs, libraries)
        print(f"  {comparison.name} {number}/{runs}: {pair[0].seconds:.2f} s, {pair[1].seconds:.2f} s", file=sys.stderr)
        if number:
            ours.append(pair[0])
            theirs.append(pair[1])
    return ours, theirs


def row(comparison: Comparison, ours: Sequence[Run], theirs: Sequence[Run]) -> str:
    """A line of the table in docs/benchmarks.md."""

    def value(one: Run) -> float:
        return comparison.score(one.output) if comparison.score else one.seconds

    def cell(side: Sequence[Run]) -> str:
        unit = "tok/s" if comparison.score else "s"
        return f"{statistics.median(map(value, side)):.2f} {unit}, {max(one.peak for one in side):.0f} MiB"

    # a speed is divided the other way round than a time
    ratios = [
        value(mine) / value(other) if comparison.score else value(other) / value(mine)
        for mine, other in zip(ours, theirs, strict=True)
    ]
    middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    cells = (today, comparison.what, cell(ours), comparison.theirs_is, cell(theirs))
    return f"| {' | '.join(cells)} | {middle:.2f} ({low:.2f} to {high:.2f}) | {comparison.target} |"


def absolute_rows(runs: int) -> list[str]:
    """Figures that stand alone: the start of the command line, and the demo's own work."""
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    ggufrun = [sys.executable, "-m", "ggufrun", "--help"]
    demo = ["sh", str(ROOT / "tools" / "demo.sh"), str(Path(sys.executable).parent)]
    rows = []
    for what, command, target in (
        ("`ggufrun --help`", ggufrun, "under 0.3 s"),
        ("`make demo`, its own work", demo, "under 10 s"),
    ):
        found = [run([command]) for _ in range(runs + 1)][1:]
        seconds = statistics.median(one.seconds for one in found)
        rows.append(
            f"| {today} | {what} | {seconds:.2f} s, {max(one.peak for one in found):.0f} MiB | | | | {target} |"
        )
    return rows


def machine() -> str:
    """Processor, cores, system, compiler and engine, in a line."""
    import llama_cpp

    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{name}, {cores} cores, {platform.system()}, Python {platform.python_version()}, "
        f"llama-cpp-python {llama_cpp.__version__}"
    )


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", action="append", help="name of a comparison; again for more")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "bench", help="needs 10 GB")
    parser.add_argument("--dry", action="store_true", help="print the rows instead of writing them")
    options = parser.parse_args()
    for name, shape in SHAPES.items():
        make_checkpoint(options.folder / name, shape)
    for name, kind, target in GGUFS:
        if not (options.folder / target).exists():
            ggufrun = [sys.executable, "-m", "ggufrun", "convert", str(options.folder / name), "--force"]
            run([[*ggufrun, "-t", kind, "-o", str(options.folder / target)]])
    oracle = find_oracle()
    if oracle is None:
        print("bench: llama.cpp's own tools are not here; only `cp` is compared with", file=sys.stderr)
    rows = []
    for comparison in comparisons(options.folder, oracle):
        if not options.only or comparison.name in options.only:
            rows.append(row(comparison, *measure(comparison, options.runs)))
    if not options.only or "absolute" in options.only:
        rows += absolute_rows(options.runs)
    heading = f"\n### {machine()}, {THREADS} threads, medians of {options.runs}\n\n" + TABLE
    text = heading + "\n".join(rows) + "\n"
    print(text)
    if not options.dry:
        with RESULTS.open("a") as file:
            file.write(text)


TABLE = """| date | what | ggufrun | against | it | times faster, or share of its speed | target |
|---|---|---|---|---|---|---|
"""

if __name__ == "__main__":
    main()
