"""The pure rules on tensors of torch: NumPy's bits, and derivatives by everything that goes in."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.derivatives import (
    SMOOTH,
    STEPS,
    loss,
    names,
    numbers,
    path,
    slope,
    slope_by_number,
    slopes_by_array,
    trajectory,
)
from refoptim import SparseGrad, functional

torch: Any = pytest.importorskip("torch", reason="torch is not installed")

CASES = [(rule, name) for rule in SMOOTH for name in names(rule)]


@pytest.fixture
def double_registers() -> Iterator[None]:
    """Keep NAdam's and ASGD's registers in double precision, so that nothing is rounded to float32 on the way."""
    refoptim.set_default_dtype("float64")
    yield
    refoptim.set_default_dtype("float32")


def tensors(arrays: list[Any], **more: Any) -> list[Any]:
    return [torch.tensor(x, **more) for x in arrays]


@pytest.mark.sweep(5)
@pytest.mark.usefixtures("double_registers")
@pytest.mark.parametrize(("rule", "name"), CASES)
def test_derivatives_by_settings(rule: str, name: str) -> None:
    i = names(rule).index(name)
    values: list[Any] = numbers(rule)
    values[i] = torch.tensor(values[i], dtype=torch.float64, requires_grad=True)
    reached = loss(rule, values, tensors(path()))  # by a number that only chooses a sign there is no way back
    (found,) = torch.autograd.grad(reached, [values[i]]) if reached.requires_grad else (torch.zeros(()),)
    np.testing.assert_allclose(found.item(), slope_by_number(rule, i), rtol=1e-6, atol=1e-9)


@pytest.mark.sweep(3)
@pytest.mark.usefixtures("double_registers")
@pytest.mark.parametrize("rule", SMOOTH)
def test_derivatives_by_parameter_and_gradients(rule: str) -> None:
    inputs = tensors(path(), requires_grad=True)
    found = torch.autograd.grad(loss(rule, numbers(rule), inputs), inputs, materialize_grads=True)
    for i in (0, 1, STEPS // 2):
        np.testing.assert_allclose(found[i].numpy(), slopes_by_array(rule, i), rtol=1e-6, atol=1e-8)


def first_state(rule: str) -> dict[str, Any]:
    """Return state that is not at its first values, positive as averages of squares are."""
    _, state = trajectory(rule, numbers(rule), *(lambda p, *grads: (p, grads[:3]))(*path()))
    return state


@pytest.mark.usefixtures("double_registers")
@pytest.mark.parametrize("rule", SMOOTH)
def test_derivatives_by_state(rule: str) -> None:
    p, g, *_, weights = path()
    state = first_state(rule)
    state |= {name: 1.5 * x for name, x in state.items() if name == "lr_max"}  # away from the kink of a maximum

    def after(state: dict[str, Any], p: Any, g: Any, weights: Any) -> Any:
        (new,), _ = getattr(functional, rule)([p], [g], [state], 4, **SMOOTH[rule])
        return (new * weights).sum()

    given = {name: torch.tensor(x, requires_grad=True) for name, x in state.items()}
    reached = after(given, *tensors([p, g, weights]))
    moves = reached.requires_grad  # state may only choose, as signs do
    found = torch.autograd.grad(reached, [*given.values()], allow_unused=True) if moves else [None] * len(given)
    slopes = {name: np.zeros(()) if d is None else d.numpy() for name, d in zip(given, found, strict=True)}
    for name, x in state.items():
        expected = slope(lambda h, name=name, x=x: after({**state, name: x * h}, p, g, weights), 1.0)
        np.testing.assert_allclose((slopes[name] * x).sum(), expected, rtol=1e-6, atol=1e-9, err_msg=name)
    assert any(each.any() for each in slopes.values()) == moves


TORCH = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "nadam": "NAdam", "radam": "RAdam", "adamax": "Adamax"}
TORCH |= {"adadelta": "Adadelta", "adagrad": "Adagrad", "rmsprop": "RMSprop", "rprop": "Rprop", "asgd": "ASGD"}

TENSOR_LR = ("sgd", "adam", "adamw", "nadam", "radam")
"""Rules whose learning rate may be a tensor in torch's differentiable steps."""


