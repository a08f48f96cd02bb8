"""Throws JSON of wrong values at every reader of JSON: ``python -m tests.fuzz_json``, also in ``make fuzz``.

The files stay JSON, so that what reads the values is reached: see `json_mutation`. The rest is as in `fuzz`, whose
targets are used where they have JSON files; further ones are every family's config.json, conversations and what else
people hand to the program.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufrun.chat import question_list, store
from ggufrun.chat.formats.prompt import StylePrompt
from ggufrun.chat.formats.styles import STYLES
from ggufrun.chat.replay import replay
from ggufrun.chat.session import Session
from ggufrun.cli.talk.answer_list import Answers
from ggufrun.convert.describe import describe
from ggufrun.engine.sampling.grammar import check
from ggufrun.engine.sampling.params import SamplingParams
from ggufrun.engine.sampling.schema import to_grammar
from tests import families, fuzz
from tests.checkpoints import DEMO, llama_config, llama_tensors
from tests.family_cases import CASES
from tests.fuzz import CORPUS, TARGETS, Target, attempt, convert
from tests.json_mutation import mutate_header, mutate_json
from tests.test_checkpoint_meta import write_meta
from tests.test_checkpoint_quantized import write_fp8

MEMORY = 3 << 30


def inspect(folder: Path) -> None:
    """Plan, read a little of every tensor, and describe what it would become."""
    convert(folder)
    describe(folder)


def sharded(folder: Path) -> None:
    fuzz.small_llama(folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    header = (folder / "model-00001-of-00001.safetensors").read_bytes()
    names = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
    index = {name: "model-00001-of-00001.safetensors" for name in names if name != "__metadata__"}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
    )


def meta(folder: Path) -> None:
    config = llama_config(**fuzz.SMALL)
    write_meta(folder, config, llama_tensors(config))
    (folder / "tokenizer.model").write_bytes((DEMO / "tokenizer.model").read_bytes())


@contextmanager
def without_vocabulary() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        families.replace_vocabulary(patch, families.no_vocabulary)
        yield


def family(folder: Path, name: str) -> None:
    families.write(folder / "made", CASES[name])
    for path in (folder / "made").iterdir():
        path.rename(folder / path.name)


def convert_family(folder: Path) -> None:
    with without_vocabulary():
        inspect(folder)


def schema(folder: Path) -> None:
    check(to_grammar((folder / "schema.json").read_text("utf-8", "surrogateescape")))


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 20},
        "kind": {"enum": ["a", "b", 3, None, [1, {"x": 2}]]},
        "when": {"type": "string", "format": "date-time"},
        "list": {"type": "array", "items": {"$ref": "#/$defs/item"}, "minItems": 1, "maxItems": 5},
        "pair": {"type": "array", "prefixItems": [{"type": "integer"}, {"const": "x"}], "items": False},
        "other": {"anyOf": [{"type": ["number", "null"]}, {"type": "boolean"}]},
    },
    "required": ["name"],
    "additionalProperties": {"type": "integer"},
    "$defs": {"item": {"type": "object", "properties": {"next": {"$ref": "#/$defs/item"}}}},
}

QUESTIONS: list[Any] = [
    "one",
    {"instruction": "two", "input": "x", "system": "s"},
    {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ]
    },
]


def answers(folder: Path) -> None:
    items = question_list.read_items(json.dumps(QUESTIONS), document=True)
    Answers(folder / "answers.json", "m.gguf").restore(items)


def write_answers(folder: Path) -> None:
    records = [
        {"index": index, "input": given, "output": "x", "reason": "end", "tokens": 3, "model": "m.gguf"}
        for index, given in enumerate(QUESTIONS)
    ]
    (folder / "answers.json").write_text(json.dumps(records))


class StandIn:
    """A context that holds a vocabulary and computes nothing."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.n_ctx = 512
        self.held: list[int] = []

    def clear(self) -> None:
        pass


def conversation(folder: Path, model: Any) -> None:
    session = _session(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "identity", lambda context: "same")
        store.load(session, folder / "talk.json")
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(store, "save_state", lambda *_: None)
            store.save(session, folder / "again.json")
        # the next question, from what is there
        session.format.turn(session.past, session.ids, session.system, "x")
        while session.undo():
            pass


def _session(model: Any) -> Session:
    return Session(StandIn(model), StylePrompt(model.vocab, STYLES["alpaca-2"]), SamplingParams(temp=0), system="s")  # type: ignore[arg-type]


