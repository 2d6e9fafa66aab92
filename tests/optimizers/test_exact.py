"""refoptim equals torch's own code under the IEEE oracle, bit for bit: parameters and state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from refoptim.conformance.oracle import ieee

import refoptim
from helpers.oracle import (
    DENSE,
    Hyper,
    Pair,
    assert_same_bits,
    draw,
    gradient,
    layouts,
    normals,
    rng_of,
    sparse_gradient,
    stored,
)

torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")

LOOKS = (1, 2, 3, 7, 20, 50, 100)
"""Steps after which everything is compared."""


@pytest.fixture(autouse=True)
def _oracle() -> Iterator[None]:
    with ieee():
        yield


def gradients(rng: np.random.Generator, arrays: list[Any], dtype: str) -> list[Any]:
    """Draw the gradients of a step, each missing one time in ten."""
    return [gradient(rng, x.shape, dtype) if rng.random() < 0.9 else None for x in arrays]


def check(
    name: str, dtype: str, i: int, hyper: Hyper, looks: Sequence[int] = LOOKS, pairs: bool = False, **comparison: bool
) -> None:
    """Compare a run of one configuration, the lr of one group changing on the way."""
    rng = rng_of("gradients", name, dtype, i)
    seed = int(rng.integers(1 << 30))
    pair = Pair(name, lambda: layouts(dtype, seed), hyper, {"lr": 0.7 * hyper["lr"]}, pairs)
    for step in range(1, looks[-1] + 1):
        if step == looks[-1] * 2 // 5:
            pair.set(0, lr=0.3 * hyper["lr"])
        pair.step(gradients(rng, pair.arrays, dtype))
        if step in looks:
            pair.compare(f"{name}({hyper}) in {dtype}, step {step}", **comparison)
    finite = [np.isfinite(np.asarray(x, complex if x.dtype.kind == "c" else float)).mean() for x in pair.arrays]
    assert np.mean(finite) > 0.5, "a comparison of NaNs shows nothing"


DRAWS = [*range(3), *(pytest.param(i, marks=pytest.mark.slow) for i in range(3, 8))]
"""Which configurations are drawn: a few always, all in the slow tests."""


@pytest.mark.sweep(2)
@pytest.mark.parametrize("i", DRAWS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", DENSE)
def test_drawn_configuration(name: str, dtype: str, i: int) -> None:
    check(name, dtype, i, draw(name, dtype, i))


@pytest.mark.sweep(2)
@pytest.mark.parametrize("i", DRAWS)
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("name", DENSE)
def test_complex_parameters(name: str, dtype: str, i: int) -> None:
    """torch's SGD multiplies complex numbers by complex ones, which turns the sign of some zeros."""
    check(name, dtype, i, draw(name, dtype, i), looks=(1, 2, 30), signed_zeros=name != "SGD")


@pytest.mark.sweep(3)
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("name", DENSE)
def test_complex_parameters_are_pairs_of_reals(name: str, dtype: str) -> None:
    for i in (3, 6):
        check(name, dtype, i, draw(name, dtype, i), looks=(1, 2, 30), pairs=True)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("i", DRAWS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", DENSE)
def test_16_bit_storage_rounded_after_each_word(name: str, dtype: str, i: int) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")
    check(name, dtype, i, draw(name, dtype, i), looks=(1, 2, 3, 10, 50))


@pytest.mark.parametrize("name", DENSE)
def test_lr_as_an_array(name: str) -> None:
    hyper = draw(name, "float64", 1)
    check(name, "float64", 1, hyper | {"lr": np.array(hyper["lr"])}, looks=(1, 2, 30))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["NAdam", "ASGD"])
def test_registers_in_double(name: str, dtype: str) -> None:
    torch.set_default_dtype(torch.float64)
    refoptim.set_default_dtype("float64")
    try:
        check(name, dtype, 6, draw(name, dtype, 6))
    finally:
        torch.set_default_dtype(torch.float32)
        refoptim.set_default_dtype("float32")


@pytest.mark.parametrize("name", ["Adam", "AdamW", "NAdam", "RAdam", "Adamax"])
def test_betas_as_arrays(name: str) -> None:
    """They are the numbers they hold; torch rounds a tensor to the parameter's dtype first, so it gets numbers."""
    hyper = draw(name, "float32", 1)
    pair = Pair(name, lambda: layouts("float32", 5), hyper, {"lr": 0.07}, False)
    pair.ours.param_groups[0]["betas"] = tuple(np.array(x) for x in hyper["betas"])
    rng = rng_of("betas", name)
    for _ in range(30):
        pair.step(gradients(rng, pair.arrays, "float32"))
    pair.compare(f"{name}({hyper})")


