"""What is said of other libraries is true: they agree where nothing is listed, and each listed flag is the cause.

A flag is shown to be a cause by taking its occasion away: without decay it does not matter where the decay is added,
and with a vanishing eps not where eps is. Without the occasions of all flags a library must agree with refoptim; with
that of any one of them left it must not. Where a case has a single flag, refoptim with that mistake must agree too.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from refoptim.conformance import adapters, cases, promises, run
from refoptim.conformance.cases import Case
from refoptim.conformance.gradients import make_source
from refoptim.conformance.reference import Reference

import refoptim
from refoptim import dialects

os.environ.setdefault("KERAS_BACKEND", "jax")

PEERS = ("optax", "keras", "onnx")
CASES = {case.id: case for stem in cases.stems() for case in cases.load(stem)}


def use(name: str) -> adapters.Make:
    """Find an adapter, or skip the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(name.partition("-")[0], reason=f"{name} is not installed")
        return adapters.find(name)


def hyper(**changes: Any) -> Callable[[Case], Case]:
    return lambda case: replace(case, hyper={**case.hyper, **changes})


def momentum_decay(peer: str) -> Callable[[Case], Case]:
    """Keras' schedule is that of momentum_decay = 1; optax has none, as if it decayed at once."""
    return hyper(momentum_decay=1.0 if peer == "keras" else 1e9)


def without(peer: str, flag: str) -> Callable[[Case], Case]:
    """Return what takes the occasion of a mistake out of a case."""
    changes = {
        "DecoupledDecay": hyper(weight_decay=0.0),
        "AmsgradAfterCorrection": hyper(amsgrad=False),
        "LrInsideMomentum": lambda case: replace(case, set={}),
        "StepShared": lambda case: replace(case, skip=[]),
        "MomentumDecayIgnored": momentum_decay(peer),
    }
    return hyper(eps=1e-30) if flag.startswith("Eps") else changes[flag]


LISTED = [
    (peer, case, known.flags)
    for peer in PEERS
    for case in CASES.values()
    for known in [promises.deviation(promises.deviations(peer), case, "float64")]
    if known is not None and known.flags and "float64" in case.dtypes
]
"""At the defaults of a plain case mistakes are smaller than what is told apart here."""

CHECKED = [
    pytest.param(*entry, id=f"{entry[0]}-{entry[1].id}")
    for entry in LISTED
    if not (entry[1].id.endswith("-edges") or entry[1].plain) and not {"StepFromZero", "StepLags"} & set(entry[2])
]


def agree(ours: Any, theirs: Any, case: Case) -> bool:
    """Tell whether the parameters of two implementations stay close."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x, y = (run.execute(made, case, "float64").tensors for made in (ours, theirs))
    keys = [f"param.{i}" for i in range(len(case.shapes))]
    return all(np.allclose(x[key], y[key], rtol=1e-4, atol=1e-6, equal_nan=True) for key in keys)


@pytest.mark.parametrize(("peer", "case", "flags"), CHECKED)
def test_flags_are_the_causes(peer: str, case: Case, flags: tuple[str, ...]) -> None:
    make = use(peer)
    assert not adapters.why_not(make(), case, "float64") or pytest.skip("the library has no such case")
    for left in (None, *flags):
        changed = case
        for flag in flags:
            changed = changed if flag == left else without(peer, flag)(changed)
        assert agree(Reference(), make(), changed) == (left is None), left or "without all"


class Mutated(Reference):
    """refoptim with one mistake."""

    def __init__(self, axis: dialects.Axis) -> None:
        self._dialect = dialects.made_of(getattr(refoptim, axis.optimizer), axis)

    def make(self, optimizer: str, hyper: Any, parameters: Any) -> None:
        self._arrays = [np.array(p) for p in parameters]
        self._build = partial(self._dialect, self._arrays, **hyper)
        self._optimizer = self._build()


OTHER_FORMS = {("optax", "NAdam"), ("optax", "Rprop")}
"""Mutants of these make the same mistake in another form: Keras' schedule, and a step size that lags alone."""

