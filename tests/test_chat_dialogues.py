"""Scripted dialogues, held with the flags of llama.cpp's interactive mode: its token ids, and its answers."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ggufrun.chat.formats.choose_format import FormatOptions, choose
from ggufrun.chat.session import Session, Start
from ggufrun.cli import app
from ggufrun.cli.terminal import console
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.model import Model, ModelParams
from ggufrun.engine.sampling.params import SamplingParams
from tests.conftest import Oracle
from tests.oracles import chat_oracle, dialogue_oracle
from tests.oracles.dialogue_oracle import DIALOGUES, QUESTIONS, SOME, dialogues
from tests.support.dialogue_models import VOCABULARIES, small_model, with_vocabulary

Hold = Callable[..., dict[str, Any]]

OURS = {
    "slashes": ["--slash-sends"],
    "chat.sh": ["-e"],
    "a context that forgets": ["--keep", "0"],
    "one count for all": ["--compat"],
    "a count that a question uses up": ["--compat"],
    "nothing before": ["--compat"],
    "a message first": ["--compat"],
}
"""Flags that restore what we do in another way on purpose; ``-e`` is another, and stands in the dialogues."""

AFFIXES = ["-no-cnv"]

MOST = 9
"""Tokens of a reverse prompt and BOS."""

OTHERS = ("llama-spm", "llama-bpe", "qwen2", "deepseek-llm", "phi-3", "baichuan", "gpt-2", "gemma-4")


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Hold:
    """``ggufrun chat`` in this process: the ids of every turn, the number of tokens that were evaluated, the text."""

    def call(model: Path, flags: list[str], typed: str, *more: str) -> dict[str, Any]:
        console.err.cache_clear()
        console.out.cache_clear()
        arguments = ["-m", str(model), "-i", "--temp", "0", "-t", "1", "-c", "2048", "--show-tokens", *flags, *more]
        monkeypatch.setattr(sys, "argv", ["ggufrun", "chat", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
        with pytest.raises(SystemExit) as exit:
            app.main()
        out, err = capfd.readouterr()
        assert exit.value.code == 0, err
        shown = re.findall(r"^(fed|answered): ?(.*)$", err, re.MULTILINE)
        ids = [(kind, [int(token) for token in line.split()]) for kind, line in shown]
        text = dialogue_oracle.without_affixes(out, flags)
        # The last token that was drawn is not evaluated: nobody asks what follows it.
        tokens = sum(len(line) for _, line in ids) - 1
        return {"fed": [line for kind, line in ids if kind == "fed"], "tokens": tokens, "text": text}

    return call


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours["text"] == theirs["text"]
    # An empty line feeds nothing but what stands before every message, which the oracle does not print.
    fed = list(ours["fed"])
    for ids in theirs["fed"]:
        while fed and fed[0][len(fed[0]) - len(ids) :] != ids:
            assert len(fed.pop(0)) <= MOST
        assert fed, f"was not fed: {ids}"
        fed.pop(0)
    assert all(len(ids) <= MOST for ids in fed)
    assert theirs["tokens"] in (None, ours["tokens"])


@pytest.mark.parametrize("name", DIALOGUES)
def test_dialogue(hold: Hold, demo_gguf: Callable[[str], Path], name: str) -> None:
    ours = hold(demo_gguf("q8_0"), *DIALOGUES[name], *AFFIXES, *OURS.get(name, []))
    compare(ours, chat_oracle.read("dialogues.json")[name])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("vocabularies")
    return cache(lambda name: small_model(name, folder))


@pytest.mark.parametrize(("vocabulary", "name"), [(one, name) for one in VOCABULARIES for name in dialogues(one)])
def test_dialogue_with_a_byte_level_vocabulary(
    hold: Hold, small: Callable[[str], Path], vocabulary: str, name: str
) -> None:
    ours = hold(small(vocabulary), *dialogues(vocabulary)[name], *AFFIXES, *OURS.get(name, []))
    compare(ours, chat_oracle.read("dialogues_bpe.json")[vocabulary][name])


@pytest.mark.parametrize("vocabulary", [name for name, one in VOCABULARIES.items() if one.builtin])
@pytest.mark.parametrize("flag", ["--style", "--chat-template"])
def test_conversation_in_a_style(hold: Hold, small: Callable[[str], Path], vocabulary: str, flag: str) -> None:
    known = VOCABULARIES[vocabulary]
    chosen = [flag, known.style if flag == "--style" else known.builtin]
    ours = hold(small(vocabulary), chosen, "\n".join([*QUESTIONS, ""]))
    theirs = chat_oracle.read("dialogues_bpe.json")[vocabulary]["conversation"]
    assert (ours["fed"], ours["text"]) == (theirs["fed"], theirs["text"])
    assert theirs["text"]


@pytest.mark.parametrize("name", DIALOGUES)
def test_dialogue_with_all_of_the_old_ways(hold: Hold, demo_gguf: Callable[[str], Path], name: str) -> None:
    """One flag restores all that is different on purpose; what a dialogue says itself counts more."""
    flags, typed = DIALOGUES[name]
    ours = hold(demo_gguf("q8_0"), flags, typed, *AFFIXES, "--compat")
    compare(ours, chat_oracle.read("dialogues.json")[name])


def test_today(oracle: Oracle, demo_gguf: Callable[[str], Path]) -> None:
    """The recorded answers are still those of llama-completion."""
    golden = chat_oracle.read("dialogues.json")
    assert set(golden) == set(DIALOGUES)
    for name, dialogue in DIALOGUES.items():
        tool, model = oracle.binaries / "llama-completion", demo_gguf("q8_0")
        assert dialogue_oracle.record(tool, model, *dialogue) == golden[name], name


def test_today_with_byte_level_vocabularies(oracle: Oracle, small: Callable[[str], Path]) -> None:
    golden, tool = chat_oracle.read("dialogues_bpe.json"), oracle.binaries / "llama-completion"
    for vocabulary, known in VOCABULARIES.items():
        held = golden[vocabulary]
        if known.builtin:
            said = dialogue_oracle.record_template(tool, small(vocabulary), known.builtin, QUESTIONS)
            assert said == held["conversation"], vocabulary
        for name, dialogue in dialogues(vocabulary).items():
            said = dialogue_oracle.record(tool, small(vocabulary), *dialogue)
            assert said == held[name], f"{vocabulary}: {name}"


@pytest.mark.parametrize("vocabulary", OTHERS)
def test_with_other_vocabularies(oracle: Oracle, hold: Hold, tmp_path: Path, vocabulary: str) -> None:
    source = oracle.convert.parent / "models" / f"ggml-vocab-{vocabulary}.gguf"
    model = with_vocabulary(source, tmp_path / f"{vocabulary}.gguf")
    tool = oracle.binaries / "llama-completion"
    for name in SOME if vocabulary != "llama-spm" else DIALOGUES:
        ours = hold(model, *DIALOGUES[name], *AFFIXES, *OURS.get(name, []))
        compare(ours, dialogue_oracle.record(tool, model, *DIALOGUES[name]))


@pytest.mark.parametrize(
    ("vocabulary", "end", "template"),
    [
        ("qwen2", "<|im_end|>", "Qwen-Qwen2.5-7B-Instruct"),
        ("llama-spm", "", "mistralai-Mistral-Nemo-Instruct-2407"),
    ],
)
def test_published_templates_with_their_vocabularies(
    oracle: Oracle, tmp_path: Path, vocabulary: str, end: str, template: str
) -> None:
    """Every turn of a conversation feeds what llama-completion feeds: BOS once, and only what is new."""
    models = oracle.convert.parent / "models"
    path = with_vocabulary(models / f"ggml-vocab-{vocabulary}.gguf", tmp_path / "model.gguf", end=end)
    source = models / "templates" / f"{template}.jinja"
    questions = ["hello 世界", "作者是谁？", "third one"]
    with Model(ModelParams(path)) as model, Context(model, ContextParams(n_ctx=2048, threads=1)) as context:
        format = choose(model, FormatOptions(template=source.read_text("utf-8"))).format
        session = Session(context, format, SamplingParams(temp=0))
        fed = [list(event.new_ids) for text in questions for event in session.ask(text) if isinstance(event, Start)]
    tool = oracle.binaries / "llama-completion"
    assert dialogue_oracle.record_template(tool, path, source, questions)["fed"] == fed
