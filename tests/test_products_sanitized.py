"""The matrix kernels, built with sanitizers, on memory of exactly the size that they may touch."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.checkpoints import ROOT
from tests.support.products import kernels

FLAGS = {
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
    "avxvnni": ("-mavx2", "-mfma", "-mf16c", "-mavxvnni"),
    "avx512": ("-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"),
}
SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.mark.skipif(kernels() not in FLAGS, reason="the engine has no kernels of ours here")
def test_nothing_is_touched_beyond_what_is_there(tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    empty = tmp_path / "empty.c"
    empty.write_text("int main(void) { return 0; }\n")
    if subprocess.run([compiler, *SANITIZERS, empty, "-o", tmp_path / "empty"], capture_output=True).returncode:
        pytest.skip("the compiler has no sanitizers")
    folder, name = ROOT / "tools" / "kernels" / "matmul", kernels()
    common = (*SANITIZERS, "-std=gnu11", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", f"-I{folder}")
    objects = []
    for part in FLAGS:
        # those that do not run here are compiled to nothing
        flags = FLAGS[part] if part == name else ()
        objects.append(tmp_path / f"{part}.o")
        subprocess.run([compiler, *common, *flags, "-c", folder / f"{part}.c", "-o", objects[-1]], check=True)
    program = tmp_path / "sanitized"
    sources = [folder / "panel.c", ROOT / "tests" / "matmul_sanitized.c"]
    subprocess.run([compiler, *common, *sources, *objects, "-o", program], check=True)
    done = subprocess.run([program, name], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1820 products by 1 kernels: right" in done.stdout
