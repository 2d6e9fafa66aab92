"""The newest checkpoint is one that can be restored: one with other bits than were written does not count."""

from __future__ import annotations

import random
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refoptim import checkpoint
from refoptim.checkpoint import CheckpointError

FORMS: dict[str, dict[str, Any]] = {".safetensors": {}, ".npz": {}, ".json": {}, "": {"shards": 2}}

FLIPS = 120


def saved(folder: Path, form: str, step: int) -> Path:
    parts = {"model": {"w": np.arange(5000.0) + step, "b": np.zeros(3, np.float32)}, "step": step}
    return checkpoint.save(folder / f"step-{step}{form}", **FORMS[form], **parts)


def files_of(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path]


def flipped(path: Path, place: int) -> bytes:
    """Turn one bit of a file, and return what was there."""
    before = path.read_bytes()
    data = bytearray(before)
    data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)
    return before


def is_whole(path: Path) -> bool:
    try:
        return bool(checkpoint.load(path)["step"] == 2)
    except CheckpointError:
        return False


@pytest.mark.parametrize("form", FORMS)
def test_the_newest_is_the_newest_that_can_be_loaded(tmp_path: Path, form: str) -> None:
    """Wherever a bit is another; ``load`` is the judge."""
    old, new = saved(tmp_path, form, 1), saved(tmp_path, form, 2)
    rng, passed_over = random.Random(0), 0
    for path in files_of(new) * (FLIPS // len(files_of(new))):
        before = flipped(path, rng.randrange(8 * path.stat().st_size))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = checkpoint.latest(tmp_path)
        assert found == (new if is_whole(new) else old)
        passed_over += found == old
        path.write_bytes(before)
    assert checkpoint.latest(tmp_path) == new
    assert passed_over > FLIPS // 2


def array_place(path: Path) -> tuple[Path, int]:
    """Return a file of a checkpoint, and the place of a bit of an array in it."""
    file = files_of(path)[-1]
    data, number = file.read_bytes(), struct.pack("<d", 4990 + 2)
    place = data.find(number[::-1].hex().encode() if file.suffix == ".json" else number)
    assert place > 0
    return file, 8 * place


@pytest.mark.parametrize("form", FORMS)
def test_an_altered_array_is_noticed_where_one_asks_for_it(tmp_path: Path, form: str) -> None:
    old, new = saved(tmp_path, form, 1), saved(tmp_path, form, 2)
    flipped(*array_place(new))
    with pytest.warns(UserWarning, match=r"^a checkpoint is passed over: step-2.* was altered: its digest is wrong$"):
        assert checkpoint.latest(tmp_path) == old
    assert checkpoint.latest(tmp_path, verify=False) == new
    assert not is_whole(new)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("verify", [True, False])
def test_an_altered_description_is_always_noticed(tmp_path: Path, form: str, verify: bool) -> None:
    old, new = saved(tmp_path, form, 1), saved(tmp_path, form, 2)
    file = files_of(new)[0]
    file.write_bytes(
        file.read_bytes()
        .replace(b'step":2', b'step":3')
        .replace(b'step": 2', b'step": 3')
        .replace(b'step\\":2', b'step\\":3')
    )
    assert not is_whole(new)
    assert checkpoint.latest(tmp_path, verify=verify) == old


def test_an_altered_header_of_a_shard_is_always_noticed(tmp_path: Path) -> None:
    old, new = saved(tmp_path, "", 1), saved(tmp_path, "", 2)
    file = files_of(new)[-1]
    file.write_bytes(file.read_bytes().replace(b"F64", b"I64"))
    assert checkpoint.latest(tmp_path, verify=False) == old


@pytest.mark.parametrize("form", FORMS)
def test_pruning_can_count_whole_ones_alone(tmp_path: Path, form: str) -> None:
    """What was altered stays until there are enough newer ones, and nothing whole goes for its sake."""
    old, older, altered = saved(tmp_path, form, 1), saved(tmp_path, form, 0), saved(tmp_path, form, 2)
    flipped(*array_place(altered))
    with pytest.warns(UserWarning, match="passed over: step-2"):
        assert checkpoint.prune(tmp_path, keep=1, verify=True) == [older]
    with pytest.warns(UserWarning, match="passed over: step-2"):
        assert checkpoint.prune(tmp_path, keep=2, verify=True) == []
    assert is_whole(altered) is False and checkpoint.load(old)["step"] == 1
    new = saved(tmp_path, form, 3)
    assert checkpoint.prune(tmp_path, keep=1, verify=True) == [old, altered]
    assert checkpoint.latest(tmp_path) == new


def test_a_folder_that_is_not_there_has_none(tmp_path: Path) -> None:
    """As at the first start of a run that saves into it."""
    assert checkpoint.latest(tmp_path / "run") is None and checkpoint.prune(tmp_path / "run") == []
    assert not (tmp_path / "run").exists()


def test_only_the_newest_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(5):
        saved(tmp_path, ".npz", step)
    read: list[str] = []
    real: Any = checkpoint._read_tree  # type: ignore[attr-defined]

    def counting(path: Path, verify: bool = True) -> Any:
        read.extend([path.name] * verify)
        return real(path, verify)

    monkeypatch.setattr(checkpoint, "_read_tree", counting)
    checkpoint.latest(tmp_path)
    assert read == ["step-4.npz"]
    checkpoint.latest(tmp_path, verify=False)
    checkpoint.prune(tmp_path, keep=3)
    assert read == ["step-4.npz"]
