"""Settings that are too large for the type in which a step uses them: refused, by whoever runs the step."""

from __future__ import annotations

from importlib.util import find_spec
from math import inf, nextafter
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.kernels import NEEDS_KERNELS
from helpers.refusals import refused
from refoptim import Parameter, SparseGrad, functional

NEEDS_ML_DTYPES = pytest.mark.skipif(not find_spec("ml_dtypes"), reason="bfloat16 arrays need ml_dtypes")

BOTH: list[tuple[str, dict[str, Any], str, str]] = [
    ("SGD", dict(lr=1e5), "float16", "step_size = -100000.0"),
    ("SGD", dict(lr=65505), "float16", "step_size = -65505"),
    ("SGD", dict(lr=1e39), "bfloat16", "step_size = -1e+39"),
    ("SGD", dict(lr=1e39), "float32", "step_size = -1e+39"),
    ("SGD", dict(lr=1e39), "complex64", "step_size = -1e+39"),
    ("SGD", dict(lr=0.1, weight_decay=1e5), "float16", "weight_decay = 100000.0"),
    ("SGD", dict(lr=0.1, weight_decay=1e39), "float32", "weight_decay = 1e+39"),
    ("SGD", dict(lr=0.1, momentum=0.9, dampening=-1e39), "float32", "undamped = 1e+39"),
    ("SGD", dict(lr=0.1, momentum=7e4, nesterov=True), "float16", "momentum = 70000.0"),
    ("Adam", dict(lr=1e39), "float16", "step_size = -1.0"),
    ("Adam", dict(lr=1e39), "float32", "step_size = -1.0"),
    ("Adam", dict(lr=1e38), "float32", "step_size = -1.0"),
    ("Adam", dict(weight_decay=1e5), "float16", "weight_decay = 100000.0"),
    ("Adam", dict(weight_decay=1e39), "bfloat16", "weight_decay = 1e+39"),
    ("AdamW", dict(lr=1e39, weight_decay=0), "float32", "step_size = -1.0"),
    ("NAdam", dict(lr=1e40), "float32", "gradient_step = -"),
    ("RAdam", dict(weight_decay=1e39), "float32", "weight_decay = 1e+39"),
    ("Adamax", dict(lr=1e39), "float32", "step_size = -1.0"),
    ("Adadelta", dict(lr=1e5), "float16", "step_size = -100000.0"),
    ("Adadelta", dict(lr=1e39), "float32", "step_size = -1e+39"),
    ("Adagrad", dict(lr=1e39), "float32", "step_size = -1e+39"),
    ("Adagrad", dict(weight_decay=1e5), "float16", "weight_decay = 100000.0"),
    ("RMSprop", dict(lr=1e39), "float32", "step_size = -1e+39"),
    ("Rprop", dict(lr=1e5), "float16", "the first step_size = 100000.0"),
    ("Rprop", dict(lr=1e39), "float32", "the first step_size = 1e+39"),
    ("Rprop", dict(step_sizes=(1e-6, 1e39)), "float32", "largest = 1e+39"),
    ("Rprop", dict(etas=(0.5, 1e39)), "float32", "eta_plus = 1e+39"),
    ("ASGD", dict(weight_decay=1e5), "float16", "weight_decay = 100000.0"),
    ("ASGD", dict(weight_decay=1e39), "float32", "weight_decay = 1e+39"),
    ("Adafactor", dict(eps=(1e39, 1e-3)), "float32", "eps[0] * eps[0]"),
    ("Adafactor", dict(eps=(1e20, 1e-3)), "float32", "eps[0] * eps[0]"),
    ("Muon", dict(momentum=1e39), "float32", "momentum"),
    ("Muon", dict(eps=1e39), "float32", "eps"),
    ("Muon", dict(ns_coefficients=(1e39, 1.0, 1.0)), "float64", "ns_coefficients[0]"),
    ("Muon", dict(lr=1e39), "float32", "step_size"),
]
"""Optimizer, settings, dtype, and what the message names: torch refuses these too."""

