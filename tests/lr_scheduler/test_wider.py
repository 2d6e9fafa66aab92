"""The schedules that torch does not have: beside the libraries that own their rules, and their arguments."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from refoptim.conformance import lr_cases, lr_witnesses, record_lr
from refoptim.conformance.lr_cases import WIDER, draw

import refoptim
from refoptim import lr_scheduler as lrs


def needed(name: str) -> str:
    """Return the package that a schedule's rule is from."""
    return lr_witnesses.LIBRARIES[lr_witnesses.OWNERS[name]].package


def rates(scheduler: Any, n: int) -> list[float]:
    return [scheduler.lr_at(k)[0] for k in range(n)]


def sgd(lr: float = 0.5, *others: float) -> Any:
    optimizer: Any = refoptim.SGD([{"params": [np.zeros(1)], "lr": x} for x in (lr, *others)])
    optimizer._opt_called = True
    return optimizer


@pytest.mark.parametrize("name", WIDER)
def test_drawn_schedules_equal_their_owners(name: str) -> None:
    package = needed(name)
    pytest.importorskip("torch", reason="the schedules of other libraries run on torch's optimizers")
    if find_spec(package) is None:
        pytest.skip(f"the live witness {package} is not installed")
    for seed in range(100, 108):
        case = draw(name, seed)
        assert record_lr.our_trace(case)["lr"] == record_lr.witness_trace(case)["lr"], case


def test_every_schedule_has_an_owner() -> None:
    assert set(lr_witnesses.OWNERS) == set(WIDER) == set(lrs.WIDER)
    assert not set(lr_cases.TORCHS) & set(WIDER)


# Values computed by hand, all of them exact.


def test_warmup_begins_at_zero_and_constant_stays() -> None:
    assert rates(lrs.ConstantWarmupLR(sgd(), 4), 6) == [0, 0.125, 0.25, 0.375, 0.5, 0.5]
    assert rates(lrs.ConstantWarmupLR(sgd(), 0), 2) == [0.5, 0.5]


def test_linear() -> None:
    assert rates(lrs.LinearWarmupLR(sgd(), 2, 6), 8) == [0, 0.25, 0.5, 0.375, 0.25, 0.125, 0, 0]


def test_cosine_rises_again_and_restarts_do_not() -> None:
    assert rates(lrs.CosineWarmupLR(sgd(), 2, 6), 11)[2::4] == [0.5, 0, 0.5]
    assert rates(lrs.CosineWarmupLR(sgd(), 2, 6, min_lr=0.125), 11)[2::4] == [0.5, 0.125, 0.5]
    assert rates(lrs.CosineWarmupLR(sgd(), 2, 6, min_lr_rate=0.25), 11)[2::4] == [0.5, 0.125, 0.5]
    restarts = rates(lrs.CosineRestartsWarmupLR(sgd(), 2, 10, num_cycles=2), 12)
    assert restarts[2] == restarts[6] == 0.5 and restarts[10:] == [0, 0] and restarts[5] == restarts[9] < 0.1


def test_a_warmup_rate_begins_above_zero_and_the_minimum_comes_a_step_early() -> None:
    found = rates(lrs.CosineWarmupRateLR(sgd(), 2, 6, min_lr_rate=0.25), 10)
    assert found[:2] == [0.25, 0.5] and found[5::4] == [0.125, 0.5]
    assert found == rates(lrs.CosineWarmupLR(sgd(), 2, 6, min_lr_rate=0.25), 11)[1:]
    begun = lrs.CosineWarmupRateLR(sgd(), 3, 7, min_lr=0.125, warmup_lr_rate=0.25)
    assert rates(begun, 3) == [0.125, 0.3125, 0.5] and begun.lr_at(6) == [0.125]
    assert rates(lrs.CosineWarmupRateLR(sgd(), 1, 5, warmup_lr_rate=0.25), 1) == [0.125]


def test_a_minimum_is_of_each_group() -> None:
    found = lrs.CosineWarmupLR(sgd(0.5, 0.25), 0, 4, min_lr=0.125).lr_at(4)
    assert found == [0.125, 0.125]


