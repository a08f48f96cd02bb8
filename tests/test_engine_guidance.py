"""Classifier-free guidance against two contexts and numpy, and against transformers' own processor."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufrun.chat.formats import styles
from ggufrun.chat.formats.plain import PlainPrompt
from ggufrun.chat.formats.prompt import AffixPrompt, Format, StylePrompt
from ggufrun.chat.formats.template import ChatTemplate
from ggufrun.chat.formats.template_prompt import TemplatePrompt
from ggufrun.chat.negative import Negative
from ggufrun.chat.session import Done, Session
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.generate import GenerationStats, StopReason, generate
from ggufrun.engine.guidance import Guidance
from ggufrun.engine.model import Model, ModelParams
from ggufrun.engine.sampling.sampler import Sampler, SamplingParams
from ggufrun.errors import UsageError
from ggufrun.native.library import llama
from tests.conftest import Oracle
from tests.oracles import chat_oracle, guidance_oracle
from tests.support.checkpoints import DEMO

ENDLESS = SamplingParams(temp=0, ignore_eos=True)
QUESTION = "[INST] 背一下静夜思 [/INST]"


@pytest.fixture
def twofold(demo_model: Model) -> Iterator[Context]:
    params = ContextParams(n_ctx=512, threads=1, sequences=2, separate=True, outputs=2)
    with Context(demo_model, params) as context:
        yield context


def ids_of(model: Model, text: str) -> list[int]:
    return model.vocab.tokenize(text, special=True, bos=True)


def logits(context: Context) -> Any:
    pointer = llama().llama_get_logits_ith(context.pointer, -1)
    return np.ctypeslib.as_array(pointer, (context.model.vocab.size,)).astype(np.float64)


def by_hand(model: Model, ids: list[int], negative: list[int], scale: float, count: int) -> list[int]:
    """Greedy tokens with two contexts that know nothing of each other."""
    made: list[int] = []
    params = ContextParams(n_ctx=512, threads=1)
    with Context(model, params) as one, Context(model, params) as other:
        while len(made) < count:
            rows = []
            for context, start in ((one, ids), (other, negative)):
                context.feed([*start, *made])
                row = logits(context)
                rows.append(row - np.log(np.exp(row - row.max()).sum()) - row.max())
            mixed = rows[1] + scale * (rows[0] - rows[1])
            mixed[list(model.vocab.ends)] = -np.inf
            made.append(int(mixed.argmax()))
    return made


def guided(
    context: Context, ids: list[int], negative: list[int], scale: float, count: int, **sampling: Any
) -> tuple[list[int], GenerationStats]:
    guidance = Guidance(context, scale)
    guidance.prompt(negative)
    sampler = Sampler(context.model, SamplingParams(**{"temp": 0, "ignore_eos": True, **sampling}), context.n_ctx)
    stats = GenerationStats()
    made = list(generate(context, sampler, ids, limit=count, stats=stats, guidance=guidance))
    sampler.close()
    return made, stats


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0, 6.0, -0.5])
def test_as_two_contexts_and_numpy(twofold: Context, demo_model: Model, scale: float) -> None:
    # In the middle of nothing in particular, so that there is something to decide.
    ids, negative = ids_of(demo_model, "[INST] 月"), ids_of(demo_model, "[INST] 背一下春晓 [/INST] 春眠")
    made, stats = guided(twofold, ids, negative, scale, 40)
    assert made == by_hand(demo_model, ids, negative, scale, 40)
    assert stats.tokens == 40 and stats.reason is StopReason.LENGTH
    assert (made == by_hand(demo_model, ids, negative, 1.0, 40)) == (scale == 1.0)


def test_the_distribution_that_is_sampled(twofold: Context, demo_model: Model) -> None:
    """The logits handed to the sampler are the mixed logarithms of probabilities themselves."""
    ids, negative = ids_of(demo_model, QUESTION), ids_of(demo_model, "[INST] 背一下春晓 [/INST]")
    guidance = Guidance(twofold, 2.0)
    guidance.prompt(negative)
    guidance.begin()
    twofold.feed(ids)
    one = logits(twofold)
    guidance.mix()
    mixed = logits(twofold)
    with Context(demo_model, ContextParams(n_ctx=512, threads=1)) as other:
        other.feed(negative)
        away = logits(other)
    for row in (one, away):
        row -= np.log(np.exp(row - row.max()).sum()) + row.max()
    assert np.allclose(mixed, away + 2.0 * (one - away), atol=1e-4)
    assert np.abs(mixed - one).max() > 1


def test_what_is_held_is_used_again(twofold: Context, demo_model: Model) -> None:
    ids, negative = ids_of(demo_model, QUESTION), ids_of(demo_model, "[INST] 背一下春晓 [/INST]")
    guidance = Guidance(twofold, 2.0)
    results = []
    for _ in range(2):
        guidance.prompt(negative)
        sampler, stats = Sampler(demo_model, ENDLESS, 512), GenerationStats()
        results.append(list(generate(twofold, sampler, ids, limit=20, stats=stats, guidance=guidance)))
        sampler.close()
    assert results[0] == results[1] and stats.decoded_prompt_tokens == 1


FORMATS: dict[str, Callable[[Model], Format]] = {
    "a style": lambda model: StylePrompt(model.vocab, styles.STYLES["alpaca-2"]),
    "a style without a system prompt": lambda model: StylePrompt(model.vocab, styles.STYLES["atom"]),
    "a template": lambda model: TemplatePrompt(
        model.vocab, ChatTemplate("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]")
    ),
    "affixes": lambda model: AffixPrompt(model.vocab, prefix=" [INST] ", suffix=" [/INST]", prefix_bos=True),
}


def listen(session: Session, question: str) -> Done:
    *_, done = session.ask(question)
    assert isinstance(done, Done)
    return done


@pytest.mark.parametrize("name", FORMATS)
def test_a_conversation(twofold: Context, demo_model: Model, name: str) -> None:
    """Turns, what is taken back, answered anew and loaded: each answer is the one of two contexts."""
    format = FORMATS[name](demo_model)
    negative = Negative(Guidance(twofold, 1.8), demo_model.vocab, "你是一个坏诗人。")
    session = Session(twofold, format, ENDLESS, system="Be kind.", limit=16, negative=negative)

    def check(done: Done) -> None:
        other = list(negative._asked.ids)
        ids = session.ids[: len(session.ids) - len(done.generated)]
        assert list(done.generated) == by_hand(demo_model, ids, other, 1.8, 16)
        texts = [b"".join(map(demo_model.vocab.piece, side)).decode() for side in (ids, other)]
        assert "坏诗人" in texts[1] and "坏诗人" not in texts[0]
        assert all(word.user in text for word in session.past for text in texts)

    check(listen(session, "背一下静夜思"))
    check(listen(session, "作者是谁？"))
    (first, second), ids = session.past, session.ids
    *_, done = session.again()
    assert isinstance(done, Done)
    check(done)
    session.undo()
    check(listen(session, "背一下春晓"))
    # As a loaded session has it: the words come from elsewhere.
    session.past[:], session.ids[:] = [first, second], ids
    check(listen(session, "他是哪个朝代的？"))


def test_a_text_that_is_continued(twofold: Context, demo_model: Model) -> None:
    negative = Negative(Guidance(twofold, 2.5), demo_model.vocab, "春眠不觉")
    session = Session(twofold, PlainPrompt(demo_model.vocab), ENDLESS, limit=20, negative=negative)
    *_, done = session.open("床前明月")
    assert isinstance(done, Done)
    wanted = by_hand(demo_model, ids_of(demo_model, "床前明月"), ids_of(demo_model, "春眠不觉"), 2.5, 20)
    assert list(done.generated) == wanted


def test_no_negative_prompt_is_the_last_token(twofold: Context, demo_model: Model) -> None:
    negative = Negative(Guidance(twofold, 1.5), demo_model.vocab, None)
    session = Session(twofold, FORMATS["a style"](demo_model), ENDLESS, limit=16, negative=negative)
    for question in ("背一下静夜思", "作者是谁？"):
        done = listen(session, question)
        ids = session.ids[:-16]
        assert list(done.generated) == by_hand(demo_model, ids, ids[-1:], 1.5, 16)


def test_both_sides_forget_when_they_are_full(demo_model: Model) -> None:
    params = ContextParams(n_ctx=256, threads=1, sequences=2, separate=True, outputs=2)
    with Context(demo_model, params) as context:
        negative = Negative(Guidance(context, 1.3), demo_model.vocab, "你是一个坏诗人。" * 4)
        format = StylePrompt(demo_model.vocab, styles.STYLES["alpaca-2"])
        sampling = SamplingParams(temp=0, ignore_eos=True, repeat_penalty=1.3)
        session = Session(context, format, sampling, system="Be kind.", limit=90, shift=True, negative=negative)
        head = format.turn([], [], "你是一个坏诗人。" * 4, "A").ids[:20]
        shifts = 0
        for number in range(8):
            done = listen(session, f"背一下春晓{number}")
            shifts += len(negative.guidance.shifts)
            assert done.stats.tokens == 90
            other = negative.guidance._other
            assert list(other.held)[:20] == head and list(other.held) == negative._ids[: len(other.held)]
            assert list(context.held) == session.ids[: len(context.held)]
            memory = context.memory
            for number, sequence in enumerate((context, other)):
                assert llama().llama_memory_seq_pos_min(memory, number) == 0
                assert llama().llama_memory_seq_pos_max(memory, number) == len(sequence.held) - 1
        assert shifts >= 3


def test_a_full_context_is_the_end_without_a_shift(demo_model: Model) -> None:
    params = ContextParams(n_ctx=256, threads=1, sequences=2, separate=True, outputs=2)
    with Context(demo_model, params) as context:
        made, stats = guided(context, ids_of(demo_model, "春"), ids_of(demo_model, "床" * 150), 1.5, -1)
        assert stats.reason is StopReason.FULL and len(made) == 256 - len(ids_of(demo_model, "床" * 150))


def test_scales_that_are_none() -> None:
    for wrong in (float("nan"), float("inf"), 1e9):
        with pytest.raises(UsageError):
            Guidance(None, wrong)  # type: ignore[arg-type]


CASES: list[tuple[str, str | None, float]] = [
    (QUESTION, "[INST] 背一下春晓 [/INST]", 1.5),
    (QUESTION, "[INST] 背一下春晓 [/INST] 春眠不觉晓", 3.0),
    ("床前明月", None, 1.2),
    ("[INST] 作者是谁？ [/INST]", "床前明月光，", 2.0),
]


def cases(model: Model) -> list[dict[str, Any]]:
    return [
        {
            "ids": ids_of(model, text),
            "negative": None if negative is None else ids_of(model, negative),
            "scale": scale,
            "count": 24,
        }
        for text, negative, scale in CASES
    ]


@pytest.fixture(scope="module")
def plain_model(demo_gguf: Callable[[str], Path]) -> Iterator[Model]:
    with Model(ModelParams(demo_gguf("f16"))) as model:
        yield model


def test_as_transformers_has_it(plain_model: Model) -> None:
    golden = json.loads((chat_oracle.GOLDEN / "guidance.json").read_text())
    params = ContextParams(n_ctx=256, threads=1, sequences=2, separate=True, outputs=2)
    for case, wanted in zip(cases(plain_model), golden, strict=True):
        with Context(plain_model, params) as context:
            other = case["ids"][-1:] if case["negative"] is None else case["negative"]
            made, _ = guided(context, case["ids"], other, case["scale"], 24, ignore_eos=False)
        # Ours ends where the model ends its text.
        assert made == wanted[: len(made)] and (len(made) == 24 or made[-1] == plain_model.vocab.eos)


def test_as_transformers_has_it_today(plain_model: Model, oracle: Oracle, record: Path | None) -> None:
    result = subprocess.run(
        [str(oracle.python), guidance_oracle.__file__, str(DEMO)],
        input=json.dumps(cases(plain_model)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    if record is not None:
        (record / "guidance.json").write_text(result.stdout, encoding="utf-8")
    assert json.loads(result.stdout) == json.loads((chat_oracle.GOLDEN / "guidance.json").read_text())


def test_python_of_this_test_needs_no_torch() -> None:
    assert "torch" not in sys.modules
