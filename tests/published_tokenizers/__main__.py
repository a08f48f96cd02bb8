"""Published tokenizers: ``fetch`` them, ``record`` what their own programs make of text, ``check`` the converted ones.

python -m tests.published_tokenizers fetch
$ORACLE_PYTHON -m tests.published_tokenizers record [NAME...]
python -m tests.published_tokenizers check [NAME...]
"""

from __future__ import annotations

import sys


def main(command: str = "", *names: str) -> int:
    """Run one of the three commands."""
    match command:
        case "fetch":
            from tests.published_tokenizers.fetch import fetch

            fetch()
        case "record":
            from tests.published_tokenizers.record import record

            record(list(names))
        case "check":
            from tests.published_tokenizers.check import check_all

            return check_all(list(names))
        case _:
            sys.stderr.write(f"{__doc__}\n")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
