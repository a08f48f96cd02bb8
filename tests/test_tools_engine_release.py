"""What differs between two releases of the engine: every kind is seen, and a release does not differ from itself."""

from __future__ import annotations

import importlib.metadata
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.checkpoints import ROOT
from tools.engine_release import facts
from tools.engine_release.__main__ import main
from tools.engine_release.compare import compare, used_functions
from tools.engine_release.ctext import enumeration, function, literals, prototypes, structure
from tools.engine_release.sources import FOLDERS, Release, SourceError, opened

HEADER = """
// a comment { with braces
enum llama_ftype { LLAMA_FTYPE_ALL_F32 = 0, /* 7 */ LLAMA_FTYPE_MOSTLY_F16, LLAMA_FTYPE_LAST = 9, LLAMA_FTYPE_NEXT };
typedef struct llama_batch {
    int32_t n_tokens; // how many
    llama_token * token;
} llama_batch;
LLAMA_API int32_t llama_decode(
        struct llama_context * ctx,
          struct llama_batch   batch);
DEPRECATED(LLAMA_API bool llama_save_session(const char * path_session, size_t n[2]),
        "use something else "
        "instead");
LLAMA_API const char * llama_print_system_info(void);
"""

SOURCE = """
static int help(int a) { return a; }
void quantize_q4_K(const float * x, char quote) {
    if (x[0] == '{') { /* } */ printf("}%d" "tail\\n", 1); }
}
LLAMA_LOG_WARN("%s: %s not supported, set to disabled\\n", func, name);
"""


def test_c_is_read_as_it_is_meant() -> None:
    assert enumeration(HEADER, "llama_ftype") == {
        "LLAMA_FTYPE_ALL_F32": "0",
        "LLAMA_FTYPE_MOSTLY_F16": "1",
        "LLAMA_FTYPE_LAST": "9",
        "LLAMA_FTYPE_NEXT": "10",
    }
    assert structure(HEADER, "llama_batch") == "int32_t n_tokens;llama_token*token;"
    assert {name: str(one) for name, one in prototypes(HEADER).items()} == {
        "llama_decode": "int32_t (llama_context*, llama_batch)",
        "llama_save_session": "bool (char*, size_t*)",
        "llama_print_system_info": "char* (void)",
    }
    assert function(SOURCE, "quantize_q4_K") == """if(x[0]=='{'){printf("}%d" "tail\\n",1);}""".replace('" "', '""')
    assert function(SOURCE, "nothing") is None and enumeration(SOURCE, "nothing") is None
    assert "}%dtail\\n" in list(literals(SOURCE))


def release(**changed: Callable[[str], str]) -> Release:
    """The sources above as a release; ``changed`` by what stands for a file."""
    files = {
        "include/llama.h": HEADER,
        "ggml/src/ggml-quants.c": SOURCE,
        "src/llama-arch.cpp": '{ LLM_ARCH_LLAMA, "llama" },',
        "src/llama-vocab.cpp": 'if (tokenizer_pre == "qwen2") {}',
        "ggml/include/ggml-rpc.h": "#define RPC_PROTO_MAJOR_VERSION 7 // now",
    }
    names = {"header": 0, "source": 1, "arch": 2, "vocab": 3, "rpc": 4}
    for name, change in changed.items():
        path = list(files)[names[name]]
        files[path] = change(files[path])
    return Release("r", files)