def test_polynomial_ends_at_its_end_in_each_group() -> None:
    scheduler = lrs.PolynomialWarmupLR(sgd(0.5, 0.25), 2, 6, lr_end=0.125, power=2)
    assert scheduler.lr_at(1) == [0.25, 0.125] and scheduler.lr_at(2) == [0.5, 0.25]
    assert scheduler.lr_at(4) == [0.125 + 0.375 / 4, 0.125 + 0.125 / 4]
    assert scheduler.lr_at(6) == scheduler.lr_at(9) == [0.125, 0.125]
    assert lrs.PolynomialWarmupLR(sgd(), 6, 6, lr_end=0.125).lr_at(6) == [0.5]


def test_inverse_root() -> None:
    scheduler = lrs.InverseSqrtLR(sgd(), 4)
    assert [scheduler.lr_at(n)[0] for n in (2, 4, 16, 64)] == [0.25, 0.5, 0.25, 0.125]
    assert lrs.InverseSqrtLR(sgd(), 0).lr_at(30_000) == [0.25]
    assert lrs.InverseSqrtLR(sgd(), 4, timescale=1).lr_at(7) == [0.25]


def test_stable_decay() -> None:
    scheduler = lrs.WarmupStableDecayLR(sgd(), 2, 2, 4, decay_type="linear", min_lr_ratio=0.5)
    assert rates(scheduler, 10) == [0.25, 0.375, 0.5, 0.5, 0.5, 0.4375, 0.375, 0.3125, 0.25, 0.25]
    roots = lrs.WarmupStableDecayLR(sgd(), 4, 0, 4, warmup_type="1-sqrt", decay_type="1-sqrt")
    assert [roots.lr_at(n)[0] for n in (0, 3, 4, 5, 8)] == [0, 0.25, 0.5, 0.25, 0]


def test_noam() -> None:
    scheduler = lrs.NoamLR(sgd(1.0), 64, 4)
    assert rates(scheduler, 4) == [x / 64 for x in (1, 2, 3, 4)] and scheduler.lr_at(15) == [1 / 32]


def test_warmup_cosine_counts_the_warmup() -> None:
    scheduler = lrs.WarmupCosineDecayLR(sgd(9.0, 7.0), 0.25, 1.0, 2, 6, end_value=0.25)
    assert rates(scheduler, 3) == [0.25, 0.625, 1] and scheduler.lr_at(6) == scheduler.lr_at(99) == [0.25, 0.25]


def test_piecewise() -> None:
    for given in ({2: 0.5, 4: 0.25}, [[4, 0.25], (2, 0.5)]):
        scheduler = lrs.PiecewiseInterpolateLR(sgd(), "linear", 1.0, given)
        assert rates(scheduler, 6) == [1, 0.75, 0.5, 0.3125, 0.125, 0.125]
    assert lrs.PiecewiseInterpolateLR(sgd(), "cosine", 0.75).lr_at(3) == [0.75]


def test_cycles_begin_where_they_should() -> None:
    """Powers of three, whose logarithms to the base three are not whole in doubles: 5 is one of them."""
    assert math.log(243) / math.log(3) < 5
    growing = lrs.CosineCyclesLR(sgd(), 2, cycle_mul=3.0, cycle_decay=0.5, cycle_limit=9)
    keras = lrs.CosineDecayRestartsLR(sgd(), 2, t_mul=3.0, m_mul=0.5)
    for i in range(8):
        assert growing.lr_at(3**i - 1) == keras.lr_at(3**i - 1) == [0.5 * 0.5**i]


def test_a_cosine_is_entered_after_the_warmup_or_begins_there() -> None:
    entered = lrs.CosineCyclesLR(sgd(), 4, warmup_t=2)
    begun = lrs.CosineCyclesLR(sgd(), 4, warmup_t=2, warmup_prefix=True)
    assert rates(entered, 2) == rates(begun, 2) == [0, 0.25]
    assert entered.lr_at(2) == [0.25] and begun.lr_at(2) == [0.5]
    assert entered.lr_at(4) == [0] and begun.lr_at(6) == [0]


# Arguments.

