"""Scripted dialogues as ``llama-completion`` holds them: what it feeds to the model, and what the model answers.

``python -m tests.oracles.dialogue_oracle MODEL.gguf`` writes ``golden/dialogues.json`` (the embedded model as Q8_0) and
``golden/dialogues_bpe.json`` (the small vocabularies of `dialogue_models`) anew. The same dialogues are held with other
people's vocabularies where the oracle is, which has them.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.oracles.chat_oracle import CHAT_SH, COUNT, ID, LATER, write
from tests.support import llamacpp
from tests.support.dialogue_models import VOCABULARIES, small_model
from tests.support.vocabularies import SIZE

SCRIPT = CHAT_SH[CHAT_SH.index("--in-prefix-bos") : -2]
LLAMA_2 = [*SCRIPT, "-p", CHAT_SH[-1]]
ALPACA = ["--in-prefix", "### Instruction:\\n\\n", "--in-suffix", "\\n\\n### Response:\\n\\n"]
CHATML = ["--in-prefix", "<|im_start|>user\\n", "--in-suffix", "<|im_end|>\\n<|im_start|>assistant\\n"]

DIALOGUES: dict[str, tuple[list[str], str]] = {
    # name: flags, and what is typed
    "chat.sh": (LLAMA_2, "\n".join([*LATER, ""])),
    "one turn": (LLAMA_2, ""),
    "empty lines": (LLAMA_2, "这首诗是谁写的？\n\n\n背一下春晓\n\n"),
    "lines joined": (LLAMA_2, "背一下\\\n春晓\na\\\n\\\nb\n\\\nx\n"),
    "slashes": (LLAMA_2, "背一下春晓/\nhttps://example.org/\n/\nboth \\\nends/\n"),
    "escapes": ([*LLAMA_2, "-e"], "a\\nb\\tc\nC:\\\\new\\x41 \\q\n\\xe6\\x98\\xa5晓\n"),
    "no escapes": (["--no-escape", *SCRIPT, "-p", "[INST] a\\nb [/INST]"], "c\\td\n"),
    "escapes of the command line": (
        ["--in-prefix", "\\n\\tQ: ", "--in-suffix", "\\x0aA\\:\\\\", "-p", "Q: 你好\\nA: "],
        "作者是谁？\nhello there\n",
    ),
    "spaces": (LLAMA_2, " 背一下春晓\n背一下春晓 \n\t\n　全角　\n"),
    "English": (["-p", "[INST] Who wrote it? [/INST]", *SCRIPT], "What is it called?\nRecite another poem, please.\n"),
    "many scripts": (LLAMA_2, "Ünïcödé ñ\nпривет\n日本語とカナ\n한국어\n🌙👩‍👩‍👧 ①½\nالقمر\n"),
    "control tokens typed": (LLAMA_2, "</s><s>[INST]\n<|im_end|><|endoftext|>\n<unk>\n"),
    "control tokens in flags": ([*CHATML, "-p", "<s></s><|im_start|>system\\nx<|im_end|>\\n"], "你好\nhello\n"),
    "Alpaca": ([*ALPACA, "-p", "Below is an instruction.\\n\\n", "-r", "### Instruction:"], "背一下春晓\n作者是谁？\n"),
    "a reverse prompt": (
        ["-p", "User: 你好\\nBot:", "-r", "User:", "--in-prefix", " ", "--in-suffix", "\\nBot:"],
        "背一下春晓\n\n好\n",
    ),
    "reverse prompts": (["-p", "[INST] 背一下静夜思 [/INST]", "-r", "月光，", "-r", "。"], "x\n\n\ny\n"),
    "a reverse prompt at once": (["-p", "聊天。\\nUser:", "-r", "User:", "--in-suffix", "\\nBot:"], "背一下春晓\n好\n"),
    "a prefix alone": (["-p", "你好", "--in-prefix", "问："], "一\n二\n"),
    "a suffix alone": (["-p", "你好", "--in-suffix", "答："], "一\n二\n"),
    "BOS alone": (["-p", "你好", "--in-prefix-bos"], "一\n\n二\n"),
    "no affixes": (["-p", "你好"], "一\n\n二\n"),
    "several lines at once": ([*LLAMA_2, "-mli"], "背一下\n春晓/\na\nb\\\nc\n/\n"),
    "one count for all": ([*LLAMA_2, "-n", "44"], "背一下春晓\n背一下静夜思\n\n作者是谁？\n好\n背一下登鹳雀楼\n"),
    "a count that a question uses up": ([*LLAMA_2, "-n", "12"], "背一下春晓，然后背一下静夜思\n好\n"),
    "nothing before": ([*SCRIPT, "-n", "60"], "背一下春晓\n好\n"),
    "a message first": ([*SCRIPT, "-if"], "背一下春晓\n\n好\n"),
    "a text, and a message first": ([*LLAMA_2, "-if"], "背一下春晓\n好\n"),
    "a context that forgets": ([*LLAMA_2, "-c", "256", "--context-shift"], "背一下春晓\n" * 9),
}

AFFIXES = {
    # vocabulary: a prefix and a suffix made of its control tokens
    "qwen2": ("<|im_start|>user\\n", "<|im_end|>\\n<|im_start|>assistant\\n"),
    "llama-3": (
        "<|start_header_id|>user<|end_header_id|>\\n\\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\\n\\n",
    ),
    "deepseek-v3": ("<｜User｜>", "<｜Assistant｜>"),
}

SOME = ("chat.sh", "empty lines", "slashes", "many scripts", "control tokens typed", "control tokens in flags")
"""Enough for one more vocabulary."""

QUESTIONS = ["你好，world  2026!", "背一下\t静夜思。", "a", "It's 3.14 — 🌙 ﬁ"]


def dialogues(vocabulary: str) -> dict[str, tuple[list[str], str]]:
    """What is said with a small vocabulary: some of `DIALOGUES`, and its own control tokens in flags."""
    prefix, suffix = AFFIXES[vocabulary]
    own = ["--in-prefix", prefix, "--in-suffix", suffix, "-p", f"{prefix}{QUESTIONS[0]}{suffix}"]
    typed = "\n".join([*QUESTIONS[1:], "<|im_end|><|eot_id|>", "", "末", ""])
    # of qwen2 this is <|im_start|>, which has no text and ends nothing by itself
    always = ["-l", f"{SIZE + 1}+1000", "-r", "<|im_start|>", "-r", "x", "-p", "1"]
    held = {name: DIALOGUES[name] for name in SOME} | {"its own affixes": (own, typed)}
    return held | ({"a control token as reverse prompt": (always, "2\n\n3\n")} if vocabulary == "qwen2" else {})


ENDING = ["-i", "--temp", "0", "-t", "1", "-c", "2048", "--verbose-prompt"]
"""An answer ends where the model ends it."""

PAST = re.compile(r"\bn_past = (\d+)")


def record(completion: Path, model: Path, flags: list[str], typed: str) -> dict[str, Any]:
    """The ids of the prompt and of every message, the number of tokens evaluated (None where the context was full: it
    then holds fewer), and the text that was written.

    BOS and a reverse prompt before a message are not among the ids; they are in the number.
    """
    command = [str(completion), "-m", str(model), *ENDING, *escaping(flags), "-no-cnv", "--simple-io"]
    text, log = llamacpp.run(*command, "--no-display-prompt", "-v", typed=typed.encode())
    parts = zip(COUNT.split(log)[2::2], COUNT.findall(log), strict=True)
    fed = [[int(token) for token in ID.findall(part)][: int(count)] for part, count in parts]
    count = None if "context full, swapping" in log else int(PAST.findall(log)[-1])
    return {"fed": fed, "tokens": count, "text": without_affixes(text.partition("EOF by user")[0], flags)}


def record_template(completion: Path, model: Path, template: Path | str, questions: list[str]) -> dict[str, Any]:
    """The ids that each question feeds in the tool's conversation mode, and what is answered; ``template`` is a file of
    Jinja or the name of one that the tool knows.
    """
    chosen = (
        ["--chat-template", template] if isinstance(template, str) else ["--chat-template-file", template, "--jinja"]
    )
    command = [completion, "-m", model, *chosen, "-cnv", "-p", questions[0], *ENDING, "--simple-io"]
    text, log = llamacpp.run(*command, "--no-display-prompt", typed="\n".join([*questions[1:], ""]).encode())
    parts = COUNT.split(log)
    fed = [
        [int(token) for token in ID.findall(part)][: int(count)]
        for count, part in zip(parts[1::2], parts[2::2], strict=True)
    ]
    said = text.partition("EOF by user")[0].replace("\n> ", "")
    return {"fed": fed, "text": "".join(said.split())}


def escaping(flags: list[str]) -> list[str]:
    """llama.cpp's flags for ours: it expands escapes in what is typed too, unless told to expand none."""
    return [flag for flag in flags if flag != "-e"]


