"""What transformers calls the parameters of the tiny checkpoints of all families. Only with the oracle's Python:

    $ORACLE_PYTHON tests/oracles/parameter_names.py FOLDER... > NAMES

One JSON object: checkpoint -> [name, shape] of every parameter that has another name than a tensor of the file, one of
each kind. Families that transformers does not know are left out.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path


def main(folders: list[str]) -> None:
    """Print the names."""
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    safetensors = importlib.import_module("safetensors")
    found = {}
    for folder in map(Path, folders):
        name = json.loads((folder / "config.json").read_text())["architectures"][0]
        try:
            config = transformers.AutoConfig.from_pretrained(folder)
            with torch.device("meta"):
                model = getattr(transformers, name)(config)
        except (ValueError, KeyError, RuntimeError, AssertionError, TypeError, AttributeError, ImportError) as error:
            sys.stderr.write(f"{folder}: {error}\n")
            continue
        with safetensors.safe_open(folder / "model.safetensors", "pt") as file:
            known = set(file.keys())
        kinds: dict[str, list[object]] = {}
        for key, value in model.named_parameters(remove_duplicate=False):
            if key not in known:
                kinds.setdefault(re.sub(r"\d+", "N", key), [key, list(value.shape)])
        if kinds:
            found[folder.name] = sorted(kinds.values())
    sys.stdout.write(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
