"""The base of all schedulers: epochs, replay, state dicts. It knows no schedule by name.

A scheduler says in ``get_lr`` what the learning rates of the epoch ``last_epoch`` are, mostly as a function of those
before it, which stand in the groups of the optimizer. Everything else follows from running ``step`` on a copy:

- a step is tried on a copy of the scheduler and of the groups, and taken over only if nothing failed (``_trial``);
- ``lr_at`` and ``preview`` run a copy forward and throw it away;
- a scheduler constructed with ``last_epoch=N`` runs from the beginning to epoch N + 1 (``_replay``), so it stands where
  an uninterrupted run would, bit for bit.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from numbers import Integral
from typing import Annotated, Any, ClassVar, TypeVar
from weakref import ref

import numpy as np

from ..numerics.arith import Array
from ..optimizers.base import Optimizer
from ..step.groups import Group
from ..step.hyper import Count, Hyper, Interval, Real, declared, is_number, number
from ..step.rule import resolve
from .plain import as_number, like, memory, plain, recall, remembered, without_functions

S = TypeVar("S", bound="LRScheduler")

LR = Any
"""A learning rate: a Python number, or a NumPy scalar of the dtype of the array that holds it."""

LAST_EPOCH = Count("the last epoch of the run to be continued, -1 to begin a new one", interval=Interval("[-1, inf)"))

LastEpoch = Annotated[int, LAST_EPOCH]
Gamma = Annotated[float, Real("the factor by which the learning rate is multiplied")]
Iterations = Annotated[int, Count("the epochs that the change takes", interval=Interval("[0, inf)"))]
LowestRate = Annotated[float, Real("the lowest learning rate")]

EPOCH_DEPRECATED = (
    "The epoch parameter in `scheduler.step()` was not necessary and is being deprecated where possible. Please use "
    "`scheduler.step()` to step the scheduler. An epoch given sets `last_epoch` to it, and the closed form of the "
    "schedule is used where there is one."
)

NOT_SAVED = frozenset({"optimizer", "_schedulers", "_resumed", "_is_initial", "_get_lr_called_within_step"})
"""Attributes that no state dict holds."""


@dataclass(frozen=True)
class Whole(Count):
    """An integer; anything else is refused with a ValueError, as torch does for some arguments."""

    def _resolve(self, name: str, value: Any) -> int:
        if not is_number(value, Integral):
            raise ValueError(f"{self.stem.format(name=name, value=value)} ({name} must be an integer in {self.range})")
        return super()._resolve(name, value)


EPOCHS = Count("a number of epochs", interval=Interval("[0, inf)"))


class Stage:
    """Stands in for an optimizer while something is tried: its groups are copies, all else is the optimizer's."""

    def __init__(self, optimizer: Any) -> None:
        self.actual = optimizer
        for i, group in enumerate(optimizer.param_groups):
            check_lr(i, group)
        self.param_groups: list[Group] = [copy_group(group) for group in optimizer.param_groups]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.actual, name)

    def take_over(self) -> None:
        """Give the optimizer's groups the values of the copies; arrays of learning rates are written in place."""
        for group, tried in zip(self.actual.param_groups, self.param_groups, strict=True):
            lr = tried.pop("lr")
            group.update(tried)
            write_lr(group, lr)


def is_array(x: Any) -> bool:
    """Tell whether ``x`` is an array, not a NumPy scalar."""
    return type(x) is not float and hasattr(x, "shape") and not isinstance(x, np.generic)


def copy_group(group: Group) -> Group:
    """Copy a group; of its values only the array of the learning rate is copied too."""
    return {**group, "lr": group["lr"].copy()} if is_array(group["lr"]) else dict(group)


def as_lr(group: Group, value: float) -> LR:
    """Return a number in the type that the group's learning rate computes in."""
    return group["lr"].dtype.type(value) if is_array(group["lr"]) else value


def read_lr(group: Group, key: str = "lr") -> LR:
    """Return ``group[key]`` in the type that the group's learning rate computes in."""
    value = group[key]
    return as_lr(group, value if type(value) is float else number(key, value))


def write_lr(group: Group, value: LR | Array, key: str = "lr") -> None:
    """Set a learning rate of a group, in place if an array holds it."""
    if is_array(group.get(key)):
        group[key][...] = value
    else:
        group[key] = value


