"""Running the build, and saying what went wrong in one line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TextIO

from tools.setup.build import Build
from tools.setup.common import PACKAGE, SetupError
from tools.setup.machine import machine_jobs
from tools.setup.plan import Plan, Ready
from tools.setup.progress import Progress, follow

EXPLANATIONS = (
    (r"No space left on device|Disk quota exceeded", "the disk is full; free some space or set GGUFRUN_CACHE"),
    (
        r"Killed signal|fatal error: Killed|out of memory|cannot allocate memory|virtual memory exhausted",
        "the compiler ran out of memory; try again with CMAKE_BUILD_PARALLEL_LEVEL=1",
    ),
    (
        r"name resolution|NewConnectionError|getaddrinfo|Network is unreachable|Connection refused|timed out",
        "the package index cannot be reached; check the network and try again",
    ),
    (
        r"Could NOT find Vulkan|SPIRV-?Headers",
        "CMake does not find Vulkan, its glslc or SPIR-V's headers; LunarG's Vulkan SDK has all of them",
    ),
    (r"is not a member of .?vk\b|vk::\w+. has not been", "Vulkan's headers are too old: take LunarG's Vulkan SDK"),
    (r"Unsupported gpu architecture", "this CUDA toolkit does not build for one of CUDA_ARCHS"),
    (r"unsupported GNU version|unsupported clang version", "the C++ compiler is too new for this CUDA"),
    (r"SSLError|CERTIFICATE_VERIFY_FAILED", "the package index's certificate is not trusted here"),
    (r"No matching distribution found for llama-cpp-python", "the package index does not have this version"),
)
"""What a failed build's log says, and what that means; the first that is found counts."""


def explain(log: str) -> str:
    """What went wrong in a failed build, in a few words; empty if it is none of the usual."""
    return next((text for pattern, text in EXPLANATIONS if re.search(pattern, log, re.IGNORECASE)), "")


def pip(*arguments: str) -> list[str]:
    """A command of the pip that belongs to this Python, with output that can be followed."""
    return [
        sys.executable, "-m", "pip", *arguments, "--verbose", "--no-deps", "--no-cache-dir",
        "--disable-pip-version-check", "--progress-bar", "off", "--no-binary", PACKAGE,
    ]  # fmt: skip


def pip_wheel(build: Build, plan: Plan, ready: Ready, source: str, target: Path) -> list[str]:
    """The command that builds the wheel of ``source`` (a requirement or a folder) into ``target``.

    The include goes by ``--config-settings``, not by ``CMAKE_ARGS``: that variable stays the user's, and is split at
    spaces. pip's own cache is left out, for it knows nothing of flags and would return any earlier build.
    """
    settings = {**build.defines, **ready.places, "CMAKE_PROJECT_llama_cpp_INCLUDE": str(plan.include)}
    return [
        *pip("wheel"), *(f"--config-settings=cmake.define.{name}={value}" for name, value in settings.items()),
        *([f"--config-settings=build-dir={target / 'objects'}"] if source.startswith("/") else []),
        "--wheel-dir", str(target), source,
    ]  # fmt: skip


def build_wheel(build: Build, plan: Plan, folder: Path, log: Path) -> None:
    """Build the wheel into ``folder``; raise ``SetupError`` with the end of the log if that fails."""
    ready = plan.prepare()
    # Sources and objects go beside the wheel: that disk was checked, while /tmp may be small, or mounted noexec.
    scratch = folder / "tmp"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch), "LC_ALL": "C", "PYTHONUNBUFFERED": "1", **ready.environment}
    count = int(environment.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(machine_jobs())))
    progress = Progress(sys.stderr, expected=60 * plan.minutes / count)
    progress.phase(f"building {PACKAGE} {build.version} from source, once; {about(plan.minutes / count)}")
    source = f"{PACKAGE}=={build.version}"
    with log.open("w", encoding="utf-8", errors="replace") as stream:
        try:
            if shutil.which("ccache"):
                # pip unpacks and builds in folders of random names, and ccache knows a file by its path: with these
                # it finds what an earlier build left.
                environment |= {"CCACHE_BASEDIR": str(folder), "CCACHE_NOHASHDIR": "1"}
                environment["CCACHE_COMPILERCHECK"] = "content"
                source = unpacked(source, scratch, environment, stream, progress, log)
            status = watch(pip_wheel(build, plan, ready, source, folder), environment, stream, progress)
        finally:
            progress.close()
    for leftover in (scratch, folder / "objects"):
        shutil.rmtree(leftover, ignore_errors=True)
    if status != 0:
        raise failed(log)


def about(minutes: float) -> str:
    """An estimate in words."""
    return f"some {minutes:.0f} minutes" if minutes >= 5 else "some minutes"


def watch(command: list[str], environment: dict[str, str], log: TextIO, progress: Progress) -> int:
    """Run ``command``, its output into the log; returns its exit status."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True, errors="replace"
    )
    try:
        assert process.stdout is not None
        follow(iter(process.stdout), log, progress)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    return process.wait()


LEFT_OUT = re.compile(r"vendor/llama\.cpp/(docs|models|tests|media|examples|tools/(ui|server))/")
"""Four fifths of the source archive, of no use to the build."""


def unpacked(
    requirement: str,
    scratch: Path,
    environment: dict[str, str],
    stream: TextIO,
    progress: Progress,
    log: Path,
    left_out: re.Pattern[str] = LEFT_OUT,
) -> str:
    """Fetch the source archive and unpack all but what ``left_out`` matches; returns the folder."""
    if watch([*pip("download"), "--dest", str(scratch), requirement], environment, stream, progress) != 0:
        stream.flush()
        raise failed(log)
    with tarfile.open(next(scratch.glob("*.tar.gz"))) as archive:
        members = [member for member in archive if not left_out.search(member.name)]
        archive.extractall(scratch, members, filter="data")
    (source,) = (path.parent for path in scratch.glob("*/CMakeLists.txt"))
    steady = scratch / "source"
    source.rename(steady)
    return str(steady)


def failed(log: Path, what: str = "the engine") -> SetupError:
    """The error for a failed build of ``what``: one line if the cause is a usual one, else the log's end."""
    text = log.read_text(encoding="utf-8", errors="replace")
    if reason := explain(text):
        return SetupError(f"{what} could not be built: {reason} (log: {log})")
    tail = "\n".join(f"  {line[:200]}" for line in text.rstrip().splitlines()[-20:])
    return SetupError(f"{what} could not be built; the log ends:\n{tail}\nthe whole log: {log}")
