"""The commands that show, verify, convert, compare, and measure checkpoints."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.command_line import call, fails
from helpers.kept import kept
from refoptim import checkpoint
from refoptim.checkpoint.differences import differences

HAS_PT = find_spec("refoptim.checkpoint.pt") is not None
SUFFIXES = [".safetensors", ".npz", ".json", *([".pt"] if HAS_PT else [])]
W = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, -0.0]], np.float32)


def saved(path: Path, **more: Any) -> Path:
    model = {"w": W, "n": np.arange(4)}
    optimizer = {"state": {0: {"step": 3, "exp_avg": W / 2}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return checkpoint.save(path, **{"model": model, "optimizer": optimizer, "epoch": 3, **more})


def test_what_show_tells(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / "x.npz", metadata={"note": "é", "loss": float("nan")}, model={"w": W})
    found = json.loads(call("checkpoint", "show", path, "--json").stdout)
    digest = found["arrays"][0].pop("sha256")
    assert found["arrays"] == [{"name": "model.w", "dtype": "float32", "shape": [2, 3], "bytes": 24}]
    assert found["metadata"] == {"note": "é", "loss": "nan"} and found["parts"] == ["model"]
    assert (found["schema"], found["array bytes"], found["bytes"]) == (1, 24, path.stat().st_size)
    text = call("checkpoint", "show", path).stdout
    assert f"model.w\tfloat32\t2 x 3\t24\t{digest[:16]}\n" in text and 'metadata    {"note": "\\u00e9"' in text


def test_show_reads_no_arrays(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert call("checkpoint", "show", path).exit_code == 0
    assert call("checkpoint", "verify", path).exit_code == 1


def test_what_verify_says(tmp_path: Path) -> None:
    good, bad, other = saved(tmp_path / "good.npz"), saved(tmp_path / "bad.safetensors"), tmp_path / "other.json"
    bad.write_bytes(bad.read_bytes()[:-1])
    other.write_text("{}")
    result = call("checkpoint", "verify", good, bad, other)
    lines = result.stdout.splitlines()
    assert result.exit_code == 1 and lines[0] == f"{good}\twhole"
    assert lines[1].startswith(f"{bad}\tbad.safetensors holds") and "no object 'arrays'" in lines[2]
    found = json.loads(call("checkpoint", "verify", good, bad, "--json").stdout)["files"]
    assert found[0] == {"file": str(good), "problem": None} and found[1]["problem"]
    assert call("checkpoint", "verify", good).exit_code == 0


@pytest.mark.parametrize("command", ["show", "verify", "convert", "diff"])
def test_what_is_refused(tmp_path: Path, command: str) -> None:
    second = [tmp_path / "y.npz"] if command in ("convert", "diff") else []
    assert "nothing.npz" in fails("checkpoint", command, tmp_path / "nothing.npz", *second)
    (tmp_path / "x.txt").write_text("text")
    assert "stands for no checkpoint: use one of .safetensors, .npz" in fails(
        "checkpoint", command, tmp_path / "x.txt", *second
    )
    if command != "verify":
        (tmp_path / "x.npz").write_bytes(b"half")
        assert "x.npz is no npz file" in fails("checkpoint", command, tmp_path / "x.npz", *second)
    assert not (tmp_path / "y.npz").exists()


@pytest.mark.parametrize("target", [*SUFFIXES, "folder"])
@pytest.mark.parametrize("source", SUFFIXES)
def test_all_formats_both_ways(tmp_path: Path, source: str, target: str) -> None:
    """Nothing is lost on the way there and back."""
    first, second = tmp_path / f"a{source}", tmp_path / ("b" if target == "folder" else f"b{target}")
    tree = checkpoint.load(saved(first))
    shards = ["--shards", 2] if target == "folder" else []
    result = call("checkpoint", "convert", first, second, *shards, "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["path"] == str(second)
    assert call("checkpoint", "convert", second, tmp_path / f"c{source}").exit_code == 0
    assert kept(checkpoint.load(tmp_path / f"c{source}")) == kept(tree)
    assert call("checkpoint", "diff", first, second).stdout == "the same, bit for bit\n"


@pytest.mark.parametrize("target", SUFFIXES)
def test_metadata_go_along(tmp_path: Path, target: str) -> None:
    path = checkpoint.save(tmp_path / "a.npz", metadata={"note": "kept"}, model={"w": W})
    result = call("checkpoint", "convert", path, tmp_path / f"b{target}")
    assert ("metadata are left out" in result.stderr) == (target == ".pt")
    found = json.loads(call("checkpoint", "show", tmp_path / f"b{target}", "--json").stdout)
    assert found["metadata"] == (None if target == ".pt" else {"note": "kept"})


@pytest.mark.skipif(not HAS_PT, reason="torch's files are read by a module that is not there")
def test_what_only_torch_files_hold_is_shown_and_not_converted(tmp_path: Path) -> None:
    from refoptim.checkpoint import pt

    pt.save(tmp_path / "x.pt", [W, {"a": {1, 2}}])
    assert [row["name"] for row in json.loads(call("checkpoint", "show", tmp_path / "x.pt", "--json").stdout)["arrays"]]
    assert "data.1.a cannot be saved: it is a set" in fails(
        "checkpoint", "convert", tmp_path / "x.pt", tmp_path / "y.json"
    )


def test_a_file_onto_itself_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz")
    assert "IN and OUT are one file" in fails("checkpoint", "convert", path, path)
    assert "name of a file" in fails("checkpoint", "convert", path, tmp_path / "b.npz", "--shards", 2)


def test_how_far_two_checkpoints_are_apart(tmp_path: Path) -> None:
    near = W.copy()
    near[0, 0], near[1, 2] = np.nextafter(np.nextafter(near[0, 0], 2, dtype="f4"), 2, dtype="f4"), 0.0
    one = saved(tmp_path / "a.safetensors")
    other = saved(tmp_path / "b.json", model={"w": near, "m": np.arange(4)}, epoch=4)
    result = call("checkpoint", "diff", one, other)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "model.w\telements\t2 of 6\t2",  # two ULP, and -0 is no ULP away from 0 but another
        "model.n\tonly in the first",
        "model.m\tonly in the second",
        "epoch\t3, 4",
        "4 differences",
    ]
    found = json.loads(call("checkpoint", "diff", one, other, "--json").stdout)
    assert found["equal"] is False
    assert found["differences"][0] == {"name": "model.w", "what": "elements", "elements": 2, "size": 6, "ulps": 2}


ULPS = {
    "the smallest": ([5e-324], [-5e-324], "float64", (1, 2)),
    "from the largest to infinity": ([np.finfo("f4").max], [np.inf], "float32", (1, 1)),
    "half": ([1.0, 1.0], [1.0, 1 + 2**-10], "float16", (1, 1)),
    "all the way": ([-np.inf], [np.inf], "float64", (1, 2 * 0x7FF0000000000000)),
    "NaN and a number": ([np.nan, 1.0], [1.0, 1.0], "float32", (1, None)),
    "integers": ([1, 2], [1, 3], "int64", (1, None)),
    "bools": ([True], [False], "bool", (1, None)),
    "one half of a complex number": ([1 + 1j], [1 + (1 + 2**-52) * 1j], "complex128", (1, 1)),
}


@pytest.mark.parametrize("name", ULPS)
def test_units_in_the_last_place(name: str) -> None:
    """Distances are counted by hand."""
    x, y, dtype, expected = ULPS[name]
    (found,) = differences({"a": np.array(x, dtype)}, {"a": np.array(y, dtype)})
    assert (found.elements, found.ulps) == expected
    assert not list(differences({"a": np.array(x, dtype)}, {"a": np.array(x, dtype)}))


def test_units_of_bfloat16() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")
    x, y = (np.array([1.0, z], ml_dtypes.bfloat16) for z in (1.0, 1 + 2**-7))
    (found,) = differences([x], [y])
    assert (found.elements, found.ulps) == (1, 1)


def test_plain_data_are_compared_to_the_bit() -> None:
    same = [1, (2.5, "x"), float("nan"), -0.0, np.float32(1), 1 + 2j, None, b"x", {"k": []}]
    assert not list(
        differences(same, [1, [2.5, "x"], float("nan"), -0.0, np.float32(1), 1 + 2j, None, b"x", {"k": ()}])
    )
    for x, y in [(0.0, -0.0), (1, 1.0), (1, True), (np.float32(1), np.float64(1)), ("a", "b"), ([], {}), (W, [1])]:
        (found,) = differences({"a": {"b": x}}, {"a": {"b": y}})
        assert found.name == "a.b" and found.elements is None
    (found,) = differences({"a": W}, {"a": W.astype("f8")})
    assert found.what == "float32 2 x 3, float64 2 x 3"


def test_help_teaches() -> None:
    for command in ("show", "verify", "convert", "diff"):
        text = call("checkpoint", command, "--help").stdout
        assert f"refoptim checkpoint {command} " in text and "--json" in text


@pytest.mark.parametrize("json_too", [True, False])
def test_bench(tmp_path: Path, json_too: bool) -> None:
    """Every operation is measured by everyone who is there; nothing stays behind."""
    options = ["--size", 200_000, "--repeats", 1, "--folder", tmp_path]
    result = call("bench", "checkpoint", *options, *(["--json"] if json_too else []))
    assert result.exit_code == 0 and not list(tmp_path.iterdir())
    names = ["write", "open", "read all", "read all, verified"]
    if json_too:
        found = json.loads(result.stdout)
        assert [*found["seconds"]] == names and found["bytes"] == 200_000
        for peer in ("torch", "safetensors"):
            assert (peer in found["seconds"]["write"]) == bool(find_spec(peer))
    else:
        assert [line.split("\t")[0] for line in result.stdout.splitlines()] == names


def test_bench_wants_room(tmp_path: Path) -> None:
    assert "choose a smaller --size" in fails("bench", "checkpoint", "--size", 1 << 60, "--folder", tmp_path)


@pytest.mark.parametrize(
    ("x", "y", "names"),
    [
        ({1: "a"}, {True: "a"}, ["1", "True"]),
        ({0.0: "a"}, {-0.0: "a"}, ["0.0", "-0.0"]),
        ({"1": 0.0}, {"1": -0.0}, ["1"]),
        ({2: 1, "2": 1}, {2: 1}, ["2"]),
    ],
)
def test_keys_and_numbers_that_python_takes_for_equal_differ(x: Any, y: Any, names: list[str]) -> None:
    assert [found.name for found in differences(x, y)] == names
