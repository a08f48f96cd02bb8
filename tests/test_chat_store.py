"""Sessions in files: what comes back, what is computed again, and what is refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ggufrun.chat import store
from ggufrun.chat.export import export
from ggufrun.chat.formats import styles
from ggufrun.chat.formats.choose_format import FormatOptions, choose
from ggufrun.chat.formats.prompt import AffixPrompt, Format, StylePrompt
from ggufrun.chat.session import Done, Session
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.model import Model, ModelParams
from ggufrun.engine.sampling.sampler import SamplingParams
from ggufrun.engine.state import MAGIC, load_state, save_state
from ggufrun.errors import FormatError, GgufrunError, NotFoundError, TargetError, UsageError

GREEDY = SamplingParams(temp=0)
LATER = "这首诗是谁写的？"


def style_of(context: Context, name: str = "alpaca-2") -> Format:
    return StylePrompt(context.model.vocab, styles.STYLES[name])


def template_of(context: Context) -> Format:
    return choose(context.model, FormatOptions()).format


def affixes_of(context: Context) -> Format:
    return AffixPrompt(context.model.vocab, prefix=" [INST] ", suffix=" [/INST]", prefix_bos=True)


def ask(session: Session, text: str) -> tuple[str, Done]:
    *_, done = list(session.ask(text))
    assert isinstance(done, Done)
    return session.past[-1].answer, done


def fresh(model: Model, make: Callable[[Context], Format] = style_of, n_ctx: int = 512) -> Session:
    return Session(
        Context(model, ContextParams(n_ctx=n_ctx, threads=1)), make(model_context(model)), GREEDY, system="s"
    )


def model_context(model: Model) -> Any:
    class Holder:
        pass

    holder = Holder()
    holder.model = model  # type: ignore[attr-defined]
    return holder


@pytest.mark.parametrize("make", [style_of, template_of, affixes_of])
def test_a_session_goes_on_where_it_stood(demo_model: Model, tmp_path: Path, make: Callable[[Context], Format]) -> None:
    path = tmp_path / "talk.json"
    session, again = fresh(demo_model, make), fresh(demo_model, make)
    ask(session, "背一下静夜思")
    store.save(session, path)
    loaded = store.load(again, path)
    assert (again.past, again.ids, again.system) == (session.past, session.ids, session.system)
    assert (loaded.turns, loaded.tokens, loaded.note) == (1, len(session.context.held), "")
    wanted, first = ask(session, LATER)
    found, second = ask(again, LATER)
    assert found == wanted and "李白" in found
    # Only the new tokens were decoded, as if the program had never ended.
    assert second.stats.decoded_prompt_tokens == first.stats.decoded_prompt_tokens < len(second.new_ids) + 2
    assert again.undo() is not None and again.undo() is not None and again.ids == []


def test_another_model_reads_the_words(demo_model: Model, tmp_path: Path, demo_gguf: Callable[[str], Path]) -> None:
    path = tmp_path / "talk.json"
    session = fresh(demo_model)
    ask(session, "背一下静夜思")
    store.save(session, path)
    with Model(ModelParams(demo_gguf("f16"))) as other:
        again = fresh(other, template_of)
        loaded = store.load(again, path)
        assert (loaded.turns, loaded.tokens) == (1, 0) and "another model" in loaded.note
        assert "李白" in ask(again, LATER)[0]
        again.context.close()


def test_other_settings_compute_anew(demo_model: Model, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    session = fresh(demo_model)
    ask(session, "背一下静夜思")
    store.save(session, path)
    quantized = ContextParams(n_ctx=512, threads=1, type_k="q8_0")
    for params, format, system in (
        (quantized, "alpaca-2", None),
        (ContextParams(n_ctx=512, threads=1), "alpaca", None),
        (ContextParams(n_ctx=512, threads=1), "alpaca-2", "other"),
    ):
        with Context(demo_model, params) as context:
            again = Session(context, style_of(context, format), GREEDY, system="s")
            assert store.load(again, path, system, adopt=False).tokens == 0
            assert again.system == (system or "s") and list(context.held) == []
            assert ask(again, LATER)[0]


def test_a_shorter_context_takes_no_longer_state(demo_model: Model, tmp_path: Path) -> None:
    session = fresh(demo_model)
    for _ in range(6):
        ask(session, "背一下静夜思")
    assert len(session.ids) > 256
    path = tmp_path / "talk.json"
    store.save(session, path)
    small = fresh(demo_model, n_ctx=256)
    loaded = store.load(small, path)
    assert loaded.tokens == 0 and loaded.turns == 6 and list(small.context.held) == []


def damage_state(kind: str, data: bytes) -> bytes:
    half = len(data) // 2
    return {
        "cut": data[:half],
        "flipped": data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :],
        "first": b"x" + data[1:],
        "empty": b"",
        "junk": b"junk" * 5000,
        "only a seal": MAGIC,
        "long seal": b"a" * 64 + struct.pack("<I", 2**31) + MAGIC,
        "no json": b"a" * 64 + struct.pack("<I", 8) + MAGIC,
    }[kind]


@pytest.mark.parametrize("kind", ["cut", "flipped", "first", "empty", "junk", "only a seal", "long seal", "no json"])
def test_a_damaged_state_is_computed_anew(demo_model: Model, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "talk.json"
    session, again = fresh(demo_model), fresh(demo_model)
    ask(session, "背一下静夜思")
    store.save(session, path)
    state = store.state_path(path)
    state.write_bytes(damage_state(kind, state.read_bytes()))
    loaded = store.load(again, path)
    assert loaded.tokens == 0 and "computed again" in loaded.note
    assert ask(again, LATER)[0] == ask(session, LATER)[0]
    state.unlink()
    assert "missing" in store.load(fresh(demo_model), path).note


BAD: list[Callable[[dict[str, Any]], object]] = [
    lambda v: v.pop("ids"),
    lambda v: v.update(ids=[1, "2"]),
    lambda v: v.update(ids=[10**9]),
    lambda v: v.update(ids=[-1]),
    lambda v: v.update(turns=[1]),
    lambda v: v.update(turns={}),
    lambda v: v.update(system=None),
    lambda v: v["turns"][0].update(user=1),
    lambda v: v["turns"][0].update(lost=["a"]),
    lambda v: v["turns"][0].update(lost=[10**6]),
    lambda v: v["turns"][0].update(lost=[-1]),
    lambda v: v["turns"][0].update(kept=-1),
    lambda v: v["turns"][0].update(kept=True),
    lambda v: v["turns"][0].update(size=1.0),
    lambda v: v["turns"][0].update(rendered=[1, "xyz", 0]),
    lambda v: v["turns"][0].update(rendered=[1, "00", 0]),
    lambda v: v["turns"][0].update(rendered=[1, "00" * 16, 7]),
    lambda v: v["turns"][0].update(thought=[2, 1], after=[9, "00" * 16]),
    lambda v: v["turns"][0].update(thought=[2, 10], after=[9, "00" * 16]),
    lambda v: v.update(placed=3),
    lambda v: v.update(placed=[-1]),
    lambda v: v.update({"ggufrun session": 0}),
    lambda v: v.update({"ggufrun session": 1}),
    lambda v: v.update({"ggufrun session": True}),
    lambda v: v["sampling"].update(samplers={}),
    lambda v: v["sampling"].update(samplers=[1]),
    lambda v: v["sampling"].update(seed=1.5),
    lambda v: v["sampling"].update(temp=True),
    lambda v: v["sampling"].update(ignore_eos=1),
    lambda v: v["sampling"].update(logit_bias=[[1.5, 1.0]]),
    lambda v: v["sampling"].update(logit_bias=[1]),
    lambda v: v["sampling"].update(logit_bias="x"),
    lambda v: v["sampling"].update(grammar=None),
    lambda v: v["sampling"].update(dry_breakers="x"),
]


@pytest.mark.parametrize("change", BAD)
def test_what_is_no_session(demo_model: Model, tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = tmp_path / "talk.json"
    session = fresh(demo_model)
    ask(session, "背一下静夜思")
    store.save(session, path)
    value = json.loads(path.read_bytes())
    change(value)
    path.write_text(json.dumps(value))
    with pytest.raises(FormatError, match="not a session"):
        store.load(session, path)


def test_files_that_cannot_be(demo_model: Model, tmp_path: Path) -> None:
    session = fresh(demo_model)
    for data in (b"", b"[]", b"\xff\xfe", b"[" * 100000):
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(FormatError, match="not a session"):
            store.load(session, tmp_path / "bad")
    with pytest.raises(NotFoundError):
        store.load(session, tmp_path / "none")
    with pytest.raises(FormatError, match="is a folder"):
        store.load(session, tmp_path)
    for call in (store.save, export):
        with pytest.raises(TargetError):
            call(session, tmp_path / "no" / "such.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad"]


def test_words_come_first_and_files_are_whole(
    demo_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended between the two files: the older state serves as far as it goes."""
    path = tmp_path / "talk.json"
    session, again = fresh(demo_model), fresh(demo_model)
    ask(session, "背一下静夜思")
    store.save(session, path)
    held = len(session.context.held)
    ask(session, LATER)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "save_state", die)
        store.save(session, path)
    loaded = store.load(again, path)
    assert (loaded.turns, loaded.tokens, loaded.note) == (2, held, "")
    assert again.ids == session.ids
    assert ask(again, LATER)[0] == ask(session, LATER)[0]
    assert path.stat().st_mode & 0o077 == store.state_path(path).stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["talk.json", "talk.json.state"]


