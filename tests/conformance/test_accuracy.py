"""The exact run of a rule is its textbook formula in 50 digits, and errors are measured against it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from refoptim.conformance import accuracy, cases, trajectory
from refoptim.conformance.accuracy import Job, Missing, Row, Way
from refoptim.conformance.exact import Exact, exact, real_arithmetic, replacements
from refoptim.conformance.gradients import make_source
from refoptim.conformance.reference import Reference

import refoptim
from refoptim import SparseGrad
from refoptim.numerics import power, tree
from refoptim.optimizers import adafactor, adam, nadam, sparse_adam
from refoptim.step import rule as rules

mpmath = pytest.importorskip("mpmath", reason="exact arithmetic needs mpmath")

DIGITS = 45
STEPS = 12
CASES = {case.id: case for stem in cases.stems() for case in cases.load(stem)}

mp = mpmath.MPContext()
mp.dps = 60

Gradients = Sequence[Any]


def sgd_momentum(h: dict[str, Any], p: Any, gradients: Gradients) -> Iterator[Any]:
    velocity = None
    for gradient in gradients:
        g = gradient + mp.mpf(h["weight_decay"]) * p
        velocity = g if velocity is None else h["momentum"] * velocity + (1 - mp.mpf(h["dampening"])) * g
        p = p - h["lr"] * velocity
        yield p


def adam_l2(h: dict[str, Any], p: Any, gradients: Gradients) -> Iterator[Any]:
    b1, b2 = (mp.mpf(x) for x in h["betas"])
    m = v = mp.mpf(0)
    for t, gradient in enumerate(gradients, 1):
        g = gradient + mp.mpf(h["weight_decay"]) * p
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        p = p - h["lr"] * (m / (1 - b1**t)) / (mp.sqrt(v / (1 - b2**t)) + h["eps"])
        yield p


def rmsprop_centered(h: dict[str, Any], p: Any, gradients: Gradients) -> Iterator[Any]:
    a = mp.mpf(h["alpha"])
    v = mean = moved = mp.mpf(0)
    for gradient in gradients:
        g = -gradient + mp.mpf(h["weight_decay"]) * p
        v, mean = a * v + (1 - a) * g**2, a * mean + (1 - a) * g
        moved = h["momentum"] * moved + g / (mp.sqrt(v - mean**2) + h["eps"])
        p = p - h["lr"] * moved
        yield p


def adagrad_l2(h: dict[str, Any], p: Any, gradients: Gradients) -> Iterator[Any]:
    total = mp.mpf(h["initial_accumulator_value"])
    for t, gradient in enumerate(gradients, 1):
        g = gradient + mp.mpf(h["weight_decay"]) * p
        total += g**2
        p = p - h["lr"] / (1 + (t - 1) * mp.mpf(h["lr_decay"])) * g / (mp.sqrt(total) + h["eps"])
        yield p


def nadam_l2(h: dict[str, Any], p: Any, gradients: Gradients) -> Iterator[Any]:
    b1, b2 = (mp.mpf(x) for x in h["betas"])
    mu = [b1 * (1 - mp.mpf(0.96) ** (t * mp.mpf(h["momentum_decay"])) / 2) for t in range(len(gradients) + 2)]
    m = v = mp.mpf(0)
    product = mp.mpf(1)
    for t, gradient in enumerate(gradients, 1):
        g = gradient + mp.mpf(h["weight_decay"]) * p
        product *= mu[t]
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        ahead = mu[t + 1] * m / (1 - product * mu[t + 1]) + (1 - mu[t]) * g / (1 - product)
        p = p - h["lr"] * ahead / (mp.sqrt(v / (1 - b2**t)) + h["eps"])
        yield p


def asgd_l2(h: dict[str, Any], p: Any, gradients: Gradients) -> Iterator[Any]:
    eta = mp.mpf(h["lr"])
    for t, gradient in enumerate(gradients, 1):
        g = gradient + mp.mpf(h["weight_decay"]) * p
        p = p - eta * (mp.mpf(h["lambd"]) * p + g)
        eta = h["lr"] / (1 + mp.mpf(h["lambd"]) * h["lr"] * t) ** mp.mpf(h["alpha"])
        yield p


def sparse_adam_uphill(h: dict[str, Any], p: Any, gradients: Gradients) -> Iterator[Any]:
    b1, b2 = (mp.mpf(x) for x in h["betas"])
    m = v = mp.mpf(0)
    for t, gradient in enumerate(gradients, 1):
        m, v = b1 * m - (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
        p = p - h["lr"] * mp.sqrt(1 - b2**t) / (1 - b1**t) * m / (mp.sqrt(v) + h["eps"])
        yield p


TEXTBOOK: dict[str, Callable[[dict[str, Any], Any, Gradients], Iterator[Any]]] = {
    "sgd-momentum": sgd_momentum,
    "adam-coupled-decay": adam_l2,
    "rmsprop-centered": rmsprop_centered,
    "adagrad-decay": adagrad_l2,
    "nadam-coupled-decay": nadam_l2,
    "asgd-average": asgd_l2,
    "sparse-adam-maximize": sparse_adam_uphill,
}


def given(case: cases.Case, dtype: str) -> tuple[Any, list[Any]]:
    """Return the elements of the parameters and of the gradients of each step."""
    source = make_source(case.gradient, case.shapes, dtype)
    steps = [[dense(g) for g in source.gradients(t, [])] for t in range(1, STEPS + 1)]
    return accuracy.flat(source.parameters(), float), [accuracy.flat(grads, float) for grads in steps]


def dense(g: Any) -> Any:
    return g.to_dense() if isinstance(g, SparseGrad) else g


def distance(name: str, dtype: str = "float32") -> Any:
    """Return how far the exact run of a case is from the textbook at most, relative to the largest number."""
    case = replace(CASES[name], steps=STEPS)
    if name.startswith("sparse"):
        case = replace(case, shapes=case.shapes[:1])  # each of its rows is touched once in each step
    start, steps = given(case, dtype)
    frames = [accuracy.flat(frame.parameters, object) for frame in trajectory.run(Exact(), case, dtype)]
    apart = []
    for i, p in enumerate(start):
        gradients = [mp.mpf(float(g[i])) for g in steps]
        path = TEXTBOOK[name](case.hyper, mp.mpf(float(p)), gradients)
        apart += [abs(frame[i] - x) / max(1, abs(x)) for frame, x in zip(frames, path, strict=True)]
    assert len(apart) == STEPS * len(start)
    return max(apart)


@pytest.mark.parametrize("name", TEXTBOOK)
def test_the_exact_run_is_the_textbook(name: str) -> None:
    assert distance(name) < mp.mpf(10) ** -DIGITS


def rms(x: Any) -> Any:
    return mp.sqrt(mp.fsum(y**2 for y in x) / len(x))


def test_the_exact_run_of_adafactor_is_that_of_its_paper() -> None:
    """A vector: its elements share the sizes of the parameter and of the update."""
    case = replace(CASES["adafactor-clipped"], shapes=[(6,)], steps=STEPS)
    h = case.hyper
    start, steps = given(case, "float32")
    p, v = [mp.mpf(x) for x in start], [mp.mpf(0)] * 6
    frames = trajectory.run(Exact(), case, "float32")
    for k, (frame, gradients) in enumerate(zip(frames, steps, strict=True), 1):
        g = [-mp.mpf(x) for x in gradients]
        rest = mp.mpf(k) ** mp.mpf(h["beta2_decay"])
        v = [(1 - rest) * a + rest * b**2 for a, b in zip(v, g, strict=True)]
        u = [b / mp.sqrt(max(a, mp.mpf(h["eps"][0]) ** 2)) for a, b in zip(v, g, strict=True)]
        size = max(mp.mpf(h["eps"][1]), rms(p)) * min(mp.mpf(h["lr"]), 1 / mp.sqrt(k))
        size /= max(mp.mpf(1), rms(u) / mp.mpf(h["d"]))
        p = [x * (1 - mp.mpf(h["lr"]) * h["weight_decay"]) - size * y for x, y in zip(p, u, strict=True)]
        assert max(abs(a - b) for a, b in zip(frame.parameters[0], p, strict=True)) < mp.mpf(10) ** -DIGITS


def test_a_change_in_a_rule_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part in 10**30 of a word, which no double shows."""

    def planted(x: Any, y: Any, c: Any) -> Any:
        return x + c * (y - x) * (1 + mp.mpf(10) ** -30)

    monkeypatch.setattr(adam, "lerp", planted)
    assert mp.mpf(10) ** -33 < distance("adam-coupled-decay") < mp.mpf(10) ** -28


