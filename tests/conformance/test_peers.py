"""What is said of other libraries is true: in every case they compute the rule, or their dialect of it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from refoptim.conformance import adapters, cases, promises, run
from refoptim.conformance.cases import Case
from refoptim.conformance.gradients import make_source
from refoptim.conformance.reference import Reference

os.environ.setdefault("KERAS_BACKEND", "jax")

PEERS = promises.PEERS
CASES = {case.id: case for stem in cases.stems() for case in cases.load(stem)}


def use(name: str) -> adapters.Make:
    """Find an adapter, or skip the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(adapters.NEEDS.get(name, name.partition("-")[0]), reason=f"{name} is not installed")
        return adapters.find(name)


def hyper(**changes: Any) -> Callable[[Case], Case]:
    return lambda case: replace(case, hyper={**case.hyper, **changes})


def agree(ours: Any, theirs: Any, case: Case) -> bool:
    """Tell whether the parameters of two implementations stay close."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x, y = (run.execute(made, case, "float64").tensors for made in (ours, theirs))
    keys = [f"param.{i}" for i in range(len(case.shapes))]
    return all(np.allclose(x[key], y[key], rtol=1e-4, atol=1e-6, equal_nan=True) for key in keys)


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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("peer", PEERS)
def test_peers_compute_the_rule_or_their_dialect(peer: str, dtype: str) -> None:
    use(peer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = [result for job in run.jobs(peer, dtypes=(dtype,)) for result in run.perform(job)]
    assert not [(r.case, r.outcome, r.reason) for r in results if r.outcome in (run.FAILS, run.ERROR, run.PASSES)]
    assert sum(r.ran for r in results) >= 10


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