REFUSED: list[tuple[Any, str]] = [
    (lambda o: lrs.CosineWarmupLR(o, 1, 9, min_lr=0.1, min_lr_rate=0.1), "Only one of min_lr or min_lr_rate"),
    (lambda o: lrs.CosineWarmupRateLR(o, 1, 9, min_lr=0.1, min_lr_rate=0.1), "Only one of min_lr or min_lr_rate"),
    (lambda o: lrs.CosineWarmupRateLR(o, 1, 9, warmup_lr_rate=float("nan")), "warmup_lr_rate"),
    (
        lambda o: lrs.PolynomialWarmupLR(o, 1, 9, lr_end=0.25),
        r"lr_end \(0.25\) must be smaller than initial lr \(0.25\)",
    ),
    (lambda o: lrs.WarmupCosineDecayLR(o, 0, 1, 9, 9), "decay_steps counts the warm-up"),
    (lambda o: lrs.PiecewiseInterpolateLR(o, "square", 1), "interpolate_type"),
    (lambda o: lrs.PiecewiseInterpolateLR(o, "linear", 1, [[3, 1], [3, 2]]), "has a boundary twice"),
    (lambda o: lrs.PiecewiseInterpolateLR(o, "linear", 1, {3: -1}), "scale of boundaries_and_scales"),
    (lambda o: lrs.PiecewiseInterpolateLR(o, "linear", 1, {-3: 1}), "boundary of boundaries_and_scales"),
    (lambda o: lrs.WarmupStableDecayLR(o, 1, 1, 1, warmup_type="x"), "Unknown warmup type: x"),
    (lambda o: lrs.WarmupStableDecayLR(o, 1, 1, 1, decay_type="x"), "Unknown decay type: x"),
    (lambda o: lrs.CosineCyclesLR(o, 0), "t_initial"),
    (lambda o: lrs.CosineCyclesLR(o, 3, cycle_mul=0.5), "cycle_mul"),
    (lambda o: lrs.NoamLR(o, 0, 4), "d_model"),
    (lambda o: lrs.LinearWarmupLR(o, -1, 4), "num_warmup_steps"),
    (lambda o: lrs.InverseSqrtLR(o, 1, 0), "timescale"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_bad_arguments_are_refused_and_change_nothing(make: Any, message: str) -> None:
    optimizer = sgd(0.5, 0.25)
    with pytest.raises(ValueError, match=message):
        make(optimizer)
    assert [dict(group, params=None) for group in optimizer.param_groups] == [
        dict(group, params=None) for group in sgd(0.5, 0.25).param_groups
    ]


def test_a_minimum_needs_a_learning_rate() -> None:
    with pytest.raises(ValueError, match="min_lr needs an initial lr above 0"):
        lrs.CosineWarmupLR(sgd(0.0), 1, 9, min_lr=0.1)


def test_scales_must_be_pairs() -> None:
    for wrong in (3, [3], [[1, 2, 3]], "ab"):
        with pytest.raises(TypeError, match="a dict from steps to factors"):
            lrs.PiecewiseInterpolateLR(sgd(), "linear", 1, wrong)


def test_a_state_that_does_not_fit_together_is_refused() -> None:
    scheduler = lrs.PolynomialWarmupLR(sgd(), 1, 9)
    before = scheduler.state_dict()
    with pytest.raises(ValueError, match="must be smaller than initial lr"):
        scheduler.load_state_dict({**before, "base_lrs": [0.0]})
    assert scheduler.state_dict() == before


def test_boundaries_pass_through_json() -> None:
    scheduler = lrs.PiecewiseInterpolateLR(sgd(), "cosine", 1.0, {3: 0.5, 9: 0.1})
    again = lrs.PiecewiseInterpolateLR(sgd(), "linear", 0.5)
    again.load_state_dict(json.loads(json.dumps(scheduler.state_dict())))
    assert rates(again, 12) == rates(scheduler, 12)


def test_a_group_added_later_has_its_own_base() -> None:
    optimizer = sgd()
    scheduler = lrs.LinearWarmupLR(optimizer, 2, 6)
    scheduler.step()
    optimizer.add_param_group({"params": [np.zeros(1)], "lr": 0.25})
    scheduler.step()
    assert scheduler.get_last_lr() == [0.5, 0.25]


def test_step_takes_an_epoch() -> None:
    scheduler = lrs.LinearWarmupLR(sgd(), 2, 6)
    scheduler.step(5)
    assert scheduler.get_last_lr() == [0.125] and scheduler.last_epoch == 5


# Names of transformers.

NAMED: list[tuple[str, dict[str, Any], type]] = [
    ("linear", {}, lrs.LinearWarmupLR),
    ("cosine", {"num_cycles": 1.5}, lrs.CosineWarmupLR),
    ("cosine_with_restarts", {"num_cycles": 2}, lrs.CosineRestartsWarmupLR),
    ("polynomial", {"lr_end": 0.01, "power": 2.0}, lrs.PolynomialWarmupLR),
    ("constant", {}, lrs.ConstantWarmupLR),
    ("constant_with_warmup", {}, lrs.ConstantWarmupLR),
    ("inverse_sqrt", {"timescale": 7}, lrs.InverseSqrtLR),
    ("cosine_with_min_lr", {"min_lr": 0.01}, lrs.CosineWarmupLR),
    ("cosine_warmup_with_min_lr", {"min_lr": 0.01}, lrs.CosineWarmupRateLR),
    ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.2, "warmup_lr_rate": 0.1}, lrs.CosineWarmupRateLR),
    ("warmup_stable_decay", {"num_decay_steps": 20, "decay_type": "1-sqrt"}, lrs.WarmupStableDecayLR),
]


