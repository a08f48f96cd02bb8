"""Several texts continued together come out as one after another."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from ggufrun.engine.batch import Batch, Task
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.generate import GenerationStats, StopReason, generate
from ggufrun.engine.model import Model
from ggufrun.engine.sampling.sampler import Sampler, SamplingParams
from tests.support.poems import POEMS

GREEDY = SamplingParams(temp=0)
TITLES = list(POEMS)[:12]


def prompts(model: Model) -> list[list[int]]:
    return [model.vocab.tokenize(f"[INST] 背一下{title} [/INST]", special=False, bos=True) for title in TITLES]


def alone(
    model: Model, ids: list[int], sampling: SamplingParams, limit: int, n_ctx: int
) -> tuple[list[int], StopReason]:
    """The truth: the text by itself, in a context of its own."""
    with Context(model, ContextParams(n_ctx=n_ctx, threads=1)) as context:
        sampler, stats = Sampler(model, sampling, n_ctx), GenerationStats()
        sampler.accept(ids)
        found = list(generate(context, sampler, ids, limit=limit, stats=stats))
        sampler.close()
    return found, stats.reason


@pytest.fixture
def batch_of(demo_model: Model) -> Iterator[Callable[..., Batch]]:
    made: list[Context] = []

    def make(sequences: int, n_ctx: int, n_batch: int = 2048, separate: bool = False) -> Batch:
        params = ContextParams(
            n_ctx=n_ctx, threads=1, n_batch=n_batch, outputs=sequences, sequences=sequences, separate=separate
        )
        made.append(Context(demo_model, params))
        return Batch(made[-1])

    yield make
    for context in made:
        context.close()


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize(
    ("sequences", "n_ctx", "n_batch", "sampling"),
    [
        (5, 1024, 2048, GREEDY),
        # Prompts in pieces, beside the single tokens of others.
        (4, 1024, 16, GREEDY),
        # Room for two texts and a half: sequences are put off and come back.
        (8, 256, 64, SamplingParams(temp=0, repeat_penalty=1.1)),
        (1, 256, 64, GREEDY),
        (6, 1024, 2048, SamplingParams(temp=0.3, seed=7)),
    ],
)
def test_the_same_as_one_after_another(
    demo_model: Model,
    batch_of: Callable[..., Batch],
    sequences: int,
    n_ctx: int,
    n_batch: int,
    sampling: SamplingParams,
    separate: bool,
) -> None:
    wanted = [alone(demo_model, ids, sampling, 40, 256) for ids in prompts(demo_model)]
    tasks = [Task(i, ids, sampling, lambda _: False, 40, 256) for i, ids in enumerate(prompts(demo_model))]
    done = list(batch_of(sequences, n_ctx, n_batch, separate).run(tasks))
    assert sorted(task.key for task in done) == list(range(len(TITLES)))
    assert [(task.generated, task.reason) for task in tasks] == wanted


def test_sequences_are_put_off_when_cells_run_out(
    demo_model: Model, batch_of: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = SamplingParams(temp=0, ignore_eos=True)
    batch, put_off = batch_of(4, 256), 0
    original = batch._put_off

    def count() -> None:
        nonlocal put_off
        put_off += 1
        original()

    monkeypatch.setattr(batch, "_put_off", count)
    tasks = [Task(i, ids, sampling, lambda _: False, -1, 100) for i, ids in enumerate(prompts(demo_model)[:6])]
    assert len(list(batch.run(tasks))) == 6
    assert put_off > 0
    for task in tasks:
        assert task.size == 100 and task.reason is StopReason.FULL
        assert task.generated == alone(demo_model, task.ids, sampling, -1, 256)[0][: len(task.generated)]


def test_why_a_text_ends(demo_model: Model, batch_of: Callable[..., Batch]) -> None:
    first, second, third, fourth = prompts(demo_model)[:4]
    tasks = [
        Task(0, first, GREEDY, lambda _: True, -1, 256),
        Task(1, second, GREEDY, lambda _: False, 3, 256),
        Task(2, third, GREEDY, lambda _: False, -1, len(third) + 2),
        Task(3, fourth, GREEDY, lambda _: False, 0, 256),
    ]
    list(batch_of(4, 512).run(tasks))
    assert [task.reason for task in tasks] == [StopReason.TEXT, StopReason.LENGTH, StopReason.FULL, StopReason.LENGTH]
    assert [len(task.generated) for task in tasks] == [1, 3, 2, 0]


def test_finished_tasks_come_at_once(demo_model: Model, batch_of: Callable[..., Batch]) -> None:
    """A long text does not hold a short one back, and new ones begin before it ends."""
    ids = prompts(demo_model)
    endless = SamplingParams(temp=0, ignore_eos=True)
    tasks = [Task(0, ids[0], endless, lambda _: False, 150, 256)]
    tasks += [Task(i, ids[i], GREEDY, lambda _: False, 8, 256) for i in range(1, 6)]
    assert [task.key for task in batch_of(2, 1024).run(tasks)][-1] == 0


def test_an_interruption_leaves_no_trace(demo_model: Model, batch_of: Callable[..., Batch]) -> None:
    batch = batch_of(4, 512)

    def press(_: int) -> bool:
        signal.raise_signal(signal.SIGINT)
        return False

    ids = prompts(demo_model)
    with pytest.raises(KeyboardInterrupt):
        list(batch.run([Task(0, ids[0], GREEDY, lambda _: False, 9, 99), Task(1, ids[1], GREEDY, press, 9, 99)]))
    again = Task(2, ids[2], GREEDY, lambda _: False, 40, 256)
    assert list(batch.run([again])) == [again]
    assert again.generated == alone(demo_model, ids[2], GREEDY, 40, 256)[0]


@pytest.mark.parametrize("separate", [False, True])
def test_what_texts_have_in_common_is_decoded_once(
    demo_model: Model, batch_of: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch, separate: bool
) -> None:
    head = demo_model.vocab.tokenize("You are a helpful assistant. " * 8, special=False, bos=True)
    texts = [[*head, *ids[1:]] for ids in prompts(demo_model)]
    wanted = [alone(demo_model, ids, GREEDY, 20, 256) for ids in texts]
    batch, decoded = batch_of(3, 256 if separate else 768, 64, separate), 0
    original = batch._decode

    def count(size: int, prompts: bool) -> int:
        nonlocal decoded
        decoded += size
        return original(size, prompts)

    monkeypatch.setattr(batch, "_decode", count)
    tasks = [Task(number, ids, GREEDY, lambda _: False, 20, 256) for number, ids in enumerate(texts)]
    assert len(list(batch.run(tasks))) == len(texts)
    assert [(task.generated, task.reason) for task in tasks] == wanted
    own = sum(task.size - len(head) - 1 for task in tasks)
    # Once, or once for each of the three sequences; the beginning of the questions may be the same, too.
    assert own - 8 * len(tasks) < decoded - len(head) * (3 if separate else 1) <= own


def test_a_source_that_goes_away(demo_model: Model, batch_of: Callable[..., Batch]) -> None:
    """Texts that wait for another's beginning go on by themselves when it is put off or done."""
    head = demo_model.vocab.tokenize("床前明月光，" * 12, special=False, bos=True)
    sampling = SamplingParams(temp=0, ignore_eos=True)
    texts = [[*head, *ids[1:]] for ids in prompts(demo_model)[:8]]
    tasks = [Task(number, ids, sampling, lambda _: False, 60, 200) for number, ids in enumerate(texts)]
    assert len(list(batch_of(5, 256, 16).run(tasks))) == 8
    for task in tasks:
        assert task.generated == alone(demo_model, task.ids, sampling, 60, 256)[0][: len(task.generated)]
