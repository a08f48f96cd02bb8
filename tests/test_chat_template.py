"""Templates: what transformers renders, and nothing that a stranger's template should not do."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from datetime import datetime

import pytest

from ggufrun.chat.formats import sandbox, template_process
from ggufrun.chat.formats.limits import Bounds
from ggufrun.chat.formats.template import ChatTemplate, TemplateExcess, TemplateRefusal
from ggufrun.chat.formats.template_prompt import TemplatePrompt
from ggufrun.engine.model import Model
from ggufrun.errors import FormatError
from tests.conftest import Oracle
from tests.oracles import chat_oracle

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def render(source: str, case: str = "system and turns") -> str:
    asked = chat_oracle.CASES[case]
    return ChatTemplate(source).render(
        asked["messages"], tokens=TOKENS, prompt=asked.get("prompt", True), variables=asked.get("variables", {})
    )


def render_all(source: str) -> dict[str, str | None]:
    """Case -> text, or None where the template fails."""
    rendered: dict[str, str | None] = {}
    for case in chat_oracle.CASES:
        try:
            rendered[case] = render(source, case)
        except FormatError:
            rendered[case] = None
    return rendered


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The time at which the answers were recorded; the process that renders is a fork of this one."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> Clock:
            return cls(*chat_oracle.NOW)

    monkeypatch.setattr(sandbox, "datetime", Clock)
    template_process.stop()
    yield
    template_process.stop()


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("name", chat_oracle.TEMPLATES)
def test_as_transformers_renders(name: str) -> None:
    assert render_all(chat_oracle.TEMPLATES[name]) == chat_oracle.read("chat_templates.json")[name]


def test_transformers_today(oracle: Oracle) -> None:
    fresh = chat_oracle.render_with_transformers(oracle.python, chat_oracle.TEMPLATES)
    assert fresh == chat_oracle.read("chat_templates.json")


@pytest.mark.usefixtures("clock")
def test_published_templates(oracle: Oracle) -> None:
    """Every template that llama.cpp ships is rendered as transformers renders it, or refused by both."""
    folder = oracle.convert.parent / "models" / "templates"
    published = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}
    assert len(published) > 60
    wanted = chat_oracle.render_with_transformers(oracle.python, published)
    # most of the answers are texts
    assert sum(text is not None for cases in wanted.values() for text in cases.values()) > 800
    wrong = {
        (name, case): text
        for name, source in published.items()
        for case, text in render_all(source).items()
        if text != wanted[name][case]
    }
    assert not wrong


def test_dates() -> None:
    assert re.fullmatch(r"\d{4}-\d\d", render("{{ strftime_now('%Y-%m') }}"))


def test_a_syntax_error_names_its_line() -> None:
    with pytest.raises(FormatError, match="broken in line 3"):
        ChatTemplate("a\nb\n{% if %}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[99].content }}",
        "{{ 1 / 0 }}",
        "{{ nothing.at_all.here }}",
        "{{ messages | nofilter }}",
    ],
)
def test_a_failure_names_its_line(source: str) -> None:
    with pytest.raises(FormatError, match="line 3"):
        render("\n\n" + source)


def test_a_refusal_carries_the_templates_words() -> None:
    with pytest.raises(TemplateRefusal, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ raise_exception.__globals__.keys() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ 'a' * 10**9 }}",
        "{{ [0] * 10**9 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{% for i in range(9999) %}{% for j in range(9999) %}aaaaaaaaaaaaaaaa{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    with pytest.raises(FormatError):
        render(source)


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
HUNGRY = [
    "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set x = 'a' * 16000000 %}{{ ([x] * 1000) | join | length }}",
    "{{ ('a\n' * 1000000) | indent(100000) | length }}",
    "{{ messages[0].content | center(8000000000) | length }}",
    "{{ 'a' | center(8000000000) | length }}",
]


def test_one_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_process, "BOUNDS", Bounds(seconds=0.2))
    with pytest.raises(TemplateExcess, match="does not come to an end in line 2"):
        render("x\n" + ENDLESS)
    with pytest.raises(TemplateExcess, match="writes without end"):
        render("{% for i in range(99999) %}{{ 'a' * 9999 }}{% endfor %}")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded on Linux only")
@pytest.mark.parametrize("source", HUNGRY)
def test_one_that_wants_all_memory(source: str) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(TemplateExcess, match="wants too much memory"):
        render(source)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_it_is_not_tried_in_other_ways(monkeypatch: pytest.MonkeyPatch, demo_model: Model) -> None:
    """What fails is tried without a system role, in parts and with tools; not what does not end."""
    tries: list[object] = []

    def never(*given: object, **more: object) -> str:
        tries.append(given)
        raise TemplateExcess("no end")

    monkeypatch.setattr(ChatTemplate, "render", never)
    with pytest.raises(TemplateExcess):
        TemplatePrompt(demo_model.vocab, ChatTemplate("x")).turn([], [], "s", "u")
    assert len(tries) == 1
