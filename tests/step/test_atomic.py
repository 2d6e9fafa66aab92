"""A step is all or nothing: what fails changes nothing, and what is read is never written meanwhile."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from copy import copy, deepcopy
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.pictures import picture
from helpers.rooms import (
    DENSE,
    MEASURED,
    NAMES,
    SETTINGS,
    assert_equal_bits,
    assert_equal_runs,
    gradient,
    make,
    members,
    normal,
)
from helpers.wider import apart
from refoptim import SparseGrad
from refoptim.step import plan

DIFFERENTIABLE = [name for name in DENSE if name not in MEASURED]
SHAPES = [(4, 3), (2, 5), (6, 2), (3, 3)]


def grouped(name: str, arrays: list[Any], **settings: Any) -> Any:
    """Return an optimizer of two groups, the second with a setting of its own."""
    return make(name, [{"params": arrays[:2]}, {"params": arrays[2:], **apart(name, 0.011)}], **settings)


class Trial:
    """An optimizer that has taken some steps, and gradients for the next one."""

    def __init__(self, name: str, steps: int) -> None:
        self.arrays = [normal(i, *shape) for i, shape in enumerate(SHAPES)]
        self.optimizer = grouped(name, self.arrays)
        for k in range(steps):
            self.optimizer.step(grads=self.gradients(name, k))
        self.grads = self.gradients(name, 100)

    def gradients(self, name: str, k: int) -> list[Any]:
        return [gradient(name, 10 * k + i, x) for i, x in enumerate(self.arrays)]

    @property
    def last(self) -> Any:
        return members(self.optimizer)[-1]

    def fails(self, error: type[BaseException], act: Callable[[], Any] | None = None) -> None:
        """Fail unless the step raises ``error`` and nothing has changed, not even by making state."""
        act = act or (lambda: self.optimizer.step(grads=self.grads))
        before = picture([self.optimizer, self.arrays, self.grads])
        with pytest.raises(error):
            act()
        assert picture([self.optimizer, self.arrays, self.grads]) == before


@pytest.fixture(params=[0, 2], ids=["first step", "third step"])
def steps(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_last_gradient(name: str, steps: int) -> None:
    trial = Trial(name, steps)
    trial.grads[-1] = normal(0, 5, 5)
    trial.fails(ValueError)
    for p, g in zip(members(trial.optimizer), trial.grads, strict=True):
        p.grad = g
    trial.fails(ValueError, trial.optimizer.step)


@pytest.mark.parametrize("name", NAMES)
def test_a_hyperparameter_broken_meanwhile(name: str, steps: int) -> None:
    trial = Trial(name, steps)
    trial.optimizer.param_groups[1]["lr"] = float("nan")
    trial.fails(ValueError)


@pytest.mark.parametrize("name", NAMES)
def test_a_last_parameter_frozen_meanwhile(name: str, steps: int) -> None:
    trial = Trial(name, steps)
    trial.arrays[-1].flags.writeable = False
    trial.fails(ValueError)


@pytest.mark.parametrize("name", NAMES)
def test_state_of_another_shape(name: str) -> None:
    trial = Trial(name, 2)
    state = trial.optimizer.state[trial.last]
    key = next(key for key, x in state.items() if isinstance(x, np.ndarray))
    state[key] = state[key][:-1]
    trial.fails(ValueError)


@pytest.mark.parametrize("name", NAMES)
def test_no_memory_for_the_last_state(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(name, 0)
    trial.optimizer.state.clear()
    filled = plan.filled

    def full(like: Any, *rest: Any) -> Any:
        if like is trial.last.data:
            raise MemoryError
        return filled(like, *rest)

    monkeypatch.setattr(plan, "filled", full)
    trial.fails(MemoryError)


def test_gradients_that_end_in_an_error(steps: int) -> None:
    trial = Trial("Adam", steps)

    def computed() -> Iterator[Any]:
        yield from trial.grads[:-1]
        raise OverflowError

    trial.fails(OverflowError, lambda: trial.optimizer.step(grads=computed()))


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_closure_that_raises(steps: int, error: type[BaseException]) -> None:
    trial = Trial("NAdam", steps)

    def closure() -> float:
        raise error

    trial.fails(error, lambda: trial.optimizer.step(closure))


def test_a_closure_that_sets_a_wrong_gradient(steps: int) -> None:
    """The gradients it set stay, as they are not the step's."""
    trial = Trial("NAdam", steps)
    before = picture([trial.arrays, trial.optimizer.state, trial.optimizer.param_groups[0]["lr"]])

    def closure() -> float:
        for p in members(trial.optimizer):
            p.grad = normal(1, 6, 2)
        return 1.0

    with pytest.raises(
        ValueError, match=r"parameter 0 of group 0: the gradient must have shape \(4, 3\), got \(6, 2\)"
    ):
        trial.optimizer.step(closure)
    for p in members(trial.optimizer):
        p.grad = None
    assert picture([trial.arrays, trial.optimizer.state, trial.optimizer.param_groups[0]["lr"]]) == before


