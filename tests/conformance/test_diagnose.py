"""Mistakes planted in black boxes are named; what is none of the known ones is not."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from refoptim.conformance import cases, export, formats, generate, plugin, report, run, tasks
from refoptim.conformance.adapters import Adapter
from refoptim.conformance.diagnose import bits, settings, trial
from refoptim.conformance.diagnose.answer import Diagnosis
from refoptim.conformance.diagnose.evidence import Evidence, collect, of_file
from refoptim.conformance.diagnose.optimizers import diagnose, diagnose_jobs, named
from refoptim.conformance.diagnose.search import OF_ROUNDING, decisive
from refoptim.conformance.reference import Reference

import refoptim
from helpers import ROOT, plants
from refoptim import dialects
from refoptim.commands.main import main
from refoptim.dialects import preset as preset_of

OPTIMIZERS = sorted({optimizer for optimizer, _ in dialects.AXES})
SOURCE = ROOT / "tests" / "helpers" / "suite_program.c"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


class PlainAdam(Adapter):
    """Adam and AdamW written down as people do, with one of eight mistakes."""

    mistake = ""

    def why_not(self, case: cases.Case, dtype: str) -> str | None:
        if case.optimizer not in ("Adam", "AdamW") or dtype not in ("float32", "float64"):
            return "Adam alone, on real numbers"
        return "does not save" if case.resume else None

    def make(self, optimizer: str, hyper: Mapping[str, Any], parameters: Sequence[Any]) -> None:
        usual = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": {"Adam": 0.0}.get(optimizer, 0.01)}
        self.h = {**usual, "amsgrad": False, "maximize": False, **hyper}
        self.decoupled = (optimizer == "AdamW") != (self.mistake in ("decoupled in Adam", "coupled in AdamW"))
        self.p = [p.copy() for p in parameters]
        self.kept = [[np.zeros_like(p), np.zeros_like(p), np.zeros_like(p), 0] for p in parameters]

    def set(self, hyper: Mapping[str, Any]) -> None:
        self.h.update(hyper)

    def parameters(self) -> list[Any]:
        return self.p

    def step(self, grads: Sequence[Any]) -> None:
        for i, g in enumerate(grads):
            if g is not None:
                with np.errstate(all="ignore"):
                    self.p[i], self.kept[i] = self.updated(self.p[i], g, *self.kept[i])
            elif self.mistake == "decay without gradient":
                self.p[i] = self.p[i] * self.p[i].dtype.type(1 - self.h["lr"] * self.h["weight_decay"])

    def updated(self, p: Any, g: Any, m: Any, v: Any, largest: Any, k: int) -> tuple[Any, list[Any]]:
        h, number = self.h, p.dtype.type
        lr, decay, eps = h["lr"], h["weight_decay"], number(h["eps"])
        beta1, beta2 = h["betas"]
        k = 1 if self.mistake == "count stops" else k + 1
        g = -g if h["maximize"] else g
        late = self.mistake == "decay after update"
        if not self.decoupled:
            g = g + number(decay) * p
        elif not late:
            p = p * number(1 - lr * decay)
        m = number(beta1) * m + number(1 - beta1) * g
        v = number(beta2) * v + number(1 - beta2) * (g * g)
        largest = np.maximum(largest, v)
        square = largest if h["amsgrad"] else v
        root = number(1 if self.mistake == "no correction" else (1 - beta2**k) ** 0.5)
        size = number(lr if self.mistake == "no correction" else lr / (1 - beta1**k))
        if self.mistake == "eps in root":
            p = p - size * m / (np.sqrt(square + eps) / root)
        elif self.mistake == "eps unscaled":
            p = p - size * root * m / (np.sqrt(square) + eps)
        else:
            p = p - size * m / (np.sqrt(square) / root + eps)
        if self.decoupled and late:
            p = p * number(1 - lr * decay)
        return p, [m, v, largest, k]


class AveragingSgd(Adapter):
    """SGD whose momentum is an average of gradients that begins with zeros, as of Adam; dampening does nothing."""

    def why_not(self, case: cases.Case, dtype: str) -> str | None:
        return None if dtype == "float64" else "float64 alone"

    def make(self, optimizer: str, hyper: Mapping[str, Any], parameters: Sequence[Any]) -> None:
        self.h, self.p = dict(hyper), [p.copy() for p in parameters]
        self.m = [np.zeros_like(p) for p in parameters]

    def set(self, hyper: Mapping[str, Any]) -> None:
        self.h = dict(hyper)

    def parameters(self) -> list[Any]:
        return self.p

    def step(self, grads: Sequence[Any]) -> None:
        for i, g in enumerate(grads):
            if g is None:
                continue
            d = (-g if self.h["maximize"] else g) + self.h["weight_decay"] * self.p[i]
            if momentum := self.h["momentum"]:
                self.m[i] = momentum * self.m[i] + (1 - momentum) * d
                d = d + momentum * self.m[i] if self.h["nesterov"] else self.m[i]
            self.p[i] = self.p[i] - self.h["lr"] * d


def test_a_momentum_that_averages_from_zeros_on_is_named() -> None:
    found = diagnose("SGD", plants.evidence("SGD", AveragingSgd))
    assert (found.verdict, found.names, found.tied) == ("another rule", ("MomentumAveraged",), ())
    assert found.agree == found.cases >= 15


def adam_with(mistake: str) -> type[Adapter]:
    return type("Mine", (PlainAdam,), {"mistake": mistake})


@pytest.mark.diagnose
@pytest.mark.parametrize(
    ("optimizer", "mistake", "name"),
    [
        ("Adam", "decoupled in Adam", "DecoupledDecay"),
        ("AdamW", "coupled in AdamW", "CoupledDecay"),
        ("Adam", "eps in root", "EpsInsideRoot"),
        ("Adam", "eps unscaled", "EpsUnscaled"),
        ("Adam", "no correction", "NoBiasCorrection"),
        ("Adam", "count stops", "StepStuck"),
        ("AdamW", "decay without gradient", "DecayWithoutGradient"),
        ("AdamW", "decay after update", "DecayAfterUpdate"),
    ],
)
def test_eight_wrong_adams_are_each_named(optimizer: str, mistake: str, name: str) -> None:
    found = diagnose(optimizer, plants.evidence(optimizer, adam_with(mistake), ("float32", "float64")))
    assert (found.verdict, found.names, found.tied) == ("another rule", (name,), ())
    assert found.agree == found.cases >= 9 and found.ulps < 1000
    assert found.distance > 1e-4 and found.first is not None
    assert dialects.FLAGS[name].line in str(found).replace("\n    ", " ")


def test_a_right_adam_that_rounds_otherwise_is_the_same_rule() -> None:
    found = diagnose("Adam", plants.evidence("Adam", adam_with(""), ("float32", "float64")))
    assert (found.verdict, found.names, found.exact) == ("same rule", (), False)
    assert found.ok and 0 < found.ulps < 1000


@pytest.mark.diagnose
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_refoptim_has_the_same_bits(optimizer: str) -> None:
    found = diagnose(optimizer, plants.evidence(optimizer, Reference))
    assert (found.verdict, found.names, found.exact) == ("same bits", (), True)


def sample(optimizer: str, count: int) -> list[dialects.Axis]:
    axes = [axis for axis in dialects.axes_of(optimizer) if not axis.needs and axis.flag not in OF_ROUNDING]
    return Random(optimizer).sample(axes, min(count, len(axes)))


def says(found: Diagnosis, *flags: str) -> bool:
    """Tell whether a diagnosis holds some flags, alone or beside at most one that is as good."""
    answers = [{*found.names}, *map(set, found.tied)]
    return set(flags) in answers and len(answers) <= 2


@pytest.mark.diagnose
@pytest.mark.parametrize("axis", [axis for optimizer in OPTIMIZERS for axis in sample(optimizer, 1)], ids=str)
def test_a_planted_axis_is_named(axis: dialects.Axis) -> None:
    found = diagnose(axis.optimizer, plants.evidence(axis.optimizer, plants.planted(axis.optimizer, axis)))
    assert found.verdict == "another rule" and says(found, axis.flag), found


@pytest.mark.diagnose
@pytest.mark.slow
@pytest.mark.parametrize("axis", [axis for optimizer in OPTIMIZERS for axis in sample(optimizer, 99)], ids=str)
def test_every_planted_axis_is_named(axis: dialects.Axis) -> None:
    test_a_planted_axis_is_named(axis)


@pytest.mark.diagnose
@pytest.mark.parametrize(
    ("optimizer", "flags"),
    [
        ("Adam", ("EpsUnscaled", "DecoupledDecay")),
        ("AdamW", ("NoBiasCorrection", "DecayWithoutLr")),
        ("SGD", ("FirstStepDampened", "LrInsideMomentum")),
        ("RMSprop", ("EpsInsideRoot", "InitialSquaresOne")),
    ],
)
def test_planted_pairs_are_named(optimizer: str, flags: tuple[str, ...]) -> None:
    axes = [dialects.AXES[optimizer, flag][0] for flag in flags]
    found = diagnose(optimizer, plants.evidence(optimizer, plants.planted(optimizer, *axes)))
    assert found.verdict == "another rule" and says(found, *flags), found


@pytest.mark.diagnose
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_drawn_pairs_are_named_or_a_smaller_set_that_does_the_same(seed: int) -> None:
    random = Random(seed)
    optimizer = random.choice(OPTIMIZERS)
    pair = plants.drawn_pair(optimizer, random, OF_ROUNDING)
    found = diagnose(optimizer, plants.evidence(optimizer, plants.planted(optimizer, *pair)))
    assert found.verdict == "another rule", found
    assert says(found, *(axis.flag for axis in pair)) or len(found.names) <= 2, found


OF_BITS = [
    ("Adam", "FusedMultiplyAdd"),
    ("RMSprop", "LrAfterDivision"),
    ("ASGD", "EtaInDouble"),
    ("SGD", "SubnormalsFlushed"),
    ("AdamW", "NanDropped"),
]


@pytest.mark.diagnose
@pytest.mark.parametrize(("optimizer", "flag"), OF_BITS)
def test_ways_of_rounding_are_named_by_their_bits(optimizer: str, flag: str) -> None:
    box = plants.planted(optimizer, dialects.AXES[optimizer, flag][0])
    found = diagnose(optimizer, plants.evidence(optimizer, box, ("float32", "float64")))
    assert (found.verdict, found.names, found.exact) == ("same rule", (flag,), True)


def read_eps(hyper: dict[str, Any]) -> dict[str, Any]:
    return {**hyper, "eps": 1e-7}


def read_decay(hyper: dict[str, Any]) -> dict[str, Any]:
    return {name: 2 * x if name == "weight_decay" else x for name, x in hyper.items()}


def read_lr(hyper: dict[str, Any]) -> dict[str, Any]:
    return {**hyper, "lr": 0.37 * hyper.get("lr", 1e-3)}


def read_betas(hyper: dict[str, Any]) -> dict[str, Any]:
    return {**hyper, "betas": hyper.get("betas", (0.9, 0.999))[::-1]}


def read_beta1(hyper: dict[str, Any]) -> dict[str, Any]:
    return {**hyper, "betas": (0.95, hyper.get("betas", (0.9, 0.999))[1])}


def read_beta2(hyper: dict[str, Any]) -> dict[str, Any]:
    return {**hyper, "betas": (hyper.get("betas", (0.9,))[0], 0.973)}


@pytest.mark.diagnose
@pytest.mark.parametrize(
    ("read", "name", "values"),
    [
        (read_eps, "SettingIgnored", {"eps": 1e-7}),
        (read_decay, "SettingScaled", {"weight_decay": 2.0}),
        (read_lr, "LrScaled", {"lr": 0.37}),
        (read_betas, "BetasSwapped", {"betas": None}),
        (read_beta2, "SettingDiffers", {"betas[1]": 0.973}),
        (read_beta1, "SettingDiffers", {"betas[0]": 0.95}),
    ],
)
def test_wrong_settings_are_named_with_their_values(read: Any, name: str, values: Mapping[str, Any]) -> None:
    class Box(Reference):
        def make(self, optimizer: str, hyper: Mapping[str, Any], parameters: Sequence[Any]) -> None:
            super().make(optimizer, read(dict(hyper)), parameters)

        def set(self, hyper: Mapping[str, Any]) -> None:
            super().set({key: x for key, x in read(dict(hyper)).items() if key in hyper})

    found = diagnose("Adam", plants.evidence("Adam", Box))
    assert (found.verdict, found.names, found.tied) == ("another rule", (name,), ())
    assert found.values == {name: pytest.approx(values)}


@pytest.mark.parametrize(
    ("place", "value"),
    [(trial.Place("betas", 0), 0.95), (trial.Place("betas", 0), 0.93), (trial.Place("eps"), 1e-4)],
)
def test_a_setting_is_solved_for_on_the_grid_and_between(place: trial.Place, value: float) -> None:
    class Box(PlainAdam):
        def make(self, optimizer: str, hyper: Mapping[str, Any], parameters: Sequence[Any]) -> None:
            super().make(optimizer, place.put(dict(hyper), value), parameters)

    case = next(case for case in cases.load("adam") if case.id == "adam-no-decay")
    (e,) = collect([run.Job("mine", Box, "adam", case, "float64")]).evidence
    found = settings.solved("Adam", (), place, e, e.tight)
    assert [x.value for x in found if x.flag == "SettingDiffers"] == [pytest.approx(value)]


def test_a_wrong_setting_beside_an_axis_is_named() -> None:
    box = plants.planted("Adam", dialects.AXES["Adam", "EpsInsideRoot"][0], read=read_lr)
    plain = [e for e in plants.evidence("Adam", box) if not e.case.set]
    found = diagnose("Adam", plain)
    assert set(found.names) == {"EpsInsideRoot", "LrScaled"}, found
    assert found.values == {"LrScaled": pytest.approx({"lr": 0.37})}


@pytest.mark.diagnose
@pytest.mark.parametrize(
    ("optimizer", "flags"),
    [("Adagrad", ()), ("Adam", ("EpsUnscaled",)), ("RMSprop", ("EpsInsideRoot", "LrInsideMomentum"))],
)
def test_settings_in_float32_hide_no_axis_of_a_float64_run(optimizer: str, flags: tuple[str, ...]) -> None:
    axes = [dialects.AXES[optimizer, flag][0] for flag in flags]
    found = diagnose(optimizer, plants.evidence(optimizer, plants.in_single(optimizer, *axes)))
    assert (found.verdict, set(found.names)) == ("another rule" if flags else "same rule", {*flags}), found
    assert any("to single precision only" in note for note in found.notes)


def draw_outside(random: Random) -> list[Evidence]:
    """Draw a mistake outside the axes that shows, and return what it gives."""
    while True:
        optimizer = random.choice(OPTIMIZERS)
        found = plants.evidence(optimizer, plants.outside(optimizer, random))
        if plants.shows(found):
            return found


@pytest.mark.diagnose
@pytest.mark.parametrize("seed", range(3))
def test_what_is_none_of_the_axes_is_unknown(seed: int) -> None:
    evidence = draw_outside(Random(seed))
    found = diagnose(evidence[0].case.optimizer, evidence)
    assert (found.verdict, found.names) == ("unknown", ())
    assert found.first is not None and found.excluded
    assert "nothing known explains it: first parts at step" in str(found)


@pytest.mark.diagnose
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 600))
def test_nothing_outside_the_axes_gets_a_name(seed: int) -> None:
    test_what_is_none_of_the_axes_is_unknown(seed)


def invoke(*arguments: Any) -> tuple[int, str]:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    return result.exit_code, result.stdout if result.exit_code < 2 else result.stderr


@pytest.mark.diagnose
@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
@pytest.mark.parametrize(
    ("macro", "optimizer", "name"),
    [
        ("EPS_INSIDE", "Adam", "EpsInsideRoot"),
        ("STEP_AHEAD", "Adam", "StepAhead"),
        ("DAMPED_FIRST", "SGD", "FirstStepDampened"),
    ],
)
def test_the_mistake_of_a_program_in_c_is_named(tmp_path: Path, macro: str, optimizer: str, name: str) -> None:
    chosen = [each for each in export.runs(["adam-*", "sgd-*"], ["float32"]) if each.case.optimizer == optimizer]
    export.export(tmp_path, chosen)
    program = tmp_path / "program"
    options = ["-std=c99", "-O2", "-ffp-contract=off", "-DREAL=float", f"-D{macro}"]
    subprocess.run([str(COMPILER), *options, str(SOURCE), "-o", str(program), "-lm"], check=True)
    subprocess.run([str(program), *map(str, sorted(tmp_path.glob("*.float32")))], check=True)
    code, text = invoke("diagnose", tmp_path, "--json")
    (found,) = json.loads(text)["diagnoses"]
    assert (code, found["optimizer"], found["verdict"], found["names"]) == (1, optimizer, "another rule", [name])


def test_a_trajectory_file_is_diagnosed(tmp_path: Path) -> None:
    entry = tasks.task(refoptim.Adam, {"lr": 0.02, "eps": 0.01}, "float64", steps=12)
    case = tasks.check(entry)
    box = plants.planted("Adam", dialects.AXES["Adam", "EpsUnscaled"][0])()
    _, right = generate.make(entry)
    found = run.execute(box, case, "float64").tensors
    tensors = {"param.0": np.concatenate([right["param.0"][:1], found["param.0"]])}
    path = tmp_path / "mine.npz"
    formats.write(path, formats.Trajectory({"case": entry, "provenance": {}}, tensors), "npz")
    assert of_file(path).case.optimizer == "Adam"
    code, text = invoke("diagnose", path)
    assert code == 1 and text.startswith("Adam: another rule, that of ") and ": EpsUnscaled\n" in text


def test_the_command_says_what_it_finds_and_refuses_what_it_cannot_run(tmp_path: Path) -> None:
    code, text = invoke("diagnose", "--impl", "numpy", "--pattern", "sgd-plain", "--dtype", "float64", "--json")
    (found,) = json.loads(text)["diagnoses"]
    assert code == 0 and found["verdict"] == "same bits"
    assert {"optimizer", "verdict", "names", "values", "tied", "runner_up", "excluded"} <= found.keys()
    for wrong in ((), ("--impl", "numpy", tmp_path), ("--impl", "numpy", "--pattern", "nothing"), ("--impl", "none")):
        assert invoke("diagnose", *wrong)[0] == 2


@pytest.mark.diagnose
@pytest.mark.parametrize(("library", "optimizer"), [("keras", "Adam"), ("optax", "RMSprop")])
def test_the_library_that_has_a_dialect_is_said(library: str, optimizer: str) -> None:
    preset = preset_of.known()[library][optimizer]
    found = diagnose(optimizer, plants.evidence(optimizer, plants.planted(optimizer, *preset.axes)))
    assert library in found.libraries and f"that of {', '.join(found.libraries)}" in found.summary
    assert {*found.names} == {*preset.flags} - OF_ROUNDING


def test_a_library_that_differs_in_more_is_not_said() -> None:
    one = dialects.AXES["Adam", "EpsUnscaled"][0]
    known = {"same": {"Adam": (one,)}, "more": {"Adam": (one, dialects.AXES["Adam", "AmsgradIgnored"][0])}}
    found = diagnose("Adam", plants.evidence("Adam", plants.planted("Adam", one)), known=known)
    assert found.libraries == ("same",)


def test_cases_that_raise_are_said_and_decide_nothing() -> None:
    class Raising(Reference):
        def set(self, hyper: Mapping[str, Any]) -> None:
            raise ArithmeticError("not today")

    jobs = [job._replace(make=Raising) for job in run.jobs("numpy", "sgd-*", ("float64",))]
    found = collect(jobs)
    assert {name.partition(" ")[0] for name in found.raised} == {job.case.id for job in jobs if job.case.set}
    assert all("not today" in text for text in found.raised.values())
    assert len(found.evidence) + len(found.raised) == len(jobs)


class OneShort(PlainAdam):
    def parameters(self) -> list[Any]:
        return self.p[:-1]


class Flat(PlainAdam):
    def parameters(self) -> list[Any]:
        return [p.ravel() for p in self.p]


class Raising(PlainAdam):
    def step(self, grads: Sequence[Any]) -> None:
        raise ArithmeticError("not today")


@pytest.mark.parametrize(
    ("box", "said"),
    [
        (OneShort, "1 run gave arrays of another shape and decides nothing: adam-default in float64: param.2 is"),
        (Flat, r"param.1 has the shape \(12,\), expected \(3, 4\)"),
        (Raising, r"1 run raised an error and decides nothing: .*ArithmeticError: not today \(.*test_diagnose.py"),
    ],
)
def test_what_cannot_be_compared_is_said_and_gets_no_verdict_by_luck(box: type[Adapter], said: str) -> None:
    (job,) = run.jobs("numpy", "adam-default", ("float64",))
    (found,) = diagnose_jobs([job._replace(make=box)])
    assert (found.verdict, found.names, found.cases, found.ok) == ("unknown", (), 0, False)
    assert found.summary == "unknown: no case could be compared"
    assert re.search(said, " ".join(found.notes)), found.notes


def test_conformance_says_the_name_and_reports_carry_it(monkeypatch: pytest.MonkeyPatch) -> None:
    box = plants.planted("SGD", dialects.AXES["SGD", "NesterovAppliedTwice"][0])
    every = run.jobs("numpy", "SGD", ("float64",))
    monkeypatch.setattr(
        run, "jobs", lambda *arguments: [job._replace(implementation="box:Box", make=box) for job in every]
    )
    results = [result for job in run.jobs("box:Box") for result in run.perform(job)]
    assert not all(r.ok for r in results)
    found = named(results)
    assert found["box:Box", "SGD"].flags == ("NesterovAppliedTwice",)
    assert "NesterovAppliedTwice" in report.page(results, {}, diagnoses=found)
    assert "NesterovAppliedTwice" in report.junit(results, found)


def test_the_message_of_a_failing_test_holds_the_name() -> None:
    box = plants.planted("AdamW", dialects.AXES["AdamW", "CoupledDecay"][0])
    jobs = [job._replace(implementation="coupled", make=box) for job in run.jobs("numpy", "adamw-*", ("float64",))]
    broken = next(job for job in jobs if not all(r.ok for r in run.perform(job)))
    with pytest.raises(plugin.Broken, match=r"AdamW: another rule: CoupledDecay"):
        plugin.check(broken)


def test_the_light_engine_of_trials_gives_the_bits_of_the_optimizer() -> None:
    """What trials leave out of an optimizer, its checks and plans, changes no number."""
    for optimizer in ("SGD", "Rprop", "Adagrad", "NAdam", "ASGD", "Adafactor", "SparseAdam"):
        for e in plants.evidence(optimizer, Reference, ("float16", "float32", "complex64")):
            assert bits.agrees(optimizer, (), e, bits.same_bits), e.name


def test_wrong_settings_touch_what_they_say() -> None:
    found = {(s.flag, str(s.place)): s for s in settings.fixed("Adam")}
    hyper = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 0.01, "weight_decay": 0.2}
    assert found["BetasSwapped", "betas"].change(hyper)["betas"] == (0.95, 0.8)
    assert found["BetaComplemented", "betas[0]"].change(hyper)["betas"] == (1 - 0.8, 0.95)
    assert settings.scaled(trial.Place("lr"), 0.5).change(hyper)["lr"] == 0.05
    assert settings.constant(trial.Place("eps"), 1e-7, trial.defaults("Adam")).change({"lr": 1.0}) == {"lr": 1.0}


def test_of_each_case_the_widest_type_decides() -> None:
    every = plants.evidence("Adam", Reference, ("float16", "float32", "float64"))
    chosen = decisive(every)
    assert {e.case.id for e in chosen} == {e.case.id for e in every if not e.is_edge}
    assert {e.dtype for e in chosen} == {"float64"}
    assert not any("edges" in e.case.id for e in chosen)
