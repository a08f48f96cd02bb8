"""Convert the fetched tokenizers, and compare what llama.cpp makes of the strings with the recorded answers."""

from __future__ import annotations

import contextlib
import ctypes
import json
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ggufrun.checkpoint.gguf import file
from ggufrun.convert.plan import Plan, Wishes, plan_vocabulary
from ggufrun.convert.vocab import pretokenizers
from ggufrun.convert.vocab.bpe import FRONT
from ggufrun.convert.vocab.proof import prove
from ggufrun.convert.vocab.special import ENDS
from ggufrun.errors import GgufrunError
from ggufrun.native.bindings import bindings
from tests.published_tokenizers.record import GOLDEN
from tests.published_tokenizers.sources import CACHE
from tests.published_tokenizers.strings import CONVERSATIONS, digest, digests, samples

Tokenize = Callable[[Sequence[str], bool, bool], list[list[int]]]
"""(texts, are special tokens looked for, are BOS and EOS added) -> ids."""

LETTERS = {pretokenizers.MARKS: "m", pretokenizers.CASED_BEYOND_ASCII: "c", pretokenizers.CAPITALS_WITHIN: "k"}
"""The groups in which llama.cpp is known to go wrong, where the proof names these characters."""

REFUSED = {
    # NFKC, which llama.cpp does not do; no model with open weights has it
    "claude": "no pretokenizer",
    "claude-saved": "no pretokenizer",
    # repackaged: the models were published with tokenizer.model and without tokenizer.json, and whoever made one left
    # out the special tokens, for which tokenizer_config.json, the models' own, has ids. As published they convert.
    "chatglm-3": "disagree on the id",
    "internlm-2": "disagree on the id",
}
"""Tokenizers that are refused, and a part of what is said of them."""

OTHERWISE: dict[str, tuple[str, ...]] = {
    # two tokens behind every text, of which a GGUF can tell one; EOS is the last of them, as llama.cpp has it
    "command-r-plus": ("eos", "whole"),
    "command-r-plus-saved": ("eos", "whole"),
    # transformers 5 splits as its class GPT2Tokenizer does, whatever tokenizer.json says
    "gpt-4o": ("groups", "samples", "conversations", "whole"),
    # its class LlamaTokenizer puts a space in front of text or not, whatever tokenizer.json says
    "llama-2": ("groups", "samples"),
    "yi": ("groups", "samples", "conversations", "whole"),
    # the class reads "always" and does "first": no space after a special token, where llama.cpp always has one
    "llama-2-saved": ("conversations",),
    # <|im_start|> and others were given ids beyond the rows of the embedding, and are left out
    "internlm-2-saved": ("conversations",),
}
"""What is not as recorded, by the tokenizer's name: here tokenizer.json is followed, or llama.cpp cannot."""


def check_all(names: Sequence[str]) -> int:
    """Check ``names``, or all that are there; the status is 1 if one differs."""
    golden = json.loads(GOLDEN.read_text())
    chosen = [name for name in golden if (not names or name in names) and is_here(name)]
    failed = strings = 0
    for name in chosen:
        found = differences(name, golden[name])
        strings += found.pop("strings", 0)
        failed += bool(found)
        for what, values in found.items():
            sys.stderr.write(f"{name}: {what}: {values}\n")
    print(f"{len(chosen) - failed} of {len(chosen)} tokenizers, {strings} strings")  # noqa: T201
    return 1 if failed else 0


def is_here(name: str) -> bool:
    """Has the tokenizer been fetched?"""
    return (CACHE / name / "config.json").is_file()


def differences(name: str, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """What is not as recorded; nothing but the number of ``strings`` where all is."""
    folder = CACHE / name
    try:
        planned = plan_vocabulary(folder, folder / "vocabulary.gguf", Wishes("tokenizer"))
        planned.close()
        assert planned.original is not None
        proof = prove(planned.targets[0].header.metadata, planned.original)
    except GgufrunError as error:
        expected = REFUSED.get(name)
        return {} if expected and expected in str(error) else {"refused": str(error)}
    if name in REFUSED:
        return {"refused": "no longer"}
    with llama(planned) as (tokenize, ids):
        texts = planned.targets[0].header.get("tokenizer.ggml.tokens")
        ends = {text: number for number, text in enumerate(texts) if text in ENDS}
        found = compared(recorded, tokenize, ends, proof.loss, set(proof.approximate.split(" and ")))
        for kind, number in recorded["special"].items():
            if number is not None and number >= 0 and ids[kind] != number:
                found[kind] = (ids[kind], number)
        whole = tokenize(["Hello"], True, True)[0]
        if whole != recorded["whole"]:
            found["whole"] = (whole, recorded["whole"])
        if recorded.get("template", "") != template(planned):
            found["template"] = template(planned)
    return {what: value for what, value in found.items() if what not in OTHERWISE.get(name, ())} | {
        "strings": proof.strings
    }


def compared(
    recorded: Mapping[str, Any], tokenize: Tokenize, ends: Mapping[str, int], loss: str, approximate: set[str]
) -> dict[str, Any]:
    def plain(texts: Sequence[str]) -> list[list[int]]:
        given = [unicodedata.normalize("NFC", text) if "NFC" in loss else text for text in texts]
        return tokenize(given, False, False)

    risky = {LETTERS[kind] for kind in approximate if kind in LETTERS} | ({"e"} if "</s>" in ends else set())
    risky |= {"f"} if FRONT in loss else set()
    mine = digests(plain)
    theirs = recorded["groups"]
    wrong = [letters for letters in theirs if mine.get(letters) != theirs[letters] and not risky & set(letters)]
    found: dict[str, Any] = {"groups": wrong} if wrong else {}
    for text, one, two in zip(samples(), plain(samples()), recorded["samples"], strict=True):
        if wrong and one != two:
            found.setdefault("samples", (text, one, two))
    for text, ids in zip(CONVERSATIONS, recorded.get("conversations", ()), strict=False):
        # llama.cpp makes these tokens special by their text; in text that is not parsed for tokens they are not
        if any(end in text and number not in ids for end, number in ends.items()):
            continue
        if (one := tokenize([text], True, False)[0]) != ids:
            found.setdefault("conversations", []).append((text, one, ids))
    return found


def template(planned: Plan) -> str:
    """A digest of the chat template, or of all by their names."""
    header = planned.targets[0].header
    default = header.get("tokenizer.chat_template")
    return digest(default) if default else ""


@contextlib.contextmanager
def llama(planned: Plan) -> Iterator[tuple[Tokenize, dict[str, int]]]:
    """llama.cpp's tokenizer, and the ids of its special tokens."""
    api = bindings()
    header = planned.targets[0].header
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        path.write_bytes(file.serialize(file.Header(header.metadata, ())))
        params = api.llama_model_default_params()
        params.vocab_only = True
        model = api.llama_model_load_from_file(str(path).encode(), params)
    vocab = api.llama_model_get_vocab(model)
    buffer = (ctypes.c_int32 * 8192)()

    def tokenize(texts: Sequence[str], special: bool, whole: bool) -> list[list[int]]:
        found = []
        for text in texts:
            data = text.encode()
            count = api.llama_tokenize(vocab, data, len(data), buffer, len(buffer), whole, special)
            found.append(buffer[:count])
        return found

    yield tokenize, {kind: getattr(api, f"llama_vocab_{kind}")(vocab) for kind in ("bos", "eos", "pad")}
    api.llama_model_free(model)
