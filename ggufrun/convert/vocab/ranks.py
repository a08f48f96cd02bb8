"""Vocabularies as tables of ranks: ``qwen.tiktoken``, the ``tokenizer.model`` of Meta's Llama 3 folders and of GLM-4.

Each line is a token's bytes in base 64 and its rank (``tekken`` reads another format of the same). A text is split by a
regular expression, and in each word the two neighbours whose union has the lowest rank are joined until none has one.

Source of the rules: the ``tiktoken`` package for the algorithm, llama.cpp's ``_set_vocab_qwen`` for Qwen's merges, the
``TikTokenConverter`` of transformers for Llama 3's, Meta's ``llama/tokenizer.py`` and Qwen's ``tokenization_qwen.py``
for the regular expressions and special tokens, which the files do not hold.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufrun.convert.vocab.tokenizer_files import MAX_VOCABULARY
from ggufrun.convert.vocab.vocabulary import Kind, Original, Vocabulary, without_beyond
from ggufrun.errors import FormatError
from ggufrun.regularfile import read_bytes, read_start

MAX_BYTES = 64 << 20
MAX_TOKEN = 1024
"""Bytes of a token; the longest in use have a few hundred, all spaces."""

MAX_WORK = 1 << 27
"""Squared lengths of all tokens: what it takes to find the merges; Qwen's and Llama 3's tables need a tenth."""

Ranks = Mapping[bytes, int]


@dataclass(frozen=True)
class Table:
    """A vocabulary: ``ranks`` of the plain tokens, and the ``special`` ones, which follow them or, if ``leading``, come
    before them. ``rule`` splits text into words, and a word that is ``whole`` in the table is not cut up and joined
    again. ``composes``: text is brought to Unicode's composed form first.
    """

    path: Path
    ranks: Ranks
    special: Sequence[str]
    rule: str
    whole: bool = True
    composes: bool = False
    leading: bool = False

    @property
    def shift(self) -> int:
        """The id of the plain token of rank 0."""
        return len(self.special) if self.leading else 0

    @property
    def ids(self) -> dict[str, int]:
        """The special tokens' ids."""
        return {text: number for number, text in enumerate(self.special, 0 if self.leading else len(self.ranks))}

    @property
    def size(self) -> int:
        """Tokens in all."""
        return len(self.ranks) + len(self.special)


QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{number}|>" for number in range(205)))
"""Qwen 1's special tokens, which follow the table."""

LLAMA3_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_2|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    *(f"<|reserved_special_token_{number}|>" for number in range(3, 248)),
)
"""Llama 3.1's special tokens."""

LLAMA3_0_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    *(f"<|reserved_special_token_{number}|>" for number in range(4)),
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|reserved_special_token_4|>",
    "<|eot_id|>",
    *(f"<|reserved_special_token_{number}|>" for number in range(5, 251)),
)
"""Llama 3.0's."""


