"""What ``llama-completion`` writes with the same flags, and the recording of it for machines that have none.

``python -m tests.completion_oracle MODEL.gguf`` writes ``golden/completion.json`` anew (the embedded model as Q8_0);
after a change of the model, run it again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.chat_oracle import COUNT, ID, write

POEM = "[INST] 背一下静夜思 [/INST]"
TALK = ["-p", POEM, "-i", "--in-prefix-bos", "--in-prefix", " [INST] ", "--in-suffix", " [/INST]"]
QUESTIONS = ["背一下春晓", "作者是谁？", "背一下登鹳雀楼", "他是哪个朝代的？", "背一下相思", "背一下静夜思"]
LONG = ["-p", POEM, "--ignore-eos", "-c", "256", "--context-shift", "-n", "700", "--temp", "0"]
LONG += ["--repeat-penalty", "1.3"]

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
}


def record(completion: Path, model: Path, flags: list[str], typed: list[str]) -> dict[str, Any]:
    """The ids fed in every turn but the first, and the text written, affixes included."""
    command = [completion, "-m", model, *flags, "-no-cnv", "--no-escape", "--simple-io", "-t", "1"]
    result = subprocess.run(
        [*map(str, command), "--verbose-prompt", "--no-display-prompt"],
        input="\n".join([*typed, ""]).encode() if typed else b"",
        capture_output=True,
        check=True,
    )
    log = result.stderr.decode(errors="replace")
    parts = zip(COUNT.split(log)[2::2], COUNT.findall(log), strict=True)
    fed = [[int(token) for token in ID.findall(part)][: int(count)] for part, count in parts]
    text = result.stdout.decode("utf-8", "ignore").replace("EOF by user", "").replace("[end of text]", "")
    if typed:
        # Between the affixes stands nothing but the answers; what is typed is not echoed.
        text = "".join(part.split(" [/INST]")[-1].strip() + "\n" for part in text.split(" [INST] ")[: len(typed) + 1])
    return {"fed": fed, "text": text.strip()}


if __name__ == "__main__":
    tool = Path(os.environ["ORACLE_BIN"]) / "llama-completion"
    write("completion.json", {name: record(tool, Path(sys.argv[1]), *case) for name, case in CASES.items()})
