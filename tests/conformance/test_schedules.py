"""Schedules of others: the adapter's method, the command, the plugin, and the file protocol."""

from __future__ import annotations

import json
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from refoptim.conformance import lr_cases, plugin, run_schedules
from refoptim.conformance.adapters import Adapter, Unsupported, by_steps

from helpers.schedule_implementations import Ahead, Functions, Late, Near, Objects, Short
from refoptim.commands.main import main


def results(cls: type, pattern: str = "") -> list[Any]:
    jobs = run_schedules.jobs_of(cls.__name__, cls, pattern)
    stems = dict.fromkeys(job.stem for job in jobs)
    return [x for stem in stems for x in run_schedules.perform([job for job in jobs if job.stem == stem])]


def by_outcome(found: list[Any]) -> dict[str, set[str]]:
    outcomes: dict[str, set[str]] = {}
    for result in found:
        outcomes.setdefault(result.outcome, set()).add(result.optimizer)
    return outcomes


def test_a_scheduler_like_torchs_is_run_and_holds() -> None:
    found = by_outcome(results(Objects))
    assert found["holds"] == {"StepLR"}
    assert found["not run"] == set(lr_cases.DRAWS) - {"StepLR"} and len(found) == 2


def test_plain_cases_come_first() -> None:
    found = [job.case.id for job in run_schedules.jobs_of("x", Objects, "*StepLR")]
    assert found[:2] == ["StepLR-plain", "StepLR-gamma"] and found[-1].startswith("MultiStepLR-")
    assert {key.partition("-")[0] for key in lr_cases.PLAIN} == set(lr_cases.DRAWS)


def test_the_closed_form_is_the_same_rule_rounded_otherwise() -> None:
    found = results(Functions, "ExponentialLR")
    assert {x.outcome for x in found} == {"FAILS"}
    assert all(x.reason.startswith("same rule, other rounding") for x in found)
    assert {x.outcome for x in results(Near, "ExponentialLR")} == {"holds"}


@pytest.mark.parametrize(
    ("cls", "stem", "flag"), [(Ahead, "ExponentialLR", "ScheduleAhead"), (Late, "PolynomialLR", "EndOneLate")]
)
def test_a_wrong_schedule_is_named(cls: type, stem: str, flag: str) -> None:
    found = [x for x in results(cls, stem) if x.optimizer == stem]
    assert {x.outcome for x in found} == {"FAILS"}
    assert all(x.reason.startswith(f"another rule: {flag}") and "look at" in x.reason for x in found)


@pytest.mark.parametrize(
    ("pattern", "outcome", "reason"),
    [
        ("StepLR-plain", "ERROR", "must return 100 numbers as lr, from epoch 0 on, got 99"),
        ("ConstantLR-plain", "ERROR", "must return learning rates, got a dict with 'rates'"),
        ("ExponentialLR-plain", "ERROR", "RuntimeError: broken"),
        ("LinearLR-plain", "FAILS", ""),
    ],
)
def test_what_is_no_schedule_is_an_error(pattern: str, outcome: str, reason: str) -> None:
    (found,) = (x for x in results(Short, pattern) if x.case == pattern)
    assert found.outcome == outcome and reason in found.reason


class Torch(Adapter):
    """torch's schedulers themselves."""

    def schedule(self, name: str, settings: Any, lr: float, epochs: int) -> Any:
        import torch

        optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr, momentum=0.9)
        scheduler, metrics = made(name, dict(settings), optimizer)
        return by_steps(scheduler, optimizer, epochs, metrics)


def made(name: str, settings: dict[str, Any], optimizer: Any) -> Any:
    import torch

    members = [made(*member, optimizer)[0] for member in settings.pop("schedulers", [])]
    metrics = settings.pop("metrics", ())
    cls = getattr(torch.optim.lr_scheduler, name, None)
    if cls is None:
        raise Unsupported(f"torch has no {name}")
    if name == "ChainedScheduler":
        return cls(members), metrics
    return cls(optimizer, *([members] if members else []), **settings), metrics


@pytest.mark.filterwarnings("ignore")
def test_torchs_schedulers_hold_but_for_the_last_bits(torch: Any) -> None:
    """Powers and cosines of the C library now and then round otherwise; nothing else parts."""
    found = [x for x in results(Torch) if x.outcome != "not run"]
    assert {x.optimizer for x in found} == set(lr_cases.TORCHS)
    assert len(found) > 90
    assert all(x.exact or x.reason.startswith("same rule") for x in found), [x for x in found if not x.exact]
    assert sum(x.exact for x in found) > 0.8 * len(found)


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def test_the_command_runs_them() -> None:
    name = "helpers.schedule_implementations:Ahead"
    found = call("conformance", "--impl", name, "--pattern", "exponentiallr-*")
    assert found.exit_code == 1
    assert "another rule: ScheduleAhead (1 step ahead)" in found.stdout
    document = json.loads(call("conformance", "--impl", name, "--pattern", "exponentiallr-plain", "--json").stdout)
    (result,) = document["results"]
    assert result["optimizer"] == "ExponentialLR" and "ScheduleAhead" in result["reason"]


def test_without_a_schedule_nothing_is_listed() -> None:
    assert run_schedules.work("numpy-library") == []
    assert not run_schedules.has_schedules(Adapter) and not run_schedules.has_schedules(object)
    assert run_schedules.has_schedules(Objects) and run_schedules.has_schedules(Objects())


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    assert (
        call("golden", "export-suite", tmp_path, "--pattern", "StepLR-*", "--pattern", "sequentiallr-plain").exit_code
        == 0
    )
    return tmp_path


