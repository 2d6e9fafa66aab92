"""Wrong schedules are named: planted mistakes by their flags, curves without a name as unknown, never wrongly."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refoptim.conformance import lr_cases, record_lr
from refoptim.conformance.diagnose.schedule_axes import AXES, FLAGS
from refoptim.conformance.diagnose.schedule_forms import changed, filled, rates, tabulated
from refoptim.conformance.diagnose.schedules import Curve, Diagnosis, diagnose, diagnose_curve, read_curve
from refoptim.conformance.spec import parse
from refoptim.conformance.strict import GoldenError

from helpers import ROOT
from helpers.wrong_schedules import EPOCHS, Plant, outside, pairs, plants

PLANTS = [plant for seed in range(2) for plant in plants(seed)]
PAIRS = pairs(0)
OUTSIDE = outside(0)[::6]


def named(plant: Plant) -> Diagnosis:
    return diagnose_curve(plant.scheduler, plant.lr, plant.numbers(), plant.momenta(), plant.metrics)


def test_there_are_plants_of_every_axis() -> None:
    assert len(PLANTS) > 100
    assert {plant.flag for plant in PLANTS} == {axis.flag for axis in AXES}


@pytest.mark.sweep(3)
@pytest.mark.parametrize("i", range(len(PLANTS)), ids=[f"{i}-{x.flag}" for i, x in enumerate(PLANTS)])
def test_a_planted_mistake_is_named(i: int) -> None:
    plant = PLANTS[i]
    said = named(plant)
    assert said.verdict == "another rule", said.summary
    assert (plant.flag,) in (said.names, *said.tied), said.summary
    assert len(said.tied) <= 2 and plant.flag not in said.excluded
    assert said.error <= 1e-8 < said.distance


@pytest.mark.parametrize("i", range(0, len(PAIRS), 4), ids=lambda i: f"{i}-{PAIRS[i][0].flag}-{PAIRS[i][1]}")
def test_two_mistakes_at_once_are_named(i: int) -> None:
    plant, second = PAIRS[i]
    said = named(plant)
    assert {plant.flag, second} in map(set, (said.names, *said.tied)), said.summary


@pytest.mark.parametrize("plant", OUTSIDE, ids=lambda plant: plant.scheduler)
def test_what_has_no_name_is_unknown(plant: Plant) -> None:
    said = named(plant)
    assert said.verdict == "unknown" and said.names == ()
    assert set(said.excluded) == set(FLAGS) and said.first is not None


def recorded(name: str) -> tuple[Any, Any]:
    """Return the learning rates and momenta of a plain case, as they are recorded."""
    golden = record_lr.read(record_lr.folder() / f"{name.partition('-')[0]}.json")
    found = record_lr.values(next(x for x in golden["cases"] if x["case"] == name))
    return found["lr"][:, 0], found["momentum"][:, 0] if "momentum" in found else None


@pytest.mark.parametrize("name", [x for x in lr_cases.PLAIN if "Plateau" not in x])
def test_the_right_bits_and_the_right_rule_are_told_apart(name: str) -> None:
    text, (lr, momentum) = lr_cases.PLAIN[name], recorded(name)
    assert diagnose_curve(text, 0.1, lr, momentum).verdict == "same bits"
    near = diagnose_curve(text, 0.1, [x * (1 + 2**-50) for x in lr], momentum)
    assert near.verdict == "same rule" and near.first == np.flatnonzero(lr)[0] and near.distance < 1e-14
    single = diagnose_curve(text, 0.1, np.float32(lr).astype(float), momentum)
    assert single.verdict == "same rule" and single.distance < 1e-6


def test_forms_are_the_reference() -> None:
    """What is searched with gives what the reference gives, at whole epochs."""
    for text in (
        *lr_cases.PLAIN.values(),
        *(lr_cases.DRAWS[x](lr_cases.Draw(x)) for x in (*lr_cases.SIMPLE, *lr_cases.WIDER)),
    ):
        spec = filled(lr_cases.of_group(parse(text), 0))
        spec = changed(spec, metrics=[1 / (1 + e // 7) for e in range(99)]) if "Plateau" in text else spec
        expected, found = tabulated(spec, 0.1, 100), rates(spec, 0.1, np.arange(100.0))
        np.testing.assert_allclose(found.lr, expected.lr, rtol=1e-11, atol=1e-14, err_msg=text)
        if expected.momentum is not None:
            assert found.momentum is not None
            np.testing.assert_allclose(found.momentum, expected.momentum, rtol=1e-13)


def test_an_explanation_must_explain_every_curve() -> None:
    """A first curve alone would be as well one step ahead as of another factor; a second one tells them apart."""
    spec, other = parse("ExponentialLR(gamma=0.5)"), parse("ExponentialLR(gamma=0.9)")
    one = Curve(spec, 1.0, [0.5 * 0.5**e for e in range(20)])
    ahead, halved = ([c * 0.9**e for e in range(20)] for c in (0.9, 0.5))
    assert diagnose([one]).tied == (("LrScaled",),)
    assert diagnose([one, Curve(other, 1.0, ahead)]).names == ("ScheduleAhead",)
    assert diagnose([one, Curve(other, 1.0, halved)]).names == ("LrScaled",)


def test_a_diagnosis_says_it_in_a_few_lines() -> None:
    curve = [0.1 if e < 31 else 0.01 for e in range(60)]
    said = diagnose_curve("MultiStepLR(milestones=[30])", 0.1, curve)
    assert said.names == ("ScheduleBehind",) and ("MilestonesInclusive",) in said.tied
    lines = str(said).splitlines()
    assert lines[0].startswith("MultiStepLR: another rule: ScheduleBehind (1 step behind), or as well")
    assert "look at" in lines[2] and "1 of 1 curves agree" in lines[3]
    assert json.loads(json.dumps(said.as_dict()))["names"] == ["ScheduleBehind"]


def test_a_setting_is_solved_for() -> None:
    said = diagnose_curve(
        "PolynomialLR(total_iters=80, power=2.0)", 0.3, [0.3 * (1 - e / 80) ** 1.37 for e in range(80)]
    )
    assert said.names == ("OtherSetting",) and said.notes == ("power is 1.37 where 2 was given",)
    scaled = diagnose_curve("CosineAnnealingLR(T_max=50, eta_min=0.01)", 0.1, cosine(0.025, 0.01))
    assert scaled.names == ("LrScaled",) and scaled.notes == ("lr is 0.025 where 0.1 was given",)


def cosine(lr: float, low: float) -> list[float]:
    return [low + (lr - low) * (1 + math.cos(math.pi * e / 50)) / 2 for e in range(50)]


@pytest.mark.parametrize(
    ("curve", "momentum", "message"),
    [
        ([0.1], None, "at least two numbers"),
        ([[0.1, 0.2]], None, "must be a row"),
        ([0.1, math.nan], None, "must be finite, got nan at 1"),
        ([0.1, "x"], None, "must be numbers"),
        ([0.1, 0.2], [0.9], "at least two"),
        ([0.1, 0.2], [0.9, 0.9, 0.9], "as many momenta"),
    ],
)
def test_what_is_no_curve_is_refused(curve: Any, momentum: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        diagnose_curve("StepLR(step_size=3)", 0.1, curve, momentum)


def test_a_rule_with_a_part_in_float32_is_the_same() -> None:
    """Keras' cosines are such; what is off by as little everywhere is not."""
    n = np.arange(41.0)
    cosine = np.cos(np.float32(np.pi) * (n / 40).astype(np.float32))
    lr = 0.001 + (0.3 - 0.001) * 0.5 * (1.0 + cosine.astype(np.float64))
    rule = "CosineAnnealingLR(T_max=40, eta_min=0.001)"
    found = diagnose_curve(rule, 0.3, lr)
    assert (found.verdict, found.names) == ("same rule", ()) and 1e-8 < found.distance < 1e-5
    assert str(found).startswith("CosineAnnealingLR: same rule, rounded to float32 on the way: ")
    assert diagnose_curve(rule, 0.3, lr * (1 + 4e-7)).verdict != "same rule"
    assert diagnose_curve(rule, 0.3, np.where(n == 7, lr * (1 + 2e-4), lr)).verdict != "same rule"


