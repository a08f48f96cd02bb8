"""Reading PyTorch files: what torch wrote comes back, and what an attacker wrote is an error and runs nothing.

``golden/torch`` was written by ``python tests/oracles/torch_samples.py tests/golden/torch`` with PyTorch 2.13.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufrun.checkpoint import storedzip, torchfile, unpickle
from ggufrun.checkpoint.open import open_checkpoint
from ggufrun.checkpoint.torchfile import read_torch_file
from ggufrun.errors import FormatError, GgufrunError, NotFoundError, UnsupportedError
from tests.conftest import Oracle
from tests.support.checkpoints import encode, llama_config, llama_tensors
from tests.support.torch_writer import (
    archive,
    call,
    dictionary,
    name,
    number,
    numbers,
    program,
    storage,
    tensor,
    text,
    torch_legacy,
    torch_zip,
)

GOLDEN = Path(__file__).parent / "golden" / "torch"
SAMPLES = ("zip.bin", "zip-protocol-4.bin", "legacy.bin")


def check_sample(folder: Path, file: str) -> None:
    expected = json.loads((folder / "expected.json").read_text())
    found = read_torch_file(folder / file)
    missing = set(expected) - set(found.tensors)
    # the older format has no 8-bit floats
    assert missing == (set() if "zip" in file else {"F8_E4M3", "F8_E5M2"})
    for key, told in expected.items():
        if key not in missing:
            read = found.tensors[key]
            assert (read.dtype, list(read.shape)) == (told["dtype"], told["shape"])
            assert read.rows(0, read.n_rows).tobytes().hex() == told["bytes"], key
    assert found.aliases == {"again": "plain"}
    found.file.close()


@pytest.mark.parametrize("file", SAMPLES)
def test_reads_what_torch_wrote(file: str) -> None:
    check_sample(GOLDEN, file)


def test_reads_what_torch_writes_here(oracle: Oracle, tmp_path: Path) -> None:
    oracle.run(oracle.python, Path(__file__).parent / "oracles" / "torch_samples.py", tmp_path)
    for file in SAMPLES:
        check_sample(tmp_path, file)
    arrays = {"x": ("F32", np.arange(6, dtype=np.float32).reshape(2, 3))}
    (tmp_path / "new").write_bytes(torch_zip(arrays))
    (tmp_path / "old").write_bytes(torch_legacy(arrays))
    for file in ("new", "old"):
        script = f"import torch; print(torch.load({str(tmp_path / file)!r})['x'].tolist())"
        assert "[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]" in oracle.run(oracle.python, "-c", script)


@pytest.mark.parametrize("small", [1, 1 << 20])
def test_any_rows_of_any_view(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without the short cut for views whose values lie close together."""
    monkeypatch.setattr(torchfile, "SMALL_SPAN", small)
    expected = json.loads((GOLDEN / "expected.json").read_text())
    found = read_torch_file(GOLDEN / "zip.bin")
    for key, told in expected.items():
        read = found.tensors[key]
        if read.n_rows > 1:
            row = bytes.fromhex(told["bytes"])
            size = len(row) // read.n_rows
            assert read.rows(1, read.n_rows).tobytes() == row[size:], key
            assert read.rows(0, 1).tobytes() == row[:size], key
    found.file.close()


def open_bytes(tmp_path: Path, data: bytes) -> dict[str, Any]:
    """Every value in a file."""
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(data)
    found = read_torch_file(path)
    try:
        return {key: read.rows(0, read.n_rows) for key, read in found.tensors.items()}
    finally:
        found.file.close()


FOUR = np.arange(4, dtype=np.float32).tobytes()
SOUND = archive(program(dictionary({"x": tensor(storage("0", 4), (2, 2))})), {"0": FOUR})


def holding(body: bytes, data: bytes = FOUR) -> bytes:
    """An archive whose pickle gives the value of ``body`` to one name."""
    return archive(program(dictionary({"x": body})), {"0": data})


def test_the_attacker_writes_a_sound_file_too(tmp_path: Path) -> None:
    np.testing.assert_array_equal(open_bytes(tmp_path, SOUND)["x"], [[0, 1], [2, 3]])