def write_talk(folder: Path, model: Any) -> None:
    session = _session(model)
    session.past, session.ids = replay(
        session.format, model.vocab, "s", [("hi", "hello"), ("a", "b"), ("c", "d")]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "identity", lambda context: "same")
        store.save(session, folder / "talk.json")


CHECKPOINTS: dict[str, Target] = {
    "llama": Target(
        fuzz.small_llama,
        inspect,
        ("config.json", "tokenizer_config.json", "generation_config.json", "model.safetensors"),
    ),
    "sharded": Target(sharded, inspect, ("model.safetensors.index.json",)),
    "meta": Target(meta, convert, ("params.json",)),
    "fp8": Target(write_fp8, inspect, ("config.json",)),
    "fp8-rows": Target(partial(write_fp8, kind="rows"), inspect, ("config.json",)),
    "tokenizer": replace(TARGETS["bpe"], read=inspect),
    "vocab-json": replace(TARGETS["vocab-merges"], names=("vocab.json", "tokenizer_config.json")),
    "tekken-json": TARGETS["tekken"],
    "lora": TARGETS["adapter"],
    **{f"family {name}": Target(partial(family, name=name), convert_family, ("config.json",)) for name in CASES},
}

PROMPTS: dict[str, Target] = {
    "schema": Target(lambda folder: (folder / "schema.json").write_text(json.dumps(SCHEMA)), schema, ("schema.json",)),
    "list": Target(
        lambda folder: (folder / "list.json").write_text(json.dumps(QUESTIONS)),
        lambda folder: question_list.read_items((folder / "list.json").read_text("utf-8"), document=True),
        ("list.json",),
    ),
    "answers": Target(write_answers, answers, ("answers.json",)),
}


def targets(model: Any = None) -> dict[str, Target]:
    """All targets by name; those that need a vocabulary only with ``model``."""
    talk = Target(partial(write_talk, model=model), partial(conversation, model=model), ("talk.json",))
    return {**CHECKPOINTS, **PROMPTS, **({} if model is None else {"session": talk})}


def change(path: Path, data: bytes, chance: random.Random) -> bytes:
    return mutate_header(data, chance) if path.suffix == ".safetensors" else mutate_json(data, chance)


def run(
    name: str, target: Target, rounds: int, seed: int, until: float | None = None, corpus: Path = CORPUS
) -> tuple[int, dict[str, str]]:
    """Mutate and read; returns the rounds done and {kept file: what went wrong}, as `fuzz.run` does."""
    chance = random.Random(f"{name} {seed}")
    findings: dict[str, str] = {}
    done = 0
    with tempfile.TemporaryDirectory(prefix="ggufrun-fuzz-") as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        target.make(folder)
        sound = {file: (folder / file).read_bytes() for file in target.names}
        while done < rounds and (until is None or time.monotonic() < until):
            path = folder / chance.choice(target.names)
            data = change(path, sound[path.name], chance)
            path.write_bytes(data)
            problem = attempt(target, folder)
            path.write_bytes(sound[path.name])
            done += 1
            if problem is not None:
                kept = corpus / name.replace(" ", "-") / f"{path.name}.{hashlib.sha256(data).hexdigest()[:12]}"
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_bytes(data)
                findings[str(kept)] = problem
    return done, findings


def main() -> None:
    """Fuzz every target in turn and report."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_json")
    parser.add_argument("--rounds", type=int, default=100, help="a target")
    parser.add_argument("--seconds", type=float, default=3600.0, help="for all targets together")
    parser.add_argument("--only", default="")
    parser.add_argument("--model", type=Path, help="a GGUF of the embedded model, to read conversations with")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    np.seterr(all="ignore")
    model = None
    if options.model is not None:
        from ggufrun.engine.model import Model, ModelParams

        model = Model(ModelParams(options.model))
    chosen = {name: target for name, target in targets(model).items() if options.only in name}
    bad = total = 0
    until = time.monotonic() + options.seconds
    for number, (name, target) in enumerate(chosen.items()):
        left = (until - time.monotonic()) / (len(chosen) - number)
        done, findings = run(name, target, options.rounds, options.seed, time.monotonic() + left, options.corpus)
        bad, total = bad + len(findings), total + done
        sys.stdout.write(f"{name}: {done} cases, {len(findings)} findings\n" * bool(findings or len(chosen) < 9))
        for kept, problem in findings.items():
            sys.stdout.write(f"  {kept}: {problem.strip().splitlines()[-1][:300]}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{total} cases, {bad} findings (seed {options.seed})\n")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
