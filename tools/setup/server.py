"""llama.cpp's server for the installed engine, as a wheel of its own: `make setup` and `make server` build it.

It is linked against the engine's libraries, so the same wheel serves an engine for the processor, for CUDA or for
Vulkan, and none of these is compiled a second time.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from tools.setup import cache, compiling, installing
from tools.setup.build import Build, cache_root, describe, recipe_digest
from tools.setup.common import PACKAGE, ROOT, SetupError, run, say
from tools.setup.machine import CANDIDATES, find_compiler, fingerprint, machine_jobs
from tools.setup.progress import Progress

RECIPE = ROOT / "tools" / "server"
NOTE = "server-key"
"""A file in the virtual environment: the key of the server that is installed there."""

MINUTES = 4
"""Minutes of one core, measured with GCC 12."""

DISK = 700 << 20
"""Bytes that a build takes at its peak: the unpacked archive and the objects."""

LEFT_OUT = re.compile(r"vendor/llama\.cpp/(docs|models|tests|media|examples|tools/ui/[^/]+)/")
"""Parts of the source archive that this build does not need."""

FIND = "import importlib.util as u, pathlib; print(pathlib.Path(u.find_spec({!r}).origin).parent)"


def describe_server(compilers: str, environment: dict[str, str]) -> Build:
    """What the server's build depends on: not on what the engine computes with."""
    files = [path for path in RECIPE.rglob("*") if path.name in ("CMakeLists.txt", "pyproject.toml")]
    return replace(describe(ROOT, compilers, environment), defines={"PART": "server"}, recipe=recipe_digest(files))


def folder_of(package: str) -> Path:
    """Where ``package`` is installed in the virtual environment that runs this. Raises SetupError."""
    found = run([sys.executable, "-c", FIND.format(package)])
    if found.returncode != 0:
        raise SetupError(f"{package} is not installed here")
    return Path(found.stdout.strip())


def build_server(engine: Path, build: Build, folder: Path, log: Path) -> None:
    """Build the wheel into ``folder``, against the libraries in ``engine``. Raises SetupError."""
    scratch = folder / "tmp"
    scratch.mkdir()
    count = int(os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or machine_jobs())
    environment = {
        **os.environ,
        "TMPDIR": str(scratch),
        "LC_ALL": "C",
        "PYTHONUNBUFFERED": "1",
        "CMAKE_BUILD_PARALLEL_LEVEL": str(count),
        "CCACHE_BASEDIR": str(folder),
        "CCACHE_NOHASHDIR": "1",
        "CCACHE_COMPILERCHECK": "content",
    }
    progress = Progress(sys.stderr, expected=60 * MINUTES / count, part="server")
    progress.phase(f"building llama.cpp's server, once; {compiling.about(MINUTES / count)}")
    with log.open("w", encoding="utf-8", errors="replace") as stream:
        try:
            requirement = f"{PACKAGE}=={build.version}"
            source = compiling.unpacked(requirement, scratch, environment, stream, progress, log, LEFT_OUT)
            copy = scratch / "server"
            shutil.copytree(RECIPE, copy, ignore=shutil.ignore_patterns("__pycache__"))
            project = copy / "pyproject.toml"
            text = project.read_text(encoding="utf-8")
            project.write_text(text.replace('version = "0"', f'version = "{build.version}"'), encoding="utf-8")
            command = [
                *compiling.pip("wheel"),
                f"--config-settings=cmake.define.SOURCE={source}/vendor/llama.cpp",
                f"--config-settings=cmake.define.ENGINE={engine}",
                f"--config-settings=build-dir={folder / 'objects'}",
                "--wheel-dir", str(folder), str(copy),
            ]  # fmt: skip
            status = compiling.watch(command, environment, stream, progress)
        finally:
            progress.close()
    for leftover in (scratch, folder / "objects"):
        shutil.rmtree(leftover, ignore_errors=True)
    if status != 0:
        raise compiling.failed(log, "llama.cpp's server")


