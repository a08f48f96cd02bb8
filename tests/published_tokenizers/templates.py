"""Chat templates of published tokenizers: what transformers makes of conversations, and what ggufrun does.

    $ORACLE_PYTHON -m tests.published_tokenizers.templates

records the former for the tokenizers that have been fetched. The conversations are those of ``chat_oracle``: with and
without a system prompt, in Chinese too, with tools, reasoning, documents. The templates are the models' own, so only
digests of the texts are kept.
"""

from __future__ import annotations

import importlib
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.oracles.chat_oracle import CASES, NOW
from tests.published_tokenizers.sources import CACHE
from tests.published_tokenizers.strings import digest

GOLDEN = Path(__file__).parent.parent / "golden" / "published_templates.json"


class Clock(datetime):
    """Stands still."""

    @classmethod
    def now(cls, tz: object = None) -> Clock:
        return cls(*NOW)


def default_of(template: Any) -> str | None:
    """The template of ordinary conversations, where there are several by name."""
    found = template.get("default") if isinstance(template, dict) else template
    return found if isinstance(found, str) else None


def rendered(tokenizer: Any, template: str) -> dict[str, str | None]:
    """Conversation -> digest of the text, or None where the template does not take it."""
    found: dict[str, str | None] = {}
    for name, asked in CASES.items():
        try:
            text = tokenizer.apply_chat_template(
                asked["messages"],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=asked.get("prompt", True),
                **asked.get("variables", {}),
            )
            found[name] = digest(text)
        except Exception:
            found[name] = None
    return found


def main() -> None:
    """Record all that are there."""
    transformers = importlib.import_module("transformers")
    rendering: Any = importlib.import_module("transformers.utils.chat_template_utils")
    rendering.datetime = Clock
    answers = {}
    for folder in sorted(path for path in CACHE.iterdir() if (path / "tokenizer.json").is_file()):
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
        template = default_of(tokenizer.chat_template)
        if template and not folder.name.endswith("-saved"):
            answers[folder.name] = rendered(tokenizer, template)
            taken = sum(text is not None for text in answers[folder.name].values())
            sys.stderr.write(f"{folder.name}: {taken} of {len(CASES)}\n")
    GOLDEN.write_text(json.dumps(answers, ensure_ascii=False, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
