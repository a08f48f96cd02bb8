"""``python -m tests.attack --seconds 60 --seed 1``: exit status 1 and a line a finding if there are any.

A case is its seed and its number: ``--seed 1 --case 17`` runs that one again and shows everything, ``--keep FILE``
leaves its file behind.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NoReturn

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from ggufrun.processors import processors
from tests.attack import child, found, mutations
from tests.attack.jobs import ADAPTERS, JOBS, LONG, TEXT, WEIGHTS
from tests.attack.models import FAMILIES, Model, adapter_of, base, with_vocabulary
from tests.attack.sweeps import SWEEPS, steps
from tests.attack.vocabularies import VOCABULARIES
from tests.families.family_cases import CASES

Seed = int | str

OUTTYPES = ("F16", "F32", "Q8_0")
SOUND = next(name for name in CASES if name.startswith("llama"))


@dataclass(frozen=True)
class Case:
    """What a case does, in words, and what it runs."""

    number: int
    name: str
    job: str
    changes: tuple[str, ...]


def build(seed: Seed, number: int, only: str | None = None) -> tuple[Case, Model, Model]:
    """Case ``number`` of ``seed``, always the same one: its changed model, and the sound one that it was. ``seed`` may
    be the name of a sweep, too.
    """
    if seed in SWEEPS:
        return build_step(str(seed), number, only)
    dice = random.Random(f"{seed} {number}")
    family = dice.choice(FAMILIES)
    outtype, vocabulary = dice.choice(OUTTYPES), dice.choice(sorted(VOCABULARIES))
    if dice.random() < 0.4:
        vocabulary = dice.choice(("sentencepiece", "bpe"))
    (job,) = dice.choices([*JOBS], [WEIGHTS.get(name, 2) for name in JOBS])
    sound = with_vocabulary(base(family, outtype), vocabulary)
    model = adapter_of(sound) if (only or job) in ADAPTERS else sound.copy()
    changes = mutations.change(model, dice)
    return Case(number, f"{family} {outtype} {vocabulary}", only or job, tuple(changes)), model, sound


def build_step(sweep: str, number: int, only: str | None) -> tuple[Case, Model, Model]:
    """The same of a sweep."""
    family, vocabulary, said, put = steps(sweep)[number]
    sound = with_vocabulary(base(family, "F16"), vocabulary)
    model = adapter_of(sound) if only in ADAPTERS else sound.copy()
    put(model)
    return Case(number, f"{family} F16 {vocabulary}", only or "complete", (said,)), model, sound


def command(job: str, folder: Path) -> list[str]:
    """The command line of a job for the model in ``folder``."""
    meant = {"MODEL": "model.gguf", "TEXT": "../text.txt", "LONG": "../long.txt", "SOUND": "sound.gguf"}
    return [meant.get(word, word) for word in JOBS[job]]


def prepare(parent: Path) -> None:
    """The files that cases share."""
    (parent / "text.txt").write_text(TEXT)
    (parent / "long.txt").write_text(LONG, encoding="utf-8")


def learn(parent: Path) -> None:
    """Everything loaded that any job loads."""
    folder = parent / "case"
    folder.mkdir()
    for name in ("model.gguf", "sound.gguf"):
        with_vocabulary(base(SOUND, "F16"), "sentencepiece").write(folder / name)
    child.learn([command(job, folder) for job in JOBS], folder)
    shutil.rmtree(folder)


def attempt(seed: Seed, number: int, parent: Path, only: str | None = None) -> tuple[Case, child.Outcome]:
    case, model, sound = build(seed, number, only)
    folder = parent / "case"
    folder.mkdir()
    try:
        model.write(folder / "model.gguf")
        if "SOUND" in JOBS[case.job]:
            sound.write(folder / "sound.gguf")
        return case, child.run(command(case.job, folder), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def some(
    seed: Seed, numbers: Iterator[int], until: float, only: str | None = None
) -> Iterator[tuple[Case, child.Outcome]]:
    """Run cases until it is time."""
    with tempfile.TemporaryDirectory(prefix="ggufrun-attack-") as temporary:
        parent = Path(temporary)
        prepare(parent)
        learn(parent)
        for number in numbers:
            if time.monotonic() > until:
                return
            yield attempt(seed, number, parent, only)


def _work(seed: Seed, numbers: range, until: float, only: str | None, tell: Connection) -> None:
    with tell:
        child.warm()
        for found in some(seed, iter(numbers), until, only):
            tell.send(found)


def all_of(seed: Seed, shares: Sequence[range], until: float, only: str | None) -> Iterator[tuple[Case, child.Outcome]]:
    """The cases of every share, each run by a process of its own; RuntimeError where one of these fails."""
    methods = multiprocessing.get_context("fork")
    workers = {}
    for share in shares:
        reading, writing = methods.Pipe(duplex=False)
        worker = methods.Process(target=_work, args=(seed, share, until, only, writing))
        worker.start()
        writing.close()
        workers[reading] = worker
    while workers:
        ready = wait([*workers])
        for reading in [reading for reading in workers if reading in ready]:
            try:
                yield reading.recv()
            except EOFError:
                worker = workers.pop(reading)
                worker.join()
                if worker.exitcode:
                    raise RuntimeError("a process of the attack failed") from None


def show(case: Case, outcome: child.Outcome) -> str:
    said = (outcome.stderr.strip().splitlines() or [""])[-1]
    return (
        f"{outcome.verdict}: case {case.number}, {case.job}, {case.name}: {'; '.join(case.changes)}\n"
        f"    status {outcome.status}, {outcome.seconds:.1f} s, {outcome.memory >> 20} MB: {said[:300]}\n"
    )


def main() -> None:
    """Attack for a while, or run one case again."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--sweep", choices=sorted(SWEEPS), help="go through a whole kind of changes, not by chance")
    parser.add_argument("--cases", type=int, default=1 << 40, help="stop after so many")
    parser.add_argument("--first", type=int, default=0, help="the number of the first one")
    parser.add_argument("--only", choices=sorted(JOBS), help="run this command in every case")
    parser.add_argument("--case", type=int, help="run one case again and show what it prints")
    parser.add_argument("--keep", type=Path, help="with --case: keep its file")
    parser.add_argument("--jobs", type=int, default=processors().for_throughput, help="processes at once")
    parser.add_argument("--found", action="store_true", help="run again what was ever found, and nothing else")
    parser.add_argument("--reasons", action="store_true", help="list how often what was said")
    options = parser.parse_args()
    seed = options.sweep or options.seed
    if options.found:
        again_found()
    if options.case is not None:
        again(seed, options.case, options.keep, options.only)
        return
    began = time.monotonic()
    last = options.first + options.cases
    if options.sweep:
        last = min(last, len(steps(options.sweep)))
    shares = [range(options.first + index, last, options.jobs) for index in range(options.jobs)]
    verdicts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for case, outcome in all_of(seed, shares, began + options.seconds, options.only):
        verdicts[outcome.verdict or ("refused" if outcome.status else "ran")] += 1
        reasons[(outcome.stderr.strip().splitlines() or [""])[-1][:160] if outcome.status else ""] += 1
        if outcome.verdict is not None:
            sys.stdout.write(show(case, outcome))
            sys.stdout.flush()
    if options.reasons:
        for reason, count in reasons.most_common():
            sys.stdout.write(f"{count:6} {reason}\n")
    spent = time.monotonic() - began
    figures = ", ".join(f"{count} {name}" for name, count in sorted(verdicts.items()))
    what = f"sweep {seed}" if options.sweep else f"seed {seed}"
    sys.stdout.write(f"attack: {verdicts.total()} cases in {spent:.0f} s ({what}): {figures}\n")
    sys.exit(1 if set(verdicts) - {"ran", "refused"} else 0)


def again_found() -> NoReturn:
    """Everything that was ever found."""
    wrong = 0
    for case, problem in found.run():
        wrong += bool(problem)
        sys.stdout.write(f"{problem or 'ok'}: {case.was}, {case.job}, {case.family}: {case.said}\n")
    sys.exit(1 if wrong else 0)


def again(seed: Seed, number: int, keep: Path | None, only: str | None) -> None:
    """One case, with all that it prints."""
    case, model, _ = build(seed, number, only)
    if keep is not None:
        model.write(keep)
    child.warm()
    with tempfile.TemporaryDirectory(prefix="ggufrun-attack-") as temporary:
        prepare(Path(temporary))
        case, outcome = attempt(seed, number, Path(temporary), only)
    sys.stdout.write(f"{outcome.stdout}{outcome.stderr}{show(case, outcome)}")
    sys.exit(1 if outcome.verdict else 0)


if __name__ == "__main__":
    main()