@pytest.mark.parametrize("i", [5, 6])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", DENSE)
def test_huge_infinite_and_nan_gradients(name: str, dtype: str, i: int) -> None:
    """Squares overflow, denominators become infinite, NaN spreads: every bit as in torch."""
    huge = 2.0 ** (66 if dtype == "float32" else 514)
    odd = [huge, -huge, 0.5 * huge, 1.0, -0.0, np.inf, -np.inf, np.nan]
    even = [1.0, huge, 0.0, np.inf, 3.0, np.inf, 0.0, 1.0]
    hyper = draw(name, dtype, i)
    pair = Pair(name, lambda: [np.linspace(-1, 1, 8).astype(dtype)], hyper, {}, False)
    for step in range(1, 13):
        pair.step([np.array(odd if step % 2 else even, dtype)])
        pair.compare(f"{name}({hyper}) in {dtype}, step {step}")


SPARSE_SHAPES = [((23, 3), 1), ((31,), 1), ((7, 11), 2), ((5, 4, 3), 2), ((300, 2), 1)]
"""Shapes and how many of their leading axes are sparse; rows are dense along the others."""


SPARSE = [
    (name, dtype, i)
    for name in ("SparseAdam", "SGD", "Adagrad")
    for dtype in ("float32", "float64", "float16")
    for i in range(8)
    if not (dtype == "float16" and draw(name, dtype, i).get("momentum"))  # torch does not add sparse float16 tensors
]


@pytest.mark.sweep(2)
@pytest.mark.parametrize(("name", "dtype", "i"), SPARSE)
def test_sparse_gradients(name: str, dtype: str, i: int) -> None:
    """torch's SGD adds the entries of an index one by one, refoptim their sum, so torch's gets sums too."""
    hyper = draw(name, dtype, i)
    hyper |= {"weight_decay": 0} if name != "SparseAdam" else {}
    rng = rng_of("sparse", name, dtype, i)
    seed = int(rng.integers(1 << 30))
    pair = Pair(name, lambda: normals(dtype, seed, [shape for shape, _ in SPARSE_SHAPES]), hyper, {"lr": 0.07}, False)
    pair.coalesced = name == "SGD"
    for step in range(1, LOOKS[-1] + 1):
        drawn = [sparse_gradient(rng, shape, axes, dtype) for shape, axes in SPARSE_SHAPES]
        pair.step([g if rng.random() < 0.9 else None for g in drawn])
        if step in LOOKS:
            pair.compare(f"{name}({hyper}) in {dtype}, step {step}", signed_zeros=name != "SGD")


ADAFACTOR = [
    dict(lr=0.02, beta2_decay=-0.7, eps=(1e-4, 2e-3), d=1.3, weight_decay=0.05, maximize=True),
    dict(lr=0.3, beta2_decay=-0.9, eps=(None, 0.02), d=2.5, weight_decay=0.2),
]


@pytest.mark.parametrize("hyper", ADAFACTOR)
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-6), ("float64", 1e-14)])
def test_adafactor_is_close(dtype: str, bound: float, hyper: Hyper) -> None:
    """torch adds in an order of its own; errors are relative to the largest magnitude of an array."""
    shapes = [(), (1,), (33,), (1027,), (7, 11), (64, 1), (300, 3), (2, 3, 5, 4)]
    rng = rng_of("adafactor", dtype, hyper["lr"])
    pair = Pair("Adafactor", lambda: normals(dtype, 3, shapes), hyper, {"lr": 0.07}, False)
    for step in range(1, 101):
        grads = [stored(rng.standard_normal(shape) * rng.choice([1e-3, 1.0, 30.0], shape), dtype) for shape in shapes]
        pair.step([g if rng.random() < 0.9 else None for g in grads])
        assert pair.error() <= bound, step


MUON = [
    dict(lr=0.02, weight_decay=0.2, momentum=0.9, ns_coefficients=(3.3, -4.6, 2.1), eps=1e-4, ns_steps=3),
    dict(lr=0.05, weight_decay=0.03, momentum=0.7, nesterov=False, ns_steps=6, adjust_lr_fn="match_rms_adamw"),
    dict(lr=0.3, weight_decay=0.1, momentum=0.3, ns_steps=5, adjust_lr_fn="original"),
]


@pytest.mark.parametrize("hyper", MUON)
@pytest.mark.parametrize(
    ("shape", "steps", "equal"),
    [((4, 4), 30, 1.0), ((16, 32), 30, 0.95), ((64, 16), 30, 0.9), ((128, 128), 4, 0.0), ((200, 100), 2, 0.0)],
)
def test_muon(shape: tuple[int, int], steps: int, equal: float, hyper: Hyper) -> None:
    """The momentum is exact. torch adds the products of a matrix in an order of its own, which now and then decides how
    an entry is rounded to bfloat16: ``equal`` is how many steps at least, each taken from torch's parameters, give the
    same bits.
    """
    rng = rng_of("muon", shape, hyper["lr"])
    pair = Pair("Muon", lambda: normals("float32", 3, [shape, shape]), hyper, {"lr": 0.07}, False)
    same = []
    for _ in range(steps):
        pair.step([stored(rng.standard_normal(shape), "float32") for _ in pair.arrays])
        assert pair.error() <= 1e-2
        for name, ours, theirs in pair.sides():
            if "value" in name:
                same.append(np.array_equal(ours, theirs))
                ours[...] = theirs
            else:
                assert_same_bits(ours, theirs, f"Muon({hyper}), {name}")
    assert np.mean(same) >= equal
