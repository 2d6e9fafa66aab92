"""The two halves of a pure step: what varies is what is declared, and together they are the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers import wider
from helpers.derivatives import SMOOTH
from helpers.oracle import assert_same_bits, gradient, sparse_gradient
from refoptim import functional
from refoptim.step.rule import resolve, step_scalars

SETTINGS: dict[str, dict[str, Any]] = {
    **SMOOTH,
    **{wider.STEMS[name]: wider.WIDER[name] for name in wider.WIDER},
    "adafactor": dict(lr=0.2, beta2_decay=-0.7, eps=(None, 0.02), d=1.3, weight_decay=0.05),
    "muon": dict(lr=0.05, weight_decay=0.3, momentum=0.7, ns_steps=2),
    "sparse_adam": dict(lr=0.05, betas=(0.7, 0.9), eps=1e-3),
    **{wider.STEMS[name]: x for name, x in wider.WIDER.items()},
}
RULES = {
    cls.__module__.rpartition(".")[2]: cls
    for cls in vars(refoptim).values()
    if isinstance(cls, type) and hasattr(cls, "scalars")
}
RULES = {name: cls for name, cls in RULES.items() if name in functional.__all__ and name not in ("lbfgs", "base")}


def scalars_of(name: str, t: int, lr: float) -> dict[str, Any]:
    """Compute all scalars of a step, after steps at the same rate."""
    rule = RULES[name]
    h = resolve(rule, rule([{"params": []}], **{**SETTINGS[name], "lr": lr}).defaults)
    registers = {key: np.float32(x) for key, x in rule.registers(h).items()}
    for k in range(1, t):
        registers = rule.advance(h, k, registers)
    if rule.shares_registers:  # which no advance renews
        registers["d"] *= np.float32(t)
    return step_scalars(rule, h, t, registers)


@pytest.mark.parametrize("name", [name for name in RULES if name != "conjugate_gradient"])
def test_what_varies_is_declared(name: str) -> None:
    """Flags that turn stay apart: they choose the form of a step."""
    seen = [scalars_of(name, t, lr) for t in (1, 2, 3, 7, 30) for lr in (0.01, 0.05)]
    numbers = [key for key, x in seen[0].items() if not isinstance(x, bool)]
    assert {key for key in numbers if len({repr(x[key]) for x in seen}) > 1} == RULES[name].varying


@pytest.mark.parametrize("name", SETTINGS)
def test_the_halves_make_the_step(name: str) -> None:
    step, rng = getattr(functional, name), np.random.default_rng(2)
    arrays = [gradient(rng, (4, 6), "float32") for _ in range(2)]
    whole, own = arrays, None
    halves, kept, state = arrays, None, None
    for t in range(1, 9):
        grads = [sparse_gradient(rng, x.shape, 1, "float32") for x in arrays]
        grads = grads if name == "sparse_adam" else [gradient(rng, x.shape, "float32") for x in arrays]
        settings = {**SETTINGS[name], "lr": 0.05 / t}
        whole, own = step(whole, grads, own, t, **settings)
        before = state and state[0] if RULES[name].shares_registers else kept
        static, kept = step.scalars(t, before, **settings)
        assert hash(static) == hash(step.scalars(t, state and state[0], **settings)[0])
        halves, state = step.apply(static, kept, halves, grads, state)
        for x, y, mine, its in zip(whole, halves, own, state, strict=True):
            assert_same_bits(y, x, name)
            assert mine.keys() == its.keys()
            for key, value in mine.items():
                assert_same_bits(np.asarray(its[key]), np.asarray(value), key)


ONE = np.ones(3)


def halves(name: str = "adam", **varying: Any) -> tuple[Any, dict[str, Any]]:
    static, found = getattr(functional, name).scalars(1)
    return static, {**found, **varying}


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda: functional.adam.scalars(0), ValueError, "t must be an integer in [1, inf), got 0"),
        (lambda: functional.adam.scalars(1, lr=-1), ValueError, "Invalid learning rate: -1 (lr"),
        (lambda: functional.adam.scalars(1, fused=True), RuntimeError, "fused kernels write in place"),
        (lambda: functional.adam.scalars(1, rounding="up"), ValueError, "rounding must be 'each' or 'store'"),
        (lambda: functional.nadam.scalars(2), ValueError, "step 2 of NAdam needs mu_product after the step before"),
        (
            lambda: functional.sgd.apply(*halves(), [ONE], [ONE], None),
            TypeError,
            "static must be what sgd.scalars returns, got Static(rule=<class 'refoptim.optimizers.adam.Adam'>",
        ),
        (lambda: functional.adam.apply(None, {}, [ONE], [ONE], None), TypeError, "static must be what adam.scalars"),
        (
            lambda: functional.adam.apply(halves()[0], {"lr": 0.1}, [ONE], [ONE], None),
            TypeError,
            "varying must be what scalars returns beside static, got {'lr': 0.1}",
        ),
        (
            lambda: functional.adam.apply(*halves(shrink="1"), [ONE], [ONE], None),
            TypeError,
            "shrink must be a real number, got '1'",
        ),
        (
            lambda: functional.sgd.apply(*halves("sgd", step_size=-1e39), [ONE.astype("f4")], [ONE.astype("f4")], None),
            RuntimeError,
            "params[0]: value cannot be converted to type float32 without overflow: step_size = -1e+39",
        ),
        (lambda: functional.adam.apply(*halves(), ONE, [ONE], None), TypeError, "params must be a list or tuple"),
    ],
)
def test_refused(act: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        act()
    assert message in str(raised.value)
