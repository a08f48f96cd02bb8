"""``--help``: sections, and descriptions that can be understood by themselves, line by line."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field, fields
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ggufrun.api import options as api
from ggufrun.cli.app import app
from ggufrun.cli.flags import records, sampling
from ggufrun.cli.flags.chat import ChatFlags, FlagCommand, GenerationFlags
from ggufrun.cli.flags.help import OPTIONS, SectionedCommand
from ggufrun.cli.flags.prompt import AnswerFlags
from ggufrun.engine.sampling import params as engine
from ggufrun.engine.sampling.params import FINITE, SamplingParams, setting, settings

REFERS = re.compile(
    r"^(?:it|its|they|them|their|this|that|these|those|the same|there|one|again|ditto|as above)\b", re.I
)
"""A description that begins with something said before."""

INSIDE = re.compile(r"\b(?:read it|use these|keep it|of it|(?<!as )it is|do it|the same|there)\b", re.IGNORECASE)

TRANSLATED = re.compile(
    r"\b(?:is no |are no |goes on|go on|going on|anew|beside\b|stands\b|told|fed\b|all the same|is to be|, too\b)", re.I
)
"""What does not read as a native speaker writes it."""

LONGEST = 110
"""Characters of a description."""


def command(name: str) -> Any:
    return typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]


def names() -> list[str]:
    return sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def descriptions(name: str) -> dict[str, str]:
    """Flags, or an argument's name, and what is said of them."""
    return {"/".join(one.opts): one.help or "" for one in command(name).params if not getattr(one, "hidden", False)}


def problem(text: str) -> str:
    """What is wrong with a description; empty if nothing."""
    for pattern, why in ((REFERS, "begins with a reference"), (INSIDE, "refers"), (TRANSLATED, "reads translated")):
        if found := pattern.search(text):
            return f"{why}: {found[0]!r}"
    if not text or (not text[0].isupper() and not text.startswith(("org/", "adaptive_p", "upstream"))):
        return "does not begin as a sentence"
    if len(text) > LONGEST:
        return f"has {len(text)} characters"
    return ""


@pytest.mark.parametrize("name", names())
def test_descriptions_stand_alone(name: str) -> None:
    found = {flag: (text, why) for flag, text in descriptions(name).items() if (why := problem(text))}
    assert not found


@pytest.mark.parametrize(
    "text",
    [
        "Read it from a file.",
        "The same in letters.",
        "The same, as in llama.cpp.",
        "It follows the entropy.",
        "Goes on after the first answer.",
        "A file that is no GGUF.",
        "Use these, or none.",
        "of output.weight.",
    ],
)
def test_what_does_not_stand_alone_is_seen(text: str) -> None:
    assert problem(text)


def shown(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments], env={"COLUMNS": None})
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("name", names())
def test_every_option_is_below_a_heading(name: str) -> None:
    assert isinstance(command(name), SectionedCommand)
    lines = shown(name, "--help").splitlines()
    heading = ""
    for line in lines:
        if re.fullmatch(r"[A-Z][^.]*:", line):
            heading = line[:-1]
        elif re.match(r"  --?[a-zA-Z][\w, -]*", line) and "    " in line:
            assert heading and heading != "Arguments", line
    large = len([line for line in lines if re.match(r"  -", line)]) > 12
    assert not large or sum(bool(re.fullmatch(r"[A-Z][^.]*:", line)) for line in lines) > 3


def test_a_line_of_a_pipe_says_all() -> None:
    """``ggufrun chat -h | grep cache``"""
    found = [line for line in shown("chat", "-h").splitlines() if "cache" in line.lower()]
    assert [line.split()[0] for line in found] == ["-ctk,", "-ctv,", "--swa-full"]
    for line in found:
        assert line.rstrip().endswith(".") and re.search(r"  [A-Z]", line)