def test_a_pre_hook_that_raises(steps: int) -> None:
    trial = Trial("Adam", steps)

    def hook(*_: Any) -> None:
        raise LookupError

    with trial.optimizer.register_step_pre_hook(hook):
        trial.fails(LookupError)
    with refoptim.register_optimizer_step_pre_hook(hook):
        trial.fails(LookupError)


@pytest.mark.parametrize("result", [5, (1, 2, 3), [(), {}]], ids=repr)
def test_a_pre_hook_that_returns_something_else(result: Any) -> None:
    trial = Trial("Adam", 1)
    with trial.optimizer.register_step_pre_hook(lambda *_: result):
        trial.fails(RuntimeError)


def test_a_post_hook_that_raises_comes_after_the_whole_step() -> None:
    trial, other = Trial("Adam", 1), Trial("Adam", 1)

    def hook(*_: Any) -> None:
        raise LookupError

    with trial.optimizer.register_step_post_hook(hook), pytest.raises(LookupError):
        trial.optimizer.step(grads=trial.grads)
    other.optimizer.step(grads=other.grads)
    assert_equal_runs(trial.optimizer, other.optimizer)


def test_hooks_of_state_dicts_that_raise() -> None:
    trial = Trial("Adam", 2)
    saved = Trial("Adam", 1).optimizer.state_dict()

    def hook(*_: Any) -> None:
        raise LookupError

    with trial.optimizer.register_load_state_dict_pre_hook(hook):
        trial.fails(LookupError, lambda: trial.optimizer.load_state_dict(saved))
    with trial.optimizer.register_state_dict_post_hook(hook):
        trial.fails(LookupError, trial.optimizer.state_dict)


EXTREMES = {"float16": [6e-8, 3e-5, 6e4], "float32": [1e-45, 1e-30, 3e38], "float64": [5e-324, 1e-200, 1e308]}


def extreme(name: str, dtype: str, k: int) -> Any:
    """Return a gradient whose squares, sums and quotients leave the range of the dtype."""
    signs = np.sign(normal(k, 4, 3)).astype(dtype)
    g = np.resize(np.array([*EXTREMES[dtype], 0, 1], dtype), (4, 3)) * signs
    return SparseGrad([[1, 0, 1]], np.abs(g[[1, 0, 1]]), g.shape) if name == "SparseAdam" else g


@pytest.mark.parametrize("dtype", EXTREMES)
@pytest.mark.parametrize(
    ("name", "flag"), [*((name, {}) for name in NAMES), *((name, {"differentiable": True}) for name in DIFFERENTIABLE)]
)
def test_the_users_error_settings_do_not_matter(name: str, flag: dict[str, bool], dtype: str) -> None:
    def trained(setting: str) -> Any:
        with np.errstate(all=setting):
            optimizer = make(name, [normal(1, 4, 3, dtype=dtype)], **flag)
            for k in range(3):
                optimizer.step(grads=[extreme(name, dtype, k)])
            assert set(np.geterr().values()) == {setting}
        return optimizer

    assert_equal_runs(trained("raise"), trained("ignore"))


