"""``convert --vocab-only`` and ``--chat-template``: what of a GGUF the tokenizer files and the user decide."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import gguf
import pytest

from ggufrun.convert import pipeline
from ggufrun.convert.plan import Wishes, plan_convert, plan_vocabulary
from tests.conftest import Oracle
from tests.support.checkpoints import DEMO
from tests.test_cli_convert import fails, ggufrun

GOLDEN = Path(__file__).parent / "golden" / "convert.json"


@pytest.fixture
def weightless(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO, tmp_path / DEMO.name, ignore=shutil.ignore_patterns("*.safetensors")))


def vocabulary(folder: Path, out: Path, wishes: Wishes | None = None) -> Path:
    plan = plan_vocabulary(folder, out, wishes or Wishes())
    pipeline.run(plan)
    plan.close()
    return out


def templates(path: Path) -> dict[str, object]:
    fields = gguf.GGUFReader(path).fields
    return {key: field.contents() for key, field in fields.items() if "chat_template" in key}


@pytest.mark.parametrize("weights", [True, False])
def test_the_converters_file(tmp_path: Path, weightless: Path, weights: bool) -> None:
    out = vocabulary(DEMO if weights else weightless, tmp_path / "v.gguf")
    recorded = json.loads(GOLDEN.read_text())["sha256"]["tang-poet --vocab-only"]
    assert hashlib.sha256(out.read_bytes()).hexdigest() == recorded


def test_the_converters_file_afresh(oracle: Oracle, tmp_path: Path, record: Path | None) -> None:
    theirs = tmp_path / "theirs.gguf"
    oracle.run(oracle.python, oracle.convert, DEMO, "--vocab-only", "--outtype", "f16", "--outfile", theirs)
    if record is not None:
        golden = json.loads(GOLDEN.read_text())
        golden["sha256"]["tang-poet --vocab-only"] = hashlib.sha256(theirs.read_bytes()).hexdigest()
        GOLDEN.write_text(json.dumps(golden, indent=2) + "\n")
    assert vocabulary(DEMO, tmp_path / "ours.gguf").read_bytes() == theirs.read_bytes()


def test_a_template_in_place_of_several(tmp_path: Path, weightless: Path) -> None:
    settings = json.loads((weightless / "tokenizer_config.json").read_text())
    named = [{"name": name, "template": name} for name in ("default", "tool use")]
    (weightless / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": named}))
    before = templates(vocabulary(weightless, tmp_path / "before.gguf"))
    assert before["tokenizer.chat_template"] == "default"
    assert "tokenizer.chat_template.tool_use" in before
    after = templates(vocabulary(weightless, tmp_path / "after.gguf", Wishes(template="{{ 'mine' }}")))
    assert after == {"tokenizer.chat_template": "{{ 'mine' }}"}


def test_a_template_in_a_whole_model(tmp_path: Path) -> None:
    plan = plan_convert(DEMO, (), lambda kind: tmp_path / "m.gguf", wishes=Wishes(template="诗"))
    pipeline.run(plan)
    plan.close()
    assert templates(tmp_path / "m.gguf") == {"tokenizer.chat_template": "诗"}


def test_on_the_command_line(tmp_path: Path, weightless: Path) -> None:
    (tmp_path / "t.jinja").write_text("{{ '床前明月光' }}")
    result = ggufrun("convert", weightless, "--vocab-only", "--chat-template", tmp_path / "t.jinja", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "tang-poet-vocab.gguf\n"
    assert "no tensors" in result.stderr
    assert templates(tmp_path / "tang-poet-vocab.gguf") == {"tokenizer.chat_template": "{{ '床前明月光' }}"}


def test_what_is_refused(tmp_path: Path, weightless: Path) -> None:
    bad = tmp_path / "bad.jinja"
    bad.write_text("a\n{% if x %}")
    fails(ggufrun("convert", weightless, "--vocab-only", "--chat-template", bad), "bad.jinja: .* in line 2")
    bad.write_bytes(b"\xff\xfe")
    fails(ggufrun("convert", DEMO, "--dry-run", "--chat-template", bad), "not UTF-8 text")
    fails(ggufrun("convert", DEMO, "--dry-run", "--chat-template", tmp_path / "none"), "no such file")
    fails(ggufrun("convert", DEMO, "--vocab-only", "-t", "q8_0"), "--vocab-only goes without -t", status=2)
    fails(ggufrun("convert", weightless, "-o", tmp_path / "x.gguf"), "holds no model")
    assert not (tmp_path / "x.gguf").exists()
