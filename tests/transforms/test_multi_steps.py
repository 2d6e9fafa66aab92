"""MultiSteps: the mean in its order by exact arithmetic, steps as of one batch, and all or nothing."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import refoptim
from refoptim import Parameter
from refoptim.transforms import MultiSteps

SHAPES = [(7,), (3, 4), ()]


def draws(k: int, dtype: Any = np.float64) -> list[list[Any]]:
    rng = np.random.default_rng(5)
    return [[np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in SHAPES] for _ in range(k)]


def made(kind: str = "AdamW", dtype: Any = np.float64, **more: Any) -> Any:
    return getattr(refoptim, kind)([np.ones(shape, dtype) for shape in SHAPES], lr=0.1, **more)


def data(optimizer: Any) -> list[Any]:
    return [p.data.copy() for group in optimizer.param_groups for p in group["params"]]


def same(x: list[Any], y: list[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(x, y, strict=True))


def running_mean(rows: list[list[Any]]) -> list[Any]:
    """Each operation exact, then rounded, element by element."""
    found = []
    for column in zip(*rows, strict=True):
        a = [0.0] * column[0].size
        for n, g in enumerate(column):
            for i, x in enumerate(np.ravel(g).tolist()):
                difference = float(Fraction(x) - Fraction(a[i]))
                a[i] = float(Fraction(a[i]) + Fraction(float(Fraction(difference) / (n + 1))))
        found.append(np.array(a).reshape(column[0].shape))
    return found


@pytest.mark.parametrize("kind", ["SGD", "AdamW", "Muon", "Adafactor", "RMSprop"])
@pytest.mark.parametrize("mean", [True, False])
def test_a_step_is_that_of_the_gradients_together(kind: str, mean: bool) -> None:
    rows = draws(3)
    if kind == "Muon":
        ours, other = (refoptim.Muon([np.ones((3, 4))], lr=0.1) for _ in range(2))
        rows = [[row[1]] for row in rows]
    else:
        ours, other = made(kind), made(kind)
    steps = MultiSteps(ours, 3, mean=mean)
    before = data(ours)
    for i in range(2):
        assert steps.step(grads=rows[i]) is False and steps.count == i + 1 and same(data(ours), before)
    assert steps.step(grads=rows[2]) is True and steps.count == 0
    total = [x + y + z for x, y, z in zip(*rows, strict=True)]
    other.step(grads=running_mean(rows) if mean else total)
    assert same(data(ours), data(other)) and not same(data(ours), before)


def test_a_kernel_takes_them_too() -> None:
    from refoptim.engines import host

    if host.missing():
        pytest.skip(f"no kernels for this computer: {host.missing()}")
    rows, fused, other = draws(2), made(fused=True), made()
    for optimizer in (fused, other):
        steps = MultiSteps(optimizer, 2)
        for _ in range(3):
            for row in rows:
                steps.step(grads=row)
    assert same(data(fused), data(other))


def test_gradients_of_the_parameters_are_taken() -> None:
    rows, ours, other = draws(2), made(), made()
    steps = MultiSteps(ours, 2)
    for row in rows:
        for p, g in zip(ours.param_groups[0]["params"], row, strict=True):
            p.grad = g
        steps.step()
    other.step(grads=running_mean(rows))
    assert same(data(ours), data(other))


def test_a_missing_gradient_counts_as_zero_and_none_at_all_as_none() -> None:
    ours = made("SGD")
    steps = MultiSteps(ours, 2)
    steps.step(grads=[None, np.full((3, 4), 2.0), None])
    steps.step(grads=[np.full(7, 4.0), None, None])
    first, second, third = data(ours)
    assert first.tolist() == [1 - 0.1 * 2] * 7 and np.array_equal(second, np.full((3, 4), 1 - 0.1 * 1)) and third == 1
    assert len(ours.state) <= 2


def test_sixteen_bits_add_up_in_float32() -> None:
    rows, ours, other = draws(3, np.float16), made("SGD", np.float16), made("SGD", np.float16)
    steps = MultiSteps(ours, 3)
    for row in rows:
        steps.step(grads=row)
    a = [np.zeros(shape, np.float32) for shape in SHAPES]
    for n, row in enumerate(rows):
        a = [x + (g.astype(np.float32) - x) / np.float32(n + 1) for x, g in zip(a, row, strict=True)]
    other.step(grads=[x.astype(np.float16) for x in a])
    assert same(data(ours), data(other))


def test_scaled_losses() -> None:
    rows, ours, other = draws(2), made(), made()
    steps = MultiSteps(ours, 2)
    for row in rows:
        steps.step(grads=[g * 8 for g in row], grad_scale=8.0)
    other.step(grads=running_mean(rows))
    assert same(data(ours), data(other))
    before = data(ours)
    steps.step(grads=rows[0], grad_scale=8.0, found_inf=1.0)
    with pytest.raises(ValueError, match=r"grad_scale must be that of the first of 2 calls, 8\.0, got 4\.0"):
        steps.step(grads=rows[1], grad_scale=4.0)
    assert steps.count == 1 and steps.step(grads=rows[1], grad_scale=8.0) is True
    assert same(data(ours), before) and steps.count == 0, "an overflow in one call skips the step they make"
    for row in rows:
        steps.step(grads=row)
    other.step(grads=running_mean(rows))
    assert same(data(ours), data(other)), "and leaves nothing behind"


def test_what_is_wrong_changes_nothing() -> None:
    ours, rows = made(), draws(2)
    steps = MultiSteps(ours, 2)
    steps.step(grads=rows[0])
    before, state = data(ours), steps.state_dict()
    for wrong, error in (
        ([np.ones(3), *rows[1][1:]], ValueError),
        (rows[1][:2], ValueError),
        ([refoptim.SparseGrad([[0]], [1.0], (7,)), *rows[1][1:]], TypeError),
    ):
        with pytest.raises(error):
            steps.step(grads=wrong)
        assert same(data(ours), before) and steps.count == 1
    ours.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match="learning rate"):
        steps.step(grads=rows[1])
    assert same(data(ours), before) and steps.count == 1
    assert all(np.array_equal(x, y) for x, y in zip(steps.state_dict()["sums"], state["sums"], strict=True))


def test_an_interrupt_leaves_the_step_and_the_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A post hook is the first Python that runs after the changes: what it raises comes after both."""
    ours = made()
    steps = MultiSteps(ours, 1)
    before = data(ours)

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    handle = ours.register_step_post_hook(interrupted)
    with pytest.raises(KeyboardInterrupt):
        MultiSteps.step(steps, grads=draws(1)[0])
    assert not same(data(ours), before) and steps.count == 0 and not steps._sums
    handle.remove()
    two = MultiSteps(ours, 2)
    two.step(grads=draws(1)[0])
    before = data(ours)
    handle = ours.register_step_post_hook(interrupted)
    with pytest.raises(KeyboardInterrupt):
        two.step(grads=draws(1)[0])
    assert not same(data(ours), before) and two.count == 0 and not two._sums