STRICTER: list[tuple[str, dict[str, Any], str, str]] = [
    ("SGD", dict(lr=0.1, momentum=1e39), "float32", "momentum = 1e+39"),
    ("Adam", dict(eps=1e5), "float16", "eps = 100000.0"),
    ("Adam", dict(eps=1e39), "float32", "eps = 1e+39"),
    ("Adam", dict(lr=1e308), "float64", "step_size = -inf"),
    ("AdamW", dict(lr=1e20, weight_decay=1e20), "float32", "shrink = -1"),
    ("RAdam", dict(lr=1e39), "float32", "lr = 1e+39"),
    ("Adadelta", dict(eps=1e39), "float32", "eps = 1e+39"),
    ("Adamax", dict(eps=1e5), "float16", "eps = 100000.0"),
    ("RMSprop", dict(momentum=1e39), "float32", "momentum = 1e+39"),
    ("RMSprop", dict(eps=1e39), "float32", "eps = 1e+39"),
    ("Rprop", dict(etas=(0.5, 7e4)), "float16", "eta_plus = 70000.0"),
    ("ASGD", dict(lr=1e39), "float64", "the first eta = 1e+39"),
    ("ASGD", dict(lambd=1e300), "float32", "shrink = -"),
    ("ASGD", dict(lr=1e39, lambd=0.0), "float32", "the first eta = 1e+39"),
    ("Adafactor", dict(eps=(None, 1e42)), "float32", "eps[1] * rho"),
    ("Adafactor", dict(lr=1e30, weight_decay=1e30), "float32", "shrink"),
    ("Muon", dict(lr=3e38, adjust_lr_fn="match_rms_adamw"), "float32", "step_size"),
    ("Muon", dict(lr=1e20, weight_decay=1e20), "float32", "shrink"),
]
"""The same where torch goes on, with an infinity in place of the number."""

SHAPE = (64, 3)


def ones(dtype: str, *shape: int, value: float = 0.5) -> Any:
    number = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
    return np.full(shape or SHAPE, value).astype(number)


def pure_name(name: str) -> str:
    return str(getattr(refoptim, name).__module__.rpartition(".")[2])


def stem(dtype: str) -> str:
    return f"value cannot be converted to type {dtype}"


@pytest.mark.parametrize(("name", "settings", "dtype", "_"), BOTH)
def test_what_torch_refuses(torch: Any, name: str, settings: dict[str, Any], dtype: str, _: str) -> None:
    """The witness: torch raises RuntimeError in the first two steps."""
    p = torch.nn.Parameter(torch.full(SHAPE, 0.5, dtype=getattr(torch, dtype)))
    optimizer = getattr(torch.optim, name)([p], **settings)
    p.grad = torch.full_like(p, 0.25)
    with pytest.raises(RuntimeError, match=r"value cannot be converted to type .* without overflow"):
        for _step in range(2):
            optimizer.step()


@pytest.mark.parametrize("how", ["each", "store", pytest.param("kernels", marks=NEEDS_KERNELS)])
@pytest.mark.parametrize(("name", "settings", "dtype", "message"), BOTH + STRICTER)
def test_a_step(name: str, settings: dict[str, Any], dtype: str, message: str, how: str) -> None:
    """Nothing changes, neither the parameter in trouble nor the one before it."""
    others, trouble, g = ones("float64", *SHAPE), ones(dtype), ones(dtype, value=0.25)
    optimizer = getattr(refoptim, name)(
        [{"params": [others]}, {"params": [trouble], **settings}], fused=True if how == "kernels" else None
    )
    with refoptim.rounding("store" if how == "store" else "each"):
        refused(
            [optimizer, others, trouble, g],
            lambda: optimizer.step(grads=[np.full(SHAPE, 0.25), g]),
            RuntimeError,
            message,
        )


@pytest.mark.parametrize(("name", "settings", "dtype", "message"), BOTH + STRICTER)
def test_a_pure_step(name: str, settings: dict[str, Any], dtype: str, message: str) -> None:
    x, g = ones(dtype), ones(dtype, value=0.25)
    pure = getattr(functional, pure_name(name))
    for rounding in ("each", "store"):
        refused([x, g], lambda how=rounding: pure([x], [g], None, 1, rounding=how, **settings), RuntimeError, message)