HUGE = {
    "SGD": dict(lr=1e300, momentum=0.5),
    "Adam": dict(lr=1e300, eps=1e-300),
    "Adagrad": dict(initial_accumulator_value=1e300),
    "Rprop": dict(lr=1e300, step_sizes=(1e-300, 1e300)),
    "ASGD": dict(lr=1e30, lambd=1e200, t0=0),
    "NAdam": dict(momentum_decay=1e308),
}


@pytest.mark.parametrize("name", HUGE)
def test_huge_settings_under_any_error_settings(name: str) -> None:
    """In float64, which holds them; ``test_limits`` has them in narrower types."""

    def trained(setting: str) -> Any:
        with np.errstate(all=setting):
            optimizer = getattr(refoptim, name)([normal(1, 3, dtype="float64")], **HUGE[name])
            for k in range(3):
                optimizer.step(grads=[normal(k, 3, dtype="float64")])
        return optimizer

    assert_equal_runs(trained("raise"), trained("ignore"))


def test_a_closure_runs_under_the_users_error_settings() -> None:
    seen = []
    p = refoptim.Parameter(normal(1, 3))

    def closure() -> float:
        seen.append(np.geterr())
        p.grad = normal(2, 3)
        return 1.0

    with np.errstate(over="raise", under="warn", divide="call", invalid="print"):
        refoptim.SGD([p]).step(closure)
        assert seen == [np.geterr()]


def mirrored(x: Any) -> list[Any]:
    return [x[::-1]]


ALIASES: dict[str, Callable[[Any, Any], list[Any]]] = {
    "each other": lambda x, y: [y, x],
    "themselves": lambda x, y: [x, y],
    "themselves reversed": lambda x, y: [x[::-1], y[:, ::-1]],
    "the first": lambda x, y: [x, x],
    "the second, transposed": lambda x, y: [y.T, y],
    "broadcast rows of the other": lambda x, y: [np.broadcast_to(y[0], x.shape), np.broadcast_to(x[-1], y.shape)],
}


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("alias", ALIASES.values(), ids=ALIASES)
@pytest.mark.parametrize("name", DENSE)
def test_gradients_that_are_parameters(name: str, alias: Callable[[Any, Any], list[Any]], foreach: bool) -> None:
    """They count as they are before the step, as copies would."""
    x, y = normal(1, 5, 5), normal(2, 5, 5)
    free = [x.copy(), y.copy()]
    aliased, apart = make(name, [x, y], foreach=foreach), make(name, free, foreach=foreach)
    for _ in range(3):
        apart.step(grads=[g.copy() for g in alias(*free)])
        aliased.step(grads=alias(x, y))
    assert_equal_runs(aliased, apart)


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Rprop"])
def test_a_long_gradient_that_is_its_parameter_reversed(name: str) -> None:
    """Long enough for several chunks, and threads."""
    x, free = normal(1, 200_003), normal(1, 200_003)
    aliased, apart = make(name, [x]), make(name, [free])
    for _ in range(2):
        apart.step(grads=[free[::-1].copy()])
        aliased.step(grads=[x[::-1]])
    assert_equal_runs(aliased, apart)


def from_a_buffer(x: Any) -> Any:
    buffer = bytearray(x.tobytes())
    return lambda: np.frombuffer(buffer, x.dtype).reshape(x.shape)


def from_a_file(x: Any, path: Any) -> Any:
    np.save(path / "x.npy", x)
    mapped = np.load(path / "x.npy", mmap_mode="r+")
    return lambda: mapped[:]


@pytest.mark.parametrize("foreign", ["buffer", "file"])
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_gradients_in_the_same_foreign_memory(name: str, foreign: str, tmp_path: Any) -> None:
    """Memory that NumPy did not allocate has an owner per array; addresses tell the truth."""
    values = normal(1, 6, 3)
    view = from_a_buffer(values) if foreign == "buffer" else from_a_file(values, tmp_path)
    x, free = view(), values.copy()
    aliased, apart = (make(name, [whole[:3], whole[3:]], foreach=False) for whole in (x, free))
    for _ in range(2):
        apart.step(grads=[free[3:].copy(), free[2::-1].copy()])
        aliased.step(grads=[view()[3:], view()[2::-1]])
    assert_equal_runs(aliased, apart)
    assert_equal_bits(view(), free)


