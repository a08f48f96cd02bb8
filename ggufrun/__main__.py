"""The program: ``ggufrun``, and ``python -m ggufrun``."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Load the command line and run it. Ctrl+C while it loads is one line too."""
    try:
        from ggufrun.cli.app import main as run
    except KeyboardInterrupt:
        sys.stderr.write("ggufrun: interrupted\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