def test_a_double_on_the_way_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the room rounded its registers, 17 digits would be left."""
    monkeypatch.setattr("refoptim.conformance.exact.replacements", without("float"))
    assert distance("nadam-coupled-decay") > mp.mpf(10) ** -20


def without(name: str) -> Callable[..., dict[str, Any]]:
    return lambda storage: {key: x for key, x in replacements(storage).items() if key != name}


def test_rules_compute_with_doubles_again() -> None:
    before = [dict(vars(module)) for module in (nadam, sparse_adam, adafactor, tree, rules)]
    with pytest.raises(ZeroDivisionError), real_arithmetic(adafactor.Adafactor, np.dtype("float32")):
        assert adafactor.power is not power.power
        assert adafactor.power(exact([2.0])[0], 0.5) ** 2 != 2.0000000000000004
        raise ZeroDivisionError
    assert [dict(vars(module)) for module in (nadam, sparse_adam, adafactor, tree, rules)] == before
    assert adafactor.power is power.power
    assert not hasattr(nadam, "float")


SUITABLE = [
    (case, dtype)
    for case in CASES.values()
    for dtype in ("float32", "float64")
    if accuracy.is_suitable(case) and dtype in case.dtypes
    if dtype == "float64" or case.optimizer not in ("Adafactor", "Muon")  # these are slow
]


RESTS = {
    "adabelief-coupled": 5,
    **{case.id: 5 for case in CASES.values() if case.optimizer == "ScheduleFreeRAdam"},
}
"""Steps for which a case rests: AdaBelief waits until n >= 5, which betas[1] = 0.9 reaches in step 6, and so does the
schedule-free RAdam until rho > 4."""


@pytest.mark.parametrize(("case", "dtype"), SUITABLE, ids=lambda x: getattr(x, "id", x))
def test_refoptim_is_near_every_exact_run(case: cases.Case, dtype: str) -> None:
    """A few units of the parameters' size; registers in float32 and products in bfloat16 are known to do worse."""
    steps = RESTS.get(case.id, 0) + 3
    job = Job(replace(case, steps=steps, record=[steps]), dtype)
    way = accuracy.exact_way(job)
    error = way.errors(accuracy.way("numpy", job, way.high[0])).max()
    bound = {"Muon": 2e-2, "NAdam": 1e-7, "ASGD": 1e-7}.get(case.optimizer, 0)
    assert error <= max(bound, 40 * {"float32": 2.0**-24, "float64": 2.0**-53}[dtype])
    assert way.length.max() > 1e-5