@pytest.mark.parametrize("name", ["SGD", "SparseAdam", "Adagrad"])
def test_a_sparse_gradient_whose_values_are_a_parameter(name: str) -> None:
    more = {"weight_decay": 0} if name != "SparseAdam" else {}
    x, y = normal(1, 4, 3), normal(2, 2, 3)
    free = [x.copy(), y.copy()]
    aliased, apart = make(name, [x, y], **more), make(name, free, **more)

    def crossed(x: Any, y: Any) -> list[SparseGrad]:
        return [SparseGrad([[2, 1]], y, x.shape), SparseGrad([[1, 0]], x[1:3], y.shape)]

    for _ in range(3):
        apart.step(grads=deepcopy(crossed(*free)))
        aliased.step(grads=crossed(x, y))
    assert_equal_runs(aliased, apart)


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("name", ["SGD", "Adam", "Rprop"])
def test_subclasses_of_arrays_are_plain_arrays(name: str, differentiable: bool) -> None:
    """Above all matrices, whose products are not elementwise."""
    x = normal(1, 3, 3)
    matrix = make(name, [x.copy().view(np.matrix)], differentiable=differentiable)
    plain = make(name, [x], differentiable=differentiable)
    for k in range(3):
        matrix.step(grads=[normal(k, 3, 3).view(np.matrix)])
        plain.step(grads=[normal(k, 3, 3)])
    assert_equal_runs(matrix, plain)
    assert all(type(v) is np.ndarray for v in matrix.state[members(matrix)[0]].values() if not np.isscalar(v))


def test_interleaved_parameters() -> None:
    """Parameters may lie in one array as long as they share no element."""
    x = normal(1, 9)
    apart = make("Adam", [x[::2].copy(), x[1::2].copy()])
    inside = make("Adam", [x[::2], x[1::2]])
    for k in range(3):
        for optimizer in (inside, apart):
            optimizer.step(grads=[normal(k, 5), normal(k + 9, 4)])
    assert_equal_runs(inside, apart)
    assert_equal_bits(x[::2], members(apart)[0].data)


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_never_modified_nor_kept(name: str, maximize: bool) -> None:
    """Also where the update begins by turning them round or adding to them; and changing them later changes nothing."""
    arrays, others = ([normal(i, *shape) for i, shape in enumerate(SHAPES)] for _ in range(2))
    optimizer, other = (grouped(name, xs, maximize=maximize) for xs in (arrays, others))
    for k in range(3):
        grads = [gradient(name, 10 * k + i, x) for i, x in enumerate(arrays)]
        before = picture(grads)
        optimizer.step(grads=grads)
        assert picture(grads) == before
        held = [
            x for p in members(optimizer) for x in (p.data, *optimizer.state[p].values()) if isinstance(x, np.ndarray)
        ]
        parts = [x for g in grads for x in ((g.indices, g.values) if isinstance(g, SparseGrad) else (g,))]
        assert not any(np.shares_memory(x, y) for x in held for y in parts)
        other.step(grads=grads)
        for x in parts:
            x[...] = 0
    assert_equal_runs(optimizer, other)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_a_differentiable_step_makes_arrays_of_its_own(name: str) -> None:
    x, g = normal(1, 4, 3), normal(2, 4, 3)
    optimizer = make(name, [x], differentiable=True)
    for _ in range(2):
        old = members(optimizer)[0].data
        before = picture([old, g])
        optimizer.step(grads=[g])
        assert picture([old, g]) == before
        p = members(optimizer)[0]
        held = [g, old, p.data, *(v for v in optimizer.state[p].values() if isinstance(v, np.ndarray))]
        assert not any(np.shares_memory(a, b) for i, a in enumerate(held) for b in held[:i])


@pytest.mark.parametrize("name", ["Adagrad", "SGD"])
def test_a_differentiable_sparse_step_touches_its_rows_only(name: str) -> None:
    """With eps=0 the other rows of Adagrad would be 0 / 0."""
    more = {"eps": 0, "initial_accumulator_value": 0} if name == "Adagrad" else {"momentum": 0, "dampening": 0}
    plain, pure = (make(name, [normal(1, 4, 3)], weight_decay=0, differentiable=d, **more) for d in (False, True))
    for optimizer in (plain, pure):
        for k in range(3):
            optimizer.step(grads=[gradient("SparseAdam", k, normal(1, 4, 3))])
    assert_equal_runs(plain, pure)
    assert_equal_bits(members(pure)[0].data[2:], normal(1, 4, 3)[2:])


