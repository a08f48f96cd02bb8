"""The tokenizer files of a checkpoint folder, read once, bounded in size and checked for the shapes readers rely on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ggufrun.checkpoint.jsonfile import read_object
from ggufrun.convert.config import Config
from ggufrun.convert.vocab.vocab_json import assembled
from ggufrun.errors import FormatError
from ggufrun.regularfile import read_text

MAX_BYTES = 64 << 20
"""Bytes of a tokenizer.json; the largest vocabularies in use (262,144 tokens) take half of it."""

MAX_VOCABULARY = 1 << 22
"""Tokens; no vocabulary in use has a quarter of that."""

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")

AGAIN = "download the tokenizer files again"


@dataclass(frozen=True)
class AddedToken:
    """A token that is cut out of the text before the vocabulary proper sees it.

    ``marked`` says whether its own entry calls it special; it is so too if tokenizer_config.json gives it a role.
    """

    id: int
    text: str
    special: bool
    normalized: bool
    marked: bool


@dataclass(frozen=True)
class TokenizerFiles:
    """What lies in ``folder``. A file that is not there is an empty mapping."""

    folder: Path
    config: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path, config: Config) -> TokenizerFiles:
        """The files of ``folder``; ``config`` stands in where it has no config.json of its own."""
        own = folder / "config.json"
        return cls(folder, read_object(own) if own.is_file() else config.values)

    def path(self, name: str) -> Path | None:
        """The file called ``name``, or None. FormatError for a name that leads nowhere, or to no regular file."""
        path = self.folder / name
        if path.is_file():
            return path
        if path.is_symlink() or path.exists():
            raise FormatError(f"{path} is not a regular file", AGAIN)
        return None

    def object(self, name: str) -> dict[str, Any]:
        """A small JSON object; empty where there is no such file."""
        path = self.path(name)
        return read_object(path) if path else {}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """tokenizer_config.json."""
        return self.object("tokenizer_config.json")

    def large_text(self, name: str) -> str:
        """The text of a tokenizer file, which may be long but not without bounds; empty where there is none."""
        path = self.path(name)
        if path is None:
            return ""
        return read_text(path, MAX_BYTES, AGAIN)

    def large_object(self, name: str) -> dict[str, Any]:
        """A JSON object of any size within bounds; empty where there is no such file."""
        path = self.path(name)
        if path is None:
            return {}
        return read_object(path, MAX_BYTES)

    @property
    def bpe_name(self) -> str:
        """The file, or the first of the two, that describes a BPE tokenizer; empty where there is none."""
        if self.path("tokenizer.json"):
            return "tokenizer.json"
        return "vocab.json" if self.path("vocab.json") and self.path("merges.txt") else ""

    @cached_property
    def tokenizer_text(self) -> str:
        """tokenizer.json, or what stands for it, as text; empty where there is none."""
        if self.bpe_name == "tokenizer.json":
            return self.large_text("tokenizer.json")
        return json.dumps(self.tokenizer, ensure_ascii=False) if self.bpe_name else ""

    @cached_property
    def tokenizer(self) -> dict[str, Any]:
        """tokenizer.json, or what vocab.json and merges.txt make; empty where there is neither."""
        if self.bpe_name == "vocab.json":
            architectures = self.config.get("architectures")
            return assembled(
                self.large_object("vocab.json"),
                self.large_text("merges.txt"),
                self.settings,
                architectures if isinstance(architectures, list) else (),
            )
        found = self.large_object("tokenizer.json")
        if self.bpe_name and not isinstance(found.get("model"), dict):
            raise FormatError(f"{self.path('tokenizer.json')} describes no tokenizer", AGAIN)
        return found

    @cached_property
    def added(self) -> tuple[AddedToken, ...]:
        """The added tokens of tokenizer.json, then those that only tokenizer_config.json or added_tokens.json has."""
        found: dict[int, AddedToken] = {}
        entries = self.tokenizer.get("added_tokens") or []
        if not isinstance(entries, list):
            raise FormatError(f"the added tokens in {self.folder} make no sense: {type(entries).__name__}", AGAIN)
        for entry in entries:
            token = self._token(entry, entry.get("id") if isinstance(entry, dict) else None)
            found[token.id] = token
        texts = {token.text for token in found.values()}
        decoder = self.settings.get("added_tokens_decoder") or {}
        if not isinstance(decoder, dict):
            raise FormatError(f"the added tokens in {self.folder} make no sense: {type(decoder).__name__}", AGAIN)
        for key, entry in decoder.items():
            token = self._token(entry, int(key) if key.isascii() and key.isdecimal() and len(key) < 10 else None)
            if token.id not in found and token.text not in texts:
                found[token.id] = token
                texts.add(token.text)
        for text, number in self.object("added_tokens.json").items():
            if number not in found and text not in texts:
                found[number] = self._token({"content": text}, number)
        vocabulary = self.tokenizer.get("model", {}).get("vocab")
        for text in self.named:
            number = vocabulary.get(text) if isinstance(vocabulary, dict) else None
            if text not in texts and type(number) is int and number not in found:
                found[number] = self._token({"content": text, "special": True}, number)
        return tuple(found.values())

    @cached_property
    def named(self) -> tuple[str, ...]:
        """The texts of tokens that tokenizer_config.json gives a role."""
        entries = [self.settings.get(f"{kind}_token") for kind in ROLES]
        for key in ("additional_special_tokens", "extra_special_tokens"):
            more = self.settings.get(key)
            entries += more if isinstance(more, list) else more.values() if isinstance(more, dict) else ()
        texts = (entry.get("content") if isinstance(entry, dict) else entry for entry in entries)
        return tuple(dict.fromkeys(text for text in texts if isinstance(text, str) and text))

    @cached_property
    def ids(self) -> dict[str, int]:
        """The ids of the added tokens by their text."""
        return {token.text: token.id for token in self.added}

    def _token(self, entry: Any, number: Any) -> AddedToken:
        text = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(text, str) or not text or type(number) is not int or not 0 <= number < MAX_VOCABULARY:
            raise FormatError(f"the added tokens in {self.folder} make no sense: {str(entry)[:80]}", AGAIN)
        marked = entry.get("special") is True
        normalized = entry.get("normalized", not marked) is not False
        return AddedToken(number, text, marked or text in self.named, normalized, marked)