CHANGES: dict[str, tuple[dict[str, tuple[str, str]], str, str]] = {
    "argument": ({"header": ("   batch)", "   batch, int n)")}, "functions", "llama_decode"),
    "gone": ({"header": ("llama_decode", "llama_encode")}, "functions", "llama_decode: not declared any more"),
    "member": (
        {"header": ("llama_token * token;", "llama_token * token; int8_t * more;")},
        "structures",
        "+ int8_t*more",
    ),
    "type": (
        {"header": ("LLAMA_FTYPE_NEXT", "LLAMA_FTYPE_NEXT, LLAMA_FTYPE_NEW")},
        "file types",
        "LLAMA_FTYPE_NEW = 11",
    ),
    "log": ({"source": ("set to disabled", "set to off")}, "lines of the log", "engine/placement/memory.py"),
    "kernel": ({"source": ("== '{'", "!= '{'")}, "kernels' sources", "quantize_q4_K differs"),
    "number": ({"rpc": ("7", "8")}, "numbers", "RPC_PROTO_MAJOR_VERSION: 7 -> 8"),
    "architecture": ({"arch": ('"llama" }', '"llama" }, { LLM_ARCH_NEW, "new" }')}, "architectures", "+ new"),
    "tokenizer": ({"vocab": ("qwen2", "qwen9")}, "pre-tokenizers", "+ qwen9"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_difference_is_seen_where_it_belongs(name: str) -> None:
    changes, title, words = CHANGES[name]

    def change(old: str, new: str) -> Callable[[str], str]:
        return lambda text: text.replace(old, new)

    new = release(**{part: change(*pair) for part, pair in changes.items()})
    before = {section.title: section.lines for section in compare(release(), release())}
    after = {section.title: section.lines for section in compare(release(), new)}
    assert any(words in line for line in set(after[title]) - set(before[title]))
    allowed = {title, "other functions of llama.h"}
    assert {other for other in after if after[other] != before[other]} <= allowed


def test_comments_and_blanks_are_no_difference() -> None:
    new = release(
        header=lambda text: text.replace("// how many", "// so many").replace("   batch)", " batch )"),
        source=lambda text: text.replace("/* } */", "").replace("if (x", "if  ( x"),
    )
    assert [section.lines for section in compare(release(), new)] == [
        section.lines for section in compare(release(), release())
    ]


def test_archives_and_folders_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "llama_cpp_python-9.9.9"
    for path, text in {"include/llama.h": HEADER, "src/a.cpp": SOURCE, "tools/b.cpp": "int not_looked_at;"}.items():
        file = folder / "vendor" / "llama.cpp" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    archive = tmp_path / "llama_cpp_python-9.9.9.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
        odd = tarfile.TarInfo("llama_cpp_python-9.9.9/vendor/llama.cpp/src/more.txt")
        tar.addfile(odd, io.BytesIO(b""))
    one, other = opened(str(folder)), opened(str(archive))
    assert one.files == other.files == {"include/llama.h": HEADER, "src/a.cpp": SOURCE}
    with pytest.raises(SourceError, match="neither a folder"):
        opened(str(tmp_path / "nothing"))
    with pytest.raises(SourceError, match=r"no vendor/llama\.cpp"):
        opened(str(tmp_path))
    assert main([str(tmp_path / "nothing"), str(folder)]) == 2
    assert main([str(folder), str(archive)]) == 1
    shown = capsys.readouterr().out
    assert "llama_cpp_python-9.9.9 -> llama_cpp_python-9.9.9" in shown and "kernels' sources" in shown


def test_what_is_compared_is_what_ggufrun_uses() -> None:
    assert {"llama_decode", "ggml_quantize_chunk", "llama_get_memory_breakdown"} <= used_functions().keys()
    assert {"quantize_q4_K", "quantize_iq1_m", "iq2xs_init_impl"} <= set(facts.replaced_quantizers())
    for text, reader in facts.LOG_TEXTS.items():
        source = (ROOT / reader).read_text("utf-8")
        # a format is read by a pattern of another spelling
        assert "%" in text or text.strip() in source, f"{reader} does not read {text!r}"


def test_the_headers_of_the_installed_engine_have_the_structures() -> None:
    files = {file.name: file for file in importlib.metadata.files("llama-cpp-python") or [] if file.suffix == ".h"}
    if "llama.h" not in files:
        pytest.skip("the engine was installed without its headers")
    for name, header in facts.STRUCTURES.items():
        if header.startswith(FOLDERS) and (file := files.get(Path(header).name)) is not None:
            assert structure(Path(str(file.locate())).read_text("utf-8"), name), name
    text = Path(str(files["llama.h"].locate())).read_text("utf-8")
    assert enumeration(text, "llama_load_mode")
