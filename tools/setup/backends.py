"""The plans by name: what `make setup`, `make cuda`, `make cuda-wheel` and `make vulkan` build."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tools.setup import cards, pypi, vulkan
from tools.setup import toolkit as kits
from tools.setup.common import SetupError, run, say
from tools.setup.plan import CPU, Plan, Ready

HERE = Path(__file__).resolve().parent

NAMES = ("cpu", "cuda", "vulkan")

MINUTES_AN_ARCHITECTURE = 31
MINUTES_BESIDE = 5
"""Minutes of one core, measured with nvcc 13.0 and GCC 12: docs/benchmarks.md."""

CUDA_DISK = 2 << 30


def plan_for(name: str, environment: Mapping[str, str], cache: Path, portable: bool = False) -> Plan:
    """The plan called ``name``. Raises SetupError when this machine lacks what it needs."""
    if name == "cuda":
        return cuda(environment, cache, cards.graphics(), portable)
    if name == "vulkan":
        return vulkan.plan(environment)
    return CPU


def cuda(environment: Mapping[str, str], cache: Path, graphics: cards.Graphics, portable: bool = False) -> Plan:
    """CUDA for the cards here, for ``CUDA_ARCHS``, or for most cards."""
    toolkit = kits.choose(environment, graphics)
    wanted = cards.architectures(environment, graphics, toolkit.major, portable)
    if "CMAKE_CUDA_ARCHITECTURES" in environment.get("CMAKE_ARGS", ""):
        raise SetupError("CMAKE_ARGS names CUDA's architectures; name them with CUDA_ARCHS instead")
    from_pypi = toolkit.root is None
    defines = {"GGML_CUDA": "ON", "CMAKE_CUDA_ARCHITECTURES": ";".join(wanted)}
    if portable:
        defines |= {"GGML_NATIVE": "OFF", "GGUFRUN_PORTABLE": "ON"}

    def prepare() -> Ready:
        if toolkit.instead:
            say(f"cuda: {toolkit.instead}; taking PyPI's")
        kit = pypi.fetch(toolkit, cache / "toolkits") if from_pypi else toolkit
        host, problem = kits.trial(kit, environment)
        if problem:
            raise SetupError(problem)
        known = cards.parse_known(run([str(kit.compiler), "--list-gpu-arch"]).stdout)
        cards.check(wanted, known, f"nvcc {kit.version}")
        present = [f"{card.name} ({card.capability or 'unknown'})" for card in graphics.cards]
        say(f"cuda: {kit.name}, for {' '.join(wanted)}{'; here: ' + ', '.join(present) if present else ''}")
        if not present and not portable and not environment.get("CUDA_ARCHS"):
            say("cuda: no card is seen here, so most cards are built for; CUDA_ARCHS=89 (the capability) is quicker")
        places = {
            "CMAKE_CUDA_COMPILER": str(kit.compiler),
            "CUDAToolkit_ROOT": str(kit.root),
            "GGUFRUN_RUN_PATH": run_path(kit, from_pypi),
        }
        if host:
            places["CMAKE_CUDA_HOST_COMPILER"] = host
        return Ready(places)

    minutes = MINUTES_BESIDE + MINUTES_AN_ARCHITECTURE * len(wanted)
    return Plan(
        name="cuda",
        defines=defines,
        include=HERE / "cuda.cmake",
        recipe=(HERE / "cuda.cmake", HERE / "cuda-driver.c"),
        gpu=f"{toolkit.name}, {' '.join(wanted)}",
        tag=f"cuda{toolkit.version.replace('.', '')}" + ("" if portable else "_sm" + "_".join(wanted).replace("-", "")),
        requires=pypi.RUNTIME if from_pypi else (),
        libraries=pypi.BUILT_WITH if from_pypi else (),
        minutes=minutes,
        disk=CUDA_DISK,
        prepare=prepare,
    )


def run_path(toolkit: kits.Toolkit, from_pypi: bool) -> str:
    """Where the engine's libraries look for CUDA's: CMake's list."""
    beside = (
        ["$ORIGIN/../../nvidia/cu13/lib"]
        if toolkit.major >= 13
        else ["$ORIGIN/../../nvidia/cublas/lib", "$ORIGIN/../../nvidia/cuda_runtime/lib"]
    )
    # a toolkit of the system is where this machine has it; another machine may have PyPI's packages
    system = [] if from_pypi else [str(path) for path in _library_folders(toolkit)]
    return ";".join(["$ORIGIN", *system, *beside])


def _library_folders(toolkit: kits.Toolkit) -> list[Path]:
    assert toolkit.root is not None
    return [path for path in (toolkit.root / "lib64", toolkit.root / "lib") if path.is_dir()][:1]
