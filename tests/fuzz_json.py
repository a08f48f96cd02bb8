"""Throws JSON of wrong values at every reader of JSON: ``python -m tests.fuzz_json``, also in ``make fuzz``.

The files stay JSON, so that what reads the values is reached: see `json_mutation`. The rest is as in `fuzz`, whose
targets are used where they have JSON files; further ones are every family's config.json, conversations and what else
people hand to the program.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
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
from ggufrun.chat.formats import stylebook
from ggufrun.chat.formats.prompt import StylePrompt
from ggufrun.chat.formats.styles import STYLES
from ggufrun.chat.replay import replay
from ggufrun.chat.session import Session
from ggufrun.cli.talk.answer_list import Answers
from ggufrun.convert.describe import describe
from ggufrun.engine.sampling.grammar import check
from ggufrun.engine.sampling.params import SamplingParams
from ggufrun.engine.sampling.schema import to_grammar
from ggufrun.hub import client
from ggufrun.hub.select import checkpoint_files
from tests import fuzz
from tests.families import family as families
from tests.families.family_cases import CASES
from tests.fuzz import CORPUS, TARGETS, Target, attempt, convert
from tests.support.checkpoints import DEMO, llama_config, llama_tensors
from tests.support.json_mutation import mutate_header, mutate_json
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
    # the width that follows from params.json
    config = llama_config(**{**fuzz.SMALL, "intermediate_size": 128})
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
        "age": {"type": "integer", "minimum": 0, "exclusiveMaximum": 130},
        "price": {"type": "number", "minimum": 0.5, "maximum": 99.5, "multipleOf": 0.01, "nullable": True},
        "dozens": {"type": "integer", "multipleOf": 12},
        "code": {"type": "string", "pattern": r"^(?:[A-Z]{2}|\d+)-[^\s\"]{1,3}$"},
        "both": {"allOf": [{"$ref": "#/$defs/item"}, {"properties": {"n": {"maximum": 3}}, "required": ["n"]}]},
        "either": {"type": "string", "oneOf": [{"maxLength": 3}, {"enum": ["long"]}]},
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
    session.past, session.ids = replay(session.format, model.vocab, "s", [("hi", "hello"), ("a", "b"), ("c", "d")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "identity", lambda context: "same")
        store.save(session, folder / "talk.json")


def styles(folder: Path) -> None:
    """The user's own styles; what is in the JSON, as TOML."""
    try:
        text = toml(json.loads((folder / "styles.json").read_bytes()))
    except (ValueError, RecursionError):
        # what only the parser is to be asked about
        text = f"x = {'[' * 3000} {'1' * 6000}"
    stylebook.parse(text, "styles.toml")


def toml(value: Any, inside: bool = False) -> str:
    """TOML of a JSON value, as far as there is one for it."""
    if isinstance(value, dict):
        pairs = [f"{json.dumps(str(key))} = {toml(item, True)}" for key, item in value.items()]
        return f"{{{', '.join(pairs)}}}" if inside else "\n".join(pairs)
    if isinstance(value, list):
        return f"[{', '.join(toml(item, True) for item in value)}]"
    if isinstance(value, float) and not math.isfinite(value):
        return {"inf": "inf", "-inf": "-inf"}.get(str(value), "nan")
    return "1979-05-27" if value is None else json.dumps(value)


STYLES_FILE: dict[str, Any] = {
    "mine": {
        "like": "chatml",
        "system": "s",
        "names": ["^qwen"],
        "stops": ["###"],
        "sampling": {"temp": 0.7, "top_k": 5},
    },
    "other": {"first": "{bos}{s} {u}", "later": "{u}", "bare": "{u}", "end": "{eos}"},
}


def hub_answer(folder: Path) -> None:
    from huggingface_hub.hf_api import HfApi, ModelInfo

    def answer(*_: Any, **__: Any) -> Any:
        made: Any = ModelInfo
        return made(**json.loads((folder / "answer.json").read_bytes()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HfApi, "model_info", answer)
        found = client.listing("org/name", None)
        for name in found.names:
            if found._known[name] != (None, None):
                found.file(name)
        checkpoint_files(found.names)


HUB_ANSWER: dict[str, Any] = {
    "id": "org/name",
    "sha": "0123456789" * 4,
    "siblings": [
        {"rfilename": "config.json", "size": 100, "blobId": "0123456789" * 4},
        {
            "rfilename": "model.safetensors",
            "size": 5000,
            "blobId": "a" * 40,
            "lfs": {"size": 5000, "sha256": "b" * 64, "pointerSize": 130},
        },
    ],
    "lastModified": "2024-01-01T00:00:00.000Z",
    "private": False,
    "tags": ["x"],
    "safetensors": {"parameters": {"BF16": 1}, "total": 1},
}

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
    "styles": Target(
        lambda folder: (folder / "styles.json").write_text(json.dumps(STYLES_FILE)), styles, ("styles.json",)
    ),
    "hub": Target(
        lambda folder: (folder / "answer.json").write_text(json.dumps(HUB_ANSWER)), hub_answer, ("answer.json",)
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