def test_a_unit_in_the_last_place_is_that_of_the_exact_number() -> None:
    high = np.array([1.0, 1.0, -1.0, -1.0, 1.5, 2.0**-140, 0.0])
    low = np.array([0.0, -1e-20, 1e-20, -1e-20, 0.0, 0.0, 0.0])
    exponents = [-23, -24, -24, -23, -23, -149, -149]
    assert Way(high, low, "float32").ulp.tolist() == [2.0**e for e in exponents]
    assert Way(high[:5], low[:5], "float16").ulp.tolist() == [2.0 ** (e + 13) for e in exponents[:5]]
    assert Way(high[:5], low[:5], "bfloat16").ulp.tolist() == [2.0 ** (e + 16) for e in exponents[:5]]


def test_errors_have_digits_of_their_own() -> None:
    """An exact number between two doubles is told from both."""
    third = Fraction(1, 3)
    high = float(third)
    way = Way(np.array([[high], [high]]), np.array([[0.0], [float(third - Fraction(high))]]), "float64")
    assert way.errors(np.array([[high], [high]]))[1, 0] == pytest.approx(
        float(third - Fraction(high)), rel=1e-12, abs=0
    )
    assert way.errors(np.array([[high], [math.nan]]))[1, 0] == math.inf
    assert way.length[0] == float(third - Fraction(high))


