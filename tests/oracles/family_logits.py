"""What transformers computes for the tiny checkpoints. Only with the oracle's Python:

    $ORACLE_PYTHON tests/oracles/family_logits.py FOLDER... > LOGITS

One JSON object: checkpoint -> the logits after the last of ``IDS``. Families that transformers does not know are left
out, unless ``family_translations`` makes others of them.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

IDS = (1, 5, 17, 200, 33, 90, 7, 8, 9, 10, 11, 300)


def main(folders: list[str]) -> None:
    """Print the logits."""
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    translations = importlib.import_module("family_translations")
    translations.as_llama_cpp()
    found = {}
    for original in folders:
        folder, config = translations.translated(original), transformers.AutoConfig
        try:
            known = type(config.from_pretrained(folder)) in transformers.AutoModelForCausalLM._model_mapping
            classes = transformers.AutoModelForCausalLM if known else transformers.AutoModelForImageTextToText
            model = classes.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
            with torch.no_grad():
                logits = model(torch.tensor([IDS])).logits[0, -1]
        except (ValueError, KeyError, RuntimeError, AssertionError, TypeError) as error:
            sys.stderr.write(f"{folder}: {error}\n")
            continue
        found[Path(original).name] = [round(value, 6) for value in logits.tolist()]
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
