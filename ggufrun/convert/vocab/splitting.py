"""How a tokenizer.json cuts text into words, as a list of canonical steps, and llama.cpp's name for it.

The name is chosen by the rules that the file states, not by a hash of what the tokenizer does to a sample: an added
token changes every such hash and no rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ggufrun.convert.vocab import pretokenizers
from ggufrun.errors import FormatError, UnsupportedError, UsageError

MAX_STEPS = 32
MAX_DEPTH = 8


@dataclass(frozen=True)
class Splitting:
    """``normalizer`` and ``steps`` in canonical words; ``ignore_merges``: words that are tokens skip the merges."""

    normalizer: tuple[str, ...]
    steps: tuple[str, ...]
    ignore_merges: bool

    def __str__(self) -> str:
        text = ", then ".join((*self.normalizer, *self.steps)) or "no splitting at all"
        return text if len(text) < 400 else f"{text[:400]}..."


def splitting_of(tokenizer: Mapping[str, Any]) -> Splitting:
    """What the parsed tokenizer.json says. FormatError where it makes no sense."""
    try:
        return Splitting(
            tuple(_flat(tokenizer.get("normalizer"), "normalizers", _normalizer)),
            tuple(_flat(tokenizer.get("pre_tokenizer"), "pretokenizers", _pre_tokenizer)),
            tokenizer["model"].get("ignore_merges") is True,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"the splitting rules in tokenizer.json make no sense: {str(error)[:80]}", "download it again"
        ) from error


def pretokenizer_name(
    splitting: Splitting, architectures: Sequence[str], tokens: Mapping[str, Any], wanted: str | None = None
) -> str:
    """llama.cpp's name for ``splitting``; ``wanted`` overrules it. UnsupportedError shows a rule that has none.

    Among names of one meaning the architectures in config.json and the texts in ``tokens`` decide.
    """
    if wanted is not None:
        check_name(wanted)
        return wanted
    if set(splitting.normalizer) <= {"NFC"}:
        for rule in pretokenizers.RULES:
            if (
                rule.steps == splitting.steps
                and rule.ignore_merges in (None, splitting.ignore_merges)
                and rule.nfc in (None, bool(splitting.normalizer))
                and (not rule.architectures or any(name in rule.architectures for name in architectures))
                and (not rule.token or rule.token in tokens)
            ):
                return rule.name
    raise UnsupportedError(
        f"no pretokenizer of llama.cpp is known to split text as tokenizer.json does ({splitting})",
        "if you know one that does, name it with --pretokenizer NAME; the result is checked against tokenizer.json",
    )


def check_name(name: str) -> None:
    """UsageError, with the valid names, for a name that llama.cpp does not know."""
    if name not in pretokenizers.NAMES:
        raise UsageError(f"no such pretokenizer: {name}", f"choose one of {', '.join(pretokenizers.NAMES)}")


def canonical_regex(text: str) -> str:
    """One spelling for the ways in which published files write the same expression."""
    for plain, escaped in (("\r", r"\r"), ("\n", r"\n"), ("\t", r"\t"), (r"\/", "/")):
        text = text.replace(plain, escaped)
    # a possessive quantifier means the same where what follows cannot match what it took
    text = text.replace("]?+", "]?").replace("]++", "]+")
    for spelling in ("'(?i:[sdmt]|ll|ve|re)", "'(?:[sdmt]|ll|ve|re)(?i)", "(?i:'s|'t|'re|'ve|'m|'d|'ll)"):
        text = text.replace(spelling, pretokenizers.CONTRACTIONS)
    either_case = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    return text.replace(either_case, pretokenizers.CONTRACTIONS)


def _flat(step: Any, inner: str, describe: Any, depth: int = 0) -> list[str]:
    """The steps of a tree of sequences, in order."""
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [described] if (described := describe(step)) else []
    steps = step[inner]
    if depth >= MAX_DEPTH or len(steps) > MAX_STEPS:
        raise ValueError("too many steps")
    found = [text for part in steps for text in _flat(part, inner, describe, depth + 1)]
    if len(found) > MAX_STEPS:
        raise ValueError("too many steps")
    return found


def _normalizer(step: Mapping[str, Any]) -> str:
    kind = str(step["type"])
    if kind == "Replace":
        return f"Replace {_pattern(step['pattern'])} by {step['content']!r}"
    if kind == "Prepend":
        return f"Prepend {step['prepend']!r}"
    return kind


def _pre_tokenizer(step: Mapping[str, Any]) -> str:
    kind = str(step["type"])
    if kind == "ByteLevel":
        words = " regex" if step.get("use_regex", True) else ""
        return f"ByteLevel{words}{' with a space in front' if step.get('add_prefix_space', True) else ''}"
    if kind == "Digits":
        return "Digits individual" if step.get("individual_digits") else "Digits"
    if kind == "Punctuation":
        return f"Punctuation {step.get('behavior', 'Isolated')}"
    if kind == "Metaspace":
        scheme = step.get("prepend_scheme") or ("always" if step.get("add_prefix_space", True) else "never")
        split = "" if step.get("split", True) else " unsplit"
        return f"Metaspace {step.get('replacement', pretokenizers.SPACE)} {scheme}{split}"
    if kind == "Split":
        pattern = _pattern(step["pattern"])
        behavior, inverted = step["behavior"], step.get("invert", False)
        # what lies between the matches of an expression that matches everything is nothing
        covers = pattern.endswith(r"|\s+")
        if (behavior == "Isolated" and not inverted) or (behavior in ("Removed", "Isolated") and inverted and covers):
            return f"Split {pattern}"
        return f"Split {behavior}{' inverted' if inverted else ''} {pattern}"
    return kind


def _pattern(pattern: Any) -> str:
    if "String" in pattern:
        return f"the text {str(pattern['String'])!r}"
    return canonical_regex(str(pattern["Regex"]))
