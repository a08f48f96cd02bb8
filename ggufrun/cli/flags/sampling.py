"""How tokens are chosen.

A setting that is one number or a switch is declared once, in `SamplingParams`, with its flags and their description; it
reaches every command and the Python API from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from ggufrun.cli.flags.option import option, read_text
from ggufrun.engine.sampling.params import SamplingParams, settings
from ggufrun.errors import UsageError


@dataclass(frozen=True)
class _Texts:
    """The settings that are lists, or texts to be read."""

    SECTION: ClassVar[str] = "Sampling"

    dry_breakers: Annotated[
        list[str] | None,
        option(
            "--dry-sequence-breaker",
            help="DRY: text that repetitions do not reach across, or none; may be repeated.",
            metavar="TEXT",
        ),
    ] = None
    samplers: Annotated[
        str | None,
        option("--samplers", help="Samplers to apply, in this order: penalties;dry;top_k;...", metavar="NAMES"),
    ] = None
    sampler_seq: Annotated[
        str | None,
        option(
            "--sampler-seq",
            "--sampling-seq",
            help="Samplers to apply, in this order, one letter each: edskypmxt.",
            metavar="LETTERS",
        ),
    ] = None
    logit_bias: Annotated[
        list[str] | None,
        option(
            "-l",
            "--logit-bias",
            help="Make a token more or less likely, such as 15043+1; may be repeated.",
            metavar="ID+BIAS",
        ),
    ] = None
    grammar: Annotated[
        str | None, option("--grammar", help="Grammar in GBNF that answers must follow.", metavar="GBNF")
    ] = None
    grammar_file: Annotated[
        Path | None,
        option("--grammar-file", help="File with a grammar in GBNF that answers must follow.", metavar="FILE"),
    ] = None
    json_schema: Annotated[
        str | None, option("-j", "--json-schema", help="JSON schema that answers must follow.", metavar="JSON")
    ] = None
    json_schema_file: Annotated[
        Path | None,
        option("-jf", "--json-schema-file", help="File with a JSON schema that answers must follow.", metavar="FILE"),
    ] = None

    def params(self, usual: Mapping[str, Any], expanded: Callable[[str], str] = str) -> SamplingParams:
        """The flags, else what is ``usual`` with the model, else llama.cpp's defaults; ``expanded`` replaces escapes in
        a text. Raises UsageError.
        """
        values: dict[str, Any] = {}
        for item in fields(SamplingParams):
            value = getattr(self, item.name)
            if value is None:
                value = usual.get(item.name)
                # Metadata brings every number as a float.
                value = int(value) if value is not None and item.type == "int" else value
            if value is not None:
                values[item.name] = value
        return SamplingParams(**{**values, **self._read(expanded)})

    def _read(self, expanded: Callable[[str], str]) -> dict[str, Any]:
        """The settings that are not numbers, read from their flags."""
        from ggufrun.engine.sampling.params import logit_bias, sampler_letters, sampler_names

        found: dict[str, Any] = {}
        if self.samplers is not None and self.sampler_seq is not None:
            raise UsageError("--samplers and --sampler-seq both give an order", "give one of them")
        if self.samplers is not None:
            found["samplers"] = sampler_names(self.samplers)
        if self.sampler_seq is not None:
            found["samplers"] = sampler_letters(self.sampler_seq)
        if self.dry_breakers:
            found["dry_breakers"] = tuple(expanded(text) for text in self.dry_breakers if text != "none")
        if self.logit_bias:
            found["logit_bias"] = tuple(logit_bias(text) for text in self.logit_bias)
        names = ("grammar", "grammar_file", "json_schema", "json_schema_file")
        if sum(bool(getattr(self, name)) for name in names) > 1:
            raise UsageError("a grammar or JSON schema is given twice", "give one of them")
        if self.grammar_file is not None:
            found["grammar"] = read_text(self.grammar_file, "--grammar-file")
        schema = self.json_schema
        if self.json_schema_file is not None:
            schema = read_text(self.json_schema_file, "--json-schema-file")
        if schema is not None:
            from ggufrun.engine.sampling.schema import to_grammar

            found["grammar"] = to_grammar(schema)
        return found


KINDS: Mapping[str, tuple[Any, Any]] = {"int": (int | None, None), "float": (float | None, None), "bool": (bool, False)}
"""Type and default of a flag, by the type that a setting has."""


def flags_for(record: type) -> type[_Texts]:
    """A record with a flag for every setting of ``record``, and those above."""
    kinds = {item.name: KINDS[str(item.type)] for item in fields(record) if item.name in settings(record)}
    made = [
        (name, Annotated[kinds[name][0], option(*one.flags, help=one.help)], kinds[name][1])
        for name, one in settings(record).items()
    ]
    numbers = make_dataclass("_Numbers", made, frozen=True)
    # fields of the second come first
    return dataclass(frozen=True)(type("SamplingFlags", (_Texts, numbers), {}))


if TYPE_CHECKING:

    class SamplingFlags(_Texts):
        """How tokens are chosen."""

else:
    SamplingFlags = flags_for(SamplingParams)
