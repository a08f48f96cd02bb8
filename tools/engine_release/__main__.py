"""``python -m tools.engine_release OLD NEW``: what differs between two releases of llama-cpp-python.

Each is an unpacked sdist, its archive, or a version, which pip fetches. Exit status 1 where something differs that
ggufrun rests on.
"""

from __future__ import annotations

import argparse
import sys

from tools.engine_release.compare import compare
from tools.engine_release.sources import SourceError, opened


def main(arguments: list[str] | None = None) -> int:
    """Print the sections; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.engine_release", description=__doc__)
    parser.add_argument("old", help="the release that is pinned")
    parser.add_argument("new", help="the release to move to")
    chosen = parser.parse_args(arguments)
    try:
        old, new = opened(chosen.old), opened(chosen.new)
    except SourceError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{old.name} -> {new.name}")
    broken = 0
    for section in compare(old, new):
        print(f"\n{section.title}: {len(section.lines) or 'no'} difference{'s' if len(section.lines) != 1 else ''}")
        if section.lines and section.where:
            print(f"  (see {section.where})")
        for line in section.lines:
            print(f"  {line}")
        broken += len(section.lines) if section.breaks else 0
    print(f"\n{broken or 'nothing'} to look at before ggufrun runs with the new release")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
