"""Build the engine once, keep its wheel in the user's cache, install it into the virtual environment that runs this.

The wheel is llama-cpp-python at the version that ``pyproject.toml`` pins, built from source by ``engine.cmake``. It is
kept under a key made of everything that decides what the compiler writes, so that a second run or a second clone
installs it in seconds, and a home directory that several machines share never serves one machine's instructions to
another. The key is a digest of

* the engine's version, our CMake files and kernels (comments aside) and our CMake options;
* the variables by which a user steers a build: ``CMAKE_ARGS``, ``CC``, ``CFLAGS`` and the like;
* the platform as Python names it in a wheel, and the C library (the wheel is ``py3-none-PLATFORM``: it serves every
  Python of the platform, so the interpreter's own version is no part of the key);
* every macro that the C and the C++ compiler predefine under ``-march=native``: that is the compiler, its version and
  exactly the instruction sets that a native build may use here.

Only the standard library is used: this runs before anything else is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn, TextIO

ROOT = Path(__file__).resolve().parent.parent

PACKAGE = "llama-cpp-python"

DEFINES = {
    # Pictures and sound are not ggufrun's business, and are a third of the compile time.
    "LLAVA_BUILD": "OFF",
    # The engine can lend its devices to another machine; 50 KB of library.
    "GGML_RPC": "ON",
}

STEERING = (
    "CMAKE_ARGS", "CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CUDACXX", "CUDAARCHS", "CUDAFLAGS",
    "HIPCXX", "ARCHFLAGS", "MACOSX_DEPLOYMENT_TARGET", "CMAKE_GENERATOR", "CMAKE_BUILD_TYPE", "CMAKE_TOOLCHAIN_FILE",
    "SKBUILD_CMAKE_ARGS", "SKBUILD_CMAKE_DEFINE", "SKBUILD_CMAKE_BUILD_TYPE",
)  # fmt: skip
"""Variables that change what is built; each is part of the key."""

DISK_NEEDED = 500 << 20
"""Bytes that a build takes at its peak: source archive, unpacked source, objects, wheel. 350 MB were measured."""

WORK = ".building-"
"""How the folders of unfinished builds begin."""

MEMORY_A_JOB = 1 << 30
"""Bytes that one compiler may take. Ninja counts cores only, and a 64-core machine may lend a container 8 GB."""


class SetupError(Exception):
    """Something the user can act on; the message is the one line that is printed."""


# --- what is built, and its key ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Build:
    """Everything that decides what the compiler writes."""

    version: str
    defines: dict[str, str]
    recipe: str
    steering: dict[str, str]
    target: str
    libc: str
    compilers: str

    @property
    def key(self) -> str:
        """The folder name under which the wheel is kept: readable version, then a digest of all fields."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.version}-{self.target}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def pinned_version(pyproject: str) -> str:
    """The engine's exact version in the text of ``pyproject.toml``."""
    match = re.search(rf'"{PACKAGE}==([^"\s;]+)"', pyproject)
    if not match:
        raise SetupError(f"pyproject.toml does not pin {PACKAGE} to one version")
    return match.group(1)


RECIPE = {".cmake": "#", ".c": "//"}
"""Suffixes of the files in ``tools`` that take part in the build, with what a comment line of each starts with."""


def recipe_digest(files: list[Path]) -> str:
    """A digest of the recipe's files that stays the same when only comment lines or blank lines change."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0")
        for line in path.read_text(encoding="utf-8").splitlines():
            code = line.strip()
            if code and not code.startswith(RECIPE[path.suffix]):
                digest.update(code.encode() + b"\n")
    return digest.hexdigest()


def steering(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of ``environment`` that change what is built."""
    return {name: environment[name] for name in STEERING if environment.get(name)}


def describe(root: Path, compilers: str, environment: Mapping[str, str]) -> Build:
    """The build that this checkout, these compilers and this environment lead to."""
    recipe = [path for path in (root / "tools").iterdir() if path.suffix in RECIPE]
    return Build(
        version=pinned_version((root / "pyproject.toml").read_text(encoding="utf-8")),
        defines=DEFINES,
        recipe=recipe_digest(recipe),
        steering=steering(environment),
        target=re.sub(r"[^A-Za-z0-9_.]", "_", sysconfig.get_platform()),
        libc=" ".join(platform.libc_ver()).strip(),
        compilers=compilers,
    )


def cache_root(environment: Mapping[str, str], system: str = sys.platform) -> Path:
    """Where this system keeps a user's cache; ``GGUFRUN_CACHE`` goes before."""
    if chosen := environment.get("GGUFRUN_CACHE"):
        return Path(chosen).expanduser().absolute()
    if system == "darwin":
        return Path.home() / "Library" / "Caches" / "ggufrun"
    base = environment.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "ggufrun"


