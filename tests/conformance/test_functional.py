"""refoptim.functional on arrays of torch and JAX has the bits that it has on NumPy's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from refoptim.conformance import adapters, cases, run
from refoptim.conformance.cases import Case
from refoptim.conformance.reference import Reference
from refoptim.conformance.trajectory import all_hyper

import refoptim
from refoptim.step.rule import needs_whole

CASES = {case.id: case for stem in cases.stems() for case in cases.load(stem)}
MEASURED = {name for name in {case.optimizer for case in CASES.values()} if needs_whole(getattr(refoptim, name))}
MEASURED |= {"SparseAdam"}
"""Optimizers that other libraries' arrays are not given to."""


def is_left_out(case: cases.Case) -> bool:
    """Tell whether a case is not one of elementwise rules with dense gradients, counts elements, or is of powers."""
    return (
        case.optimizer in MEASURED
        or case.is_cautious
        or "nnz" in case.gradient
        or bool(getattr(refoptim, case.optimizer).without_kernels(all_hyper(case.optimizer, case.hyper)))
    )


def results(name: str, dtypes: tuple[str, ...] = ()) -> list[run.Result]:
    pytest.importorskip(adapters.NEEDS[name], reason=f"{adapters.NEEDS[name]} is not installed")
    return [result for job in run.jobs(name, dtypes=dtypes) for result in run.perform(job)]


@pytest.mark.parametrize("dtypes", [("float32",), pytest.param((), marks=pytest.mark.slow)], ids=["float32", "all"])
def test_torch_is_exact(dtypes: tuple[str, ...]) -> None:
    """In every case and every storage type but for sparse gradients and rules that sum."""
    found = results("torch-functional", dtypes)
    assert not [(r.case, r.dtype, r.outcome, r.reason) for r in found if (r.ran and not r.exact) or not r.ok]
    assert {r.optimizer for r in found if r.ran} == {case.optimizer for case in CASES.values()} - MEASURED
    assert {r.case for r in found if not r.ran} == {
        case.id for case in CASES.values() if is_left_out(case) and {*(dtypes or case.dtypes)} & {*case.dtypes}
    }


def test_jax_is_exact_but_for_subnormal_numbers() -> None:
    found = results("jax-functional", ("float32",))
    assert not [(r.case, r.dtype, r.outcome, r.reason) for r in found if not r.ok or r.outcome == run.PASSES]
    assert {r.case for r in found if r.outcome == run.DEVIATES} == {
        case.id for case in CASES.values() if case.id.endswith("-edges") and case.optimizer not in MEASURED
    }
    assert sum(r.exact for r in found) > 40


EDGES = [case for case in CASES.values() if case.id.endswith("-edges") and case.optimizer not in MEASURED]


@pytest.mark.parametrize("case", EDGES, ids=lambda case: case.id)
def test_subnormal_numbers_are_the_cause(case: Case) -> None:
    """With ordinary, infinite and missing numbers in their place these cases are exact too."""
    pytest.importorskip("jax", reason="JAX is not installed")
    gradient = {**case.gradient, "kinds": ["normal", "special", "zeros"], "start": "normal"}
    made: Any = adapters.find("jax-functional")()
    ours, theirs = (
        run.execute(each, replace(case, gradient=gradient), "float32").tensors for each in (Reference(), made)
    )
    for key, x in ours.items():
        np.testing.assert_array_equal(theirs[key], x, err_msg=key)