def torch_step(rule: str, settings: Any, p: Any, g: Any) -> Any:
    """Take the first step with torch's differentiable optimizer."""
    p = p.clone()
    p.grad = g
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
        getattr(torch.optim, TORCH[rule])([p], differentiable=True, **settings).step()
    return p


@pytest.fixture
def double_counts() -> Iterator[None]:
    """Let torch count steps in double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double_counts", "double_registers")
@pytest.mark.parametrize("rule", [rule for rule in TORCH if rule != "rprop"])  # whose gradients only choose
def test_derivatives_equal_those_of_torch(rule: str) -> None:
    """By the parameter and the gradient, and by the learning rate where torch has that; SGD's buffer it detaches."""
    p, g, *_ = path()
    lr = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    settings = {**SMOOTH[rule]} | ({"momentum": 0, "dampening": 0} if rule == "sgd" else {})
    settings |= {"lr": lr} if rule in TENSOR_LR else {}
    inputs = [*tensors([p, g], requires_grad=True)]
    (ours,), _ = getattr(functional, rule)([inputs[0]], [inputs[1]], None, 1, **settings)
    theirs = torch_step(rule, settings, *inputs)
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-12)
    by = [*inputs, lr] if rule in TENSOR_LR else inputs
    mine, its = (torch.autograd.grad(x.sin().sum(), by) for x in (ours, theirs))
    for x, y in zip(mine, its, strict=True):
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=1e-9, atol=1e-12)


def test_second_derivatives() -> None:
    """By a decay rate: it bends the bias correction too."""
    p, g, h, *_ = tensors(path())

    def first(value: Any) -> tuple[Any, Any]:
        beta = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        params, state = functional.adam([p], [g], None, 1, lr=0.1, betas=(0.9, beta))
        (new,), _ = functional.adam(params, [h], state, 2, lr=0.1, betas=(0.9, beta))
        return beta, torch.autograd.grad(new.sum(), beta, create_graph=True)[0]

    beta, found = first(0.7)
    (second,) = torch.autograd.grad(found, beta)
    np.testing.assert_allclose(second.item(), slope(lambda x: first(x)[1].detach(), 0.7), rtol=1e-8)


@pytest.mark.parametrize("name", ["weight_decay", "momentum"])
def test_derivatives_at_zero(name: str) -> None:
    """A setting that is followed counts, though it is 0; what comes out is what comes out without it."""
    p, g, h, *_ = path()
    zero = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    params, state = functional.sgd(tensors([p]), tensors([g]), None, 1, lr=0.5, **{name: zero})
    params, _ = functional.sgd(params, tensors([h]), state, 2, lr=0.5, **{name: zero})
    expected = {"weight_decay": -0.5 * (p + p - 0.5 * g), "momentum": -0.5 * g}
    np.testing.assert_array_equal(params[0].detach().numpy(), p - 0.5 * g - 0.5 * h)
    (found,) = torch.autograd.grad(params[0].sum(), zero)
    np.testing.assert_allclose(found.item(), expected[name].sum(), rtol=1e-12)


@pytest.mark.parametrize("dampening", [0.25, torch.tensor(0.25), torch.tensor(0.0, requires_grad=True)])
def test_dampening_counts_for_nothing_without_momentum(dampening: Any) -> None:
    """Not for a momentum of 0 that is followed either: the steps are p - lr * g, whatever the dampening."""
    p, *grads = path()
    zero = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    params, state = tensors([p]), None
    for t, g in enumerate(tensors(grads), 1):
        params, state = functional.sgd(params, [g], state, t, lr=0.5, momentum=zero, dampening=dampening)
        p = p - 0.5 * g.numpy()
        np.testing.assert_array_equal(params[0].detach().numpy(), p)
    assert not params[0].requires_grad