def words(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "case.txt").read_text().splitlines()]


def answer(folder: Path, ahead: int = 0, form: str = "bin") -> None:
    """Be a program in another language: compute StepLR from what stands in the case."""
    found = words(folder)
    settings = {line[1]: float(line[2]) for line in found if line[0] == "setting"}
    head = {line[0]: line[1] for line in found if len(line) == 2}
    rates = [float(head["lr"])]
    for epoch in range(1, int(head["epochs"]) + 1 + ahead):
        rates.append(rates[-1] * (settings["gamma"] if epoch % settings["step_size"] == 0 else 1))
    data = struct.pack(f"<{len(rates[ahead:])}d", *rates[ahead:])
    if form == "bin":
        (folder / "result.bin").write_bytes(data)
    else:
        bits = struct.unpack(f"<{len(data) // 8}Q", data)
        (folder / "result.csv").write_text("epoch,bits\n" + "".join(f"{i},{x:016x}\n" for i, x in enumerate(bits)))


@pytest.mark.parametrize("form", ["bin", "csv"])
def test_a_program_answers_through_files(suite: Path, form: str) -> None:
    for folder in suite.glob("StepLR*"):
        answer(folder, form=form)
    found = {x["name"]: x for x in json.loads(call("golden", "verify", suite, "--json").stdout)["cases"]}
    assert found.pop("SequentialLR-plain.schedule")["problem"] == "no result"
    assert len(found) == 7 and all(x["holds"] and x["summary"] == "EXACT" for x in found.values())


def test_a_program_with_a_mistake_is_named(suite: Path) -> None:
    for folder in suite.glob("StepLR*"):
        answer(folder, ahead=1)
    found = call("golden", "verify", suite)
    assert found.exit_code == 1 and "another rule: ScheduleAhead (1 step ahead)" in found.stdout


def test_members_are_written_out(suite: Path) -> None:
    found = [" ".join(line) for line in words(suite / "SequentialLR-plain.schedule")]
    assert found[0] == "refoptim-schedule 1" and found[-1] == "end"
    assert found[5:9] == ["setting milestones 5", "member 0 LinearLR", "of 0 start_factor 0.1", "of 0 end_factor 1.0"]
    assert json.loads((suite / "SequentialLR-plain.schedule" / "case.json").read_text())["settings"]["schedulers"][
        1
    ] == [
        "ExponentialLR",
        {"gamma": 0.95},
    ]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("result.bin", b"1234", "result.bin has 4 bytes, expected 800"),
        ("result.csv", b"epoch;bits\n", "does not have the columns epoch,bits"),
        ("result.csv", b"epoch,bits\n0,12\n", "has a row that is none"),
        ("result.csv", b"epoch,bits\n0,3ff0000000000000\n", "lacks 99 numbers"),
        ("result.csv", b"epoch,bits\n" + b"0,3ff0000000000000\n" * 2, "is there twice"),
    ],
)
def test_bad_results_are_refused(suite: Path, name: str, data: bytes, message: str) -> None:
    (suite / "StepLR-plain.schedule" / name).write_bytes(data)
    found = call("golden", "verify", suite, "--pattern", "StepLR-plain")
    assert found.exit_code == 2 and message in found.stdout


def test_the_plugin_says_the_name() -> None:
    (job,) = run_schedules.jobs("helpers.schedule_implementations:Ahead", "exponentiallr-plain")
    with pytest.raises(plugin.Broken, match=r"(?s)ExponentialLR-plain.*another rule: ScheduleAhead"):
        plugin.check(job)
    (job,) = run_schedules.jobs("helpers.schedule_implementations:Ahead", "LinearLR-plain")
    with pytest.raises(pytest.skip.Exception, match="ExponentialLR alone"):
        plugin.check(job)


def verdicts(name: str, library: str, *patterns: str) -> list[tuple[str, tuple[str, ...]]]:
    """Say what a library's schedules are, case by case in plain cases alone."""
    if not find_spec(library):
        pytest.skip(f"{library} is not installed")
    found = []
    for pattern in patterns:
        said = run_schedules.performed(run_schedules.jobs(name, pattern))[1]
        assert said is not None
        found.append((said.verdict, said.names))
    return found


def test_what_optax_has_is_torchs_or_named() -> None:
    same, another = ("same rule", ()), "another rule"
    asked = (
        "LinearLR-decay",
        "PolynomialLR-power",
        "CosineAnnealingWarmRestarts-longer",
        "CosineAnnealingLR-rises",
        "OneCycleLR-plain",
    )
    expected = [same, same, same, (another, ("CosineClamped",)), (another, ("PhasesWhole",))]
    assert verdicts("optax", "optax", *asked) == expected


def test_what_keras_has_is_torchs_or_named() -> None:
    same, another = ("same rule", ()), "another rule"
    asked = (
        *("ExponentialLR-plain", "PolynomialLR-power", "CosineDecayRestartsLR-plain", "CosineDecayRestartsLR-lower"),
        *("CosineAnnealingLR-rises", "MultiStepLR-plain"),
    )
    *found, last = verdicts("keras", "keras", *asked)
    assert found == [same, same, same, same, (another, ("CosineClamped",))]
    assert last[0] == another and last[1] in (("MilestonesInclusive",), ("ScheduleBehind",))


def test_what_timm_has_is_its_own() -> None:
    found = verdicts("timm", "timm", "CosineCyclesLR-*")
    assert found == [("same rule", ())]
