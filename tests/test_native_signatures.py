"""The table of C functions: as the engine's headers and llama-cpp-python declare them, and nowhere else."""

from __future__ import annotations

import ast
import ctypes
import importlib.metadata
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ggufrun.native import signatures
from ggufrun.native.binding import MissingFunctionError, Signature, bind, bind_if_exported
from ggufrun.native.binding import signatures as declared
from ggufrun.native.bindings import bindings
from tests.support.checkpoints import ROOT
from tools.engine_release.ctext import Prototype, prototypes

HEADERS = ("llama.h", "ggml.h", "ggml-backend.h", "ggml-cpu.h", "ggml-rpc.h", "gguf.h")

OF_ENGINE = (signatures.Llama, signatures.Ggml, signatures.GgmlBase, signatures.GgmlCpu, signatures.Rpc)
"""The protocols whose functions are in those headers."""

NUMBERS: dict[str, Any] = {
    "void": None,
    "bool": ctypes.c_bool,
    "float": ctypes.c_float,
    "int": ctypes.c_int32,
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
    "size_t": ctypes.c_size_t,
    **dict.fromkeys(("llama_token", "llama_pos", "llama_seq_id"), ctypes.c_int32),
    # enumerations
    **dict.fromkeys(("ggml_type", "ggml_op", "ggml_backend_dev_type", "llama_ftype"), ctypes.c_int32),
    **dict.fromkeys(("llama_vocab_type", "llama_token_attr"), ctypes.c_int32),
}
"""C types that are not pointers or structures."""

HANDLES = {
    *("ggml_backend_t", "ggml_backend_buffer_t", "ggml_backend_buffer_type_t", "ggml_backend_dev_t"),
    *("ggml_backend_reg_t", "llama_memory_t", "ggml_log_callback", "ggml_abort_callback", "ggml_abort_callback_t"),
}
"""Pointers whose type does not end with a star."""


@cache
def headers() -> dict[str, Prototype]:
    """What the headers beside the installed engine declare; a wheel of others may lack them."""
    files = importlib.metadata.files("llama-cpp-python") or []
    found: dict[str, Prototype] = {}
    for file in files:
        if file.name in HEADERS and file.parent.name == "include":
            found.update(prototypes(Path(str(file.locate())).read_text("utf-8")))
    return found


def kind_of(declared: Any) -> Any:
    """A ctypes type as a C header sees it: a number's type, ``pointer``, or the name of a structure."""
    if declared is None or declared in NUMBERS.values():
        return declared
    if isinstance(declared, str):
        return declared
    if issubclass(declared, ctypes.Structure):
        return declared.__name__
    return "pointer"


def kind_in_c(text: str) -> Any:
    """The same of a type in a header."""
    if text in NUMBERS:
        return NUMBERS[text]
    return "pointer" if text.endswith("*") or text in HANDLES else text


RENAMED = {"GgufInitParams": "gguf_init_params"}


def all_declared() -> list[tuple[str, Signature]]:
    return [pair for protocol in OF_ENGINE for pair in declared(protocol).items()]


def test_the_table_is_what_the_headers_declare() -> None:
    known = headers()
    if not known:
        pytest.skip("the engine was installed without its headers")
    assert len(all_declared()) > 120
    for name, signature in all_declared():
        prototype = known[name]
        assert kind_of(signature.result) == kind_in_c(prototype.result), f"{name} returns {prototype.result}"
        kinds = [RENAMED.get(kind_of(kind), kind_of(kind)) for kind in signature.arguments]
        assert kinds == [kind_in_c(kind) for kind in prototype.arguments], f"{name}: {prototype}"


def test_the_table_is_what_llama_cpp_python_declares() -> None:
    api = bindings()
    for name, signature in declared(signatures.Llama).items():
        theirs = getattr(api, name)
        assert len(theirs.argtypes or ()) == len(signature.arguments), name
        pairs = [(theirs.restype, signature.result), *zip(theirs.argtypes or (), signature.arguments, strict=True)]
        for their, own in pairs:
            their_kind, own_kind = kind_of(their), kind_of(own)
            if None not in (their_kind, own_kind) and not isinstance(own_kind, str):
                assert ctypes.sizeof(their) == ctypes.sizeof(own), name
            else:
                assert their_kind == own_kind, name


def test_a_function_that_is_missing_is_named() -> None:
    with pytest.raises(MissingFunctionError, match="ggml_type_name"):
        bind(signatures.GgmlBase, ctypes.CDLL(None))
    assert bind_if_exported(signatures.Sampling, ctypes.CDLL(None)) is None


# --- one address ------------------------------------------------------------------------------------------------------


def declarations(source: str) -> list[str]:
    """What in ``source`` declares C functions, structures, callbacks, or loads a library."""
    found = []
    node: Any
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in ("argtypes", "restype"):
            found.append(f"{node.lineno}: .{node.attr}")
        names: list[ast.expr] = []
        if isinstance(node, ast.Call):
            names = [node.func]
        elif isinstance(node, ast.ClassDef):
            names = list(node.bases)
        for name in names:
            word = name.attr if isinstance(name, ast.Attribute) else getattr(name, "id", "")
            if word in ("CDLL", "WinDLL", "LoadLibrary", "CFUNCTYPE", "Structure", "Union"):
                found.append(f"{node.lineno}: {word}")
    return found


def test_only_native_declares_what_is_c() -> None:
    package = ROOT / "ggufrun"
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted(package.rglob("*.py"))
        if (package / "native") not in path.parents
        for line in declarations(path.read_text("utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "lib.f.restype = None",
        "function.argtypes = []",
        "class A(ctypes.Structure): pass",
        "class A(Structure): pass",
        "ctypes.CDLL('libm.so.6')",
        "ctypes.CFUNCTYPE(None)",
    ],
)
def test_a_declaration_is_seen(source: str) -> None:
    assert declarations(source)


def test_no_test_and_no_tool_imports_the_package_that_takes_the_log() -> None:
    """``import llama_cpp`` sends llama.cpp's log to the screen of the process, from whoever listened to it."""
    found = []
    node: Any
    for folder in ("tests", "tools", "ggufrun"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if any(name.split(".")[0] == "llama_cpp" for name in names):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found
