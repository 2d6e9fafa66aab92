"""Every scheduler gives torch's learning rates and momenta, bit for bit: live, and as recorded."""

from __future__ import annotations

import json
import math
import re
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from refoptim.conformance import goldens, lr_cases, record_lr
from refoptim.conformance.lr_cases import DRAWS, TORCHS, WIDER, draw
from refoptim.conformance.oracle import torch_schedulers
from refoptim.conformance.spec import SCHEDULERS, parse

import refoptim
from refoptim import lr_scheduler
from refoptim.commands.main import main

GOLDENS = sorted(record_lr.folder().glob("*.json"))


@pytest.mark.parametrize("name", TORCHS)
def test_drawn_schedules_equal_torch(name: str, torch: Any) -> None:
    for seed in range(100, 108):
        case = draw(name, seed)
        assert record_lr.our_trace(case) == record_lr.torch_trace(case), case


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_recorded_schedules_are_reproduced(path: Any) -> None:
    golden = record_lr.read(path)
    for entry in golden["cases"]:
        case = record_lr.case_of(entry)
        found = record_lr.our_trace(case)
        for key in entry.keys() & found.keys():
            assert [record_lr.to_hex(group) for group in found[key]] == entry[key], (case, key)


def test_every_scheduler_has_goldens() -> None:
    assert {path.stem for path in GOLDENS} == set(DRAWS) == set(lr_scheduler.__all__) - {"LRScheduler", "get_scheduler"}
    assert set(WIDER) == set(lr_scheduler.WIDER)


def test_recorded_bytes_are_those_of_a_new_recording(torch: Any) -> None:
    name = "CosineAnnealingLR"
    recorded = record_lr.read(record_lr.folder() / f"{name}.json")
    assert record_lr.schedules(name)["cases"] == recorded["cases"]


def resealed(text: str, **changes: Any) -> str:
    """Change what a golden holds, and its checksum with it."""
    golden = {**json.loads(text), **changes}
    return json.dumps({**golden, "checksum": goldens.checksum(golden)})


def with_first_case(text: str, **changes: Any) -> str:
    first, *others = json.loads(text)["cases"]
    return resealed(text, cases=[{**first, **changes}, *others])


