"""The kernels of L-BFGS and conjugate gradients on the host: the reference's bits in every entry of the state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from refoptim.kernels import lbfgs as lbfgs_kernels

import refoptim
from helpers.kernels import NEEDS_KERNELS
from helpers.minimizers import PROBLEMS, SETTINGS, assert_same, quadratic, trajectory, turned
from helpers.rooms import assert_equal_bits, normal
from refoptim.engines import host
from refoptim.engines.host import Host
from refoptim.engines.twins import kernels_on, twinned
from refoptim.optimizers import conjugate_gradient, lbfgs, vector

pytestmark = NEEDS_KERNELS

SIZES = [0, 1, 7, 1023, 1024, 1025, 3000, 20_000, 1_100_000]
"""Up to three rounds of sums."""


def machines() -> list[Host]:
    """Return the host once for each instruction set that this processor has."""
    machine = host.machine()
    return [Host(machine.kernels, variant) for variant in host.variants(machine.kernels)]


def special(seed: int, n: int, dtype: str) -> Any:
    """Draw numbers of many magnitudes, subnormal ones and zeros of both signs among them."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(n) * 10.0 ** rng.integers(-44, 3, n)).astype(dtype)
    x[rng.random(n) < 0.1] = -0.0
    return x


def assert_twins(function: Callable[..., Any], *arguments: Any, on: list[Host] | None = None) -> None:
    """Fail unless the kernels compute what the function does."""
    with np.errstate(all="ignore"):
        expected = function(*arguments)
        for machine in on or machines():
            with kernels_on(machine):
                assert_same(function(*arguments), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", SIZES)
def test_vector_twins(n: int, dtype: str) -> None:
    x, y = special(1, n, dtype), special(2, n, dtype)
    on = None if n < 30_000 else machines()[:1]
    assert_twins(vector.dot, x, y, on=on)
    assert_twins(vector.sum_absolute, x, on=on)
    assert_twins(vector.negated, x, on=on)
    assert_twins(vector.downhill, x, on=on)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", SIZES)
def test_largest_elements(n: int, dtype: str) -> None:
    """The sign of a largest element 0 is not part of the definition."""
    x, y = special(1, n, dtype), normal(2, n, dtype=dtype)
    y[: n // 2] = 0
    for nan in (False, True):
        y[n // 2 : n // 2 + 1] = np.nan if nan else 3
        expected = [np.abs(z).max(initial=0) for z in (x, y)]
        for machine in machines():
            with kernels_on(machine):
                got = vector.largest(x, y)
            assert_equal_bits(got, expected)
        np.testing.assert_array_equal(vector.largest(x, y), expected)


def test_values_that_are_not_finite() -> None:
    x, y = special(1, 5000, "float32"), special(2, 5000, "float32")
    x[17], x[4001], y[30] = np.inf, -np.inf, np.inf
    with np.errstate(all="ignore"):
        for machine in machines():
            with kernels_on(machine):
                assert np.isnan(vector.dot(x, y)) and vector.sum_absolute(x) == np.inf


def parts(x: Any) -> list[Any]:
    """Cut a vector into arrays: one in C order, an empty one, one that is no piece of memory, and the rest."""
    matrix = np.asfortranarray(x[6:12].reshape(2, 3))
    return [x[:6].reshape(3, 2).copy(), x[:0].copy(), matrix, x[12:].copy()]


@pytest.mark.parametrize("there", [False, True], ids=["from here", "from an origin"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_moves(dtype: str, there: bool) -> None:
    x, d = special(1, 9001, dtype), special(2, 9001, dtype)
    origin = special(3, 9001, dtype) if there else None
    expected = (x if origin is None else origin) + d * np.dtype(dtype).type(0.3)
    for machine in [None, *machines()]:
        arrays = parts(x)
        with kernels_on(machine):
            vector.move(arrays, d, 0.3, origin)
        assert_equal_bits(np.concatenate([y.reshape(-1) for y in arrays]), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 1025, 20_000])
@pytest.mark.parametrize("pairs", [0, 1, 2, 7])
def test_two_loops(pairs: int, n: int, dtype: str) -> None:
    g, *vectors = (normal(seed, n, dtype=dtype) for seed in range(2 * pairs + 1))
    ro = [g.dtype.type(0.1 * i - 0.25) for i in range(pairs)]
    arguments = (g, vectors[:pairs], vectors[pairs:], ro, g.dtype.type(0.7) if pairs else 1)
    assert_twins(lbfgs.descend, *arguments)


def test_two_loops_read_once() -> None:
    reads: list[int] = []
    g, y, step = (normal(seed, 3000) for seed in range(3))

    class Counted(lbfgs_kernels.Walks):
        def read(self) -> list[Any]:
            reads.append(1)
            return super().read()

    with pytest.MonkeyPatch.context() as patch, kernels_on(host.machine()):
        patch.setattr(lbfgs_kernels, "Walks", Counted)
        lbfgs.descend(g, [y] * 9, [step] * 9, [0.1] * 9, 0.5)
    assert len(reads) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_changes(dtype: str) -> None:
    g, prev_g, d = (special(seed, 3000, dtype) for seed in range(3))
    assert_twins(lbfgs.change, g, prev_g, d, g.dtype.type(0.3))
    assert_twins(conjugate_gradient.overlaps, g, prev_g)
    assert_twins(conjugate_gradient.descend, g, d, g.dtype.type(0.3))
    for beta in conjugate_gradient.BETAS:
        assert_twins(conjugate_gradient.fraction, g, prev_g, d, beta)


def test_a_vector_that_does_not_fit_is_refused() -> None:
    with kernels_on(host.machine()):
        with pytest.raises(ValueError, match="a vector must have shape"):
            vector.dot(np.ones(3), np.ones(2))
        with pytest.raises(ValueError, match="a vector must have shape"):
            vector.dot(np.ones(3), np.ones(3, np.float32))
        assert vector.dot(np.ones(6)[::2], np.arange(3.0)) == 3


@pytest.mark.parametrize("cls, more", SETTINGS, ids=str)
@pytest.mark.parametrize("narrow", [False, True], ids=["64 bits", "32 bits"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_entry_of_the_state_is_the_same(problem: str, narrow: bool, cls: Any, more: dict[str, Any]) -> None:
    function, start = PROBLEMS[problem]
    if narrow:
        start = start.astype(np.complex64 if start.dtype.kind == "c" else np.float32)
    more = {"max_iter": 6, **more}
    one, other = (trajectory(cls, start, function, fused=fused, **more) for fused in (True, None))
    assert list(one[1]) == list(other[1])
    assert_same(list(one[1].values()), list(other[1].values()))
    assert_equal_bits(one[0], other[0])
    assert one[1]["n_iter"] > 1


def test_several_parameters_are_one_vector() -> None:
    ends = []
    for fused in (True, False):
        params = [refoptim.Parameter(x) for x in parts(normal(1, 40, dtype="float64"))]

        def closure(params: Any = params) -> float:
            return sum(quadratic(p) for p in params)

        refoptim.LBFGS(params, line_search_fn="strong_wolfe", fused=fused).step(closure)
        ends.append(np.concatenate([p.data.reshape(-1) for p in params]))
    assert_equal_bits(*ends)


def test_kernels_do_not_reach_into_the_closure() -> None:
    """What a closure computes for itself is computed as it would be outside."""
    seen = []
    p = refoptim.Parameter(np.ones(3))

    def closure() -> float:
        seen.append(inside())
        return quadratic(p)

    refoptim.LBFGS([p], fused=True).step(closure)
    assert set(seen) == {True}


@twinned
def inside() -> bool:
    """It has no twin."""
    return True


def off(x: Any) -> Any:
    return [off(y) for y in x] if isinstance(x, list) else x.get() if hasattr(x, "get") else x


@pytest.mark.sweep(4)
@pytest.mark.parametrize("fused", [None, False], ids=["kernels", "words"])
@pytest.mark.parametrize("cls, more", SETTINGS[:4], ids=str)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_arrays_of_cupy(gpu: Any, problem: str, cls: Any, more: dict[str, Any], fused: bool | None) -> None:
    """The stand-in for CuPy runs the kernels of the host; vectors stay on the GPU, through a saved state too."""
    function, start = PROBLEMS[problem]
    theirs = refoptim.Parameter(start.copy())
    p = refoptim.Parameter(gpu.array(start))

    def closure() -> float:
        here = refoptim.Parameter(p.data.get())
        sign = -1 if more.get("maximize") else 1
        loss = sign * function(here)
        p.grad = gpu.array(sign * here.grad)
        return loss

    expected, ours = cls([theirs], **more), cls([p], fused=fused, **more)
    for _ in range(3):
        expected.step(lambda: turned(function, theirs) if more.get("maximize") else function(theirs))
        ours.step(closure)
        ours.load_state_dict(ours.state_dict())
    mine = ours.state[p]
    assert all(isinstance(mine[key], gpu.ndarray) for key in ("d", "prev_flat_grad"))
    assert_same([off(x) for x in mine.values()], list(expected.state[theirs].values()))
    assert_equal_bits(p.data.get(), theirs.data)
    assert bool(gpu.world.counters.launches) == (fused is None)
