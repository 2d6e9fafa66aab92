"""Runs of the conformance suite: what holds, what is broken, and what deviates."""

from __future__ import annotations

import struct
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refoptim.conformance import adapters, cases, promises, run
from refoptim.conformance.adapters import fused
from refoptim.conformance.known import Dialect
from refoptim.conformance.promises import CLOSE, EXACT, ULP
from refoptim.conformance.reference import Reference
from refoptim.conformance.run import Result

from helpers import ROOT
from helpers.implementations import CASES, Late, Loses, Plain, named, results
from helpers.kernels import NEEDS_KERNELS
from refoptim import dialects
from refoptim.engines import host


def goldens_of(found: list[Result]) -> dict[str, set[str]]:
    """Return by storage type the goldens that runs were compared with; all promises must hold."""
    assert [r for r in found if r.promise and r.outcome != run.HOLDS] == []
    return {dtype: {r.golden for r in found if r.dtype == dtype} for dtype in {r.dtype for r in found}}


FULL = {"torch-ieee", "torch-installed", "reference"}


@NEEDS_KERNELS
@pytest.mark.parametrize(
    "pattern", ["adam-coupled-decay", "sgd-plain", "adafactor-slow-lr", "muon-gaps-*", "sparse-adam-lr-*"]
)
def test_kernels_are_held_against_the_goldens(pattern: str) -> None:
    """In 16 bits, which kernels round once, against the reference that does so too."""
    for dtype, found in goldens_of(results("host", pattern)).items():
        assert found == ({"reference-store"} if dtype in ("float16", "bfloat16") else FULL), dtype


@NEEDS_KERNELS
def test_kernels_that_round_each_operation_break_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference in their place does so."""
    monkeypatch.setattr(fused.Host, "make", Reference.make)
    found = results("host", "adam-coupled-decay")
    broken = {r.dtype for r in found if r.outcome == run.FAILS}
    assert broken == {"float16", "bfloat16"} & {r.dtype for r in found}
    assert broken


@NEEDS_KERNELS
def test_wrong_kernels_break_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are launched, and do nothing."""
    monkeypatch.setattr(host.Host, "launching", lambda self, *x, **more: partial(int))
    found = results("host", "adam-coupled-decay", ("float32",))
    assert {r.outcome for r in found if r.promise} == {run.FAILS}


@NEEDS_KERNELS
@pytest.mark.parametrize("pattern", ["adam-coupled-decay", "adagrad-rows", "asgd-*"])
@pytest.mark.usefixtures("gpu")
def test_arrays_go_to_the_gpu_and_back(pattern: str) -> None:
    """The stand-in for CuPy runs the kernels of this computer."""
    found = [r for r in results("cuda", pattern) if r.ran]
    assert set(goldens_of(found)) >= {"float32", "float64"}
    assert all(r.exact for r in found if r.promise)
    assert run.versions("cuda")["GPU"]


def test_an_implementation_written_by_hand_is_exact() -> None:
    found = [r for r in results(named(Plain), "sgd") if r.ran]
    assert [(r.case, r.dtype, r.outcome, r.exact, r.promise) for r in found] == [
        ("sgd-plain", "float64", run.HOLDS, True, "EXACT")
    ]


def test_a_wrong_implementation_is_located() -> None:
    (r,) = [r for r in results(named(Late), "sgd-plain") if r.ran]
    assert (r.outcome, r.ok, r.max_ulp) == (run.FAILS, False, 1)
    assert r.first is not None
    assert (r.first.step, r.first.tensor, r.first.element, r.first.ulp) == (7, "param.1", [2, 3], 1)
    expected, found = (struct.unpack(">d", bytes.fromhex(x))[0] for x in (r.first.expected_bits, r.first.found_bits))
    assert found == np.nextafter(expected, np.inf)
    assert r.absolute >= found - expected
    assert r.ulps[:6] == (0,) * 6
    assert r.ulps[6] == 1


