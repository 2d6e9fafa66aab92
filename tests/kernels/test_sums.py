"""Kernels that sum: the bits of ``tree`` along any axis, and Adafactor's those of its room."""

from __future__ import annotations

from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.kernels import dtype_of
from helpers.rooms import assert_equal_bits
from helpers.sums import FUNCTIONS, run
from refoptim.engines import host
from refoptim.engines.host import Host
from refoptim.numerics import arith, tree

pytestmark = pytest.mark.skipif(bool(host.missing()), reason=f"no kernels for this computer: {host.missing()}")

adafactor = pytest.importorskip("refoptim.kernels.adafactor")

SIZES = [0, 1, 2, 3, 15, 33, 100, 1023, 1024, 1025, 16_384, 16_385, 40_001, 1024 * 1024 + 77]

SHAPES = [
    (1, 1),
    (3, 0),
    (0, 3),
    (5, 7),
    (1030, 37),
    (3, 1025),
    (2050, 16),
    (2, 3, 4),
    (2, 1500, 33),
    (0, 2, 3),
    (4, 1, 9, 9),
]


@pytest.fixture(params=["first", "last"])
def machine(request: pytest.FixtureRequest) -> Host:
    """Return this computer with the best and with the plainest instruction set it has."""
    library = host.machine().kernels
    variants = host.variants(library)
    return Host(library, variants[0] if request.param == "first" else variants[-1])


