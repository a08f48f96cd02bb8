"""Record what transformers makes of null in a config.json. Only with the oracle's Python:

    $ORACLE_PYTHON -m tests.writers.nulls

For every model of ``models.py`` and every key of its config.json (and of that of its text part) that has a value: null
in its place, and whether the model then computes the same, something else (with the logits), or nothing, because
transformers refuses the file or fails.
"""

from __future__ import annotations

import copy
import importlib
import json
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.layouts.patterns import expand
from tests.writers.models import MODELS
from tests.writers.pieces import IDS
from tests.writers.record import EVERY, FIRST, GOLDEN, fill

NULLS = GOLDEN.with_name("nulls.json")

NOT_ASKED = frozenset(
    (
        "architectures", "model_type", "dtype", "transformers_version", "use_cache", "bos_token_id", "eos_token_id",
        "pad_token_id", "initializer_range", "output_router_logits", "router_aux_loss_coef", "attention_dropout",
        "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "vision_config", "audio_config", "text_config",
    )
)  # fmt: skip
"""Keys that do not describe what the text part computes, and whole parts."""

CLOSE = 1e-5
"""Logits that differ by less of the largest of them are the same."""


def places(config: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Where a value is: the key, or the part and the key."""
    for part in ((), ("text_config",)):
        section = config.get(part[0]) if part else config
        if isinstance(section, Mapping):
            yield from ((*part, key) for key, value in section.items() if value is not None and key not in NOT_ASKED)


def with_null(config: Mapping[str, Any], place: tuple[str, ...]) -> dict[str, Any]:
    """``config`` with null there."""
    found = copy.deepcopy(dict(config))
    section = found
    for key in place[:-1]:
        section = section[key]
    section[place[-1]] = None
    return found


def logits(architecture: str, folder: Path) -> Any:
    """What the text part computes for ``IDS``."""
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    model = getattr(transformers, architecture).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    text = model.language_model if architecture == "Llama4ForConditionalGeneration" else model
    with torch.no_grad():
        return text.eval()(input_ids=torch.tensor([IDS])).logits[0, -1]


def main() -> None:
    """Record all models."""
    logging.disable(logging.CRITICAL)
    importlib.import_module("transformers").logging.disable_progress_bar()
    models = json.loads(GOLDEN.read_text("utf-8"))["models"]
    same: dict[str, list[str]] = {}
    other: dict[str, dict[str, list[float]]] = {}
    for name, recorded in models.items():
        config = recorded["config"]
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            (folder / "config.json").write_text(json.dumps(config))
            fill(folder, sorted(expand(recorded["tensors"])))
            plain = logits(MODELS[name][0], folder)
            for place in places(config):
                (folder / "config.json").write_text(json.dumps(with_null(config, place)))
                try:
                    found = logits(MODELS[name][0], folder)
                except Exception:
                    continue
                if found.shape == plain.shape and float((found - plain).abs().max() / plain.abs().max()) < CLOSE:
                    same.setdefault(".".join(place), []).append(name)
                else:
                    values = [float(f"{value:.7g}") for value in found.tolist()[FIRST::EVERY]]
                    other.setdefault(".".join(place), {})[name] = values
        sys.stderr.write(f"{name}\n")
    text = {"same": dict(sorted(same.items())), "other": dict(sorted(other.items()))}
    NULLS.write_text(json.dumps(text, separators=(",", ":")).replace("},", "},\n").replace("],", "],\n") + "\n")


if __name__ == "__main__":
    main()
