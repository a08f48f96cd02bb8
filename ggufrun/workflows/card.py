"""A model card for a folder of quantizations, from what their own metadata says; and the list of their checksums.

The front matter is that of https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ggufrun.checkpoint.gguf.checks import kind_of
from ggufrun.checkpoint.gguf.file import Header, Kind
from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.errors import NotFoundError, UsageError
from ggufrun.hub.digests import file_digest
from ggufrun.hub.scan import LocalModel, scan
from ggufrun.quantize.types import name_of
from ggufrun.units import size_text
from ggufrun.workflows.receipts import PREFIX

SUMS = "SHA256SUMS"
CARD = "README.md"

LOCAL_PATH = re.compile(r"(/[^/\0]+){2,}|[A-Za-z]:[\\/].*|\\\\.*|~/.*", re.DOTALL)
"""A path of somebody's machine."""


@dataclass(frozen=True)
class Quantization:
    """A GGUF of the folder: its ``type``, bytes, bits a weight, and the figures of its receipt, if it has one."""

    model: LocalModel
    header: Header
    type: str
    bytes: int
    bits: float
    receipt: dict[str, Any]

    @property
    def name(self) -> str:
        """The file's name, or that of its first part."""
        return self.model.path.name


@dataclass(frozen=True)
class CardOptions:
    """What the files do not say. ``repo`` is where they are to be published."""

    repo: str | None = None
    base_model: str | None = None
    license: str | None = None
    languages: tuple[str, ...] = ()


def quantizations(folder: Path) -> list[Quantization]:
    """The models of ``folder`` itself, the largest first. NotFoundError for none."""
    found = []
    for model in scan(folder, max_depth=0):
        if not model.is_gguf or model.missing:
            continue
        headers = [read_header(path) for path in model.files]
        header = headers[0]
        if kind_of(header) != "model":
            continue
        tensors = [info for one in headers for info in one.tensors]
        values = sum(prod(info.shape) for info in tensors)
        file_type = header.get("general.file_type")
        kind = model.type or (name_of(file_type) if isinstance(file_type, int) else "?")
        bits = 8 * sum(info.n_bytes for info in tensors) / values if values else 0.0
        found.append(Quantization(model, header, kind, model.size, bits, _receipt(header)))
    if not found:
        raise NotFoundError(f"{folder} holds no GGUF models", "name the folder with the quantizations")
    first = found[0]
    other = next((one for one in found if _shape(one.header) != _shape(first.header)), None)
    if other is not None:
        raise UsageError(f"{first.name} and {other.name} are not one model", "give each model a folder of its own")
    return sorted(found, key=lambda one: -one.bytes)


def _shape(header: Header) -> tuple[Any, ...]:
    """What the quantizations of one model have in common."""
    arch = header.architecture
    return (arch, *(header.get(f"{arch}.{key}") for key in ("block_count", "embedding_length", "feed_forward_length")))


def _receipt(header: Header) -> dict[str, Any]:
    return {
        key.removeprefix(PREFIX): value.decode() for key, value in header.metadata.items() if key.startswith(PREFIX)
    }


def local_paths(header: Header) -> dict[str, str]:
    """The metadata that tells a path of the machine on which the file was made, by key."""
    found = {}
    for key, value in header.metadata.items():
        if value.kind is Kind.STRING and len(value.raw) < 4096 and key != "tokenizer.chat_template":
            text = value.decode()
            if isinstance(text, str) and LOCAL_PATH.fullmatch(text):
                found[key] = text
    return found