def numbers(seed: int, shape: tuple[int, ...], dtype: str) -> Any:
    """Draw numbers, with zeros of both signs, of such different sizes that another order of sums gives other bits."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(-6, 7, shape)
    return np.asarray(np.where(rng.random(shape) < 0.05, rng.choice([0.0, -0.0], shape), x)).astype(dtype_of(dtype))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("entry", FUNCTIONS)
def test_totals(machine: Host, entry: str, dtype: str) -> None:
    """All in one launch a level, those of one level and of three."""
    function, count = FUNCTIONS[entry]
    given = [tuple(numbers(10 * i + j, (n,), dtype) for j in range(count)) for i, n in enumerate(SIZES)]
    results = run(machine, entry, dtype, [(xs, 1, len(xs[0]), 1) for xs in given])
    for xs, result in zip(given, results, strict=True):
        assert_equal_bits(result, tree.total(function, *xs).reshape(1), len(xs[0]))


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("entry", FUNCTIONS)
def test_sums_along_an_axis(machine: Host, entry: str, dtype: str, axis: int) -> None:
    function, count = FUNCTIONS[entry]
    given = [tuple(numbers(10 * i + j, shape, dtype) for j in range(count)) for i, shape in enumerate(SHAPES)]
    results = run(machine, entry, dtype, [(xs, *outer_n_inner(xs[0].shape, axis)) for xs in given])
    for xs, result in zip(given, results, strict=True):
        expected = tree.sum_along(function, *xs, axis=axis)
        assert_equal_bits(result.reshape(expected.shape), expected, xs[0].shape)


def outer_n_inner(shape: tuple[int, ...], axis: int) -> tuple[int, int, int]:
    at = len(shape) + axis
    return prod(shape[:at]), shape[at], prod(shape[at + 1 :])


def test_special_numbers(machine: Host) -> None:
    given = [np.full(n, -0.0, np.float32) for n in (1, 31, 1024, 1025)]
    given += [np.ones(n, np.float32) for n in (3, 1500, 3000)] * 2
    for i, bad in enumerate([np.inf, np.nan, -np.inf, np.inf, np.inf, np.inf]):
        given[4 + i][-1] = bad
    given[8][0], given[9][1000] = -np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        for x, result in zip(
            given, run(machine, "sums", "float32", [((x,), 1, len(x), 1) for x in given]), strict=True
        ):
            expected = tree.total(arith.widen, x)
            assert str(result[0]) == str(expected)


@pytest.mark.parametrize("n", [1, 31, 1024])
def test_a_sum_is_never_minus_zero(machine: Host, n: int) -> None:
    x = np.full((n, 3), -0.0, np.float32)
    for shape in ((1, n, 1), (1, n, 3), (3, n, 1)):
        (result,) = run(machine, "sums", "float32", [((x,), *shape)])
        assert not np.signbit(result).any()


def test_parts_of_a_vector_that_begin_anywhere(machine: Host) -> None:
    x = numbers(1, (5000,), "float32")
    parts = [x[i:] for i in range(9)]
    for part, result in zip(parts, run(machine, "sums", "float32", [((p,), 1, len(p), 1) for p in parts]), strict=True):
        assert_equal_bits(result[0], tree.total(arith.widen, part))


def test_no_sum_depends_on_blocks_or_threads(machine: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    x = numbers(1, (300, 500), "float32")
    wanted = [((x,), 1, 150_000, 1), ((x,), 300, 500, 1), ((x,), 1, 300, 500)]
    expected, launch = run(machine, "sums_of_squares", "float32", wanted), Host.launch
    for blocks in (1, 3, 10_000):
        monkeypatch.setattr(
            machine, "launch", lambda stem, name, _, *a, n=blocks, **more: launch(machine, stem, name, n, *a)
        )
        for ours, theirs in zip(run(machine, "sums_of_squares", "float32", wanted), expected, strict=True):
            assert_equal_bits(ours, theirs)


PARAMETERS = [
    (),
    (1,),
    (5,),
    (1025,),
    (20_000,),
    (3, 4),
    (1, 1),
    (1, 7),
    (7, 1),
    (1100, 33),
    (33, 1100),
    (0,),
    (0, 3),
    (3, 0),
]
PARAMETERS += [(2, 3, 5), (2, 0, 3), (0, 2, 3), (3, 1, 2, 9), (16, 3, 3, 3), (2, 1030, 17), (130, 260)]

SETTINGS: list[dict[str, Any]] = [
    {},
    dict(lr=0.3, beta2_decay=-0.3, eps=(1e-3, 0.02), d=1.7, weight_decay=0.1, maximize=True),
    dict(lr=1e-3, beta2_decay=-1.5, eps=(None, 0.5), weight_decay=0.3),
]


class Adafactors:
    """Parameters that the room updates, and the same updated by kernels."""

    def __init__(self, dtype: str, settings: dict[str, Any]) -> None:
        self.g, _, master = dtype.partition("_")
        self.p = "float32" if master else self.g
        self.room = refoptim.Adafactor([numbers(i, shape, self.p) for i, shape in enumerate(PARAMETERS)], **settings)
        self.members = self.room.param_groups[0]["params"]
        copies = [np.zeros(p.shape, dtype_of(self.g)) if master else None for p in self.members]
        self.tensors = [self._tensor(p.data.copy(), copy) for p, copy in zip(self.members, copies, strict=True)]

    def _tensor(self, p: Any, copy: Any) -> Any:
        rows, columns = ((*p.shape[:-1], 1), (*p.shape[:-2], 1, *p.shape[-1:])) if p.ndim > 1 else (None, None)
        state = [None if shape is None else np.zeros(shape, p.dtype) for shape in (rows, columns)]
        return SimpleNamespace(p=p, g=None, state=(*state, np.zeros_like(p) if p.ndim < 2 else None), copy=copy)

    def step(self, machine: Host, gradients: list[Any], k: int, scale: float | None = None, skip: bool = False) -> None:
        rule = refoptim.step.rule.resolve(refoptim.Adafactor, self.room.param_groups[0])
        scalars = refoptim.step.rule.step_scalars(refoptim.Adafactor, rule, k, {})
        s = refoptim.step.rule.record(scalars, dtype_of(self.p))
        for tensor, g in zip(self.tensors, gradients, strict=True):
            tensor.g = g
        one = [None if x is None else np.array([x], np.float32) for x in (scale, float(skip))]
        step = SimpleNamespace(s=s, grad_scale=one[0], found_inf=one[1])
        with np.errstate(all="ignore"):
            adafactor.update(machine, refoptim.Adafactor, step, self.tensors[::2])
            for tensor in self.tensors[1::2]:
                adafactor.update(machine, refoptim.Adafactor, step, [tensor])

    def assert_equal(self) -> None:
        for p, tensor in zip(self.members, self.tensors, strict=True):
            kept = self.room.state[p]
            names = [("row_var", 0), ("col_var", 1)] if p.data.ndim > 1 else [("variance", 2)]
            for ours, theirs in ((tensor.p, p.data), *((tensor.state[i], kept[name]) for name, i in names)):
                assert_equal_numbers(ours, theirs)
            if tensor.copy is not None:
                assert_equal_numbers(tensor.copy, tensor.p.astype(tensor.copy.dtype))


def assert_equal_numbers(x: Any, y: Any) -> None:
    """Fail unless two arrays have the same bits; a NaN is equal to any other."""
    x, y = (np.where(np.isnan(z), z.dtype.type(7), z) for z in (x, y))
    assert_equal_bits(x, y)


@pytest.mark.sweep(3)
@pytest.mark.parametrize("settings", SETTINGS, ids=range(len(SETTINGS)))
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "float16_master", "bfloat16_master"])
def test_adafactor_has_the_bits_of_its_room(machine: Host, dtype: str, settings: dict[str, Any]) -> None:
    pair = Adafactors(dtype, settings)
    for k in (1, 2, 3):
        gradients = [numbers(100 * k + i, shape, pair.g) for i, shape in enumerate(PARAMETERS)]
        gradients[3][7:8], gradients[9][2:3, 4:5] = (np.inf, np.nan) if k == 3 else (0, 0)
        gradients[10][...] = 0
        pair.room.step(grads=[g.astype(dtype_of(pair.p)) for g in gradients])
        pair.step(machine, gradients, k)
        pair.assert_equal()


def test_adafactor_divides_gradients_and_skips_steps(machine: Host) -> None:
    pair = Adafactors("float32", SETTINGS[1])
    gradients = [numbers(i, shape, "float32") for i, shape in enumerate(PARAMETERS)]
    pair.room.step(grads=[np.asarray(g / np.float32(3.7)) for g in gradients])
    pair.step(machine, gradients, 1, scale=3.7)
    pair.assert_equal()
    pair.step(machine, [np.asarray(2 * g) for g in gradients], 2, scale=3.7, skip=True)
    pair.assert_equal()
