"""``python -m tests.catalogue_check``: is every entry of the catalogue on the hub as it says? Needs the network.

For each entry: the repository and the file exist, the size is right within 5 %, and the licence is the one of the card.
"""

from __future__ import annotations

import sys

from ggufrun.errors import GgufrunError
from ggufrun.hub import client, gguf_files
from ggufrun.hub.catalogue import ENTRIES, Entry


def problems(entry: Entry) -> list[str]:
    """What the hub says otherwise."""
    try:
        listing = client.listing(entry.repo, None)
        if entry.is_checkpoint:
            return [] if any(name.endswith((".safetensors", ".bin")) for name in listing.names) else ["no weights"]
        names = gguf_files(entry.kind)(listing.names)
    except GgufrunError as error:
        return [str(error)]
    found = []
    size = sum(listing.file(name).size for name in names) / 1e9
    if abs(size - entry.size) > 0.05 * size:
        found.append(f"{size:.2f} GB, not {entry.size}")
    card = client.hub().HfApi().model_info(entry.repo, revision=listing.commit).card_data
    license_name = card and (card.get("license_name") or card.get("license"))
    if license_name and license_name != entry.license:
        found.append(f"licence {license_name}, not {entry.license}")
    return found


def main() -> int:
    """Print a line for each entry; 1 if any is wrong."""
    wrong = 0
    for entry in ENTRIES:
        found = problems(entry)
        wrong += bool(found)
        sys.stdout.write(f"{entry.name:28} {'; '.join(found) or 'ok'}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{len(ENTRIES)} entries, {wrong} wrong\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
