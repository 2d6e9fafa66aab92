"""Checkpoints that others read, and arrays of others that we read: NumPy's npz, and the package safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.kept import kept
from refoptim import checkpoint

NAN = np.array([0x7F800001, 0xFFC12345, 0x80000000, 1], np.uint32).view(np.float32)


def test_numpy_reads_our_npz(tmp_path: Path) -> None:
    data = {"w": NAN, "c": np.ones((2, 3), np.complex128), "f": np.asfortranarray(np.arange(6).reshape(2, 3))}
    path = checkpoint.save(tmp_path / "x.npz", model=data)
    with np.load(path, allow_pickle=False) as file:
        found = {name.removeprefix("model."): file[name] for name in file.files if name != "checkpoint.json"}
        assert json.loads(file["checkpoint.json"])["format"] == "refoptim checkpoint"
    assert kept(found) == kept(data)


@pytest.mark.parametrize("compressed", [False, True])
def test_we_read_numpys_npz(tmp_path: Path, compressed: bool) -> None:
    data = {"w": NAN, "c": np.ones((2, 3), np.complex128), "f": np.asfortranarray(np.arange(6).reshape(2, 3))}
    (np.savez_compressed if compressed else np.savez)(tmp_path / "x.npz", **data)
    assert kept(checkpoint.load_arrays(tmp_path / "x.npz")) == kept(data)
    with pytest.raises(checkpoint.CheckpointError, match=r"has no checkpoint\.json"):
        checkpoint.load(tmp_path / "x.npz")


def test_the_package_safetensors_reads_our_files(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors", reason="the witness safetensors is not installed")
    from safetensors.numpy import load_file

    data = {"w": NAN, "n": np.arange(6, dtype=np.int64).reshape(2, 3), "b": np.array(True), "e": np.zeros((0, 2))}
    data |= {"f": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "h": np.ones(3, np.float16)}
    path = checkpoint.save(tmp_path / "x.safetensors", metadata="é", model=data, c=np.ones(2, np.complex128))
    found = load_file(path)
    assert kept(found.pop("c")) == kept(np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert kept({name: found[f"model.{name}"] for name in data}) == kept(data) and len(found) == len(data)
    with safetensors.safe_open(path, "np") as file:
        assert json.loads(file.metadata()["refoptim"])["metadata"] == "é"


def test_we_read_files_of_the_package_safetensors(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="the witness safetensors is not installed")
    from safetensors.numpy import save_file

    data = {"w": NAN, "n": np.arange(6, dtype=np.int64).reshape(2, 3), "u": np.arange(4, dtype=np.uint16)}
    save_file(data, tmp_path / "x.safetensors", {"someone": "else"})
    found = checkpoint.load_arrays(tmp_path / "x.safetensors")
    assert kept(dict(sorted(found.items()))) == kept(dict(sorted(data.items())))
    with pytest.raises(checkpoint.CheckpointError, match=r"load_arrays"):
        checkpoint.load(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="stands for no arrays"):
        checkpoint.load_arrays(tmp_path / "x.json")
