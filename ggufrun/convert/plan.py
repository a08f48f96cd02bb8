"""What will be written: every file, every tensor's type and place, decided before the first byte is read."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import gguf

from ggufrun.checkpoint.adapters.adapter import AdapterRequest
from ggufrun.checkpoint.collector import paused
from ggufrun.checkpoint.gguf import file
from ggufrun.checkpoint.gguf.checks import check_is_model, check_model
from ggufrun.checkpoint.gguf.file import Kind, Value
from ggufrun.checkpoint.gguf.source import GGUFSource
from ggufrun.checkpoint.gguf.tensor_types import TensorType
from ggufrun.checkpoint.open import open_checkpoint
from ggufrun.checkpoint.tensor import Checkpoint, Source, Tensor, Weightless
from ggufrun.convert import arch, kept, metadata
from ggufrun.convert.arch.shared.hyper import check_written
from ggufrun.convert.arch.shared.text import is_text
from ggufrun.convert.config import Config, read_config
from ggufrun.convert.mapping import mapped, own_precision, plain_type, with_true_vocabulary
from ggufrun.convert.merging import check_output, left_out, some_of
from ggufrun.convert.target import Model, Target, make_target, quantized_target, split_target, without_layers
from ggufrun.convert.vocab.special import replace_template
from ggufrun.convert.vocab.vocabulary import Original
from ggufrun.errors import FormatError, NotFoundError, UsageError
from ggufrun.quantize import ggml
from ggufrun.quantize.imatrix import Imatrix
from ggufrun.quantize.plan import AS_LLAMA_CPP, QuantizeOptions, TypePlan, plan_types
from ggufrun.quantize.types import FILE_TYPES, FileType
from ggufrun.regularfile import FilesRead, recorded

P = ParamSpec("P")


@dataclass(frozen=True)
class Wishes:
    """What the user wants of the metadata, in place of what the checkpoint says; None leaves it to that."""

    name: str | None = None
    pretokenizer: str | None = None
    template: str | None = None


NO_WISHES = Wishes()


@dataclass(frozen=True)
class Plan:
    """Everything to do. ``close`` when done. ``original`` is the tokenizer that the vocabulary was made from,
    ``left_out`` names the modules of an adapter whose changes have no place in it. ``notes`` are sentences that the
    user should read before the targets are written. ``read`` are the files that it was made from."""

    source: Source
    targets: tuple[Target, ...]
    original: Original | None = None
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    read: FilesRead = field(default_factory=FilesRead, compare=False)

    @property
    def source_bytes(self) -> int:
        """Bytes of tensor data to read."""
        tensors = {placed.name: placed.tensor for target in self.targets for placed in target.tensors}
        return sum(map(stored_bytes, tensors.values()))

    def close(self) -> None:
        """Close the source's files."""
        self.source.close()


def _recorded(make: Callable[P, Plan]) -> Callable[P, Plan]:
    """``make``, whose plan knows the files that it was made from."""

    @wraps(make)
    def plan(*arguments: P.args, **named: P.kwargs) -> Plan:
        with recorded() as read:
            return replace(make(*arguments, **named), read=read)

    return plan


@_recorded
@paused()
def plan_convert(
    folder: Path,
    file_types: Sequence[FileType],
    path_of: Callable[[FileType], Path],
    options: QuantizeOptions = AS_LLAMA_CPP,
    wishes: Wishes = NO_WISHES,
    imatrix: Imatrix | None = None,
    adapters: Sequence[AdapterRequest] = (),
) -> Plan:
    """Plan a conversion of the checkpoint in ``folder``, with ``adapters`` merged into it in their order.

    One target for each of ``file_types``; without any, one of the checkpoint's own precision.
    """
    options = replace(options, has_imatrix=options.has_imatrix or imatrix is not None)
    source = open_checkpoint(folder, adapters, is_text)
    try:
        config, resized, family = _described(folder, source)
        check_output(config, family, source)
        tensors = mapped(config, family, source)
        own = own_precision(tensors)
        idle = _idle_rules(options, tensors)
        options = _keeping(options, tensors)
        writer, original, renamed = _metadata(source, config, family, tensors, wishes)
        targets = []
        for file_type in file_types or (own,):
            model = Model(_with_file_type(writer, kept.file_type(tensors, file_type)), tensors)
            path = path_of(file_type)
            if file_type.plain:
                types = [(key, plain_type(family.arch, tensor, file_type)) for key, tensor in tensors.items()]
                targets.append(make_target(path, file_type, model, types))
            else:
                base = [(key, plain_type(family.arch, tensor, own)) for key, tensor in tensors.items()]
                planned = _plan_on_hole(model, base, file_type, options)
                targets.append(quantized_target(path, file_type, model, planned, dict(base), options, imatrix))
        dropped = left_out(config, family, source)
        changes = (f"left out are changes to {some_of(dropped)}, which are not in the text part",) if dropped else ()
        return Plan(
            source, tuple(targets), original, dropped, _notes(source, original, changes, resized, renamed, idle)
        )
    except BaseException:
        source.close()
        raise


