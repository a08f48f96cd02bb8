"""What is to be converted, as one record from which every plan is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufrun.chat.formats.template import ChatTemplate
from ggufrun.checkpoint.adapters.adapter import AdapterRequest
from ggufrun.convert.plan import NO_WISHES, Plan, Wishes, plan_convert, plan_vocabulary
from ggufrun.convert.vocab.special import read_template_file
from ggufrun.errors import FormatError
from ggufrun.quantize.imatrix import Imatrix
from ggufrun.quantize.plan import AS_LLAMA_CPP, QuantizeOptions
from ggufrun.quantize.types import FileType
from ggufrun.workflows.targets import target_namer


@dataclass(frozen=True)
class ConvertRequest:
    """The checkpoint in ``folder`` becomes one file of each of ``types``, called after ``stem`` where ``out`` is not a
    file; without types, one of its own precision.
    """

    folder: Path
    stem: str
    types: tuple[FileType, ...] = ()
    out: Path | None = None
    options: QuantizeOptions = AS_LLAMA_CPP
    wishes: Wishes = NO_WISHES
    adapters: tuple[AdapterRequest, ...] = ()

    def path(self, file_type: FileType) -> Path:
        """Where the file of a type is written."""
        return target_namer(self.out, self.stem, len(self.types))(file_type)

    def plan(self, types: Sequence[FileType] | None = None, imatrix: Imatrix | None = None) -> Plan:
        """The plan for ``types``, by default all."""
        chosen = self.types if types is None else types
        return plan_convert(self.folder, chosen, self.path, self.options, self.wishes, imatrix, self.adapters)

    def own_precision(self, path: Path) -> Plan:
        """The plan for a file in the checkpoint's own precision at ``path``, with nothing of it quantized."""
        return plan_convert(self.folder, (), lambda kind: path, AS_LLAMA_CPP, self.wishes, None, self.adapters)

    def vocabulary(self) -> Plan:
        """The plan for a file with metadata and vocabulary, and no tensors."""
        place = self.out or Path()
        path = place / f"{self.stem}-vocab.gguf" if place.is_dir() else place
        return plan_vocabulary(self.folder, path, self.wishes, self.adapters)


def read_template(path: Path | None) -> str | None:
    """The text of a chat template, once it is known to be valid Jinja."""
    if path is None:
        return None
    text = read_template_file(path)
    try:
        ChatTemplate(text)
    except FormatError as error:
        raise FormatError(f"{path}: {error.what}", "correct the file") from error
    return text
