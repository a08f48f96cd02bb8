"""Which tokens mean something special, which of them are added to a text, and the chat template.

Source of the rules: ``SpecialVocab`` of the ``gguf`` package in the llama.cpp release that the engine is built from,
which is newer than the published package. Beyond it, tokens that end a generation are also taken from lists of ids in
generation_config.json and config.json, where llama.cpp would not know them by their text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_letters, digits
from typing import Any

import gguf

from ggufrun.convert.config import read_json
from ggufrun.convert.vocab.tokenizer_files import TokenizerFiles
from ggufrun.errors import FormatError, NotFoundError
from ggufrun.regularfile import read_text

KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
"""The kinds that files name, in the order in which they are written."""

WRITTEN = ("bos", "eos", "unk", "sep", "pad", "mask", "eot", "eom")
ADDED = ("bos", "eos", "sep")
"""Kinds that have a ``tokenizer.ggml.*_token_id`` key, and those that have an ``add_*_token`` key."""

ENDS = frozenset(
    (
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
        "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
        "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
    )
)  # fmt: skip
"""Texts by which llama.cpp knows that a token ends a generation, whatever the file says (``llama-vocab.cpp``)."""

MAX_TEMPLATE = 1 << 20
MAX_ID = (1 << 32) - 1

Template = str | list[Any]


@dataclass
class Special:
    """Ids by kind, whether ``bos``, ``eos`` and ``sep`` are added to a text, and the chat template or templates."""

    ids: dict[str, int] = field(default_factory=dict)
    add: dict[str, bool] = field(default_factory=dict)
    template: Template | None = None

    def default(self, kind: str, number: Any, size: int | None = None) -> None:
        """Set an id that is not set yet. What is no id of a vocabulary of ``size`` tokens is passed over."""
        if type(number) is int and 0 <= number < (MAX_ID if size is None else size):
            self.ids.setdefault(kind, number)


def read_special(files: TokenizerFiles, size: int | None = None, kinds: Sequence[str] = KINDS) -> Special:
    """The special tokens of ``kinds`` that the files name; ids from ``size`` on are passed over."""
    found = Special()
    try:
        names, kinds, usable = _from_post_processor(files, found, list(kinds))
        found.template = read_template(files)
        if usable:
            for kind in kinds:
                flag = files.settings.get(f"add_{kind}_token")
                if isinstance(flag, bool):
                    found.add.setdefault(kind, flag)
                text = _text(names.get(f"{kind}_token"))
                if text is not None and files.tokenizer:
                    added = files.tokenizer.get("added_tokens") or []
                    found.default(kind, next((t.get("id") for t in added if t.get("content") == text), None), size)
        if any(_adds_nothing(step) for step in _steps(files.tokenizer.get("post_processor"))):
            # so transformers 5 says it, and only so; llama.cpp would add what is usual
            found.add = {"bos": False, "eos": False} | found.add
        nested = files.config.get("text_config")
        for kind in kinds:
            number = files.config.get(f"{kind}_token_id")
            if number is None and isinstance(nested, Mapping):
                number = nested.get(f"{kind}_token_id")
            found.default(kind, number, size)
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise FormatError(
            f"the tokenizer files in {files.folder} make no sense: {error}", "download them again"
        ) from error
    return found


def write_special(writer: gguf.GGUFWriter, special: Special, merges: Sequence[str] = ()) -> None:
    """Write the keys in the order of llama.cpp's converter."""
    if merges:
        writer.add_token_merges(merges)
    for kind, number in special.ids.items():
        if kind in WRITTEN:
            getattr(writer, f"add_{kind}_token_id")(number)
    for kind, flag in special.add.items():
        if kind in ADDED:
            getattr(writer, f"add_add_{kind}_token")(flag)
    if special.template is not None:
        _write_template(writer, special.template)


def replace_template(writer: gguf.GGUFWriter, template: str) -> None:
    """Let ``template`` be the only chat template, whatever was written before."""
    keys = writer.kv_data[0]
    for key in [key for key in keys if key.startswith(gguf.Keys.Tokenizer.CHAT_TEMPLATE)]:
        del keys[key]
    writer.add_chat_template(template)


def _write_template(writer: gguf.GGUFWriter, template: Template) -> None:
    """As the package does it, but names keep their order, so that a conversion always has the same bytes."""
    if isinstance(template, str):
        writer.add_chat_template(template)
        return
    names: list[str] = []
    for entry in template:
        name = "".join(c if c in ascii_letters + digits else "_" for c in entry["name"])
        if name and name != "default":
            writer.add_string(gguf.Keys.Tokenizer.CHAT_TEMPLATE_N.format(name=name), entry["template"])
            names.append(name)
    if names:
        writer.add_array(gguf.Keys.Tokenizer.CHAT_TEMPLATES, list(dict.fromkeys(names)))
    for entry in template:
        if entry["name"] == "default":
            writer.add_chat_template(entry["template"])


def add_ends(files: TokenizerFiles, special: Special, tokens: Sequence[bytes | str]) -> None:
    """Give EOT and EOM to ends of a generation that only a list of ids tells, in generation_config.json or config.json.

    llama.cpp's converter ignores such lists; where llama.cpp knows the tokens by their text nothing is added.
    """
    lists = [files.object("generation_config.json").get("eos_token_id"), files.config.get("eos_token_id")]
    free = [kind for kind in ("eot", "eom") if kind not in special.ids]
    for listed in lists:
        for number in listed if isinstance(listed, list) else ():
            if type(number) is not int or not 0 <= number < len(tokens) or number in special.ids.values():
                continue
            if "eos" not in special.ids:
                special.ids["eos"] = number
                continue
            token = tokens[number]
            if (token.decode("utf-8", "replace") if isinstance(token, bytes) else token) in ENDS:
                continue
            if free:
                special.ids[free.pop(0)] = number