def test_a_large_state_waits_for_the_end(demo_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "CHEAP", 10)
    session = fresh(demo_model)
    ask(session, "背一下静夜思")
    store.save(session, tmp_path / "a.json", always=False)
    assert not (tmp_path / "a.json.state").exists()
    store.save(session, tmp_path / "a.json")
    assert (tmp_path / "a.json.state").exists()


def test_an_empty_session(demo_model: Model, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    store.save(fresh(demo_model), path)
    assert store.load(fresh(demo_model), path).turns == 0


def test_state_alone(demo_model: Model, tmp_path: Path) -> None:
    one, two = (Context(demo_model, ContextParams(n_ctx=256, threads=1)) for _ in range(2))
    ids = demo_model.vocab.tokenize("床前明月光", special=False, bos=True)
    one.feed(ids)
    save_state(one, tmp_path / "s")
    assert load_state(two, tmp_path / "s") == len(ids) and list(two.held) == ids
    # No logits came with it: the last token is decoded again.
    assert not two.ready and two.feed(ids) == 1


def test_export(demo_model: Model, tmp_path: Path) -> None:
    session = fresh(demo_model)
    answer, _ = ask(session, "背一下静夜思")
    export(session, tmp_path / "talk.json")
    assert json.loads((tmp_path / "talk.json").read_bytes()) == {
        "model": demo_model.name,
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "背一下静夜思"},
            {"role": "assistant", "content": answer},
        ],
    }
    export(session, tmp_path / "talk.md")
    text = (tmp_path / "talk.md").read_text("utf-8")
    assert text == f"# {demo_model.name}\n\n> *s*\n\n> 背一下静夜思\n\n{answer}\n"
    with pytest.raises(UsageError):
        export(session, tmp_path / "talk.pdf")
    assert issubclass(UsageError, GgufrunError)


