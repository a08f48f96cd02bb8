"""Published tokenizers: ``fetch`` them, ``record`` what their own programs make of text, ``check`` the converted ones.

python -m tests.tokenizers fetch
$ORACLE_PYTHON -m tests.tokenizers record [NAME...]
python -m tests.tokenizers check [NAME...]
"""

from __future__ import annotations

import sys


def main(command: str = "", *names: str) -> int:
    """Run one of the three commands."""
    match command:
        case "fetch":
            from tests.tokenizers.fetch import fetch

            fetch()
        case "record":
            from tests.tokenizers.record import record

            record(list(names))
        case "check":
            from tests.tokenizers.check import check_all

            return check_all(list(names))
        case _:
            sys.stderr.write(f"{__doc__}\n")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
