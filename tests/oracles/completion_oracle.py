"""What ``llama-completion`` writes with the same flags, and the recording of it for machines that have none.

``python -m tests.oracles.completion_oracle MODEL.gguf`` writes ``golden/completion.json`` again (the embedded model,
as Q8_0); after a change of the model, run it again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tests.oracles.chat_oracle import COUNT, ID, write
from tests.support import llamacpp

POEM = "[INST] 背一下静夜思 [/INST]"
TALK = ["-p", POEM, "-i", "--in-prefix-bos", "--in-prefix", " [INST] ", "--in-suffix", " [/INST]"]
QUESTIONS = ["背一下春晓", "作者是谁？", "背一下登鹳雀楼", "他是哪个朝代的？", "背一下相思", "背一下静夜思"]
LONG = ["-p", POEM, "--ignore-eos", "-c", "256", "--context-shift", "-n", "700", "--temp", "0"]
LONG += ["--repeat-penalty", "1.3"]

HOT = ["-p", POEM, "--ignore-eos", "-n", "120", "-s", "7", "--temp", "1.5"]
"""Hot enough for the samplers to make a difference, and without an end."""

SAMPLERS: dict[str, list[str]] = {
    "defaults": [],
    "mirostat 1": ["--mirostat", "1", "--mirostat-lr", "0.2", "--mirostat-ent", "3"],
    "mirostat 2": ["--mirostat", "2", "--mirostat-lr", "0.3", "--mirostat-ent", "4"],
    "mirostat, greedy": ["--mirostat", "2", "--temp", "0"],
    "dry": ["--dry-multiplier", "0.8", "--dry-base", "1.5", "--dry-allowed-length", "1", "--temp", "0.3"],
    "dry, breakers": ["--dry-multiplier", "2", "--dry-sequence-breaker", "月", "--dry-penalty-last-n", "200"],
    "xtc": ["--xtc-probability", "0.6", "--xtc-threshold", "0.05"],
    "xtc, greedy": ["--xtc-probability", "0.6", "--xtc-threshold", "0.05", "--temp", "0"],
    "dynatemp": ["--dynatemp-range", "1.0", "--dynatemp-exp", "1.7"],
    "dynatemp, cold": ["--dynatemp-range", "2.0", "--temp", "0"],
    "top n sigma": ["--top-nsigma", "1.2", "--temp", "2.5"],
    "typical": ["--typical", "0.4", "--temp", "2"],
    "penalties": ["--repeat-penalty", "1.2", "--presence-penalty", "0.5", "--frequency-penalty", "0.2"],
    "order": ["--samplers", "temperature;top_p;top-k;min_p", "--temp", "3", "--top-p", "0.7"],
    "order by letters": ["--sampling-seq", "tpe", "--repeat-penalty", "1.4", "--top-p", "0.8"],
    "no temperature": ["--samplers", "top_k;top_p", "--temp", "0"],
    "penalties last, greedy": ["--samplers", "top_k;penalties;temp", "--temp", "0", "--repeat-penalty", "3"],
    "temperature first, greedy": ["--samplers", "temp;penalties", "--temp", "0", "--repeat-penalty", "3"],
    "adaptive": ["--samplers", "top_k;temperature;adaptive_p", "--adaptive-target", "0.3"],
    "bias": ["-l", "938+5", "--logit-bias", "1784-inf", "--logit-bias", "977-2", "--presence-penalty", "0.3"],
    "grammar": ["--grammar", 'root ::= [一-龥]{5} "，" [一-龥]{5} ("。" | "\\n"){3} root', "--temp", "2"],
}

GRAMMAR_TALK = ["-p", POEM, "-n", "60", "-s", "3", "--temp", "1.2"]

STRETCHED = ["-p", POEM, "--ignore-eos", "-n", "60", "--temp", "0", "--repeat-penalty", "1.3"]

ENGINE: dict[str, list[str]] = {
    "linear": ["--rope-scaling", "linear", "--rope-freq-scale", "0.5"],
    "rope scale": ["--rope-scale", "4"],
    "frequency base": ["--rope-freq-base", "2000"],
    "yarn": ["--rope-scaling", "yarn", "--rope-scale", "2", "--yarn-orig-ctx", "256", "--yarn-beta-fast", "16"],
    "yarn factors": [
        "--rope-scaling",
        "yarn",
        "--rope-scale",
        "8",
        "--yarn-ext-factor",
        "0.5",
        "--yarn-attn-factor",
        "2",
    ],
    "quantized cache": ["-ctk", "q8_0", "-ctv", "q4_0", "-fa", "on"],
    "lora": ["--lora", "ADAPTER"],
    "lora, scaled": ["--lora-scaled", "ADAPTER:-0.4"],
    "two adapters": ["--lora-scaled", "ADAPTER:0.3,OTHER:0.3"],
}


def make_adapter(path: Path, seed: int = 1, width: int = 256, name: str = "attn_q") -> Path:
    """A random adapter of the embedded model; another ``width`` or ``name`` makes it one of another model."""
    from gguf import GGUFWriter

    chance = np.random.default_rng(seed)
    writer = GGUFWriter(path, "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for layer in range(4):
        tensor = f"blk.{layer}.{name}.weight"
        writer.add_tensor(tensor + ".lora_a", chance.normal(size=(4, width)).astype(np.float32) * 0.1)
        writer.add_tensor(tensor + ".lora_b", chance.normal(size=(width, 4)).astype(np.float32) * 0.1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def flags_of(name: str, folder: Path) -> list[str]:
    """The flags of a case, with adapters made in ``folder``."""
    files = {"ADAPTER": 1, "OTHER": 2}
    flags = []
    for flag in CASES[name][0]:
        for word, seed in files.items():
            if word in flag:
                flag = flag.replace(word, str(make_adapter(folder / f"{word.lower()}.gguf", seed)))
        flags.append(flag)
    return flags


CASES: dict[str, tuple[list[str], list[str]]] = {
    # name: flags, and what is typed
    "shift": ([*LONG, "--keep", "0"], []),
    "shift, keep 5": ([*LONG, "--keep", "5"], []),
    "shift, keep all": ([*LONG, "--keep", "-1"], []),
    "shift, turns": ([*TALK, "-c", "256", "--context-shift", "--temp", "0", "--keep", "6"], QUESTIONS * 2),
    "shift, turns, keep all": (
        [*TALK, "-c", "256", "--context-shift", "--temp", "0", "--keep", "-1", "-b", "16"],
        [*QUESTIONS, "床前明月光" * 8, "好", *QUESTIONS],
    ),
    "until full": ([*LONG, "-n", "-2"], []),
    **{name: ([*HOT, *flags], []) for name, flags in SAMPLERS.items()},
    **{name: ([*STRETCHED, *flags], []) for name, flags in ENGINE.items()},
    "grammar with an end": ([*GRAMMAR_TALK, "--grammar", 'root ::= " "? ("yes" | "no" | [a-z]+) "!"'], []),
    "grammar, greedy": ([*GRAMMAR_TALK, "--temp", "0", "--grammar", "root ::= [0-9]+ [.] [^a-z]*"], []),
}


def record(completion: Path, model: Path, flags: list[str], typed: list[str]) -> dict[str, Any]:
    """The ids fed in every turn but the first, and the text written, affixes included."""
    command = [completion, "-m", model, *flags, "-no-cnv", "--no-escape", "--simple-io", "-t", "1"]
    given = "\n".join([*typed, ""]).encode() if typed else b""
    text, log = llamacpp.run(*command, "--verbose-prompt", "--no-display-prompt", typed=given)
    parts = zip(COUNT.split(log)[2::2], COUNT.findall(log), strict=True)
    fed = [[int(token) for token in ID.findall(part)][: int(count)] for part, count in parts]
    text = text.replace("EOF by user", "").replace("[end of text]", "")
    if typed:
        # Between the affixes stands nothing but the answers; what is typed is not echoed.
        text = "".join(part.split(" [/INST]")[-1].strip() + "\n" for part in text.split(" [INST] ")[: len(typed) + 1])
    return {"fed": fed, "text": text.strip()}


def record_all(completion: Path, model: Path) -> None:
    """Write ``golden/completion.json``."""
    with TemporaryDirectory() as scratch:
        answers = {
            name: record(completion, model, flags_of(name, Path(scratch)), typed) for name, (_, typed) in CASES.items()
        }
    write("completion.json", answers)


if __name__ == "__main__":
    record_all(Path(os.environ["ORACLE_BIN"]) / "llama-completion", Path(sys.argv[1]))