def test_the_message() -> None:
    with pytest.raises(RuntimeError) as raised:
        refoptim.SGD([ones("float16")], lr=1e5).step(grads=[ones("float16")])
    assert str(raised.value).startswith(
        "parameter 0 of group 0: value cannot be converted to type float16 without overflow: step_size = -100000.0 "
        "(lr=100000.0, momentum=0,"
    )


@pytest.mark.parametrize("dtype", ["float16", "float32", pytest.param("bfloat16", marks=NEEDS_ML_DTYPES)])
def test_a_sum_that_is_made_with_the_optimizer(torch: Any, dtype: str) -> None:
    """torch refuses it in the constructor too; a group that is refused leaves nothing behind."""
    for act in (
        lambda: torch.optim.Adagrad([torch.ones(3, dtype=getattr(torch, dtype))], initial_accumulator_value=1e39),
        lambda: refoptim.Adagrad([ones(dtype)], initial_accumulator_value=1e39),
    ):
        with pytest.raises(RuntimeError, match=r"value cannot be converted to type .* without overflow"):
            act()
    optimizer = refoptim.Adagrad([ones("float64")])
    group = {"params": [ones(dtype)], "initial_accumulator_value": 1e39}
    refused([optimizer], lambda: optimizer.add_param_group(group), RuntimeError, f"{stem(dtype)} without overflow")


LARGEST = {"float16": 65504.0, "bfloat16": 255 * 2.0**120, "float32": 2.0**128 - 2.0**104}
"""The largest number of each type; torch refuses the next double, though it would be rounded down."""


@pytest.mark.parametrize("dtype", ["float16", "float32", pytest.param("bfloat16", marks=NEEDS_ML_DTYPES)])
def test_the_limit(dtype: str) -> None:
    x, above = ones(dtype), nextafter(LARGEST[dtype], inf)
    refoptim.SGD([x], lr=LARGEST[dtype]).step(grads=[np.zeros_like(x)])
    refused([x], lambda: refoptim.SGD([x], lr=above).step(grads=[np.zeros_like(x)]), RuntimeError, stem(dtype))


FINE: list[tuple[str, dict[str, Any], str]] = [
    ("SGD", dict(lr=1e39), "float64"),
    ("SGD", dict(lr=0.1, dampening=1e30, weight_decay=1e-60), "float32"),
    ("Adam", dict(lr=1e20, weight_decay=1e20), "float32"),
    ("Adam", dict(lr=1e5), "float16"),
    ("AdamW", dict(lr=1e-39, weight_decay=1e39), "float32"),
    ("RMSprop", dict(momentum=7e4), "float16"),
    ("Rprop", dict(step_sizes=(0, 6e4)), "float16"),
    ("ASGD", dict(t0=inf), "float16"),
    ("NAdam", dict(momentum_decay=1e308), "float32"),
    ("Adagrad", dict(lr_decay=1e308), "float32"),
    ("Adafactor", dict(lr=1e300, d=1e300), "float16"),
    ("Adafactor", dict(beta2_decay=-1e300), "float32"),
    ("Muon", dict(weight_decay=1e39), "float32"),
]
"""Settings beyond the type that no step uses as such: these go on."""


@pytest.mark.parametrize("fused", [None, pytest.param(True, marks=NEEDS_KERNELS)])
@pytest.mark.parametrize(("name", "settings", "dtype"), FINE)
def test_what_no_step_uses(torch: Any, name: str, settings: dict[str, Any], dtype: str, fused: bool | None) -> None:
    """torch takes these steps."""
    p = torch.nn.Parameter(torch.full(SHAPE, 0.5, dtype=getattr(torch, dtype)))
    p.grad = torch.full_like(p, 0.25)
    other = getattr(torch.optim, name)([p], **settings)
    x = ones(dtype)
    optimizer = getattr(refoptim, name)([x], **settings, fused=fused)
    for k in range(3):
        other.step()
        optimizer.step(grads=[ones(dtype, value=0.25)])
        assert optimizer.state_dict()["state"].get(0, {}).get("step", k + 1) == k + 1