BREAKS: list[tuple[Callable[[str], str], str]] = [
    (lambda text: text[: len(text) // 2], "is not JSON"),
    (lambda text: text.replace('"schema": 1', '"schema": 2'), "has schema 2, expected 1"),
    (lambda text: text.replace("0x1.", "0x1.8", 1), "was altered after it was recorded"),
    (lambda text: text.replace('"arithmetic"', '"arithmetics"'), "was altered after it was recorded"),
    (lambda text: text.replace('"cases"', '"case"'), "is no golden"),
    (lambda text: resealed(text, scheduler="NoLR"), "is of no scheduler"),
    (lambda text: resealed(text, provenance={}), "names no witness"),
    (lambda text: resealed(text, cases=json.loads(text)["cases"][1:]), "does not hold 7 cases"),
    (lambda text: with_first_case(text, scheduler="StepLR(step_size=4, gamma=0.2)"), "case 0 is not that"),
    (lambda text: with_first_case(text, initial_lr="0x1.0p+0 0x1.0p-1"), "case 0 is not that"),
    (lambda text: with_first_case(text, lr=["0x1.0p+0"]), "case 0 is not that"),
    (lambda text: with_first_case(text, lr=["nan " * 300 + "nan"] * 2), "case 0 is not that"),
]


@pytest.mark.parametrize(("change", "message"), BREAKS)
def test_bad_goldens_are_refused_by_name(
    change: Callable[[str], str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in GOLDENS:
        shutil.copy(path, tmp_path)
    bad = tmp_path / "StepLR.json"
    bad.write_text(change(bad.read_text(encoding="utf-8")), encoding="utf-8")
    monkeypatch.setattr(record_lr, "folder", lambda: tmp_path)
    with pytest.raises(goldens.GoldenError, match=rf"^StepLR\.json.*{re.escape(message)}"):
        record_lr.read(bad)
    result = CliRunner().invoke(main, ["conformance", "--pattern", "StepLR-0", "--engine", "numpy"])
    assert result.exit_code == 2 and result.stdout == ""
    assert "StepLR.json" in result.stderr and len(result.stderr.splitlines()) == 1


def test_a_missing_golden_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_lr, "folder", lambda: tmp_path)
    result = CliRunner().invoke(main, ["conformance", "--pattern", "StepLR-0", "--engine", "numpy"])
    assert result.exit_code == 2 and "ChainedScheduler.json is no file" in result.stderr


def test_recording_twice_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch: Any) -> None:
    monkeypatch.setattr(record_lr, "TORCHS", {"StepLR": DRAWS["StepLR"]})
    path = tmp_path / "StepLR.json"
    record_lr.main(["--out", str(tmp_path)])
    dated = record_lr.read(path)
    dated["provenance"]["date"] = "2001-02-03"
    goldens.write(path, {key: x for key, x in dated.items() if key != "checksum"})
    before = path.read_bytes()
    record_lr.main(["--out", str(tmp_path)])
    assert path.read_bytes() == before and record_lr.read(path) == dated | {"checksum": goldens.checksum(dated)}


# Learning rates held by arrays.


def on_array(make: Any, lr: Any, array: Any, text: str) -> list[float]:
    """Run a scheduler on an ``lr`` that an array or tensor holds; it must stay that object."""
    optimizer = make([array], lr=lr, momentum=0.9)
    optimizer._opt_called = True
    scheduler = parse(text).build(optimizer, SCHEDULERS if make is refoptim.SGD else torch_schedulers())
    rates = [float(lr)]
    for _ in range(60):
        scheduler.step()
        rates.append(float(lr))
        assert optimizer.param_groups[0]["lr"] is lr
        assert float(scheduler.get_last_lr()[0]) == rates[-1]
    return rates


ON_ARRAYS = [
    "LambdaLR(lr_lambda=lambda epoch: 0.93 ** epoch)",
    "MultiplicativeLR(lr_lambda=lambda epoch: 0.93)",
    "StepLR(step_size=7, gamma=0.37)",
    "MultiStepLR(milestones=[7, 7, 30], gamma=0.37)",
    "ConstantLR(factor=0.37, total_iters=11)",
    "LinearLR(start_factor=0.13, end_factor=0.77, total_iters=37)",
    "ExponentialLR(gamma=0.93)",
    "PolynomialLR(total_iters=50, power=1.7)",
    "CosineAnnealingLR(T_max=23, eta_min=0.003)",
    "CosineAnnealingWarmRestarts(T_0=5, T_mult=2, eta_min=0.003)",
    "CyclicLR(base_lr=0.01, max_lr=0.2, step_size_up=7, mode='triangular2')",
    "OneCycleLR(max_lr=0.2, total_steps=70)",
    "SequentialLR(LinearLR(total_iters=9), CosineAnnealingLR(T_max=23), milestones=[10])",
    "ChainedScheduler(ConstantLR(total_iters=9), ExponentialLR(gamma=0.93))",
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("text", ON_ARRAYS)
def test_an_array_keeps_its_identity_and_computes_in_its_dtype(text: str, dtype: str, torch: Any) -> None:
    lr = torch.tensor(0.3, dtype=getattr(torch, dtype))
    expected = on_array(torch.optim.SGD, lr, torch.zeros(1), text)
    assert on_array(refoptim.SGD, np.array(0.3, dtype), np.zeros(1), text) == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("text", [*ON_ARRAYS, "SWALR(swa_lr=0.05, anneal_epochs=30)"])
def test_a_tensor_as_learning_rate_keeps_its_identity_too(text: str, dtype: str, torch: Any) -> None:
    for shape in ((), (1,)):
        lrs = [torch.full(shape, 0.3, dtype=getattr(torch, dtype)) for _ in range(2)]
        expected = on_array(torch.optim.SGD, lrs[0], torch.zeros(1), text)
        assert on_array(refoptim.SGD, lrs[1], np.zeros(1), text) == expected
        assert len(set(expected)) > 1


def test_plateau_and_saved_states_of_tensors_equal_torch(torch: Any) -> None:
    found = []
    for library, lrs, zeros in (
        (torch.optim, torch.optim.lr_scheduler, torch.zeros),
        (refoptim, lr_scheduler, np.zeros),
    ):
        lr = torch.tensor(0.5)
        optimizer = library.SGD([zeros(1)], lr=lr)
        scheduler = lrs.ReduceLROnPlateau(optimizer, patience=0, factor=0.3)
        for metric in (1.0, 2.0, 2.0):
            scheduler.step(metric)
        assert optimizer.param_groups[0]["lr"] is lr
        found.append((lr.item(), [x.item() for x in scheduler.get_last_lr()]))
    assert found[0] == found[1]
    optimizer.param_groups[0]["lr"] = torch.tensor(0.5)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.3)
    saved = json.loads(json.dumps(scheduler.state_dict()))
    optimizer._opt_called = True
    scheduler.step()
    kept = optimizer.param_groups[0]["lr"]
    scheduler.load_state_dict(saved)
    assert kept is optimizer.param_groups[0]["lr"] and kept.item() == 0.5 == scheduler.base_lrs[0].item()
    assert scheduler.preview(1).item() == torch.tensor(0.5).mul(0.3).item() == scheduler.lr_at(1)[0]


def test_a_tensor_that_cannot_be_scheduled_is_refused(torch: Any) -> None:
    optimizer = refoptim.SGD([np.zeros(1)], lr=torch.tensor(1))
    with pytest.raises(
        TypeError, match=r"lr of param_groups\[0\] must hold a float to be scheduled, got dtype torch.int"
    ):
        lr_scheduler.StepLR(optimizer, 2)


def test_plateau_writes_into_an_array() -> None:
    lr = np.array([0.5], np.float32)
    optimizer = refoptim.SGD([np.zeros(1)], lr=lr)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.25)
    for metric in (1.0, 2.0):
        scheduler.step(metric)
    assert optimizer.param_groups[0]["lr"] is lr
    assert lr.tolist() == [0.125] == scheduler.get_last_lr()


def test_one_optimizer_may_hold_numbers_and_arrays() -> None:
    lr = np.array(0.5)
    optimizer = refoptim.SGD([{"params": [np.zeros(1)], "lr": lr}, {"params": [np.zeros(1)], "lr": 0.25}])
    scheduler = lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    optimizer.step(grads=[None, None])
    scheduler.step()
    assert (float(lr), optimizer.param_groups[1]["lr"]) == (0.25, 0.125)
    assert optimizer.param_groups[0]["initial_lr"] == 0.5


# Usual and less usual ways to use a scheduler.


def pair(torch: Any, text: str, lrs: tuple[float, ...] = (0.37, 0.05)) -> list[tuple[Any, Any]]:
    """Return optimizer and scheduler, torch's and ours."""
    zeros = partial(torch.zeros, 1)
    optimizers = [
        torch.optim.SGD([{"params": [zeros()], "lr": lr} for lr in lrs], momentum=0.9),
        refoptim.SGD([{"params": [np.zeros(1)], "lr": lr} for lr in lrs], momentum=0.9),
    ]
    for optimizer in optimizers:
        optimizer._opt_called = True
    classes = [torch_schedulers(), SCHEDULERS]
    return [(o, parse(text).build(o, c)) for o, c in zip(optimizers, classes, strict=True)]


def rates(optimizer: Any) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


RECURSIVE = [text for text in ON_ARRAYS if not text.startswith(("Lambda", "Cyclic", "OneCycle"))]


@pytest.mark.parametrize("text", RECURSIVE)
def test_a_learning_rate_changed_by_hand_counts(text: str, torch: Any) -> None:
    seen = []
    for optimizer, scheduler in pair(torch, text):
        seen.append([])
        for epoch in range(40):
            if epoch % 9 == 4:
                optimizer.param_groups[1]["lr"] *= 0.77
            scheduler.step()
            seen[-1].append(rates(optimizer))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("text", [text for text in ON_ARRAYS if not text.startswith(("Sequential", "Chained"))])
def test_step_to_an_epoch_equals_torch(text: str, torch: Any) -> None:
    seen = []
    for optimizer, scheduler in pair(torch, text):
        seen.append([])
        for epoch in (3, 0, 17, None, None, 40, None):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scheduler.step(epoch)
            seen[-1].append((scheduler.last_epoch, rates(optimizer)))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("seed", range(12))
def test_warm_restarts_take_fractions_of_epochs_as_torch(seed: int, torch: Any) -> None:
    d = lr_cases.Draw(f"fractions {seed}")
    text = f"CosineAnnealingWarmRestarts(T_0={d.whole(1, 20)}, T_mult={d.one(1, 2, 4)}, eta_min={d.real(0, 0.01)})"
    epochs = [d.one(None, None, d.real(0, 500), d.whole(0, 500) + 0.5) for _ in range(300)]
    seen = []
    for optimizer, scheduler in pair(torch, text):
        seen.append([])
        for epoch in epochs:
            scheduler.step(epoch)
            seen[-1].append((scheduler.last_epoch, scheduler.T_cur, scheduler.T_i, rates(optimizer)))
    assert seen[0] == seen[1]


def test_schedulers_stepped_together_by_hand_equal_torch(torch: Any) -> None:
    seen = []
    for optimizer, first in pair(torch, "ExponentialLR(gamma=0.93)"):
        library = torch.optim.lr_scheduler if type(optimizer).__module__.startswith("torch") else lr_scheduler
        second = library.StepLR(optimizer, step_size=5, gamma=0.37)
        seen.append([])
        for _ in range(40):
            first.step()
            second.step()
            seen[-1].append((rates(optimizer), first.get_last_lr(), second.get_last_lr()))
    assert seen[0] == seen[1]


def test_plateau_keeps_torchs_counters(torch: Any) -> None:
    text = "ReduceLROnPlateau(factor=0.37, patience=2, threshold=0.01, cooldown=3, min_lr=[0.01, 0.002])"
    names = ("best", "num_bad_epochs", "cooldown_counter", "in_cooldown", "last_epoch", "min_lrs", "mode_worse")
    (_, theirs), (_, ours) = pair(torch, text)
    for epoch in range(60):
        metric = math.nan if epoch % 11 == 3 else (epoch * 37 % 101) / 101
        for scheduler in (theirs, ours):
            scheduler.step(metric)
        assert all(getattr(theirs, name) == getattr(ours, name) for name in names)


@pytest.mark.parametrize("text", ON_ARRAYS)
def test_attributes_carry_torchs_names(text: str, torch: Any) -> None:
    (_, theirs), (_, ours) = pair(torch, text)
    lacking = {name for name in vars(theirs) if not name.startswith("_")} - set(dir(ours))
    assert not lacking
    for name in ("last_epoch", "base_lrs", "_last_lr"):
        if hasattr(theirs, name):
            assert getattr(theirs, name) == getattr(ours, name)


@pytest.mark.parametrize("name", TORCHS)
def test_signatures_are_torchs(name: str, torch: Any) -> None:
    from inspect import signature

    theirs = signature(getattr(torch.optim.lr_scheduler, name)).parameters
    ours = signature(getattr(lr_scheduler, name)).parameters
    extra = ["verbose"] if name == "ReduceLROnPlateau" else []
    assert list(ours) == [*theirs, *extra]
    assert {x: p.default for x, p in theirs.items()} == {x: ours[x].default for x in theirs}


# Warnings.


def fresh() -> tuple[Any, Any]:
    optimizer = refoptim.SGD([np.zeros(1)], lr=0.5)
    return optimizer, lr_scheduler.StepLR(optimizer, step_size=3)


def test_stepping_before_the_optimizer_warns_once() -> None:
    _, scheduler = fresh()
    with pytest.warns(UserWarning, match=r"lr_scheduler.step\(\)` before `optimizer.step\(\)`") as caught:
        scheduler.step()
    assert caught[0].filename == __file__
    scheduler.step()


def test_stepping_after_the_optimizer_does_not_warn() -> None:
    optimizer, scheduler = fresh()
    optimizer.step(grads=[None])
    scheduler.step()


def test_an_overridden_step_warns() -> None:
    optimizer, scheduler = fresh()
    optimizer.step = lambda: None
    with pytest.warns(UserWarning, match="has been overridden after learning rate scheduler initialization"):
        scheduler.step()


CONTINUED = [text for text in ON_ARRAYS if not text.startswith("CosineAnnealingWarm")]


@pytest.mark.parametrize("case", ["not called", "overridden", "called"])
@pytest.mark.parametrize("text", CONTINUED)
def test_a_scheduler_that_continues_warns_as_torch_does(text: str, case: str, torch: Any) -> None:
    """All but CosineAnnealingWarmRestarts, whose steps torch does not count."""
    found = []
    for library, classes, zeros in ((torch.optim, torch_schedulers(), torch.zeros), (refoptim, SCHEDULERS, np.zeros)):
        group = {"params": [zeros(1)], "lr": 0.5, "initial_lr": 0.5, "max_lr": 0.5, "min_lr": 0.01}
        momenta = {"base_momentum": 0.8, "max_momentum": 0.9}
        optimizer = library.SGD([{**group, **momenta}], lr=0.5, momentum=0.9)
        scheduler = parse(text).build(optimizer, classes, last_epoch=10)
        if case == "overridden":
            optimizer.step = lambda: None
        elif case == "called":
            optimizer.step()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scheduler.step()
        found.append({str(x.message).partition("`. ")[0].partition("initialization.")[0] for x in caught})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scheduler.step()
    assert found[0] == found[1] and bool(found[0]) is (case != "called")


def test_the_step_of_an_optimizer_is_wrapped_once() -> None:
    optimizer, _ = fresh()
    wrapped = optimizer.step
    lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    assert optimizer.step is wrapped and wrapped._wrapped_by_lr_sched


def test_a_step_replaced_before_is_still_called() -> None:
    calls = []
    optimizer = refoptim.SGD([np.zeros(1)], lr=0.5)
    optimizer.step = lambda: calls.append(1)
    scheduler = lr_scheduler.StepLR(optimizer, step_size=3)
    optimizer.step()
    scheduler.step()
    assert calls == [1]


def test_a_deprecated_epoch_and_get_lr_warn() -> None:
    optimizer, scheduler = fresh()
    optimizer.step(grads=[None])
    with pytest.warns(UserWarning, match=r"The epoch parameter in `scheduler.step\(\)`"):
        scheduler.step(6)
    assert scheduler.get_last_lr() == [0.5 * 0.1**2]
    with pytest.warns(UserWarning, match=r"please use `get_last_lr\(\)`"):
        scheduler.get_lr()


def test_a_chain_warns_once() -> None:
    optimizer, scheduler = fresh()
    chain = lr_scheduler.ChainedScheduler([scheduler, lr_scheduler.ExponentialLR(optimizer, gamma=0.9)])
    with pytest.warns(UserWarning, match="before `optimizer.step") as caught:
        chain.step()
    assert len(caught) == 1


def test_verbose_prints_reductions(capsys: pytest.CaptureFixture[str]) -> None:
    optimizer = refoptim.SGD([np.zeros(1)], lr=0.5)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, verbose=True)
    scheduler.preview(3)
    for metric in (1.0, 2.0):
        scheduler.step(metric)
    assert capsys.readouterr().out == "Epoch     2: reducing learning rate of group 0 to 5.0000e-02.\n"