@_recorded
def plan_vocabulary(
    folder: Path, path: Path, wishes: Wishes = NO_WISHES, adapters: Sequence[AdapterRequest] = ()
) -> Plan:
    """Plan a GGUF with the metadata and vocabulary of the checkpoint in ``folder`` and no tensors.

    config.json and the tokenizer files are enough; weights that are there are not read, but for what only they tell.
    """
    source: Checkpoint
    try:
        source = open_checkpoint(folder, adapters, is_text)
    except NotFoundError:
        if adapters or not (folder / "config.json").is_file():
            raise
        source = Weightless(folder)
    try:
        config, resized, family = _described(folder, source)
        writer, original, renamed = _metadata(source, config, family, {}, wishes)
        file_type = FILE_TYPES["F16"]
        target = make_target(path, file_type, Model(_with_file_type(writer, file_type), {}), [])
        return Plan(source, (target,), original, notes=_notes(source, original, resized, renamed))
    except BaseException:
        source.close()
        raise


@_recorded
def plan_quantize(
    path: Path,
    file_types: Sequence[FileType],
    path_of: Callable[[FileType], Path],
    options: QuantizeOptions = AS_LLAMA_CPP,
    imatrix: Imatrix | None = None,
) -> Plan:
    """Plan a quantization of the GGUF at ``path`` to each of ``file_types``.

    With ``options.has_imatrix`` and no ``imatrix``, the plan is for one that is still to be made: to be shown, not run.
    """
    source = _Quantizable(path, options, imatrix)
    try:
        targets = [source.target(file_type, path_of(file_type)) for file_type in file_types]
        return Plan(source.source, tuple(targets), notes=_idle_rules(options, source.source.tensors))
    except BaseException:
        source.source.close()
        raise


def plan_candidates(
    path: Path, file_types: Iterable[FileType], options: QuantizeOptions
) -> Iterator[tuple[FileType, Target | UsageError]]:
    """For each of ``file_types`` the file that the GGUF at ``path`` would become, or why it cannot."""
    source = _Quantizable(path, options, None)
    try:
        for file_type in file_types:
            try:
                yield file_type, source.target(file_type, path.with_name(f"{path.stem}-{file_type.name}.gguf"))
            except UsageError as error:
                yield file_type, error
    finally:
        source.source.close()


class _Quantizable:
    """A GGUF whose header has been read and found sound."""

    def __init__(self, path: Path, options: QuantizeOptions, imatrix: Imatrix | None) -> None:
        self._path, self._imatrix = path, imatrix
        self._options = replace(options, has_imatrix=options.has_imatrix or imatrix is not None)
        self.source = GGUFSource(path)
        try:
            model = Model(dict(self.source.header.metadata), dict(self.source.tensors))
            check_is_model(path, self.source.header)
            if not model.tensors:
                raise FormatError(f"{path.name} holds a vocabulary and no tensors", "quantize a whole model")
            check_model(path, self.source.header)
            self._model = without_layers(model, options.prune)
        except BaseException:
            self.source.close()
            raise
        self._existing = {name: int(TensorType[tensor.dtype]) for name, tensor in self._model.tensors.items()}

    def target(self, file_type: FileType, path: Path) -> Target:
        planned = plan_types(self.source.files[0], file_type, self._options)
        _check_requantize(self._path, planned, self._existing, self._options)
        return quantized_target(path, file_type, self._model, planned, self._existing, self._options, self._imatrix)