@pytest.mark.parametrize("small", [1, 1 << 20])
def test_views_that_numpy_makes(tmp_path: Path, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of its dimensions lie close together, a view has the values of NumPy's."""
    monkeypatch.setattr(torchfile, "SMALL_SPAN", small)
    values = np.arange(240, dtype=np.float32)
    chance = random.Random(3)
    views = {}
    for index in range(300):
        whole = values.reshape(chance.choice(((240,), (15, 16), (6, 5, 8), (2, 3, 5, 8))))
        turned = whole.transpose(chance.sample(range(whole.ndim), whole.ndim))
        views[str(index)] = turned[
            tuple(slice(chance.randrange(2), None, chance.choice((1, 1, 2, 3))) for _ in turned.shape)
        ]
    described = {
        key: tensor(
            storage("0", 240),
            view.shape,
            [stride // 4 for stride in view.strides],
            (view.ctypes.data - values.ctypes.data) // 4,
        )
        for key, view in views.items()
    }
    found = open_bytes(tmp_path, archive(program(dictionary(described)), {"0": values.tobytes()}))
    for key, view in views.items():
        np.testing.assert_array_equal(found[key].reshape(view.shape), view)


class Evil:
    """Python's own pickle writes the call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def attacks(mark: Path) -> dict[str, bytes]:
    """Pickles that would make ``mark``, or do other harm, if anything in them ran."""
    shell = f"touch {mark}"
    state = tensor(storage("0", 4), (4,))
    imports = call(name("builtins", "__import__"), text("os"))
    return {
        "os.system": call(name("os", "system"), text(shell)),
        "posix.system": call(name("posix", "system"), text(shell)),
        "subprocess": call(name("subprocess", "Popen"), text(shell)),
        "eval": call(name("builtins", "eval"), text(f"open({str(mark)!r}, 'w')")),
        "eval of python 2": call(name("__builtin__", "eval"), text("1")),
        "getattr": call(call(name("builtins", "getattr"), imports, text("system")), text(shell)),
        "open": call(name("io", "open"), text(str(mark)), text("w")),
        "numpy runs code": call(name("numpy.testing._private.utils", "runstring"), text(shell), b"}"),
        "numpy loads pickles": call(name("numpy", "load"), text(str(mark)), b"N", b"\x88"),
        "numpy array": call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), numbers((0,))),
        "torch loads": call(name("torch.storage", "_load_from_bytes"), b"U\x04evil"),
        "torch hub": call(name("torch.hub", "load"), text("attacker/repository"), text("x")),
        "torch jit": call(name("torch.jit", "load"), text(str(mark))),
        "dotted name": call(name("torch", "serialization.os.system"), text(shell)),
        "wrong case": call(name("Collections", "OrderedDict")),
        "attribute of an admitted name": call(name("collections", "OrderedDict.fromkeys"), b")"),
        "nested reduce": call(call(call(name("os", "getcwd")))),
        "stack global": text("os") + text("system") + b"\x93" + text(shell) + b"\x85R",
        "extension registry": b"\x82\x01",
        "instance": b"(" + text(shell) + b"ios\nsystem\n",
        "object": b"(" + name("os", "system") + text(shell) + b"o",
        "new object": name("collections", "OrderedDict") + b")\x81",
        "new object with keywords": name("collections", "OrderedDict") + b")}\x92",
        "state of a tensor": state + dictionary({"__class__": text("x")}) + b"b",
        "state of a function": name("collections", "OrderedDict") + dictionary({"__code__": text("x")}) + b"b",
        "call of a tensor": state + b")R",
        "call of a label": call(name("torch", "FloatStorage"), number(4)),
        "call of a string": text("os.system") + b")R",
        "rebuild by something else": call(
            name("torch._tensor", "_rebuild_from_type_v2"), name("torch", "Size"), name("torch", "Tensor"), b")", b"N"
        ),
        "python itself": pickle.dumps(Evil(os.system, shell), 2)[2:-1],
        "python itself, protocol 4": pickle.dumps(Evil(os.system, shell), 4)[2:-1],
        "python itself, eval": pickle.dumps(Evil(eval, f"open({str(mark)!r}, 'w')"), 2)[2:-1],
        "text instructions": b"cos\nsystem\n(S'touch x'\ntR",
        "string instruction": b"S'a'\n",
    }


@pytest.mark.parametrize("kind", attacks(Path("x")))
def test_an_attack_is_an_error_and_runs_nothing(tmp_path: Path, kind: str) -> None:
    mark = tmp_path / "it-ran"
    body = attacks(mark)[kind]
    old = torch_legacy({})
    # in the place of a tensor, in a value that is thrown away, and in the first pickle of the older format
    for data in (
        holding(body),
        holding(body + b"0" + tensor(storage("0", 4), (4,))),
        program(body) + old,
        program(body),
    ):
        with pytest.raises((FormatError, UnsupportedError)):
            open_bytes(tmp_path, data)
    assert not mark.exists()


def test_a_foreign_name_is_told_as_an_attack(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"refers to os\.system.*nothing was run"):
        open_bytes(tmp_path, holding(call(name("os", "system"), text("true"))))


LIES: dict[str, bytes] = {
    "negative offset": tensor(storage("0", 4), (2,), offset=-1),
    "offset behind the end": tensor(storage("0", 4), (2,), offset=3),
    "shape too large": tensor(storage("0", 4), (5,)),
    "negative shape": tensor(storage("0", 4), (-2, -2)),
    "huge shape": tensor(storage("0", 4), (1 << 40, 1 << 40), (1, 1)),
    "huge number": tensor(storage("0", 4), (1 << 90,), (1,)),
    "expanded bomb": tensor(storage("0", 4), (1 << 30,), (0,)),
    "stride behind the end": tensor(storage("0", 4), (2, 2), (3, 1)),
    "negative stride": tensor(storage("0", 4), (2, 2), (-1, 1), offset=3),
    "fewer strides": tensor(storage("0", 4), (2, 2), (2,)),
    "many dimensions": tensor(storage("0", 4), (1,) * 40, (1,) * 40),
    "true for 1": call(name("torch._utils", "_rebuild_tensor"), storage("0", 4), number(0), b"\x88\x85", b"\x88\x85"),
    "storage is a string": tensor(text("0"), (4,)),
    "storage larger than its member": tensor(storage("0", 5), (4,)),
    "storage smaller than its member": tensor(storage("0", 3), (3,)),
    "storage of another width": tensor(storage("0", 4, "DoubleStorage"), (4,)),
    "storage without member": tensor(storage("9", 4), (4,)),
    "key climbs": tensor(storage("../data/0", 4), (4,)),
    "key is a number": tensor(storage("0", 4).replace(text("0"), number(0)), (4,)),
    "one storage of two kinds": b"(" + storage("0", 4) + storage("0", 8, "HalfStorage") + b"t",
    "negative count": tensor(storage("0", -4), (4,)),
    "storage of an unknown kind": tensor(storage("0", 4, "QInt8Storage"), (4,)),
    "storage type from elsewhere": tensor(storage("0", 4, module="os"), (4,)),
    "storage type is a function": tensor(storage("0", 4, "Size"), (4,)),
    "persistent id is short": text("storage") + b"\x85Q",
    "persistent id is a string": text("storage") + b"Q",
    "persistent id names a module": storage("0", 4).replace(text("storage"), text("module")),
    "no tensor": text("hello"),
    "nested state dict": dictionary({"y": tensor(storage("0", 4), (4,))}),
    "a bare storage": storage("0", 4),
}  # fmt: skip


@pytest.mark.parametrize("kind", LIES)
def test_a_lie_is_an_error(tmp_path: Path, kind: str) -> None:
    with pytest.raises((FormatError, UnsupportedError)):
        open_bytes(tmp_path, holding(LIES[kind]))


BOMBS: dict[str, bytes] = {
    "memo far away": b"N" + b"r" + struct.pack("<I", (1 << 32) - 1) + b"0" + tensor(storage("0", 4), (4,)) + b"0",
    "memo that is not there": b"j" + struct.pack("<I", 7),
    "giant number": b"\x8b" + struct.pack("<i", 1 << 30) + b"\1" * 100,
    "long number": b"\x8a\xff" + b"\1" * 255,
    "decimal number": b"L" + b"9" * 100_000 + b"L\n",
    "giant string": b"X" + struct.pack("<I", (1 << 32) - 1),
    "giant string of 8 bytes": b"\x8d" + struct.pack("<Q", (1 << 63) - 1),
    "long string": text("a" * 70_000),
    "bytes": b"B" + struct.pack("<I", 1 << 31),
    "byte array": b"\x96" + struct.pack("<Q", 1 << 62),
    "negative string": b"T" + struct.pack("<i", -5),
    "name without end": b"c" + b"a" * 100_000,
    "pop from nothing": b"0" * 100,
    "mark as a value": b"((t",
    "no mark": b"t",
    "deep key": b")" + b"\x85" * 30_000 + b"N",
    "deep tuple as a key": b"}" + b")" + b"\x85" * 50_000 + b"Ns",
    "doubling": b"]q\0" + b"(" + b"h\0h\0" * 20 + b"e",
    "self-containing list": b"]q\0h\0a",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_an_error(tmp_path: Path, kind: str) -> None:
    for data in (
        holding(BOMBS[kind]),
        archive(program(BOMBS[kind]), {}),
        program(BOMBS[kind]),
        program(BOMBS[kind]) * 3,
    ):
        with pytest.raises((FormatError, UnsupportedError)):
            open_bytes(tmp_path, data)


def test_doubling_tuples_take_no_memory(tmp_path: Path) -> None:
    """Each is twice the one before: 2^5000 values, if anything looked at all of them."""
    with pytest.raises(UnsupportedError, match="not a tensor"):
        open_bytes(tmp_path, holding(b")" + b"q\0h\0\x86" * 5000))


def test_a_pickle_without_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpickle, "MAX_STEPS", 1000)
    with pytest.raises(FormatError, match="does not end"):
        open_bytes(tmp_path, holding(b"N0" * 2000 + tensor(storage("0", 4), (4,))))
    monkeypatch.setattr(unpickle, "MAX_PICKLE", 100)
    with pytest.raises(FormatError, match="does not end"):
        open_bytes(tmp_path, SOUND)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    body = b"}(" + number(7) + tensor(storage("0", 4), (4,)) + b"u"
    with pytest.raises(UnsupportedError, match="not a tensor"):
        open_bytes(tmp_path, archive(program(body), {"0": FOUR}))


@pytest.mark.parametrize("body", [b"N", b"]", text("x"), tensor(storage("0", 4), (4,)), number(5)])
def test_a_file_that_is_no_dictionary(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(UnsupportedError, match="no dictionary"):
        open_bytes(tmp_path, archive(program(body), {"0": FOUR}))


def rezip(change: Callable[[zipfile.ZipFile], None]) -> bytes:
    buffer = io.BytesIO(SOUND)
    with zipfile.ZipFile(buffer, "a") as target:
        change(target)
    return buffer.getvalue()


def patched(data: bytes, marker: bytes, offset: int, code: str, *values: int) -> bytes:
    """``data`` with numbers written behind the last ``marker``."""
    at = data.rindex(marker) + offset
    return data[:at] + struct.pack(code, *values) + data[at + struct.calcsize(code) :]


CENTRAL = b"PK\1\2"
ARCHIVES: dict[str, bytes] = {
    "compressed": archive(program(dictionary({})), {"0": bytes(1000)}, zipfile.ZIP_DEFLATED),
    "zip bomb": archive(program(dictionary({})), {"0": bytes(10_000_000)}, zipfile.ZIP_DEFLATED),
    "no pickle": archive(b"", {}).replace(b"data.pkl", b"data.pkx"),
    "two pickles": rezip(lambda target: target.writestr("other/data.pkl", b"N.")),
    "climbing member": rezip(lambda target: target.writestr("archive/../../etc/passwd", b"")),
    "absolute member": rezip(lambda target: target.writestr("/etc/passwd", b"")),
    "folder": rezip(lambda target: target.writestr("archive/data/", b"")),
    "backslash": rezip(lambda target: target.writestr("archive\\data\\0", b"")),
    "name in the directory only": patched(SOUND, b"archive/version", 8, "<B", 90),
    "size in the directory": patched(SOUND, CENTRAL, 20, "<II", 1 << 20, 1 << 20),
    "two sizes": patched(SOUND, CENTRAL, 20, "<II", 1, 2),
    "offset": patched(SOUND, CENTRAL, 42, "<I", 0),
    "offset behind the end": patched(SOUND, CENTRAL, 42, "<I", 1 << 30),
    "encrypted": patched(SOUND, CENTRAL, 8, "<H", 1),
    "method": patched(SOUND, CENTRAL, 10, "<H", 99),
    "directory size": patched(SOUND, b"PK\5\6", 12, "<I", 1 << 30),
    "directory offset": patched(SOUND, b"PK\5\6", 16, "<I", 1 << 30),
    "member count": patched(SOUND, b"PK\5\6", 8, "<HH", 60000, 60000),
    "local name length": patched(SOUND, b"PK\3\4", 26, "<H", 60000),
    "local method": patched(SOUND, b"PK\3\4", 8, "<H", 8),
    "big-endian": SOUND.replace(b"little", b"biggie"),
}  # fmt: skip


@pytest.mark.parametrize("kind", [kind for kind in ARCHIVES if kind != "member count"])
def test_a_lying_archive_is_an_error(tmp_path: Path, kind: str) -> None:
    with pytest.raises((FormatError, UnsupportedError)):
        open_bytes(tmp_path, ARCHIVES[kind])


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_twice(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="twice"):
        open_bytes(tmp_path, rezip(lambda target: target.writestr("archive/data/0", FOUR)))


def test_overlapping_members(tmp_path: Path) -> None:
    """Two entries of the directory for the bytes of one."""
    data = archive(program(dictionary({})), {"aa": FOUR, "bb": FOUR})
    second, first = (data.rindex(b"archive/data/" + key) - 46 for key in (b"bb", b"aa"))
    place = data[first + 42 : first + 46]
    data = data[: second + 42] + place + data[second + 46 :]
    with pytest.raises(FormatError, match=r"lies|two names"):
        open_bytes(tmp_path, data)


def test_a_directory_of_many_megabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storedzip, "MAX_DIRECTORY", 200)
    with pytest.raises(FormatError, match="directory of"):
        open_bytes(tmp_path, SOUND)


LEGACY = torch_legacy(
    {"x": ("F32", np.arange(6, dtype=np.float32).reshape(2, 3)), "y": ("F16", np.ones(3, np.float16))}
)


def test_cut_short_anywhere(tmp_path: Path) -> None:
    open_bytes(tmp_path, LEGACY)
    for data in (LEGACY, SOUND):
        for length in range(0, len(data), 3):
            with pytest.raises((FormatError, UnsupportedError)):
                open_bytes(tmp_path, data[:length])


def test_old_files_that_lie(tmp_path: Path) -> None:
    keys = text("0") + text("1")
    for before, after in (
        (keys, text("0") + text("0")),
        (keys, text("0") + text("2")),
        (keys, text("0") + number(7)),
        (b"\x88", b"\x89"),
        (struct.pack("<q", 6), struct.pack("<q", 7)),
        (struct.pack("<q", 6), struct.pack("<q", -6)),
        (number(1001), number(1002)),
        (b"N" + b"tQ", b"(" + text("k") + number(0) + number(1) + b"ttQ"),
    ):
        assert before in LEGACY
        with pytest.raises((FormatError, UnsupportedError)):
            open_bytes(tmp_path, LEGACY.replace(before, after))


def test_mutated_files_end_in_clean_errors(tmp_path: Path) -> None:
    """Bytes changed, cut out, doubled and moved, at places where they matter."""
    chance = random.Random(11)
    bases = [SOUND, LEGACY, *((GOLDEN / file).read_bytes() for file in SAMPLES)]
    interesting = [
        b"(",
        b".",
        b"R",
        b"b",
        b"Q",
        b"q",
        b"h",
        b"\x86",
        b"\xff",
        b"\0",
        b"PK\3\4",
        b"PK\1\2",
        b"cos\nsystem\n",
    ]
    refused = 0
    for _ in range(2500):
        data = bytearray(chance.choice(bases))
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(min(len(data), 3000))
            what = chance.randrange(5)
            if what == 0:
                data[at] = chance.randrange(256)
            elif what == 1:
                piece = chance.choice(interesting)
                data[at : at + len(piece)] = piece
            elif what == 2:
                del data[at : at + chance.randrange(1, 9)]
            elif what == 3:
                data[at:at] = data[at : at + chance.randrange(1, 30)]
            else:
                data[at : at + 4] = struct.pack("<I", chance.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 20]))
        try:
            open_bytes(tmp_path, bytes(data))
        except GgufrunError:
            refused += 1
    assert refused > 1200
    assert threading.active_count() < 50


def stored(dtype: str = "BF16") -> dict[str, tuple[str, Any]]:
    return {key: (dtype, encode(dtype, values)) for key, values in llama_tensors(llama_config()).items()}


def test_shards_by_their_index(tmp_path: Path) -> None:
    tensors = stored()
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for index in range(2):
        file = f"pytorch_model-{index + 1:05}-of-00002.bin"
        part = {key: tensors[key] for key in names[index::2]}
        (tmp_path / file).write_bytes((torch_zip, torch_legacy)[index](part))
        weight_map |= dict.fromkeys(part, file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    source = open_checkpoint(tmp_path)
    assert list(source.tensors) == names[0::2] + names[1::2]
    for key, (_, values) in tensors.items():
        read = source.tensors[key]
        np.testing.assert_array_equal(read.rows(0, read.n_rows).reshape(values.shape), values)
    source.close()
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(NotFoundError, match="pytorch_model-00002-of-00002"):
        open_checkpoint(tmp_path)


def test_a_tensor_in_two_files(tmp_path: Path) -> None:
    for file in ("pytorch_model-1.bin", "pytorch_model-2.bin"):
        (tmp_path / file).write_bytes(SOUND)
    with pytest.raises(FormatError, match="two files"):
        open_checkpoint(tmp_path)
