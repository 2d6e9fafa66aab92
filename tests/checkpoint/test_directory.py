"""Folders of shards: written and read by any number of ranks, committed at once, and refused when they lie."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers import ROOT
from refoptim.checkpoint import CheckpointError, latest, load, prune, restore, save
from refoptim.checkpoint import directory as directories
from refoptim.checkpoint.directory import Piece, absent, begin, commit, named, open_directory, write_shard
from refoptim.checkpoint.tree import read_tree
from refoptim.formats import digests

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux replaces a folder at once")


def model() -> dict[str, Any]:
    """Return arrays whose leaves of 1 MiB are shared by ranks: of all sizes, orders and types."""
    rng = np.random.default_rng(7)
    return {
        "w": rng.normal(size=(300, 1000)),
        "f": np.asfortranarray(rng.normal(size=(70, 90)).astype(np.float32)),
        "c": rng.normal(size=(5, 3)) + 1j * rng.normal(size=(5, 3)),
        "empty": np.zeros((0, 3), np.float16),
        "scalar": np.array(2.5),
        "flags": rng.normal(size=300_001) > 0,
        "strided": np.arange(2_000_000, dtype=np.int32)[::3],
    }


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert (found[name].dtype, found[name].shape) == (x.dtype, x.shape), name
        assert found[name].tobytes() == x.tobytes(), name


def share(x: Any, rank: int, size: int) -> Piece:
    """Return what a rank holds of an array that is divided evenly."""
    first, last = (x.size * r // size for r in (rank, rank + 1))
    return Piece(x.reshape(-1)[first:last], first, x.shape)


def write(path: Path, size: int, arrays: dict[str, Any], **options: Any) -> None:
    """Let threads that play ranks write a checkpoint; its records go through JSON but for bytes."""
    folder = begin(path, **options)

    def rank_of(rank: int) -> Any:
        pieces = {f"model.{name}": share(x, rank, size) for name, x in arrays.items()}
        return write_shard(folder, rank, size, pieces)

    with ThreadPoolExecutor(size) as pool:
        records = list(pool.map(rank_of, reversed(range(size))))
    tree = {"model": {name: absent(x.dtype.name, x.shape) for name, x in arrays.items()}, "epoch": 3}
    commit(path, folder, records, tree, metadata={"of": "a test"})


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_content_does_not_know_the_number_of_ranks(tmp_path: Path, size: int) -> None:
    save(tmp_path / "one.safetensors", model=model(), epoch=3, metadata={"of": "a test"})
    write(tmp_path / "many", size, model())
    one, many = (read_tree(tmp_path / name) for name in ("one.safetensors", "many"))
    assert_same(many.tree["model"], model())
    assert many.tree["epoch"] == 3
    assert (many.about["digest"], many.about["sha256"]) == (one.about["digest"], one.about["sha256"])
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_ranks_may_hold_ranges_in_any_order(tmp_path: Path) -> None:
    """Three ranks in turn hold thirds of one leaf, the first rank the last."""
    x = np.arange(99, dtype=np.float32)
    save(tmp_path / "one.npz", x=x)
    folder = begin(tmp_path / "many")
    records = [write_shard(folder, rank, 3, {"x": share(x, 2 - rank, 3)}) for rank in range(3)]
    commit(tmp_path / "many", folder, records, {"x": x})
    assert load(tmp_path / "many")["x"].tobytes() == x.tobytes()
    assert read_tree(tmp_path / "many").about["digest"] == read_tree(tmp_path / "one.npz").about["digest"]


@pytest.mark.parametrize("seed", range(12))
def test_any_division_has_the_digests_of_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """With leaves of 64 bytes, most of which are shared by several ranks, in arrays cut at any places."""
    for module in (directories, digests):
        monkeypatch.setattr(module, "LEAF", 64)
    rng = np.random.default_rng(seed)
    dtypes = ["bool", "int8", "float16", "float32", "float64", "complex64", "complex128"]
    arrays = {f"x{i}": rng.normal(size=rng.integers(0, 200)).astype(dtype) for i, dtype in enumerate(dtypes)}
    size = int(rng.integers(2, 9))
    cuts = {name: sorted([0, *rng.integers(0, x.size + 1, size - 1).tolist(), x.size]) for name, x in arrays.items()}
    folder = begin(tmp_path / "many")
    records = []
    for rank in range(size):
        ranges = {name: found[rank : rank + 2] for name, found in cuts.items()}
        pieces = {name: Piece(x[slice(*ranges[name])], ranges[name][0], x.shape) for name, x in arrays.items()}
        records.append(write_shard(folder, rank, size, pieces))
    commit(tmp_path / "many", folder, records, arrays)
    save(tmp_path / "one.json", **arrays)
    one, many = (read_tree(tmp_path / name) for name in ("one.json", "many"))
    assert_same(many.tree, arrays)
    assert (many.about["digest"], many.about["sha256"]) == (one.about["digest"], one.about["sha256"])
    opened = open_directory(tmp_path / "many")
    for name, x in arrays.items():
        begins, ends = sorted(rng.integers(0, x.size + 1, 2).tolist())
        assert opened.read_range(name, begins, ends).tobytes() == x[begins:ends].tobytes()


def test_bfloat16_comes_back(tmp_path: Path) -> None:
    bfloat16 = pytest.importorskip("ml_dtypes", reason="NumPy needs ml_dtypes to know bfloat16").bfloat16
    x = np.linspace(-1, 1, 101).astype(bfloat16)
    save(tmp_path / "run", shards=3, x=x)
    found = load(tmp_path / "run")["x"]
    assert (found.dtype, found.tobytes()) == (x.dtype, x.tobytes())


@pytest.mark.parametrize("shards", [1, 3, 50])
def test_one_process_saves_and_restores_shards(tmp_path: Path, shards: int) -> None:
    w = np.linspace(-1, 1, 200_001)
    optimizer = refoptim.AdamW([w], lr=0.1)
    optimizer.step(grads=[w.copy()])
    assert save(tmp_path / "one.safetensors", w=[w], optimizer=optimizer, epoch=3) == tmp_path / "one.safetensors"
    assert save(tmp_path / "run", shards=shards, w=[w], optimizer=optimizer, epoch=3) == tmp_path / "run"
    assert len(list((tmp_path / "run").glob("shard-*"))) == shards
    digests = {read_tree(tmp_path / name).about["digest"] for name in ("run", "one.safetensors")}
    assert len(digests) == 1
    other = np.zeros_like(w)
    restored = refoptim.AdamW([other], lr=0.5)
    assert restore(tmp_path / "run", w=[other], optimizer=restored) == {"epoch": 3}
    optimizer.step(grads=[w.copy()])
    restored.step(grads=[other.copy()])
    assert other.tobytes() == w.tobytes()


def test_arrays_that_lie_in_one_shard_look_at_the_file(tmp_path: Path) -> None:
    save(tmp_path / "run", shards=2, model={"a": np.ones(10), "b": np.ones(1000), "c": np.ones(10)})
    found = load(tmp_path / "run")["model"]
    assert [isinstance(_base(found[name]), bytes | bytearray | memoryview) for name in "abc"]
    assert all(not x.flags.writeable for x in found.values())
    opened = open_directory(tmp_path / "run")
    for name in "abc":
        opened.array(f"model.{name}")
    assert opened.bytes_read == 8000  # of b, which is divided


def _base(x: Any) -> Any:
    while getattr(x, "base", None) is not None:
        x = x.base
    return x


def test_the_same_content_makes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / name, shards=3, model=model(), epoch=3)
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("a", "b")]
    assert files[0] == files[1]
    assert all((tmp_path / "a" / x).read_bytes() == (tmp_path / "b" / x).read_bytes() for x in files[0])


def test_pieces_are_read_by_the_safetensors_package(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason="the witness safetensors is not installed")
    x = np.arange(10, dtype=np.float32).reshape(2, 5)
    save(tmp_path / "run", shards=2, model={"whole": np.ones((2, 3), np.float32), "x": x})
    shards = [safetensors.load_file(path) for path in sorted((tmp_path / "run").glob("shard-*"))]
    assert shards[0]["model.whole"].shape == (2, 3)
    assert np.concatenate([shard["model.x"] for shard in shards]).tobytes() == x.tobytes()
    assert all(shard["model.x"].ndim == 1 for shard in shards)


# ---------------------------------------------------------------------------------------------- ranges and their bytes


def bytes_of_this_process() -> int:
    """Return how many bytes this process has read from files so far, as the kernel counts them."""
    text = Path("/proc/self/io").read_text(encoding="ascii")
    return int(text.split()[1]) - len(text)


def read_as_rank(path: Path, rank: int, size: int) -> tuple[int, dict[str, bytes]]:
    """Read the share of one rank of all arrays; return how many bytes were read for it, and what they are."""
    opened, found = open_directory(path), {}
    for name, layout in opened.layouts.items():
        n = int(np.prod(layout.shape, dtype=int))
        found[name] = opened.read_range(name, n * rank // size, n * (rank + 1) // size).tobytes()
    return opened.bytes_read, found


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ranks_read_the_bytes_that_they_need(tmp_path: Path, size: int) -> None:
    arrays = model()
    write(tmp_path / "run", 3, arrays)
    found = [read_as_rank(tmp_path / "run", rank, size) for rank in range(size)]
    assert sum(count for count, _ in found) == sum(x.nbytes for x in arrays.values())
    for name, x in arrays.items():
        assert b"".join(own[f"model.{name}"] for _, own in found) == x.tobytes()


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the kernel does not count what a process reads")
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_kernel_counts_no_other_bytes(tmp_path: Path, size: int) -> None:
    arrays = model()
    write(tmp_path / "run", 3, arrays)
    path = tmp_path / "run"
    headers = [8 + int.from_bytes(file.read_bytes()[:8], "little") for file in path.glob("shard-*")]
    described = (path / "checkpoint.json").stat().st_size
    read_as_rank(path, 0, 1)  # what is imported and looked up once
    before = bytes_of_this_process()
    for rank in range(size):
        read_as_rank(path, rank, size)
    read = bytes_of_this_process() - before
    total = sum(x.nbytes for x in arrays.values())
    assert total <= read <= total + size * (described + sum(headers)) + 200  # and the text of /proc/self/io


@pytest.mark.parametrize("range_", [(0, 0), (0, 1), (99_999, 100_001), (149_999, 250_000), (299_999, 300_000)])
def test_ranges_across_shards(tmp_path: Path, range_: tuple[int, int]) -> None:
    arrays = model()
    write(tmp_path / "run", 3, arrays)
    opened = open_directory(tmp_path / "run")
    found = opened.read_range("model.w", *range_)
    assert found.tobytes() == arrays["w"].reshape(-1)[slice(*range_)].tobytes()
    assert opened.bytes_read == found.nbytes
    found[:] = 0  # it is the caller's


def test_ranges_outside_of_an_array_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "run", 2, {"x": np.ones(5)})
    opened = open_directory(tmp_path / "run")
    for range_ in [(-1, 2), (0, 6), (3, 2)]:
        with pytest.raises(ValueError, match=r"does not lie in model\.x, which has shape \(5,\)"):
            opened.read_range("model.x", *range_)
    with pytest.raises(KeyError):
        opened.read_range("model.y", 0, 1)


def test_a_tree_is_filled_with_what_a_rank_reads(tmp_path: Path) -> None:
    write(tmp_path / "run", 3, {"x": np.arange(6.0), "y": np.arange(3.0)})
    opened = open_directory(tmp_path / "run")
    tree = opened.tree(lambda name: opened.read_range(name, 1, 3).tolist())
    assert tree == {"model": {"x": [1.0, 2.0], "y": [1.0, 2.0]}, "epoch": 3}


@linux
def test_a_checkpoint_put_in_the_place_of_one_that_is_open_is_noticed(tmp_path: Path) -> None:
    save(tmp_path / "run", shards=2, x=np.ones(100), y=np.ones(1))
    opened = open_directory(tmp_path / "run")
    x = opened.array("y")
    assert opened.read_range("x", 0, 2).tolist() == [1, 1]
    save(tmp_path / "run", shards=2, x=np.zeros(100), y=np.zeros(1))
    with pytest.raises(CheckpointError, match="run was replaced after it was opened"):
        opened.read_range("x", 0, 2)
    assert x.tolist() == [1]  # what is mapped stays


def test_ranks_verify_files_in_turn(tmp_path: Path) -> None:
    save(tmp_path / "run", shards=5, model=model())
    flip(tmp_path / "run" / "shard-00004-of-00005.safetensors", -1)
    opened = open_directory(tmp_path / "run")
    opened.verify(0, 2)
    with pytest.raises(CheckpointError, match=r"shard-00004-of-00005\.safetensors was altered: its digest is wrong"):
        opened.verify(1, 2)
    with pytest.raises(CheckpointError, match="was altered: its digest is wrong"):
        load(tmp_path / "run")
    with pytest.raises(ValueError, match=r"rank must be an integer in \[0, size\), got rank 2 of size 2"):
        opened.verify(2, 2)


RANK = """
import sys
import numpy as np
from refoptim.checkpoint.directory import Piece, write_shard

