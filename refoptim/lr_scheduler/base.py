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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from numbers import Integral
from typing import Annotated, Any, ClassVar, TypeVar
from weakref import ref

import numpy as np

from ..numerics.arith import Array
from ..optimizers.base import Optimizer
from ..step.changes import Change, make
from ..step.groups import Group
from ..step.hyper import Count, Hyper, Interval, Real, declared, is_number, number
from ..step.rule import resolve
from .group_lists import are_first, inserted, joined, kept, places, seen
from .per_group import check_optimizer
from .plain import as_number, like, memory, plain, recalling, without_functions
from .saved import COUNT, FINITE, STARTS, ListOf, check_sane, number_of, refuse_other, refusing
from .stage import LR as LR
from .stage import Stage, copy_group, read_lr, write_lr

S = TypeVar("S", bound="LRScheduler")

LAST_EPOCH = Count("the last epoch of the run to be continued, -1 to begin a new one", interval=Interval("[-1, inf)"))

LastEpoch = Annotated[int, LAST_EPOCH]
Gamma = Annotated[float, Real("the factor by which the learning rate is multiplied")]
Iterations = Annotated[int, Count("the epochs that the change takes", interval=Interval("[0, inf)"))]
LowestRate = Annotated[float, Real("the lowest learning rate")]

EPOCH_DEPRECATION_WARNING = (
    "The epoch parameter in `scheduler.step()` was not necessary and is being deprecated where possible. Please use "
    "`scheduler.step()` to step the scheduler. An epoch given sets `last_epoch` to it, and the closed form of the "
    "schedule is used where there is one."
)

NOT_SAVED = frozenset(
    {"optimizer", "_schedulers", "_groups", "_seen", "_resumed", "_is_initial", "_get_lr_called_within_step"}
)
"""Attributes that no state dict holds."""


@dataclass(frozen=True)
class Whole(Count):
    """An integer; anything else is refused with a ValueError, as torch does for some arguments."""

    def _resolve(self, name: str, value: Any) -> int:
        if not is_number(value, Integral):
            raise ValueError(f"{self.stem.format(name=name, value=value)} ({name} must be an integer in {self.range})")
        return super()._resolve(name, value)


EPOCHS = Count("a number of epochs", interval=Interval("[0, inf)"))