def read_template(files: TokenizerFiles) -> Template | None:
    """The chat template: tokenizer_config.json's, one or a list of named ones, or that of a file beside it."""
    found: Any = files.settings.get("chat_template")
    if "chat_template" not in files.settings:
        found = _template_file(files)
    if isinstance(found, list):
        for entry in found:
            if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
                raise FormatError(f"the chat templates in {files.folder} have no names", "download them again")
            if not isinstance(entry.get("template"), str):
                raise FormatError(f"the chat template {entry['name']!r} is not text", "download it again")
        return found
    return found if isinstance(found, str) else None


def _template_file(files: TokenizerFiles) -> Any:
    jinja = files.path("chat_template.jinja")
    if jinja:
        more = sorted((files.folder / "additional_chat_templates").glob("*.jinja"))
        default = read_template_file(jinja)
        if not more:
            return default
        return [{"name": "default", "template": default}] + [
            {"name": path.stem, "template": read_template_file(path)} for path in more
        ]
    path = files.path("chat_template.json")
    if path is None:
        return None
    found = read_json(path)
    return found.get("chat_template") if isinstance(found, dict) else None


def read_template_file(path: Path) -> str:
    """The text of a template. NotFoundError, or FormatError for one that is not text or no template by its size."""
    if not path.is_file():
        raise NotFoundError(f"no such file: {path}", "check the path")
    return read_text(path, MAX_TEMPLATE)


def _text(entry: Any) -> str | None:
    """A token as tokenizer_config.json writes it: text, or an object with its content."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def _from_post_processor(
    files: TokenizerFiles, found: Special, kinds: list[str]
) -> tuple[dict[str, Any], list[str], bool]:
    """What the post-processor of tokenizer.json says of BOS, EOS and SEP.

    Returns tokenizer_config.json's names of tokens, completed and corrected by it, the kinds, which may have gained
    EOT or EOM, and whether there is a tokenizer_config.json at all.
    """
    names = dict(files.settings)
    has_settings = bool(names)
    if not files.tokenizer:
        return names, kinds, has_settings
    if has_settings:
        for kind, stand_in in (("bos", "cls"), ("eos", "sep")):
            if not names.get(f"{kind}_token") and names.get(f"{stand_in}_token"):
                names[f"{kind}_token"] = names[f"{stand_in}_token"]
    said = {kind: names.get(f"{kind}_token") for kind in ("bos", "cls", "eos", "sep")}
    for step in _steps(files.tokenizer.get("post_processor")):
        if step.get("type") == "ByteLevel":
            found.add.setdefault("bos", False)
            found.add.setdefault("eos", False)
        elif step.get("type") == "RobertaProcessing":
            found.add |= {"bos": True, "eos": True, "sep": True}
            for kind, other in (("cls", "bos"), ("sep", "eos")):
                if not said[kind] and has_settings:
                    said[kind] = names[f"{kind}_token"] = step.get(kind, [said[other]])[0]
        elif step.get("type") == "TemplateProcessing":
            _from_template(step, found, names if has_settings else None, said, kinds)
    return names, kinds, has_settings


def _from_template(
    step: Mapping[str, Any],
    found: Special,
    names: dict[str, Any] | None,
    said: dict[str, Any],
    kinds: list[str],
) -> None:
    single, pair = step.get("single") or [], step.get("pair") or []
    first = last = None
    if len(single) > 1:
        first, last = _special_of(single[0]), _special_of(single[-1])
        if first:
            if names is None:
                said["bos"] = first
            elif first not in (said["bos"], said["cls"]):
                for kind in ("bos", "cls"):
                    if not said[kind]:
                        said[kind] = names[f"{kind}_token"] = first
            found.add["bos"] = first in (said["bos"], said["cls"])
        if last:
            if names is not None and last != said["eos"]:
                # the token that ends a text is EOS; what was called so ends a turn
                spare = next((kind for kind in ("eot", "eom") if kind not in kinds), None)
                if spare:
                    kinds.append(spare)
                    names[f"{spare}_token"] = said["eos"]
                names["eos_token"] = last
            said["eos"] = last
            found.add["eos"] = True
    middle = pair[1 if first and pair and _special_of(pair[0]) == first else 0 :]
    if last and middle and _special_of(middle[-1]) == last:
        middle = middle[:-1]
    if len(middle) < 3 or middle[0].get("Sequence", {}).get("id") != "A":
        return
    if middle[-1].get("Sequence", {}).get("id") != "B":
        return
    between = [_special_of(entry) for entry in middle[1:-1]]
    separates = between[0] in (said["sep"], said["eos"]) and bool(between[0]) and not last
    separates = separates or (len(between) == 2 and bool(between[1]) and between[1] in (said["sep"], said["eos"]))
    found.add["sep"] = separates
    if separates and not said["sep"] and names is not None:
        names["sep_token"] = said["eos"]


def template_begins(files: TokenizerFiles) -> bool:
    """Does tokenizer.json itself put BOS in front of a text?"""
    found = Special()
    _from_post_processor(files, found, list(KINDS))
    return found.add.get("bos", False)


def _steps(processor: Any) -> Iterator[Mapping[str, Any]]:
    if processor:
        yield from processor.get("processors", [processor])


def _adds_nothing(step: Mapping[str, Any]) -> bool:
    """Is it a template of the text alone?"""
    single = step.get("single") or []
    return step.get("type") == "TemplateProcessing" and len(single) == 1 and not _special_of(single[0])


def _special_of(entry: Mapping[str, Any]) -> Any:
    return entry.get("SpecialToken", {}).get("id")