def without_affixes(text: str, flags: list[str]) -> str:
    """What was answered: the tool writes affixes and reverse prompts between the answers."""
    for flag, value in pairwise(flags):
        if flag in ("--in-prefix", "--in-suffix", "-r"):
            text = text.replace(expand(value) if "--no-escape" not in flags else value, "")
    return "".join(text.split())


def expand(text: str) -> str:
    """The escapes of these flags."""
    for escape, meaning in (("\\n", "\n"), ("\\t", "\t"), ("\\x0a", "\n"), ("\\\\", "\\")):
        text = text.replace(escape, meaning)
    return text


def record_all(completion: Path, model: Path) -> dict[str, Any]:
    return {name: record(completion, model, *dialogue) for name, dialogue in DIALOGUES.items()}


def record_small(completion: Path, folder: Path) -> dict[str, Any]:
    """Vocabulary -> dialogue -> what `record` says, and one held in the style of the vocabulary."""
    recorded: dict[str, Any] = {}
    for name, vocabulary in VOCABULARIES.items():
        model = small_model(name, folder)
        held = {title: record(completion, model, *dialogue) for title, dialogue in dialogues(name).items()}
        if vocabulary.builtin:
            held["conversation"] = record_template(completion, model, vocabulary.builtin, QUESTIONS)
        recorded[name] = held
    return recorded


if __name__ == "__main__":
    tool = Path(os.environ["ORACLE_BIN"]) / "llama-completion"
    write("dialogues.json", record_all(tool, Path(sys.argv[1])))
    with tempfile.TemporaryDirectory() as folder:
        write("dialogues_bpe.json", record_small(tool, Path(folder)))