@pytest.mark.parametrize("followed", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "complex64"])
@pytest.mark.parametrize("rule", SMOOTH)
def test_bits_are_those_of_numpy(rule: str, dtype: str, followed: bool) -> None:
    """Whether the settings are numbers or tensors that require gradients."""
    rng, values = np.random.default_rng(3), numbers(rule)
    arrays = [rng.standard_normal((40, 50)) for _ in range(5)]
    arrays = [(x + 1j * x[::-1] if dtype == "complex64" else x).astype(dtype) for x in arrays]
    p, state = trajectory(rule, values, arrays[0], arrays[1:])
    given: list[Any] = tensors(values, dtype=torch.float64, requires_grad=True) if followed else values
    with np.errstate(all="raise"):
        new, kept = trajectory(rule, given, *(lambda p, *grads: (p, grads))(*tensors(arrays)))
    assert new.requires_grad == followed
    assert state.keys() == kept.keys()
    for theirs, ours in [(new, p), *((kept[name], x) for name, x in state.items())]:
        found = np.asarray(theirs.detach() if hasattr(theirs, "detach") else theirs)
        assert found.dtype == ours.dtype
        assert found.tobytes() == ours.tobytes()


def test_roots_are_correctly_rounded() -> None:
    """torch's own are not, on a CPU; a root of a special number is that number's."""
    from refoptim.numerics.namespaces import namespace_of

    rng = np.random.default_rng(0)
    special = [0.0, -0.0, np.inf, np.nan, 4.0, 5e-324, 2.0**-1022]
    x = np.concatenate([rng.random(20_000) * 10 ** rng.uniform(-6, 6, 20_000), special])
    wrong = 0
    for dtype in ("float32", "float64"):
        numbers_ = x.astype(dtype)
        given = torch.tensor(numbers_, requires_grad=True)
        found = namespace_of(given).sqrt(given)
        assert found.detach().numpy().tobytes() == np.sqrt(numbers_).tobytes()
        wrong += int((given.detach().sqrt().numpy() != np.sqrt(numbers_))[:20_000].sum())
        (slopes,) = torch.autograd.grad(found[:20_000].sum(), given)
        np.testing.assert_allclose(slopes[:20_000].numpy(), 0.5 / np.sqrt(numbers_[:20_000]), rtol=1e-6)
    assert wrong, "torch rounds correctly here: what puts it right can go"


JIT = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


@JIT
def test_transforms_of_torch() -> None:
    """grad, vmap and jvp of torch.func, one in another too."""
    p, g, *_ = tensors(path())

    def after(lr: Any) -> Any:
        (new,), _ = functional.adam([p], [g], None, 1, lr=lr)
        return (new * new).sum()

    rates = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    slopes = torch.stack([torch.func.grad(after)(lr) for lr in rates])
    h = 2.0**-16
    differences = torch.stack([(after(lr + h) - after(lr - h)) / (2 * h) for lr in rates])
    torch.testing.assert_close(slopes, differences, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(after))(rates), slopes, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.func.jvp(after, (rates[0],), (torch.ones_like(rates[0]),))[1], slopes[0])


@JIT
def test_a_decay_rate_that_is_only_traced() -> None:
    """lerp has two formulas: both are computed, and the value chooses."""
    p, g, *_ = tensors(path())

    def after(beta: Any) -> Any:
        (new,), _ = functional.adam([p], [g], None, 1, betas=(beta, 0.9))
        return new

    betas = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    found = torch.func.vmap(after)(betas)
    torch.testing.assert_close(found, torch.stack([after(beta) for beta in betas]), rtol=1e-13, atol=0)


def test_states_share_no_memory_with_what_was_given() -> None:
    p, g = tensors(path()[:2])
    (new,), (state,) = functional.sgd([p], [g], None, 1, momentum=0.9)
    before = state["momentum_buffer"].clone()
    g.zero_()
    p.zero_()
    torch.testing.assert_close(state["momentum_buffer"], before)
    (new,), (state,) = functional.asgd([p], [g + 1], None, 1)
    ax = state["ax"].clone()
    new.zero_()
    torch.testing.assert_close(state["ax"], ax)