def test_a_saved_run_continues() -> None:
    rows = draws(6)
    whole, first, second = made(), made(), made()
    steps = MultiSteps(whole, 3)
    for row in rows:
        steps.step(grads=row)
    begun = MultiSteps(first, 3)
    for row in rows[:4]:
        begun.step(grads=row)
    saved = begun.state_dict()
    resumed = MultiSteps(second, 3)
    for p, x in zip(second.param_groups[0]["params"], data(first), strict=True):
        p.data[...] = x
    resumed.load_state_dict(saved)
    for row in rows[4:]:
        resumed.step(grads=row)
    assert same(data(second), data(whole))
    for wrong in ({}, {**saved, "count": 3}, {**saved, "sums": saved["sums"][:1]}, {**saved, "sums": [np.ones(3)] * 3}):
        with pytest.raises(ValueError):
            resumed.load_state_dict(wrong)
    assert resumed.count == 0


def test_a_closure_gives_the_gradients_and_its_loss_comes_back() -> None:
    rows, ours, other, by_hand = draws(4), made(), made(), made()
    steps, pairs = MultiSteps(ours, 2), MultiSteps(by_hand, 2)
    members = ours.param_groups[0]["params"]
    for i, row in enumerate(rows):

        def set_them(row: list[Any] = row, i: int = i) -> float:
            for p, g in zip(members, row, strict=True):
                p.grad = g
            return float(i)

        assert steps.step(set_them) == i
        assert pairs.step(lambda row=row, i=i: (float(i), row)) == i
    other.step(grads=running_mean(rows[:2]))
    other.step(grads=running_mean(rows[2:]))
    assert same(data(ours), data(other)) and same(data(by_hand), data(other))
    before = data(ours)
    with pytest.raises(ZeroDivisionError):
        steps.step(lambda: 1 / 0)
    with pytest.raises(TypeError, match="not both"):
        steps.step(lambda: 0.0, grads=rows[0])
    assert same(data(ours), before) and steps.count == 0