def check(cls: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Check the arguments that the constructor of ``cls`` declares, given its ``locals()``; return them by name."""
    hypers: dict[str, Hyper] = {name: x for name, x in declared(cls).items() if name in arguments}
    return {name: x.resolve(name, arguments[name]) for name, x in hypers.items()}


def watch(optimizer: Any) -> list[Change]:
    """Return what lets the optimizer note that its ``step`` was called: it is wrapped once."""
    if hasattr(optimizer.step, "_wrapped_by_lr_sched"):
        return []
    of, step, replaced = ref(optimizer), type(optimizer).step, vars(optimizer).get("step")

    @wraps(step)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        stepping: Any = of()
        stepping._opt_called = True
        return replaced(*args, **kwargs) if replaced else step(stepping, *args, **kwargs)

    wrapper._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    return [partial(setattr, optimizer, "step", wrapper)]


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
    the schedule goes on from there. A group keeps what is its own wherever it stands in ``param_groups``.

    Raises:
        TypeError, ValueError: an argument has the wrong type, or a value outside its range.
        KeyError: ``last_epoch`` is not -1, and a group has no ``initial_lr``.
            The optimizer is left as it was, in each case.
    """

    _is_initial: bool = False
    _get_lr_called_within_step: bool = False
    _resumed: bool = False
    _schedulers: Sequence[LRScheduler] = ()

    _groups: Sequence[Group] = ()
    """The groups that the scheduler knows, in the order in which its lists hold their entries."""

    _seen: Mapping[str, list[Any]] = {}
    """The value that all groups shared in a list before some left, or two that differed."""

    _recursive: ClassVar[bool] = True
    """Whether ``get_lr`` depends on the learning rates before it, and not on ``last_epoch`` alone."""

    _takes_epochs: ClassVar[bool] = False
    """Whether ``step(epoch)`` is as good as ``step()``."""

    _governs: ClassVar[tuple[str, ...]] = ()
    """What the scheduler sets in groups besides ``lr`` and ``initial_lr``."""

    _per_group: ClassVar[dict[str, str]] = {}
    """The lists with one entry per group, by the argument that gives them."""

    _functions: ClassVar[tuple[str, ...]] = ()
    """The attributes that are functions, or lists of them."""

    _optional: ClassVar[frozenset[str]] = frozenset({"base_lrs", "_last_lr", "_starts", "_step_count"})
    """Attributes that a state dict written by torch lacks, or may lack."""

    _legacy: ClassVar[frozenset[str]] = frozenset({"verbose"})
    """What a state dict written by an earlier torch may hold, and nobody needs."""

    _rates: ClassVar[frozenset[str]] = frozenset({"param_groups", "_last_lr", "base_lrs"})
    """A state dict holds one of these, whoever wrote it."""

    _kept: ClassVar[dict[str, Hyper]] = {
        "_step_count": COUNT,
        "base_lrs": ListOf(""),
        "_last_lr": ListOf(""),
        "_starts": STARTS,
    }
    """What attributes must be that no argument of the constructor gives."""

    optimizer: Any
    last_epoch: int
    base_lrs: list[LR]
    _step_count: int
    _last_lr: list[LR]
    _starts: list[list[Any]]

    def __init__(self, optimizer: Optimizer, last_epoch: LastEpoch = -1) -> None:
        check_optimizer(optimizer)
        self.last_epoch = LAST_EPOCH.resolve("last_epoch", last_epoch)
        self.optimizer = optimizer
        with self._trial() as trial:
            trial._begin(trial.last_epoch)
            for group in trial.optimizer.param_groups:
                resolve(type(optimizer), group)
            trial.optimizer.also += watch(optimizer)

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
            warnings.warn(EPOCH_DEPRECATION_WARNING, UserWarning, stacklevel=2)
        with self._trial() as trial:
            trial._step_count += 1
            trial._resumed = False
            trial._update_lr(epoch if epoch is None else self._check_epoch(epoch))

    def _go(self, metric: Any) -> None:
        """Make the next step on a copy; ``metric`` is for those that take one."""
        self.step()

    def _check_epoch(self, epoch: Any) -> Any:
        """Return an epoch given to ``step``, or raise."""
        return EPOCHS.resolve("epoch", epoch)

    def _check_order(self) -> None:
        """Warn, at the first step, if the optimizer has not stepped before."""
        if not (self._step_count == 1 or self._resumed) or isinstance(self.optimizer, Stage):
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

    def _align(self) -> None:
        """Give the groups that are still there their entries, wherever they stand now, and forget the others."""
        groups = self.optimizer.groups
        if are_first(self._groups, groups):
            return
        found, known = places(self._groups, groups), len(self._groups)
        lists = self._lists()
        self._seen = {name: seen(getattr(self, name), self._seen.get(name, [])) for name in lists}
        last = ["_last_lr"] if len(self._last_lr) >= known else []
        for name in (*lists, "base_lrs", "_starts", *last):
            setattr(self, name, kept(name, getattr(self, name), found, known))
        self._groups = [group for group, j in zip(groups, found, strict=True) if j is not None]

    def _bases(self, group: Group) -> Iterator[LR]:
        """Yield the base learning rate of a group of the optimizer, if the scheduler knows it."""
        return (lr for lr, known in zip(self.base_lrs, self._groups, strict=False) if known is group)

    def _lists(self) -> list[str]:
        """Return which of the declared lists there are."""
        return [name for name in self._per_group if name in vars(self)]

    def _admit(self) -> None:
        """Take in the groups of the optimizer that the scheduler does not know yet, wherever they stand."""
        for i, group in enumerate(self.optimizer.groups):
            if i == len(self._groups) or self._groups[i] is not group:
                self._join(self.optimizer.param_groups[i], i)
                self._groups = inserted(self._groups, i, group)

    def _join(self, group: Group, i: int) -> None:
        """Make an entry for group ``i`` in every list."""
        self._check_resumable(i, group)
        for name in self._lists():
            of, before = self._per_group[name], self._seen.get(name, [])
            setattr(self, name, joined(of, getattr(self, name), i, len(self._groups), before))
        self._prepare(group, i)
        group.setdefault("initial_lr", copy_group(group)["lr"])
        self._starts = inserted(self._starts, i, [self.last_epoch, self._start(group, i)])
        self.base_lrs = inserted(self.base_lrs, i, self._base(group, i))

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

    def _replay(self, epoch: int, metrics: Iterable[Any] = ()) -> None:
        """Go from the beginning to an epoch, as an uninterrupted run of steps does that take these metrics."""
        coming = iter(metrics)
        self._restart()
        if epoch and not self._recursive:
            self._jump(epoch)
        while self.last_epoch < epoch:
            self._set_starts(self.last_epoch)
            self._go(next(coming, math.nan))

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
        """Hand out a copy to work on; if that did not fail, take everything over at once."""
        if isinstance(self.optimizer, Stage):
            yield self
        else:
            trial = self._copy()
            yield trial
            make([*trial.optimizer.changes(), *self._changes(trial)])

    def _copy(self: S, stage: Stage | None = None) -> S:
        """Return a copy that works on copies of the optimizer's groups and knows where these stand."""
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        copied.optimizer = stage or Stage(self.optimizer)
        if self._schedulers:
            copied._schedulers = [scheduler._copy(copied.optimizer) for scheduler in self._schedulers]
        copied._align()
        return copied

    def _changes(self, trial: LRScheduler) -> list[Change]:
        """Return what makes this scheduler, and those it is made of, become what the copy became."""
        own = {name: x for name, x in vars(trial).items() if name not in ("optimizer", "_schedulers")}
        members = zip(self._schedulers, trial._schedulers, strict=True)
        changes = [change for scheduler, tried in members for change in scheduler._changes(tried)]
        return [partial(dict.update, vars(self), own), *changes]

    # Looking ahead.

    def lr_at(self, epoch: int) -> list[float]:
        """Return the learning rates of an epoch, one per group, changing nothing.

        They are those of an uninterrupted run of this schedule from its beginning, bit for bit: whatever else wrote to
        the groups since does not count. A group that was added later is, before that, as if it had always been there.

        Raises:
            TypeError, ValueError: ``epoch`` is not an integer in [0, inf), or the schedule has ended there.
        """
        return self._lr_at(epoch, ())

    def _lr_at(self, epoch: int, metrics: Iterable[Any]) -> list[float]:
        trial = self._silent_copy()
        trial._replay(EPOCHS.resolve("epoch", epoch), metrics)
        return trial._lrs()

    def preview(self, n: int) -> Array:
        """Return the learning rates that the ``n`` coming calls of ``step`` will set, changing nothing.

        Returns:
            A float64 array of shape (n, groups); row ``i`` holds what call ``i + 1`` will set.

        Raises:
            TypeError, ValueError: ``n`` is not an integer in [0, inf), or the schedule ends before.
        """
        return self._preview(n, ())

    def _preview(self, n: int, metrics: Iterable[Any]) -> Array:
        trial, coming = self._silent_copy(), iter(metrics)
        rows = np.empty((EPOCHS.resolve("n", n), len(trial.optimizer.param_groups)))
        for row in rows:
            trial._go(next(coming, math.nan))
            row[:] = trial._lrs()
        return rows

    def _silent_copy(self: S) -> S:
        copied = self._copy()
        copied.optimizer.silent = True
        return copied

    def _lrs(self) -> list[float]:
        return [float(read_lr(group)) for group in self.optimizer.param_groups]

    # State dicts.

    def state_dict(self) -> dict[str, Any]:
        """Return the state as numbers, strings, lists and dicts; JSON keeps every bit of it.

        It holds all attributes but the optimizer, and under ``param_groups`` what the scheduler governs in the groups,
        as it is now. Of a function it holds None, of a callable object its attributes; a number that is not finite is
        the string "inf", "-inf" or "nan". Groups that have not joined yet are numbered under ``_waiting``.

        Raises:
            TypeError: an attribute of a subclass is something else.
        """
        copied = self._copy(Stage(self.optimizer, checked=False))
        keys = ("lr", "initial_lr", *self._governed())
        groups = [
            {key: plain(f"{key} of param_groups[{i}]", group[key]) for key in keys if key in group}
            for i, group in enumerate(copied.optimizer.param_groups)
        ]
        return {**copied._dump(), "param_groups": groups}

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
        known = set(map(id, self._groups))
        waiting = [i for i, group in enumerate(self.optimizer.groups) if id(group) not in known]
        members = [x._dump() for x in self._schedulers]
        return own | ({"_waiting": waiting} if waiting else {}) | ({"_schedulers": members} if members else {})

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a saved state, the arguments of the constructor and the learning rates of the groups included.

        State dicts that torch wrote, 2.13 or earlier, are understood too.

        Raises:
            TypeError, ValueError: the state is not one of this scheduler and of these groups. Nothing has changed then.
        """
        with refusing(type(self).__name__):
            check_sane(state_dict)
            with self._trial() as trial:
                trial._load(state_dict)
                trial._load_groups(state_dict)

    def _load(self, state: Mapping[str, Any]) -> None:
        """Read a saved state, on a copy, but that of the groups."""
        self._admit()
        own = self._saved()
        known = {*NOT_SAVED, *self._legacy, *self._optional, "param_groups", "_waiting"}
        refuse_other(type(self).__name__, own, state, self._optional, known, {*self._rates})
        self._resumed = False
        self._load_values(own, state)
        self._know_groups(state)
        for key in self._functions:
            self.optimizer.also += recalling(key, self._called(key, state[key]), state[key])
        self._load_members(state.get("_schedulers", ()))

    def _load_values(self, own: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Set the attributes that no function is, each checked."""
        checked = check(type(self), state)
        for key in own.keys() & state.keys() - set(self._functions):
            value = checked[key] if key in checked else like(key, own[key], number_of(state[key]))
            setattr(self, key, value)
        for key in self._kept.keys() & state.keys() & vars(self).keys():
            self._kept[key].resolve(key, getattr(self, key))
        if "_starts" not in state:
            self._starts = [[-1, lr] for lr in self.base_lrs]

    def _know_groups(self, state: Mapping[str, Any]) -> None:
        """Know the groups that the one who saved the state knew."""
        groups = self.optimizer.groups
        waiting = state.get("_waiting", range(len(self.base_lrs), len(groups)))
        if not isinstance(waiting, (list, tuple, range)):
            raise TypeError(f"_waiting of a state dict must be a list, got {waiting!r}")
        known = [i for i in range(len(groups)) if i not in waiting]
        fit = all(len(known) <= len(getattr(self, name)) <= len(groups) for name in self._lists())
        if not len(self._starts) == len(self.base_lrs) == len(known) or not fit:
            raise ValueError(
                f"loaded state dict has values for {len(self.base_lrs)} parameter groups, expected {len(known)}"
            )
        for key in self._functions:
            if isinstance(functions := getattr(self, key), list):
                setattr(self, key, [functions[i] for i in sorted(range(len(functions)), key=waiting.__contains__)])
        self._groups = [groups[i] for i in known]

    def _called(self, key: str, saved: Any) -> Any:
        """Return the functions of which something was saved: those of the known groups, perhaps with more."""
        functions = getattr(self, key)
        many = isinstance(functions, list) and isinstance(saved, (list, tuple))
        return functions[: max(len(saved), len(self._groups))] if many else functions

    def _load_members(self, saved: Any) -> None:
        if not isinstance(saved, (list, tuple)):
            raise TypeError(f"_schedulers of a state dict must be a list, got {type(saved).__name__}")
        if len(saved) != len(self._schedulers):
            raise ValueError(f"loaded state dict has {len(saved)} schedulers, expected {len(self._schedulers)}")
        for scheduler, own_state in zip(self._schedulers, saved, strict=True):
            scheduler._load(own_state)

    def _load_groups(self, state: Mapping[str, Any]) -> None:
        """Give the groups what a saved state holds of them; one that torch wrote before 1.4 holds nothing."""
        groups = self.optimizer.param_groups
        saved = state.get("param_groups", [{"lr": lr} for lr in self._last_lr] if "_last_lr" in state else None)
        if saved is not None:
            if not isinstance(saved, (list, tuple)) or not all(isinstance(x, Mapping) and "lr" in x for x in saved):
                raise TypeError("param_groups of a state dict must be a list of dicts that hold lr")
            if len(saved) != len(groups):
                raise ValueError(f"loaded state dict has {len(saved)} parameter groups, expected {len(groups)}")
            for i, (group, values) in enumerate(zip(groups, saved, strict=True)):
                self._load_group(f"of param_groups[{i}]", group, values)
        if "_last_lr" not in state:
            self._note()

    def _load_group(self, where: str, group: Group, values: Mapping[str, Any]) -> None:
        for key in group.keys() & values.keys() & {"lr", "initial_lr"}:
            lr = as_number(f"{key} {where}", values[key])
            write_lr(group, FINITE.resolve(f"{key} {where}", lr), key)
        for key in values.keys() & set(self._governed()):
            group[key] = like(f"{key} {where}", group.get(key), values[key])
            if key != "betas":
                FINITE.resolve(f"{key} {where}", group[key])
        resolve(type(self.optimizer.actual), {**group, "lr": 1.0})  # which every optimizer takes

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        make(watch(self.optimizer))
