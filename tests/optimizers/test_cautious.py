"""Cautious steps: against timm, against the formula on top of plain steps, and what they refuse.

That kernels do the same is tested with the cases, and here in 16 bits and with master copies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from refoptim.conformance import cases
from refoptim.conformance.cases import Case, Witness
from refoptim.conformance.oracle import Package
from refoptim.conformance.reference import Reference
from refoptim.conformance.trajectory import trajectory

import refoptim
from helpers.kernels import FUSED, NEEDS_KERNELS
from refoptim.dialects.cautious import CAUTIOUS
from refoptim.numerics.arith import Array

NAMES = [rule.__name__ for rule in CAUTIOUS]

MOMENTUM: dict[str, dict[str, Any]] = {name: {"momentum": 0.8} for name in ("SGD", "RMSprop", "LARS")}
"""Settings that rules need to have a momentum."""

WITHOUT_DECAY: dict[str, dict[str, Any]] = {name: {"weight_decay": 0.0} for name in ("AdamW", "LAMB", "StableAdamW")}
"""Settings by which a direction is all that moves a parameter."""

RNG = np.random.default_rng(0)
P, GRADS = RNG.standard_normal((6, 7)), RNG.standard_normal((4, 6, 7)) * (RNG.random((4, 6, 7)) > 0.1)


def factor(u: Array, g: Array) -> Array:
    """Return the mask of the formula, by what it scales up too."""
    agree = u * g > 0
    return agree / max(agree.sum() / agree.size, 1e-3)


def made(name: str, p: Array, **settings: Any) -> Any:
    known = {"lr": 0.03, **MOMENTUM.get(name, {}), **settings}
    return getattr(refoptim, name)([p], **known)


def warm(name: str, **settings: Any) -> tuple[Array, dict[str, Any]]:
    """Return a parameter and its saved state after a few plain steps."""
    p = P.copy()
    optimizer = made(name, p, **settings)
    for g in GRADS[:3]:
        optimizer.step(grads=[g])
    return p, optimizer.state_dict()


def taken(name: str, cautious: bool, **settings: Any) -> tuple[Array, Array, dict[str, Any]]:
    """Return a parameter before and after one more step, and its state then."""
    before, saved = warm(name, **settings)
    after = before.copy()
    optimizer = made(name, after, **settings)
    optimizer.load_state_dict(saved)
    optimizer.param_groups[0]["cautious"] = cautious
    optimizer.step(grads=[GRADS[3]])
    return before, after, dict(optimizer.state[optimizer.param_groups[0]["params"][0]])


@pytest.mark.parametrize("name", NAMES)
def test_state_is_that_of_a_plain_step(name: str) -> None:
    (_, plain, expected), (_, cautious, found) = taken(name, False), taken(name, True)
    assert not np.array_equal(plain, cautious)
    assert {key: np.asarray(x).tobytes() for key, x in found.items()} == {
        key: np.asarray(x).tobytes() for key, x in expected.items()
    }


WHOLE = [x for x in NAMES if x not in ("NAdam", "Adan", "AdEMAMix", "LAMB", "Lion", "NovoGrad")]
"""Rules whose direction is the average alone, or the buffer."""


@pytest.mark.parametrize("name", WHOLE)
def test_where_the_average_agrees_a_plain_step_is_scaled_up(name: str) -> None:
    settings = WITHOUT_DECAY.get(name, {})
    before, plain, state = taken(name, False, **settings)
    _, cautious, _ = taken(name, True, **settings)
    scale = factor(next(state[key] for key in ("exp_avg", "momentum_buffer") if key in state), GRADS[3])
    np.testing.assert_allclose(cautious - before, (plain - before) * scale, rtol=1e-12, atol=1e-14)
    assert 0 < np.count_nonzero(scale) < scale.size


def adam_of(h: Mapping[str, Any], g: Array, *moments: Array, k: int) -> tuple[Array, Array]:
    """Return the average and the denominator of Adam after step ``k``."""
    m = moments[0] + (1 - h["betas"][0]) * (g - moments[0])
    v = h["betas"][1] * moments[1] + (1 - h["betas"][1]) * g * g
    return m, np.sqrt(v / (1 - h["betas"][1] ** k)) + h["eps"]


def nadam(h: Mapping[str, Any], p: Array, g: Array, state: Mapping[str, Any]) -> Array:
    m, denom = adam_of(h, g, state["exp_avg"], state["exp_avg_sq"], k=4)
    mu, after = (h["betas"][0] * (1 - 0.5 * 0.96 ** (k * h["momentum_decay"])) for k in (4, 5))
    product = float(state["mu_product"]) * mu
    m = m * factor(m, g)
    return p - h["lr"] * ((1 - mu) / (1 - product) * g + after / (1 - product * after) * m) / denom


def ademamix(h: Mapping[str, Any], p: Array, g: Array, state: Mapping[str, Any]) -> Array:
    m, denom = adam_of(h, g, state["exp_avg"], state["exp_avg_sq"], k=4)
    slow = h["betas"][2] * state["exp_avg_slow"] + (1 - h["betas"][2]) * g
    return p - h["lr"] * (m * factor(m, g) / (1 - h["betas"][0] ** 4) + h["alpha"] * slow) / denom


def lion(h: Mapping[str, Any], p: Array, g: Array, state: Mapping[str, Any]) -> Array:
    u = np.sign(h["betas"][0] * state["exp_avg"] + (1 - h["betas"][0]) * g)
    return p - h["lr"] * u * factor(u, g)


def novograd(h: Mapping[str, Any], p: Array, g: Array, state: Mapping[str, Any]) -> Array:
    norm = h["betas"][1] * float(state["exp_avg_sq"]) + (1 - h["betas"][1]) * float(np.sum(g * g))
    u = g / (norm**0.5 + h["eps"]) + h["weight_decay"] * p
    m = h["betas"][0] * state["exp_avg"] + u
    return p - h["lr"] * m * factor(m, u)


FORMULAS: dict[str, Callable[..., Array]] = {"NAdam": nadam, "AdEMAMix": ademamix, "Lion": lion, "NovoGrad": novograd}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_other_formulas(name: str) -> None:
    settings = {"weight_decay": 0.3} if name == "NovoGrad" else {}
    p, saved = warm(name, **settings)
    _, cautious, _ = taken(name, True, **settings)
    expected = FORMULAS[name](saved["param_groups"][0], p, GRADS[3], saved["state"][0])
    tolerance = 1e-7 if name == "NAdam" else 1e-12  # its register is a float32
    np.testing.assert_allclose(cautious, expected, rtol=tolerance)


TIMM = {
    "AdamW": ("timm.optim.adamw:AdamWLegacy", "adamw-cautious", ()),
    "SGD": ("timm.optim.sgdw:SGDW", "sgd-cautious", ("weight_decay",)),
}
"""Classes of timm whose rule torch has, the case that they run, and what is left out of it."""


@pytest.mark.parametrize("name", TIMM)
def test_bits_are_those_of_timm(name: str) -> None:
    pytest.importorskip("torch", reason="the witness of cautious steps needs torch")
    if find_spec("timm") is None:
        pytest.skip("the witness of cautious steps is not installed")
    cls, case, out = TIMM[name]
    bare = {"timm": [], "timm.models": ["group_parameters"]}
    witness = Witness("timm", cls, {"cautious": "caution"}, {"foreach": False}, ["amsgrad", *out], bare)
    found = without(next(x for x in cases.load(name.lower()) if x.id == case), out)
    assert trajectory(Package(witness), found, "float64")["sha256"] == ours(found)


def without(case: Case, names: tuple[str, ...]) -> Case:
    return Case(**{**vars(case), "hyper": {key: x for key, x in case.hyper.items() if key not in names}})


def ours(case: Case) -> Any:
    return trajectory(Reference(), case, "float64")["sha256"]


@NEEDS_KERNELS
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("master", [False, True])
def test_kernels_have_the_bits_of_the_reference_in_16_bits(name: str, master: bool) -> None:
    results = []
    for fused in (False, True):
        rng = np.random.default_rng(5)
        arrays = [rng.standard_normal(shape).astype(np.float16) for shape in ((33, 130), (5,), (), (0, 3))]
        parameters = [refoptim.Parameter(x, master=master) for x in arrays]
        settings = {"maximize": True, "cautious": True, "fused": fused, **MOMENTUM.get(name, {})}
        optimizer = getattr(refoptim, name)(parameters, **settings)
        for scale in (None, 4.0, None):
            optimizer.step(grads=[rng.standard_normal(x.shape).astype(np.float16) for x in arrays], grad_scale=scale)
        results.append([x.tobytes() for x in arrays])
    assert results[0] == results[1]


@FUSED
def test_where_nothing_agrees_nothing_moves(fused: bool) -> None:
    p = np.array([1.0, 2.0])
    optimizer = refoptim.SGD([p], lr=0.5, momentum=0.9, cautious=True, fused=fused)
    optimizer.step(grads=[np.ones(2)])
    assert p.tolist() == [0.5, 1.5]
    optimizer.step(grads=[np.full(2, -0.1)])
    assert p.tolist() == [0.5, 1.5]


@FUSED
def test_the_flag_may_change_between_steps(fused: bool) -> None:
    p, q = P.copy(), P.copy()
    changing, plain = (refoptim.Adam([x], lr=0.03, fused=fused) for x in (p, q))
    for k, g in enumerate(GRADS):
        changing.param_groups[0]["cautious"] = k == 3
        changing.step(grads=[g])
        plain.step(grads=[g])
        assert np.array_equal(p, q) == (k < 3)


@FUSED
def test_a_step_that_is_skipped_changes_nothing(fused: bool) -> None:
    p = P.copy()
    optimizer = refoptim.Adam([p], cautious=True, fused=fused)
    optimizer.step(grads=[np.full_like(p, np.inf)], found_inf=1.0)
    assert np.array_equal(p, P)


@FUSED
def test_numbers_beyond_16_bits_go_through_a_cautious_step_or_are_refused_as_in_a_plain_one(fused: bool) -> None:
    """Adam divides by such a learning rate in float32; SGD would use it in float16."""
    p, q = np.ones(2, np.float16), np.ones(2, np.float16)
    refoptim.Adam([p], lr=1e5, cautious=True, fused=fused).step(grads=[np.array([1e-4, 2.0], np.float16)])
    assert p.tolist() == [-np.inf] * 2
    optimizer = refoptim.SGD([q], lr=1e5, momentum=0.9, cautious=True, fused=fused)
    with pytest.raises(RuntimeError, match=r"type float16 without overflow: step_size = -100000\.0"):
        optimizer.step(grads=[np.ones(2, np.float16)])
    assert q.tolist() == [1.0] * 2


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(RuntimeError, match="cautious Adam does not support complex parameters"):
        refoptim.Adam([np.ones(2, np.complex64)], cautious=True)
    p = np.ones((3, 2))
    optimizer = refoptim.SGD([p], momentum=0.9, cautious=True)
    with pytest.raises(RuntimeError, match="cautious SGD does not support sparse gradients"):
        optimizer.step(grads=[refoptim.SparseGrad(np.array([[1]]), np.ones((1, 2)), (3, 2))])
    assert p.tolist() == np.ones((3, 2)).tolist()


def test_arrays_of_other_libraries_are_refused() -> None:
    torch = pytest.importorskip("torch", reason="the test uses torch")
    with pytest.raises(TypeError, match="cautious Adam counts elements"):
        refoptim.functional.adam([torch.ones(2)], [torch.ones(2)], None, 1, cautious=True)
    new, _ = refoptim.functional.adam([P], [GRADS[0]], None, 1, cautious=True)
    p = P.copy()
    refoptim.Adam([p], cautious=True).step(grads=[GRADS[0]])
    assert np.array_equal(new[0], p)
