"""A CUDA toolkit: found on this system, or taken from PyPI; tried before it is used."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tools.setup.cards import Graphics
from tools.setup.common import SetupError, run

CHOICE = "CUDA_TOOLKIT"
"""The variable that settles where the toolkit comes from: ``system``, ``pypi``, or empty for whichever serves."""

TRIAL = """#include <cublas_v2.h>
#include <cuda.h>
__global__ void nothing() {}
int main() { nothing<<<1, 1>>>(); cublasHandle_t handle; return cublasCreate(&handle) == CUBLAS_STATUS_SUCCESS; }
"""
"""Needs all that the engine needs: the compiler, the host's compiler, the runtime and cuBLAS."""


@dataclass(frozen=True)
class Toolkit:
    """``root`` is None for PyPI's until it is fetched. ``version`` is such as ``13.0.88``. ``instead`` says why another
    one, which is on this system, was passed over.
    """

    version: str
    root: Path | None
    instead: str = field(default="", compare=False)

    @property
    def major(self) -> int:
        """13 of ``13.0.88``."""
        return int(self.version.partition(".")[0])

    @property
    def name(self) -> str:
        """For people."""
        return f"CUDA {self.version} from {self.root or 'PyPI'}"

    @property
    def compiler(self) -> Path:
        """``nvcc``, of a toolkit that is here."""
        assert self.root is not None
        return self.root / "bin" / "nvcc"


PYPI = Toolkit("13.0.88", None)
"""What PyPI has. Its packages for CUDA 12 lack the compiler itself (they carry ``ptxas`` alone), so there is no older
one. 13.0 runs with every driver that runs CUDA 13; a newer one's intermediate code would ask for a newer driver.
"""


def places(environment: Mapping[str, str], system: str = "/usr/local") -> Iterator[tuple[Path, bool]]:
    """Compilers that may be there, the likeliest first, and whether the user named that one."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if named := environment.get(variable):
            yield Path(named) / "bin" / "nvcc", True
    if found := shutil.which("nvcc", path=environment.get("PATH", "")):
        yield Path(found), False
    versioned = sorted(Path(system).glob("cuda-*"), key=_numbers, reverse=True)
    for folder in (Path(system) / "cuda", *versioned):
        if (folder / "bin" / "nvcc").is_file():
            yield folder / "bin" / "nvcc", False


def _numbers(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.name)]


def inspect(compiler: Path) -> Toolkit | None:
    """The toolkit that ``compiler`` belongs to; None if it does not run. A wrapper script is seen through."""
    version = re.search(r"\bV(\d+\.\d+\.\d+)", run([str(compiler), "--version"]).stdout)
    if not version:
        return None
    told = run([str(compiler), "--dryrun", "-E", "-x", "cu", os.devnull])
    top = re.search(r"^#\$ TOP=(.+)$", told.stdout + told.stderr, re.MULTILINE)
    root = Path(top[1].strip()) if top else compiler.resolve().parent.parent
    return Toolkit(version[1], root.resolve())


def choose(environment: Mapping[str, str], graphics: Graphics, system: str = "/usr/local") -> Toolkit:
    """The toolkit to build with: the system's, if it is whole and suits the driver; else PyPI's.

    Raises SetupError, in one line, for a driver that is too old, a toolkit that the user named and that will not do, or
    none where only the system's may be used.
    """
    wish = environment.get(CHOICE, "").lower()
    if wish not in ("", "auto", "system", "pypi"):
        raise SetupError(f"{CHOICE} is {wish!r}; say system or pypi, or leave it empty")
    if graphics.cuda == 0:
        raise SetupError(f"the driver {graphics.driver} is too old for CUDA 12; install 580 or newer")
    passed_over = ""
    if wish != "pypi":
        for compiler, named in places(environment, system):
            toolkit = inspect(compiler)
            problem = f"{compiler} does not run" if toolkit is None else unsuited(toolkit, graphics)
            if toolkit is not None and not problem:
                problem = trial(toolkit, environment)[1]
            if toolkit is not None and not problem:
                return toolkit
            if named:
                raise SetupError(f"CUDA_HOME: {problem}; unset it to have another looked for")
            passed_over = passed_over or problem
    if wish == "system":
        raise SetupError(
            f"{passed_over or 'no nvcc found in CUDA_HOME, PATH and /usr/local/cuda*'}; "
            f"install a CUDA toolkit, or leave {CHOICE} empty to take PyPI's"
        )
    if graphics.cuda is not None and graphics.cuda < PYPI.major:
        raise SetupError(
            f"the driver {graphics.driver} runs CUDA {graphics.cuda} at most, whose compiler PyPI does not have"
            f"{f' ({passed_over})' if passed_over else ''}; "
            f"update it to 580 or newer, or install the CUDA {graphics.cuda} toolkit and set CUDA_HOME"
        )
    return replace(PYPI, instead=passed_over)


def unsuited(toolkit: Toolkit, graphics: Graphics) -> str:
    """Why this version does not serve here; empty if it does."""
    if toolkit.major < 12:
        return f"{toolkit.name} is too old, 12 is the first that serves"
    if graphics.cuda is not None and toolkit.major > graphics.cuda:
        return f"{toolkit.name} wants a newer driver than {graphics.driver}"
    return ""


def trial(
    toolkit: Toolkit, environment: Mapping[str, str], attempt: Callable[[Toolkit, str], str] | None = None
) -> tuple[str, str]:
    """Build a small program. Returns the host compiler to name to nvcc (empty: its own choice), and what is wrong
    (empty: nothing). A GCC that is too new for the toolkit is passed over for an older one that is installed.
    """
    attempt = attempt or build_trial
    host = environment.get("CUDAHOSTCXX", "")
    said = attempt(toolkit, host)
    if not said:
        return host, ""
    too_new = re.search(r"unsupported (?:GNU|\w*\s?clang) version.*?([\d.]+)", said, re.IGNORECASE)
    if too_new and not host:
        for name in [f"g++-{number}" for number in range(15, 8, -1)]:
            path = shutil.which(name, path=environment.get("PATH", ""))
            if path and not attempt(toolkit, path):
                return path, ""
        newest = re.search(r"later than (\d+)|less than (\d+)", said)
        limit = newest and (newest[1] or newest[2])
        return "", (
            f"the C++ compiler is too new for {toolkit.name}"
            f"{f', which takes GCC up to {limit}: install g++-{limit}' if limit else ''} (or name one in CUDAHOSTCXX)"
        )
    return host, explain(toolkit, said)


def build_trial(toolkit: Toolkit, host: str) -> str:
    """What the compiler says when it cannot build the program; empty if it can."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "trial.cu"
        source.write_text(TRIAL, encoding="utf-8")
        chosen = ["-ccbin", host] if host else []
        made = run([str(toolkit.compiler), *chosen, str(source), "-o", f"{folder}/trial", "-lcublas"])
        return "" if made.returncode == 0 else (made.stderr + made.stdout).strip() or f"exit status {made.returncode}"


def explain(toolkit: Toolkit, said: str) -> str:
    """A failed trial in one line."""
    if missing := re.search(r"(cublas_v2\.h|cuda_runtime\.h|cuda\.h): No such file|cannot find -l(\w+)", said):
        return f"{toolkit.name} is not whole: no {missing[1] or missing[2]}"
    first = next((line.strip() for line in said.splitlines() if "error" in line.lower()), said.splitlines()[0])
    return f"{toolkit.name} cannot build a small program ({first[:160]})"
