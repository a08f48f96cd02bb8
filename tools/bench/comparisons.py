"""What is compared with what, and the target that each ratio is held to."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.bench.measuring import ROOT, Comparison

THREADS = 2
TEXT = ROOT / "ggufrun" / "data" / "calibration.txt"
SAME_LIBRARIES = "on the same libraries"


@dataclass(frozen=True)
class Oracle:
    """llama.cpp's own tools."""

    binaries: Path
    python: Path
    convert: Path


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


@dataclass(frozen=True)
class Files:
    """Where the files lie."""

    folder: Path

    def __getitem__(self, name: str) -> str:
        return str(self.folder / name)


def ggufrun(*arguments: str) -> list[str]:
    """A command of ours."""
    return [sys.executable, "-m", "ggufrun", *arguments]


def comparisons(folder: Path, oracle: Oracle | None) -> list[Comparison]:
    """All that can be made here."""
    files = Files(folder)
    found = [*_with_cp(files), *_with_ourselves(files), _together(files), _guessed(files)]
    if oracle is not None:
        found += [*_converting(files, oracle), *_quantizing(files, oracle)]
        found += [*_running(files, oracle), *_evaluating(files, oracle)]
    return found


def _output(files: Files, threads: int = THREADS) -> list[str]:
    return ["-o", files["ours.gguf"], "--force", "-j", str(threads)]


def _with_cp(files: Files) -> list[Comparison]:
    return [
        Comparison(
            "f16-cp",
            "bf16 -> F16 GGUF",
            [ggufrun("convert", files["llama-1.3b"], "-t", "f16", *_output(files))],
            [["cp", files["llama-1.3b/model.safetensors"], files["theirs.gguf"]]],
            "`cp` of the checkpoint",
            "at most 1.3 of the time, under 600 MB",
        )
    ]


def _with_ourselves(files: Files) -> list[Comparison]:
    """What one call gains over several, and two threads over one."""
    types = ("q4_k_m", "q5_k_m", "q8_0")
    to_f16 = ("convert", files["llama-1.3b"], "-t", "f16")
    to_q4 = ("quantize", files["f16.gguf"], "q4_k_m")
    three = ggufrun("quantize", files["f16.gguf"], *types, "-o", files.folder.as_posix(), "--force", "-j", str(THREADS))
    return [
        Comparison(
            "three-types",
            "F16 GGUF -> Q4_K_M, Q5_K_M and Q8_0",
            [three],
            [ggufrun("quantize", files["f16.gguf"], kind, *_output(files)) for kind in types],
            "the same, one after another",
            "at least 1.1 times faster, under 600 MB",
        ),
        Comparison(
            "scaling",
            f"F16 GGUF -> Q4_K_M, {THREADS} threads",
            [ggufrun(*to_q4, *_output(files))],
            [ggufrun(*to_q4, *_output(files, 1))],
            "1 thread, and another processor to write on",
            "",
        ),
        Comparison(
            "scaling-processors",
            f"F16 GGUF -> Q4_K_M, Q5_K_M and Q8_0, {THREADS} threads on as many processors",
            [["taskset", "-c", f"0-{THREADS - 1}", *three]],
            [["taskset", "-c", "0", *three, "-j", "1"]],
            "1 thread on one processor",
            f"at least {0.9 * THREADS:.1f} times faster",
        ),
        Comparison(
            "lora",
            "bf16 -> F16 GGUF, an adapter of rank 64 merged",
            [ggufrun(*to_f16, "--lora", files["lora-1.3b"], *_output(files))],
            [ggufrun(*to_f16, *_output(files))],
            "the same without the adapter",
            "at most 1.5 of the time",
        ),
    ]


def _together(files: Files) -> Comparison:
    """A list of questions, sixteen answers at a time and one after another; loading counts."""

    def command(sequences: int) -> list[list[str]]:
        flags = ["--style", "alpaca-2", "--ignore-eos", "-n", "128", "-t", str(THREADS), "-np", str(sequences)]
        lists = ["--file", files["questions.txt"], "--output", files["answers.jsonl"]]
        return [["rm", "-f", files["answers.jsonl"]], ggufrun("chat", files["142m-q4_k_m.gguf"], *lists, *flags)]

    return Comparison(
        "together",
        "32 questions answered with 128 tokens each, sixteen at a time, 142M Q4_K_M",
        command(16),
        command(1),
        "one after another",
        "at least 2 times faster",
    )


def _guessed(files: Files) -> Comparison:
    """The random model falls into a loop at once: what guessing gains at most, where text is quoted or repeated."""
    greedy = ["--temp", "0", "--ignore-eos", "-n", "512", "-t", str(THREADS)]
    plain = ggufrun("complete", files["142m-q4_k_m.gguf"], "-p", "A", *greedy)
    return Comparison(
        "lookup",
        "512 tokens that repeat themselves, with `--lookup`, 142M Q4_K_M; loading counts",
        [[*plain, "--lookup"]],
        [plain],
        "without",
        "",
    )


