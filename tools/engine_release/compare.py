"""What differs between two releases, in sections: each a title, what to look at, and the lines found."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ggufrun.native import signatures
from ggufrun.native.binding import signatures as declared
from tools.engine_release import facts
from tools.engine_release.ctext import (
    Prototype,
    enumeration,
    function,
    literals,
    prototypes,
    squeezed,
    structure,
    without_comments,
)
from tools.engine_release.sources import Release

HEADERS = ("include/llama.h", "src/llama-ext.h", *(f"ggml/include/{name}.h" for name in (
    "ggml", "ggml-backend", "ggml-cpu", "ggml-rpc", "gguf",
)))  # fmt: skip

MANGLED = re.compile(r"_Z\d+(llama_[a-z_]+?)PK?\d")


@dataclass(frozen=True)
class Section:
    """One kind of difference. ``breaks``: ggufrun does not work with the new release before somebody has looked."""

    title: str
    where: str
    lines: tuple[str, ...]
    breaks: bool = True


def compare(old: Release, new: Release) -> list[Section]:
    """All sections, those without a difference too."""
    return [
        Section("functions", "ggufrun/native/signatures.py", tuple(_functions(old, new))),
        Section("structures", "ggufrun/native/structures.py, and llama-cpp-python's", tuple(_structures(old, new))),
        Section("numbers", "tools/engine_release/facts.py names them", tuple(_numbers(old, new))),
        Section("lines of the log", "the modules that are named", tuple(_texts(old, new))),
        Section("kernels' sources", "tools/kernels, tools/sampling, tools/*.cmake", tuple(_sources(old, new))),
        Section("file types", "ggufrun/quantize/types.py", tuple(_enumeration(old, new, "llama_ftype")), False),
        Section("architectures", "ggufrun/convert/arch", tuple(_named(old, new, _architectures)), False),
        Section(
            "pre-tokenizers", "ggufrun/convert/vocab/pretokenizers.py", tuple(_named(old, new, _pretokenizers)), False
        ),
        Section("other functions of llama.h", "", tuple(_new_functions(old, new)), False),
    ]


def used_functions() -> dict[str, str]:
    """The functions of llama.cpp that ggufrun calls, by their name in C, and by that in the library."""
    found = {}
    protocols = (signatures.Llama, signatures.Ggml, signatures.GgmlBase, signatures.GgmlCpu, signatures.Rpc)
    for protocol in (*protocols, signatures.MemoryReport):
        for name in declared(protocol):
            plain = MANGLED.match(name)
            found[plain[1] if plain else name] = name
    return found


def _declared(release: Release) -> dict[str, Prototype]:
    found: dict[str, Prototype] = {}
    for header in HEADERS:
        found.update(prototypes(release.text(header)))
    return found


def _functions(old: Release, new: Release) -> Iterator[str]:
    before, after = _declared(old), _declared(new)
    for name in sorted(used_functions()):
        if name not in after:
            yield f"{name}: not declared any more" if name in before else f"{name}: declared in neither release"
        elif before.get(name) != after[name]:
            yield f"{name}: {before.get(name)} -> {after[name]}"


def _new_functions(old: Release, new: Release) -> Iterator[str]:
    before, after = prototypes(old.text("include/llama.h")), prototypes(new.text("include/llama.h"))
    yield from (f"+ {name} {after[name]}" for name in sorted(after.keys() - before.keys()))
    yield from (f"- {name}" for name in sorted(before.keys() - after.keys()))


def _structures(old: Release, new: Release) -> Iterator[str]:
    for name, header in facts.STRUCTURES.items():
        yield from _changed(name, structure(old.text(header), name), structure(new.text(header), name), ";")


def _state(before: object, after: object) -> str:
    if before is None and after is None:
        return "is in neither release"
    return "is gone" if after is None else "is new" if before is None else "differs"


def _changed(name: str, before: str | None, after: str | None, separator: str) -> Iterator[str]:
    """The parts that differ, one a line."""
    if before == after:
        if before is None:
            yield f"{name}: found in neither release"
        return
    if before is None or after is None:
        yield f"{name}: {_state(before, after)}"
        return
    yield from (f"{name}: {line}" for line in difference(before.split(separator), after.split(separator)))


def difference(before: Iterable[str], after: Iterable[str]) -> Iterator[str]:
    """Lines that are gone (``- ``) and lines that came (``+ ``), in their order."""
    for line in difflib.ndiff([*before], [*after]):
        if line[:2] in ("- ", "+ "):
            yield line


def _enumeration(old: Release, new: Release, name: str) -> Iterator[str]:
    header = facts.ENUMERATIONS[name]
    before, after = enumeration(old.text(header), name), enumeration(new.text(header), name)
    if before is None or after is None:
        yield f"{name}: {_state(before, after)}"
        return
    yield from difference(_pairs(before), _pairs(after))


def _pairs(values: Mapping[str, str]) -> list[str]:
    return [f"{name} = {value}" for name, value in values.items()]


def _numbers(old: Release, new: Release) -> Iterator[str]:
    for name in facts.ENUMERATIONS:
        if name != "llama_ftype":
            yield from _enumeration(old, new, name)
    for name, header in facts.NUMBERS.items():
        before, after = _define(old.text(header), name), _define(new.text(header), name)
        if before is None and after is None:
            yield f"{name}: found in neither release"
        elif before != after:
            yield f"{name}: {before} -> {after}"


def _define(text: str, name: str) -> str | None:
    match = re.search(rf"#\s*define\s+{name}\s+(.+)", without_comments(text))
    return match[1].strip() if match else None


def _texts(old: Release, new: Release) -> Iterator[str]:
    before, after = "\n".join(literals(old.code)), "\n".join(literals(new.code))
    for text, reader in facts.LOG_TEXTS.items():
        if not _has(after, new, text):
            yield (
                f"{text!r} is not said any more; {reader} reads it"
                if _has(before, old, text)
                else (f"{text!r} is said by neither release; {reader} reads it")
            )


def _has(texts: str, release: Release, text: str) -> bool:
    # what an assertion says is the source itself
    return text in texts or re.search(rf"GGML_ASSERT\([^;\n]*{re.escape(text)}", release.code) is not None


def _sources(old: Release, new: Release) -> Iterator[str]:
    for path, why in facts.SOURCES.items():
        before, after = (squeezed(without_comments(release.text(path))) for release in (old, new))
        if before != after or not after:
            yield f"{path} {_state(before or None, after or None)}: {why}"
    parts = {"ggml/src/ggml-quants.c": facts.replaced_quantizers(), **facts.FUNCTIONS}
    for path, names in parts.items():
        for name in names:
            bodies = [function(release.text(path), name) for release in (old, new)]
            if bodies[0] != bodies[1] or bodies[1] is None:
                yield f"{path}: {name} {_state(*bodies)}"


def _named(old: Release, new: Release, read: object) -> Iterator[str]:
    assert callable(read)
    before, after = read(old), read(new)
    yield from (f"+ {name}" for name in after if name not in before)
    yield from (f"- {name}" for name in before if name not in after)


def _architectures(release: Release) -> list[str]:
    return re.findall(r'\{\s*LLM_ARCH_\w+\s*,\s*"([^"]+)"\s*\}', release.text("src/llama-arch.cpp"))


def _pretokenizers(release: Release) -> list[str]:
    return list(dict.fromkeys(re.findall(r'tokenizer_pre\s*==\s*"([^"]+)"', release.text("src/llama-vocab.cpp"))))
