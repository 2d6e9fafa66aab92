"""AveragedModel: a copy of a model that holds a running average of its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np

from ..engines.workspace import Workspace
from ..numerics.arith import Array, is_narrow, storage, widen
from ..numerics.array_types import at, copied, place
from ..numerics.libraries import telling
from ..step import hyper as hp
from ..step.changes import Change, make
from ..step.parameter import Parameter
from ..step.state_dict import StateDict, array_like, reading, step_count
from ..step.trees import join
from .averages import SWA, Average, MultiAverage, Pair, array, check_writable, same_kind
from .batch_norms import BatchNorm
from .members import Member, matched, members
from .wide import refresh

AvgFn = Callable[[Array, Array, int], Array]
"""``avg_fn(averaged, current, num_averaged)`` returns the new average of one array."""

MultiAvgFn = Callable[[list[Array], list[Array], int], Any]
"""``multi_avg_fn(averaged, current, num_averaged)`` writes the new averages into the arrays ``averaged``."""

Named = tuple[str, Pair]
"""The name of a member, and its average with what is averaged into it."""


class AveragedModel:
    """A copy of a model that holds a running average of its weights.

    The first ``update_parameters`` copies the weights, every later one averages::

        SWA, the default    average = average + (current - average) / (n_averaged + 1)
        EMA                 average = decay * average + (1 - decay) * current

    Averages of 16-bit arrays are kept in float32 beside ``module``. Of a Parameter with a master copy that is averaged.

    Args:
        model: an object with ``parameters()``, which yields Parameters or arrays, and perhaps ``named_parameters()``,
            ``buffers()``, ``named_buffers()``; or a dict, list or tuple of arrays, Parameters, and such objects and
            containers. It is copied; gradients are not.
        device: None, or the ``device`` that all arrays of the model have; nothing is moved.
        avg_fn: ``avg_fn(averaged, current, num_averaged)`` returns the new average of one array, of the same shape; it
            is rounded to the dtype of the average. The counter is an int.
        multi_avg_fn: ``multi_avg_fn(averaged, current, num_averaged)`` writes the new averages into the arrays of the
            list ``averaged``, which holds all arrays of one dtype.
        use_buffers: average the buffers too, instead of copying them from the model. Integers are always copied.

    Attributes:
        module: the copy, whose arrays are the averages, those of 16 bits rounded.
        n_averaged: how many models have been averaged, an int.

    Raises:
        AssertionError: both functions are given.
        TypeError, ValueError: the model holds something that cannot be averaged, or an argument is wrong.

    Sources: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control Optim. 1992;
    Izmailov, Podoprikhin, Garipov, Vetrov, Wilson, "Averaging weights leads to wider optima and better
    generalization", UAI 2018.
    """

    _torn: Sequence[BaseException] = ()

    def __init__(
        self,
        model: Any,
        device: Any = None,
        avg_fn: AvgFn | None = None,
        multi_avg_fn: MultiAvgFn | None = None,
        use_buffers: bool = False,
    ) -> None:
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        _check_function("avg_fn", avg_fn, isinstance(avg_fn, MultiAverage))
        single = isinstance(multi_avg_fn, Average) and not isinstance(multi_avg_fn, MultiAverage)
        _check_function("multi_avg_fn", multi_avg_fn, single)
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = bool(hp.Flag("").resolve("use_buffers", use_buffers))
        self.n_averaged = 0
        self.module = self._copied(model, device)
        self._wide: dict[str, Array] = {}

    def _copied(self, model: Any, device: Any) -> Any:
        """Check and copy a model."""
        found = members(model)
        for member in found:
            _check_holder(member)
            if self._averages(member):
                _check_dtype(member)
            if device not in (None, getattr(member.array, "device", None)):
                raise ValueError(f"device must be None or that of {member.name}, got {device!r}")
        grads = [x.holder.grad for x in found if isinstance(x.holder, Parameter) and x.holder.grad is not None]
        # deepcopy takes what its memo holds for a copy already made: the copy of a gradient is None.
        return deepcopy(model, {id(grad): None for grad in grads})

    def _averages(self, member: Member) -> bool:
        """Tell whether a member is averaged, not copied."""
        return not member.is_buffer or (self.use_buffers and member.array.dtype.kind not in "biu")

    def _pair(self, own: Member, current: Array) -> Pair:
        """Return the array that keeps an average, float32 beside one of 16 bits, with what is to be taken in."""
        if not (self._averages(own) and is_narrow(own.array)):
            return Pair(own.array, current)
        wide = self._wide.get(own.name)
        if wide is None or wide.shape != own.array.shape or place(wide) != place(own.array):
            wide = self._wide[own.name] = copied(own.array, np.dtype(np.float32))
        refresh(wide, own.array)
        return Pair(wide, current, own.array)

    def _kept(self) -> dict[str, Pair]:
        """Return the averages by the names of state dicts; an array that stands in the module twice has one."""
        found = members(self.module)
        first = {member.identity: member for member in reversed(found)}
        pairs = {key: self._pair(member, member.array) for key, member in first.items()}
        return {join("module", member.name): pairs[member.identity] for member in found}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the averaged module."""
        return self.module(*args, **kwargs)

    def parameters(self) -> Iterator[Any]:
        """Yield the averaged parameters, Parameters where the model has Parameters."""
        return (x.holder for x in members(self.module) if not x.is_buffer)

    def buffers(self) -> Iterator[Any]:
        """Yield the buffers."""
        return (x.holder for x in members(self.module) if x.is_buffer)

    def update_parameters(self, model: Any) -> None:
        """Take the weights of ``model`` into the average.

        Raises:
            TypeError, ValueError: the model is not made like the one the average began with, an average is read-only,
                or a function did not do what it should. Nothing has changed then, nor if a function raises.
        """
        if self._torn:
            raise RuntimeError(
                f"the last update of this average was left half done ({self._torn[0]!r}): load a state dict"
            )
        pairs = matched(members(self.module), members(model))
        for own, _ in pairs:
            _check_holder(own)
            check_writable(f"the average of {own.name}", own.array)
        found = [(own, self._pair(own, new.exact if self._averages(own) else new.array)) for own, new in pairs]
        averaged = [(own.name, pair) for own, pair in found if self.n_averaged and self._averages(own)]
        taken = [pair for own, pair in found if not (self.n_averaged and self._averages(own))]
        workspace = Workspace()
        changes = [*self._averaging(averaged, workspace), *_writing((pair, pair.current) for pair in taken)]
        written = telling(own.holder for own, _ in pairs)
        workspace.make([*written, *changes, partial(setattr, self, "n_averaged", self.n_averaged + 1)], self)

    def _averaging(self, pairs: list[Named], workspace: Workspace) -> list[Change]:
        """Return what averages in place by a rule, or writes the new values that a function gives."""
        function: Any = self.multi_avg_fn if self.avg_fn is None else self.avg_fn
        rule = SWA() if function is None else function
        if isinstance(rule, Average):
            return rule.changes([pair for _, pair in pairs], self.n_averaged, workspace)
        compute = _written if self.avg_fn is None else _returned
        values = compute(function, pairs, self.n_averaged)
        return _writing(zip((pair for _, pair in pairs), values, strict=True))

    def state_dict(self) -> StateDict:
        """Return copies of all arrays, in torch's layout: ``n_averaged`` and ``module.NAME``; 16 bits as float32."""
        return {name: copied(x) for name, x in self._to_save().items()}

    def _to_save(self) -> StateDict:
        """Return what ``state_dict`` returns, the arrays of the averages themselves, for those who only read it."""
        arrays = {name: pair.average for name, pair in self._kept().items()}
        return {"n_averaged": np.array(self.n_averaged, np.int64), **arrays}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Take over copies of saved arrays, of NumPy, CuPy or torch, or nested lists, on the devices of the averages.

        Averages of 16 bits may be float32, as they were saved, or of 16 bits, as torch saves them.

        Raises:
            RuntimeError: names, shapes or dtypes are not those of this model. Nothing has changed then.
        """
        with np.errstate(all="ignore"):
            make(self._loading(state_dict))

    def _loading(self, state_dict: StateDict) -> list[Change]:
        """Return the changes that take over a saved state, or raise RuntimeError."""
        try:
            with reading():
                found = members(self.module)
                for member in found:
                    _check_holder(member)
                n, values = _read(state_dict, self._kept())
        except (TypeError, ValueError) as error:
            raise RuntimeError(f"Error(s) in loading state_dict for {type(self).__name__}: {error}") from error
        whole = {"n_averaged": n, "_torn": []}
        return [*telling(x.holder for x in found), *_writing(values), partial(vars(self).update, whole)]

    @property
    def training(self) -> bool:
        """Whether the module is in training mode."""
        return bool(self.module.training)

    def train(self, mode: bool = True) -> AveragedModel:
        """Put the module into training mode, or out of it."""
        self.module.train(mode)
        return self

    def eval(self) -> AveragedModel:
        """Put the module into evaluation mode."""
        return self.train(False)

    def batch_norms(self) -> Iterable[BatchNorm]:
        """Yield the batch norms of the module."""
        norms: Iterable[BatchNorm] = self.module.batch_norms()
        return norms


def _check_function(name: str, function: Any, other_form: bool) -> None:
    """Raise TypeError if ``function`` cannot be called, or is one of the other form."""
    if function is not None and not callable(function):
        raise TypeError(f"{name} must be callable, got {function!r}")
    if other_form:
        other = "multi_avg_fn" if name == "avg_fn" else "avg_fn"
        raise TypeError(f"{name} must not be {function!r}, which is one for {other}")


def _check_holder(member: Member) -> None:
    """Raise TypeError if an average cannot be written into what holds it."""
    if isinstance(member.holder, np.generic):
        raise TypeError(f"{member.name} must be an array, for its average to be written into, got a NumPy scalar")


def _check_dtype(member: Member) -> None:
    try:
        storage(member.array.dtype)
    except TypeError as error:
        raise TypeError(f"{member.name} cannot be averaged: {error}") from error


def _writing(values: Iterable[tuple[Pair, Array]]) -> list[Change]:
    """Return what writes new averages."""
    return [change for pair, value in values for change in pair.put(value)]


def _returned(avg_fn: AvgFn, pairs: list[Named], n: int) -> list[Array]:
    """Return what ``avg_fn`` returns for each pair, rounded to the dtype of the average."""
    values = []
    for name, pair in pairs:
        with at(place(pair.average)):
            values.append(_result(avg_fn(pair.average.copy(), _current(pair), n), pair.average, name))
    return values


def _current(pair: Pair) -> Array:
    """Return what is to be averaged in the dtype of the average."""
    return pair.current if pair.rounded is None else widen(pair.current)


def _result(value: Any, average: Array, name: str) -> Array:
    what = f"what avg_fn returns for {name}"
    value = array(what, np.asarray(value) if isinstance(value, (int, float, complex, np.generic)) else value)
    if value.shape != average.shape:
        raise ValueError(f"{what} must have shape {average.shape}, got {value.shape}")
    if value.dtype.kind not in "biufV" + average.dtype.kind:
        raise TypeError(f"{what} must fit into dtype {average.dtype}, got {value.dtype}")
    with np.errstate(all="ignore"):
        return value.astype(average.dtype)


def _written(multi_avg_fn: MultiAvgFn, pairs: list[Named], n: int) -> list[Array]:
    """Return what ``multi_avg_fn``, called once for each device and dtype, writes into copies of the averages."""
    values = [copied(pair.average) for _, pair in pairs]
    kinds = [(place(x) or str(getattr(x, "device", "")), x.dtype) for x in values]
    for kind in dict.fromkeys(kinds):
        averaged = [x for x, other in zip(values, kinds, strict=True) if other == kind]
        current = [_current(pair) for (_, pair), other in zip(pairs, kinds, strict=True) if other == kind]
        given = list(averaged)
        with at(place(given[0])):
            multi_avg_fn(given, current, n)
        if list(map(id, given)) != list(map(id, averaged)):
            raise ValueError("multi_avg_fn must write into the arrays of its first list, but it replaced some of them")
    return values


def _read(saved: Any, own: dict[str, Pair]) -> tuple[int, list[tuple[Pair, Array]]]:
    """Check a state dict and return the counter and the new value of each average, or raise ValueError."""
    if not isinstance(saved, Mapping):
        raise ValueError(f"state_dict must be a dict, got {type(saved).__name__}")
    missing = [name for name in ("n_averaged", *own) if name not in saved]
    extra = [name for name in saved if name not in own and name != "n_averaged"]
    if missing or extra:
        raise ValueError(f"Missing key(s) in state_dict: {missing}. Unexpected key(s) in state_dict: {extra}.")
    for name, pair in own.items():
        check_writable(name, pair.average if pair.rounded is None else pair.rounded)
    values = [(pair, _saved_average(saved[name], pair, name)) for name, pair in own.items()]
    return step_count(saved["n_averaged"], "n_averaged"), values


def _saved_average(value: Any, pair: Pair, name: str) -> Array:
    """Return a saved average in the dtype that it is kept in, or raise ValueError."""
    if pair.rounded is None:
        return _saved(value, pair.average, name)
    try:
        return _saved(value, pair.average, name)
    except (TypeError, ValueError):
        return widen(_saved(value, pair.rounded, name))


def _saved(value: Any, own: Array, name: str) -> Array:
    """Return a saved array in the form of ``own``: another library's as it is, if it is of that library."""
    if place(own) is not None:
        return array_like(value, own.shape, own.dtype, name, own)
    if type(value) is not type(own):
        return np.asarray(array_like(value, own.shape, own.dtype, name), like=own)
    same_kind(f"the average of {name}", own, name, value)
    return value
