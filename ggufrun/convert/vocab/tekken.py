"""``tekken.json``, Mistral's tokenizer: a table of ranks in JSON, with its splitting rule and special tokens.

Source of the format: ``mistral_common.tokens.tokenizers.tekken``. Special tokens come first; those that the file does
not name are called ``<SPECIAL_n>``. Of the plain tokens, the first so many are used as fit the stated size.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ggufrun.convert.vocab.ranks import MAX_TOKEN, MAX_WORK, Table
from ggufrun.convert.vocab.splitting import canonical_regex
from ggufrun.convert.vocab.tokenizer_files import AGAIN, MAX_VOCABULARY
from ggufrun.errors import FormatError

OLD_SPECIAL = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip
"""What files up to version 7 do not say."""

ROLES = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"}


def read_tekken(path: Path, content: Mapping[str, Any]) -> Table:
    """The table in a parsed tekken.json. FormatError where it makes no sense."""
    try:
        config = content["config"]
        n_special, size = config["default_num_special_tokens"], config["default_vocab_size"]
        if type(n_special) is not int or type(size) is not int or not 0 <= n_special <= size <= MAX_VOCABULARY:
            raise ValueError("the sizes of the vocabulary")
        ranks = _ranks(content["vocab"], size - n_special)
        special = _special(content.get("special_tokens"), n_special)
        rule = f"Split {canonical_regex(str(config['pattern']))}"
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise FormatError(f"{path} makes no sense: {str(error)[:80]}", AGAIN) from error
    return Table(path, ranks, special, rule, leading=True)


def _ranks(entries: Any, count: int) -> dict[bytes, int]:
    if not isinstance(entries, list) or len(entries) < count:
        raise ValueError(f"it has fewer than {count} plain tokens")
    ranks: dict[bytes, int] = {}
    work = 0
    for entry in entries[:count]:
        token = base64.b64decode(entry["token_bytes"], validate=True)
        if entry["rank"] != len(ranks) or not token or len(token) > MAX_TOKEN or token in ranks:
            raise ValueError(f"the rank {str(entry['rank'])[:20]} is out of order or nothing new")
        work += len(token) ** 2
        if work > MAX_WORK:
            raise ValueError("its tokens are too long")
        ranks[token] = len(ranks)
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise ValueError("it does not have every byte")
    return ranks


def _special(entries: Any, count: int) -> list[str]:
    if entries is None:
        named = list(OLD_SPECIAL)
    else:
        named = [entry["token_str"] for entry in entries]
        if [entry["rank"] for entry in entries] != list(range(len(entries))):
            raise ValueError("the special tokens are out of order")
    if not all(isinstance(text, str) and text for text in named) or len(named) > count:
        raise ValueError("the special tokens")
    names = [*named, *(f"<SPECIAL_{number}>" for number in range(len(named), count))]
    if len(set(names)) != count:
        raise ValueError("a special token is listed twice")
    return names