# --- what the machine must have ---------------------------------------------------------------------------------------

PROGRAMS = {
    "c": "#include <stdio.h>\nint main(void) { return puts(\"\") < 0; }\n",
    "c++": "#include <vector>\nint main() { return (int) std::vector<int>().size(); }\n",
}

CANDIDATES = {"c": ("CC", ("cc", "gcc", "clang")), "c++": ("CXX", ("c++", "g++", "clang++"))}

INSTALLERS = (
    ("apt-get", "sudo apt-get install build-essential"),
    ("dnf", "sudo dnf install gcc gcc-c++ make"),
    ("yum", "sudo yum install gcc gcc-c++ make"),
    ("zypper", "sudo zypper install gcc gcc-c++ make"),
    ("pacman", "sudo pacman -S base-devel"),
    ("apk", "sudo apk add build-base linux-headers"),
)


def compiler_advice(system: str = sys.platform) -> str:
    """The command that installs a C and C++ compiler here."""
    if system == "darwin":
        return "xcode-select --install"
    # On a machine whose PATH is broken the package managers are still where they always are.
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/bin", "/sbin", "/bin"])
    for program, command in INSTALLERS:
        if shutil.which(program, path=places):
            return command
    return "install gcc and g++, or clang"


def find_compiler(language: str, environment: Mapping[str, str]) -> list[str]:
    """The compiler's command line, as CMake would pick it."""
    variable, names = CANDIDATES[language]
    if chosen := environment.get(variable, "").split():
        if shutil.which(chosen[0], path=environment.get("PATH", "")) is None:
            raise SetupError(f"{variable} names {chosen[0]!r}, which is not there; unset it or name a compiler")
        return chosen
    for name in names:
        if found := shutil.which(name, path=environment.get("PATH", "")):
            return [found]
    raise SetupError(f"no {language.upper()} compiler found; install one: {compiler_advice()}")


def fingerprint(language: str, command: list[str]) -> str:
    """Check that the compiler works; return a digest of what it is and which instructions it may use here."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "main"
        source.write_text(PROGRAMS[language], encoding="utf-8")
        made = run([*command, "-x", language, str(source), "-o", str(source) + ".out"])
        if made.returncode != 0:
            said = next((line for line in (made.stderr or made.stdout).splitlines() if "error" in line.lower()), "")
            detail = f" ({said.strip()})" if said else ""
            raise SetupError(
                f"the {language.upper()} compiler {command[0]} cannot build a two-line program{detail}; "
                f"repair it: {compiler_advice()}"
            )
        for native in (["-march=native"], ["-mcpu=native"], []):
            macros = run([*command, *native, "-dM", "-E", "-x", language, os.devnull])
            if macros.returncode == 0:
                return hashlib.sha256("\n".join(sorted(macros.stdout.splitlines())).encode()).hexdigest()
    return hashlib.sha256(run([*command, "--version"]).stdout.encode()).hexdigest()


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run quietly, in a plain locale so that messages can be read."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, env={**os.environ, "LC_ALL": "C"}
        )
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", f"error: {error}")


def check_disk(folder: Path, needed: int, free: Callable[[Path], int] | None = None) -> None:
    """Raise unless ``folder``'s file system has ``needed`` bytes free."""
    have = free(folder) if free else shutil.disk_usage(folder).free
    if have < needed:
        raise SetupError(
            f"{folder} has {have / 1e6:.0f} MB free and the engine's build needs {needed / 1e6:.0f} MB; "
            "free some space, or set GGUFRUN_CACHE to a folder on another disk"
        )


