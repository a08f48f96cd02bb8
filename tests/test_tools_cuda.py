"""`make cuda` without a card and without a toolkit: what is found, chosen, refused, and how the wheel is named."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import Oracle
from tools.setup import backends, build, cards, pypi, toolkit, wheel
from tools.setup.common import ROOT, SetupError
from tools.setup.plan import CPU

NONE = cards.Graphics()
H100 = cards.Graphics((cards.Card("NVIDIA H100 80GB HBM3", "90"),), "580.65.06")

# --- cards and architectures ------------------------------------------------------------------------------------------


def test_nvidia_smi_is_understood() -> None:
    text = "580.65.06, 9.0, NVIDIA H100 80GB HBM3\n580.65.06, 8.9, NVIDIA GeForce RTX 4090, a name with a comma\n"
    found = cards.parse(text)
    assert found.driver == "580.65.06" and found.cuda == 13
    assert found.cards == (
        cards.Card("NVIDIA H100 80GB HBM3", "90"),
        cards.Card("NVIDIA GeForce RTX 4090, a name with a comma", "89"),
    )
    assert cards.parse("460.32.03, unknown, Tesla K80\n").cards == (cards.Card("Tesla K80", None),)
    assert cards.parse("No devices were found\n") == NONE
    assert cards.parse("") == NONE and NONE.cuda is None


@pytest.mark.parametrize(
    ("driver", "cuda"), [("580.65.06", 13), ("575.57", 12), ("525.60.13", 12), ("470.1", 0), ("610", 13)]
)
def test_a_driver_runs_cuda_up_to(driver: str, cuda: int) -> None:
    assert cards.Graphics(driver=driver).cuda == cuda


def test_a_drivers_library_tells_what_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container without nvidia-smi, and with NVIDIA's packages for compatibility beside an older driver."""
    source = tmp_path / "cuda.c"
    source.write_text(
        """
        #include <string.h>
        int cuInit(int flags) { return 0; }
        int cuDriverGetVersion(int * version) { *version = 13000; return 0; }
        int cuDeviceGetCount(int * count) { *count = 2; return 0; }
        int cuDeviceGet(int * device, int index) { *device = index; return 0; }
        int cuDeviceGetName(char * name, int size, int device) { strcpy(name, "Example, 80 GB"); return 0; }
        int cuDeviceGetAttribute(int * value, int what, int device) { *value = what == 75 ? 9 - device : 0; return 0; }
        """
    )
    made = subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(tmp_path / "libcuda.so.1")], check=False)
    assert made.returncode == 0
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setattr(cards, "SMI", ())
    two = (cards.Card("Example, 80 GB", "90"), cards.Card("Example, 80 GB", "80"))
    alone = cards.graphics()
    assert (alone.cards, alone.runs, alone.cuda) == (two, 13, 13) and alone.driver
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho '550.54, 9.0, Example H1'\n")
    smi.chmod(0o755)
    monkeypatch.setattr(cards, "SMI", (str(smi),))
    both = cards.graphics()
    assert (both.cards, both.driver, both.cuda) == ((cards.Card("Example H1", "90"),), "550.54", 13)
    # a driver of the kernel that does not go with its programs: they say so, and the library does not start
    smi.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n")
    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    assert cards.graphics().cards == ()


def test_what_a_library_prints() -> None:
    ada = cards.Card("Example 40", "89")
    assert cards.parse_library("12040\n8.9, Example 40\n") == cards.Graphics((ada,), None, 12)
    assert cards.parse_library("") == cards.parse_library("Traceback\n") == NONE
    assert cards.Graphics(driver="470.1", runs=11).cuda == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("89,90", ("89", "90")),
        ("8.9 9.0", ("89", "90")),
        ("sm_90;90", ("90",)),
        ("120a-real, 75-virtual", ("120a-real", "75-virtual")),
    ],
)
def test_architectures_that_are_asked_for(text: str, found: tuple[str, ...]) -> None:
    assert cards.asked(text) == found
    assert cards.architectures({"CUDA_ARCHS": text}, H100, 13, portable=True) == found


@pytest.mark.parametrize("text", ["ninety", "9", "89,x", "native"])
def test_a_wrong_architecture_is_one_line(text: str) -> None:
    with pytest.raises(SetupError, match=r"CUDA_ARCHS: .* is no architecture; give .* such as 89,90"):
        cards.asked(text)


