"""What is in a .pt file by mistake or by intent: refused by name, with the way to go on, and nothing of it is run."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pathlib
import pickle
import resource
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import ROOT
from helpers.memory import forget, resident
from refoptim.checkpoint import CheckpointError, pickled, pt

ran: list[Any] = []
"""What hostile files would fill."""


def pack(path: Path, program: bytes, compression: int = zipfile.ZIP_STORED, **more: bytes) -> Path:
    """Write a file with a pickle and a storage of 16 bytes."""
    members = {"data.pkl": program, "byteorder": b"little", "data/0": bytes(range(16)), "version": b"3\n"}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in {**members, **{name.replace("__", "/"): data for name, data in more.items()}}.items():
            archive.writestr(f"archive/{name}", data)
    return path


def pack_names(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        pt.load(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# By torch


def sparse(torch: Any) -> Any:
    return torch.eye(2).to_sparse()


BY_TORCH: dict[str, tuple[Callable[[Any], Any], str]] = {
    "module": (
        lambda torch: torch.nn.Linear(2, 2),
        r"a module whole \(torch.nn.modules.linear.Linear\): take model.state_dict",
    ),
    "float8": (
        lambda torch: torch.ones(2).to(torch.float8_e4m3fn),
        r"float8 tensors .*: cast them, x.to\(torch.float32\)",
    ),
    "sparse": (sparse, r"sparse tensors .*: call x.to_dense\(\)"),
    "conj": (lambda torch: torch.tensor([1j]).conj(), r"'conj'\): call x.resolve_conj\(\).resolve_neg\(\) first"),
    "neg": (lambda torch: torch.tensor([1j]).conj().imag, r"'neg'\): call x.resolve_conj\(\).resolve_neg\(\) first"),
    "namespace": (
        lambda torch: argparse.Namespace(lr=1),
        r"an argparse.Namespace \(argparse.Namespace\): take vars\(args\)",
    ),
    "path": (lambda torch: pathlib.PurePosixPath("x"), r"a path \(pathlib.PurePosixPath\): take str\(path\)"),
    "defaultdict": (lambda torch: collections.defaultdict(list), r"a defaultdict .*: take dict\(x\)"),
    "expanded": (lambda torch: torch.ones(1).expand(9), r"repeat their elements: call x.contiguous\(\)"),
    "overlapping": (lambda torch: torch.arange(6.0).unfold(0, 3, 1), r"repeat their elements: call x.contiguous\(\)"),
    "optimizer": (
        lambda torch: torch.optim.SGD([torch.ones(1)]),
        r"an optimizer or scheduler whole .*: take its state_dict",
    ),
    "cycle": (
        lambda torch: torch.optim.lr_scheduler.OneCycleLR(torch.optim.SGD([torch.ones(1)]), 0.1, total_steps=3),
        r"an optimizer or scheduler whole \(torch.optim.lr_scheduler.OneCycleLR\): take its state_dict",
    ),
    "buffer": (lambda torch: io.BytesIO(b"x"), "holds an object of _io.BytesIO, and only tensors and plain data"),
    "meta": (lambda torch: torch.ones(2, device="meta"), "tensors on the device meta"),
    "objects": (lambda torch: np.array([None]), "an array of NumPy of the dtype 'O8': save a tensor"),
    "big-endian": (lambda torch: np.arange(3, dtype=">i4"), "big-endian or structured numbers of NumPy"),
    "structured": (lambda torch: np.zeros(2, "i4,f4"), "an array of NumPy of the dtype 'V8'"),
    "generator": (
        lambda torch: np.random.default_rng(0),
        r"an array of NumPy of a kind that is not read \(numpy.random",
    ),
    "function": (
        lambda torch: os.path.join,
        "holds an object of posixpath.join, and only tensors and plain data are read",
    ),
    "class": (lambda torch: torch.float32.__class__, "holds an object of torch.dtype, and only tensors"),
    "storage": (lambda torch: torch.ones(3).untyped_storage(), "holds 'Storage' as a value"),
    "key": (lambda torch: {(1, 2): 3}, "has a key that is a tuple: use texts and numbers"),
    "cyclic": (
        lambda torch: torch.optim.lr_scheduler.CyclicLR(torch.optim.SGD([torch.ones(1)]), 0.1, 1, cycle_momentum=False),
        "a scheduler whole, as state dicts of old releases do .*: load it with torch, delete its function",
    ),
}


@pytest.mark.parametrize("name", BY_TORCH)
def test_what_torch_saves_and_is_no_data(name: str, torch: Any, tmp_path: Path) -> None:
    make, message = BY_TORCH[name]
    torch.save({"x": make(torch)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=message):
        pt.load(tmp_path / "x.pt")


def test_the_format_of_before_1_6(torch: Any, tmp_path: Path) -> None:
    torch.save({"x": torch.ones(2)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    message = refused(tmp_path / "x.pt")
    assert "format from before 1.6" in message
    assert "torch.save(torch.load(path, weights_only=True), path)" in message


def test_checksums_that_were_never_computed(torch: Any, tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"x": torch.ones(2)}, tmp_path / "x.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert "set_crc32_options): load it with verify=False" in refused(tmp_path / "x.pt")
    assert pt.load(tmp_path / "x.pt", verify=False)["x"].tolist() == [1, 1]


# Files of other kinds


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "storages")


KINDS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "is no file of torch.save"),
    "text": (lambda path: path.write_bytes(b"hello\n" * 99), "is no file of torch.save"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "is a pickle and no file of torch.save"),
    "tar": (write_tar, "is in torch's first format"),
    "gzip": (lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(50)), "is compressed: gunzip it first"),
    "hdf5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50)), "is an HDF5 file"),
    "npy": (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00" + bytes(50)), "is a .npy file: use numpy.load"),
    "npz": (lambda path: pack_names(path, "x.npy", "y.npy"), "is a zip file, but torch.save did not write it"),
    "safetensors": (lambda path: path.write_bytes(struct.pack("<Q", 2) + b"{}"), "is perhaps a safetensors file"),
    "compressed": (
        lambda path: pack(path, pickle.dumps({"a": 1} | {"x" * i: 1 for i in range(9)}, 2), zipfile.ZIP_DEFLATED),
        "compressed or encrypted member",
    ),
    "program": (
        lambda path: pack(path, b"", **{"constants.pkl": b""}),
        "is a program of TorchScript: load it with torch.jit.load",
    ),
    "big-endian": (lambda path: pack(path, b"\x80\x02N.", byteorder=b"big"), "byte order b'big': load it with torch"),
    "newer": (
        lambda path: pack(path, b"\x80\x02N.", version=b"11\n"),
        "has version b'11' of torch's format, and this reads 10",
    ),
    "folder": (lambda path: path.mkdir(), "is a folder"),
}


@pytest.mark.parametrize("name", KINDS)
def test_files_of_other_kinds(name: str, tmp_path: Path) -> None:
    write, message = KINDS[name]
    write(tmp_path / "x.pt")
    assert message in refused(tmp_path / "x.pt")


def test_a_folder_of_shards_names_the_converter(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / ".metadata").write_bytes(b"")
    assert "python -m torch.distributed.checkpoint.format_utils dcp_to_torch" in refused(tmp_path / "x")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are those of POSIX")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    assert "is no file" in refused(tmp_path / "x")


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        pt.load(tmp_path / "x.pt")


def test_names_of_files_are_shown_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x\n\x1b[31m.pt"
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"^x\\n\\x1b\[31m.pt is no file of torch.save"):
        pt.load(path)


# Hostile pickles: whatever they would run appends to ``ran``


def reduce(module: str, name: str, *arguments: bytes) -> bytes:
    return b"\x80\x02c%s\n%s\n(%stR." % (module.encode(), name.encode(), b"".join(arguments))


def text(x: str) -> bytes:
    return b"X" + struct.pack("<I", len(x)) + x.encode()


RUNNING = {
    "os.system": reduce("os", "system", text("touch ran")),
    "posix.system": reduce("posix", "system", text("touch ran")),
    "subprocess.Popen": reduce("subprocess", "Popen", text("touch ran")),
    "__builtin__.eval": reduce("__builtin__", "eval", text("open('ran', 'w')")),
    "builtins.exec": reduce("builtins", "exec", text("open('ran', 'w')")),
    "builtins.__import__": reduce("builtins", "__import__", text("antigravity")),
    "torch.hub.load": reduce("torch.hub", "load", text("x")),
    "torch.storage._load_from_bytes": reduce("torch.storage", "_load_from_bytes", text("x")),
    "runpy._run_code": reduce("runpy", "_run_code", text("x")),
}


@pytest.mark.parametrize("name", RUNNING)
def test_what_would_run_is_named_and_does_not(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = refused(pack(tmp_path / "x.pt", RUNNING[name]))
    assert f"would run {name}, which no data need" in message
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]
    assert "antigravity" not in sys.modules


class Hostile:
    """What runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return ran.append, (1,)


