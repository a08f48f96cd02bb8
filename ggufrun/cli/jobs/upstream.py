"""``ggufrun convert --converter upstream``: llama.cpp's own converter does the mapping, ggufrun the quantizing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ggufrun.cli.terminal import console

if TYPE_CHECKING:
    from ggufrun.cli.flags.common import WriteFlags
    from ggufrun.quantize.imatrix import Imatrix
    from ggufrun.quantize.plan import QuantizeOptions
    from ggufrun.quantize.types import FileType


def convert(
    folder: Path,
    file_types: Sequence[FileType],
    path_of: Callable[[FileType], Path],
    options: QuantizeOptions,
    name: str | None,
    imatrix: Imatrix | None,
    how: WriteFlags,
) -> None:
    """Write each of ``file_types`` (none: the checkpoint's own precision).

    Plain types are the converter's own files; the others are quantized from one that is removed afterwards.
    """
    from ggufrun.checkpoint.gguf.header import read_header
    from ggufrun.cli.jobs.output import write
    from ggufrun.convert import upstream
    from ggufrun.convert.plan import plan_quantize
    from ggufrun.convert.writer import check_targets
    from ggufrun.quantize.types import FILE_TYPES

    check_targets([(path_of(kind), 0) for kind in file_types], how.force)
    quantized = [kind for kind in file_types if not kind.plain]
    console.note("running llama.cpp's own converter, which may take a while")
    made = []
    plain: list[FileType | None] = [kind for kind in file_types if kind.plain]
    for kind in plain or ([] if quantized else [None]):
        folder_of = path_of(kind or FILE_TYPES["F16"]).parent
        with upstream.converted(folder, kind.name.lower() if kind else "auto", name, folder_of) as temporary:
            if kind is None:
                own = read_header(temporary).get("general.file_type")
                kind = next((known for known in FILE_TYPES.values() if known.ftype == own), FILE_TYPES["F16"])
            path = path_of(kind)
            check_targets([(path, 0)], how.force)
            temporary.replace(path)
        made.append(path)
    if quantized:
        with upstream.converted(folder, "auto", name, path_of(quantized[0]).parent) as temporary:
            plan = plan_quantize(temporary, quantized, path_of, options, imatrix)
            write(plan, how)
    if how.as_json and made:
        console.print_json([{"path": str(path), "bytes": path.stat().st_size} for path in made])
    for path in () if how.as_json else made:
        console.print_path(path)
