"""Lookahead: the bits of three packages, exact arithmetic, faults, state, scalers and masters."""

from __future__ import annotations

import copy
import pickle
from fractions import Fraction
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers import wrapped
from helpers.faults import Interrupt, Lines, raised, traced
from refoptim import Lookahead, Parameter
from refoptim.amp import GradScaler
from refoptim.dialects import timm, torch_optimizer
from refoptim.transforms import MultiSteps

DIALECTS = {"timm": timm.Lookahead, "torch_optimizer": torch_optimizer.Lookahead}


def made(dtype: Any = "float64", pullback: str = "none", k: int = wrapped.K, **more: Any) -> Lookahead:
    settings = {"lr": wrapped.LR, "momentum": wrapped.MOMENTUM, **more}
    sgd = refoptim.SGD(wrapped.first(dtype), **settings)
    return Lookahead(sgd, alpha=wrapped.ALPHA, k=k, pullback_momentum=pullback)


def data(optimizer: Any) -> list[Any]:
    return [p.data.copy() for group in optimizer.param_groups for p in group["params"]]


def same(x: list[Any], y: list[Any]) -> bool:
    return len(x) == len(y) and all(a.tobytes() == b.tobytes() for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("pullback", wrapped.PULLBACKS)
def test_the_bits_of_pytorch_optimizer(pullback: str, dtype: str, fused: bool | None) -> None:
    from refoptim.engines import host

    if fused and host.missing():
        pytest.skip(f"no kernels for this computer: {host.missing()}")
    ours = made(dtype, pullback, fused=fused)
    for row in wrapped.gradients(dtype):
        ours.step(grads=row)
    entry = wrapped.recorded()[f"pytorch_optimizer {dtype} {pullback}"]
    assert entry["package"] == "pytorch-optimizer 4.1.0, torch 2.13.0"
    assert same(data(ours), wrapped.unpacked(entry["values"], dtype))


@pytest.mark.parametrize("package", wrapped.VERSIONS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_what_was_recorded_is_what_the_packages_give(torch: Any, package: str, dtype: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    for pullback in wrapped.pullbacks(package):
        live = wrapped.lookahead_of_packages(package, dtype, pullback)
        assert wrapped.packed(live) == wrapped.recorded()[f"{package} {dtype} {pullback}"]["values"]


@pytest.mark.parametrize("package", DIALECTS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_bits_of_others_that_begin_later(package: str, dtype: str) -> None:
    """They are those of the dialect; ours, begun with the first step that copies, differs by rounding."""
    rows = wrapped.gradients(dtype)
    first = wrapped.K if package == "timm" else 1
    exact = DIALECTS[package](made(dtype).optimizer, wrapped.ALPHA, wrapped.K)
    early, late = made(dtype), made(dtype)
    for k, row in enumerate(rows):
        exact.step(grads=row)
        early.step(grads=row)
        (late.optimizer if k < first else late).step(grads=row)
        late = Lookahead(late.optimizer, wrapped.ALPHA, wrapped.K) if k + 1 == first else late
    theirs = wrapped.unpacked(wrapped.recorded()[f"{package} {dtype} none"]["values"], dtype)
    assert same(data(exact), theirs)
    for x, y in zip(data(late), theirs, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=16 * np.finfo(dtype).eps)
    assert not np.allclose(data(early)[0], theirs[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("package", DIALECTS)
def test_a_saved_run_that_began_later_continues(package: str) -> None:
    rows, whole = wrapped.gradients(), DIALECTS[package](made().optimizer, wrapped.ALPHA, wrapped.K)
    for row in rows:
        whole.step(grads=row)
    for saved in range(wrapped.K + 2):
        begun, other = (DIALECTS[package](made().optimizer, wrapped.ALPHA, wrapped.K) for _ in range(2))
        for row in rows[:saved]:
            begun.step(grads=row)
        for p, x in zip(other.param_groups[0]["params"], data(begun), strict=True):
            p.data[...] = x
        other.load_state_dict(begun.state_dict())
        assert other.count == begun.count
        for row in rows[saved:]:
            other.step(grads=row)
        assert same(data(other), data(whole))
    with pytest.raises(ValueError, match="count"):
        made().load_state_dict({**begun.state_dict(), "lookahead": {**begun.state_dict()["lookahead"], "count": -1}})


def test_two_steps_by_exact_arithmetic() -> None:
    p, slow = Fraction(3, 2), Fraction(3, 2)
    w = np.array([1.5])
    ours = Lookahead(refoptim.SGD([w], lr=0.25), alpha=0.75, k=2)
    for i, g in enumerate((1, -3, 2, 7)):
        ours.step(grads=[np.array([float(g)])])
        p -= Fraction(1, 4) * g
        if i % 2:
            slow += Fraction(3, 4) * (p - slow)
            p = slow
        assert w[0] == float(p) and Fraction(float(p)) == p and ours.count == (i + 1) % 2


def test_a_parameter_without_gradient_is_drawn_back_too() -> None:
    x, y = np.zeros(1), np.zeros(1)
    ours = Lookahead(refoptim.SGD([x, y], lr=1.0), alpha=0.5, k=2)
    ours.step(grads=[np.ones(1), np.ones(1)])
    ours.step(grads=[np.ones(1), None])
    assert x.tolist() == [-1.0] and y.tolist() == [-0.5]


@pytest.mark.parametrize("dtype", ["float16", "complex64", "complex128"])
def test_other_storages(dtype: str) -> None:
    """alpha 1 is the optimizer itself, alpha 0 the slow copy, and a half of values with few digits is exact."""
    start, g = np.ones(5000, dtype), np.full(5000, 0.5, dtype)
    for alpha, expected in ((1.0, 0.5), (0.0, 1.0), (0.5, 0.75)):
        w = start.copy()
        Lookahead(refoptim.SGD([w], lr=1.0), alpha=alpha, k=1).step(grads=[g])
        assert (w == expected).all() and w.dtype == dtype


@pytest.mark.parametrize("pullback", ["none", "reset", "pullback"])
@pytest.mark.parametrize("dtype", ["float64", "float16", "complex64"])
def test_a_parameter_without_axes_goes_as_one_with_one_element(dtype: str, pullback: str) -> None:
    found = []
    for shape in ((), (1,)):
        ours = Lookahead(refoptim.SGD([np.full(shape, 1.5, dtype)], lr=0.1, momentum=0.5), 0.3, 2, pullback)
        for k in range(5):
            ours.step(grads=[np.full(shape, k - 0.7, dtype)])
        found.append([x.tobytes() for x in data(ours)])
    assert found[0] == found[1]


def test_a_master_copy_is_what_is_drawn_back() -> None:
    p = Parameter(np.ones(3, np.float16), master=True)
    ours = Lookahead(refoptim.SGD([p], lr=2.0**-13), alpha=0.5, k=1)
    for _ in range(3):
        ours.step(grads=[np.ones(3, np.float16)])
    expected = np.float32(1 - 3 * 2.0**-14)
    assert (ours.state[p]["master"] == expected).all() and (p.data == np.float16(expected)).all()
    assert ours._slow[p].dtype == np.float32 and (ours._slow[p] == expected).all()


def test_arrays_of_cupy(fake_cupy: Any) -> None:
    """The stand-in for CuPy, whose arrays NumPy alone cannot read."""
    arrays = [fake_cupy.asarray(x) for x in wrapped.first()]
    sgd = refoptim.SGD(arrays, lr=wrapped.LR, momentum=wrapped.MOMENTUM, fused=False)
    ours, other = Lookahead(sgd, wrapped.ALPHA, wrapped.K, "pullback"), made(pullback="pullback")
    for row in wrapped.gradients():
        ours.step(grads=[fake_cupy.asarray(g) for g in row])
        other.step(grads=row)
    assert same([fake_cupy.asnumpy(x) for x in arrays], data(other))


def test_what_is_wrong_changes_nothing() -> None:
    ours, rows = made(pullback="pullback"), wrapped.gradients()
    for row in rows[:2]:
        ours.step(grads=row)
    before, state = data(ours), ours.state_dict()
    with pytest.raises(ValueError, match="shape"):
        ours.step(grads=[np.ones(3), *rows[2][1:]])
    good = ours._slow[ours.param_groups[0]["params"][1]]
    ours._slow[ours.param_groups[0]["params"][1]] = np.ones(2)
    with pytest.raises(ValueError, match="slow copy"):
        ours.step(grads=rows[2])
    ours._slow[ours.param_groups[0]["params"][1]] = good
    assert same(data(ours), before) and ours.count == 2
    assert repr(ours.state_dict()) == repr(state)


def test_a_synchronization_that_fails_is_told_and_no_step_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, rows = made(k=1), wrapped.gradients()

    def broken(*arguments: Any) -> None:
        raise ArithmeticError("broken")

    monkeypatch.setattr(ours, "_move", broken)
    with pytest.raises(ArithmeticError, match="broken"):
        ours.step(grads=rows[0])
    with pytest.raises(RuntimeError, match="left half done"):
        ours.step(grads=rows[0])


def test_memory_that_runs_out_once_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, other, row = made(k=1), made(k=1), wrapped.gradients()[0]
    move, failed = ours._move, []

    def short(part: Any) -> None:
        if not failed:
            failed.append(True)
            raise MemoryError
        move(part)

    monkeypatch.setattr(ours, "_move", short)
    ours.step(grads=row)
    other.step(grads=row)
    assert failed and same(data(ours), data(other))


@pytest.mark.parametrize("large", [False, True], ids=["small", "on threads"])
def test_an_exception_anywhere_comes_before_the_step_or_after_it(large: bool) -> None:
    """Before every 17th line of the package that a synchronising step runs; on threads, arrays are large."""

    def fresh() -> Lookahead:
        shape = (1_000_000,) if large else (3, 4)
        ours = Lookahead(refoptim.SGD([np.ones(shape), np.ones(5)], lr=0.5, momentum=0.5), 0.5, 1, "pullback")
        ours.step(grads=[np.ones(shape), np.ones(5)])
        return ours

    whole = fresh()
    before, row = (data(whole), repr(whole.state_dict())), [np.full_like(p, 2.0) for p in data(whole)]
    count = Lines()
    with traced(count):
        whole.step(grads=row)
    after = data(whole), repr(whole.state_dict())
    seen = set()
    for at in range(1, count.count + 1, 211 if large else 17):
        ours = fresh()
        with pytest.raises(Interrupt), traced(Lines(raised, at)):
            ours.step(grads=row)
        state = repr(ours.state_dict())
        assert any(same(data(ours), x) and state == y for x, y in (before, after))
        if same(data(ours), before[0]):
            ours.step(grads=row)
            seen.add("before")
        assert same(data(ours), after[0])
    assert seen == {"before"}


def test_a_skipped_step_does_not_count() -> None:
    ours, other, rows = made(), made(), wrapped.gradients()
    assert ours.step(grads=rows[0], found_inf=1.0) is None and ours.count == 0
    for i, row in enumerate(rows):
        ours.step(grads=row)
        other.step(grads=row)
        assert ours.step(grads=row, found_inf=1.0) is None and ours.count == (i + 1) % wrapped.K
    assert same(data(ours), data(other))


def test_with_a_scaler() -> None:
    ours, other, scaler = made("float32"), made("float32"), GradScaler(init_scale=8.0, growth_interval=10**6)
    members = ours.param_groups[0]["params"]
    for i, row in enumerate(wrapped.gradients("float32")):
        scaler.scale(1.0)
        bad = i % 4 == 1
        for p, g in zip(members, row, strict=True):
            p.grad = np.full_like(g, np.inf) if bad else g * np.float32(scaler.get_scale())
        scaler.step(ours)
        scaler.update()
        if not bad:
            other.step(grads=row)
    assert same(data(ours), data(other)) and scaler.get_scale() == 1.0


@pytest.mark.parametrize("pullback", wrapped.PULLBACKS)
def test_a_saved_run_continues(pullback: str) -> None:
    rows, whole, begun, other = wrapped.gradients(), made(pullback=pullback), made(pullback=pullback), made()
    for row in rows:
        whole.step(grads=row)
    for row in rows[:4]:
        begun.step(grads=row)
    for resumed in (other, copy.deepcopy(begun), pickle.loads(pickle.dumps(begun))):
        if resumed is other:
            for p, x in zip(other.param_groups[0]["params"], data(begun), strict=True):
                p.data[...] = x
            other.load_state_dict(begun.state_dict())
        assert isinstance(resumed, Lookahead) and resumed.pullback_momentum == pullback
        for row in rows[4:]:
            resumed.step(grads=row)
        assert same(data(resumed), data(whole))


def test_a_state_dict_goes_by_names() -> None:
    first, second = {"a": np.zeros(2), "b": np.ones(2)}, {"b": np.ones(2), "a": np.zeros(2)}
    ours, other = (Lookahead(refoptim.SGD(x.items(), lr=0.5), k=3) for x in (first, second))
    ours.step(grads={"a": np.ones(2), "b": np.ones(2)})
    saved = ours.state_dict()
    saved["lookahead"]["slow"] = [np.full(2, 5.0), np.full(2, 7.0)]
    other.load_state_dict(saved)
    assert [other._slow[p][0] for p in other.param_groups[0]["params"]] == [7.0, 5.0]
    for wrong in (
        {},
        ours.optimizer.state_dict(),
        {**saved, "lookahead": {**saved["lookahead"], "count": 3}},
        {**saved, "lookahead": {**saved["lookahead"], "slow": [np.ones(3), np.ones(2)]}},
        {**saved, "lookahead": {**saved["lookahead"], "slow": []}},
    ):
        before = repr(other.state_dict())
        with pytest.raises(ValueError):
            other.load_state_dict(wrong)
        assert repr(other.state_dict()) == before


def test_a_checkpoint_holds_it(tmp_path: Any) -> None:
    from refoptim import checkpoint

    ours, other, rows = made(), made(), wrapped.gradients()
    for row in rows[:4]:
        ours.step(grads=row)
    checkpoint.save(tmp_path / "x.safetensors", optimizer=ours)
    checkpoint.restore(tmp_path / "x.safetensors", optimizer=other)
    assert repr(other.state_dict()) == repr(ours.state_dict()) and other.count == 1


def test_groups_schedulers_hooks_and_text() -> None:
    ours, seen = made(), []
    extra = np.zeros(2)
    ours.add_param_group({"params": [extra], "lr": 1.0})
    assert [group["lr"] for group in ours.param_groups] == [0.1, 1.0] and len(ours._slow) == 4
    with pytest.raises(ValueError):
        ours.add_param_group({"params": [extra]})
    schedule = refoptim.lr_scheduler.ExponentialLR(ours, 0.5)
    handle = ours.register_step_post_hook(lambda optimizer, args, kwargs: seen.append(optimizer))
    for row in wrapped.gradients()[:3]:
        ours.step(grads=[*row, np.ones(2)])
        schedule.step()
    handle.remove()
    assert seen == [ours.optimizer] * 3 and ours.param_groups[1]["lr"] == 0.125
    assert extra.tolist() == pytest.approx([-0.7 * (1.0 + 1.9 * 0.5 + 2.71 * 0.25)] * 2)
    assert repr(ours).startswith("Lookahead (alpha: 0.7, k: 3, pullback_momentum: none, count: 0) of SGD (")
    ours.param_groups[0]["params"][0].grad = np.ones(7)
    ours.zero_grad()
    assert ours.param_groups[0]["params"][0].grad is None


def test_around_what_calls_a_closure_or_gathers() -> None:
    x, y = np.array([3.0]), np.array([3.0])
    ours, other = Lookahead(refoptim.LBFGS([x], lr=0.5), alpha=0.5, k=1), refoptim.LBFGS([y], lr=0.5)
    ours.step(lambda: (float(x[0] ** 2), [2 * x]))
    other.step(lambda: (float(y[0] ** 2), [2 * y]))
    assert x[0] == 3.0 - (3.0 - y[0]) * 0.5
    w = np.zeros(1)
    gathering = Lookahead(MultiSteps(refoptim.SGD([w], lr=1.0), 2), alpha=0.5, k=2)
    counts = []
    for _ in range(4):
        gathering.step(grads=[np.ones(1)])
        counts.append(gathering.count)
    assert counts == [0, 1, 1, 0] and w.tolist() == [-1.0]


def test_arguments() -> None:
    sgd = refoptim.SGD([np.zeros(1)], lr=0.1)
    for wrong, error in (
        ({"alpha": 1.5}, ValueError),
        ({"alpha": float("nan")}, ValueError),
        ({"k": 0}, ValueError),
        ({"pullback_momentum": "all"}, ValueError),
        ({"pullback_momentum": "reset"}, ValueError),
    ):
        with pytest.raises(error):
            Lookahead(sgd, **wrong)
    with pytest.raises(TypeError, match=r"must be an Optimizer, as in Lookahead\(optim.SGD\(params, lr=0.1\)\), got "):
        Lookahead([np.zeros(1)])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="takes no Sharded optimizer"):
        Lookahead(refoptim.distributed.Sharded(refoptim.SGD, [np.zeros(1)], lr=0.1))
    making = Lookahead(refoptim.SGD([np.zeros(1)], lr=0.1, differentiable=True))
    with pytest.raises(RuntimeError, match="differentiable"):
        making.step(grads=[np.ones(1)])
