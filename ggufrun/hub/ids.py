"""How a model on the hub is written: ``org/name``, ``org/name@revision``, ``org/name:TYPE``, or the link to it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ggufrun.errors import NotFoundError, UsageError

HOSTS = ("hf://", "https://huggingface.co/", "https://hf.co/", "huggingface.co/", "hf.co/")
"""Beginnings that people paste, and that make a text an id whatever lies on the disk."""

MODELSCOPE_HOSTS = tuple(
    f"{scheme}{name}/models/" for scheme in ("https://", "") for name in ("modelscope.cn", "www.modelscope.cn")
)
"""Beginnings of ModelScope's links."""

HUB, MODELSCOPE = "hub", "modelscope"
"""The sources."""

FILE_SUFFIXES = {".gguf", ".safetensors", ".bin", ".pth", ".pt", ".json", ".model"}

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_ID = re.compile(rf"(?P<repo>{_PART}/{_PART})(?:@(?P<revision>[^\s:@]{{1,200}}))?(?::(?P<kind>[^\s:@]{{1,200}}))?")

_LINK = re.compile(r"(?P<repo>[^/]+/[^/]+)/(?:(?:blob|resolve|tree)/(?P<revision>[^/]+)/?)?(?P<file>[^:@]+\.gguf)?")
"""What a browser shows or copies: of a repository at a revision, or of a file in it."""


@dataclass(frozen=True)
class HubId:
    """``revision`` is a branch, tag or commit, None for the default branch; ``kind`` what follows the colon; ``source``
    where it is.
    """

    repo: str
    revision: str | None = None
    kind: str | None = None
    source: str = HUB

    @property
    def name(self) -> str:
        """The name without the organisation."""
        return self.repo.partition("/")[2]

    def __str__(self) -> str:
        return self.repo + (f"@{self.revision}" if self.revision else "")


def parse(text: str) -> HubId:
    """The id that ``text`` writes; UsageError for anything else."""
    found = _match(text)
    if found is None:
        raise UsageError(f"{text!r} is not a model id", "write org/name, org/name@revision or org/name:TYPE")
    return found


def path_or_id(text: str) -> Path | HubId:
    """What a SOURCE means: what exists is a path, then come ids; NotFoundError for a path that does not exist.

    ``org/name`` whose first part is a folder here is taken for a mistyped path, unless written ``hf://org/name``.
    """
    path = Path(text)
    explicit = text.startswith((*HOSTS, *MODELSCOPE_HOSTS))
    if not explicit and _exists(path):
        return path
    found = _match(text)
    if found is None and explicit:
        raise UsageError(f"{text!r} is not a model id", "write org/name or org/name@revision")
    if found is None or (not explicit and path.suffix.lower() in FILE_SUFFIXES):
        raise NotFoundError(f"no such file or folder: {text}", "check the path; a model on the hub is written org/name")
    if not explicit and _exists(path.parent):
        raise NotFoundError(f"no such file or folder: {text}", f"for the model on the hub write hf://{text}")
    return found


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        # too long or with a zero byte: no path of this system
        return False


def _match(text: str) -> HubId | None:
    source = MODELSCOPE if text.startswith(MODELSCOPE_HOSTS) else HUB
    for host in (*HOSTS, *MODELSCOPE_HOSTS):
        text = text.removeprefix(host)
    if source == MODELSCOPE:
        # a page of the site: /summary, /files, /file/view/BRANCH/NAME
        text = re.sub(r"/(summary|files|feedback)/?$", "", text.partition("?")[0]).replace("/file/view/", "/blob/")
    link = _LINK.fullmatch(text.partition("?")[0])
    if link is not None and (link["revision"] or link["file"]):
        at = f"@{link['revision']}" if link["revision"] not in (None, "main", "master") else ""
        text = link["repo"] + at + (f":{link['file']}" if link["file"] else "")
    found = _ID.fullmatch(text.rstrip("/") if "@" not in text else text)
    if found is None or "--" in found["repo"] or ".." in found["repo"]:
        return None
    return HubId(found["repo"], found["revision"], found["kind"], source)