def _idle_rules(options: QuantizeOptions, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """A sentence for each of the user's expressions that is found in the name of no tensor."""
    notes = []
    for pattern, kind in options.tensor_types:
        try:
            found = any(re.search(pattern, name) for name in tensors)
        except re.error:
            # llama.cpp takes C++'s expressions, and says what it does not take
            continue
        if not found:
            notes.append(
                f"--tensor-type {pattern}={kind} matches no tensor; `ggufrun inspect --tensors` lists the names"
            )
    return tuple(notes)


def _keeping(options: QuantizeOptions, tensors: Mapping[str, Tensor]) -> QuantizeOptions:
    """``options`` with the types of tensors that stay as they are, after those that the user gave."""
    rules = []
    for kind, names in kept.kept_tensors(tensors).items():
        ends = sorted({name.split(".", 2)[-1] for name in names})
        if any(name not in names and name.split(".", 2)[-1] in ends for name in tensors):
            # an adapter has changed those of some layers, or not all are quantized
            ends = sorted(names)
        # attn_output.weight also ends like output.weight
        rules.append(("|".join(rf"(^|[0-9]\.){re.escape(end)}$" for end in ends), kind.lower()))
    return replace(options, tensor_types=(*options.tensor_types, *rules))


def split_plan(plan: Plan, max_bytes: int) -> Plan:
    """The same plan with files of at most ``max_bytes`` of tensor data each."""
    return replace(plan, targets=tuple(shard for target in plan.targets for shard in split_target(target, max_bytes)))


def _described(folder: Path, source: Checkpoint) -> tuple[Config, tuple[str, ...], arch.Family]:
    """What config.json says of the model, completed and checked, and the family that it belongs to."""
    config = read_config(folder, source.overrides)
    family = arch.find(config)
    config = family.complete(config, source.tensors or None)
    family.check_config(config)
    return (*with_true_vocabulary(config, family, source), family)


def _metadata(
    source: Checkpoint,
    config: Config,
    family: arch.Family,
    tensors: Mapping[str, Tensor],
    wishes: Wishes,
) -> tuple[gguf.GGUFWriter, Original, tuple[str, ...]]:
    """All metadata in the order of llama.cpp's converter, the tokenizer, notes; the writer only collects the keys."""
    # the package warns through logging about things that are errors or of no interest here
    logging.getLogger("gguf").setLevel(logging.ERROR)
    writer = gguf.GGUFWriter(None, family.gguf_arch)
    family.first_metadata(config, writer)
    metadata.add_general(source.path, writer, tensors.values(), wishes.name)
    family.metadata(config, writer)
    check_written(config, writer)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    original = family.vocab(source.tokenizer, config, writer, wishes.pretokenizer)
    if wishes.template is not None:
        replace_template(writer, wishes.template)
    _check_tokens(source, writer)
    return writer, original, metadata.rename_if_misread(writer)


def _notes(source: Checkpoint, original: Original | None, *more: tuple[str, ...]) -> tuple[str, ...]:
    return (*source.notes, *(note for notes in more for note in notes), *(original.notes if original else ()))


def _check_tokens(source: Checkpoint, writer: gguf.GGUFWriter) -> None:
    """Refuse a vocabulary that an adapter enlarged with the tokenizer from before: the new tokens would be padding."""
    kinds = writer.kv_data[0].get("tokenizer.ggml.token_type")
    tokens = 0 if kinds is None else sum(kind != gguf.TokenType.UNUSED for kind in kinds.value)
    if tokens < source.least_tokens:
        raise FormatError(
            f"the vocabulary grows beyond {source.least_tokens - 1}, but {source.tokenizer} has {tokens} tokens",
            "put the tokenizer that the last adapter was trained with into its folder",
        )


def _with_file_type(writer: gguf.GGUFWriter, file_type: FileType) -> dict[str, Value]:
    values = {key: file.encode(v.value, v.type, v.sub_type) for key, v in writer.kv_data[0].items()}
    if gguf.Keys.General.FILE_TYPE in values:
        # the GGUF of one family or another goes without, as llama.cpp's converter writes it
        values[gguf.Keys.General.FILE_TYPE] = file.encode(file_type.ftype, Kind.UINT32)
    return values


def _plan_on_hole(
    model: Model, types: Sequence[tuple[str, int]], file_type: FileType, options: QuantizeOptions
) -> TypePlan:
    """Ask for a plan with a file that has the header of ``model`` and no data."""
    with file.hollow(model.header(types)) as path:
        return plan_types(path, file_type, options)


def _check_requantize(path: Path, planned: TypePlan, existing: Mapping[str, int], options: QuantizeOptions) -> None:
    for name, kind in planned.tensors:
        old = ggml.block_type(existing[name])
        if old.quantized and old.name.lower() != kind and not options.allow_requantize:
            raise UsageError(
                f"{path.name} is already quantized ({name} is {old.name})",
                "start from the F16 or BF16 file, or pass --allow-requantize and accept the loss",
            )


def stored_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor as it lies in the source."""
    kind = ggml.block_types()[tensor.dtype.lower()]
    return tensor.n_values // kind.block * kind.size