@pytest.mark.parametrize("protocol", range(6))
def test_no_protocol_runs_anything(protocol: int, tmp_path: Path) -> None:
    """``copyreg``, ``getattr``, states with ``__setstate__``: pickle runs each of them."""
    ran.clear()
    for x in (
        Hostile(),
        {"a": [Hostile()]},
        collections.OrderedDict(a=Hostile()),
        pathlib.PurePosixPath("a"),
        slice(1),
    ):
        refused(pack(tmp_path / "x.pt", pickle.dumps(x, protocol)))
    assert not ran


T = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
HOOKS = b"\x89ccollections\nOrderedDict\n)R"


def tensor(
    storage: bytes = STORAGE,
    offset: bytes = b"K\0",
    size: bytes = b"K\4\x85",
    stride: bytes = b"K\1\x85",
    rest: bytes = HOOKS,
) -> bytes:
    return b"\x80\x02" + T + b"(" + storage + offset + size + stride + rest + b"tR."


def test_the_tensor_that_the_others_are_made_of(tmp_path: Path) -> None:
    read = pt.load(pack(tmp_path / "x.pt", tensor()))
    assert read.tobytes() == bytes(range(16))


def test_the_stride_of_an_axis_of_one_does_not_matter(tmp_path: Path) -> None:
    read = pt.load(pack(tmp_path / "x.pt", tensor(size=b"K\1K\4\x86", stride=HUGE + b"K\1\x86")))
    assert read.shape == (1, 4)
    assert read.tobytes() == bytes(range(16))


