"""The three verdicts: the same bits, the same rule, another rule."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from refoptim.conformance import cases, run, verdicts
from refoptim.conformance.reference import Reference
from refoptim.conformance.run import Result

from refoptim import dialects


def judged(optimizer: str, *flags: str, dtypes: tuple[str, ...] = ("float32", "float64")) -> verdicts.Verdict:
    """Return the verdict on refoptim with some mistakes."""
    made = dialects.dialect(optimizer, *flags)

    class Mistaken(Reference):
        def make(self, optimizer: str, hyper: Any, parameters: Any) -> None:
            self._arrays = [np.array(p) for p in parameters]
            self._build = partial(made, self._arrays, **hyper)
            self._optimizer = self._build()

    jobs = [job._replace(implementation="x:y", make=Mistaken) for job in run.jobs("numpy", optimizer, dtypes)]
    (found,) = verdicts.verdicts(result for job in jobs for result in run.perform(job))
    return found


def test_the_reference_has_the_same_bits() -> None:
    found = judged("Adam")
    assert (found.verdict, found.line, found.step, found.distance) == ("same bits", "same bits", None, 0.0)
    assert found.ran == sum(dtype in case.dtypes for case in cases.load("adam") for dtype in ("float32", "float64"))


@pytest.mark.parametrize("dtypes", [("float32",), ("float64",), ("float32", "float64")])
@pytest.mark.parametrize(("optimizer", "flag"), [("Adam", "FusedMultiplyAdd"), ("SGD", "FusedMultiplyAdd")])
def test_other_roundings_are_the_same_rule(optimizer: str, flag: str, dtypes: tuple[str, ...]) -> None:
    found = judged(optimizer, flag, dtypes=dtypes)
    assert found.verdict == "same rule" and found.dtype == dtypes[-1]
    assert 0 < found.distance < 100 * np.finfo(dtypes[-1]).eps and found.step is not None


@pytest.mark.parametrize("dtypes", [("float32",), ("float64",)])
@pytest.mark.parametrize(
    ("optimizer", "flag"),
    [("Adam", "EpsUnscaled"), ("Adam", "DecoupledDecay"), ("SGD", "FirstStepDampened"), ("RMSprop", "EpsInsideRoot")],
)
def test_mistakes_are_another_rule(optimizer: str, flag: str, dtypes: tuple[str, ...]) -> None:
    found = judged(optimizer, flag, dtypes=dtypes)
    assert found.verdict == "another rule" and found.step is not None and found.case


def test_moments_in_float32_are_the_same_rule_as_if_in_float32() -> None:
    found = judged("Adam", "MomentsInFloat32", dtypes=("float64",))
    assert (found.verdict, found.reason) == ("same rule", "as if in float32")
    assert 1e-10 < found.distance < verdicts.AS_FLOAT32


def test_the_edges_of_the_range_are_told_apart() -> None:
    found = (
        judged("SGD", "SubnormalsFlushed")
        if ("SGD", "SubnormalsFlushed") in dialects.AXES
        else judged("SGD", "SignOfZeroLost")
    )
    assert found.verdict == "same rule" and found.edges.startswith("at the edges of the range")


BLANK = Result("x:y", "Adam", "adam-default", "float64", "reference", run.MEASURED, steps=(1,), ulps=(1,))


def verdict_of(*results: Result) -> str:
    return verdicts.verdicts(results)[0].verdict


def test_the_bounds() -> None:
    """By hand: below 1e-10, between, and above 1e-5; in float32 below 1e-4, between, and above 2e-3."""
    for dtype, sizes in (("float64", (1e-11, 1e-5 * 0.9, 2e-5)), ("float32", (9e-5, 1e-3, 3e-3))):
        found = [verdict_of(replace(BLANK, dtype=dtype, drift=(size,))) for size in sizes]
        assert found == ["same rule", "unknown", "another rule"], dtype


def test_what_drifts_as_in_float32_needs_a_case_that_tells() -> None:
    plain, telling = (replace(BLANK, case=case, drift=(1e-7,)) for case in ("adam-default", "adam-no-decay"))
    assert verdict_of(plain) == "unknown"
    assert verdict_of(plain, telling) == "same rule"


def test_the_widest_storage_decides() -> None:
    wide, narrow = replace(BLANK, drift=(1e-15,)), replace(BLANK, dtype="float32", drift=(1e-3,))
    assert verdict_of(narrow) == "unknown"
    assert verdict_of(narrow, wide) == "same rule"
    assert verdict_of(replace(narrow, drift=(0.1,)), wide) == "another rule"


def test_what_raised_or_was_not_run_is_counted() -> None:
    raised, absent = replace(BLANK, outcome=run.ERROR, steps=(), ulps=()), replace(BLANK, outcome=run.NOT_RUN, steps=())
    (found,) = verdicts.verdicts([raised, absent, replace(BLANK, exact=True)])
    assert (found.verdict, found.ran, found.raised, found.not_run) == ("same bits", 1, 1, 1)
    assert found.line == "same bits; 1 of 2 raised"
    assert verdict_of(raised) == "unknown"


def test_what_cannot_be_compared_has_not_raised() -> None:
    short = replace(BLANK, outcome=run.FAILS, steps=(), ulps=(), reason="has no param.1")
    (found,) = verdicts.verdicts([short, replace(BLANK, exact=True)])
    assert (found.raised, found.unlike) == (0, 1)
    assert found.line == "same bits; 1 of 2 have arrays of another shape or type"


def test_a_number_where_all_are_zero_is_told_in_words() -> None:
    found = verdicts.Verdict("x:y", "SGD", verdicts.ANOTHER_RULE, float("inf"), "float64", "sgd-x", 1)
    assert found.line == (
        "another rule: more than can be measured, beside zeros, infinities or NaN (float64), from step 1 of sgd-x on"
    )
