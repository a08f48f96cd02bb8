"""`make vulkan`: what it needs, and one line for each thing that is missing."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import pytest

from tools.setup import compiling, progress, vulkan
from tools.setup.common import SetupError

VERSION = "shaderc v2023.2 v2023.2-1\nspirv-tools v2022.4\n"


def glslc(folder: Path, script: str = "") -> str:
    """A compiler of shaders that tells its version and builds what the ``script`` lets pass; its folder."""
    folder.mkdir(exist_ok=True)
    path = folder / "glslc"
    path.write_text(f"#!/bin/sh\ncase \"$*\" in *--version*) echo '{VERSION}';; *) {script or ':'};; esac\n")
    path.chmod(0o755)
    return str(folder)


def test_its_compiler_is_needed() -> None:
    with pytest.raises(SetupError, match=r"no glslc, which compiles Vulkan's shaders; install it .*") as caught:
        vulkan.plan({"PATH": ""})
    assert "\n" not in str(caught.value) and "VULKAN_SDK" in str(caught.value)


def test_a_compiler_that_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "glslc").write_text("#!/bin/sh\necho 'libshaderc.so: cannot open' >&2\nexit 127\n")
    (tmp_path / "glslc").chmod(0o755)
    with pytest.raises(SetupError, match=r"glslc does not run \(libshaderc.so: cannot open\)"):
        vulkan.plan({"PATH": f"{tmp_path}:/usr/bin:/bin"})


def test_the_sdk_goes_first_and_another_compiler_is_another_build(tmp_path: Path) -> None:
    assert vulkan.parse_version(VERSION) == "2023.2"
    assert vulkan.parse_version("shaderc 2025.3-dev\n") == "2025.3"
    assert vulkan.parse_version("") == "of unknown version"
    sdk = tmp_path / "sdk"
    sdk.mkdir()
    glslc(sdk / "bin")
    plan = vulkan.plan({"PATH": "/usr/bin:/bin", "VULKAN_SDK": str(sdk)})
    assert plan.gpu == "Vulkan, glslc 2023.2" and plan.defines == {"GGML_VULKAN": "ON"}


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("trial.cpp:1:10: fatal error: vulkan/vulkan.hpp: No such file or directory", "Vulkan's headers are not here"),
        ("trial.cpp:7:10: fatal error: spirv.hpp: No such file or directory", "SPIR-V's headers are not here"),
        ("/usr/bin/ld: cannot find -lvulkan: No such file", "Vulkan's loader is not here (libvulkan.so)"),
        ("trial.cpp:9:1: error: static assertion failed: too old", "Vulkan's headers are older than 1.3.239"),
        ("trial.cpp:9:1: error: something else", "a small program with Vulkan cannot be built (trial.cpp:9:1: error"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, said: str, meaning: str) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    compiler.chmod(0o755)
    assert vulkan.trial({"PATH": "/usr/bin:/bin", "CXX": str(compiler)}).startswith(meaning)
    plan = vulkan.plan({"PATH": f"{glslc(tmp_path / 'bin')}:/usr/bin:/bin", "CXX": str(compiler)})
    with pytest.raises(SetupError, match=re.escape(meaning)) as caught:
        plan.prepare()
    assert "\n" not in str(caught.value) and "install what is missing" in str(caught.value)
    # the user may know better
    assert vulkan.trial({"PATH": "/usr/bin", "CXX": str(compiler), "CMAKE_ARGS": "-DVulkan_INCLUDE_DIR=/x"}) == ""


@pytest.mark.parametrize(("script", "lines"), [("exit 1", 1), ("", 0)])
def test_a_compiler_without_matrices_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], script: str, lines: int
) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    vulkan.plan({"PATH": f"{glslc(tmp_path / 'bin', script)}:/usr/bin:/bin", "CXX": str(compiler)}).prepare()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == lines and all("glslc 2023.2 knows no cooperative matrices" in line for line in said)


def test_what_is_installed_passes_the_trial() -> None:
    if shutil.which("glslc") is None or not Path("/usr/include/vulkan/vulkan.hpp").exists():
        pytest.skip("Vulkan's headers and glslc are not installed")
    assert vulkan.trial({"PATH": "/usr/bin:/bin"}) == ""


def test_failed_builds_are_explained() -> None:
    old = "ggml-vulkan.cpp:5214:21: error: 'LayerSettingEXT' is not a member of 'vk'"
    assert compiling.explain(old).startswith("Vulkan's headers are too old")
    assert "SPIR-V" in compiling.explain('provided by "SPIRV-Headers" with any of the following names')


def test_the_steps_of_a_part_are_not_those_of_the_whole() -> None:
    stream = io.StringIO()
    line = progress.Progress(stream, clock=lambda: 0.0)
    # Ninja's own check, the build, and a part of it that is a build of its own
    for done, total in ((0, 2), (1, 400), (1, 2), (2, 2), (100, 400), (399, 400), (400, 400)):
        line.step(done, total)
    assert [text.split()[2] for text in stream.getvalue().splitlines()] == ["1/400", "100/400", "399/400", "400/400"]