def card(folder: Path, found: Sequence[Quantization], options: CardOptions) -> str:
    """The text of the model card."""
    header = found[0].header
    name = str(header.get("general.name") or folder.resolve().name)
    base = options.base_model or _base_model(header)
    repo = options.repo or f"YOU/{folder.resolve().name}"
    lines = [*_front(header, base, options), "", f"# {name}, GGUF", ""]
    origin = f"[{base}](https://huggingface.co/{base})" if base else name
    lines += [f"Quantizations of {origin} for llama.cpp and programs that build on it.", ""]
    lines += [*_table(found), ""]
    if any(one.receipt for one in found):
        lines += [*_explained(found), ""]
    usual = next((one for one in found if one.type == "Q4_K_M"), found[len(found) // 2])
    lines += [
        "## How to run",
        "",
        "```sh",
        f"ggufrun chat {repo}:{usual.type}",
        f"llama-cli -hf {repo}:{usual.type}",
        f"ollama run hf.co/{repo}:{usual.type}",
        "```",
        "",
        *_recipe(found),
        f"`{SUMS}` lists the checksums: `ggufrun verify .` or `sha256sum -c {SUMS}` checks them.",
    ]
    return "\n".join(lines) + "\n"


def _front(header: Header, base: str | None, options: CardOptions) -> list[str]:
    languages = options.languages or tuple(_texts(header.get("general.languages")))
    license_name = options.license or header.get("general.license")
    values: dict[str, Any] = {
        "base_model": base,
        "base_model_relation": "quantized" if base else None,
        "license": license_name if isinstance(license_name, str) else None,
        "language": list(languages) or None,
        "library_name": "gguf",
        "pipeline_tag": "text-generation",
        "tags": ["gguf", "llama.cpp", *_architecture(header)],
    }
    # JSON is YAML too, and quotes what has to be quoted
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value is not None]
    return ["---", *lines, "---"]


def _architecture(header: Header) -> list[str]:
    return [header.architecture] if re.fullmatch(r"[\w.-]+", header.architecture) else []


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _base_model(header: Header) -> str | None:
    """``org/name`` of the model that this one was made from, as its metadata says."""
    for key in ("general.base_model.0.repo_url", "general.repo_url", "general.source.huggingface.repository"):
        text = header.get(key)
        if isinstance(text, str):
            found = re.fullmatch(r"(?:https://huggingface\.co/)?([\w.-]+/[\w.-]+)/?", text)
            if found:
                return found[1]
    return None


def _table(found: Sequence[Quantization]) -> list[str]:
    measured = any(one.receipt for one in found)
    head = ["File", "Type", "Size", "Bits per weight", *(("KL divergence", "Same top token") if measured else ())]
    rows = [f"| {' | '.join(head)} |", f"|{'|'.join('---:' if i > 1 else '---' for i in range(len(head)))}|"]
    for one in found:
        parts = len(one.model.files)
        size = size_text(one.bytes) + (f", {parts} files" if parts > 1 else "")
        cells = [f"`{one.name}`", one.type, size, f"{one.bits:.2f}"]
        if measured:
            kld, top = one.receipt.get("kld.mean"), one.receipt.get("same_top")
            cells.append(f"{kld:.5f}" if isinstance(kld, float) else "")
            cells.append(f"{100 * top:.2f}%" if isinstance(top, float) else "")
        rows.append(f"| {' | '.join(cell.replace('|', ' ') for cell in cells)} |")
    return rows


def _explained(found: Sequence[Quantization]) -> list[str]:
    receipt = next(one.receipt for one in found if one.receipt)
    return [
        f"KL divergence (mean, in nats a token) and the share of tokens for which both models hold the same token for "
        f"the most probable, compared with the {receipt.get('reference', 'original')} file over "
        f"{receipt.get('tokens', '?')} tokens of text.",
    ]


def _recipe(found: Sequence[Quantization]) -> list[str]:
    lines = []
    # nothing else in a file says what wrote it
    if all(one.receipt for one in found):
        lines.append("Quantized with ggufrun; the bytes are those of llama.cpp's quantizer.")
    matrices = {str(one.header.get("quantize.imatrix.file")) for one in found} - {"None"}
    for matrix in sorted(matrices):
        one = next(one for one in found if one.header.get("quantize.imatrix.file") == matrix)
        chunks, text = (one.header.get(f"quantize.imatrix.{key}") for key in ("chunks_count", "dataset"))
        details = [f"measured on `{_name(text)}`"] if text else []
        details += [f"{chunks} chunks"] if chunks else []
        lines.append(f"Importance matrix: `{_name(matrix)}`{', ' + ', '.join(details) if details else ''}.")
    return ["## How they were made", "", *lines, ""] if lines else []


def _name(text: Any) -> str:
    """The name of a file without the folders of somebody's machine."""
    return re.split(r"[\\/]", str(text))[-1]


def checksums(folder: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """The list that ``sha256sum`` would write of the GGUF files in ``folder``."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".gguf" and path.is_file())
    return "".join(f"{file_digest(path, 'sha256', on_bytes).hex}  {path.name}\n" for path in files)
