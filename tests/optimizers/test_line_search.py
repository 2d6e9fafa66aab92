"""The line search: its conditions, its cubics, and the lengths that torch visits."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helpers.lbfgs import Run, start
from helpers.pictures import same
from refoptim.optimizers.line_search import Point, cubic, strong_wolfe

coefficients = st.floats(-3, 3)


@settings(deadline=None, max_examples=60)
@given(coefficients, coefficients, st.floats(0.05, 3), st.floats(0.01, 30), st.floats(1e-4, 0.2), st.floats(0.3, 0.9))
def test_search_meets_both_conditions(a: float, b: float, k: float, t: float, c1: float, c2: float) -> None:
    def f(t: float) -> float:
        return k * (t - a) ** 4 + (t - b) ** 2 + t

    def slope(t: float) -> float:
        return 4 * k * (t - a) ** 3 + 2 * (t - b) + 1

    assume(slope(0) < -1e-3)
    d = np.array([1.0])
    origin = Point(0, f(0), np.array([slope(0)]), np.float64(slope(0)))
    end = strong_wolfe(lambda t: (f(t), np.array([slope(t)])), d, origin, np.float64(t), c1=c1, c2=c2, max_evals=99)
    assert end.f == f(end.t)
    assert end.slope == slope(end.t)
    assert end.f <= f(0) + c1 * end.t * slope(0)
    assert abs(end.slope) <= c2 * abs(slope(0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(4))
def test_search_visits_the_steps_of_torch(seed: int, dtype: str, summing_torch: Any) -> None:
    """Losses and slopes are drawn as the search goes, with many ties, and depend on the step only by its number."""
    search = import_module("torch.optim.lbfgs")._strong_wolfe
    rng = np.random.default_rng(seed)
    compared = 0
    for _ in range(60):
        losses = np.round(rng.normal(-0.5, 1, 40) * rng.choice([2, 9])) / 8
        slopes = (np.round(rng.normal(-0.4, 1, 40) * 8) / 8).astype(dtype)
        c1, c2 = float(rng.choice([1e-4, 0.3])), float(rng.choice([0.01, 0.4]))
        max_evals = int(rng.integers(0, 14))
        f, slope, t = 0.25, np.array([-1.375], dtype), np.array(rng.choice([0.4, 3.0]), dtype)
        steps: dict[str, list[Any]] = {"ours": [], "theirs": []}

        def along(who: str, t: Any, steps: Any = steps, losses: Any = losses, slopes: Any = slopes) -> Any:
            steps[who].append(np.asarray(t, dtype))
            return float(losses[len(steps[who])]), slopes[len(steps[who])][None]

        d = np.ones(1, dtype)
        with np.errstate(all="ignore"):
            end = strong_wolfe(
                lambda t: along("ours", t), d, Point(0, f, slope, slope[0]), t[()], c1=c1, c2=c2, max_evals=max_evals
            )

        def torch_along(x: Any, t: Any, d: Any) -> Any:
            f, g = along("theirs", t)
            return f, summing_torch.from_numpy(g.copy())

        tensors = [summing_torch.from_numpy(x) for x in (t, d, slope)]
        loss, gradient, length, evals = search(
            torch_along, None, tensors[0], tensors[1], f, tensors[2], tensors[2][0], c1=c1, c2=c2, max_ls=max_evals
        )
        assert np.isfinite(steps["ours"]).all()
        sound = int(np.isfinite(steps["theirs"]).sum())
        assert same(steps["ours"][:sound], steps["theirs"][:sound])
        if sound == evals:
            compared += 1
            assert len(steps["ours"]) == evals
            assert (end.f, end.g.tolist()) == (loss, gradient.tolist())
            assert same(np.asarray(end.t, dtype), np.asarray(length, dtype))
    assert compared > 50, "in torch a cubic without a minimum is seldom 0 / 0"


@pytest.mark.parametrize("max_evals", [0, 1, 2, 5])
def test_search_stops_after_its_evaluations(max_evals: int) -> None:
    probes: list[float] = []

    def along(t: float) -> tuple[float, Any]:
        probes.append(t)
        return -t, np.array([-1.0])

    origin = Point(0, 0.0, np.array([-1.0]), np.float64(-1))
    with np.errstate(all="ignore"):
        end = strong_wolfe(along, np.array([1.0]), origin, 0.3, max_evals=max_evals)
    assert len(probes) == max_evals + 1
    assert end.t == probes[-1], "the loss goes down all the way"


@settings(deadline=None, max_examples=60)
@given(st.integers(-8, 8), st.integers(1, 6), st.integers(1, 5), st.integers(1, 5))
def test_cubic_through_two_points_of_a_cubic_finds_its_minimum(at: int, gap: int, before: int, after: int) -> None:
    """With f' = (t - at)(t - at + 2 gap), f has its minimum at ``at`` and its maximum 2 gap before."""

    def point(t: float) -> Point:
        u = t - at
        return Point(np.float64(t), u**3 / 3 + gap * u**2, np.zeros(1), np.float64(u * (u + 2 * gap)))

    near, far = point(at - 0.1 * before), point(at + 0.3 * after)
    for a, b in ((near, far), (far, near)):
        assert abs(cubic(a, b) - at) < 1e-7
        assert cubic(a, b, (at + 0.5, at + 2.0)) == at + 0.5
        assert cubic(a, b, (at - 2.0, at - 0.5)) == at - 0.5


@pytest.mark.parametrize(
    ("f", "slope"), [(5.0, 2.0), (math.inf, 1.0), (math.inf, math.nan)], ids=["no minimum", "infinite", "no number"]
)
def test_cubic_without_a_minimum_gives_the_middle(f: float, slope: float) -> None:
    """The first: slopes 1 and 2 at 0 and 4 and a mean slope of 3/4 leave d1 = 3/4, and 9/16 < 1 * 2."""
    a, b = Point(0, 2.0, np.zeros(1), np.float64(1)), Point(np.float64(4), f, np.zeros(1), np.float64(slope))
    with np.errstate(all="ignore"):
        assert cubic(a, b) == cubic(b, a) == 2.0
        assert cubic(a, b, (4.0, 10.0)) == 7.0


@pytest.mark.parametrize("fn", [None, "strong_wolfe"])
def test_a_learning_rate_of_zero_moves_nothing(fn: str | None) -> None:
    run = Run([start(3)], lr=0, line_search_fn=fn, max_iter=4)
    for _ in range(3):
        run.step()
    assert same(run.flat(), start(3))
