"""Sums over all parameters: Prodigy and LAMB that clips, beside exact numbers, in every storage."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from helpers.kernels import FUSED, NEEDS_KERNELS
from helpers.rooms import need_kernels
from refoptim import LAMB, Parameter, Prodigy, functional
from refoptim.distributed import Sharded, run_ranks
from refoptim.engines import reference
from refoptim.numerics import tree

SHAPES = [(7,), (3, 4), (), (0,), (2, 1030)]
TARGET = 0.25
RULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "LAMB": (LAMB, dict(lr=0.02, eps=0.01, weight_decay=0.1, max_grad_norm=0.3)),
    "Prodigy": (Prodigy, dict(lr=0.8, d0=0.01, eps=0.01, weight_decay=0.1, growth_rate=1.5)),
    "Prodigy without average": (Prodigy, dict(lr=0.8, betas=(0, 0.9), d0=0.01, decouple=False, weight_decay=0.1)),
}


def begin(dtype: Any = np.float64) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]


def slopes(k: int, arrays: list[Any], dtype: Any = None) -> list[Any]:
    """Return gradients of a bowl, with noise; parameter 1 has none in some steps, and parameter 2 none at first."""
    rng = np.random.default_rng(k)
    pairs = [(np.asarray(p, np.float64), rng.standard_normal(np.shape(p))) for p in arrays]
    found = [
        np.asarray(0.5 * (p - TARGET) + 0.05 * noise, dtype or x.dtype)
        for (p, noise), x in zip(pairs, arrays, strict=True)
    ]
    return [None if (i == 1 and k % 3 == 1) or (i == 2 and k < 2) else g for i, g in enumerate(found)]


def groups(params: list[Any]) -> list[dict[str, Any]]:
    return [{"params": params[:2]}, {"params": params[2:], "weight_decay": 0.2}]


def everything(optimizer: Any) -> list[tuple[str, bytes]]:
    members = [p for group in optimizer.param_groups for p in group["params"]]
    kept = [(f"{i} {n}", np.asarray(x).tobytes()) for i, p in enumerate(members) for n, x in optimizer.state[p].items()]
    return [*((str(i), p.data.tobytes()) for i, p in enumerate(members)), *sorted(kept)]


def run(name: str, dtype: Any, steps: int = 9, master: bool = False, scale: Any = None, **more: Any) -> Any:
    rule, settings = RULES[name]
    params = [Parameter(x, master=master) for x in begin(dtype)]
    optimizer = rule(groups(params), **{**settings, **more})
    for k in range(steps):
        grads = [None if g is None else g * g.dtype.type(scale or 1) for g in slopes(k, [p.data for p in params])]
        optimizer.step(grads=grads, grad_scale=scale)
    return everything(optimizer)


@NEEDS_KERNELS
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    ("dtype", "master"), [("float64", False), ("float32", False), ("float16", False), ("float16", True)]
)
@pytest.mark.parametrize("more", [{}, {"maximize": True}, {"scale": 8.0}], ids=["plain", "uphill", "scaled"])
def test_kernels_have_the_bits_of_the_reference(name: str, dtype: str, master: bool, more: dict[str, Any]) -> None:
    need_kernels(RULES[name][0].__name__)
    with reference.rounding("store"):
        assert run(name, dtype, master=master, **more) == run(name, dtype, master=master, fused=True, **more)


@NEEDS_KERNELS
@pytest.mark.parametrize("name", RULES)
def test_parameters_of_several_types_stand_in_one_sum(name: str) -> None:
    rule, settings = RULES[name]
    found = []
    for fused in (None, True):
        params = [np.linspace(-1, 1, 5), np.linspace(0, 2, 9, dtype=np.float32), np.ones(3)]
        optimizer = rule([{"params": [p]} for p in params], **settings, fused=fused)
        for k in range(5):
            optimizer.step(grads=[p - p.dtype.type(TARGET) + p.dtype.type(k / 8) for p in params])
        found.append(everything(optimizer))
    assert found[0] == found[1]


def test_lamb_divides_by_the_norm_of_the_squares_added_in_order() -> None:
    """With averages that forget at once, what is left in ``exp_avg`` is the gradient through the norm."""
    grads = [np.linspace(-3, 5, 11), np.full((2, 3), 1e-8), np.linspace(1, 2, 2050)]
    params = [np.ones(g.shape) for g in grads]
    optimizer = LAMB([{"params": params[:2]}, {"params": params[2:]}], betas=(0.0, 0.0), max_grad_norm=0.7)
    optimizer.step(grads=grads)
    total = 0.0
    for g in grads:
        total += float(tree.total(tree.square, g))
    clip = max(1.0, math.sqrt(total) / 0.7)
    for p, g in zip((p for group in optimizer.param_groups for p in group["params"]), grads, strict=True):
        assert (optimizer.state[p]["exp_avg"] == g / clip).all()


@FUSED
def test_a_norm_that_is_nan_reaches_every_gradient(fused: bool | None) -> None:
    """As in timm, and in ``clip_grad_norm_``; an infinite one leaves 0 of what is finite."""
    for bad, expected in ((np.nan, np.nan), (np.inf, 0.0)):
        params = [np.ones(2), np.ones(3)]
        optimizer = LAMB(params, betas=(0.0, 0.0), max_grad_norm=0.7, fused=fused)
        optimizer.step(grads=[np.array([bad, 1.0]), np.ones(3)])
        averages = [optimizer.state[p]["exp_avg"] for p in optimizer.param_groups[0]["params"]]
        assert np.isnan(averages[0][0])
        assert np.array_equal(np.concatenate([averages[0][1:], averages[1]]), [expected] * 4, equal_nan=True)


def test_a_group_that_takes_no_part_is_neither_summed_nor_clipped() -> None:
    g = np.array([3.0, 4.0])
    alone, beside = np.ones(2), np.ones(2)
    settings: dict[str, Any] = dict(betas=(0.0, 0.0), max_grad_norm=1.0)
    one = LAMB([alone], **settings)
    two = LAMB([{"params": [beside]}, {"params": [np.ones(2)], "max_grad_norm": None}], **settings)
    one.step(grads=[g])
    two.step(grads=[g, 100 * g])
    assert (alone == beside).all()
    assert (two.state[two.param_groups[1]["params"][0]]["exp_avg"] == 100 * g).all()


def shared(optimizer: Any) -> set[tuple[float, ...]]:
    return {tuple(x[n] for n in ("k", "d", "d_max", "d_numerator")) for x in optimizer.state.values()}


def test_all_parameters_share_the_numbers_of_prodigy() -> None:
    params = begin()
    optimizer = Prodigy(groups(params), d0=0.01)
    for k in range(7):
        optimizer.step(grads=slopes(k, params))
        assert len(shared(optimizer)) == 1
        assert shared(optimizer).pop()[0] == k + 1
    late = np.ones(3)
    optimizer.add_param_group({"params": [late]})
    optimizer.step(grads=[*slopes(7, params), late - TARGET])
    assert len(shared(optimizer)) == 1
    assert shared(optimizer).pop()[0] == 8


def test_where_the_sum_is_0_nothing_moves_and_nothing_is_counted() -> None:
    p = np.array([1.0, -0.0])
    optimizer = Prodigy([p], weight_decay=0.5, decouple=True)
    optimizer.step(grads=[np.zeros(2)])
    assert p.tobytes() == np.array([1.0, -0.0]).tobytes()
    assert shared(optimizer) == {(0.0, 1e-6, 1e-6, 0.0)}


def test_a_group_without_learning_rate_stays_as_it_is() -> None:
    """The other one goes as if it were alone."""
    p, alone, frozen = np.ones(3), np.ones(3), np.array([2.0, -0.0])
    optimizer = Prodigy([{"params": [frozen], "lr": 0}, {"params": [p]}], d0=0.1, weight_decay=0.1)
    other = Prodigy([alone], d0=0.1, weight_decay=0.1)
    for k in range(4):
        optimizer.step(grads=[np.ones(2), p - 0.5 + k])
        other.step(grads=[alone - 0.5 + k])
    assert frozen.tobytes() == np.array([2.0, -0.0]).tobytes()
    assert (p == alone).all()
    assert len(shared(optimizer)) == 1
    assert shared(optimizer) == shared(other)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"lr": 0.5}, "the lr of groups of Prodigy must be the same, or 0"),
        ({"d_coef": 2.0}, "the d_coef of all groups of Prodigy must be the same"),
        ({"betas": (0.5, 0.5)}, "the betas of all groups"),
    ],
)
def test_groups_that_cannot_share_are_refused(more: dict[str, Any], message: str) -> None:
    p, q = np.ones(2), np.ones(2)
    optimizer = Prodigy([{"params": [p]}, {"params": [q], **more}])
    with pytest.raises(RuntimeError, match=message):
        optimizer.step(grads=[p.copy(), q.copy()])
    assert not optimizer.state
    assert (p == 1).all()


@FUSED
def test_groups_that_can_no_longer_share_are_refused_where_a_step_is_repeated(fused: bool | None) -> None:
    optimizer: Any = Prodigy([{"params": [np.ones(2)]}, {"params": [np.ones(2)]}], lr=0, fused=fused)
    for _ in range(3):
        optimizer.step(grads=[np.ones(2)] * 2)
    assert optimizer._repeat is not None
    optimizer.param_groups[1]["d_coef"] = 2.0
    with pytest.raises(RuntimeError, match="the d_coef of all groups of Prodigy must be the same"):
        optimizer.step(grads=[np.ones(2)] * 2)


@pytest.mark.parametrize("bare", [0, 1])
def test_a_parameter_with_nothing_but_a_master_copy_begins_with_the_numbers_that_all_share(bare: int) -> None:
    def halves() -> Any:
        return Prodigy([Parameter(np.ones(n, np.float16), master=True) for n in (3, 2)], d0=0.1)

    def gradients(k: int) -> list[Any]:
        return [np.full(n, 0.5 - k, np.float16) for n in (3, 2)]

    optimizer, other = halves(), halves()
    for k in range(3):
        optimizer.step(grads=gradients(k))
    saved = optimizer.state_dict()
    saved["state"][bare] = {"master": np.ones(len(saved["state"][bare]["master"]), np.float32)}
    other.load_state_dict(saved)
    other.step(grads=gradients(3))
    optimizer.step(grads=gradients(3))
    assert len(shared(other)) == 1
    assert shared(other).pop()[0] == 4
    assert shared(other) != shared(optimizer)


def test_a_state_goes_through_json_and_one_that_differs_is_refused() -> None:
    params = begin()
    optimizer = Prodigy(groups(params), d0=0.01)
    optimizer.step(grads=slopes(3, params))
    saved = optimizer.state_dict()
    other = Prodigy(groups([p.copy() for p in params]), d0=0.01)
    other.load_state_dict(json.loads(json.dumps(saved, default=lambda x: np.asarray(x).tolist())))
    assert shared(other) == shared(optimizer)
    saved["state"][1]["d"] = np.float64(0.5)
    with pytest.raises(ValueError, match="all parameters share d, got"):
        other.load_state_dict(saved)
    assert shared(other) == shared(optimizer)


@FUSED
def test_large_weights_of_gradients_need_master_copies_beside_float16(fused: bool | None) -> None:
    """0.26 * 0.26 / 1e-6 is above 65504."""
    for master in (False, True):
        optimizer = Prodigy([Parameter(np.ones(3, np.float16), master=master)], fused=fused)
        optimizer.step(grads=[np.ones(3, np.float16)])
        saved = optimizer.state_dict()
        saved["state"][0]["d"] = np.float64(0.26)
        optimizer.load_state_dict(saved)
        if master:
            optimizer.step(grads=[np.ones(3, np.float16)])
            assert shared(optimizer).pop()[0] == 2
        else:
            with pytest.raises(RuntimeError, match="type float16 without overflow: weight_gain = 67"):
                optimizer.step(grads=[np.ones(3, np.float16)])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *(("k", k, r"the state k must be an integer in \[0, inf\), got") for k in (math.nan, math.inf, -1.0, 0.5)),
        *(("d", d, rf"the state d must be a number in \(0, inf\), got {d}") for d in (math.nan, math.inf, -1.0, 0.0)),
    ],
)
def test_a_state_that_is_none_is_refused(name: str, value: float, message: str) -> None:
    p = np.ones(3)
    optimizer = Prodigy([p], d0=0.1)
    optimizer.step(grads=[np.ones(3)])
    saved = optimizer.state_dict()
    saved["state"][0][name] = np.float64(value)
    optimizer.load_state_dict(saved)
    before = everything(optimizer)
    with pytest.raises(ValueError, match=message):
        optimizer.step(grads=[np.ones(3)])
    assert everything(optimizer) == before


def test_a_gradient_that_is_not_finite_leaves_an_optimizer_that_steps() -> None:
    p = np.ones(3)
    optimizer = Prodigy([p], d0=0.1)
    for g in ([1.0, 2.0, 3.0], [np.nan, 1.0, np.inf], [1.0, 1.0, 1.0]):
        optimizer.step(grads=[np.array(g)])
    saved = optimizer.state_dict()
    assert math.isnan(saved["state"][0]["d_numerator"])
    optimizer.load_state_dict(saved)
    optimizer.step(grads=[np.ones(3)])


@FUSED
def test_what_sums_say_may_overflow_where_floating_point_flags_raise(fused: bool | None) -> None:
    """float32 has no 1e305, by which the gradient is divided; it is 0 then, as it would be by the exact number."""
    p = np.ones(3, np.float32)
    optimizer = LAMB([p], betas=(0.0, 0.0), max_grad_norm=1e-300, fused=fused)
    with np.errstate(all="raise"):
        optimizer.step(grads=[np.full(3, 1e5, np.float32)])
        _, (state,) = functional.lamb([p], [np.full(3, 1e5, np.float32)], None, 1, max_grad_norm=1e-300)
    assert optimizer.state[optimizer.param_groups[0]["params"][0]]["exp_avg"].tolist() == [0.0] * 3
    assert state["exp_avg"].tolist() == [0.0] * 3


@pytest.mark.parametrize("name", RULES)
def test_a_step_that_fails_changes_nothing(name: str) -> None:
    rule, settings = RULES[name]
    params = begin()
    optimizer = rule(groups(params), **settings)
    optimizer.step(grads=slopes(3, params))
    before = everything(optimizer)
    bad = slopes(5, params)
    bad[-1] = np.ones(3)
    with pytest.raises(ValueError, match="shape"):
        optimizer.step(grads=bad)
    optimizer.step(grads=slopes(5, params), found_inf=1.0)
    assert everything(optimizer) == before


@FUSED
def test_lamb_repeats_its_step_until_it_is_to_clip(fused: bool | None) -> None:
    optimizer: Any = LAMB([np.ones(3)], betas=(0.0, 0.0), fused=fused)
    (p,) = optimizer.param_groups[0]["params"]
    for _ in range(2):
        optimizer.step(grads=[np.full(3, 2.0)])
    assert optimizer.state[p]["exp_avg"].tolist() == [2.0] * 3
    assert optimizer._repeat is not None or not fused
    optimizer.param_groups[0]["max_grad_norm"] = math.sqrt(12) / 4
    optimizer.step(grads=[np.full(3, 2.0)])
    assert optimizer.state[p]["exp_avg"].tolist() == [0.5] * 3
    assert optimizer._repeat is None


@pytest.mark.parametrize("name", RULES)
def test_pure_functions_sum_over_all(name: str) -> None:
    rule, settings = RULES[name]
    step = functional.pure_step(rule)
    params, pure, halves = begin(), begin(), begin()
    state: Any = None
    state_of_halves: Any = None
    optimizer = rule(params, **settings)
    for k in range(1, 7):
        grads = slopes(3, params)
        optimizer.step(grads=grads)
        pure, state = step([np.asarray(p) for p in pure], grads, state, k, **settings)
        before = state_of_halves[0] if state_of_halves and rule is Prodigy else None
        static, varying = step.scalars(k, before, **settings)
        halves, state_of_halves = step.apply(static, varying, [np.asarray(p) for p in halves], grads, state_of_halves)
    for p, q, r, kept in zip(optimizer.param_groups[0]["params"], pure, halves, state, strict=True):
        assert p.data.tobytes() == q.tobytes() == r.tobytes()
        assert all(np.array_equal(x, optimizer.state[p][n]) for n, x in kept.items())


def test_what_pure_functions_cannot_do_is_refused() -> None:
    _, varying = functional.prodigy.scalars(1)
    with pytest.raises(ValueError, match="needs the state of a parameter"):
        functional.prodigy.scalars(2, varying)
    with pytest.raises(RuntimeError, match="Prodigy does not support complex parameters"):
        Prodigy([np.ones(2, np.complex128)])


def test_sums_over_every_third_element() -> None:
    """The elements in the sums, alone, take the same steps by the same estimate."""
    settings: dict[str, Any] = dict(lr=0.8, d0=0.01, weight_decay=0.1, decouple=False, beta3=0.7)
    p = np.random.default_rng(3).standard_normal((4, 7))
    few = p.reshape(-1)[::3].copy()
    whole, alone = Prodigy([p], slice_p=3, **settings), Prodigy([few], **settings)
    for k in range(5):
        g = 0.5 * (p - TARGET) + np.random.default_rng(k).standard_normal(p.shape)
        whole.step(grads=[g])
        alone.step(grads=[g.reshape(-1)[::3].copy()])
        (state,), (expected,) = whole.state.values(), alone.state.values()
        assert state["s"].shape == state["p0"].shape == (10,)
        for name in ("d", "d_max", "d_numerator", "s", "p0"):
            assert np.asarray(state[name]).tobytes() == np.asarray(expected[name]).tobytes()
        assert p.reshape(-1)[::3].tobytes() == few.tobytes()
    assert alone.state[alone.param_groups[0]["params"][0]]["d"] > 0.01


@NEEDS_KERNELS
def test_sums_over_some_elements_are_those_of_pure_functions_and_of_ranks_and_have_no_kernels() -> None:
    settings: dict[str, Any] = dict(lr=0.8, d0=0.01, weight_decay=0.1, slice_p=4)
    arrays = begin()
    optimizer, pure, state = Prodigy([x.copy() for x in arrays], **settings), [x.copy() for x in arrays], None
    for k in range(4):
        grads = slopes(k, pure)
        optimizer.step(grads=grads)
        pure, state = functional.prodigy(pure, grads, state, k + 1, **settings)
    assert [p.data.tobytes() for p in optimizer.param_groups[0]["params"]] == [x.tobytes() for x in pure]

    def share(comm: Any) -> list[bytes]:
        params = [Parameter(x.copy()) for x in arrays]
        shared = Sharded(Prodigy, params, comm, **settings)
        for k in range(4):
            shared.step(grads=slopes(k, [p.data for p in params]))
        return [p.data.tobytes() for p in params]

    assert run_ranks(2, share) == [[x.tobytes() for x in pure]] * 2
    message = r"those of Prodigy do not know slice_p=4: they take 1"
    with pytest.raises(RuntimeError, match=message):
        Prodigy(arrays, fused=True, **settings)
    later = Prodigy(arrays, fused=True)
    later.param_groups[0]["slice_p"] = 4
    with pytest.raises(RuntimeError, match=message):
        later.step(grads=slopes(0, arrays))
    assert not later.state