def check_lr(i: int, group: Group) -> None:
    """Raise unless the learning rate of a group is a number, or an array of one float that can be written to."""
    lr = group["lr"]
    if type(lr) is float:
        return
    number("lr", lr)
    if is_array(lr) and np.dtype(lr.dtype).kind in "iu":
        raise TypeError(f"lr of param_groups[{i}] must hold a float to be scheduled, got dtype {lr.dtype}")
    if isinstance(lr, np.ndarray) and not lr.flags.writeable:
        raise ValueError(f"lr of param_groups[{i}] must be a writable array to be scheduled, got a read-only one")


def check(cls: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Check the arguments that the constructor of ``cls`` declares, given its ``locals()``; return them by name."""
    hypers: dict[str, Hyper] = {name: x for name, x in declared(cls).items() if name in arguments}
    return {name: x.resolve(name, arguments[name]) for name, x in hypers.items()}


def refuse_other(name: str, own: Mapping[str, Any], state: Any, optional: frozenset[str]) -> None:
    """Raise unless a state dict has the entries of the scheduler ``name``, whose attributes are ``own``."""
    if not isinstance(state, Mapping):
        raise TypeError(f"a state dict must be a dict, got {type(state).__name__}")
    missing = sorted(own.keys() - state.keys() - optional)
    unknown = sorted(state.keys() - own.keys() - NOT_SAVED - {"param_groups", *own})
    if missing or unknown:
        what = f"lacks {missing[0]!r}" if missing else f"has {unknown[0]!r}"
        raise ValueError(f"loaded state dict is not one of {name}: it {what}")
    if not state.keys() & {"param_groups", "_last_lr"}:
        raise ValueError(f"loaded state dict is not one of {name}: it lacks '_last_lr'")


def watch(optimizer: Any) -> None:
    """Let the optimizer note that its ``step`` was called, by wrapping it once."""
    if hasattr(optimizer.step, "_wrapped_by_lr_sched"):
        return
    of, step, replaced = ref(optimizer), type(optimizer).step, vars(optimizer).get("step")

    @wraps(step)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        stepping: Any = of()
        stepping._opt_called = True
        return replaced(*args, **kwargs) if replaced else step(stepping, *args, **kwargs)

    wrapper._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    optimizer.step = wrapper


class LRScheduler:
    """Base of all schedulers; a subclass says in ``get_lr`` what the learning rates of ``last_epoch`` are.

    Args:
        optimizer: whose groups' ``lr`` are set, in the constructor and by each ``step``. An ``lr`` held by an array is
            written in place and computed in the array's dtype.
        last_epoch: -1 begins at the ``lr`` the groups hold. N continues a run after its epoch N: the groups must hold
            ``initial_lr``, as a loaded state dict of the optimizer does, and get the learning rates of epoch N + 1, bit
            for bit those of an uninterrupted run.

    Attributes:
        last_epoch: the epoch whose learning rates the groups hold, 0 after the constructor.
        base_lrs: the ``initial_lr`` of the groups.

    A group that is added to the optimizer later joins at the next step: its ``lr`` then becomes its ``initial_lr``, and
    the schedule goes on from there.

    Raises:
        TypeError, ValueError: an argument has the wrong type, or a value outside its range.
        KeyError: ``last_epoch`` is not -1, and a group has no ``initial_lr``.
            The optimizer is left as it was, in each case.
    """

    _is_initial: bool = False
    _get_lr_called_within_step: bool = False
    _resumed: bool = False
    _schedulers: Sequence[LRScheduler] = ()

    _recursive: ClassVar[bool] = True
    """Whether ``get_lr`` depends on the learning rates before it, and not on ``last_epoch`` alone."""

    _takes_epochs: ClassVar[bool] = False
    """Whether ``step(epoch)`` is as good as ``step()``."""

    _governs: ClassVar[tuple[str, ...]] = ()
    """What the scheduler sets in groups besides ``lr`` and ``initial_lr``."""

    _functions: ClassVar[tuple[str, ...]] = ()
    """The attributes that are functions, or lists of them."""

    _optional: ClassVar[frozenset[str]] = frozenset({"base_lrs", "_last_lr", "_starts", "_step_count"})
    """Attributes that a state dict written by torch lacks, or may lack."""

    optimizer: Any
    last_epoch: int
    base_lrs: list[LR]
    _step_count: int
    _last_lr: list[LR]
    _starts: list[list[Any]]

    def __init__(self, optimizer: Optimizer, last_epoch: LastEpoch = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        self.last_epoch = LAST_EPOCH.resolve("last_epoch", last_epoch)
        self.optimizer = optimizer
        with self._trial() as trial:
            trial._begin(trial.last_epoch)
            for group in trial.optimizer.param_groups:
                resolve(type(optimizer), group)
        watch(optimizer)

    # What a subclass says.

    def get_lr(self) -> list[LR]:
        """Compute the learning rates of the epoch ``last_epoch``; called by ``step``."""
        if not self._get_lr_called_within_step:
            warnings.warn(
                "To get the last learning rate computed by the scheduler, please use `get_last_lr()`.", stacklevel=2
            )
        return [self._next(read_lr(group), i) for i, group in enumerate(self.optimizer.param_groups)]

    def _next(self, lr: LR, i: int) -> LR:
        """Return the learning rate of group ``i`` at ``last_epoch``, from the one before it."""
        raise NotImplementedError

    def _prepare(self, group: Group, i: int) -> None:
        """Set in group ``i`` what the schedule needs there before it begins."""

    def _base(self, group: Group, i: int) -> LR:
        """Return the ``base_lr`` of group ``i``."""
        return read_lr(group, "initial_lr")

    def _start(self, group: Group, i: int) -> LR:
        """Return the learning rate from which group ``i`` starts: of a run that is continued, the one it began with."""
        return read_lr(group, "initial_lr" if self._resumed else "lr")

    # How it moves.

    def step(self, epoch: int | None = None) -> None:
        """Go to the next epoch and set its learning rates; to be called after ``optimizer.step()``.

        Args:
            epoch: deprecated; go to this epoch instead, by the closed form of the schedule where there is one.

        Raises:
            ValueError: the schedule has no learning rate there. Nothing has changed then.
        """
        self._check_order()
        if epoch is not None and not self._takes_epochs:
            warnings.warn(EPOCH_DEPRECATED, UserWarning, stacklevel=2)
        with self._trial() as trial:
            trial._step_count += 1
            trial._resumed = False
            trial._update_lr(epoch if epoch is None else self._check_epoch(epoch))

    def _check_epoch(self, epoch: Any) -> Any:
        """Return an epoch given to ``step``, or raise."""
        return EPOCHS.resolve("epoch", epoch)

    def _check_order(self) -> None:
        """Warn, at the first step, if the optimizer has not stepped before."""
        if self._step_count != 1 or isinstance(self.optimizer, Stage):
            return
        if not hasattr(self.optimizer.step, "_wrapped_by_lr_sched"):
            warnings.warn(
                "Seems like `optimizer.step()` has been overridden after learning rate scheduler initialization. "
                "Please, make sure to call `optimizer.step()` before `lr_scheduler.step()`.",
                stacklevel=3,
            )
        elif not getattr(self.optimizer, "_opt_called", False):
            warnings.warn(
                "Detected call of `lr_scheduler.step()` before `optimizer.step()`. Call them in the opposite order: "
                "`optimizer.step()` before `lr_scheduler.step()`. Otherwise the first value of the learning rate "
                "schedule is skipped.",
                stacklevel=3,
            )

    def _update_lr(self, epoch: int | None = None) -> None:
        """Go to the next epoch, or by the closed form to a given one, and set its learning rates."""
        self._admit()
        closed = getattr(self, "_get_closed_form_lr", None)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self._get_lr_called_within_step = True
        try:
            with np.errstate(all="ignore"):
                values = self.get_lr() if epoch is None or closed is None else closed()
        except OverflowError as error:
            raise ValueError(f"{type(self).__name__} overflows at epoch {self.last_epoch}: {error}") from error
        self._get_lr_called_within_step = False
        self._set_lrs(values)

    def _set_lrs(self, values: Sequence[LR]) -> None:
        """Write learning rates to the groups."""
        groups = self.optimizer.param_groups
        for i, (group, value) in enumerate(zip(groups, values, strict=True)):
            lr = value if type(value) is float else number("lr", value)
            if lr != lr:
                raise ValueError(f"{type(self).__name__} gives group {i} the learning rate nan at {self.last_epoch}")
            if abs(lr) == math.inf:
                raise ValueError(f"{type(self).__name__} overflows at epoch {self.last_epoch}: lr of group {i} is {lr}")
            write_lr(group, lr)
        self._note()

    def _note(self) -> None:
        """Remember the learning rates that the groups hold."""
        self._last_lr = [read_lr(group) for group in self.optimizer.param_groups]

    def get_last_lr(self) -> list[LR]:
        """Return the learning rates that the scheduler set last, one per group."""
        return list(self._last_lr)

    # The beginning.

    def _begin(self, last_epoch: int) -> None:
        """Set what the groups need, note where the schedule starts, and go to the epoch after ``last_epoch``."""
        self.last_epoch, self.base_lrs, self._starts = -1, [], []
        self._resumed = last_epoch >= 0
        self._admit()
        self._replay(last_epoch + 1)
        self._resumed = last_epoch >= 0

    def _admit(self) -> None:
        """Take in the groups of the optimizer that the scheduler does not know yet."""
        groups = self.optimizer.param_groups
        for i in range(len(self.base_lrs), len(groups)):
            self._check_resumable(i, groups[i])
            self._prepare(groups[i], i)
            groups[i].setdefault("initial_lr", copy_group(groups[i])["lr"])
            self._starts = [*self._starts, [self.last_epoch, self._start(groups[i], i)]]
            self.base_lrs = [*self.base_lrs, self._base(groups[i], i)]

    def _check_resumable(self, i: int, group: Group) -> None:
        if self._resumed and "initial_lr" not in group:
            raise KeyError(
                f"param 'initial_lr' is not specified in param_groups[{i}] when resuming scheduler with "
                f"last_epoch >= 0: load the state dict of the optimizer before, or begin with last_epoch=-1"
            )

    def _initial_step(self) -> None:
        """Make the first step, to epoch 0, from the learning rates that the groups hold."""
        self.last_epoch, self._step_count = -1, 0
        self._is_initial = True
        self.step()
        self._is_initial = False

    def _replay(self, epoch: int) -> None:
        """Go from the beginning to an epoch, as an uninterrupted run of steps does."""
        self._restart()
        if epoch and not self._recursive:
            self._jump(epoch)
        while self.last_epoch < epoch:
            self._set_starts(self.last_epoch)
            self.step()

    def _restart(self) -> None:
        """Go to epoch 0 from where the schedule started."""
        self._set_starts(-1)
        self._initial_step()

    def _jump(self, epoch: int) -> None:
        """Go where the next step leads to an epoch, if the learning rates before it do not matter."""
        self.last_epoch, self._step_count = epoch - 1, epoch

    def _rewind(self) -> None:
        """Forget the steps made; another scheduler says when this one begins."""
        self.last_epoch, self._step_count = -1, 1

    def _set_starts(self, epoch: int) -> None:
        """Write to the groups that came at an epoch the learning rates with which they came."""
        for group, (came, lr) in zip(self.optimizer.param_groups, self._starts, strict=False):
            if came == epoch:
                write_lr(group, lr)

    # Copies.

    @contextmanager
    def _trial(self: S) -> Iterator[S]:
        """Hand out a copy to work on, and take it over if that did not fail."""
        if isinstance(self.optimizer, Stage):
            yield self
        else:
            trial = self._copy()
            yield trial
            trial.optimizer.take_over()
            self._take_over(trial)

    def _copy(self: S, stage: Stage | None = None) -> S:
        """Return a copy that works on copies of the optimizer's groups."""
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        copied.optimizer = stage or Stage(self.optimizer)
        if self._schedulers:
            copied._schedulers = [scheduler._copy(copied.optimizer) for scheduler in self._schedulers]
        return copied

    def _take_over(self, trial: LRScheduler) -> None:
        """Become what the copy became."""
        vars(self).update({name: x for name, x in vars(trial).items() if name not in ("optimizer", "_schedulers")})
        for scheduler, tried in zip(self._schedulers, trial._schedulers, strict=True):
            scheduler._take_over(tried)

    # Looking ahead.

    def lr_at(self, epoch: int) -> list[float]:
        """Return the learning rates of an epoch, one per group, changing nothing.

        They are those of an uninterrupted run of this schedule from its beginning, bit for bit: whatever else wrote to
        the groups since does not count. A group that was added later is, before that, as if it had always been there.

        Raises:
            TypeError, ValueError: ``epoch`` is not an integer in [0, inf), or the schedule has ended there.
        """
        trial = self._copy()
        trial._replay(EPOCHS.resolve("epoch", epoch))
        return trial._lrs()

    def preview(self, n: int) -> Array:
        """Return the learning rates that the ``n`` coming calls of ``step`` will set, changing nothing.

        Returns:
            A float64 array of shape (n, groups); row ``i`` holds what call ``i + 1`` will set.

        Raises:
            TypeError, ValueError: ``n`` is not an integer in [0, inf), or the schedule ends before.
        """
        trial = self._copy()
        rows = np.empty((EPOCHS.resolve("n", n), len(self.optimizer.param_groups)))
        for row in rows:
            trial.step()
            row[:] = trial._lrs()
        return rows

    def _lrs(self) -> list[float]:
        return [float(read_lr(group)) for group in self.optimizer.param_groups]

    # State dicts.

    def state_dict(self) -> dict[str, Any]:
        """Return the state as numbers, strings, lists and dicts; JSON keeps every bit of it.

        It holds all attributes but the optimizer, and under ``param_groups`` what the scheduler governs in the groups,
        as it is now. Of a function it holds None, of a callable object its attributes; a number that is not finite is
        the string "inf", "-inf" or "nan".

        Raises:
            TypeError: an attribute of a subclass is something else.
        """
        keys = ("lr", "initial_lr", *self._governed())
        groups = [
            {key: plain(f"{key} of param_groups[{i}]", group[key]) for key in keys if key in group}
            for i, group in enumerate(self.optimizer.param_groups)
        ]
        return {**self._dump(), "param_groups": groups}

    def _governed(self) -> list[str]:
        """Return what this scheduler and those it is made of set in groups."""
        return [*self._governs, *(key for scheduler in self._schedulers for key in scheduler._governed())]

    def _saved(self) -> dict[str, Any]:
        """Return the attributes that a state dict holds."""
        own = {key: x for key, x in vars(self).items() if key not in NOT_SAVED and key not in self._functions}
        return without_functions(own) | {key: memory(getattr(self, key)) for key in self._functions}

    def _dump(self) -> dict[str, Any]:
        """Return the state without that of the groups."""
        own = {key: plain(f"{type(self).__name__}.{key}", x) for key, x in self._saved().items()}
        return own | ({"_schedulers": [x._dump() for x in self._schedulers]} if self._schedulers else {})

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a saved state, the arguments of the constructor and the learning rates of the groups included.

        State dicts that torch 2.13 wrote are understood too.

        Raises:
            TypeError, ValueError: the state is not one of this scheduler and of these groups. Nothing has changed then.
        """
        with self._trial() as trial:
            trial._load(state_dict)
            trial._load_groups(state_dict)
        self._recall(state_dict)

    def _load(self, state: Mapping[str, Any]) -> None:
        """Read a saved state, on a copy, but that of the groups and of functions."""
        self._admit()
        own = self._saved()
        refuse_other(type(self).__name__, own, state, self._optional)
        checked = check(type(self), state)
        for key in own.keys() & state.keys() - set(self._functions):
            value = like(key, own[key], state[key]) if checked.get(key) is None else checked[key]
            setattr(self, key, value)
        for key in self._functions:
            remembered(key, getattr(self, key), state[key])
        if "_starts" not in state:
            self._starts = [[-1, lr] for lr in self.base_lrs]
        saved = state.get("_schedulers", ())
        if len(saved) != len(self._schedulers):
            raise ValueError(f"loaded state dict has {len(saved)} schedulers, expected {len(self._schedulers)}")
        for scheduler, own_state in zip(self._schedulers, saved, strict=True):
            scheduler._load(own_state)

    def _load_groups(self, state: Mapping[str, Any]) -> None:
        """Give the groups what a saved state holds of them."""
        groups = self.optimizer.param_groups
        saved = state["param_groups"] if "param_groups" in state else [{"lr": lr} for lr in state["_last_lr"]]
        if not isinstance(saved, (list, tuple)) or not all(isinstance(x, Mapping) and "lr" in x for x in saved):
            raise TypeError("param_groups of a state dict must be a list of dicts that hold lr")
        if not len(self._starts) == len(self.base_lrs) <= len(saved) == len(groups):
            raise ValueError(f"loaded state dict has {len(saved)} parameter groups, expected {len(groups)}")
        for i, (group, values) in enumerate(zip(groups, saved, strict=True)):
            self._load_group(f"of param_groups[{i}]", group, values)
        if "_last_lr" not in state:
            self._note()

    def _load_group(self, where: str, group: Group, values: Mapping[str, Any]) -> None:
        for key in group.keys() & values.keys() & {"lr", "initial_lr"}:
            lr = as_number(f"{key} {where}", values[key])
            if lr != lr:
                raise ValueError(f"{key} {where} in a state dict is nan")
            write_lr(group, lr, key)
        for key in values.keys() & set(self._governed()):
            group[key] = like(f"{key} {where}", group.get(key), values[key])
        resolve(type(self.optimizer.actual), {**group, "lr": 0.0})

    def _recall(self, state: Mapping[str, Any]) -> None:
        """Give functions that are objects the attributes that a saved state holds of them."""
        for key in self._functions:
            recall(key, getattr(self, key), state[key])
        for scheduler, own_state in zip(self._schedulers, state.get("_schedulers", ()), strict=True):
            scheduler._recall(own_state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        watch(self.optimizer)