@pytest.mark.parametrize(
    ("promise", "outcome"),
    [(EXACT, run.FAILS), (ULP(1), run.HOLDS), (CLOSE(1e-15, 1e-15), run.HOLDS), (None, run.MEASURED)],
)
def test_promises_decide(promise: Any, outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Late, "promise", promise)
    assert [r.outcome for r in results(named(Late), "sgd-plain") if r.ran] == [outcome]


def test_missing_state_is_noticed() -> None:
    (r, *_) = results(named(Loses), "adam-coupled-decay", ("float32",))
    assert r.outcome == run.FAILS
    assert "has no state." in r.reason
    assert "exp_avg_sq" in r.reason


def test_where_refoptim_is_not_the_golden_recorded_steps_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["sgd-plain"]
    monkeypatch.setattr(run, "_reference", lambda *key: run.Run("", [], {}))
    golden = run.expected("torch-ieee", "sgd", case, "float64")
    assert golden.steps == case.record
    blank = Result("x", "SGD", case.id, "float64", "torch-ieee", run.NOT_RUN)
    good, late = (run.execute(cls(), case, "float64") for cls in (Plain, Late))
    assert run.compare(blank, good, golden, EXACT, True).exact
    found = run.compare(blank, late, golden, EXACT, True)
    assert found.outcome == run.FAILS
    assert found.first is not None
    assert found.first.step == min(step for step in case.record if step >= 7)


def test_what_parts_between_recorded_steps_is_not_exact() -> None:
    case = CASES["sgd-plain"]
    late = run.execute(Late(), case, "float64")
    golden = run.Run("", [1, 2], {key: x[:2] for key, x in run.execute(Plain(), case, "float64").tensors.items()})
    blank = Result("x", "SGD", case.id, "float64", "torch-ieee", run.NOT_RUN)
    found = run.compare(blank, late, golden, EXACT, False)
    assert (found.outcome, found.exact, found.reason) == (run.FAILS, False, "parts between the recorded steps")


def test_an_error_is_a_result() -> None:
    class Broken(Plain):
        def step(self, grads: Any) -> None:
            raise ArithmeticError("no such thing")

    job = run.jobs(named(Plain), "sgd-plain", ("float64",))[0]._replace(make=Broken)
    (r,) = run.perform(job)
    line = Broken.step.__code__.co_firstlineno + 1
    where = f"tests/conformance/test_run.py:{line} in step"
    assert (r.outcome, r.ok, r.reason) == (run.ERROR, False, f"ArithmeticError: no such thing ({where})")
    assert r.traceback.startswith("Traceback") and r.traceback.endswith("ArithmeticError: no such thing")


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("parameters", None, "parameters() must return a list, one entry for each parameter, got NoneType"),
        ("state", [3], "state() must return a dict for each parameter, got int"),
    ],
)
def test_what_a_method_must_return_is_said(method: str, given: Any, message: str) -> None:
    box = type("Box", (Plain,), {method: lambda self: given})
    (r,) = run.perform(run.jobs(named(Plain), "sgd-plain", ("float64",))[0]._replace(make=box))
    assert r.outcome == run.ERROR and r.reason.startswith(f"TypeError: {message}")


@pytest.mark.parametrize(("raised", "expected"), [(SystemExit(0), run.ERROR), (KeyboardInterrupt(), None)])
def test_an_implementation_cannot_end_the_run(raised: BaseException, expected: str | None) -> None:
    class Leaves(Plain):
        def step(self, grads: Any) -> None:
            raise raised

    job = run.jobs(named(Plain), "sgd-plain", ("float64",))[0]._replace(make=Leaves)
    if expected is None:
        with pytest.raises(KeyboardInterrupt):
            run.perform(job)
    else:
        (r,) = run.perform(job)
        assert (r.outcome, r.ok) == (expected, False) and r.reason.startswith("SystemExit: 0 (")


