"""Rules with sums over a parameter: kernels have the bits of the rooms, sums those of ``tree``, and nothing is lost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.kernels import (
    NEEDS_KERNELS,
    arrays,
    assert_same_bits,
    assert_same_runs,
    gradients,
    numbers,
    settings,
    strange,
)
from helpers.pairs import pair, step
from helpers.rooms import SETTINGS, make, normal
from helpers.wider import SUMMED
from refoptim.amp import GradScaler
from refoptim.numerics import tree
from refoptim.step.rule import Rule

NARROW = ["float16", "bfloat16"]

SHAPES: list[tuple[int, ...]] = [(7,), (3, 5), (), (0,), (1030,), (2, 3, 700), (33_000,)]


@NEEDS_KERNELS
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("dtype", ["float64", "float32", *NARROW])
@pytest.mark.parametrize("name", SUMMED)
def test_kernels_have_the_bits_of_the_reference(name: str, dtype: str, seed: int) -> None:
    """Settings, layouts, sizes and numbers at random: zeros, infinities, NaN and subnormal numbers among them."""
    rng = np.random.default_rng([seed, SUMMED.index(name)])
    params, chosen = arrays(rng, dtype), settings(name, rng)
    one, other = pair(name, params, **chosen)
    for k in range(3):
        step(one, other, gradients(rng, params, dtype, k))
        assert_same_runs(one, other, (chosen, k))


@NEEDS_KERNELS
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", SUMMED)
def test_master_copies(name: str, dtype: str, wide: bool) -> None:
    rng = np.random.default_rng(SUMMED.index(name))
    begin = [numbers(rng, shape, dtype) for shape in SHAPES]
    params = [[refoptim.Parameter(x.copy(), master=True) for x in begin] for _ in range(2)]
    one, other = make(name, params[0], fused=True, maximize=True), make(name, params[1])
    other.param_groups[0]["maximize"] = True
    for k in range(3):
        grads = [np.asarray(numbers(rng, shape, "float32" if wide else dtype)) for shape in SHAPES]
        step(one, other, [strange(rng, g, g.dtype.name) if k == 2 else g for g in grads])
        assert_same_runs(one, other, k)


@NEEDS_KERNELS
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", SUMMED)
def test_gradients_are_divided_and_steps_skipped(name: str, fused: bool) -> None:
    """A scale that is a power of two divides exactly, so that the steps are those of the gradients as they are."""
    one, other = ([normal(i, *shape) for i, shape in enumerate(SHAPES)] for _ in range(2))
    scaled, plain = make(name, one, fused=fused), make(name, other)
    scaler = GradScaler(init_scale=1024.0, growth_interval=99)
    for k in range(3):
        grads = [normal(100 * k + i, *shape) for i, shape in enumerate(SHAPES)]
        plain.step(grads=grads)
        for factor in (np.inf, 1.0) if k == 1 else (1.0,):
            scale = np.asarray(scaler.scale(np.float32(factor)))
            for p, g in zip(scaled.param_groups[0]["params"], grads, strict=True):
                p.grad = np.asarray(g * scale)
            scaler.step(scaled)
            scaler.update()
    assert_same_runs(scaled, plain)


@pytest.mark.parametrize("name", SUMMED)
def test_climbing_is_descending_of_what_is_turned(name: str) -> None:
    up, down = (make(name, [normal(i, *shape) for i, shape in enumerate(SHAPES)], maximize=x) for x in (True, False))
    for k in range(3):
        grads = [normal(100 * k + i, *shape) for i, shape in enumerate(SHAPES)]
        up.step(grads=grads)
        down.step(grads=[np.asarray(-g) for g in grads])
    assert_same_runs(up, down)


@pytest.mark.parametrize("name", SUMMED)
def test_parameters_have_no_part_in_the_steps_of_others(name: str) -> None:
    apart: dict[str, Any] = {"max_grad_norm": None} if name == "LAMB" else {}
    together = make(name, [normal(i, *shape) for i, shape in enumerate(SHAPES)], **apart)
    alone = [make(name, [normal(i, *shape)], **apart) for i, shape in enumerate(SHAPES)]
    for k in range(2):
        grads = [normal(100 * k + i, *shape) for i, shape in enumerate(SHAPES)]
        together.step(grads=grads)
        for one, g in zip(alone, grads, strict=True):
            one.step(grads=[g])
    for p, one in zip(together.param_groups[0]["params"], alone, strict=True):
        assert_same_bits(p.data, one.param_groups[0]["params"][0].data)


@pytest.mark.parametrize("name", SUMMED)
def test_complex_parameters_are_refused(name: str) -> None:
    with pytest.raises(RuntimeError, match=f"{name} does not support complex parameters"):
        make(name, [np.ones(3, np.complex64)])


def test_totals_are_the_sums_of_the_tree_and_correct() -> None:
    for shape in [*SHAPES, (3, 40_000)]:
        x, y = normal(1, *shape), normal(2, *shape)
        found = tree.totals(lambda x, y: (x * y, x + y), *map(np.atleast_1d, (x, y)))
        expected = [tree.total(lambda x, y: x * y, x, y), tree.total(lambda x, y: x + y, x, y)]
        assert [float(z).hex() for z in found] == [float(z).hex() for z in expected], shape
        exact = math.fsum((x.astype(np.float64) * y).ravel())
        assert float(found[0]) == pytest.approx(exact, abs=1e-4 * (1 + math.sqrt(x.size)))


class Counting(refoptim.LARS):
    """A rule that overrides what sums say, in a module of its user."""

    @classmethod
    def measured(cls, s: Any, shape: tuple[int, ...], *totals: float) -> dict[str, Any]:
        return {"ratio": 0.0}


def test_kernels_do_not_run_for_a_rule_that_measures_otherwise() -> None:
    assert issubclass(Counting, Rule)
    with pytest.raises(RuntimeError, match="Counting has none"):
        Counting([np.ones(3)], lr=0.1, fused=True).step(grads=[np.ones(3)])
    p = np.ones(3)
    Counting([p], lr=0.1, weight_decay=0.1).step(grads=[np.ones(3)])
    assert p.tolist() == [1, 1, 1]


def test_numbers_that_are_too_large_are_refused_where_they_are_used() -> None:
    for name, what in (("LARS", "weight_decay"), ("LAMB", "weight_decay"), ("NovoGrad", "weight_decay")):
        p = np.ones(3, np.float32)
        optimizer = make(name, [p], **{what: 1e60})
        with pytest.raises(RuntimeError, match="cannot be converted to type float32 without overflow"):
            optimizer.step(grads=[np.ones(3, np.float32)])
        assert p.tolist() == [1, 1, 1]
        assert not optimizer.state


def test_settings_of_every_rule_are_known() -> None:
    assert {"LAMB", "LARS", "MARS", "NovoGrad", "StableAdamW"} <= {*SUMMED} <= SETTINGS.keys()