def _alphabet() -> list[str]:
    """The characters that stand for the 256 bytes in byte-level BPE: themselves if printable, else from U+0100 on."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in shown else next(spare)) for byte in range(256)]


ALPHABET = _alphabet()


def read_ranks(path: Path) -> dict[bytes, int]:
    """The table in ``path``: ids from 0 on without gaps, every byte among them. FormatError for anything else."""
    broken = f"{path} is not a table of tokens"
    ranks: dict[bytes, int] = {}
    work = 0
    for line in read_bytes(path, MAX_BYTES).splitlines():
        if not line.strip():
            continue
        try:
            text, number = line.split()
            token, rank = base64.b64decode(text, validate=True), int(number)
        except (ValueError, binascii.Error) as error:
            raise FormatError(f"{broken}: {line[:40]!r}", "download it again") from error
        if rank != len(ranks) or not token or len(token) > MAX_TOKEN or token in ranks or rank >= MAX_VOCABULARY:
            raise FormatError(f"{broken}: the rank {rank} is out of order or nothing new", "download it again")
        work += len(token) ** 2
        if work > MAX_WORK:
            raise FormatError(f"{broken}: its tokens are too long", "download it again")
        ranks[token] = rank
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise FormatError(f"{broken}: it does not have every byte", "download it again")
    return ranks


def is_ranks(path: Path) -> bool:
    """Does the file look like such a table, from its first line?"""
    parts = read_start(path, 4 * MAX_TOKEN).partition(b"\n")[0].split()
    try:
        return len(parts) == 2 and parts[1].isdigit() and bool(base64.b64decode(parts[0], validate=True))
    except (ValueError, binascii.Error):
        return False


def text_of(token: bytes) -> str:
    """A token as byte-level BPE writes it."""
    return "".join(ALPHABET[byte] for byte in token)


def join(ranks: Ranks, word: bytes, limit: int | None = None) -> list[bytes]:
    """Cut a word into tokens; with ``limit`` only joins of a lower rank are made."""
    parts = [word[index : index + 1] for index in range(len(word))]
    while len(parts) > 1:
        rank, index = min((ranks.get(parts[i] + parts[i + 1], MAX_VOCABULARY), i) for i in range(len(parts) - 1))
        if rank >= (MAX_VOCABULARY if limit is None else limit):
            break
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    return parts


def last_merges(ranks: Ranks, every: bool = True) -> list[str]:
    """One merge for every token: the last two parts that the table itself would join to it.

    A token that it would not join is an error or, unless ``every`` is set, left without.
    """
    found = []
    for token, rank in ranks.items():
        if len(token) > 1:
            parts = join(ranks, token, rank)
            if len(parts) != 2 and not every:
                continue
            if len(parts) != 2:
                raise FormatError(f"the token {rank} of the table can never be made", "download it again")
            found.append(" ".join(map(text_of, parts)))
    return found


def all_merges(ranks: Ranks) -> list[str]:
    """Every pair of tokens that makes a token, in the order of what they make, then of the parts."""
    found = []
    for token in ranks:
        if len(token) > 1:
            cuts = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
            pairs = [(ranks[one], ranks[two], one, two) for one, two in cuts if one in ranks and two in ranks]
            found += [f"{text_of(one)} {text_of(two)}" for _, _, one, two in sorted(pairs)]
    return found


def read_vocabulary(table: Table, size: int) -> Vocabulary:
    """All tokens, padded to ``size``."""
    if table.shift + len(table.ranks) > size:
        raise FormatError(
            f"{table.path} has {len(table.ranks)} tokens and {len(table.special)} special ones, the model a "
            f"vocabulary of {size}",
            "use the tokenizer that the checkpoint was trained with",
        )
    vocabulary = Vocabulary.padded(size, 0.0)
    for token, rank in table.ranks.items():
        vocabulary.put(rank + table.shift, text_of(token), 0.0, Kind.NORMAL)
    for text, number in table.ids.items():
        vocabulary.add(number, text, 0.0, Kind.CONTROL)
    return vocabulary


def original(table: Table, vocabulary: Vocabulary) -> Original:
    """The table as the proof asks it, as far as the vocabulary has its tokens."""
    from tokenizers import Regex
    from tokenizers.normalizers import NFC
    from tokenizers.pre_tokenizers import Split

    split = Split(Regex(table.rule.removeprefix("Split ")), "isolated")
    ids, ranks, shift = table.ids, table.ranks, table.shift
    normalize = NFC().normalize_str if table.composes else None
    any_special = re.compile(f"({'|'.join(map(re.escape, sorted(ids, key=len, reverse=True)))})")
    known: dict[str, list[int]] = {}

    def word_ids(word: str) -> list[int]:
        if word not in known:
            data = word.encode()
            parts = [data] if table.whole and data in ranks else join(ranks, data)
            known[word] = [ranks[part] + shift for part in parts]
        return known[word]

    def plain(text: str) -> list[int]:
        return [number for word, _ in split.pre_tokenize_str(text) for number in word_ids(word)] if text else []

    def parsed(text: str) -> list[int]:
        found = []
        for part in any_special.split(text):
            found += [ids[part]] if part in ids else plain(part)
        return found

    def encode(texts: Sequence[str], parse: bool) -> list[list[int]]:
        return [(parsed if parse else plain)(normalize(text) if normalize else text) for text in texts]

    loss = "brings text to Unicode's composed form (NFC)" if table.composes else ""
    return without_beyond(Original(table.path.name, encode, tuple(ids.items()), True, normalize, loss), vocabulary)
