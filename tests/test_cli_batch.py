"""``chat --file LIST --output PATH``: the file of answers, resumed, in order, whatever happens."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ggufrun.cli import app
from ggufrun.cli.talk import answer_list
from ggufrun.cli.terminal import console
from tests.support.poems import POEMS

TITLES = list(POEMS)[:5]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def model(demo_gguf: Callable[[str], Path]) -> str:
    return str(demo_gguf("q8_0"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], model: str) -> Run:
    def call(*args: object, path: str = model, together: int = 3) -> tuple[int, str, str]:
        console.err.cache_clear()
        flags = ["--temp", "0", "-t", "1", "-np", str(together)]
        monkeypatch.setattr(sys, "argv", ["ggufrun", "chat", path, *map(str, args), *flags])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
        with pytest.raises(SystemExit) as exit:
            app.main()
        assert isinstance(exit.value.code, int)
        return (exit.value.code, *capfd.readouterr())

    return call


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "list.txt"
    path.write_text("".join(f"背一下{title}\n" for title in TITLES), encoding="utf-8")
    return path


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_answers_in_order(run: Run, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    status, stdout, stderr = run("--file", questions, "--output", out)
    assert (status, stdout) == (0, "") and "5 answers" in stderr
    assert [record["index"] for record in records(out)] == list(range(5))
    assert [record["output"] for record in records(out)] == [POEMS[title] for title in TITLES]
    assert records(out)[0]["input"] == f"背一下{TITLES[0]}" and records(out)[0]["reason"] == "end of text"
    whole = tmp_path / "out.json"
    assert run("--file", questions, "--output", whole)[0] == 0
    assert json.loads(whole.read_bytes()) == records(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.txt", "out.json", "out.jsonl"]
    for path in (out, whole):
        status, _, stderr = run("--file", questions, "--output", path)
        assert status == 0 and "answered already" in stderr


def test_what_is_there_is_not_asked_again(run: Run, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert run("--file", questions, "--output", out)[0] == 0
    before = records(out)
    marked = [record | {"output": "kept"} for record in before]
    # Out of order, one failed, one missing, the last line cut: what an interrupted run can leave.
    failed = {"index": 1, "input": before[1]["input"], "error": "e", "model": before[1]["model"]}
    lines = [json.dumps(record, ensure_ascii=False) for record in (marked[3], marked[0], failed, marked[2])]
    out.write_text("\n".join([*lines, '{"index": 4, "inp']), encoding="utf-8")
    status, _, stderr = run("--file", questions, "--output", out)
    assert status == 0 and "3 of 5" in stderr
    outputs = [record["output"] for record in records(out)]
    assert outputs == ["kept", POEMS[TITLES[1]], "kept", "kept", POEMS[TITLES[4]]]


def test_ctrl_c_keeps_what_is_finished(
    run: Run, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = answer_list.Answers.add

    def press(self: answer_list.Answers, result: Any) -> None:
        add(self, result)
        if len(self.records) == 2:
            # On the disk at once, not only at the end.
            assert len(records(self.journal)) == 2
            signal.raise_signal(signal.SIGINT)

    for name in ("out.jsonl", "out.json"):
        out = tmp_path / name
        monkeypatch.setattr(answer_list.Answers, "add", press)
        status, _, stderr = run("--file", questions, "--output", out)
        assert status == 130 and "interrupted" in stderr
        monkeypatch.setattr(answer_list.Answers, "add", add)
        assert not (tmp_path / "out.json").exists()
        status, _, stderr = run("--file", questions, "--output", out)
        assert status == 0 and "2 of 5" in stderr
    assert [record["output"] for record in records(tmp_path / "out.jsonl")] == [POEMS[title] for title in TITLES]
    assert json.loads((tmp_path / "out.json").read_bytes()) == records(tmp_path / "out.jsonl")


def test_a_bad_item_does_not_end_the_work(run: Run, questions: Path, tmp_path: Path) -> None:
    lines = questions.read_text("utf-8").splitlines()
    questions.write_text("\n".join([lines[0], '{"messages": 1}', "春" * 900, lines[1]]), encoding="utf-8")
    out = tmp_path / "out.jsonl"
    status, _, stderr = run("--file", questions, "--output", out, "-c", "256")
    assert status == 1 and "2 of 4 items have no answer" in stderr
    found = records(out)
    assert [record.get("output") for record in found] == [POEMS[TITLES[0]], None, None, POEMS[TITLES[1]]]
    assert "messages" in found[1]["error"] and "256" in found[2]["error"]


@pytest.mark.parametrize("flags", [["--lookup"], ["-md", "q4_k_m"], ["--cfg-scale", "3", "--cfg-negative-prompt", "x"]])
def test_one_after_another(
    run: Run, tmp_path: Path, demo_gguf: Callable[[str], Path], model: str, flags: list[str]
) -> None:
    """What guesses ahead, or leads away from something, holds one conversation: each answer is what it gives alone."""
    flags = [str(demo_gguf(flag)) if flag == "q4_k_m" else flag for flag in flags]
    turns = [("user", "背一下静夜思"), ("assistant", POEMS["静夜思"]), ("user", "这首诗是谁写的？")]
    items = [
        {"instruction": "背一下登鹳雀楼"},
        {"messages": [{"role": role, "content": text} for role, text in turns]},
        {"nothing": 1},
        {"instruction": "作者是谁？", "system": "你是诗人"},
    ]
    path, out = tmp_path / "list.jsonl", tmp_path / "out.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    assert run("--file", path, "--output", out, *flags)[0] == 2
    status, _, stderr = run("--file", path, "--output", out, *flags, together=1)
    assert status == 1 and "1 of 4 items have no answer" in stderr
    found = [record.get("output") for record in records(out)]
    assert found[2] is None
    assert found[0] == run("背一下登鹳雀楼", *flags)[1].rstrip("\n")
    assert found[3] == run("作者是谁？", "-sys", "你是诗人", *flags)[1].rstrip("\n")
    assert found[1]
    if "--cfg-scale" not in flags:
        assert found[0] == POEMS["登鹳雀楼"] and "李白" in str(found[1])


def test_refusals(run: Run, questions: Path, tmp_path: Path, demo_gguf: Callable[[str], Path]) -> None:
    out, empty = tmp_path / "out.jsonl", tmp_path / "empty.txt"
    empty.write_text("\n \n")
    cases: list[tuple[tuple[object, ...], int, str]] = [
        (("--file", questions), 2, "belong together"),
        (("--output", out), 2, "belong together"),
        (("--file", questions, "--output", tmp_path / "out.txt"), 2, ".jsonl"),
        (("--file", questions, "--output", tmp_path / "no" / "out.json"), 1, "cannot be written"),
        (("--file", tmp_path / "no.txt", "--output", out), 1, "no such file"),
        (("--file", empty, "--output", out), 1, "no instruction"),
        (("--file", questions, "--output", out, "-p", "x"), 2, "holds the messages"),
        (("hello", "--file", questions, "--output", out), 2, "holds the messages"),
    ]
    for args, status, words in cases:
        found, _, stderr = run(*args)
        assert (found, stderr.count("\n")) == (status, 1) and words in stderr, args
        assert not out.exists()
    assert run("--file", questions, "--output", out)[0] == 0
    kept = out.read_bytes()
    other = tmp_path / "other.txt"
    other.write_text("hello\n")
    for args, path, words in (
        (("--file", other), str(demo_gguf("q8_0")), "answers another list"),
        (("--file", questions), str(demo_gguf("f16")), "answers of q8_0.gguf"),
    ):
        status, _, stderr = run(*args, "--output", out, path=path)
        assert status == 1 and words in stderr and out.read_bytes() == kept
    for junk in (b"hello\n", b"[1, 2]", b"{}\n"):
        out.write_bytes(junk)
        status, _, stderr = run("--file", questions, "--output", out)
        assert status == 1 and "not a file of answers" in stderr and out.read_bytes() == junk


def test_how_many_at_once() -> None:
    assert answer_list.check_sequences(None) == answer_list.SEQUENCES and answer_list.check_sequences(3) == 3
    for count in (0, -1, 257):
        with pytest.raises(Exception, match="-np"):
            answer_list.check_sequences(count)


def test_reasoning_is_no_part_of_an_answer(run: Run, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    grammar = 'root ::= "<think>\\nhm\\n</think>\\n\\n你好"'
    assert run("--file", questions, "--output", out, "--style", "alpaca-2", "--grammar", grammar)[0] == 0
    records = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert records and all((record["output"], record["reasoning"]) == ("你好", "hm") for record in records)