@JIT
@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda x: functional.adafactor([x], [x], None, 1),
            "params[0]: Adafactor sums over elements, in an order",
        ),
        (lambda x: functional.muon([x], [x], None, 1), "params[0]: Muon sums over elements, in an order"),
        (
            lambda x: functional.sgd([x], [x.to_sparse()], None, 1),
            "params[0]: sparse gradients go with arrays of NumPy",
        ),
        (
            lambda x: functional.sgd([x], [SparseGrad([[0]], np.ones((1, 5)), (3, 5))], None, 1),
            "params[0]: sparse gradients go with arrays of NumPy and CuPy alone: make the gradient dense",
        ),
        (lambda x: functional.sgd([x], [x.numpy()], None, 1), "the gradient must belong to torch, as other arrays do"),
        (lambda x: functional.sgd([x.numpy()], [x], None, 1), "the gradient must be an array that understands NumPy's"),
        (lambda x: functional.sgd([x.long()], [x.long()], None, 1), "params[0]: dtype int64 is not supported: choose"),
        (
            lambda x: functional.sgd([x.to(torch.float8_e5m2)], [x.to(torch.float8_e5m2)], None, 1),
            "float8_e5m2 is not supported: choose one of float16, bfloat16, float32, float64",
        ),
        (lambda x: functional.sgd([x], [x.float()], None, 1), "the gradient must have dtype float64, got float32"),
        (
            lambda x: functional.sgd([x.numpy()], [x.numpy()], None, 1, lr=torch.tensor(0.1, requires_grad=True)),
            "lr belongs to torch and cannot be followed through arrays of NumPy",
        ),
        (
            lambda x: torch.func.vmap(lambda b: functional.radam([x], [x], None, 1, betas=(0.9, b))[0][0])(x[0].abs()),
            "the step depends on the value of betas[1], which has none while it is traced by jit or vmap: give a",
        ),
    ],
)
def test_refused(act: Any, message: str) -> None:
    x = torch.tensor(path()[0])
    before = x.clone()
    with pytest.raises(TypeError) as raised:
        act(x)
    assert message in str(raised.value)
    torch.testing.assert_close(x, before)


@pytest.mark.parametrize("lr", [-0.1, float("nan")])
def test_followed_settings_are_checked(lr: float) -> None:
    x = torch.tensor(path()[0])
    with pytest.raises(ValueError, match="Invalid learning rate"):
        functional.sgd([x], [x], None, 1, lr=torch.tensor(lr, requires_grad=True))


def test_followed_settings_that_are_too_large() -> None:
    x = torch.tensor(path()[0]).half()
    with pytest.raises(RuntimeError, match="value cannot be converted to type float16 without overflow: step_size"):
        functional.sgd([x], [x], None, 1, lr=torch.tensor(1e5, requires_grad=True))


def test_derivatives_through_the_two_halves() -> None:
    """By a learning rate that is given to ``scalars``, and by a number of ``varying``."""
    p, g, *_ = tensors(path())
    lr = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    static, varying = functional.adamw.scalars(1, lr=lr, weight_decay=0.1)
    (new,), _ = functional.adamw.apply(static, varying, [p], [g], None)
    (whole,), _ = functional.adamw([p], [g], None, 1, lr=lr, weight_decay=0.1)
    torch.testing.assert_close(new, whole, rtol=0, atol=0)
    mine, its = (torch.autograd.grad(x.sin().sum(), lr)[0] for x in (new, whole))
    torch.testing.assert_close(mine, its)
    assert abs(mine) > 0.1
    shrink = torch.tensor(varying["shrink"].item(), dtype=torch.float64, requires_grad=True)
    numbers_ = {**varying, "shrink": shrink}
    (new,), _ = functional.adamw.apply(static, numbers_ | {"step_size": 0.0}, [p], [g], None)
    torch.testing.assert_close(torch.autograd.grad(new.sum(), shrink)[0], p.sum())