def _converting(files: Files, oracle: Oracle) -> list[Comparison]:
    checkpoint, theirs = files["llama-1.3b"], files["theirs.gguf"]
    convert = [str(oracle.python), str(oracle.convert), checkpoint, "--outfile", theirs, "--outtype", "f16"]
    quantize = [str(oracle.binaries / "llama-quantize")]
    to_q4 = ggufrun("convert", checkpoint, "-t", "q4_k_m", *_output(files))
    return [
        Comparison(
            "f16",
            "bf16 -> F16 GGUF",
            [ggufrun("convert", checkpoint, "-t", "f16", *_output(files))],
            [convert],
            "`convert_hf_to_gguf.py`",
            "",
        ),
        Comparison(
            "q4",
            "bf16 -> Q4_K_M GGUF",
            [to_q4],
            [convert, [*quantize, theirs, files["theirs-q4.gguf"], "Q4_K_M", str(THREADS)]],
            "`convert_hf_to_gguf.py`, then `llama-quantize`",
            "at least 4 times faster",
        ),
        Comparison(
            "q4-quantize",
            "bf16 -> Q4_K_M GGUF",
            [to_q4],
            [[*quantize, files["f16.gguf"], theirs, "Q4_K_M", str(THREADS)]],
            "`llama-quantize` alone, from F16",
            "at least 2.5 times faster",
        ),
    ]


def _quantizing(files: Files, oracle: Oracle) -> list[Comparison]:
    quantize = [str(oracle.binaries / "llama-quantize"), files["f16.gguf"], files["theirs.gguf"]]
    return [
        Comparison(
            name,
            f"F16 GGUF -> {kind}",
            [ggufrun("quantize", files["f16.gguf"], kind.lower(), *_output(files))],
            [[*quantize, kind, str(THREADS)]],
            "`llama-quantize`",
            target,
        )
        for name, kind, target in (
            ("quantize", "Q4_K_M", "at least 3 times faster, under 600 MB"),
            ("quantize-iq4", "IQ4_XS", ""),
        )
    ]


def _running(files: Files, oracle: Oracle) -> list[Comparison]:
    """Reading and generating, with the libraries that llama-bench is given too."""
    found = []
    for model, size, file in (("1.3B", "", "q4_k_m.gguf"), ("142M", "-142m", "142m-q4_k_m.gguf")):
        for kind, tokens, what in (
            ("tg", 128, "generation with the default samplers"),
            ("pp", 512, "reading a prompt"),
        ):
            counts = ["-p", "0", "-n", str(tokens)] if kind == "tg" else ["-p", str(tokens), "-n", "0"]
            theirs = [str(oracle.binaries / "llama-bench"), "-m", files[file], *counts, "-r", "1", "-t", str(THREADS)]
            ours = [sys.executable, "-m", "tools.bench.generate", files[file], kind, str(tokens), str(THREADS)]
            found.append(
                Comparison(
                    kind + size,
                    f"{what}, {model} Q4_K_M, tokens/s",
                    [ours],
                    [[*theirs, "-o", "json"]],
                    f"`llama-bench` {kind}{tokens} {SAME_LIBRARIES}",
                    "at least 0.97",
                    _speed,
                    engine=True,
                )
            )
            found.append(
                Comparison(
                    f"bench-{kind}{size}",
                    f"`ggufrun bench` {kind}{tokens}, {model} Q4_K_M, tokens/s",
                    [ggufrun("bench", files[file], *counts, "-r", "3", "-t", str(THREADS), "--json")],
                    [[*theirs[:-4], "-r", "3", "-t", str(THREADS), "-o", "json"]],
                    f"`llama-bench` {SAME_LIBRARIES}",
                    "within noise: 0.97 to 1.03",
                    _speed,
                    engine=True,
                )
            )
    return found


def _evaluating(files: Files, oracle: Oracle) -> list[Comparison]:
    """Whole runs over a text, loading included. The figure that both print must be the same."""
    common = ["-f", str(TEXT), "--chunks", "16", "-t", str(THREADS)]
    f16, q4 = files["142m-f16.gguf"], files["142m-q4_k_m.gguf"]
    return [
        Comparison(
            "imatrix",
            "importance matrix, 142M F16, 16 chunks of 512 tokens",
            [ggufrun("imatrix", f16, *common, "-o", files["ours.imatrix"], "--force")],
            [[str(oracle.binaries / "llama-imatrix"), "-m", f16, *common, "--no-ppl", "-o", files["theirs.imatrix"]]],
            f"`llama-imatrix` {SAME_LIBRARIES}",
            "at least 0.9 of its speed",
            engine=True,
        ),
        Comparison(
            "perplexity",
            "perplexity, 142M Q4_K_M, 16 chunks of 512 tokens",
            [ggufrun("perplexity", q4, *common)],
            [[str(oracle.binaries / "llama-perplexity"), "-m", q4, *common]],
            f"`llama-perplexity` {SAME_LIBRARIES}",
            "the same digits, at most 1.05 of the time",
            agrees=lambda text: re.findall(r"PPL = [\d.]+ \+/- [\d.]+", text)[-1],
            engine=True,
        ),
    ]


def _speed(text: str) -> float:
    """Tokens a second from the JSON of llama-bench, of ggufrun bench, or of our own script."""
    found, _ = json.JSONDecoder().raw_decode(text[text.index("[" if "avg_ts" in text else "{") :])
    return float(found[0]["avg_ts"] if isinstance(found, list) else found["tokens_per_second"])
