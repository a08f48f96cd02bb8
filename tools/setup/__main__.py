"""Build the engine once, keep its wheel in the user's cache, install it into the virtual environment that runs this.

The wheel is llama-cpp-python at the version that ``pyproject.toml`` pins, built from source by ``tools/engine.cmake``.
Only the standard library is used: this runs before anything else is installed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import NoReturn

from tools.setup.backends import NAMES, plan_for
from tools.setup.build import Build, cache_root, describe
from tools.setup.cache import cached_wheel, obtain
from tools.setup.common import PACKAGE, ROOT, SetupError, say
from tools.setup.compiling import build_wheel
from tools.setup.installing import BACKEND_NOTE, install, works
from tools.setup.machine import CANDIDATES, find_compiler, fingerprint
from tools.setup.plan import Plan
from tools.setup.wheel import label


def main(arguments: list[str]) -> None:
    """Make the engine available in the virtual environment that runs this."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.setup", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--backend", choices=NAMES, help="what to build for; without it, what was installed before")
    parser.add_argument("--portable", action="store_true", help="a wheel for other machines too")
    parser.add_argument("--rebuild", action="store_true", help="build even if the cache has the wheel")
    parser.add_argument("--dist", type=Path, metavar="DIR", help="copy the wheel to DIR")
    parser.add_argument("--no-install", action="store_true", help="do not install the wheel")
    parser.add_argument("--print-wheel", action="store_true", help="print the wheel's path instead of installing it")
    options = parser.parse_args(arguments)
    installs = not (options.print_wheel or options.no_install)
    if sys.prefix == sys.base_prefix and installs:
        raise SetupError("run this with a virtual environment's python (make setup does)")
    note = Path(sys.prefix) / BACKEND_NOTE
    backend = options.backend or (note.read_text(encoding="utf-8").strip() if note.is_file() else "cpu")
    compilers = [fingerprint(language, find_compiler(language, os.environ)) for language in CANDIDATES]
    cache = cache_root(os.environ)
    plan = plan_for(backend, os.environ, cache, options.portable)
    build = describe(ROOT, " ".join(compilers), os.environ, plan)
    wheels = cache / "wheels"
    builder = partial(build_plan, plan)
    began = time.monotonic()
    wheel, built = obtain(build, wheels, builder, fresh=options.rebuild, disk=plan.disk)
    if installs:
        install(wheel, build.key, Path(sys.prefix), plan.libraries)
        if not built and not works():
            say("engine: the kept wheel does not run here; building it anew")
            wheel, built = obtain(build, wheels, builder, fresh=True, disk=plan.disk)
            install(wheel, build.key, Path(sys.prefix), plan.libraries)
        if not works():
            raise SetupError(f"the engine was built but does not load; see {wheels / (build.key + '.log')}")
        note.write_text(backend, encoding="utf-8")
    if options.print_wheel:
        print(wheel)
    elif built:
        say(f"engine: built in {duration(time.monotonic() - began)} and kept in {wheel.parent}")
    else:
        say(f"engine: {PACKAGE} {build.version}{f' ({plan.gpu})' if plan.gpu else ''} from {wheel.parent}")
    if options.dist:
        options.dist.mkdir(parents=True, exist_ok=True)
        copy = shutil.copy2(wheel, options.dist)
        say(f"engine: {copy}, {wheel.stat().st_size / 1e6:.0f} MB")


def build_plan(plan: Plan, build: Build, folder: Path, log: Path) -> None:
    """Build the wheel of ``plan`` into ``folder``, under the name that says what it is."""
    build_wheel(build, plan, folder, log)
    if wheel := cached_wheel(folder):
        label(wheel, plan.tag, plan.requires)


def duration(seconds: float) -> str:
    """``42 s`` or ``12 min 5 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


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