def jobs(cores: int, memory: int) -> int:
    """How many compilers to run at once."""
    return max(1, min(cores, memory // MEMORY_A_JOB if memory else cores))


def machine_jobs() -> int:
    """``jobs`` for this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        memory = 0
    with contextlib.suppress(OSError, ValueError):
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return jobs(cores, memory)


# --- building ---------------------------------------------------------------------------------------------------------


class Progress:
    """One line that moves on a terminal; a line every quarter elsewhere."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._start = clock()
        self._moving = stream.isatty()
        self._quarter = -1
        self._phase = ""

    def _elapsed(self) -> str:
        seconds = int(self._clock() - self._start)
        return f"{seconds // 60}:{seconds % 60:02d}"

    def phase(self, text: str) -> None:
        """A new phase of the work has begun."""
        if text != self._phase:
            self._phase = text
            self._write(f"engine: {text}")

    def step(self, done: int, total: int) -> None:
        """``done`` of ``total`` build steps are finished."""
        quarter = 4 * done // max(total, 1)
        if self._moving or quarter > self._quarter:
            self._quarter = quarter
            self._write(f"engine: compiling {done}/{total}  {self._elapsed()}")

    def close(self) -> None:
        """Leave the moving line."""
        if self._moving:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _write(self, text: str) -> None:
        self._stream.write(f"\r\x1b[K{text}" if self._moving else text + "\n")
        self._stream.flush()


STEP = re.compile(r"^\s*\[(\d+)/(\d+)\]\s")
"""Ninja's counter at the start of a line."""

PHASES = (
    (re.compile(r"^\s*Downloading \S*llama_cpp"), "downloading the source (77 MB)"),
    (re.compile(r"^\s*Installing build dependencies"), "preparing the build tools"),
    (re.compile(r"^\s*\*\*\* Configuring CMake"), "configuring"),
    (re.compile(r"^\s*\*\*\* Making wheel"), "packing the wheel"),
)

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
    (r"SSLError|CERTIFICATE_VERIFY_FAILED", "the package index's certificate is not trusted here"),
    (r"No matching distribution found for llama-cpp-python", "the package index does not have this version"),
)
"""What a failed build's log says, and what that means; the first that is found counts."""


def follow(lines: Iterator[str], log: TextIO, progress: Progress) -> None:
    """Copy the build's output to the log, and say on the way how far it is."""
    for line in lines:
        log.write(line)
        if step := STEP.match(line):
            progress.step(int(step.group(1)), int(step.group(2)))
        else:
            for pattern, text in PHASES:
                if pattern.match(line):
                    progress.phase(text)


def explain(log: str) -> str:
    """What went wrong in a failed build, in a few words; empty if it is none of the usual."""
    return next((text for pattern, text in EXPLANATIONS if re.search(pattern, log, re.IGNORECASE)), "")


def pip_wheel(build: Build, recipe: Path, target: Path) -> list[str]:
    """The command that builds the wheel into ``target``.

    The include goes by ``--config-settings``, not by ``CMAKE_ARGS``: that variable stays the user's, and is split at
    spaces. pip's own cache is left out, for it knows nothing of flags and would return any earlier build.
    """
    settings = {**build.defines, "CMAKE_PROJECT_llama_cpp_INCLUDE": str(recipe)}
    return [
        sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-cache-dir", "--disable-pip-version-check",
        "--progress-bar", "off", "--no-binary", PACKAGE,
        *(f"--config-settings=cmake.define.{name}={value}" for name, value in settings.items()),
        "--wheel-dir", str(target), f"{PACKAGE}=={build.version}",
    ]  # fmt: skip


def sweep(wheels: Path, age: float = 24 * 3600) -> None:
    """Remove what builds left that were killed: folders that are older than any build takes."""
    for folder in wheels.glob(f"{WORK}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > age:
                shutil.rmtree(folder, ignore_errors=True)


Builder = Callable[[Build, Path, Path], None]
"""Builds the wheel into the first folder, using it for temporary files, and writes its log to the second path."""


def build_wheel(build: Build, folder: Path, log: Path) -> None:
    """Build the wheel into ``folder``; raise ``SetupError`` with the end of the log if that fails."""
    # Sources and objects go beside the wheel: that disk was checked, while /tmp may be small, or mounted noexec.
    scratch = folder / "tmp"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch), "LC_ALL": "C", "PYTHONUNBUFFERED": "1"}
    environment.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(machine_jobs()))
    progress = Progress(sys.stderr)
    progress.phase(f"building {PACKAGE} {build.version} from source, once; some minutes")
    with log.open("w", encoding="utf-8", errors="replace") as stream:
        process = subprocess.Popen(
            pip_wheel(build, ROOT / "tools" / "engine.cmake", folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=environment, text=True, errors="replace",
        )  # fmt: skip
        try:
            assert process.stdout is not None
            follow(iter(process.stdout), stream, progress)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            progress.close()
        status = process.wait()
    shutil.rmtree(scratch, ignore_errors=True)
    if status != 0:
        raise failed(log)


def failed(log: Path) -> SetupError:
    """The error for a failed build: one line if the cause is a usual one, else the log's end."""
    text = log.read_text(encoding="utf-8", errors="replace")
    if reason := explain(text):
        return SetupError(f"the engine could not be built: {reason} (log: {log})")
    tail = "\n".join(f"  {line[:200]}" for line in text.rstrip().splitlines()[-20:])
    return SetupError(f"the engine could not be built; the log ends:\n{tail}\nthe whole log: {log}")


# --- the cache --------------------------------------------------------------------------------------------------------


def cached_wheel(folder: Path) -> Path | None:
    """The wheel kept in ``folder``, if there is one."""
    return next(iter(sorted(folder.glob("*.whl"))), None)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold ``path`` against other builds of the same key; on a file system without locks, go on without."""
    import fcntl

    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("engine: another setup is building it; waiting")
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError:
            pass
        yield


def obtain(build: Build, wheels: Path, builder: Builder = build_wheel, fresh: bool = False) -> tuple[Path, bool]:
    """The wheel for ``build`` and whether it had to be built. Built in a folder beside, then renamed into place.

    ``fresh`` sets a wheel that stands aside and builds anew.
    """
    place = wheels / build.key
    try:
        wheels.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"cannot write to {wheels} ({error.strerror})"
        raise SetupError(f"{what}; set GGUFRUN_CACHE to a folder of yours") from error
    if not fresh and (wheel := cached_wheel(place)):
        return wheel, False
    with lock(wheels / f"{build.key}.lock"):
        if not fresh and (wheel := cached_wheel(place)):
            return wheel, False
        sweep(wheels)
        check_disk(wheels, DISK_NEEDED)
        work = Path(tempfile.mkdtemp(prefix=WORK, dir=wheels))
        try:
            builder(build, work, wheels / f"{build.key}.log")
            if cached_wheel(work) is None:
                raise SetupError(f"the build left no wheel in {work}")
            (work / "build.json").write_text(json.dumps(asdict(build), indent=2) + "\n", encoding="utf-8")
            work.chmod(0o755)
            shutil.rmtree(place, ignore_errors=True)
            work.rename(place)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    wheel = cached_wheel(place)
    assert wheel is not None
    return wheel, True


# --- installing -------------------------------------------------------------------------------------------------------


def install(wheel: Path, key: str, environment: Path) -> None:
    """Install ``wheel`` into the virtual environment and note its key there, unless that very build is installed."""
    note = environment / "engine-key"
    if note.is_file() and note.read_text(encoding="utf-8") == key and works():
        return
    note.unlink(missing_ok=True)
    # Its own dependencies come with the project's; here only the wheel counts, whatever version stands there.
    done = run([
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
        "--force-reinstall", str(wheel),
    ])  # fmt: skip
    if done.returncode != 0:
        raise SetupError(f"the engine's wheel could not be installed: {done.stderr.strip()[-500:]}")
    note.write_text(key, encoding="utf-8")


LOAD = """
import ctypes, importlib.util, pathlib, sys
folder = pathlib.Path(importlib.util.find_spec("llama_cpp").origin).parent / "lib"
names = {"darwin": "libllama.dylib"}
library = ctypes.CDLL(str(folder / names.get(sys.platform, "libllama.so")))
library.llama_backend_init()
"""
"""Loads the engine's library; needs none of the Python packages that its bindings import."""


def works() -> bool:
    """Whether the installed engine loads here; tried in a process of its own, which an illegal instruction may end."""
    return run([sys.executable, "-c", LOAD]).returncode == 0


def main(arguments: list[str]) -> None:
    """Make the engine available in the virtual environment that runs this."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rebuild", action="store_true", help="build even if the cache has the wheel")
    parser.add_argument("--print-wheel", action="store_true", help="print the wheel's path instead of installing it")
    options = parser.parse_args(arguments)
    if sys.prefix == sys.base_prefix and not options.print_wheel:
        raise SetupError("run this with a virtual environment's python (make setup does)")
    compilers = [fingerprint(language, find_compiler(language, os.environ)) for language in CANDIDATES]
    build = describe(ROOT, " ".join(compilers), os.environ)
    wheels = cache_root(os.environ) / "wheels"
    began = time.monotonic()
    wheel, built = obtain(build, wheels, fresh=options.rebuild)
    if options.print_wheel:
        print(wheel)
        return
    install(wheel, build.key, Path(sys.prefix))
    if not built and not works():
        say("engine: the kept wheel does not run here; building it anew")
        wheel, built = obtain(build, wheels, fresh=True)
        install(wheel, build.key, Path(sys.prefix))
    if not works():
        raise SetupError(f"the engine was built but does not load; see {wheels / (build.key + '.log')}")
    if built:
        say(f"engine: built in {time.monotonic() - began:.0f} s and kept in {wheel.parent}")
    else:
        say(f"engine: {PACKAGE} {build.version} from {wheel.parent}")


def say(text: str) -> None:
    """One line of talk."""
    print(text, file=sys.stderr, flush=True)


def fail(error: SetupError) -> NoReturn:
    """Say what is wrong, and leave."""
    say(f"setup: {error}")
    sys.exit(1)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SetupError as error:
        fail(error)
    except KeyboardInterrupt:
        say("setup: interrupted")
        sys.exit(130)