def test_a_step_after_the_state_was_thrown_away() -> None:
    """A plain dict does for the state, and a fresh one starts anew."""
    trial = Trial("Adam", 2)
    trial.optimizer.state = {}
    trial.optimizer.step(grads=trial.grads)
    assert [trial.optimizer.state[p]["step"] for p in members(trial.optimizer)] == [1] * 4


def test_every_optimizer_is_tried() -> None:
    exported = {name for name in refoptim.__all__ if isinstance(getattr(refoptim, name), type)}
    optimizers = {name for name in exported if issubclass(getattr(refoptim, name), refoptim.Optimizer)}
    assert set(SETTINGS) == optimizers - {"Optimizer", "LBFGS", "ConjugateGradient", "Lookahead", "SAM"}


class Halfway(refoptim.SGD):
    """A rule that measures, and whose update raises for all but the first block."""

    @classmethod
    def measure(cls, s: Any, p: Any, g: Any, *state: Any) -> dict[str, Any]:
        return {"blocks": iter([1])}

    @classmethod
    def update(cls, s: Any, p: Any, g: Any, *state: Any) -> tuple[Any, ...]:
        if next(s.blocks, 0) == 0:
            raise ArithmeticError("halfway")
        return super().update(s, p, g, *state)


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy,
    "deepcopy": deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
}


@pytest.mark.parametrize("way", COPIES.values(), ids=COPIES)
def test_what_is_half_done_goes_on_only_with_a_loaded_state(way: Callable[[Any], Any]) -> None:
    """Nor does a copy of it."""
    optimizer = Halfway([normal(1, 3000, 100)], lr=0.1)
    saved = optimizer.state_dict()
    with pytest.raises(ArithmeticError, match="halfway"):
        optimizer.step(grads=[normal(2, 3000, 100)])
    for torn in (optimizer, way(optimizer)):
        with pytest.raises(RuntimeError, match="the last step of this Halfway was left half done"):
            torn.step(grads=[normal(2, 3000, 100)])
    optimizer.load_state_dict(saved)
    with pytest.raises(ArithmeticError, match="halfway"):
        optimizer.step(grads=[normal(2, 3000, 100)])


def test_a_state_without_axes_that_arithmetic_turned_into_a_scalar() -> None:
    """NumPy returns scalars for arithmetic on arrays without axes; they count as such arrays."""
    ours, other = (make("Adam", [normal(1, 1).reshape(())]) for _ in range(2))
    for optimizer in (ours, other):
        optimizer.step(grads=[np.float32(2)])
    state, theirs = ours.state[members(ours)[0]], other.state[members(other)[0]]
    state["exp_avg"] = state["exp_avg"] * 2
    theirs["exp_avg"] *= 2
    for optimizer in (ours, other):
        optimizer.step(grads=[np.float32(2)])
    saved = ours.state_dict()
    saved["state"][0]["exp_avg"] = saved["state"][0]["exp_avg"] * 1
    ours.load_state_dict(saved)
    assert_equal_runs(ours, other)


class Clipped(refoptim.SGD):
    """A rule of one's own, which gives infinity where it means it."""

    @classmethod
    def scalars(cls, h: Any, k: int, registers: Any) -> dict[str, Any]:
        return {"size": -h.lr, "clip": float("inf")}

    @classmethod
    def update(cls, s: Any, p: Any, g: Any, *state: Any) -> tuple[Any, ...]:
        return (p + s.size * np.minimum(g, s.clip),)


def test_a_rule_of_ones_own_may_give_infinity() -> None:
    p = np.ones(3, np.float32)
    Clipped([p], lr=0.5).step(grads=[np.ones(3, np.float32)])
    assert p.tolist() == [0.5] * 3


def test_a_master_flag_set_by_hand_where_there_can_be_none() -> None:
    trial = Trial("Adam", 1)
    trial.last.master = True
    trial.fails(ValueError)
