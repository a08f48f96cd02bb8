"""Styles that users write down: what they mean, and the line of what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufrun.chat.formats import stylebook, styles
from ggufrun.chat.formats.choose_format import FormatOptions, choose
from ggufrun.chat.formats.prompt import StylePrompt
from ggufrun.engine.model import Model
from ggufrun.errors import FormatError, UsageError

SOUND = """
[poet]
first = "{bos}系统：{s}\\n问：{u}\\n答："
stops = ["问："]
names = ["tang.*"]
sampling = { presence_penalty = 0.1, top_k = 5 }

["my chatml"]
like = "chatml"
system = "Be {kind}."

[poet-2]
like = "poet"
stops = []
"""


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    monkeypatch.setattr(stylebook, "styles_file", lambda: tmp_path / "styles.toml")
    return lambda text: (tmp_path / "styles.toml").write_text(text, encoding="utf-8")


def test_where_the_file_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert stylebook.styles_file().name == "styles.toml" and "ggufrun" in stylebook.styles_file().parts


def test_a_style_of_ones_own(write, demo_model: Model) -> None:  # type: ignore[no-untyped-def]
    assert list(stylebook.known()) == list(styles.STYLES)
    write(SOUND)
    assert list(stylebook.known()) == [*styles.STYLES, "poet", "my chatml", "poet-2"]
    poet = stylebook.find("poet")
    assert poet.bare == "{bos}系统：\n问：{u}\n答：" and poet.later == "系统：\n问：{u}\n答：" and poet.end == "{eos}"
    assert poet.stops == ("问：",) and dict(poet.sampling) == {"presence_penalty": 0.1, "top_k": 5}
    own = stylebook.find("my chatml")
    assert (own.first, own.controls) == (styles.STYLES["chatml"].first, styles.STYLES["chatml"].controls)
    assert own.system == "Be {kind}."
    assert stylebook.find("poet-2").first == poet.first and stylebook.find("poet-2").stops == ()
    # --style names it, and a model's name reveals it.
    choice = choose(demo_model, FormatOptions(style="poet"))
    assert isinstance(choice.format, StylePrompt) and choice.format.stops == ("问：",)
    assert choice.sampling["presence_penalty"] == 0.1
    guessed = stylebook.guess("Tang-Poet-7B", demo_model.vocab)
    assert guessed is not None and guessed[0].name == "poet" and "styles.toml" in guessed[1]
    # What is written anew counts at once.
    write("[other]\nlike = 'alpaca'\n")
    assert "poet" not in stylebook.known() and stylebook.find("other").stops == ("### Instruction:",)
    with pytest.raises(UsageError, match=r"choose from .*other"):
        stylebook.find("poet")


def test_one_of_ours_can_be_replaced(write) -> None:  # type: ignore[no-untyped-def]
    write('[alpaca]\nlike = "alpaca"\nsystem = "x"\n')
    assert stylebook.find("alpaca").system == "x" and list(stylebook.known()) == list(styles.STYLES)


WRONG = [
    ("[a]\nfirst = x\n", "line 2"),
    ("a = 1\n", "line 1: a is outside"),
    ("[a]\n", "line 1: a says no first"),
    ("\n[a]\nlike = 'no'\n", "line 3: a.like is 'no'"),
    ("[a]\nlike = 3\n", "line 2: a.like is 3"),
    ("[a]\nfirst = 'x'\n", "line 2: a.first has no {u}"),
    ("[a]\nfirst = '{u}{user}'\n", "line 2: a.first has {user}"),
    ("[a]\nlike = 'alpaca'\nfrist = '{u}'\n", "line 3: a.frist is not part of a style"),
    ("[a]\nlike = 'alpaca'\n\nstops = 'x'\n", "line 4: a.stops is not a list"),
    ("[a]\nlike = 'alpaca'\nsystem = 5\n", "line 3: a.system is not text"),
    ("[a]\nlike = 'alpaca'\nnames = ['(']\n", "line 3: a.names has '('"),
    ("[a]\nlike = 'alpaca'\nsampling = 5\n", "line 3: a.sampling is not a table"),
    ("[a]\nlike = 'alpaca'\n[a.sampling]\nheat = 5\n", "line 4: a.sampling.heat is not a setting"),
    ("[a]\nlike = 'alpaca'\n[a.sampling]\ntemp = '5'\n", "line 4: a.sampling.temp is not a number"),
    ("[a]\nlike = 'alpaca'\nsampling = {top_p = 7}\n", "line 3: a.sampling: top_p"),
]


@pytest.mark.parametrize(("text", "words"), WRONG)
def test_what_is_wrong_and_where(text: str, words: str) -> None:
    with pytest.raises(FormatError) as error:
        stylebook.parse(text, "styles.toml")
    assert str(error.value).startswith("styles.toml") and words in str(error.value)


BROKEN = [text for text, _ in WRONG] + ["[a\n", "[a]\nfirst = '{u}'\n[a]\n", "[" * 5000]


@pytest.mark.parametrize("text", BROKEN)
def test_a_mistake_does_not_stop_a_chat(write, demo_model: Model, text: str) -> None:  # type: ignore[no-untyped-def]
    write(text)
    trouble = stylebook.trouble()
    assert trouble is not None
    choice = choose(demo_model, FormatOptions(style="chatml"))
    assert choice.format.name == "chatml" and list(stylebook.known()) == list(styles.STYLES)
    assert len(choice.warnings) == 1 and trouble.what in choice.warnings[0]
    # the style that was meant is not replaced by another
    for asked in (FormatOptions(style="a"), FormatOptions(style="poet")):
        with pytest.raises(FormatError) as error:
            choose(demo_model, asked)
        assert error.value is trouble
    write("")
    assert stylebook.trouble() is None and choose(demo_model, FormatOptions(style="chatml")).warnings == ()


def test_a_mistake_in_one_of_ours(write, demo_model: Model) -> None:  # type: ignore[no-untyped-def]
    write('[alpaca]\nlike = "alpaca"\nsystem = 5\n')
    for asked in (FormatOptions(style="Alpaca"), FormatOptions(template="alpaca")):
        with pytest.raises(FormatError, match=r"line 3: alpaca\.system is not text"):
            choose(demo_model, asked)
    assert choose(demo_model, FormatOptions(style="alpaca-2")).format.name == "alpaca-2"


def test_a_file_that_cannot_be_read(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "styles.toml").write_bytes(b"\xff")
    assert "styles.toml cannot be read" in str(stylebook.trouble())
    (tmp_path / "styles.toml").write_bytes(b"#" * (stylebook.MAX_BYTES + 1))
    assert "larger than" in str(stylebook.trouble())
