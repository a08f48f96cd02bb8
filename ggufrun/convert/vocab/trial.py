"""A trial of a tokenizer.json whose rules are not those of a published one, in a process that can be ended.

A regular expression may take longer than anybody waits, to compile or to match, and nothing interrupts the package that
runs it. What is known by its text needs no trial.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ggufrun.convert.vocab import pretokenizers
from ggufrun.convert.vocab.splitting import canonical_regex
from ggufrun.errors import UnsupportedError

SECONDS = 10
"""Of processor time; the rules of published tokenizers take less than one."""

BYTES = 4 << 30

LONG = 1000
"""Characters of a text or expression in the rules; published ones have up to 600."""

PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")

KNOWN = frozenset(step.removeprefix("Split ") for rule in pretokenizers.RULES for step in rule.steps)
"""Regular expressions of published files, spelled as `canonical_regex` spells them."""

SCRIPT = """
import sys
import tokenizers
rules, *texts = sys.stdin.buffer.read().decode("utf-8", "surrogatepass").split("\\0")
tokenizer = tokenizers.Tokenizer.from_str(rules)
for special in (False, True):
    tokenizer.encode_special_tokens = special
    for text in texts:
        tokenizer.encode(text, add_special_tokens=False)
"""


def needs_trial(tokenizer: Mapping[str, Any]) -> bool:
    """Is there anything in the rules that no published file has, or that need not come to an end?"""
    return any(_is_strange(step) for part in PARTS for step in _steps(tokenizer.get(part)))


def _is_strange(step: Any) -> bool:
    if isinstance(step, str):
        return len(step) > LONG
    if not isinstance(step, dict):
        return False
    # a table that is followed without a check
    if step.get("type") == "Precompiled":
        return True
    pattern = step.get("Regex")
    return isinstance(pattern, str) and canonical_regex(pattern) not in KNOWN


def _steps(value: Any) -> Iterator[Any]:
    """Everything in the value of a part, however deep."""
    rest = [value]
    while rest:
        item = rest.pop()
        yield item
        if isinstance(item, dict):
            rest += item.values()
        elif isinstance(item, list):
            rest += item


def try_out(name: object, rules: str, texts: Sequence[str]) -> None:
    """Load the tokenizer ``rules``, called ``name``, in a process of its own and cut ``texts`` up with it.

    UnsupportedError where it takes too long, too much memory, or ends the process. What it says of the rules is left to
    be said by the one who loads them here.
    """
    texts = [text for text in texts if "\0" not in text]
    given = "\0".join([re.sub("\0", "", rules), *texts]).encode("utf-8", "surrogatepass")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=given,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"},
        preexec_fn=_bound,
    )
    if done.returncode >= 0:
        return
    why = {-signal.SIGXCPU: "takes too long", -signal.SIGKILL: "takes too long or too much memory"}
    raise UnsupportedError(
        f"{name} has rules for cutting up text that no published tokenizer has, and following them "
        f"{why.get(done.returncode, 'ends the process that does it')}",
        "use the tokenizer that the checkpoint was published with",
    )


def _bound() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