folder, rank = sys.argv[1], int(sys.argv[2])
x = np.arange(700_000.0)
first, last = (x.size * r // 2 for r in (rank, rank + 1))
print(write_shard(folder, rank, 2, {"model.x": Piece(x[first:last], first, x.shape)}))
"""


def test_processes_write_together(tmp_path: Path) -> None:
    folder, environment = begin(tmp_path / "run"), os.environ | {"PYTHONPATH": str(ROOT)}
    commands = [[sys.executable, "-c", RANK, str(folder), str(rank)] for rank in range(2)]
    ranks = [subprocess.Popen(each, stdout=subprocess.PIPE, text=True, env=environment) for each in commands]
    records = [ast.literal_eval(rank.communicate(timeout=100)[0]) for rank in ranks]
    x = np.arange(700_000.0)
    commit(tmp_path / "run", folder, records, {"model": {"x": x}})
    assert_same(load(tmp_path / "run")["model"], {"x": x})


# ------------------------------------------------------------------------------------------------- what ranks do wrong


def one_piece(name: str, begin: int, end: int) -> dict[str, Piece]:
    return {name: Piece(np.ones(end - begin), begin, (10,))}


@pytest.mark.parametrize(
    ("ranges", "problem"),
    [
        ([(0, 5), (6, 10)], "'x' has elements 5 to 6 in no shard"),
        ([(0, 6), (5, 10)], "'x' has elements 5 to 6 in two shards"),
        ([(0, 5), (5, 9)], "'x' has elements 9 to 10 in no shard"),
        ([(0, 10), (0, 10)], "'x' has elements 0 to 10 in two shards"),
        ([(1, 5), (5, 10)], "'x' has elements 0 to 1 in no shard"),
    ],
)
def test_pieces_must_make_each_array_once(tmp_path: Path, ranges: Any, problem: str) -> None:
    folder = begin(tmp_path / "run")
    records = [write_shard(folder, rank, 2, one_piece("x", *x)) for rank, x in enumerate(ranges)]
    with pytest.raises(ValueError, match=problem):
        commit(tmp_path / "run", folder, records, {"x": np.ones(10)})
    directories.abandon(folder)
    assert not list(tmp_path.iterdir())


def test_records_must_be_those_of_all_ranks_and_of_the_tree(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    first, second = (write_shard(folder, rank, 2, one_piece("x", 5 * rank, 5 * rank + 5)) for rank in range(2))
    with pytest.raises(ValueError, match=r"one record of each rank, got those of shard-00001-of-00002\.safetensors"):
        commit(tmp_path / "run", folder, [first], {"x": np.ones(10)})
    for tree, problem in [
        ({"x": np.ones(10, np.float32)}, "float32"),
        ({"x": np.ones((2, 5))}, r"\(2, 5\)"),
        ({"y": np.ones(10)}, "is not in the tree"),
        ({"x": np.ones(10), "y": np.ones(2)}, "'y' has elements 0 to 2 in no shard"),
    ]:
        with pytest.raises(ValueError, match=problem):
            commit(tmp_path / "run", folder, [first, second], tree)
    with pytest.raises(TypeError, match="metadata must hold no arrays"):
        commit(tmp_path / "run", folder, [first, second], {"x": np.ones(10)}, metadata=np.ones(1))
    assert latest(tmp_path) is None
    commit(tmp_path / "run", folder, [second, first], {"x": np.ones(10)})
    assert latest(tmp_path) == tmp_path / "run"


@pytest.mark.parametrize(
    ("piece", "problem"),
    [
        (
            Piece(np.ones(3), 8, (10,)),
            r"must be a vector of elements of shape \(10,\), got shape \(3,\) from element 8",
        ),
        (Piece(np.ones(3), -1, (10,)), "from element -1"),
        (Piece(np.ones((3, 1)), 0, (10,)), r"got shape \(3, 1\)"),
        (Piece(np.array(["a"]), 0, (10,)), "it is an array of <U1"),
    ],
)
def test_pieces_must_lie_in_their_arrays(tmp_path: Path, piece: Piece, problem: str) -> None:
    folder = begin(tmp_path / "run")
    with pytest.raises(ValueError, match=problem):
        write_shard(folder, 0, 1, {"x": piece})
    assert not list(Path(folder).iterdir())


def test_arguments_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="commit must be 'rename' or 'file', got 'copy'"):
        begin(tmp_path / "run", commit="copy")
    with pytest.raises(ValueError, match=r"rank must be an integer in \[0, size\), got rank 2 of size 2"):
        write_shard(tmp_path, 2, 2, {})
    for shards in (0, True, 100_000, 1.0):
        with pytest.raises(ValueError, match=r"shards must be an integer in \[1, 99999\]"):
            save(tmp_path / "run", shards=shards, x=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"leave out \.npz for a folder of shards"):
        save(tmp_path / "run.npz", shards=2, x=1)
    assert not list(tmp_path.iterdir())


def test_names_are_those_of_the_tree() -> None:
    tree = {"model": {"w": absent("float32", (1 << 40, 4))}, "optimizer": {"state": [np.ones(2)]}}
    assert {name: x.shape for name, x in named(tree).items()} == {
        "model.w": (1 << 40, 4),
        "optimizer.state.0": (2,),
    }


# ---------------------------------------------------------------------------------------------------- taking the place


@linux
def test_a_folder_is_replaced_at_once(tmp_path: Path) -> None:
    save(tmp_path / "run", shards=3, x=np.ones(10))
    save(tmp_path / "run", shards=2, x=np.zeros(10))
    assert load(tmp_path / "run")["x"].tolist() == [0.0] * 10
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_where_folders_cannot_be_exchanged_the_old_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "run", shards=3, x=np.ones(10))
    monkeypatch.setattr(directories, "ctypes", type("Without", (), {"CDLL": lambda *name, **options: None}))
    with pytest.raises(FileExistsError, match="a folder cannot be replaced at once here"):
        save(tmp_path / "run", shards=2, x=np.zeros(10))
    assert load(tmp_path / "run")["x"].tolist() == [1.0] * 10
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_is_no_checkpoint_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all of it", encoding="ascii")
    (tmp_path / "file").write_text("all of it", encoding="ascii")
    for mode in ("rename", "file"):
        with pytest.raises(FileExistsError, match=r"is no checkpoint, it holds 'thesis\.tex'"):
            begin(tmp_path / "mine", commit=mode)
        with pytest.raises(FileExistsError, match="does not replace a file"):
            begin(tmp_path / "file", commit=mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine"]


def test_a_save_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "run", shards=2, x=np.ones(10))

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path / "run", shards=2, x=np.zeros(10))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert load(tmp_path / "run")["x"].tolist() == [1.0] * 10


@pytest.mark.skipif(os.name != "posix", reason="folders are synchronized on POSIX")
def test_all_of_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each shard, the description, the folder before it is renamed, and the folder that it is renamed in."""
    done: list[int] = []
    renamed: list[int] = []

    def count(handle: int) -> None:
        done.append(os.fstat(handle).st_ino)

    def rename(folder: Path, target: Path) -> None:
        renamed.append(len(done))
        folder.replace(target)

    monkeypatch.setattr(os, "fsync", count)
    monkeypatch.setattr(directories, "_take_place", rename)
    save(tmp_path / "run", shards=3, x=np.ones(10))
    before, after = set(done[: renamed[0]]), set(done[renamed[0] :])
    assert {path.stat().st_ino for path in [tmp_path / "run", *(tmp_path / "run").iterdir()]} <= before
    assert tmp_path.stat().st_ino in after


def test_a_file_commits_where_folders_are_not_renamed(tmp_path: Path) -> None:
    arrays = {"x": np.arange(10.0)}
    write(tmp_path / "run", 2, arrays, commit="file")
    assert_same(load(tmp_path / "run")["model"], arrays)
    with pytest.raises(FileExistsError, match="commit='file' replaces no checkpoint"):
        begin(tmp_path / "run", commit="file")
    (tmp_path / "run" / "COMMITTED").write_text("0" * 64 + "\n", encoding="ascii")
    with pytest.raises(CheckpointError, match="its COMMITTED is that of another checkpoint"):
        load(tmp_path / "run")
    (tmp_path / "run" / "COMMITTED").unlink()
    with pytest.raises(CheckpointError, match="run was not committed: its writer ended before it wrote COMMITTED"):
        load(tmp_path / "run")
    assert latest(tmp_path) is None
    write(tmp_path / "run", 3, arrays, commit="file")  # takes away what was not committed
    assert_same(load(tmp_path / "run")["model"], arrays)


def test_a_renamed_checkpoint_is_not_taken_for_one_that_waits(tmp_path: Path) -> None:
    write(tmp_path / "run", 2, {"x": np.ones(3)})
    with pytest.raises(FileExistsError, match="commit='file' replaces no checkpoint"):
        begin(tmp_path / "run", commit="file")
    (tmp_path / "run" / "checkpoint.json").write_text("{", encoding="ascii")
    with pytest.raises(FileExistsError, match="commit='file' replaces no checkpoint"):
        begin(tmp_path / "run", commit="file")


def test_latest_and_prune_know_folders(tmp_path: Path) -> None:
    for step in (9, 10, 11):
        save(tmp_path / f"step-{step}", shards=2, epoch=step, x=np.ones(3))
    save(tmp_path / "step-8.safetensors", epoch=8)
    (tmp_path / "step-12").mkdir()
    (tmp_path / ".step-13.partial").mkdir()
    (tmp_path / "last-99").symlink_to(tmp_path / "step-9")
    assert latest(tmp_path) == tmp_path / "last-99"
    (tmp_path / "last-99").unlink()
    assert latest(tmp_path) == tmp_path / "step-11"
    assert [path.name for path in prune(tmp_path, 2)] == ["step-8.safetensors", "step-9"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".step-13.partial", "step-10", "step-11", "step-12"]


def test_pruning_leaves_what_others_have_put_into_a_folder(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path / f"step-{step}", shards=2, epoch=step, x=np.ones(3))
    (tmp_path / "step-1" / "notes.txt").write_text("mine")
    assert prune(tmp_path, 1) == [tmp_path / "step-1"]
    assert [path.name for path in (tmp_path / "step-1").iterdir()] == ["notes.txt"]
    assert latest(tmp_path) == tmp_path / "step-2"


def test_pruning_a_link_leaves_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    save(tmp_path / "best", shards=1, epoch=1)
    (tmp_path / "run" / "step-1").symlink_to(tmp_path / "best")
    save(tmp_path / "run" / "step-2", shards=1, epoch=2)
    assert prune(tmp_path / "run", 1) == [tmp_path / "run" / "step-1"]
    assert load(tmp_path / "best") == {"epoch": 1}


# -------------------------------------------------------------------------------------------------- damage and hostile


def flip(path: Path, byte: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    save(tmp_path / "small", shards=2, model={"a": np.arange(6, dtype=np.float32), "c": np.ones(3) * 1j}, epoch=3)
    return tmp_path / "small"


def assert_same_or_refused(path: Path, expected: Any) -> bool:
    """Check that a damaged folder is read as it was, or refused in one line; tell which."""
    try:
        found = load(path)
    except CheckpointError as error:
        assert "\n" not in str(error)
        return False
    assert_same(found.pop("model"), expected["model"])
    assert found == {"epoch": 3}
    return True


def test_every_truncation_is_refused(small: Path) -> None:
    for file in sorted(small.iterdir()):
        data = file.read_bytes()
        for length in range(len(data) - (file.suffix == ".json")):  # the last byte of the description is a line's end
            file.write_bytes(data[:length])
            with pytest.raises(CheckpointError) as refused:
                load(small)
            assert "\n" not in str(refused.value)
        file.write_bytes(data)


def harmless(folder: Path, number: int) -> int:
    """Turn a number of single bits in each file; return after how many a folder was read all the same."""
    expected = {"model": {name: np.array(x) for name, x in load(folder)["model"].items()}}
    rng, found = np.random.default_rng(3), 0
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        for place in rng.integers(0, 8 * len(data), number):
            flip(file, place // 8, place % 8)
            found += assert_same_or_refused(folder, expected)
            file.write_bytes(data)
    return found


def test_no_flipped_bit_makes_wrong_values(small: Path) -> None:
    """Every bit is noticed: there is none that does not matter."""
    assert harmless(small, 200) == 0


@pytest.mark.slow
def test_ten_thousand_bits_of_folders(small: Path) -> None:
    assert len([*small.iterdir()]) == 3
    assert harmless(small, 3334) == 0


NOT_CONTENT = {"arrays", "files", "commit", "seal", "complex128", "digest"}


def change(path: Path, alter: Callable[[Any], Any], sealed: bool = True) -> None:
    """Alter a description, and let its digests be right all the same."""
    file = path / "checkpoint.json"
    whole = json.loads(file.read_bytes())
    alter(whole)
    if sealed:
        own = {key: x for key, x in whole.items() if key not in NOT_CONTENT}
        whole["digest"] = digest(own)
        whole["seal"] = digest({key: x for key, x in whole.items() if key != "seal"})
    file.write_text(json.dumps(whole), encoding="ascii")


def digest(x: Any) -> str:
    return sha256(json.dumps(x, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


def _ranges(whole: Any, shard: int = 0) -> Any:
    return whole["files"][shard]["ranges"]


LIES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a gap": (lambda x: _ranges(x).update({"model.a": [0, 5]}), "'model[.]a' has elements 5 to 6 in no shard"),
    "an overlap": (lambda x: _ranges(x, 1).update({"model.a": [0, 6]}), "in two shards"),
    "beyond the end": (lambda x: _ranges(x).update({"model.a": [0, 7]}), r"the range \[0, 7\] of 6 of 'model\.a'"),
    "backwards": (lambda x: _ranges(x).update({"model.a": [6, 0]}), r"the range \[6, 0\]"),
    "negative": (lambda x: _ranges(x).update({"model.a": [-1, 6]}), r"the range \[-1, 6\]"),
    "no integers": (lambda x: _ranges(x).update({"model.a": [0.0, 6.0]}), r"the range \[0\.0, 6\.0\]"),
    "true": (lambda x: _ranges(x).update({"model.a": [False, 6]}), r"the range \[False, 6\]"),
    "three ends": (lambda x: _ranges(x).update({"model.a": [0, 3, 6]}), r"the range \[0, 3, 6\]"),
    "no ranges": (lambda x: x["files"][0].update(ranges=None), "has no ranges"),
    "another array": (lambda x: _ranges(x).update({"model.b": [0, 1]}), "which is no array of the checkpoint"),
    "a missing array": (lambda x: x["arrays"].pop("model.a"), "holds other arrays than it describes"),
    "a huge array": (
        lambda x: x["arrays"].update({"model.a": ["float32", [1 << 61]]}),
        "more than can be read|more than 4611686018427387904 bytes",
    ),
    "huge and covered": (
        lambda x: (
            x["arrays"].update({"model.a": ["float32", [1 << 50]]}),
            _ranges(x).update({"model.a": [0, 1 << 50]}),
        ),
        "its pieces need",
    ),
    "no shape": (lambda x: x["arrays"].update({"model.a": "float32"}), "arrays without dtype and shape"),
    "objects": (lambda x: x["arrays"].update({"model.a": ["object", [6]]}), "has dtype 'object'"),
    "another type": (lambda x: x["arrays"].update({"model.a": ["int32", [6]]}), "holds other pieces than"),
    "another shape": (lambda x: x["arrays"].update({"model.a": ["float32", [2, 3]]}), "holds other pieces than"),
    "the folder above": (lambda x: x["files"][0].update(file="../x.safetensors"), r"names the file '\.\./x"),
    "the root": (lambda x: x["files"][0].update(file="/etc/passwd"), "names the file '/etc/passwd'"),
    "no text": (lambda x: x["files"][0].update(file=["a"]), "names the file"),
    "one file twice": (lambda x: x["files"].append(x["files"][0]), "names the file"),
    "no files": (lambda x: x.update(files=[]), "names no files"),
    "files as a dict": (lambda x: x.update(files={"a": 1}), "names no files"),
    "a file as a text": (lambda x: x["files"].__setitem__(0, "x"), "describes a file by 'x'"),
    "more of a file": (lambda x: x["files"][0].update(more=1), "describes a file by"),
    "a wrong size": (lambda x: x["files"][0].update(bytes=x["files"][0]["bytes"] + 1), "and was written with"),
    "a size that is none": (lambda x: x["files"][0].update(bytes=-1), "has -1 bytes"),
    "a digest that is none": (lambda x: x["files"][0].update(sha256=3), "has no digest"),
    "no commit": (lambda x: x.pop("commit"), "does not say how it was committed"),
    "a commit by file": (lambda x: x.update(commit="file"), "was not committed"),
    "a newer schema": (lambda x: x.update(schema=2), "install a newer refoptim"),
    "no tree": (lambda x: x.pop("tree"), "has no tree"),
    "a tree of other arrays": (lambda x: x.update(tree={"x": {"$array": "model.z"}}), "an array that is not there"),
    "wrong digests": (lambda x: x["sha256"].update({"model.a": "0" * 64}), "its digest is wrong"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lying_descriptions_are_refused_in_one_line(small: Path, lie: str) -> None:
    alter, problem = LIES[lie]
    change(small, lambda x: x)
    load(small)  # it is the lie that is refused
    change(small, alter)
    with pytest.raises(CheckpointError, match=problem) as refused:
        load(small)
    assert "\n" not in str(refused.value)


def test_an_altered_description_is_noticed(small: Path) -> None:
    change(small, lambda x: x["files"][0].update(sha256="0" * 64), sealed=False)
    with pytest.raises(CheckpointError, match="its seal is wrong"):
        load(small)


@pytest.mark.skipif(os.name != "posix", reason="links and pipes are those of POSIX")
@pytest.mark.parametrize("name", ["checkpoint.json", "shard-00001-of-00002.safetensors"])
def test_links_and_what_is_no_file_are_refused(small: Path, tmp_path: Path, name: str) -> None:
    (small / name).rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"is missing|it has no checkpoint\.json"):
        load(small)
    (small / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="is no file, or a link to one"):
        load(small)
    (small / name).unlink()
    os.mkfifo(small / name)
    with pytest.raises(CheckpointError, match="is no file, or a link to one"):
        load(small)
    (small / name).unlink()
    (small / name).mkdir()
    with pytest.raises(CheckpointError, match="is no file, or a link to one"):
        load(small)


def test_shards_of_another_checkpoint_are_noticed(small: Path, tmp_path: Path) -> None:
    save(tmp_path / "other", shards=2, model={"a": np.arange(6, dtype=np.float32) + 1, "c": np.ones(3) * 1j}, epoch=3)
    save(tmp_path / "third", shards=2, model={"a": np.arange(7, dtype=np.float32)[:6], "d": np.ones(3) * 1j}, epoch=3)
    name = "shard-00001-of-00002.safetensors"
    for other, problem in [("other", "was altered"), ("third", "holds other pieces|bytes, and was written with")]:
        shutil.copy(tmp_path / other / name, small / name)
        with pytest.raises(CheckpointError, match=problem):
            load(small)


# --------------------------------------------------------------------------------------------------------------- kills

WRITER = """
import sys
import numpy as np
from refoptim.checkpoint import save
n = 0
while True:
    n += 1
    save(sys.argv[1], shards=3, n=n, x=np.full(400_000, n))
    print(n, flush=True)
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Callable[[], Any]]:
    running: list[Any] = []

    def start() -> Any:
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "run")],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


@linux
def test_killed_writers_lose_nothing(tmp_path: Path, writer: Callable[[], Any]) -> None:
    rng, left = np.random.default_rng(5), 0
    for _ in range(8):
        process = writer()
        process.stdout.readline()  # it has saved once
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = load(tmp_path / "run")
        assert (found["x"] == found["n"]).all()
        left += len(list(tmp_path.iterdir())) > 1
        assert latest(tmp_path) == tmp_path / "run"
    assert left  # some were killed while they wrote
    save(tmp_path / "run", shards=1, n=0)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
