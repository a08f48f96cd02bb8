"""Record the layouts in tests/golden/layouts: what a checkpoint's tensors are, and what llama.cpp makes of them.

    $ORACLE_PYTHON -m tests.layouts.record $ORACLE_CONVERT [NAME...]

Run from the root of the repository with the oracle's Python. ``layout.py`` describes the files.
"""

from __future__ import annotations

import copy
import importlib
import re
import runpy
import shutil
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.layouts import layout, sparse
from tests.layouts.patterns import Entry, collapse, expand
from tests.oracles.family_oracle import mend

ANSWERS = (9693, 2152)
"""The ids of yes and no in Qwen's vocabularies."""

BLOCK = 128
"""Rows and columns that share a scale in DeepSeek's FP8."""

NOT_FP8 = re.compile(
    r"embed|lm_head|shared_head\.head|norm|mlp\.gate\.|router|eh_proj|weights_proj|visual|vision|projector"
)


def as_named(model: Any, in_memory: bool) -> dict[str, Any]:
    """The tensors that transformers would save of ``model``, under the names that it would give them, or those that
    they have in memory.
    """
    loading = importlib.import_module("transformers.core_model_loading")
    modeling = importlib.import_module("transformers.modeling_utils")
    state = model.state_dict()
    for key in model._keys_to_ignore_on_save or ():
        state.pop(key, None)
    state = modeling.remove_tied_weights_from_state_dict(state, model)
    return state if in_memory else dict(loading.revert_weight_conversion(model, state))


def entries(recipe: Mapping[str, Any], in_memory: bool = False) -> list[Entry]:
    """The tensors of the model class that config.json describes, built without memory for them."""
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    # transformers writes into what it is given
    config = copy.deepcopy(recipe["config"] | recipe.get("for_class", {}))
    found = getattr(transformers, recipe.get("class") or config["architectures"][0])
    kind = recipe.get("dtype") or config.get("torch_dtype") or config.get("dtype")
    torch.set_default_dtype(getattr(torch, kind or "bfloat16"))
    try:
        with torch.device("meta"):
            model = found(found.config_class.from_dict(config))
    finally:
        torch.set_default_dtype(torch.float32)
    names = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.int64: "I64"}
    return [(name, names[tensor.dtype], tuple(tensor.shape)) for name, tensor in as_named(model, in_memory).items()]


def renamed(tensors: list[Entry], rules: Mapping[str, str]) -> list[Entry]:
    """The same under the names that the rules, pattern and replacement, give them; an empty name drops a tensor."""
    found = []
    for name, kind, shape in tensors:
        for pattern, replacement in rules.items():
            name = re.sub(pattern, replacement, name)
        if name:
            found.append((name, kind, shape))
    return found


