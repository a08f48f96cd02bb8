"""Templates: what transformers renders, and nothing that a stranger's template should not do."""

from __future__ import annotations

import re

import pytest

from ggufrun.chat.template import ChatTemplate, TemplateRefusal
from ggufrun.errors import FormatError
from tests import chat_oracle
from tests.conftest import Oracle


def render(source: str, messages: list[dict[str, str]] | None = None, prompt: bool = True) -> str:
    return ChatTemplate(source).render(messages or chat_oracle.MESSAGES, bos="<s>", eos="</s>", prompt=prompt)


@pytest.mark.parametrize("name", chat_oracle.TEMPLATES)
def test_as_transformers_renders(name: str) -> None:
    assert render(chat_oracle.TEMPLATES[name]) == chat_oracle.read("chat_templates.json")[name]


def test_transformers_today(oracle: Oracle) -> None:
    fresh = chat_oracle.render_with_transformers(oracle.python, chat_oracle.TEMPLATES, chat_oracle.MESSAGES)
    assert fresh == chat_oracle.read("chat_templates.json")


def test_published_templates(oracle: Oracle) -> None:
    """Every template that llama.cpp ships is rendered as transformers renders it, or refused by both."""
    folder = oracle.convert.parent / "models" / "templates"
    published = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}
    assert len(published) > 40
    messages = [message for message in chat_oracle.MESSAGES if message["role"] != "system"]
    wanted = chat_oracle.render_with_transformers(oracle.python, published, messages)
    wrong = {}
    for name, source in published.items():
        try:
            got: str | None = render(source, messages)
        except FormatError:
            got = None
        if got != wanted[name]:
            wrong[name] = got
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
