"""Scripted dialogues as ``llama-completion`` holds them: what it feeds to the model, and what the model answers.

``python -m tests.dialogue_oracle MODEL.gguf`` writes ``golden/dialogues.json`` anew (the embedded model as Q8_0). The
same dialogues are held with other people's vocabularies where the oracle is, which has them: `with_vocabulary` puts one
into a model that needs no training.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tests.chat_oracle import CHAT_SH, COUNT, ID, LATER, write

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
}

ENDING = ["-i", "--temp", "0", "-t", "1", "-c", "2048", "--verbose-prompt"]
"""An answer ends where the model ends it."""

PAST = re.compile(r"\bn_past = (\d+)")


def record(completion: Path, model: Path, flags: list[str], typed: str) -> dict[str, Any]:
    """What `once` says. The tool prints from a thread of its own and sometimes exits before that is done: the longest
    of some runs is what it wrote.
    """
    runs = [once(completion, model, flags, typed) for _ in range(2)]
    while runs[0] != runs[1]:
        runs = [max(runs, key=size), once(completion, model, flags, typed)]
    return runs[0]


def size(run: dict[str, Any]) -> tuple[int, int]:
    return sum(map(len, run["fed"])) + run["tokens"], len(run["text"])


def once(completion: Path, model: Path, flags: list[str], typed: str) -> dict[str, Any]:
    """The ids of the prompt and of every message, the number of tokens evaluated, and the text that was written.

    BOS and a reverse prompt before a message are not among the ids; they are in the number.
    """
    command = [str(completion), "-m", str(model), *ENDING, *escaping(flags), "-no-cnv", "--simple-io"]
    run = subprocess.run(
        [*command, "--no-display-prompt", "-v"], input=typed.encode(), capture_output=True, check=True, timeout=120
    )
    log = run.stderr.decode(errors="replace")
    parts = zip(COUNT.split(log)[2::2], COUNT.findall(log), strict=True)
    fed = [[int(token) for token in ID.findall(part)][: int(count)] for part, count in parts]
    text = run.stdout.decode("utf-8", "ignore").partition("EOF by user")[0]
    # a log that was cut short may hold no number at all
    past = PAST.findall(log) or ["0"]
    return {"fed": fed, "tokens": int(past[-1]), "text": without_affixes(text, flags)}


def record_template(completion: Path, model: Path, template: Path, questions: list[str]) -> list[list[int]]:
    """The ids that each question feeds in the tool's conversation mode, with a chat template of one's choice."""
    command = [completion, "-m", model, "--chat-template-file", template, "--jinja", "-cnv", "-p", questions[0]]
    run = subprocess.run(
        [*map(str, command), *ENDING, "--simple-io"],
        input="\n".join([*questions[1:], ""]).encode(),
        capture_output=True,
        check=True,
        timeout=120,
    )
    parts = COUNT.split(run.stderr.decode(errors="replace"))
    return [
        [int(token) for token in ID.findall(part)][: int(count)]
        for count, part in zip(parts[1::2], parts[2::2], strict=True)
    ]


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


def with_vocabulary(vocabulary: Path, path: Path, seed: int = 1, end: str = "") -> Path:
    """A model with another's vocabulary that says a few words and ends: each word has one that follows it.

    ``end`` is the token that ends an answer, where it is not the vocabulary's EOS.

    One layer, whose attention and feed-forward parts are zero; the row of the output matrix that a token's embedding
    fits best is that of its follower.
    """
    import gguf

    reader = gguf.GGUFReader(vocabulary)
    writer = gguf.GGUFWriter(path, "llama")
    for name, field in reader.fields.items():
        if name.startswith("tokenizer."):
            kind, *inner = field.types
            writer.add_key_value(name, field.contents(), kind, inner[-1] if inner else None)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    kinds = reader.fields["tokenizer.ggml.token_type"].contents()
    last = tokens.index(end) if end else int(reader.fields["tokenizer.ggml.eos_token_id"].contents())
    width, count = 64, len(tokens)
    random = np.random.default_rng(seed)
    embedding = random.standard_normal((count, width)).astype(np.float32)
    embedding[:, 0] = 0
    output = np.zeros((count, width), np.float32)
    normal = [token for token, kind in enumerate(kinds) if kind == gguf.TokenType.NORMAL and token != last]
    words = random.permutation(normal)
    follower = np.full(count, words[0])
    follower[words] = np.roll(words, -1)
    output[follower] = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    # The first number says that nothing follows: no answer is longer than six words.
    embedding[words[::6], 0] = 30
    output[last], output[last, 0] = 0, 30
    output_norm = np.ones(width, np.float32)
    writer.add_name(path.stem)
    writer.add_context_length(2048)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(width)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(count)
    writer.add_file_type(1)
    square = np.zeros((width, width), np.float16)
    writer.add_tensor("token_embd.weight", embedding.astype(np.float16))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", square)
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", output_norm)
    writer.add_tensor("output_norm.weight", output_norm)
    writer.add_tensor("output.weight", output.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def record_all(completion: Path, model: Path) -> dict[str, Any]:
    return {name: record(completion, model, *dialogue) for name, dialogue in DIALOGUES.items()}


if __name__ == "__main__":
    write("dialogues.json", record_all(Path(os.environ["ORACLE_BIN"]) / "llama-completion", Path(sys.argv[1])))
