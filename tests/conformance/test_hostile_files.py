"""Files that are cut off, altered, of another version, or made to do harm are refused in one line and little memory.

Every refusal goes through the command line, and is measured. What a hostile file would do if it were believed (run
code, fill the memory, leave the folder) is looked for afterwards.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from refoptim.conformance import export, formats, goldens, text, words
from refoptim.conformance.strict import Layout

from helpers import ROOT
from refoptim.commands.main import main

FORMATS = (".npz", ".json", ".safetensors", ".csv")
ROOM = 120 << 20
"""Bytes that reading a hostile file may take at most; those here would take gigabytes."""


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one trajectory in every format."""
    folder = tmp_path_factory.mktemp("genuine")
    for suffix in FORMATS:
        arguments = [
            "--set",
            "lr=0.03",
            "--shape",
            "2,2",
            "--shape",
            "3",
            "--steps",
            "2",
            "-o",
            str(folder / f"x{suffix}"),
        ]
        assert CliRunner().invoke(main, ["golden", "generate", "adam", *arguments]).exit_code == 0
    return folder


def header(genuine: Path) -> dict[str, Any]:
    """Return the header of the genuine files, without the digest: anybody may write that."""
    found = formats.read(genuine / "x.npz").header
    return {"format": "refoptim trajectory", "schema": 1, **found}


def tensors(genuine: Path) -> dict[str, Any]:
    return formats.read(genuine / "x.npz").tensors