def test_a_session_brings_its_format_and_settings(demo_model: Model, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    session = fresh(demo_model, affixes_of)
    session.sampling = SamplingParams(temp=0, top_k=7, samplers=("top_k", "temperature"), logit_bias=((5, -1.5),))
    session.limit = 9
    ask(session, "背一下静夜思")
    for make in (affixes_of, template_of, style_of):
        session.use(make(session.context))
        ask(session, "背一下静夜思")
        store.save(session, path)
        again = fresh(demo_model, template_of)
        loaded = store.load(again, path)
        assert again.format.key == session.format.key
        assert (loaded.sampling, loaded.limit) == (session.sampling, 9)
        assert loaded.tokens and again.ids == session.ids
        # Flags of the command line come first.
        kept = fresh(demo_model, lambda context: style_of(context, "alpaca"))
        loaded = store.load(kept, path, adopt=False)
        assert kept.format.key == ["style", "alpaca"] and loaded.tokens == 0
    # An older file tells nothing of it.
    value = json.loads(path.read_bytes())
    for name in ("prompt", "sampling", "limit"):
        del value[name]
    path.write_text(json.dumps(value))
    loaded = store.load(again, path)
    assert loaded.sampling is None and loaded.turns == 1


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("prompt", []),
        ("prompt", {"style": "alpaca"}),
        ("prompt", {"affixes": 5, "stops": []}),
        ("prompt", {"template": 5, "variables": {}, "stops": []}),
        ("sampling", {"temp": "hot"}),
        ("sampling", {"top_p": 7}),
        ("sampling", 5),
    ],
)
def test_settings_that_are_none(demo_model: Model, tmp_path: Path, name: str, wrong: object) -> None:
    path = tmp_path / "talk.json"
    store.save(fresh(demo_model), path)
    value = json.loads(path.read_bytes())
    path.write_text(json.dumps({**value, name: wrong}))
    with pytest.raises(FormatError, match="damaged"):
        store.load(fresh(demo_model), path)


def test_a_state_that_cannot_be_written(demo_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words are there all the same, and the message says so."""

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "save_state", full)
    session = fresh(demo_model)
    ask(session, "背一下静夜思")
    with pytest.raises(TargetError, match=r"the words are saved in .*talk.json.*: No space left on device"):
        store.save(session, tmp_path / "talk.json")
    assert store.load(fresh(demo_model), tmp_path / "talk.json").turns == 1
