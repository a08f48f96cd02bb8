"""Options that several commands share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufrun.errors import TargetError, UsageError

if TYPE_CHECKING:
    from ggufrun.quantize.plan import QuantizeOptions

AUTO = "auto"
"""The importance matrix that is measured on the spot."""


def output_path(text: str) -> Path:
    """``text`` as a path. TargetError for a folder, as its slash says, that is not there: a path has no such slash."""
    path = Path(text)
    if text == "-":
        # where other programs write to stdout; a file of this name is hard to get rid of
        raise UsageError("-o - names no file", "give a file or a folder; a GGUF is not written in one go")
    if text.endswith(("/", os.sep)) and not path.is_dir():
        raise TargetError(f"no such folder: {path}", "make it first")
    return path


TYPES = """\b
Types, the largest first (bits a weight):
F32  F16  BF16  Q8_0 (8.5)  Q6_K (6.6)  Q5_K_M (5.7)  Q5_K_S (5.5)
Q4_K_M (4.8, the usual choice)  Q4_K_S (4.6)  IQ4_NL (4.5)  IQ4_XS (4.25)
Q3_K_L (4.2)  Q3_K_M (3.9)  IQ3_M (3.7)  Q3_K_S (3.5)  IQ3_S (3.4)  Q2_K (3.0)
With an importance matrix: IQ3_XS (3.3)  IQ3_XXS (3.1)  Q2_K_S (2.8)
IQ2_M (2.7)  IQ2_S (2.5)  IQ2_XS (2.3)  IQ2_XXS (2.1)  IQ1_M (1.8)  IQ1_S (1.6)
Legacy: Q5_1  Q5_0  Q4_1  Q4_0. For models trained for them: MXFP4_MOE
TQ2_0  TQ1_0  Q2_0  Q1_0
"""
"""What can be asked for, for the end of ``--help``: that must not wait for the table in `quantize.types`."""


def model_names(incomplete: str) -> list[str]:
    """The models whose names begin so, for the shell's completion; where there are none it offers files."""
    from ggufrun.errors import GgufrunError
    from ggufrun.hub.models import completions

    try:
        return completions(incomplete)
    except (GgufrunError, OSError):
        return []


def chat_names(incomplete: str) -> list[str]:
    """The models to talk to whose names begin so: those that are here, then those of the catalogue."""
    from ggufrun.hub import catalogue

    return list(dict.fromkeys([*model_names(incomplete), *catalogue.completions(incomplete)]))


Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="PATH",
        parser=output_path,
        help="File to write, or folder for the file.  [default: NAME-TYPE.gguf here]",
    ),
]
SplitSize = Annotated[
    str | None,
    typer.Option(
        "--split-max-size", metavar="SIZE", help="Split the output into files of at most this size, such as 4G."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "-j", "--threads", metavar="N", min=1, max=1024, help="Number of worker threads.  [default: all processors]"
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the planned output without writing anything.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue a job that was killed; if interrupted, keep what is done.")
]
Receipt = Annotated[bool, typer.Option("--receipt", help="Measure the loss, and write the figures into the metadata.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
ImatrixFile = Annotated[
    str | None,
    typer.Option("--imatrix", metavar="FILE|auto", help="Importance matrix to quantize with; auto measures one."),
]
TensorTypes = Annotated[
    list[str] | None,
    typer.Option("--tensor-type", metavar="REGEX=TYPE", help="Type of the tensors whose names match; may be repeated."),
]
OutputType = Annotated[str | None, typer.Option("--output-tensor-type", metavar="TYPE", help="Type of output.weight.")]
EmbeddingType = Annotated[
    str | None, typer.Option("--token-embedding-type", metavar="TYPE", help="Type of token_embd.weight.")
]
Pure = Annotated[bool, typer.Option("--pure", help="Give all matrices one type.")]
LeaveOutput = Annotated[bool, typer.Option("--leave-output-tensor", help="Leave output.weight unquantized.")]


@dataclass(frozen=True)
class TypeFlags:
    """What stands on the command line about the types of tensors, and what they are weighed by."""

    imatrix: ImatrixFile = None
    tensor_type: TensorTypes = None
    output_tensor_type: OutputType = None
    token_embedding_type: EmbeddingType = None
    pure: Pure = False
    leave_output_tensor: LeaveOutput = False

    @property
    def automatic(self) -> bool:
        """Is an importance matrix to be measured?"""
        return self.imatrix == AUTO

    def options(self, **more: Any) -> QuantizeOptions:
        """What the flags mean, with ``more`` that others have said."""
        from ggufrun.quantize.plan import QuantizeOptions, parse_override

        return QuantizeOptions(
            pure=self.pure,
            leave_output=self.leave_output_tensor,
            tensor_types=tuple(map(parse_override, self.tensor_type or ())),
            output_type=self.output_tensor_type,
            embedding_type=self.token_embedding_type,
            has_imatrix=self.automatic,
            **more,
        )


NO_TYPES = TypeFlags()
"""None of these flags."""


@dataclass(frozen=True)
class WriteFlags:
    """What stands on the command line about how files are written."""

    threads: Threads = None
    dry_run: DryRun = False
    force: Force = False
    resume: Resume = False
    as_json: Json = False


AS_USUAL = WriteFlags()
"""None of these flags."""
