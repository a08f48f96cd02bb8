"""``python -m tests.faults kill --rounds 100 --seed 1``: a line a finding, figures, status 1 for any."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator

from tests.faults import disk, kill, pickles, truncate

FAULTS: dict[str, Callable[[int, int], Iterator[tuple[str, str]]]] = {
    "kill": kill.run,
    "pickles": pickles.run,
    "disk": disk.run,
    "truncate": truncate.run,
}


def main() -> None:
    """Run one kind of faults and report."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("fault", choices=FAULTS)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    rounds = bad = 0
    for what, problem in FAULTS[options.fault](options.rounds, options.seed):
        rounds += 1
        if problem:
            bad += 1
            sys.stdout.write(f"{what}: {problem}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{options.fault}: {rounds} rounds, {bad} findings (seed {options.seed})\n")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