def test_a_curve_parts_where_it_is_beyond_rounding() -> None:
    """A cosine in closed form is rounded otherwise from epoch 3 on; what is wrong in it is the number of epoch 20."""
    curve = [0.05 * (1 + math.cos(math.pi * k / 50)) for k in range(51)]
    curve[20] += 1e-4
    said = diagnose_curve("CosineAnnealingLR(T_max=50)", 0.1, curve)
    assert (said.verdict, said.first) == ("unknown", 20)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr\n", "it has no lr, or fewer than two"),
        ("epoch,lr\n0,0.1\n1\n", "its rows are not of one length"),
        ("lr\n0.1\nabc\n", "could not convert string to float: 'abc'"),
    ],
)
def test_what_is_no_curve_says_why(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.csv").write_text(text, encoding="utf-8")
    with pytest.raises(GoldenError, match=f"^x.csv holds no curve: {said}$"):
        read_curve(tmp_path / "x.csv")


def test_what_is_no_scheduler_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no scheduler"):
        diagnose_curve("NoLR()", 0.1, [0.1, 0.1])
    with pytest.raises(ValueError, match="step_size"):
        diagnose_curve("StepLR(step_size=0)", 0.1, [0.1, 0.1])


FILES = {
    "a.csv": "epoch,lr,momentum\n0,0.1,0.9\n1,0.05,0.8\n",
    "b.csv": "0,0.1\n1,0.05\n",
    "c.json": "[0.1, 0.05]",
    "d.json": '{"lr": [0.1, 0.05], "metric": [3, 2]}',
}


@pytest.mark.parametrize("name", FILES)
def test_curves_are_read_from_files(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FILES[name])
    found = read_curve(tmp_path / name)
    assert found["lr"] == [0.1, 0.05]
    assert found.get("momentum") == ([0.9, 0.8] if name == "a.csv" else None)
    assert found.get("metric") == ([3, 2] if name == "d.json" else None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", ""),
        ("a.csv", "lr\n"),
        ("a.csv", "lr,x\n1\n2,3\n"),
        ("a.json", "{"),
        ("a.json", '{"lr": 3}'),
        ("a.json", '{"x": []}'),
    ],
)
def test_bad_files_are_refused_by_name(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(GoldenError, match=r"^a\..*holds no curve"):
        read_curve(tmp_path / name)


def test_flags_have_meanings_and_stand_once() -> None:
    assert len(FLAGS) == len(AXES)
    assert all(axis.says and axis.look and axis.flag[0].isupper() for axis in AXES)
    assert len(PLANTS[0].numbers()) == EPOCHS


def test_the_page_lists_every_mistake() -> None:
    page = (ROOT / "docs" / "check" / "schedules.md").read_text(encoding="utf-8")
    rows = [f"| `{axis.flag}` | {axis.says}{f'; so in {axis.who}' if axis.who else ''} |" for axis in AXES]
    assert [line for line in page.splitlines() if line.startswith("| `") and line[3].isupper()] == rows
