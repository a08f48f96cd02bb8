"""Record what the programs that the tokenizers belong to make of the strings. Only with the oracle's Python, with
``mistral-common`` in it:

    $ORACLE_PYTHON -m tests.published_tokenizers record [NAME...]
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.published_tokenizers.sources import CACHE, SAVED, SOURCES
from tests.published_tokenizers.strings import CONVERSATIONS, Encode, digest, digests, samples

GOLDEN = Path(__file__).parent.parent / "golden" / "tokenizers.json"


def answers(plain: Encode, special: Encode, added: list[str]) -> dict[str, Any]:
    return {
        "added": len(added),
        "groups": digests(plain),
        "samples": plain(samples()),
        "conversations": special(CONVERSATIONS),
        "tokens": digest(special([f"a{token}1" for token in added])),
    }


def of_transformers(folder: Path) -> tuple[Any, dict[str, Any]]:
    """A tokenizer.json as transformers runs it, in the class that it chooses; else as the file alone says."""
    transformers = importlib.import_module("transformers")
    try:
        found = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except ValueError:
        # it wants to run code that came with the model
        found = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    backend = found.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()

    def encode(texts: Any, special: bool) -> list[list[int]]:
        backend.encode_special_tokens = not special
        return [encoding.ids for encoding in backend.encode_batch(list(texts), add_special_tokens=False)]

    added = [token.content for _, token in sorted(found.added_tokens_decoder.items())]
    recorded = answers(lambda texts: encode(texts, False), lambda texts: encode(texts, True), added)
    backend.encode_special_tokens = False
    template = found.chat_template
    template = template.get("default") if isinstance(template, dict) else template
    return found, {
        "by": f"transformers {transformers.__version__}, {type(found).__name__}",
        "normalizer": type(backend.normalizer).__name__ if backend.normalizer else "",
        **recorded,
        "whole": found.encode("Hello"),
        "special": {kind: getattr(found, f"{kind}_token_id") for kind in ("bos", "eos", "pad")},
        "template": digest(template) if template else "",
    }


def of_mistral(folder: Path) -> dict[str, Any]:
    """Mistral's own."""
    version = importlib.import_module("mistral_common").__version__
    tokenizers = importlib.import_module("mistral_common.tokens.tokenizers.tekken")
    pieces = importlib.import_module("mistral_common.tokens.tokenizers.sentencepiece")
    path = next(path for path in folder.iterdir() if path.name.startswith(("tekken", "tokenizer.model")))
    found = tokenizers.Tekkenizer.from_file(path) if path.suffix == ".json" else pieces.SentencePieceTokenizer(path)

    def encode(texts: Any) -> list[list[int]]:
        return [list(found.encode(text, bos=False, eos=False)) for text in texts]

    return {
        "by": f"mistral-common {version}, {type(found).__name__}",
        "groups": digests(encode),
        "samples": encode(samples()),
        "special": {"bos": found.bos_id, "eos": found.eos_id},
        "whole": list(found.encode("Hello", bos=True, eos=False)),
    }


def record(names: list[str]) -> None:
    """Write the answers of ``names``, or of all; every tokenizer.json is also written again by transformers."""
    found = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    for name, source in SOURCES.items():
        folder, saved = CACHE / name, CACHE / f"{name}{SAVED}"
        if (names and name not in names) or not folder.is_dir():
            continue
        if source.package:
            tokenizer, found[name] = of_transformers(folder)
            shutil.rmtree(saved, ignore_errors=True)
            tokenizer.save_pretrained(saved)
            shutil.copy(folder / "config.json", saved)
            _, found[f"{name}{SAVED}"] = of_transformers(saved)
        else:
            # a file of SentencePiece has another name there, which tells the version
            path = folder / next(iter(source.files.values()))
            alias = folder.parent / "mistral" / next(iter(source.files))
            alias.parent.mkdir(exist_ok=True)
            shutil.copy(path, alias)
            found[name] = of_mistral(_alone(alias))
        sys.stderr.write(f"{name}: {found[name]['by']}\n")
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(answer)}" for name, answer in sorted(found.items()))
    GOLDEN.write_text("{\n" + lines + "\n}\n")


def _alone(path: Path) -> Path:
    folder = path.parent / path.stem
    folder.mkdir(exist_ok=True)
    shutil.move(path, folder / (path.name if path.suffix == ".json" else f"tokenizer.model{path.suffix}"))
    return folder