SINGLE = [
    pytest.param(peer, case, flags[0], id=f"{peer}-{case.id}")
    for peer, case, flags in LISTED
    if len(flags) == 1
    and (peer, case.optimizer) not in OTHER_FORMS
    and (case.optimizer, flags[0]) in dialects.AXES
    and flags[0] in case.flags
]


@pytest.mark.parametrize(("peer", "case", "flag"), SINGLE)
def test_the_mistake_makes_the_library(peer: str, case: Case, flag: str) -> None:
    make = use(peer)
    assert not adapters.why_not(make(), case, "float64") or pytest.skip("the library has no such case")
    if case.id.endswith("-edges"):
        pytest.skip("at the edges of the range other roundings show too")
    mutants = [Mutated(axis) for axis in dialects.AXES[case.optimizer, flag]]
    assert any(agree(mutant, make(), case) for mutant in mutants)


def test_onnx_counts_from_zero_and_adds_eps_to_the_uncorrected_root() -> None:
    make: Any = use("onnx")

    class FromOne(make):
        def make(self, *arguments: Any) -> None:
            super().make(*arguments)
            self._counts = [1] * len(self._counts)

    case = CASES["adam-coupled-decay"]
    tiny = hyper(eps=1e-30)(case)
    assert agree(Reference(), FromOne(), tiny)
    assert not agree(Reference(), make(), tiny)
    assert not agree(Reference(), FromOne(), case)


def test_optax_rprop_lags() -> None:
    """The first step moves nothing, the second by what the first should have been."""
    make = use("optax")
    case = replace(CASES["rprop-signs"], steps=2, record=[2])
    theirs, ours = (run.execute(made, case, "float64").tensors["param.0"] for made in (make(), Reference()))
    start = make_source(case.gradient, case.shapes, "float64").parameters()[0]
    assert np.array_equal(theirs[0], start)
    moved = theirs[1] != start
    assert moved.any()
    assert np.allclose(theirs[1][moved], ours[0][moved], rtol=1e-12)


@pytest.mark.parametrize("peer", PEERS)
def test_peers_agree_or_deviate_as_listed(peer: str) -> None:
    use(peer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = [result for job in run.jobs(peer, dtypes=("float32",)) for result in run.perform(job)]
    assert not [(r.case, r.outcome, r.reason) for r in results if r.outcome in (run.FAILS, run.ERROR, run.PASSES)]
    assert sum(r.ran for r in results) > 10


@pytest.mark.parametrize("name", adapters.LOOPS)
def test_torch_agrees_or_deviates_as_listed(name: str) -> None:
    use(name)
    results = [result for job in run.jobs(name, dtypes=("float32",)) for result in run.perform(job)]
    assert not [(r.case, r.outcome, r.reason, r.first) for r in results if not r.ok]
    assert {r.optimizer for r in results if r.ran} >= {"SGD", "Adam", "AdamW", "Adagrad"}


def test_torch_in_one_of_its_loops_is_the_recorded_torch() -> None:
    """In a process of the oracle only roots are not IEEE: SGD has none."""
    use("torch-for-loop")
    jobs = run.jobs("torch-for-loop", "sgd-*")
    results = [result for job in jobs if run.perform(job)[0].ran for result in run.perform(job)]
    assert results
    assert all(r.exact for r in results)


def test_jax_flushes_subnormal_numbers() -> None:
    make = use("optax")
    import jax.numpy as jnp

    assert float(jnp.asarray(np.float32(1e-40)) * 1) == 0
    job = run.jobs("optax", "adadelta-edges", ("float32",))[0]
    (r,) = run.perform(job._replace(make=make))
    assert (r.outcome, "SubnormalsFlushed" in r.flags) == (run.DEVIATES, True)


def test_optax_rmsprop_agrees_with_eps_outside_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    make: Any = use("optax")
    import optax
    from refoptim.conformance.adapters import optax as adapter

    def rule(h: Any) -> Any:
        rms = optax.rmsprop(h["lr"], h["alpha"], h["eps"], eps_in_sqrt=False)
        return optax.chain(optax.add_decayed_weights(h["weight_decay"]), rms)

    assert not agree(Reference(), make(), CASES["rmsprop-plain"])
    monkeypatch.setitem(adapter.RULES, "RMSprop", rule)
    assert agree(Reference(), make(), CASES["rmsprop-plain"])