@pytest.mark.parametrize("between", [False, True], ids=["update at the end", "update after each"])
@pytest.mark.parametrize("fused", [None, True])
def test_a_scaler_takes_it(fused: bool | None, between: bool) -> None:
    """The scale stays while gradients gather, and an overflow in one call skips the step and halves the scale."""
    from refoptim.amp import GradScaler
    from refoptim.engines import host

    if fused and host.missing():
        pytest.skip(f"no kernels for this computer: {host.missing()}")
    rows, ours, other = draws(9, np.float32), made(dtype=np.float32, fused=fused), made(dtype=np.float32)
    steps, scaler, plain = MultiSteps(ours, 3), GradScaler(init_scale=8.0, growth_interval=1), MultiSteps(other, 3)
    scales, stepped = [], []
    for i, row in enumerate(rows):
        scaler.scale(1.0)
        scales.append(scaler.get_scale())
        for p, g in zip(ours.param_groups[0]["params"], row, strict=True):
            p.grad = np.full_like(g, np.inf) if i == 4 else g * np.float32(scaler.get_scale())
        stepped.append(scaler.step(steps))
        if between or stepped[-1]:
            scaler.update()
        if i not in (3, 4, 5):
            plain.step(grads=row)
    assert scales == [8.0] * 3 + [16.0] * 3 + [8.0] * 3 and scaler.get_scale() == 16.0
    assert stepped == [False, False, True] * 3 and same(data(ours), data(other))
    with pytest.raises(RuntimeError, match="Closure use"):
        scaler.step(steps, lambda: 0.0)


def test_arguments() -> None:
    with pytest.raises(TypeError, match=r"must be an Optimizer, as in MultiSteps\(optim.SGD\(params, lr=0.1\)\), got "):
        MultiSteps(Parameter(np.zeros(1)), 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps"):
        MultiSteps(made(), 0)
    with pytest.raises(TypeError, match="mean"):
        MultiSteps(made(), 2, mean=1)  # type: ignore[arg-type]


def test_the_mean_is_that_of_optax() -> None:
    optax = pytest.importorskip("optax", reason="optax is not installed")
    jax = pytest.importorskip("jax", reason="jax is not installed")
    rows, ours = draws(3), made("SGD")
    with jax.enable_x64(True):
        params = [jax.numpy.asarray(x) for x in data(ours)]
        transform = optax.MultiSteps(optax.sgd(0.1), 3, accumulator_dtype="float64")
        state = transform.init(params)
        for row in rows:
            updates, state = transform.update([*map(jax.numpy.asarray, row)], state, params)
            params = optax.apply_updates(params, updates)
    steps = MultiSteps(ours, 3)
    for row in rows:
        steps.step(grads=row)
    for x, y in zip(data(ours), params, strict=True):
        np.testing.assert_allclose(x, np.asarray(y), rtol=4e-16, atol=0)