@pytest.mark.parametrize(("name", "more", "cls"), NAMED)
def test_names_build_what_transformers_builds(name: str, more: dict[str, Any], cls: type) -> None:
    scheduler = lrs.get_scheduler(name, sgd(), 10, 60, **more)
    assert type(scheduler) is cls
    optimization = pytest.importorskip("transformers.optimization", reason="transformers is not installed")
    optimizer = lr_witnesses.sgd(0.5)
    with lr_witnesses.rounded_transformers():
        theirs = optimization.get_scheduler(name, optimizer, 10, 60, scheduler_specific_kwargs=more)
        for n in range(70):
            assert math.isclose(optimizer.param_groups[0]["lr"], scheduler.lr_at(n)[0], rel_tol=1e-15)
            theirs.step()


def test_names_and_arguments_that_are_missing() -> None:
    same = (
        lrs.get_scheduler("linear", sgd(), 2, 6, {}),
        lrs.get_scheduler("linear", sgd(), num_warmup_steps=2, num_training_steps=6),
    )
    assert rates(same[0], 8) == rates(same[1], 8) == rates(lrs.LinearWarmupLR(sgd(), 2, 6), 8)
    plateau = lrs.get_scheduler("reduce_lr_on_plateau", sgd(), 3, 4, {"factor": 0.5})
    assert isinstance(plateau, lrs.ReduceLROnPlateau) and plateau.factor == 0.5
    assert rates(lrs.get_scheduler("constant", sgd(), 3), 2) == [0.5, 0.5]
    stable = lrs.get_scheduler("warmup_stable_decay", sgd(), 1, num_stable_steps=2, num_decay_steps=3)
    assert isinstance(stable, lrs.WarmupStableDecayLR) and stable.num_stable_steps == 2
    for name, arguments, message in (
        ("greedy", (), "there is no scheduler 'greedy'"),
        ("linear", (), "linear requires `num_warmup_steps`, please provide that argument"),
        ("cosine", (3,), "cosine requires `num_training_steps`, please provide that argument"),
        ("cosine_with_min_lr", (3, 9), "One of min_lr or min_lr_rate should be set"),
        ("cosine_warmup_with_min_lr", (3, 9), "One of min_lr or min_lr_rate should be set"),
        ("warmup_stable_decay", (3,), "Either num_training_steps or num_stable_steps must be specified"),
        ("warmup_stable_decay", (3, 9), "requires `num_decay_steps`"),
    ):
        with pytest.raises(ValueError, match=message):
            lrs.get_scheduler(name, sgd(), *arguments)
    with pytest.raises(ValueError, match="num_stable_steps"):
        lrs.get_scheduler("warmup_stable_decay", sgd(), 3, 9, num_decay_steps=7)
    with pytest.raises(TypeError, match="power"):
        lrs.get_scheduler("linear", sgd(), 3, 9, power=7)