HUGE = b"\x8a\x08" + (2**62).to_bytes(8, "little")

WRONG = {
    "a stride of 0": (tensor(size=HUGE + b"\x85", stride=b"K\0\x85"), "has a tensor of the shape"),
    "2^31 of 4": (tensor(size=b"J\xff\xff\xff\x7f\x85", stride=b"K\0\x85"), "repeat their elements"),
    "32 axes of 2": (tensor(size=b"(" + b"K\2" * 32 + b"t", stride=b"(" + b"K\0" * 32 + b"t"), "repeat their elements"),
    "33 axes": (tensor(size=b"(" + b"K\1" * 33 + b"t", stride=b"(" + b"K\1" * 33 + b"t"), "has a tensor of the shape"),
    "a huge stride": (tensor(size=b"K\2\x85", stride=HUGE + b"\x85"), "reaches beyond its storage"),
    "a negative stride": (tensor(stride=b"J\xff\xff\xff\xff\x85"), "strides or an offset that are none"),
    "a negative size": (tensor(size=b"J\xff\xff\xff\xff\x85"), "has a tensor of the shape"),
    "a negative offset": (tensor(offset=b"J\xff\xff\xff\xff"), "strides or an offset that are none"),
    "an offset": (tensor(offset=b"K\1"), "reaches beyond its storage"),
    "a huge offset": (tensor(offset=HUGE, size=b"K\1\x85"), "reaches beyond its storage"),
    "a bool as a size": (tensor(size=b"\x88\x85"), "has a tensor of the shape"),
    "a tensor as a size": (
        tensor(size=tensor(size=b"K\2K\2\x86", stride=b"K\2K\1\x86")[2:-1] + b"\x85"),
        "has a tensor of the shape (array([[",
    ),
    "a size that is endless as a text": (
        tensor(size=b"K\1\x85" + b"q\x00h\x00\x86" * 60 + b"\x85"),
        "has a tensor of the shape that is none",
    ),
    "other strides": (tensor(stride=b"K\1K\1\x86"), "strides or an offset that are none"),
    "a huge empty one": (
        tensor(size=b"K\0" + HUGE + HUGE + b"\x87", stride=b"K\1K\1K\1\x87"),
        "has a tensor of the shape",
    ),
    "no storage": (tensor(storage=b"K\1"), "with other arguments than torch"),
    "another storage": (tensor(storage=STORAGE.replace(b"\x000X", b"\x001X")), "lacks the storage '1'"),
    "a storage outside": (
        tensor(storage=STORAGE.replace(b"\x01\x00\x00\x000", b"\x0b\x00\x00\x00../data.pkl")),
        "lacks the storage",
    ),
    "a longer storage": (tensor(storage=STORAGE.replace(b"K\4", b"K\5")), "has other bytes than it says"),
    "a huge storage": (tensor(storage=STORAGE.replace(b"K\4", HUGE)), "has other bytes than it says"),
    "a negative storage": (tensor(storage=STORAGE.replace(b"K\4", b"J\xff\xff\xff\xff")), "no storage"),
    "another dtype": (tensor(storage=STORAGE.replace(b"FloatS", b"DoubleS")), "has other bytes than it says"),
    "an unknown dtype": (tensor(storage=STORAGE.replace(b"FloatS", b"Float8_e5m2S")), "float8 tensors"),
    "quantized": (tensor(storage=STORAGE.replace(b"FloatS", b"QInt8S")), "quantized tensors"),
    "no hooks": (tensor(rest=b"\x89N"), "with other arguments than torch"),
    "marks": (tensor(rest=HOOKS + b"}X\x04\x00\x00\x00conj\x88s"), "are others than those in the file"),
    "a tensor as a mark": (
        tensor(rest=HOOKS + b"}X\x04\x00\x00\x00conj" + tensor()[2:-1] + b"s"),
        "are others than those in the file",
    ),
    "a tensor as a byte order": (
        b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00f8\x85RK\3" + tensor()[2:-1] + b"\x86b.",
        "has big-endian or structured numbers",
    ),
    "too many": (tensor(rest=HOOKS + b"NN"), "with other arguments than torch"),
    "called in vain": (b"\x80\x02ctorch\nFloatStorage\n)R.", "holds an object of torch.FloatStorage"),
    "a class as a value": (b"\x80\x02ctorch\nFloatStorage\n.", "holds 'torch.FloatStorage' as a value"),
    "kept elsewhere": (b"\x80\x02K\1Q.", "no storage"),
    "a text called": (b"\x80\x02X\x01\x00\x00\x00a)R.", "calls what is no function"),
    "a list as arguments": (b"\x80\x02ccollections\nOrderedDict\n]R.", "a call without arguments"),
    "a state for a list": (b"\x80\x02]}b.", "gives a state to what has none"),
    "an array without a state": (
        b"\x80\x02cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\1b\x87R.",
        "holds 'numpy.ndarray' as a value",
    ),
    "attributes": (
        b"\x80\x02c__builtin__\ngetattr\nctorch.optim.lr_scheduler\nOneCycleLR\nX\x01\x00\x00\x00a\x86R.",
        "would run",
    ),
    "itself": (b"\x80\x02]q\0h\0a.", "holds itself"),
    "itself in a dict": (b"\x80\x02}q\0K\1h\0s.", "holds itself"),
    "65 deep": (b"\x80\x02" + b"]" * 66 + b"a" * 65 + b".", "more than 64 deep"),
    "more behind its end": (b"\x80\x02N.N", "has more behind the end"),
    "two things": (b"\x80\x02NN.", "leaves several things"),
    "nothing": (b"\x80\x02.", "leaves several things"),
    "a mark": (b"\x80\x02(N.", "leaves several things"),
    "no mark": (b"\x80\x02t.", "looks for a mark"),
    "an empty stack": (b"\x80\x02\x85.", "takes more from its stack"),
    "an empty memo": (b"\x80\x02h\x05.", "recalls what it has not met"),
    "nothing remembered": (b"\x80\x02q\0.", "remembers nothing"),
    "no end": (b"\x80\x02N", "is cut off"),
    "a long text": (b"\x80\x02X\xff\xff\xff\xffa.", "is cut off"),
    "no text": (b"\x80\x02X\x01\x00\x00\x00\xff.", "a text that is none"),
    "an endless name": (b"\x80\x02c" + b"a" * 5000, "a name without an end"),
    "a name with spaces": (b"\x80\x02ctorch _utils\n_rebuild_tensor_v2\n.", "names something without a name"),
    "numbers as names": (b"\x80\x04K\1K\2\x93.", "names something without a name"),
    "an unknown opcode": (b"\x80\x022.", "opcode 0x32, which no data need"),
    "a key without a value": (b"\x80\x02}(K\1u.", "a key without a value"),
    "items of a list": (b"\x80\x02](K\1K\2u.", "fills what is no dict"),
    "a list as a key": (b"\x80\x02}]K\1s.", "has a key that is a list"),
    "a long key": (b"\x80\x02}\x8a\x09" + bytes(8) + b"\x01K\1s.", "has a key of more than 64 bits"),
    "bytes beyond latin1": (
        b"\x80\x02c_codecs\nencode\nX\x03\x00\x00\x00\xe2\x82\xacX\x06\x00\x00\x00latin1\x86R.",
        "has bytes that are none",
    ),
    "another encoding": (
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
        "has bytes that are none",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_pickles_that_torch_does_not_write(name: str, tmp_path: Path) -> None:
    program, message = WRONG[name]
    assert message in refused(pack(tmp_path / "x.pt", program))


def test_bools_are_0_or_1(tmp_path: Path) -> None:
    program = tensor(storage=STORAGE.replace(b"FloatS", b"BoolS").replace(b"K\4t", b"K\x10t"), size=b"K\x10\x85")
    assert "a bool that is neither true nor false" in refused(pack(tmp_path / "x.pt", program))


def test_a_storage_of_two_dtypes(tmp_path: Path) -> None:
    other = STORAGE.replace(b"FloatS", b"IntS")
    program = tensor()[:-1] + tensor(storage=other)[2:-1] + b"\x86."
    assert "has the storage '0' twice, and they differ" in refused(pack(tmp_path / "x.pt", program))


# zip files that lie


def test_two_members_of_one_name(tmp_path: Path) -> None:
    pack(tmp_path / "x.pt", b"\x80\x02N.", **{"data/1": b"abc"})
    data = (tmp_path / "x.pt").read_bytes().replace(b"archive/data/1", b"archive/data/0")
    (tmp_path / "x.pt").write_bytes(data)
    assert "has two members of one name, 'archive/data/0'" in refused(tmp_path / "x.pt")


def test_members_that_lie_upon_one_another(tmp_path: Path) -> None:
    """The directory names the first member again, with another name; its own name agrees, as far as it is read."""
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w") as other:
            other.writestr("archive/data/0", b"x")
        archive.writestr("archive/data.pkl", inner.getvalue())
        archive.writestr("archive/data/0", b"x")
    data = bytearray((tmp_path / "x.pt").read_bytes())
    place = data.rfind(b"PK\x01\x02")
    inside = data.find(b"PK\x03\x04", 4)
    data[place + 42 : place + 46] = inside.to_bytes(4, "little")
    (tmp_path / "x.pt").write_bytes(data)
    assert "its members lie upon one another" in refused(tmp_path / "x.pt")


# Time and memory


ONES = struct.pack("<I", 1_000_000)

BOMBS: dict[str, Callable[[], bytes]] = {
    "a memo of 2^32": lambda: b"\x80\x02Nr\xff\xff\xff\xff.",
    "lists of lists": lambda: b"\x80\x02]" + billion(),
    "long": lambda: b"\x80\x02(" + b"]" * 3_000_000 + b"t.",
    "dicts": lambda: b"\x80\x02(" + b"}" * 990_000 + b"t.",
    "ordered": lambda: b"\x80\x02ccollections\nOrderedDict\nq\0(" + b"h\0)R" * 330_000 + b"t.",
    "bytes": lambda: (
        b"\x80\x02"
        + text("a" * 1_000_000)
        + b"q\0"
        + text("latin1")
        + b"q\1c_codecs\nencode\nq\2("
        + b"h\2h\0h\1\x86R" * 10_000
        + b"t."
    ),
    "sets": lambda: (
        b"\x80\x02]("
        + b"".join(b"M" + struct.pack("<H", i) for i in range(60_000))
        + b"eq\0c__builtin__\nset\nq\1("
        + b"h\1h\0\x85R" * 10_000
        + b"t."
    ),
    "counters": lambda: (
        b"\x80\x02}("
        + b"".join(b"M" + struct.pack("<H", i) + b"K\1" for i in range(60_000))
        + b"uq\0ccollections\nCounter\nq\1("
        + b"h\1h\0\x85R" * 10_000
        + b"t."
    ),
    "marks": lambda: b"\x80\x02" + b"(" * 900_000 + b"t.",
    "keys of one hash": lambda: (
        b"\x80\x02}("
        + b"".join(b"\x8a\x10" + (i * (2**61 - 1)).to_bytes(16, "little") + b"N" for i in range(1, 30_000))
        + b"u."
    ),
}


def billion() -> bytes:
    """Return a list with 2^60 members, which are all one list."""
    return b"q\0" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60)) + b"."