def row(name: str, mean: float, largest: float = 9.0, count: int = 2, case: str = "a") -> Row:
    return Row("Adam", "float32", name, largest, mean, 0.5, count, (case,))


def test_cases_are_put_together() -> None:
    (both,) = accuracy.summary([row("numpy", 1.0), row("numpy", 4.0, 11.0, 4, "b")])
    assert (both.mean_ulp, both.largest_ulp, both.count, both.cases) == (3.0, 11.0, 6, ("a", "b"))


def test_refoptim_is_compared_with_torch_in_the_same_cases() -> None:
    rows = [row("numpy", 3.0), row("torch-for-loop", 1.0), row("optax", 9.0), row("host", 1.0)]
    assert [(x.implementation, y.implementation) for x, y in accuracy.above(rows)] == [("numpy", "torch-for-loop")]
    assert not accuracy.above(rows, 3.0)
    assert not accuracy.above([row("numpy", 3.0), row("torch-for-loop", 1.0, case="b")])
    assert accuracy.above([row("numpy", math.inf), row("torch-for-loop", 1.0)], 1e9)


class Other(Reference):
    """Stands for a library whose dialect is known: optax."""


def test_another_rule_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy.adapters, "find", lambda name: Other)
    (lags,), (same,) = (accuracy.jobs(name, ["float64"], 2) for name in ("rprop-signs", "adamw-decay"))
    (missing,) = accuracy.measure(lags, ["optax"])
    assert missing == Missing(
        "rprop-signs",
        "float64",
        "optax",
        "another rule: The step size that is used is the one of the step before (optax).",
    )
    (measured,) = accuracy.measure(same, ["optax"])
    assert isinstance(measured, Row)


class Failing(Reference):
    def step(self, grads: Any) -> None:
        raise RuntimeError("no\nstep")


class Late(Reference):
    """Off by a hundredth in the last step."""

    def parameters(self) -> Any:
        return [p + np.float64(0.01) for p in super().parameters()]


def test_errors_of_an_implementation_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = accuracy.jobs("sgd-momentum", ["float64"], 2)
    monkeypatch.setattr(accuracy.adapters, "find", lambda name: {"failing": Failing, "late": Late}[name])
    failed, late = accuracy.measure(job, ["failing", "late"])
    assert failed == Missing("sgd-momentum", "float64", "failing", "no")
    assert isinstance(late, Row)
    assert late.largest_ulp > 1e12
    assert late.relative > 0.01


def test_every_optimizer_and_storage_has_something_to_measure() -> None:
    found = {(job.case.optimizer, job.dtype) for job in accuracy.jobs("", [], 1)}
    rules = {case.optimizer: getattr(refoptim, case.optimizer) for case in CASES.values()}
    measured = [name for name, rule in rules.items() if not (rule.in_single or rule.shares_registers)]
    assert found == {(name, dtype) for name in measured for dtype in accuracy.STORAGES}