def test_architectures_come_from_the_cards_or_are_portable() -> None:
    two = cards.Graphics((cards.Card("a", "90"), cards.Card("b", "89"), cards.Card("c", "90")), "580.1")
    assert cards.architectures({}, two, 13, portable=False) == ("89", "90")
    assert cards.architectures({}, two, 13, portable=True) == cards.PORTABLE[13]
    assert cards.architectures({}, NONE, 12, portable=False) == cards.PORTABLE[12]


def test_the_compiler_must_know_the_architecture() -> None:
    known = cards.parse_known("compute_75\ncompute_90\ncompute_120\n")
    assert known == ("75", "90", "120")
    cards.check(("75-virtual", "120a-real", "90"), known, "nvcc")
    with pytest.raises(SetupError, match=r"nvcc 13.0 does not build for .* 6.1, only for 7.5, 9.0, 12.0"):
        cards.check(("61-virtual",), known, "nvcc 13.0")


# --- toolkits ---------------------------------------------------------------------------------------------------------


def fake_nvcc(folder: Path, version: str = "13.0.88", says: str = "") -> Path:
    """A compiler that tells its version and root, and builds everything, or fails with what it ``says``."""
    path = folder / "bin" / "nvcc"
    path.parent.mkdir(parents=True)
    path.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *--version*) echo "release, V{version}";;\n'
        f"*--dryrun*) echo '#$ TOP={folder}/bin/..' >&2;;\n"
        f"""*-ccbin*) exit 0;; *) [ -z '{says}' ] || {{ echo '{says}' >&2; exit 1; }};; esac\n"""
    )
    path.chmod(0o755)
    return path


