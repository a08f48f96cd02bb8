"""The engine's wheel: what its key depends on, how it is kept, and what is said when the machine lacks something."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tools.setup import build, cache, common, compiling, machine, progress, server
from tools.setup.common import SetupError
from tools.setup.plan import Plan, Ready

BUILD = build.Build(
    version="1.2.3",
    defines={"A": "ON"},
    recipe="cafe",
    steering={},
    target="linux_x86_64",
    libc="glibc 2.36",
    compilers="aa bb",
)


def leave_wheel(made: build.Build, folder: Path, log: Path) -> None:
    log.write_text("built\n")
    (folder / f"engine-{made.version}-py3-none-any.whl").write_text("wheel")


def no_builder(made: build.Build, folder: Path, log: Path) -> None:
    raise AssertionError("the cache has it")


# --- the key ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"version": "1.2.4"},
        {"defines": {"A": "OFF"}},
        {"recipe": "beef"},
        {"steering": {"CMAKE_ARGS": "-DGGML_CUDA=ON"}},
        {"target": "macosx_14_0_arm64"},
        {"libc": "glibc 2.17"},
        {"compilers": "aa cc"},
    ],
)
def test_every_input_changes_the_key(change: dict[str, object]) -> None:
    assert replace(BUILD, **change).key != BUILD.key  # type: ignore[arg-type]


def test_the_same_inputs_give_the_same_key() -> None:
    assert replace(BUILD).key == BUILD.key
    assert BUILD.key.startswith("1.2.3-linux_x86_64-")


def test_the_recipe_ignores_comments_only(tmp_path: Path) -> None:
    cmake, kernel = tmp_path / "a.cmake", tmp_path / "a.c"

    def digest(cmake_text: str, kernel_text: str) -> str:
        cmake.write_text(cmake_text)
        kernel.write_text(kernel_text)
        return build.recipe_digest([kernel, cmake])

    one = digest("set(A 1)\n", "#define A 1\n")
    assert digest("# why\n\n  set(A 1)  \n", "// why\n#define A 1\n") == one
    assert digest("set(A 2)\n", "#define A 1\n") != one
    assert digest("set(A 1)\n", "#define A 2\n") != one


def test_the_users_variables_count_and_others_do_not() -> None:
    assert build.steering({"CMAKE_ARGS": "-DX=1", "HOME": "/h", "CC": ""}) == {"CMAKE_ARGS": "-DX=1"}


def test_the_checkout_pins_one_version() -> None:
    text = (common.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert build.pinned_version(text).count(".") == 2
    with pytest.raises(SetupError, match="does not pin"):
        build.pinned_version('dependencies = ["llama-cpp-python>=0.3"]')


def test_a_checkout_is_described_with_its_own_files(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "pyproject.toml").write_text('"llama-cpp-python==9.9.9",')
    (tmp_path / "tools" / "engine.cmake").write_text("set(A 1)")
    first = build.describe(tmp_path, "compilers", {})
    (tmp_path / "tools" / "more.cmake").write_text("set(B 1)")
    second = build.describe(tmp_path, "compilers", {})
    assert first.version == "9.9.9"
    assert first.recipe != second.recipe


def test_the_cache_is_where_the_system_keeps_it() -> None:
    home = Path.home()
    assert build.cache_root({}, "linux") == home / ".cache" / "ggufrun"
    assert build.cache_root({"XDG_CACHE_HOME": "/x"}, "linux") == Path("/x/ggufrun")
    assert build.cache_root({"XDG_CACHE_HOME": "relative"}, "linux") == home / ".cache" / "ggufrun"
    assert build.cache_root({"XDG_CACHE_HOME": "/x"}, "darwin") == home / "Library" / "Caches" / "ggufrun"
    assert build.cache_root({"GGUFRUN_CACHE": "/own"}, "darwin") == Path("/own")


# --- keeping the wheel ------------------------------------------------------------------------------------------------


def test_a_wheel_is_built_once(tmp_path: Path) -> None:
    wheel, built = cache.obtain(BUILD, tmp_path, leave_wheel)
    assert built
    assert wheel.parent == tmp_path / BUILD.key
    assert (wheel.parent / "build.json").is_file()
    assert cache.obtain(BUILD, tmp_path, no_builder) == (wheel, False)
    assert cache.obtain(replace(BUILD, version="2"), tmp_path, leave_wheel)[1]
    assert cache.obtain(BUILD, tmp_path, leave_wheel, fresh=True) == (wheel, True)


@pytest.mark.parametrize("error", [SetupError("no"), KeyboardInterrupt()])
def test_a_build_that_ends_early_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def fail(made: build.Build, folder: Path, log: Path) -> None:
        (folder / "half.whl").write_text("half")
        raise error

    with pytest.raises(type(error)):
        cache.obtain(BUILD, tmp_path, fail)
    assert [path.name for path in tmp_path.iterdir()] == [f"{BUILD.key}.lock"]


def test_a_build_without_a_wheel_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no wheel"):
        cache.obtain(BUILD, tmp_path, lambda made, folder, log: None)


def test_two_setups_at_once_build_once(tmp_path: Path) -> None:
    began, go_on = threading.Event(), threading.Event()
    results = []

    def slow(made: build.Build, folder: Path, log: Path) -> None:
        began.set()
        assert go_on.wait(10)
        leave_wheel(made, folder, log)

    first = threading.Thread(target=lambda: results.append(cache.obtain(BUILD, tmp_path, slow)))
    second = threading.Thread(target=lambda: results.append(cache.obtain(BUILD, tmp_path, no_builder)))
    first.start()
    assert began.wait(10)
    second.start()
    go_on.set()
    first.join(10)
    second.join(10)
    assert sorted(built for _, built in results) == [False, True]


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="set GGUFRUN_CACHE"):
        cache.obtain(BUILD, tmp_path / "file" / "wheels", leave_wheel)


def test_what_a_killed_build_left_is_swept(tmp_path: Path) -> None:
    old, young = tmp_path / ".building-old", tmp_path / ".building-young"
    for folder in (old, young):
        folder.mkdir()
        (folder / "half").write_text("half")
    os.utime(old, (0, 0))
    cache.obtain(BUILD, tmp_path, leave_wheel)
    assert not old.exists()
    assert young.exists()


# --- the machine ------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_said_before_the_build(tmp_path: Path) -> None:
    machine.check_disk(tmp_path, 100, lambda path: 100)
    with pytest.raises(SetupError, match=r"has 1 MB free .* needs 2 MB.*GGUFRUN_CACHE"):
        machine.check_disk(tmp_path, 2_000_000, lambda path: 1_000_000)
    with pytest.raises(SetupError, match="free some space"):
        cache.obtain(BUILD, tmp_path, no_builder, disk=1 << 60)


@pytest.mark.parametrize("language", ["c", "c++"])
def test_a_missing_compiler_is_one_line(language: str) -> None:
    with pytest.raises(SetupError) as caught:
        machine.find_compiler(language, {"PATH": ""})
    assert str(caught.value).startswith(f"no {language.upper()} compiler found; install one: ")
    assert "\n" not in str(caught.value)


def test_a_compiler_that_was_named_is_taken_or_refused(tmp_path: Path) -> None:
    mine = tmp_path / "mycc"
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)
    assert machine.find_compiler("c", {"PATH": str(tmp_path), "CC": "mycc -m64"}) == ["mycc", "-m64"]
    with pytest.raises(SetupError, match="CC names 'other'"):
        machine.find_compiler("c", {"PATH": str(tmp_path), "CC": "other"})


def test_a_compiler_that_does_not_work_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'cc: fatal error: no headers' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(SetupError, match=r"cannot build a two-line program .*no headers"):
        machine.fingerprint("c", [str(broken)])


def test_the_fingerprint_follows_the_instructions_that_the_compiler_may_use(tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\nfor a; do [ "$a" = -dM ] && cat "$0.macros"; done\nexit 0\n')
    compiler.chmod(0o755)
    macros = tmp_path / "cc.macros"
    macros.write_text("#define __AVX2__ 1\n#define __VERSION__ 12\n")
    first = machine.fingerprint("c", [str(compiler)])
    assert machine.fingerprint("c", [str(compiler)]) == first
    macros.write_text("#define __AVX2__ 1\n#define __AVX512F__ 1\n#define __VERSION__ 12\n")
    assert machine.fingerprint("c", [str(compiler)]) != first


@pytest.mark.parametrize(
    ("cores", "memory", "expected"), [(2, 8 << 30, 2), (64, 8 << 30, 8), (4, 1 << 20, 1), (4, 0, 4)]
)
def test_compilers_at_once_fit_into_memory(cores: int, memory: int, expected: int) -> None:
    assert machine.jobs(cores, memory) == expected


# --- the build's output -----------------------------------------------------------------------------------------------

OUTPUT = [
    "Collecting llama-cpp-python==1.2.3\n",
    "  Downloading llama_cpp_python-1.2.3.tar.gz (76.6 MB)\n",
    "  *** Configuring CMake...\n",
    *(f"  [{step}/8] /usr/bin/cc -c file{step}.c\n" for step in range(1, 9)),
    "  *** Making wheel...\n",
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_in_a_pipe_is_few_whole_lines() -> None:
    stream, log = io.StringIO(), io.StringIO()
    progress.follow(iter(OUTPUT), log, progress.Progress(stream, clock=lambda: 0.0))
    assert log.getvalue() == "".join(OUTPUT)
    assert stream.getvalue().splitlines() == [
        "engine: downloading the source (77 MB)",
        "engine: configuring",
        *(f"engine: compiling {step}/8  0:00" for step in (1, 2, 4, 6, 8)),
        "engine: packing the wheel",
    ]


def test_a_long_build_in_a_pipe_tells_every_five_minutes() -> None:
    stream, clock = io.StringIO(), [0.0]
    line = progress.Progress(stream, clock=lambda: clock[0])
    for step, minutes in ((1, 1), (2, 2), (3, 5), (4, 6), (5, 10), (6, 16)):
        clock[0] = 60.0 * minutes
        line.step(step, 100)
    told = [text.split()[2] for text in stream.getvalue().splitlines()]
    assert told == ["1/100", "4/100", "6/100"]


def test_progress_on_a_terminal_is_one_line_that_moves() -> None:
    stream = Terminal()
    ticks = iter(range(0, 1000, 10))
    line = progress.Progress(stream, clock=lambda: next(ticks))
    progress.follow(iter(OUTPUT), io.StringIO(), line)
    line.close()
    assert "\n" not in stream.getvalue()
    assert "compiling 8/8  1:20" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K")


@pytest.mark.parametrize(
    ("elapsed", "done", "left"),
    # as expected; slower than expected, so the pace counts; quick files first, so experience counts, as at the start
    [
        (480, 50, "some 8 min left"),
        (1200, 50, "some 20 min left"),
        (60, 50, "some 8 min left"),
        (30, 1, "some 16 min left"),
        (900, 100, ""),
    ],
)
def test_the_end_of_a_long_build_is_estimated(elapsed: int, done: int, left: str) -> None:
    stream = io.StringIO()
    ticks = iter([0, *[elapsed] * 9])
    progress.Progress(stream, clock=lambda: next(ticks), expected=960).step(done, 100)
    assert stream.getvalue().strip().endswith(left or "15:00")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("cc1plus: error: No space left on device", "disk is full"),
        ("g++: fatal error: Killed signal terminated program cc1plus", "out of memory"),
        ("Temporary failure in name resolution", "cannot be reached"),
        ("CMake Error: Could NOT find Vulkan (missing: Vulkan_INCLUDE_DIR)", "CMake does not find Vulkan"),
        ("nvcc fatal   : Unsupported gpu architecture 'compute_61'", "does not build for one of CUDA_ARCHS"),
        ("#error -- unsupported GNU version! gcc versions later than 15", "too new for this CUDA"),
    ],
)
def test_usual_failures_are_one_line(tmp_path: Path, line: str, said: str) -> None:
    log = tmp_path / "log"
    log.write_text(f"CMake Error\n{line}\n" + "more\n" * 100)
    error = str(compiling.failed(log))
    assert said in error
    assert str(log) in error
    assert "\n" not in error


def test_other_failures_show_the_logs_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    error = str(compiling.failed(log)).splitlines()
    assert error[1].strip() == "line 80"
    assert error[-2].strip() == "line 99"
    assert str(log) in error[-1]


def test_pip_is_told_to_build_and_not_to_reuse() -> None:
    plan = Plan(include=Path("/with space/engine.cmake"))
    command = compiling.pip_wheel(BUILD, plan, Ready({"B": "/b"}), "llama-cpp-python==1.2.3", Path("/out"))
    assert "--no-cache-dir" in command
    assert "llama-cpp-python==1.2.3" in command
    assert "--config-settings=cmake.define.A=ON" in command
    assert "--config-settings=cmake.define.B=/b" in command
    assert "--config-settings=cmake.define.CMAKE_PROJECT_llama_cpp_INCLUDE=/with space/engine.cmake" in command


# --- as make calls it -------------------------------------------------------------------------------------------------


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    # Under `make test` these two would make a make of ours talk like an inner one.
    inherited = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=inherited | environment, cwd=common.ROOT
    )


def test_without_a_compiler_the_script_says_one_line(tmp_path: Path) -> None:
    done = run([sys.executable, "-m", "tools.setup", "--print-wheel"], PATH=str(tmp_path), CC="", CXX="")
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "no C compiler found" in done.stderr


def python_script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_an_old_python_is_one_line(tmp_path: Path) -> None:
    old = python_script(tmp_path / "python3", "exit 1")
    done = run(["sh", "tools/make_venv.sh", str(tmp_path / "venv"), old])
    assert done.returncode == 1
    assert done.stderr == f"setup: PYTHON={old} is not a Python 3.10 or newer\n"


def test_a_missing_venv_module_is_one_line(tmp_path: Path) -> None:
    python = python_script(
        tmp_path / "python3", f'case "$2" in *ensurepip*) exit 1;; *) exec {sys.executable} "$@";; esac'
    )
    done = run(["sh", "tools/make_venv.sh", str(tmp_path / "venv"), python])
    assert done.returncode == 1
    assert "has no venv module; install" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "venv").exists()


def test_make_help_lists_the_targets() -> None:
    listed = run(["make", "help"]).stdout
    assert run(["make"]).stdout == listed
    for target in ("setup", "demo", "test", "check", "bench", "clean"):
        assert f"\n    {target} " in listed


# --- llama.cpp's server -----------------------------------------------------------------------------------------------


def test_the_servers_key_is_its_own_and_the_same_for_every_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = build.describe(common.ROOT, "compilers", {})
    own = server.describe_server("compilers", {})
    assert own.key != engine.key and not own.gpu and own.version == engine.version
    assert server.describe_server("compilers", {"CC": "clang"}).key != own.key
    assert all(server.RECIPE not in path.parents for path in build.recipe_files(common.ROOT)), "engines need no rebuild"


def test_the_servers_sources_are_kept() -> None:
    top = "llama_cpp_python-1/vendor/llama.cpp"
    for name in ("tools/server/server.cpp", "tools/ui/CMakeLists.txt", "tools/ui/ui.h.in", "common/arg.cpp"):
        assert not server.LEFT_OUT.search(f"{top}/{name}"), name
    for name in ("tools/ui/src/app.css", "models/ggml-vocab.gguf", "docs/build.md"):
        assert server.LEFT_OUT.search(f"{top}/{name}"), name


@pytest.mark.parametrize(("arguments", "status"), [(["--optional"], 0), ([], 1)])
def test_a_server_that_cannot_be_built_is_one_line(
    arguments: list[str], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*given: object) -> None:
        raise SetupError("no room\nthe log ends:")

    monkeypatch.setattr(server, "make", fail)
    assert server.main(arguments) == status
    said = capsys.readouterr().err
    assert ("left out, all else works: no room; `make server` tries again\n" in said) is (status == 0)