def in_fp8(tensors: list[Entry]) -> list[Entry]:
    """The same with the matrices of the layers in FP8, each with a scale a block."""
    found: list[Entry] = []
    for name, kind, shape in tensors:
        if len(shape) != 2 or NOT_FP8.search(name) or not name.endswith(".weight"):
            found.append((name, kind, shape))
            continue
        blocks = tuple(-(-size // BLOCK) for size in shape)
        found += [(name, "F8_E4M3", shape), (f"{name}_scale_inv", "F32", blocks)]
    return found


def in_mxfp4(tensors: list[Entry]) -> list[Entry]:
    """The same with the experts of gpt-oss in blocks of 32 values, a byte of scale each; rows are columns in memory."""
    found: list[Entry] = []
    for name, kind, shape in tensors:
        if not name.endswith((".experts.gate_up_proj", ".experts.down_proj")):
            found.append((name, kind, shape))
            continue
        count, width, height = shape
        found += [(f"{name}_blocks", "U8", (count, height, width // 32, 16))]
        found += [(f"{name}_scales", "U8", (count, height, width // 32))]
    return found


def published(recipe: Mapping[str, Any]) -> dict[str, list[str]]:
    """``tensors``, and ``saved`` where transformers would name them otherwise than they were published."""
    found = entries(recipe, recipe.get("in_memory", False))
    types = recipe.get("types", {})
    found = [(n, next((t for p, t in types.items() if re.search(p, n)), kind), shape) for n, kind, shape in found]
    for start, other in recipe.get("copy", {}).items():
        found += [(other + n.removeprefix(start), kind, shape) for n, kind, shape in found if n.startswith(start)]
    found = renamed(found, recipe.get("rename", {}))
    if turned := recipe.get("transposed"):
        found = [
            (name, kind, (*shape[:-2], shape[-1], shape[-2]) if re.search(turned, name) else shape)
            for name, kind, shape in found
        ]
    found += expand(recipe.get("also", ()))
    method = (recipe["config"].get("quantization_config") or {}).get("quant_method")
    if method in ("fp8", "mxfp4"):
        found = in_fp8(found) if method == "fp8" else in_mxfp4(found)
    if recipe.get("also_saved"):
        return {"tensors": collapse(found), "saved": collapse(entries(recipe))}
    return {"tensors": collapse(found)}


def plain(value: Any) -> Any:
    """A value of metadata as a GGUF gives it back."""
    if isinstance(value, float):
        return float(np.float32(value))
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item.item() if isinstance(item, np.generic) else item) for item in value]
    return value


class Stop(Exception):
    """Everything but the data is there."""


def answer(script: str, folder: Path, outtype: str) -> dict[str, Any]:
    """What llama.cpp's converter would write, or the error that it ends with."""
    writers: list[Any] = []
    package = importlib.import_module("gguf.gguf_writer").GGUFWriter

    def stop(self: Any, *arguments: Any, **keywords: Any) -> None:
        writers.append(self)
        raise Stop

    package.write_header_to_file = stop
    sys.argv = [script, str(folder), "--outtype", outtype, "--outfile", str(folder / "out.gguf")]
    (folder / "tokenizer.model").touch()
    try:
        runpy.run_path(script, run_name="__main__")
    except Stop:
        pass
    except (Exception, RecursionError, SystemExit) as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    writer = writers[0]
    tensors = [(name, info.dtype.name, tuple(info.shape)) for part in writer.tensors for name, info in part.items()]
    metadata = {key: plain(value.value) for part in writer.kv_data for key, value in part.items()}
    return {
        "metadata": {key: value for key, value in metadata.items() if not key.startswith(("tokenizer.", "GGUF."))},
        "order": layout.digest(tensors),
        "tensors": collapse(tensors),
    }


def ready(script: str) -> None:
    """The converter's classes, which take no tokenizer."""
    sys.path.insert(0, str(Path(script).parent))
    # its own copy of the package, which is newer than the published one
    sys.path.insert(1, str(Path(script).parent / "gguf-py"))
    importlib.import_module("conversion").load_all_models()
    for classes in importlib.import_module("conversion.base").ModelBase._model_classes.values():
        for model in classes.values():
            model.set_vocab = lambda self: None
            model._create_vocab_sentencepiece = lambda self: ([b""] * self.hparams["vocab_size"], [], [])
    mend()
    qwen3 = importlib.import_module("conversion.qwen").Qwen3Model

    def find_answers(self: Any) -> None:
        # as the tokenizer says, which is not there
        self.is_rerank, self.is_tied_embeddings = True, self.hparams.get("tie_word_embeddings", False)
        self.token_true_id, self.token_false_id = ANSWERS

    qwen3._find_rerank_config = find_answers
    lazy = importlib.import_module("conversion.base").LazyTorchTensor

    def moved(self: Any, *arguments: Any, **keywords: Any) -> Any:
        # what is only described would get memory of its own
        return self if keywords == {"device": "cpu"} and not arguments else move(self, *arguments, **keywords)

    def move(self: Any, *arguments: Any, **keywords: Any) -> Any:
        return self.__getattr__("to")(*arguments, **keywords)

    lazy.to = moved


def main(script: str, names: list[str]) -> None:
    """Record the layouts of these names, or all."""
    ready(script)
    for path in sorted(layout.FOLDER.glob("*.json")):
        if names and path.stem not in names:
            continue
        recipe = layout.load(path)
        recipe.pop("gguf", None)
        recipe.pop("saved_gguf", None)
        if "by_hand" not in recipe:
            recipe.pop("saved", None)
            recipe |= published(recipe)
        with tempfile.TemporaryDirectory() as scratch:
            folder = layout.folder(Path(scratch), recipe)
            hidden = recipe.get("hidden_from_converter", "$^")
            tensors = [entry for entry in expand(recipe["tensors"]) if not re.search(hidden, entry[0])]
            tensors += expand(recipe.get("shown_to_converter", ()))
            sparse.write(folder, recipe["config"] | recipe.get("converter_config", {}), tensors)
            layout.write_files(folder, recipe)
            recipe["gguf"] = answer(script, folder, layout.outtype(recipe))
            if recipe.get("saved_differs"):
                shutil.rmtree(folder)
                sparse.write(folder, recipe["config"], expand(recipe["saved"]))
                recipe["saved_gguf"] = answer(script, folder, layout.outtype(recipe))
        path.write_text(layout.text(recipe), "utf-8")
        n_values = layout.n_values(recipe)
        error = recipe["gguf"].get("error", "")
        sys.stdout.write(f"{path.stem} {n_values:,} of {recipe.get('parameters')} {error}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