def test_the_users_toolkit_goes_first(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "local" / "cuda-13.0"
    fake_nvcc(mine, "13.1.80")
    fake_nvcc(other)
    system = str(tmp_path / "local")
    assert toolkit.choose({"CUDA_HOME": str(mine), "PATH": ""}, H100, system) == toolkit.Toolkit("13.1.80", mine)
    assert toolkit.choose({"PATH": str(mine / "bin")}, H100, system).root == mine
    assert toolkit.choose({"PATH": ""}, H100, system) == toolkit.Toolkit("13.0.88", other)
    assert toolkit.choose({"PATH": "", "CUDA_TOOLKIT": "pypi"}, H100, system) == toolkit.PYPI


def test_a_wrapper_is_seen_through(tmp_path: Path) -> None:
    real = fake_nvcc(tmp_path / "cuda")
    wrapper = tmp_path / "bin" / "nvcc"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    assert toolkit.choose({"PATH": f"{wrapper.parent}:/bin:/usr/bin"}, NONE, str(tmp_path)).root == tmp_path / "cuda"


def test_the_newest_that_suits_the_driver(tmp_path: Path) -> None:
    for version in ("12.4.131", "12.10.1", "13.0.88"):
        fake_nvcc(tmp_path / f"cuda-{version.rpartition('.')[0]}", version)
    found = toolkit.choose({"PATH": ""}, cards.Graphics(driver="550.54"), str(tmp_path))
    assert found.version == "12.10.1"
    assert toolkit.choose({"PATH": ""}, H100, str(tmp_path)).version == "13.0.88"
    assert toolkit.choose({"PATH": ""}, NONE, str(tmp_path)).version == "13.0.88"


def test_without_a_toolkit_pypis_is_taken(tmp_path: Path) -> None:
    assert toolkit.choose({"PATH": ""}, NONE, str(tmp_path)) == toolkit.PYPI
    assert toolkit.choose({"PATH": ""}, H100, str(tmp_path)) == toolkit.PYPI


def test_half_a_toolkit_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_nvcc(tmp_path / "cuda-13.0", says="fatal error: cublas_v2.h: No such file or directory")
    found = toolkit.choose({"PATH": ""}, H100, str(tmp_path))
    assert found == toolkit.PYPI and found.instead.endswith("is not whole: no cublas_v2.h")
    # said when something is built, not whenever a checkout is set up
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("environment", "graphics", "said"),
    [
        ({}, cards.Graphics(driver="550.54"), r"driver 550.54 runs CUDA 12 at most.*update it to 580 or newer, or"),
        ({}, cards.Graphics(driver="470.1"), r"driver 470.1 is too old for CUDA 12; install 580"),
        ({"CUDA_TOOLKIT": "system"}, NONE, r"no nvcc found in CUDA_HOME, PATH and /usr/local/cuda\*; install"),
        ({"CUDA_TOOLKIT": "conda"}, NONE, r"CUDA_TOOLKIT is 'conda'; say system or pypi"),
        ({"CUDA_HOME": "/nowhere"}, NONE, r"CUDA_HOME: /nowhere/bin/nvcc does not run; unset it"),
    ],
)
def test_what_cannot_be_is_one_line(
    tmp_path: Path, environment: dict[str, str], graphics: cards.Graphics, said: str
) -> None:
    with pytest.raises(SetupError, match=said) as caught:
        toolkit.choose({"PATH": "", **environment}, graphics, str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_named_toolkit_that_is_too_new_for_the_driver(tmp_path: Path) -> None:
    fake_nvcc(tmp_path / "cuda")
    with pytest.raises(SetupError, match=r"CUDA_HOME: CUDA 13.0.88 from .* wants a newer driver than 550.54"):
        toolkit.choose({"CUDA_HOME": str(tmp_path / "cuda"), "PATH": ""}, cards.Graphics(driver="550.54"))


TOO_NEW = "#error -- unsupported GNU version! gcc versions later than 13 are not supported!"


def test_too_new_a_host_compiler_gives_way_to_an_older_one(tmp_path: Path) -> None:
    fake_nvcc(tmp_path / "cuda", "12.4.131", says=TOO_NEW)
    kit = toolkit.Toolkit("12.4.131", tmp_path / "cuda")
    host, problem = toolkit.trial(kit, {"PATH": ""})
    assert host == "" and "\n" not in problem
    assert "the C++ compiler is too new for CUDA 12.4.131" in problem and "install g++-13" in problem
    older = tmp_path / "g++-12"
    older.write_text("#!/bin/sh\n")
    older.chmod(0o755)
    assert toolkit.trial(kit, {"PATH": str(tmp_path)}) == (str(older), "")


def test_the_tree_of_the_packages_becomes_a_toolkit(tmp_path: Path) -> None:
    for name in ("bin/nvcc", "nvvm/bin/cicc", "lib/libcublas.so.13", "lib/libcudart.so.13"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o644)
    pypi.repair(tmp_path)
    pypi.repair(tmp_path)
    assert (tmp_path / "lib64" / "libcublas.so").resolve() == tmp_path / "lib" / "libcublas.so.13"
    assert os.access(tmp_path / "bin" / "nvcc", os.X_OK) and os.access(tmp_path / "nvvm" / "bin" / "cicc", os.X_OK)
    with pytest.raises(SetupError, match="left no CUDA toolkit"):
        pypi.repair(tmp_path / "lib")


# --- plans ------------------------------------------------------------------------------------------------------------


def test_the_plan_says_what_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkit, "places", lambda environment, system: iter(()))
    plan = backends.cuda({"PATH": ""}, tmp_path, H100)
    assert plan.defines == {"GGML_CUDA": "ON", "CMAKE_CUDA_ARCHITECTURES": "90"}
    assert plan.libraries == ("nvidia-cuda-runtime==13.0.96", "nvidia-cublas==13.1.*")
    assert plan.requires == pypi.RUNTIME and plan.tag == "cuda13088_sm90" and "PyPI" in plan.gpu
    handed_on = backends.cuda({"PATH": ""}, tmp_path, H100, portable=True)
    assert handed_on.defines["GGML_NATIVE"] == "OFF" and handed_on.minutes > plan.minutes
    assert handed_on.defines["CMAKE_CUDA_ARCHITECTURES"] == ";".join(cards.PORTABLE[13])
    with pytest.raises(SetupError, match="CUDA_ARCHS instead"):
        backends.cuda({"PATH": "", "CMAKE_ARGS": "-DCMAKE_CUDA_ARCHITECTURES=90"}, tmp_path, H100)
    keys = {build.describe(ROOT, "c", {}, one).key for one in (CPU, plan, handed_on)}
    assert len(keys) == 3


def test_the_plain_build_does_not_depend_on_cudas_files() -> None:
    names = {path.name for path in build.recipe_files(ROOT)}
    assert {"engine.cmake", "ggml-kernels.cmake"} <= names
    assert not names & {"cuda.cmake", "cuda-driver.c"}


def test_libraries_are_looked_for_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "lib64").mkdir()
    system = toolkit.Toolkit("12.4.1", tmp_path)
    beside = "$ORIGIN/../../nvidia/cublas/lib;$ORIGIN/../../nvidia/cuda_runtime/lib"
    assert backends.run_path(system, False) == f"$ORIGIN;{tmp_path}/lib64;{beside}"
    assert backends.run_path(toolkit.PYPI, True) == "$ORIGIN;$ORIGIN/../../nvidia/cu13/lib"


# --- the wheel --------------------------------------------------------------------------------------------------------


