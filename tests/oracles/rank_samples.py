"""Tables of ranks as the tokenizers' own packages read them. Where tiktoken and mistral-common are installed:

    python tests/oracles/rank_samples.py > tests/golden/ranks.json

One JSON object: kind of table -> the ids of every string of ``TEXTS``, without special tokens.
"""

# mypy: ignore-errors
from __future__ import annotations

import base64
import json
import sys
import tempfile
from pathlib import Path

TEXTS = (
    "",
    "Hello world",
    "床前明月光，疑是地上霜。",
    " 举头望明月",
    "I'LL say it's 2024's best, don't you?",
    "x = [1, 22, 333, 4444]\n",
    "  def f(a):\r\n\treturn a**2  # 平方\n\n\n",
    "１２３ＡＢＣ",
    "e\u0301 é ﬁ",
    "👩\u200d👩\u200d👧 🚀",
    "\u3000全角　空格 ",
    "Ünïcödé ΣΑΣ straße",
    "<s>[INST]<|endoftext|>",
    "the cat the cat thethe",
    "    \n  x",
    "ﷺ ا ب",
    "한국어 テスト ไทย",
    "HelloWorld iPhone的WiFi",
    "人々〇㐀𠮷ー",
)

SPECIAL = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>")
N_SPECIAL = 10


def lines(table: bytes) -> dict[bytes, int]:
    """A table as a mapping."""
    return {base64.b64decode(a): int(b) for a, b in map(bytes.split, table.splitlines())}


def tekken(table: bytes, pattern: str, special: bool = True, spare: int = 3) -> dict[str, object]:
    """A tekken.json with the same tokens; its last ``spare`` ones are beyond the stated size."""
    ranks = lines(table)
    found: dict[str, object] = {
        "config": {
            "pattern": pattern,
            "num_vocab_tokens": len(ranks),
            "default_vocab_size": len(ranks) - spare + N_SPECIAL,
            "default_num_special_tokens": N_SPECIAL,
            "version": "v7",
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": token.decode(errors="replace")}
            for token, rank in ranks.items()
        ],
    }
    if special:
        found["special_tokens"] = [
            {"rank": rank, "token_str": text, "is_control": True} for rank, text in enumerate(SPECIAL)
        ]
    return found


def main() -> None:
    import tiktoken
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    from tests.support.vocabularies import KIMI, LLAMA3, QWEN2, TEKKEN, rank_table

    ranks = lines(rank_table())
    found = {}
    for name, rule in (("qwen", QWEN2), ("llama3", LLAMA3), ("kimi", KIMI)):
        encoding = tiktoken.Encoding(name, pat_str=rule, mergeable_ranks=ranks, special_tokens={})
        found[name] = [encoding.encode_ordinary(text) for text in TEXTS]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tekken.json"
        path.write_text(json.dumps(tekken(rank_table(), TEKKEN)))
        tokenizer = Tekkenizer.from_file(path)
        found["tekken"] = [tokenizer.encode(text, bos=False, eos=False) for text in TEXTS]
        found["tekken special"] = [tokenizer.id_to_piece(number) for number in range(N_SPECIAL)]
    rows = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in found.items()]
    sys.stdout.write("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()
