"""Arrays of models that look at the same memory take what was saved of them, or are refused: none is overwritten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from refoptim import Parameter, checkpoint
from refoptim.checkpoint import CheckpointError

FORMS: dict[str, dict[str, Any]] = {"x.safetensors": {}, "x.npz": {}, "x.json": {}, "x.pt": {}, "x": {"shards": 2}}


def halves(x: Any) -> Any:
    return {"a": x[:6], "b": x[4:]}


MODELS: dict[str, Callable[[Any], Any]] = {
    "views that meet": halves,
    "a buffer and its views": lambda x: {"flat": x, "a": x[:6].reshape(2, 3), "b": x[6:]},
    "tied weights": lambda x: {"a": x, "b": x},
    "two views that are equal": lambda x: {"a": x[:], "b": x[:]},
    "a view and its transpose": lambda x: {"a": x[:6].reshape(2, 3), "b": x[:6].reshape(2, 3).T},
    "backwards": lambda x: [x, x[::-1]],
    "between one another": lambda x: [x[::2], x[1::2]],
    "other dtypes": lambda x: [x, x.view(np.int64)],
    "without elements": lambda x: [x, x[3:3]],
    "Parameters": lambda x: [Parameter(x[:6]), Parameter(x[4:])],
    "an array upon itself": lambda x: {"a": as_strided(x, (4, 3), (16, 8))},
}


def numbers(seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(10)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("what", MODELS)
def test_a_model_takes_over_what_was_saved_of_its_like(tmp_path: Path, what: str, form: str) -> None:
    x, y = numbers(0), numbers(1)
    path = checkpoint.save(tmp_path / form, **FORMS[form], model=MODELS[what](x))
    before, reached = x.copy(), np.zeros(10)
    model = MODELS[what](reached)
    for part in model.values() if isinstance(model, dict) else model:
        (part.data if isinstance(part, Parameter) else part)[...] = 1
    checkpoint.restore(path, model=MODELS[what](y))
    assert x.tobytes() == before.tobytes()
    assert y.tobytes() == np.where(reached != 0, x, numbers(1)).tobytes()


def changed(tmp_path: Path, model: Any, *places: tuple[str, int]) -> Path:
    """Save copies of the arrays of a model, with some elements changed."""
    copies = {name: x.copy() for name, x in model.items()}
    for name, i in places:
        copies[name].reshape(-1)[i] += 1
    return checkpoint.save(tmp_path / "x.npz", model=copies)


@pytest.mark.parametrize(
    ("what", "place", "said"),
    [
        ("views that meet", ("a", 5), "model.a shares memory with model.b, and they differ in what was saved"),
        ("views that meet", ("b", 0), "model.a shares memory with model.b, and they differ in what was saved"),
        ("a buffer and its views", ("b", 1), "model.flat shares memory with model.b, and they differ"),
        ("two views that are equal", ("b", 1), "model.a and model.b are one array, and differ in what was saved"),
        ("tied weights", ("a", 1), "model.a and model.b are one array, and differ in what was saved"),
        ("a view and its transpose", ("a", 1), "model.a shares memory with model.b, and they differ"),
        ("an array upon itself", ("a", 2), "model.a shares memory with itself, and they differ"),
    ],
)
def test_memory_takes_one_value(tmp_path: Path, what: str, place: tuple[str, int], said: str) -> None:
    x, other = numbers(0), {"w": np.zeros(3)}
    model = MODELS[what](x)
    path = changed(tmp_path, model, place)
    checkpoint.save(path, **checkpoint.load(path), other={"w": np.ones(3)})
    with pytest.raises(CheckpointError, match=f"^{said}") as caught:
        checkpoint.restore(path, other=other, model=model)
    assert "\n" not in str(caught.value)
    assert x.tobytes() == numbers(0).tobytes() and other["w"].tolist() == [0, 0, 0]


def test_elements_that_nobody_shares_may_differ(tmp_path: Path) -> None:
    x = numbers(0)
    checkpoint.restore(changed(tmp_path, halves(x), ("a", 3), ("b", 2)), model=halves(x))
    assert (x - numbers(0)).nonzero()[0].tolist() == [3, 6]


def test_payloads_of_nan_agree(tmp_path: Path) -> None:
    x = np.array([0x7F800001, 0xFFC12345, 0x80000000, 1], np.uint32).view(np.float32)
    path, before = checkpoint.save(tmp_path / "x.npz", model=[x[:3], x[1:]]), x.tobytes()
    x[:] = 0
    checkpoint.restore(path, model=[x[:3], x[1:]])
    assert x.tobytes() == before


def test_two_models_that_share_memory(tmp_path: Path) -> None:
    x = numbers(0)
    path = checkpoint.save(tmp_path / "x.npz", encoder=[np.ones(10)], decoder=[np.zeros(10)])
    with pytest.raises(CheckpointError, match=r"^encoder\.0 and decoder\.0 are one array, and differ"):
        checkpoint.restore(path, encoder=[x], decoder=[x])
    assert x.tobytes() == numbers(0).tobytes()
    checkpoint.restore(path, encoder=[x])
    assert (x == 1).all()


def test_arrays_of_cupy(tmp_path: Path, fake_cupy: Any) -> None:
    x = fake_cupy.asarray(numbers(0))
    path = checkpoint.save(tmp_path / "x.npz", model=halves(x))
    x[...] = 0
    checkpoint.restore(path, model=halves(x))
    assert fake_cupy.asnumpy(x).tobytes() == numbers(0).tobytes()
    checkpoint.save(path, model=halves(np.arange(10.0)) | {"b": np.zeros(6)})
    with pytest.raises(CheckpointError, match=r"^model\.a shares memory with model\.b"):
        checkpoint.restore(path, model=halves(x))
    assert fake_cupy.asnumpy(x).tobytes() == numbers(0).tobytes()