KNOWN = promises.Deviation("sgd-*", "*", ("DecoupledDecay",), "because")
RAISES = promises._deviation("sgd-* * raises because", "x.txt")


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (run.FAILS, run.DEVIATES),
        (run.HOLDS, run.PASSES),
        (run.MEASURED, run.DEVIATES),
        (run.NOT_RUN, run.NOT_RUN),
    ],
)
def test_listed_deviations_excuse_and_their_absence_is_told(outcome: str, expected: str) -> None:
    r = Result("x", "SGD", "sgd-plain", "float32", "reference", outcome, steps=(1,), ulps=(3,))
    assert run.excused(r, KNOWN).outcome == expected
    assert run.excused(r, None) is r


def with_dialect(monkeypatch: pytest.MonkeyPatch, *, known: str, computed: str) -> run.Result:
    """Run Adam's case of all options on a library that is known for one difference and computes another."""
    axes = tuple(dialects.AXES["Adam", known])
    monkeypatch.setattr(run, "axes_of", lambda library, optimizer: axes)
    theirs = tuple(dialects.AXES["Adam", computed]) if computed else ()
    (job,) = run.jobs("numpy", "adam-coupled-decay", ("float32",))
    made = partial(Dialect, theirs)
    (found,) = run.perform(job._replace(implementation="optax", make=made))
    return found


@pytest.mark.parametrize(
    ("computed", "outcome", "said"),
    [
        ("EpsUnscaled", run.DEVIATES, "Bias correction multiplies lr and eps is added to the uncorrected root"),
        ("EpsInsideRoot", run.FAILS, "is neither the rule nor optax's dialect of it (EpsUnscaled)"),
        ("", run.PASSES, "Bias correction multiplies lr"),
    ],
)
def test_a_library_is_held_to_its_dialect(
    monkeypatch: pytest.MonkeyPatch, computed: str, outcome: str, said: str
) -> None:
    found = with_dialect(monkeypatch, known="EpsUnscaled", computed=computed)
    assert (found.outcome, found.ok) == (outcome, outcome != run.FAILS)
    assert found.reason.startswith(said)
    assert found.flags == (() if outcome == run.FAILS else ("EpsUnscaled",))


def test_where_nothing_is_promised_nothing_is_excused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "promise_of", lambda *arguments: None)
    found = with_dialect(monkeypatch, known="EpsUnscaled", computed="EpsInsideRoot")
    assert (found.outcome, found.flags) == (run.MEASURED, ())


def test_a_dialect_that_does_not_show_excuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_dialect(monkeypatch, known="AmsgradAfterCorrection", computed="EpsUnscaled")
    assert (found.outcome, found.reason) == (run.FAILS, "")


@pytest.mark.parametrize("outcome", [run.FAILS, run.ERROR])
def test_an_error_is_excused_only_where_one_is_listed(outcome: str) -> None:
    r = Result("x", "SGD", "sgd-plain", "float32", "reference", outcome, reason="TypeError: what was raised")
    assert run.excused(r, KNOWN) is r
    found = run.excused(r, RAISES)
    assert (found.outcome, found.flags, found.reason) == (run.DEVIATES, (), "because: TypeError: what was raised")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "conformance" / "deviations").glob("*.txt")), ids=lambda path: path.stem
)
def test_deviations_are_of_cases_that_exist(path: Path) -> None:
    known = promises.deviations(path.stem)
    assert known
    assert path.stem in adapters.BUILT_IN
    runs = [(case, dtype) for case in CASES.values() for dtype in case.dtypes]
    used = {next((x for x in known if x.covers(*run)), None) for run in runs}
    assert not set(known) - used, "lines that fit nothing"


@pytest.mark.parametrize("line", ["adam-* float32 EpsInsideRoot", "adam-* * NoSuchFlag because"])
def test_wrong_deviations_are_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"a line needs|do not exist"):
        promises._deviation(line, "x.txt")