def refused(path: Path, command: str = "verify") -> str:
    """Assert that a file is refused, in one line and in little memory, and return what is said."""
    tracemalloc.start()
    try:
        result = CliRunner().invoke(main, ["golden", command, str(path)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (result.exit_code, result.stdout) == (2, ""), (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1 and len(result.stderr) < 400
    assert peak < ROOM, f"{peak} bytes"
    return result.stderr


def written(tmp_path: Path, suffix: str, head: Any, arrays: dict[str, Any]) -> Path:
    """Write a file as a careless or hostile program would: nothing is checked."""
    path = tmp_path / f"hostile{suffix}"
    path.write_bytes(formats.ENCODERS[formats.SUFFIXES[suffix]](head, arrays))
    return path


def zipped(path: Path, members: list[tuple[str, bytes]], **options: Any) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", **options) as archive:
        warnings.simplefilter("ignore")
        for name, data in members:
            archive.writestr(name, data)
    return path


def npy(x: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, x, **options)
    return out.getvalue()


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_genuine_is_read(genuine: Path, tmp_path: Path, suffix: str) -> None:
    assert CliRunner().invoke(main, ["golden", "verify", str(genuine / f"x{suffix}")]).exit_code == 0
    copy = written(tmp_path, suffix, header(genuine), tensors(genuine))
    assert CliRunner().invoke(main, ["golden", "verify", str(copy)]).exit_code == 0


@pytest.mark.parametrize("suffix", FORMATS)
def test_truncated_files_are_refused(genuine: Path, tmp_path: Path, suffix: str) -> None:
    whole, path = (genuine / f"x{suffix}").read_bytes(), tmp_path / f"cut{suffix}"
    ends = {0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 30, len(whole) - 3, *range(0, len(whole), len(whole) // 40)}
    for end in sorted(ends):
        path.write_bytes(whole[:end])
        refused(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_altered_file_is_refused_or_says_the_same(genuine: Path, tmp_path: Path, suffix: str) -> None:
    whole, path = (genuine / f"x{suffix}").read_bytes(), tmp_path / f"altered{suffix}"
    original, accepted = formats.read(genuine / f"x{suffix}"), 0
    places = range(0, len(whole), max(1, len(whole) // 250))
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        try:
            found = formats.read(path)
        except formats.GoldenError as error:
            assert "\n" not in str(error)
            continue
        accepted += 1
        assert found.header == original.header and found.tensors.keys() == original.tensors.keys()
        assert all(x.tobytes() == original.tensors[name].tobytes() for name, x in found.tensors.items())
    assert accepted < len(places) / 4


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda h: h.update(schema=2), "has schema 2, this version reads 1"),
        (lambda h: h.update(schema=True), "has schema True"),
        (lambda h: h.update(format="x"), "no trajectory of refoptim"),
        (lambda h: h.update(sha256="0" * 64), "altered after it was made"),
        (lambda h: h.update(case=[]), "does not say in 'case' what was run"),
        (lambda h: h["case"].update(optimizer="functional"), "names no optimizer: 'functional'"),
        (lambda h: h["case"].update(optimizer="Optimizer"), "names no optimizer"),
        (lambda h: h["case"].update(optimizer=["Adam"]), "names no optimizer"),
        (lambda h: h["case"].update(more=1), "a case needs"),
        (lambda h: h["case"].update(dtype="object"), "dtype 'object'"),
        (lambda h: h["case"].update(steps=10**12), "1000000000000 steps"),
        (lambda h: h["case"].update(steps=-1), "-1 steps"),
        (lambda h: h["case"].update(steps=True), "True steps"),
        (lambda h: h["case"].update(steps=3), "has no param.0 of dtype float32 and shape (4, 2, 2)"),
        (lambda h: h["case"].update(shapes=[[10**12]]), "more than can be read"),
        (lambda h: h["case"].update(shapes=[[10**4, 10**4]]), "more than 268435456 bytes"),
        (lambda h: h["case"].update(shapes=[[5000, 5000]]), "more than can be held"),
        (lambda h: h["case"].update(shapes=[[0]] * 1001), "more than can be run"),
        (lambda h: h["case"].update(shapes=[[-1]]), "has shape [-1]"),
        (lambda h: h["case"].update(shapes=[[1] * 40]), "has shape [1, 1"),
        (lambda h: h["case"].update(shapes="big"), "shapes 'big'"),
        (lambda h: h["case"].update(hyper={"lr": -0.1}), "Invalid learning rate: -0.1"),
        (lambda h: h["case"].update(hyper={"lr": "0.1"}), "lr must be a real number"),
        (lambda h: h["case"].update(hyper={"betas": [0.9]}), "betas must be a tuple of exactly 2"),
        (lambda h: h["case"].update(hyper={"__class__": 1}), "has no hyperparameter '__class__'"),
        (lambda h: h["case"].update(hyper=7), "hyperparameters 7"),
        (lambda h: h["case"]["gradient"].update(seed=-1), "the seed -1"),
        (lambda h: h["case"]["gradient"].update(seed=1 << 64), "the seed 18446744073709551616"),
        (lambda h: h["case"]["gradient"].update(source="file"), "the gradient"),
        (lambda h: h["case"]["gradient"].update(kinds=["normal", "evil"]), "kinds"),
        (lambda h: h["case"]["gradient"].update(kinds=[]), "kinds"),
        (lambda h: h["case"].update(optimizer="LBFGS", hyper={"history_size": 10**12}), "must be at most 1000"),
        (lambda h: h["case"].update(optimizer="LBFGS", hyper={}), "runs on the quadratic alone"),
        (lambda h: h.update(case={"scheduler": "StepLR()"}), "the case of a scheduler needs"),
        (lambda h: h.update(case=schedule("LambdaLR(lr_lambda=lambda e: 9 ** 9 ** 9 ** e)")), "has a lambda"),
        (lambda h: h.update(case=schedule("StepLR(step_size=9**9**9**9)")), "no setting"),
        (lambda h: h.update(case=schedule("__import__('os').system('true')")), "is no scheduler"),
        (lambda h: h.update(case=schedule("StepLR(step_size=0)")), "step_size"),
        (lambda h: h.update(case=schedule("(" * 999)), "is no scheduler"),
    ],
)
def test_headers_that_lie_are_refused(
    genuine: Path, tmp_path: Path, suffix: str, change: Callable[[dict[str, Any]], Any], says: str
) -> None:
    head = header(genuine)
    change(head)
    assert says in refused(written(tmp_path, suffix, head, tensors(genuine)))


def schedule(text: str) -> dict[str, Any]:
    return {"scheduler": text, "lr": 0.1, "momentum": 0.9, "steps": 2, "seed": 0}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_hyperparameters_that_are_no_numbers_are_refused(
    genuine: Path, tmp_path: Path, suffix: str, number: str
) -> None:
    path = written(tmp_path, suffix, header(genuine), tensors(genuine))
    data = path.read_bytes()
    assert data.count(b"0.03") >= 1
    head = json.dumps(header(genuine)).replace("0.03", number)
    if suffix == ".npz":
        arrays = [(f"{name}.npy", npy(x)) for name, x in tensors(genuine).items()]
        zipped(path, [("header.json", head.encode()), *arrays])
    elif suffix == ".safetensors":
        size = int.from_bytes(data[:8], "little")
        table = json.loads(data[8 : 8 + size])
        table["__metadata__"]["header"] = head
        text = json.dumps(table).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    else:
        path.write_bytes(data.replace(b"0.03", number.encode(), 1))
    refused(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_arrays_that_do_not_belong_are_refused(genuine: Path, tmp_path: Path, suffix: str) -> None:
    head, arrays = header(genuine), tensors(genuine)
    for change, says in [
        ({"../../evil": np.zeros(3)}, "unknown name: ['../../evil']"),
        ({"/etc/passwd": np.zeros(3)}, "unknown name"),
        ({"param.9": arrays["param.0"]}, "'param.9', which this case does not have"),
        ({"state.0.momentum": arrays["param.0"]}, "which this case does not have"),
        ({"param.1": arrays["param.0"]}, "has no param.1 of dtype float32 and shape (3, 3)"),
        ({"param.1": arrays["param.1"].astype(np.float64)}, "has no param.1 of dtype float32"),
        ({"grad.1": arrays["grad.0"]}, "grad.1 is float32 of shape (2, 2, 2), expected float32 of shape (2, 3)"),
    ]:
        assert says in refused(written(tmp_path, suffix, head, arrays | change))
    del arrays["param.1"]
    assert "has no param.1" in refused(written(tmp_path, suffix, head, arrays))
    assert sorted(tmp_path.iterdir()) == [tmp_path / f"hostile{suffix}"]


class Bomb:
    """Makes a folder as soon as it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_pickles_are_never_opened(genuine: Path, tmp_path: Path) -> None:
    mark, path = tmp_path / "unpickled", tmp_path / "x.npz"
    code = pickle.dumps(Bomb(mark))
    objects = npy(np.array([Bomb(mark)], object), allow_pickle=True)
    head = ("header.json", json.dumps(header(genuine)).encode())
    for suffix in (*FORMATS, ".npy", ".pkl", ".pt"):
        (tmp_path / f"p{suffix}").write_bytes(code)
        refused(tmp_path / f"p{suffix}")
        refused(tmp_path / f"p{suffix}", "show")
    assert "elements '|O'" in refused(zipped(path, [head, ("param.0.npy", objects)]))
    refused(zipped(path, [head, ("param.0.npy", code)]))
    refused(zipped(path, [("header.json", code)]))
    refused(zipped(path, [head, ("data.pkl", code)]))
    path.write_bytes(objects)
    refused(path)
    assert not mark.exists()
    with pytest.raises(FileExistsError):
        mark.mkdir()
        pickle.loads(code)


def test_shapes_of_a_million_million_elements_are_refused(genuine: Path, tmp_path: Path) -> None:
    head, arrays = header(genuine), tensors(genuine)
    small = npy(arrays["param.0"])
    for shape in (
        b"(1000000000000,),    ",
        b"(1000000, 1000000),  ",
        b"(99999999999999999,),",
        b"(0, 999999999999999),",
    ):
        path = zipped(
            tmp_path / "x.npz", [("header.json", json.dumps(head).encode()), ("param.0.npy", reshaped(small, shape))]
        )
        refused(path)
    entry = {"dtype": "float32", "shape": [10**12], "bits": "00000000"}
    (tmp_path / "x.json").write_text(json.dumps({**head, "tensors": {"param.0": entry}}))
    assert "more than can be read" in refused(tmp_path / "x.json")
    table = {"__metadata__": {"header": json.dumps(head)}}
    for shape, end in [([10**12], 4 * 10**12), ([10**12], 4), ([2**62, 4], 0), ([2**32, 2**32], 0)]:
        text = json.dumps({**table, "param.0": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
        (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
        refused(tmp_path / "x.safetensors")
    for n in (10**12, 10**7):
        line = json.dumps({**head, "tensors": {"param.0": {"dtype": "float32", "shape": [n]}}})
        (tmp_path / "x.csv").write_text(f"# {line}\ntensor,row,element,bits,value\nparam.0,0,0,00000000,0.0\n")
        refused(tmp_path / "x.csv")


def reshaped(data: bytes, shape: bytes) -> bytes:
    """Put another shape into an npy file, its length unchanged."""
    old = b"(3, 2, 2), }"
    assert old in data
    start, end = data.index(old), data.index(b"\n")
    return data[:start] + (shape + b" }").ljust(end - start) + data[end:]


@pytest.mark.parametrize(
    ("begin", "end", "more", "says"),
    [
        (0, 48, b"", "does not lie where its shape says"),
        (48, 84, b"\0" * 4, "holds 88 bytes of arrays, its table says 84"),
        (52, 88, b"\0" * 4, "does not lie where its shape says"),
        (48, 84, None, "holds 80 bytes of arrays, its table says 84"),
        (-36, 0, b"", "does not lie where its shape says"),
    ],
)
def test_arrays_that_do_not_lie_one_behind_the_other_are_refused(
    genuine: Path, tmp_path: Path, begin: int, end: int, more: bytes | None, says: str
) -> None:
    """Of 12 and 9 float32 numbers, the second array is moved, or bytes are added or cut off behind."""
    table = {
        "__metadata__": {"header": json.dumps(header(genuine))},
        "param.0": {"dtype": "F32", "shape": [3, 2, 2], "data_offsets": [0, 48]},
        "param.1": {"dtype": "F32", "shape": [3, 3], "data_offsets": [begin, end]},
    }
    text, data = json.dumps(table).encode(), bytes(80 if more is None else 84) + (more or b"")
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    assert says in refused(tmp_path / "x.safetensors")


def test_zip_bombs_are_refused(genuine: Path, tmp_path: Path) -> None:
    head, path = ("header.json", json.dumps(header(genuine)).encode()), tmp_path / "bomb.npz"
    deflated = {"compression": zipfile.ZIP_DEFLATED, "compresslevel": 1}
    zeros = bytes(52 << 20)
    zipped(path, [head, *((f"param.{i}.npy", zeros) for i in range(5))], **deflated)
    assert path.stat().st_size < 4 << 20
    assert "unpacks to more than can be read" in refused(path)
    zipped(path, [head, ("param.0.npy", npy(np.zeros((3, 2, 2), np.float32)) + zeros[: 10 << 20])], **deflated)
    assert "another number of bytes than its shape needs" in refused(path)
    zipped(path, [("header.json", b" " * (2 << 20))], **deflated)
    assert "a header of more than 1048576 bytes" in refused(path)
    zipped(path, [head, ("param.0.npy", zeros[: 1 << 20])], compression=zipfile.ZIP_BZIP2)
    assert "compressed in a rare way" in refused(path)
    zipped(path, [head, *((f"grad.{i}.npy", b"") for i in range(5000))])
    assert "too many members" in refused(path)


def test_a_zip_that_lies_about_its_sizes_is_refused(genuine: Path, tmp_path: Path) -> None:
    """The directory says 100 bytes, the member unpacks to many million."""
    path = zipped(
        tmp_path / "x.npz",
        [("header.json", bytes(150 << 20))],
        compression=zipfile.ZIP_DEFLATED,
        compresslevel=1,
    )
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\1\2") + 24
    struct.pack_into("<I", data, at, 100)
    path.write_bytes(data)
    refused(path)
    path.write_bytes(data + b"PK\6\7" + bytes(16) + data[-22:])
    assert "of a kind that no npz is" in refused(path)


def test_names_that_stand_twice_are_refused(genuine: Path, tmp_path: Path) -> None:
    head, data = header(genuine), npy(tensors(genuine)["param.0"])
    member = ("param.0.npy", data)
    text = json.dumps(head).encode()
    assert "two members of one name" in refused(zipped(tmp_path / "x.npz", [("header.json", text), member, member]))
    twice = text[:-1] + b', "case": {}}'
    assert "'case' stands twice" in refused(zipped(tmp_path / "x.npz", [("header.json", twice), member]))
    (tmp_path / "x.json").write_bytes(twice[:-1] + b', "tensors": {}}')
    assert "'case' stands twice" in refused(tmp_path / "x.json")
    table = b'{"__metadata__": {"header": "{}"}, "param.0": {}, "param.0": {}}'
    (tmp_path / "x.safetensors").write_bytes(len(table).to_bytes(8, "little") + table)
    assert "'param.0' stands twice" in refused(tmp_path / "x.safetensors")
    lines = (genuine / "x.csv").read_text().splitlines(keepends=True)
    (tmp_path / "x.csv").write_text("".join([*lines, lines[2]]))
    assert "not the first" in refused(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("".join([*lines[:2], *lines[3:]]))
    assert "lacks 1 numbers" in refused(tmp_path / "x.csv")


def test_bits_and_values_must_say_the_same(genuine: Path, tmp_path: Path) -> None:
    lines = (genuine / "x.csv").read_text().splitlines()
    head = "# " + json.dumps({key: x for key, x in json.loads(lines[0][2:]).items() if key != "sha256"})
    cells = lines[2].split(",")
    (tmp_path / "x.csv").write_text("\n".join([head, lines[1], ",".join([*cells[:4], "7.5"]), *lines[3:], ""]))
    assert "bits and value are not the same" in refused(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("\n".join([head, lines[1], ",".join(cells[:4]), *lines[3:], ""]))
    assert CliRunner().invoke(main, ["golden", "verify", str(tmp_path / "x.csv")]).exit_code == 0


@pytest.mark.parametrize(
    "bits", ["0x3f8000", "3f_80000", " 3f80000", "+3f80000", "3F800000", "3f80000", "3f80000g", "٣f800000"]
)
def test_bits_are_plain_hexadecimal_digits(bits: str) -> None:
    column = text.Column(Layout("float32", (1,)))
    assert not column.take("0", "0", bits)
    assert export._row(f"1,0,0,{bits}", {"param.0": Layout("float32", (1,))}) is None
    assert column.take("0", "0", "3f800000") and column.array("x").tolist() == [1.0]
    assert export._row("1,0,0,3f800000", {"param.0": Layout("float32", (1,))}) == ("param.0", 0, 0x3F800000)


@pytest.mark.parametrize("bits", ["3f80 000040000000", "3F800000 40000000", "3f800000\t40000000"])
def test_words_stand_apart_in_plain_digits(bits: str) -> None:
    found = Layout("float32", (2,))
    assert words.from_hex("3f800000 40000000", found, "x").tolist() == [1.0, 2.0]
    with pytest.raises(goldens.GoldenError, match="not written as words"):
        words.from_hex(bits, found, "x")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"[" * 150_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[" + b"[]," * 5_000_000, "more than 200000 entries"),
        (b'{"schema": ' + b"1" * 10_000_000 + b"}", "an integer has 10000000 digits"),
        (b'{"schema": "' + b"a" * 10_000_000, "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"null", "no object 'tensors'"),
        (b"", "not JSON"),
    ],
)
def test_json_made_to_exhaust_the_reader_is_refused(tmp_path: Path, text: bytes, says: str) -> None:
    (tmp_path / "x.json").write_bytes(text)
    assert says in refused(tmp_path / "x.json")
    if len(text) < 1 << 20:
        zipped(tmp_path / "x.npz", [("header.json", text)])
        refused(tmp_path / "x.npz")
        (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
        refused(tmp_path / "x.safetensors")
        (tmp_path / "x.csv").write_bytes(b"# " + text + b"\ntensor,row,element,bits,value\n")
        refused(tmp_path / "x.csv")


def test_places_that_are_no_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    for name in ("zero.json", "pipe.csv", "missing.npz", "noise"):
        refused(tmp_path / name)
    refused(tmp_path / "folder.npz")
    with (tmp_path / "large.safetensors").open("wb") as file:
        file.truncate(1 << 40)
    assert "more than the" in refused(tmp_path / "large.safetensors")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda g: g["trajectories"].clear(), "checksum is wrong"),
        (lambda g: g.update(schema=9), "schema 9"),
        (lambda g: g.update(trajectories=[7]) or sign(g), "an entry that is no trajectory"),
        (lambda g: g["trajectories"][0].update(case="adam-x") or sign(g), "does not have: ('adam-x'"),
        (lambda g: g["trajectories"][0]["steps"].clear() or sign(g), "other steps are recorded"),
        (lambda g: frame(g).update(parameters=[{"dtype": "O", "shape": [10**12], "bits": "00"}]) or sign(g), "is none"),
        (lambda g: frame(g)["parameters"][0].update(shape=[10**12]) or sign(g), "array that is none"),
        (lambda g: frame(g).update(state=None) or sign(g), "array that is none"),
    ],
)
def test_goldens_that_are_none_are_refused(tmp_path: Path, change: Callable[[dict[str, Any]], Any], says: str) -> None:
    golden = goldens.read(goldens.folder() / "reference" / "sgd.json")
    change(golden)
    (tmp_path / "sgd.json").write_text(json.dumps(golden))
    assert says in refused(tmp_path / "sgd.json")


def sign(golden: dict[str, Any]) -> None:
    golden["checksum"] = goldens.checksum(golden)


def frame(golden: dict[str, Any]) -> dict[str, Any]:
    return next(iter(golden["trajectories"][0]["steps"].values()))


def test_a_truncated_golden_is_refused(tmp_path: Path) -> None:
    whole = (goldens.folder() / "torch-ieee" / "sgd.json").read_bytes()
    for end in (0, 10, len(whole) // 2, len(whole) - 3):
        (tmp_path / "sgd.json").write_bytes(whole[:end])
        refused(tmp_path / "sgd.json")
        refused(tmp_path / "sgd.json", "show")


LIMITED = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import refoptim
refoptim.__path__.append(sys.argv[1])
from refoptim.commands.main import main
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (500 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
main(["golden", "verify", sys.argv[2]])
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
@pytest.mark.parametrize("kind", ["zip bomb", "entries", "shape"])
def test_the_process_itself_stays_small(genuine: Path, tmp_path: Path, kind: str) -> None:
    if kind == "zip bomb":
        head = ("header.json", json.dumps(header(genuine)).encode())
        options = {"compression": zipfile.ZIP_DEFLATED, "compresslevel": 1}
        path = zipped(tmp_path / "x.npz", [head, *((f"grad.{i}.npy", bytes(60 << 20)) for i in range(5))], **options)
    elif kind == "entries":
        path = tmp_path / "x.json"
        path.write_bytes(b"[" + b"[]," * 15_000_000)
    else:
        path = tmp_path / "x.csv"
        table = {f"grad.{i}": {"dtype": "float64", "shape": [1, 10**7]} for i in range(100)}
        first = json.dumps({**header(genuine), "tensors": table})
        path.write_text(f"# {first}\ntensor,row,element,bits,value\n")
    command = [sys.executable, "-c", LIMITED, str(ROOT), str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
