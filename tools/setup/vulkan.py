"""Vulkan: the plan of `make vulkan`, and what it needs of this machine, tried before the long build."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tools.setup.common import SetupError, run, say
from tools.setup.machine import find_compiler, places
from tools.setup.plan import Plan, Ready

HERE = Path(__file__).resolve().parent

MINUTES = 10
"""Minutes of one core: docs/benchmarks.md."""

PACKAGES = (
    ("apt-get", "sudo apt-get install glslc libvulkan-dev spirv-headers"),
    ("dnf", "sudo dnf install glslc vulkan-loader-devel vulkan-headers spirv-headers-devel"),
    ("zypper", "sudo zypper install shaderc vulkan-devel spirv-headers"),
    ("pacman", "sudo pacman -S shaderc vulkan-headers vulkan-icd-loader spirv-headers"),
    ("apk", "sudo apk add shaderc vulkan-headers vulkan-loader-dev spirv-headers"),
    ("brew", "brew install shaderc vulkan-headers vulkan-loader spirv-headers molten-vk"),
)
"""A package manager, and its command for all that a build needs."""

TRIAL = """#include <vulkan/vulkan.hpp>
#if __has_include(<spirv/unified1/spirv.hpp>)
#include <spirv/unified1/spirv.hpp>
#elif __has_include(<spirv-headers/spirv.hpp>)
#include <spirv-headers/spirv.hpp>
#else
#include <spirv.hpp>
#endif
static_assert(VK_HEADER_VERSION_COMPLETE >= VK_MAKE_API_VERSION(0, 1, 3, 239), "too old");
int main() { uint32_t version; return vkEnumerateInstanceVersion(&version); }
"""
"""Needs the headers, of the oldest version that the engine was built with, and the loader."""

MISSING = (
    (r"vulkan/vulkan\w*\.h(pp)?: No such|vulkan/vulkan.*file not found", "Vulkan's headers are not here"),
    (r"spirv\.hpp: No such|spirv\.hpp.*file not found", "SPIR-V's headers are not here"),
    (r"cannot find -lvulkan|library.*vulkan.*not found", "Vulkan's loader is not here (libvulkan.so)"),
    (r"too old", "Vulkan's headers are older than 1.3.239"),
)
"""What the compiler says of a program that cannot be built, and what that means."""

MATRICES = """#version 450
#extension GL_KHR_cooperative_matrix : require
void main() {}
"""


def plan(environment: Mapping[str, str]) -> Plan:
    """Vulkan: any card with a driver for it. Raises SetupError in one line for what is missing."""
    glslc = shutil.which("glslc", path=search_path(environment))
    if glslc is None:
        raise SetupError(f"no glslc, which compiles Vulkan's shaders; install it with the headers: {advice()}")
    told = run([glslc, "--version"])
    if told.returncode != 0:
        raise SetupError(f"{glslc} does not run ({(told.stderr or told.stdout).strip()[:160]}); {advice()}")
    version = parse_version(told.stdout)

    def prepare() -> Ready:
        if problem := trial(environment):
            raise SetupError(f"{problem}; install what is missing: {advice()}")
        if not compiles(glslc, MATRICES):
            say(
                f"vulkan: glslc {version} knows no cooperative matrices, so that cards with matrix units read prompts "
                "slower than they could; a newer one is in LunarG's Vulkan SDK"
            )
        return Ready()

    return Plan(
        name="vulkan",
        defines={"GGML_VULKAN": "ON"},
        include=HERE / "vulkan.cmake",
        recipe=(HERE / "vulkan.cmake", HERE / "vulkan-headers.h"),
        # a newer compiler builds shaders that this one cannot
        gpu=f"Vulkan, glslc {version}",
        tag="vulkan",
        minutes=MINUTES,
        disk=1 << 30,
        prepare=prepare,
    )


def parse_version(text: str) -> str:
    """``2023.2`` of ``shaderc v2023.2 v2023.2-1``."""
    found = re.search(r"shaderc v?(\d[\w.]*)", text)
    return found[1] if found else "of unknown version"


def advice() -> str:
    """The command that installs all of it here."""
    for program, command in PACKAGES:
        if shutil.which(program, path=places()):
            return f"{command} (or LunarG's Vulkan SDK, with VULKAN_SDK naming it)"
    return "LunarG's Vulkan SDK, with VULKAN_SDK naming it"


def search_path(environment: Mapping[str, str]) -> str:
    """``PATH``, the SDK's programs first, as CMake looks."""
    sdk = environment.get("VULKAN_SDK", "")
    return os.pathsep.join([*([f"{sdk}/bin"] if sdk else []), environment.get("PATH", "")])


def trial(environment: Mapping[str, str]) -> str:
    """Build a small program. What is missing; empty if nothing is. CMake may know other places that the user named."""
    if "Vulkan_" in environment.get("CMAKE_ARGS", "") or sys.platform == "darwin":
        return ""
    sdk = environment.get("VULKAN_SDK", "")
    folders = [f"-I{sdk}/include", f"-L{sdk}/lib"] if sdk else []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "trial.cpp"
        source.write_text(TRIAL, encoding="utf-8")
        compiler = [*find_compiler("c++", environment), "-std=c++17"]
        made = run([*compiler, *folders, str(source), "-o", f"{folder}/trial", "-lvulkan"])
    if made.returncode == 0:
        return ""
    said = made.stderr + made.stdout
    for pattern, meaning in MISSING:
        if re.search(pattern, said):
            return meaning
    first = next((line.strip() for line in said.splitlines() if "error" in line.lower()), "no reason given")
    return f"a small program with Vulkan cannot be built ({first[:160]})"


def compiles(glslc: str, shader: str) -> bool:
    """Does this shader compile?"""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "trial.comp"
        source.write_text(shader, encoding="utf-8")
        return run([glslc, "--target-env=vulkan1.3", str(source), "-o", f"{folder}/trial.spv"]).returncode == 0
