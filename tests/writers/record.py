"""Record what transformers writes and computes. Only with the oracle's Python:

    $ORACLE_PYTHON -m tests.writers.record [NAME...]

For every model: config.json as ``save_pretrained`` writes it, the names, types and shapes of the tensors that it
saves, and, with the values of ``tensors.values`` in them, the logits after the last of ``IDS``.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from tests.layouts.patterns import Entry, collapse
from tests.writers.models import MODELS
from tests.writers.pieces import IDS
from tests.writers.tensors import stored

GOLDEN = Path(__file__).parent.parent / "golden" / "writers.json"
FIRST, EVERY = 5, 8
"""Of so many logits one is kept, from this one on: transformers clears the embedding of the padding token as it loads
some models, and with it the logit of that token."""


def saved(folder: Path) -> list[Entry]:
    """The tensors of the safetensors files in ``folder``."""
    found: list[Entry] = []
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        found += [(name, entry["dtype"], tuple(entry["shape"])) for name, entry in header.items() if name[0] != "_"]
    return sorted(found)


def fill(folder: Path, tensors: list[Entry]) -> None:
    """Replace the saved files by one with values that a test can make, too."""
    torch, safetensors = importlib.import_module("torch"), importlib.import_module("safetensors.torch")
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    kinds = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    found = {}
    for name, dtype, shape in tensors:
        values = stored(dtype, name, shape)
        tensor = torch.from_numpy(np.array(values).view(np.int16) if dtype == "BF16" else np.array(values))
        found[name] = tensor.view(kinds[dtype]).reshape(shape)
    safetensors.save_file(found, folder / "model.safetensors", {"format": "pt"})


def round_weights(model: Any) -> None:
    """What a BitNet's own linear layers do each time that they run: -1, 0 or 1 times the mean of the magnitudes."""
    for name, parameter in model.named_parameters():
        if name.endswith("_proj.weight"):
            inverse = 1.0 / parameter.data.abs().mean().clamp(min=1e-5)
            parameter.data = (parameter.data * inverse).round().clamp(-1, 1) / inverse


def record(architecture: str, values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What transformers makes of one model."""
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    model_class = getattr(transformers, architecture)
    config = model_class.config_class(**values)
    with torch.device("cpu"):
        model = model_class(config).to(getattr(torch, values.get("dtype", "bfloat16")))
    model.save_pretrained(folder)
    tensors = saved(folder)
    fill(folder, tensors)
    model, report = model_class.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    trouble = {key: sorted(map(str, found)) for key, found in report.items() if found}
    if architecture == "BitNetForCausalLM":
        round_weights(model)
    # Llama 4's whole class cannot do without an image
    text = model.language_model if architecture == "Llama4ForConditionalGeneration" else model
    with torch.no_grad():
        logits = text.eval()(input_ids=torch.tensor([IDS])).logits[0, -1]
    return {
        "config": json.loads((folder / "config.json").read_text()),
        "tensors": collapse(tensors),
        "logits": [float(f"{value:.7g}") for value in logits.tolist()[FIRST::EVERY]],
        **({"trouble": trouble} if trouble else {}),
    }


def known() -> list[str]:
    """The classes of transformers that make text, by themselves or of more than text."""
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    kinds = ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM")
    return sorted({name for kind in kinds for name in getattr(auto, f"MODEL_FOR_{kind}_MAPPING_NAMES").values()})


def main(names: list[str]) -> None:
    """Record the models called ``names``, or all."""
    importlib.import_module("transformers").logging.set_verbosity_error()
    importlib.import_module("tests.families.family_translations").as_llama_cpp()
    golden = json.loads(GOLDEN.read_text())["models"] if GOLDEN.exists() and names else {}
    for name, (architecture, values) in MODELS.items():
        if names and name not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                golden[name] = record(architecture, values, Path(folder))
                sys.stderr.write(f"{name}: {golden[name].get('trouble', 'ok')}\n")
            except Exception as error:
                golden.pop(name, None)
                where = traceback.extract_tb(error.__traceback__)[-1]
                sys.stderr.write(f"{name}: FAILED {type(error).__name__}: {error} ({where.filename}:{where.lineno})\n")
    models = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(golden[name], ensure_ascii=False)}" for name in MODELS if name in golden
    )
    GOLDEN.write_text(
        f'{{"first": {FIRST}, "every": {EVERY}, "known": {json.dumps(known())},\n "models": {{\n{models}\n}}}}\n'
    )


if __name__ == "__main__":
    main(sys.argv[1:])