def test_the_flags_of_a_chat_have_sections() -> None:
    sections = {getattr(one, "rich_help_panel", None) or OPTIONS for one in command("chat").params}
    assert {"Sampling", "Context and computation", "Devices", "Prompt format", "Speculative decoding"} <= sections
    # what is without one is an argument, or --help
    assert {one.name for one in command("chat").params if not getattr(one, "rich_help_panel", None)} <= {
        "second",
        "help",
    }


# --- one line a sampling setting --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class More(SamplingParams):
    """As if one line were added."""

    smoothing: float = setting(0.0, "--smoothing", help="Smoothing of the logits (0: off).", values=FINITE)


def test_a_new_setting_reaches_every_command_and_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "SamplingParams", More)
    made = sampling.flags_for(More)

    @dataclass(frozen=True)
    class Flags:
        """Of a command."""

        sampling: made = field(default_factory=made)  # type: ignore[valid-type]

    seen: list[Any] = []
    probe = typer.Typer(rich_markup_mode=None)
    # with postponed annotations the name of a local class cannot be found
    Flags.__annotations__["sampling"] = made
    probe.command(cls=FlagCommand)(records.command_from(Flags, seen.append, "Probe."))
    shown = CliRunner().invoke(probe, ["--help"]).output
    assert "Smoothing of the logits" in shown and "Sampling:" in shown
    assert CliRunner().invoke(probe, ["--smoothing", "0.5", "--top_k", "7"]).exit_code == 0
    params = seen[0].sampling.params({"smoothing": 2.0, "min_p": 0.25})
    assert isinstance(params, More)
    assert (params.smoothing, params.top_k, params.min_p) == (0.5, 7, 0.25)
    assert CliRunner().invoke(probe, ["--smoothing", "0.5"]).exit_code == 0
    # what a model recommends counts where no flag says otherwise
    assert made().params({"smoothing": 2.0}) == More(smoothing=2.0)
    monkeypatch.setattr(api, "SamplingParams", More)
    monkeypatch.setattr(api, "KINDS", {item.name: str(item.type) for item in fields(More)})
    found = api.answer_options({"smoothing": 0.25, "temperature": 0.0}, {})
    assert found.sampling == More(smoothing=0.25, temp=0.0)


def test_chat_complete_and_the_list_take_the_same_sampling() -> None:
    """The list of questions is answered by `chat` itself."""
    for name in ("chat", "complete"):
        taken = {one.name for one in command(name).params}
        assert {item.name for item in fields(SamplingParams)} <= taken


def test_every_setting_has_a_flag_and_a_check() -> None:
    numbers = [item for item in fields(SamplingParams) if item.type in ("int", "float", "bool")]
    assert {item.name for item in numbers} == set(settings(SamplingParams))
    assert all(settings(SamplingParams)[item.name].values for item in numbers if item.type != "bool")
    assert engine.settings(SamplingParams(temp=0.0)) == settings(SamplingParams)


# --- records in records -----------------------------------------------------------------------------------------------


def test_a_record_is_built_from_flags_by_their_names() -> None:
    flags = records.build(ChatFlags, {"n_predict": 5, "first": "m.gguf", "second": "hi", "top_k": 3, "once": True})
    assert flags.answer == AnswerFlags(n_predict=5)
    assert (flags.source.first, flags.second, flags.talk.once) == ("m.gguf", "hi", True)
    assert flags.sampling.params({}) == SamplingParams(top_k=3)
    with pytest.raises(TypeError, match="has no flag 'once'"):
        records.build(GenerationFlags, {"once": True})


def test_no_flag_is_declared_twice() -> None:
    for name in names():
        spellings = [flag for one in command(name).params for flag in (*one.opts, *one.secondary_opts)]
        assert len(spellings) == len(set(spellings))


def test_type_checkers_know_every_option_of_the_api() -> None:
    source = inspect.getsource(api)
    own = source[source.index("class Sampling(TypedDict") : source.index("RENAMED = ")]
    assert set(re.findall(r"^        (\w+): ", own, re.MULTILINE)) == set(api.NAMES)
