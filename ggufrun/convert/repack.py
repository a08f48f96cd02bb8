"""The same tensors in another number of files: split and merged without a change of any byte of them."""

from __future__ import annotations

from pathlib import Path

from ggufrun.checkpoint.gguf.source import GGUFSource
from ggufrun.checkpoint.gguf.tensor_types import TensorType
from ggufrun.convert.plan import Plan
from ggufrun.convert.target import Model, make_target, split_target, split_target_by_count
from ggufrun.errors import UsageError
from ggufrun.quantize.types import FILE_TYPES, FileType, name_of


def plan_merge(path: Path, target: Path) -> Plan:
    """Plan one file of all parts of the split model that ``path`` belongs to. UsageError for one that is not split."""
    source = GGUFSource(path)
    if len(source.files) == 1:
        source.close()
        raise UsageError(
            f"{path.name} is one file already",
            "name a part of a split model; for an adapter, write ggufrun convert BASE --lora ADAPTER",
        )
    return _plan(source, target)


def plan_split(path: Path, target: Path, max_bytes: int | None, max_tensors: int | None) -> Plan:
    """Plan files named after ``target``, of at most ``max_bytes`` or ``max_tensors``. UsageError where one would do."""
    source = GGUFSource(path)
    plan = _plan(source, target)
    (whole,) = plan.targets
    shards = split_target(whole, max_bytes) if max_bytes else split_target_by_count(whole, max_tensors or 128)
    if len(shards) == 1:
        plan.close()
        raise UsageError(f"{path.name} fits into one file of that size", "choose a smaller one")
    return Plan(source, tuple(shards))


def _plan(source: GGUFSource, target: Path) -> Plan:
    metadata = {key: value for key, value in source.header.metadata.items() if not key.startswith("split.")}
    model = Model(metadata, dict(source.tensors))
    types = [(name, int(TensorType[tensor.dtype])) for name, tensor in source.tensors.items()]
    return Plan(source, (make_target(target, _file_type(source), model, types),))


def _file_type(source: GGUFSource) -> FileType:
    """What the file says it is, to be shown: every tensor keeps its own type."""
    number = source.header.get("general.file_type")
    if not isinstance(number, int):
        return FileType("GGUF", 0, "")
    return FILE_TYPES.get(name_of(number), FileType(name_of(number), number, ""))