def works() -> bool:
    """Whether the installed server starts here, with the engine that is installed."""
    try:
        return run([str(folder_of("ggufrun_server") / "llama-server"), "--version"]).returncode == 0
    except SetupError:
        return False


def install(wheel: Path, key: str) -> None:
    """Install ``wheel`` here, unless that very build is installed and works. Raises SetupError."""
    note = Path(sys.prefix) / NOTE
    if note.is_file() and note.read_text(encoding="utf-8") == key and works():
        return
    note.unlink(missing_ok=True)
    done = run([*installing.PIP, "--no-deps", "--force-reinstall", str(wheel)])
    if done.returncode != 0:
        raise SetupError(f"the server's wheel could not be installed: {done.stderr.strip()[-500:]}")
    note.write_text(key, encoding="utf-8")


def libraries_of(wheel: Path, folder: Path) -> Path:
    """The libraries in an engine's wheel, unpacked into ``folder``."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith("llama_cpp/lib/")])
    return folder / "llama_cpp" / "lib"


def obtain(wheels: Path, fresh: bool = False, engine: Path | None = None) -> tuple[Path, Build, bool]:
    """The wheel for the installed engine, or for the libraries in ``engine``; its build, and whether it had to be
    built. Raises SetupError.
    """
    engine = engine or folder_of("llama_cpp") / "lib"
    compilers = " ".join(fingerprint(language, find_compiler(language, os.environ)) for language in CANDIDATES)
    build = describe_server(compilers, dict(os.environ))
    wheel, built = cache.obtain(build, wheels, partial(build_server, engine), fresh=fresh, disk=DISK)
    return wheel, build, built


def make(fresh: bool = False, dist: Path | None = None) -> None:
    """Build the server unless the cache has it, install it and try it. Raises SetupError."""
    wheels = cache_root(os.environ) / "wheels"
    began = time.monotonic()
    wheel, build, built = obtain(wheels, fresh)
    install(wheel, build.key)
    if not works() and not built:
        say("server: the kept wheel does not run here; building it again")
        wheel, build, built = obtain(wheels, fresh=True)
        install(wheel, build.key)
    if not works():
        raise SetupError(f"the server was built but does not start; see {wheels / (build.key + '.log')}")
    if built:
        say(f"server: built in {round(time.monotonic() - began)} s and kept in {wheel.parent}")
    else:
        say(f"server: from {wheel.parent}")
    if dist is not None:
        dist.mkdir(parents=True, exist_ok=True)
        shutil.copy2(wheel, dist)


def make_for(engine: Path, dist: Path) -> None:
    """Build the server for an engine's wheel, without installing either, and copy its wheel to ``dist``."""
    with tempfile.TemporaryDirectory() as folder:
        wheel, _, _ = obtain(cache_root(os.environ) / "wheels", engine=libraries_of(engine, Path(folder)))
    dist.mkdir(parents=True, exist_ok=True)
    say(f"server: {shutil.copy2(wheel, dist)}")


def main(arguments: list[str]) -> int:
    """Exit status 0; with ``--optional`` also where there is no server in the end, which one line says."""
    parser = argparse.ArgumentParser(prog="python -m tools.setup.server", description="Build llama.cpp's server.")
    parser.add_argument("--rebuild", action="store_true", help="build even if the cache has the wheel")
    parser.add_argument("--optional", action="store_true", help="fail in one line, with exit status 0")
    parser.add_argument("--dist", type=Path, metavar="DIR", help="copy the wheel to DIR")
    parser.add_argument("--engine", type=Path, metavar="WHEEL", help="build for this engine, into --dist or dist")
    options = parser.parse_args(arguments)
    try:
        if options.engine is not None:
            make_for(options.engine, options.dist or Path("dist"))
            return 0
        make(options.rebuild, options.dist)
    except SetupError as error:
        if not options.optional:
            say(f"setup: {error}")
            return 1
        first = str(error).splitlines()[0]
        say(f"server: left out, all else works: {first}; `make server` tries again")
    except KeyboardInterrupt:
        say("setup: interrupted")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