def test_the_text_of_the_warning_has_torchs_name(torch: Any) -> None:
    ours, theirs = lr_scheduler.EPOCH_DEPRECATION_WARNING, torch.optim.lr_scheduler.EPOCH_DEPRECATION_WARNING
    stem = "The epoch parameter in `scheduler.step()` was not necessary and is being deprecated where possible. "
    assert ours.startswith(stem) and theirs.startswith(stem)


def test_an_undo_is_torchs(torch: Any) -> None:
    found = []
    for library, zeros in ((torch.optim, torch.zeros), (refoptim, np.zeros)):
        optimizer = library.SGD([zeros(1)], lr=0.5)
        lrs = library.lr_scheduler
        chain = lrs.ChainedScheduler([lrs.StepLR(optimizer, 2), lrs.ExponentialLR(optimizer, 0.5)])
        sequence = lrs.SequentialLR(optimizer, [lrs.ConstantLR(optimizer), chain], [3])
        leaves = [sequence._schedulers[0], *chain._schedulers]
        before = [x.last_epoch for x in leaves]
        sequence.recursive_undo()
        once = [x.last_epoch for x in leaves]
        sequence.recursive_undo(chain)
        found.append(
            [np.subtract(once, before).tolist(), [x.last_epoch for x in leaves] == [once[0], *np.subtract(once[1:], 1)]]
        )
    assert found[0] == found[1] == [[-1, -1, -1], True]