def test_a_master_copy_is_float32() -> None:
    """What float16 cannot hold, its copy in float32 may: 0.5 - 1e5 * 2**-4 = -6249.5."""
    x = ones("float16", 3)
    optimizer = refoptim.SGD([Parameter(x, master=True)], lr=1e5)
    optimizer.step(grads=[np.full(3, 2.0**-4, np.float16)])
    assert x.tolist() == [float(np.float16(-6249.5))] * 3
    optimizer.param_groups[0]["lr"] = 1e39
    refused([optimizer, x], lambda: optimizer.step(grads=[x.copy()]), RuntimeError, stem("float32"))


@pytest.mark.parametrize("name", ["SGD", "SparseAdam", "Adagrad"])
def test_sparse(name: str) -> None:
    x = ones("float32")
    optimizer = getattr(refoptim, name)([x], lr=1e41)
    grad = SparseGrad([[0, 2]], ones("float32", 2, 3), x.shape)
    refused([optimizer, x], lambda: optimizer.step(grads=[grad]), RuntimeError, f"{stem('float32')} without overflow")


@NEEDS_KERNELS
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_setting_between_two_steps_of_kernels(dtype: str) -> None:
    """The second step repeats the launches of the first, the third would."""
    x, g = ones(dtype), ones(dtype)
    optimizer = refoptim.SGD([x], lr=0.1, momentum=0.5, fused=True)
    for _ in range(2):
        optimizer.step(grads=[g])
    optimizer.param_groups[0]["lr"] = 1e39
    refused([optimizer, x, g], lambda: optimizer.step(grads=[g]), RuntimeError, stem(dtype))


def test_a_register_that_overflows_later() -> None:
    """Settings changed between steps: eta would be 1e39 after the next one, and is a float32."""
    x = ones("float64")
    optimizer = refoptim.ASGD([x], lambd=0)
    optimizer.step(grads=[x.copy()])
    optimizer.param_groups[0]["lr"] = 1e39
    refused([optimizer, x], lambda: optimizer.step(grads=[x.copy()]), RuntimeError, "eta after step 2 (lr=1e+39")


@pytest.mark.parametrize("name", ["LBFGS", "ConjugateGradient"])
def test_a_length_of_moves(torch: Any, name: str) -> None:
    """torch's LBFGS refuses it at its first move."""
    p = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(RuntimeError, match="without overflow"):
        torch.optim.LBFGS([p], lr=1e39).step(lambda: backward(p))
    x = Parameter(ones("float32", 3))
    optimizer = getattr(refoptim, name)([x], lr=1e39)

    def closure() -> float:
        raise AssertionError("the closure must not be called")

    refused([optimizer, x], lambda: optimizer.step(closure), RuntimeError, f"{stem('float32')} without overflow: lr")


def backward(p: Any) -> Any:
    loss = (p * p).sum()
    p.grad = None
    loss.backward()
    return loss


class Odd(refoptim.SGD):
    """A rule whose array half looks at its numbers in ways of its own."""

    @classmethod
    def update(cls, s: Any, p: Any, g: Any, *state: Any) -> tuple[Any, ...]:
        return (p - np.clip(g, -s.step_size, s.step_size) * np.where(p > 0, s.step_size, 1),)


def test_a_rule_of_the_users() -> None:
    x = ones("float32")
    optimizer = Odd([x], lr=1e39)
    refused([optimizer, x], lambda: optimizer.step(grads=[x.copy()]), RuntimeError, "step_size = -1e+39")


@pytest.mark.parametrize("setting", ["raise", "warn", "ignore"])
def test_the_users_error_settings_do_not_matter(setting: Any) -> None:
    optimizer, g = refoptim.Adam([ones("float16")], lr=1e300), ones("float16")
    with np.errstate(all=setting):
        refused([optimizer, g], lambda: optimizer.step(grads=[g]), RuntimeError, stem("float32"))