def test_the_table_of_promises() -> None:
    for engine in adapters.ENGINES:
        for dtype in ("float16", "bfloat16", "float32", "float64", "complex64"):
            assert promises.promised(engine, "torch-ieee", "Adam", dtype) == EXACT
            assert promises.promised(engine, "reference", "Adafactor", dtype) == EXACT
            assert promises.promised(engine, promises.STORED, "Muon", dtype) == EXACT
            assert promises.promised(engine, "torch-installed", "Adam", dtype) is None
        assert promises.promised(engine, "torch-ieee", "Adafactor", "float32") != EXACT
    assert promises.promised("torch-fused-cuda", "reference", "Adam", "float32") is not None
    assert promises.promised("optax", "reference", "Adam", "float16") is None
    assert [str(x) for x in (EXACT, ULP(3), CLOSE(0.5, 0.25))] == ["EXACT", "within 3 ULP", "within 0.25 + 0.5 * |x|"]


def test_products_of_a_library_are_close() -> None:
    """Muon's cases with NumPy's matmul; there is nothing else to run."""
    library, found = adapters.find("numpy-library"), []
    for name, case in CASES.items():
        reason = adapters.why_not(library(), case, "float32")
        assert (reason is None) == (case.optimizer == "Muon")
        if reason is None:
            one, other = (run.execute(make(), case, "float32").tensors for make in (library, adapters.find("numpy")))
            assert all(np.allclose(one[key], x, 1e-2, 1e-3, equal_nan=True) for key, x in other.items())
            found.append(name)
    assert len(found) >= 5
    assert promises.promised("numpy-library", "reference", "Muon", "float64") == CLOSE(1e-2, 1e-3)
    assert promises.promised("numpy-library", "reference", "Adam", "float64") is None


def test_distances_are_those_counted_by_hand() -> None:
    """-0 and +0 are neighbours, one subnormal further is the next; a NaN is as far as can be."""
    case = CASES["sgd-plain"]
    blank = Result("x", "SGD", case.id, "float32", "reference", run.NOT_RUN)
    tiny = np.float32(1e-45)
    golden = run.Run("a", [1, 2], {"param.0": np.array([[0.0, 1.0], [tiny, 2.0]], np.float32)})
    theirs = run.Run("b", [1, 2], {"param.0": np.array([[-0.0, 1.0], [-tiny, 2.0]], np.float32)})
    found = run.compare(blank, theirs, golden, None, True)
    assert found.ulps == (1, 3)
    assert found.first is not None
    assert (found.first.step, found.first.element, found.max_ulp) == (1, [0], 3)
    nan = run.Run("b", [1, 2], {"param.0": np.array([[0.0, np.nan], [tiny, 2.0]], np.float32)})
    assert run.compare(blank, nan, golden, CLOSE(1, 1), True).distance == "NaN"
    assert run.compare(blank, nan, golden, CLOSE(1, 1), True).outcome == run.FAILS


def test_flushed_subnormals_are_not_close() -> None:
    blank = Result("x", "SGD", "sgd-plain", "float32", "reference", run.NOT_RUN)
    golden = run.Run("a", [1], {"param.0": np.array([[1e-40, 1.0, 2e-38]], np.float32)})
    for x, outcome in ((0.0, run.FAILS), (1.5e-40, run.HOLDS), (2e-38, run.HOLDS)):
        theirs = run.Run("b", [1], {"param.0": np.array([[x, 1.0, 2e-38]], np.float32)})
        assert run.compare(blank, theirs, golden, CLOSE(1e-6, 1e-6), True).outcome == outcome


def test_without_ml_dtypes_bfloat16_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    (r,) = results("numpy", "sgd-plain", ("bfloat16",))
    assert (r.outcome, r.reason) == (run.NOT_RUN, "bfloat16 needs ml_dtypes")


class Records(Plain):
    """Plain descent that remembers what it is given."""

    def why_not(self, case: Any, dtype: str) -> str | None:
        self.asked = case.hyper
        return None

    def make(self, optimizer: str, hyper: Any, parameters: Any) -> None:
        super().make(optimizer, hyper, parameters)
        self.given = [hyper]

    def set(self, hyper: Any) -> None:
        self.given.append(hyper)