def test_a_wheel_tells_what_it_computes_on_and_can_be_installed(tmp_path: Path) -> None:
    plain = tmp_path / "some_engine-1.2-py3-none-any.whl"
    info = "some_engine-1.2.dist-info"
    with zipfile.ZipFile(plain, "w") as archive:
        archive.writestr("some_engine/__init__.py", "")
        for name in ("libllama", "libggml-cuda"):
            for ending in ("", ".0", ".0.25.3"):
                archive.writestr(f"some_engine/lib/{name}.so{ending}", name)
                archive.writestr(f"lib/{name}.so{ending}", name)
        archive.writestr("include/llama.h", "")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: some-engine\nVersion: 1.2\n\nThe text.\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    made = wheel.label(plain, "cuda13088_sm75virtual", ("other>=13.0,<14",))
    assert made.name == "some_engine-1.2-1cuda13088_sm75virtual-py3-none-any.whl" and not plain.exists()
    target = tmp_path / "target"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*command, str(made)], check=True, capture_output=True)
    (found,) = importlib.metadata.distributions(path=[str(target)])
    assert found.requires == ["other>=13.0,<14"]
    assert "Build: 1cuda13088_sm75virtual" in (target / info / "WHEEL").read_text()
    assert wheel.label(made, "", ()) == made
    libraries = sorted(path.name for path in target.rglob("*.so*"))
    assert libraries == ["libggml-cuda.so.0", "libllama.so", "libllama.so.0"]
    assert not (target / "lib").exists() and not (target / "include").exists()


# --- the driver, looked up at run time --------------------------------------------------------------------------------

HEADER = """
#define CUDAAPI
typedef int CUresult, CUdevice, CUdevice_attribute, CUmemAllocationProp, CUmemAccessDesc;
typedef int CUmemAllocationGranularity_flags;
typedef unsigned long long CUdeviceptr, CUmemGenericAllocationHandle;
#define CUDA_ERROR_NOT_INITIALIZED 3
#define cuMemRelease cuMemRelease_v2
"""
"""As much of ``cuda.h`` as the file needs, with a function under a newer name."""

CALLER = """
int cuDeviceGet(int *, int); int cuMemRelease_v2(unsigned long long);
int device(int which) { int got = 0, error = cuDeviceGet(&got, which); return error ? -error : got; }
int release(void) { return cuMemRelease_v2(5); }
"""

DRIVER = """
int cuDeviceGet(int * device, int which) { *device = which + 100; return 0; }
int cuMemRelease(unsigned long long handle) { return 1; }
int cuMemRelease_v2(unsigned long long handle) { return (int) handle + 2; }
"""

ASK = "import ctypes, sys; lib = ctypes.CDLL(sys.argv[1]); print(lib.device(7), lib.release())"


@pytest.mark.skipif(sys.platform != "linux", reason="CUDA is built on Linux")
def test_the_driver_is_looked_up_when_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "cuda.h").write_text(HEADER)
    (tmp_path / "caller.c").write_text(CALLER)
    (tmp_path / "driver.c").write_text(DRIVER)
    library = tmp_path / "libcaller.so"
    compiler = ["cc", "-shared", "-fPIC", "-O1"]
    ours = str(ROOT / "tools" / "setup" / "cuda-driver.c")
    subprocess.run([*compiler, f"-I{tmp_path}", ours, f"{tmp_path}/caller.c", "-o", str(library), "-ldl"], check=True)
    (tmp_path / "driver").mkdir()
    subprocess.run([*compiler, f"{tmp_path}/driver.c", "-o", f"{tmp_path}/driver/libcuda.so.1"], check=True)

    def asked(folder: str) -> str:
        environment = {**os.environ, "LD_LIBRARY_PATH": folder}
        return subprocess.run(
            [sys.executable, "-c", ASK, str(library)], capture_output=True, text=True, check=True, env=environment
        ).stdout.strip()

    assert asked(str(tmp_path / "driver")) == "107 7"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert asked("") == "-3 3"


def test_every_call_of_the_driver_is_forwarded(oracle: Oracle) -> None:
    calls = set()
    for path in (oracle.convert.parent / "ggml" / "src" / "ggml-cuda").rglob("*.cu*"):
        calls |= set(re.findall(r"\b(cu[A-Z][a-z]\w+)\(", path.read_text(encoding="utf-8")))
    text = (ROOT / "tools" / "setup" / "cuda-driver.c").read_text(encoding="utf-8")
    assert "cuMemCreate" in calls
    assert calls == set(re.findall(r"^FORWARD\((\w+),", text, re.MULTILINE))