@pytest.mark.parametrize("name", BOMBS)
def test_time_and_memory_are_bounded(name: str, tmp_path: Path) -> None:
    """What is refused, or read where it is harmless, takes seconds and 192 MiB beyond 16 times the file at most."""
    path = pack(tmp_path / "x.pt", BOMBS[name]())
    forget()
    before, began = resident("VmRSS"), time.process_time()
    try:
        pt.load(path)
    except CheckpointError as error:
        assert "\n" not in str(error)
    assert resident("VmHWM") - before < (192 << 20) + 16 * path.stat().st_size
    assert time.process_time() - began < 60


def test_views_of_one_storage_hold_little_in_all(tmp_path: Path) -> None:
    """Copying what is read takes memory in proportion to the file."""
    count = 1 << 22
    rest = b"K\0J" + struct.pack("<i", count // 4) + b"\x85K\1\x85" + HOOKS + b"tR"
    storage = STORAGE.replace(b"K\4", b"J" + struct.pack("<i", count // 4))
    first, again = T + b"q\0(" + storage + b"q\1" + rest, b"h\0(h\1" + rest
    for times, fits in ((16, True), (200, False)):
        program = b"\x80\x02(" + first + again * (times - 1) + b"t."
        path = tmp_path / "x.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", program)
            archive.writestr("archive/data/0", bytes(count))
        if fits:
            assert len(pt.load(path)) == times
        else:
            assert "repeat their elements" in refused(path)


def test_address_space_is_bounded(tmp_path: Path) -> None:
    """In a process that may take little memory a file with a huge memo and huge strides is refused, not fatal."""
    path = pack(tmp_path / "x.pt", b"\x80\x02Nr\xff\xff\xff\xff0" + tensor(size=HUGE + b"\x85", stride=b"K\0\x85")[2:])
    code = (
        "import resource; from refoptim.checkpoint import pt, CheckpointError\n"
        "now = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (now + (64 << 20),) * 2)\n"
        f"try: pt.load({str(path)!r})\nexcept CheckpointError as error: print(error)"
    )
    if not Path("/proc/self/statm").exists():
        pytest.skip("the size of a process is read from /proc, which this system does not have")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("x.pt has a pickle")
    assert resource.getpagesize() > 0


def test_most_opcodes(tmp_path: Path) -> None:
    fits = pickled.MOST_OPCODES - 3
    path = pack(tmp_path / "x.pt", b"\x80\x02(" + b"N" * fits + b"t.")
    assert len(pt.load(path)) == fits
    path = pack(tmp_path / "x.pt", b"\x80\x02(" + b"N" * (2 * fits) + b"t.")
    assert "has a pickle of more than" in refused(path)