def test_an_adapter_is_given_every_hyperparameter() -> None:
    keys = {"lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize"}
    made = Records()
    (job,) = run.jobs("numpy", "sgd-only-lr-changes", ("float64",))
    run.perform(job._replace(implementation="x:y", make=lambda: made))
    assert [set(hyper) for hyper in (made.asked, *made.given)] == [keys] * 4
    assert [hyper["lr"] for hyper in made.given] == [0.1, 0.05, 0.15]
    assert made.given[0]["weight_decay"] == 0 and made.given[0]["nesterov"] is False


@pytest.mark.parametrize(
    ("case", "reason"),
    [("sgd-only-lr-changes", "set() is not written"), ("sgd-only-resume", "resume() is not written")],
)
def test_what_is_not_written_is_not_run(case: str, reason: str) -> None:
    class Bare(Plain):
        def why_not(self, case: Any, dtype: str) -> str | None:
            return None

    (job,) = run.jobs("numpy", case, ("float64",))
    (r,) = run.perform(job._replace(implementation="x:y", make=Bare))
    assert (r.outcome, r.ok) == (run.NOT_RUN, True) and r.reason.startswith(reason)


def test_a_promise_may_stand_by_storage_type() -> None:
    made: Any = Late()
    job = run.jobs(named(Late), "sgd-plain", ("float64",))[0]
    for promise, expected in [
        ({"float64": ULP(2)}, ULP(2)),
        ({"float32": ULP(2)}, EXACT),
        ({"float32": ULP(2), "*": ULP(3)}, ULP(3)),
        ({"float64": None}, None),
    ]:
        made.promise = promise
        assert run.promise_of(job, "reference", made) == expected
    assert run.promise_of(job._replace(tolerance=ULP(7)), "reference", made) == ULP(7)
    assert (adapters.CLOSE, adapters.ULP, adapters.EXACT) == (CLOSE, ULP, EXACT)


def test_the_difference_shown_is_the_first_outside_and_the_largest_beside_it() -> None:
    """By hand: 1e-9 off in step 1, which is allowed; twice and ten times what is allowed in steps 2 and 3."""
    golden = run.Run("a", [1, 2, 3], {"param.0": np.array([[1.0, 2.0]] * 3)})
    theirs = run.Run("b", [1, 2, 3], {"param.0": np.array([[1 + 1e-9, 2.0], [1.0, 2 + 2e-6], [1 - 1e-5, 2.0]])})
    blank = Result("x", "SGD", "sgd-plain", "float64", "reference", run.NOT_RUN)
    found = run.compare(blank, theirs, golden, CLOSE(0, 1e-6), True)
    assert found.first and found.outside and found.largest and found.shown is found.outside
    assert [(x.step, x.element) for x in (found.first, found.outside, found.largest)] == [(1, [0]), (2, [1]), (3, [0])]
    inside = run.compare(blank, theirs, golden, CLOSE(0, 1e-4), True)
    assert inside.outcome == run.HOLDS and inside.outside is None and inside.shown is inside.first
    assert np.allclose(found.drift, [5e-10, 1e-6, 5e-6])


@pytest.mark.parametrize(
    ("patterns", "taken", "left"),
    [
        ("adam-*", ["adam-default", "adam-amsgrad"], ["nadam-edges", "adamw-decay", "adamax-decay"]),
        ("Adam", ["adam-default"], ["adamw-decay", "nadam-edges"]),
        ("sparse-adam", ["sparse-adam-rows"], ["adam-default"]),
        ("ADAM-AMSGRAD", ["adam-amsgrad"], ["adamw-amsgrad", "adam-only-amsgrad"]),
        ("adam-coupled", [], ["adam-coupled-decay"]),
        (["*-edges", "SGD"], ["adam-edges", "sgd-plain"], ["adam-default"]),
        ("", ["adam-default", "sgd-plain"], []),
    ],
)
def test_patterns_are_globs(patterns: Any, taken: list[str], left: list[str]) -> None:
    found = {name: cases.matches(patterns, name, CASES[name].optimizer) for name in (*taken, *left)}
    assert found == {**dict.fromkeys(taken, True), **dict.fromkeys(left, False)}
