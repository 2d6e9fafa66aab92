"""refoptim's optimizers as optimizers of torch, and their state as tensors.

``optimizer_class`` makes a subclass of ``torch.optim.Optimizer`` of any optimizer of refoptim; those of refoptim itself
are here already, under their names. What torch's schedulers, scalers, wrappers and trainers ask of an optimizer, these
have from torch::

    from refoptim.interop.torch import AdamW

    optimizer = AdamW(model.parameters(), lr=1e-3, fused=True)

Each is a front before an ordinary optimizer of refoptim, the inner one, which checks and takes the steps. The groups
and the state are torch's own, of tensors: the settings of the groups go to the inner optimizer before each step, and
the tensors of the state share memory with its arrays.
"""

from __future__ import annotations

import copyreg
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from functools import cache, partial
from inspect import signature
from operator import setitem
from typing import Any, ClassVar

import numpy as np
import torch

import refoptim

from ..numerics.array_types import is_array
from ..numerics.libraries import viewed
from ..optimizers.closure import ClosureOptimizer
from ..optimizers.modes import ModalOptimizer
from ..step.changes import make
from ..step.parameter import Parameter
from ..step.rule import needs_whole
from ..step.states import States
from .torch_state import Board, Entry, counts_in_tensors, local, number_tensor, sharded_type, tensor_of

__all__ = [
    "ADOPT",
    "ASGD",
    "FTRL",
    "LAMB",
    "LARS",
    "LBFGS",
    "MARS",
    "SGD",
    "SOAP",
    "AdEMAMix",
    "AdaBelief",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "Adam8bit",
    "AdamW",
    "AdamW8bit",
    "Adamax",
    "Adan",
    "ConjugateGradient",
    "Front",
    "Lion",
    "Muon",
    "NAdam",
    "NovoGrad",
    "Prodigy",
    "RAdam",
    "RMSprop",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeRAdam",
    "ScheduleFreeSGD",
    "Sophia",
    "SparseAdam",
    "StableAdamW",
    "Yogi",
    "optimizer_class",
    "state_dict",
]


class Front(torch.optim.Optimizer):
    """The base of the classes that ``optimizer_class`` makes: an optimizer of refoptim, as torch sees it.

    Args:
        params: tensors, ``(name, tensor)`` pairs, or dicts that describe groups.
        args, settings: the settings of the optimizer of refoptim, by position or by name.

    Attributes:
        rule: the class of that optimizer.

    Raises:
        TypeError, ValueError, RuntimeError: an argument is wrong, or a tensor cannot be optimized.
    """

    rule: ClassVar[type[refoptim.Optimizer]]
    _inner: refoptim.Optimizer | None
    _board: Board
    _behind = False
    """Whether a step may have begun after which ``state`` was not shown anew."""

    def __init__(self, params: Any, *args: Any, **settings: Any) -> None:
        described = _described(params)
        inner = self.rule(self._mapped(described), *args, **settings)
        super().__init__(described, dict(inner.defaults))
        for group in self.param_groups:
            _check_whole(group)
        self._inner, self._board = inner, Board(self.param_groups, inner.param_groups)
        self._show()

    def _mapped(self, x: Any) -> Any:
        """Return a description of parameters with Parameters in place of tensors; the rest is left to the checks."""
        if isinstance(x, torch.Tensor):
            return _parameter(self.rule, x)
        if isinstance(x, dict) and "params" in x:
            return {**x, "params": self._mapped(x["params"])}
        if isinstance(x, tuple) and len(x) == 2:
            return x[0], self._mapped(x[1])
        return [self._mapped(y) for y in x] if isinstance(x, list) else x

    @property
    def state(self) -> defaultdict[Any, Any]:
        """The state by tensor."""
        if self._behind:
            self._show()
        found: defaultdict[Any, Any] = self.__dict__["state"]
        return found

    @state.setter
    def state(self, value: Any) -> None:
        self.__dict__["state"] = value

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group: a dict with the key ``params`` and the settings that differ from the defaults.

        Raises:
            TypeError, ValueError, RuntimeError: it does not describe a group. Nothing is added then.
        """
        inner = self._ready() if "_inner" in self.__dict__ else None
        super().add_param_group(param_group)
        if inner is None:
            return
        try:
            _check_whole(self.param_groups[-1])
            inner.add_param_group(self._mapped(self.param_groups[-1]))
        except BaseException:
            self.param_groups.pop()
            raise
        self._board = Board(self.param_groups, inner.param_groups)
        self._show()

    @torch._disable_dynamo  # type: ignore[attr-defined]
    def step(self, closure: Callable[[], Any] | None = None, *, estimates: Iterable[Any] | None = None) -> Any:
        """Take one step and return what ``closure``, which is called with gradients enabled, returned.

        ``estimates`` are tensors beside the gradients, for a rule that takes them.

        Raises:
            TypeError, ValueError, RuntimeError: a gradient, a setting or the state is wrong. Nothing has changed then.
        """
        inner = self._ready()
        if callable(closure):
            closure = torch.enable_grad()(closure)
        if self._board.sharded and estimates is not None:
            raise TypeError("parameters that are sharded take no estimates")
        self._behind = True
        loss = self._step_shards(inner, closure) if self._board.sharded else inner.step(closure, estimates=estimates)
        self._show()
        return loss

    def _step_shards(self, inner: refoptim.Optimizer, closure: Callable[[], Any] | None) -> Any:
        """Take a step with the shards of gradients, which the shards of tensors do not hold."""
        loss = closure() if closure is not None else None
        inner.step(grads=[_local_gradient(x) for x in self._board.tensors])
        torch.autograd.graph.increment_version(self._board.tensors)
        return loss

    def _ready(self) -> refoptim.Optimizer:
        """Return the inner optimizer with the settings, the tensors and the state that are there now."""
        state, inner = self.state, self._inner
        if inner is None or not self._board.is_of(self.param_groups):
            inner, board = self._made_anew()
            inner.state.update(self._read(inner, board))
            make([partial(self.__dict__.update, {"_inner": inner, "_board": board})])
            self._show()
        elif not self._board.is_untouched(state):
            read = self._read(inner, self._board)
            make([partial(inner.state.clear), partial(inner.state.update, read)])
            self._show()
        for group, own in zip(self.param_groups, inner.param_groups, strict=True):
            _check_whole(group)
            _pass_on(group, own)
        return inner

    def _made_anew(self) -> tuple[refoptim.Optimizer, Board]:
        """Return another inner optimizer, made of the groups, and its board; the state is not read yet."""
        known = {id(x): p for x, p in self._board.pairs() if local(x) is p.source}
        inner = _empty(self.rule, self.defaults)
        for group in self.param_groups:
            params = [known.get(id(x)) or self._mapped(x) for x in group["params"]]
            inner.add_param_group({**group, "params": params})
        return inner, Board(self.param_groups, inner.param_groups)

    def _read(self, inner: refoptim.Optimizer, board: Board) -> dict[Parameter, Entry]:
        """Return the state as the inner optimizer keeps it, arrays being views of tensors; raise if it is wrong."""
        read: dict[Parameter, Entry] = {}
        tensors = iter(board.tensors)
        for group in inner.param_groups:
            for p in group["params"]:
                entry = self.__dict__["state"].get(next(tensors))
                if entry:
                    given = {name: local(x) for name, x in entry.items()}
                    checked = inner._read_state(group, p, given, f"state {len(read)}")
                    read[p] = {name: _looked_at(x, given[name]) for name, x in checked.items()}
        return read

    def _show(self) -> None:
        """Let ``state`` be what the inner optimizer keeps."""
        changes = self._board.showing(self._inner, self.__dict__["state"]) if self._inner is not None else []
        make([*changes, partial(setattr, self, "_behind", False)])

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a copy of a saved state, torch's or refoptim's; dtypes must be those of the parameters' state.

        Raises:
            TypeError, ValueError: the state is not one of this optimizer or of these parameters, or a setting is wrong.
                Nothing has changed then.
        """
        given: Any = dict(state_dict) if isinstance(state_dict, Mapping) else state_dict
        for hook in (*self._optimizer_load_state_dict_pre_hooks.values(),):
            result = hook(self, given)
            given = given if result is None else result
        loaded, board = self._made_anew()
        loaded.load_state_dict(_localized(given))
        pairs = zip(self.param_groups, loaded.param_groups, strict=True)
        filled = [change for group, own in pairs for change in _filling(group, own)]
        make([*filled, partial(self.__dict__.update, {"_inner": loaded, "_board": board, "_behind": True})])
        self._show()
        for after in (*self._optimizer_load_state_dict_post_hooks.values(),):
            after(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.update({"_inner": None, "_board": Board([], []), "_behind": False})

    def __reduce__(self) -> tuple[Any, ...]:
        cls = type(self)
        made = (_blank, (cls.rule,)) if "rule" in vars(cls) else (copyreg.__newobj__, (cls,))  # type: ignore[attr-defined]
        return (*made, self.__getstate__())


class ModalFront(Front):
    """The base of those classes whose rule has modes."""

    def train(self) -> None:
        """Move the tensors to where gradients are taken. Groups that are in train mode stay as they are.

        Raises:
            TypeError, ValueError, RuntimeError: a setting or the state is wrong. Nothing has changed then.
        """
        self._turn(True)

    def eval(self) -> None:
        """Move the tensors to where they are evaluated and saved. Groups that are in eval mode stay as they are.

        Raises:
            TypeError, ValueError, RuntimeError: a setting or the state is wrong. Nothing has changed then.
        """
        self._turn(False)

    def _turn(self, training: bool) -> None:
        inner: Any = self._ready()
        with inner.also([partial(setitem, group, "train_mode", training) for group in self.param_groups]):
            inner.turn(training)
        if self._board.sharded:
            torch.autograd.graph.increment_version(self._board.tensors)


def optimizer_class(rule: type[refoptim.Optimizer]) -> type[Front]:
    """Return the class of optimizers of torch, always the same, whose steps are those of a class of refoptim's.

    Its constructor takes tensors, and the settings that the constructor of ``rule`` takes.

    Raises:
        TypeError: ``rule`` is no class of optimizers of refoptim.
    """
    if not (isinstance(rule, type) and issubclass(rule, refoptim.Optimizer)):
        raise TypeError(f"rule must be a class of optimizers of refoptim, got {rule!r}")
    key: Any = rule
    return _class(key)


@cache
def _class(rule: Any) -> type[Front]:
    text = f"``refoptim.{rule.__name__}`` as an optimizer of torch: the same settings, the same steps to the bit."
    body = {"rule": rule, "__doc__": text, "__module__": __name__, "__signature__": signature(rule)}
    return type(rule.__name__, (ModalFront if issubclass(rule, ModalOptimizer) else Front,), body)


def state_dict(optimizer: refoptim.Optimizer | Front) -> dict[str, Any]:
    """Return a copy of the state of an optimizer as torch's optimizer of the same name saves it, of tensors.

    Step counts become float32 tensors where torch has such (float64 ones above 2**24, where float32 has gaps).
    """
    if isinstance(optimizer, Front):
        return deepcopy(optimizer.state_dict())
    saved = optimizer.state_dict()
    counted = counts_in_tensors(type(optimizer))
    state = {key: _exported_entry(x, counted) if isinstance(x, dict) else x for key, x in saved["state"].items()}
    groups = [{key: _exported(x) for key, x in group.items()} for group in saved["param_groups"]]
    return {**saved, "state": state, "param_groups": groups}


def _exported_entry(entry: Entry, counted: bool) -> Entry:
    count = {"step": number_tensor(entry["step"])} if counted and isinstance(entry.get("step"), int) else {}
    return {name: _exported(x) for name, x in entry.items()} | count


def _exported(x: Any) -> Any:
    """Return arrays and NumPy's numbers as tensors, also those in a list, and anything else as it is."""
    if isinstance(x, list):
        return [_exported(y) for y in x]
    return (
        tensor_of(np.asarray(x) if isinstance(x, np.generic) else x) if is_array(x) or isinstance(x, np.generic) else x
    )


def _described(params: Any) -> Any:
    """Return what an optimizer is made of with lists in place of iterators, which are read twice."""
    if isinstance(params, dict) and "params" in params:
        return {**params, "params": _described(params["params"])}
    if isinstance(params, (torch.Tensor, str, Mapping, set, frozenset)) or not isinstance(params, Iterable):
        return params
    return [_described(x) if isinstance(x, dict) else x for x in params]


def _parameter(rule: type[refoptim.Optimizer], x: torch.Tensor) -> Parameter:
    """Return a Parameter made of a tensor, or of the shard that lies here; raise TypeError if its rule takes none."""
    if isinstance(x, sharded_type()):
        placements: Any = x.placements
        if any(each.is_partial() for each in placements):
            raise TypeError(f"a parameter must be whole or sharded, got a sum that is yet to be taken: {placements}")
        if (needs_whole(rule) and _is_split(x)) or issubclass(rule, ClosureOptimizer):
            raise TypeError(f"{rule.__name__} needs whole parameters, got {placements} of shape {tuple(x.shape)}")
    return Parameter(local(x))


def _is_split(x: torch.Tensor) -> bool:
    """Tell whether a part of a tensor lies elsewhere."""
    placements: Any = getattr(x, "placements", ())
    return isinstance(x, sharded_type()) and not all(each.is_replicate() for each in placements)


def _check_whole(group: Mapping[str, Any]) -> None:
    """Raise TypeError for a cautious group with tensors that are sharded, whose elements are not all here to count."""
    if group.get("cautious") and any(map(_is_split, group["params"])):
        raise TypeError("cautious steps need whole parameters, and some of a cautious group are sharded")


def _local_gradient(x: Any) -> Any:
    """Return the gradient of a tensor, or the shard of it that lies here."""
    grad = x.grad
    if grad is not None and isinstance(x, sharded_type()) and tuple(grad.placements) != tuple(x.placements):
        raise TypeError(f"a gradient must be sharded as its parameter is, {x.placements}, got {grad.placements}")
    return local(grad)


def _localized(x: Any) -> Any:
    """Return a state dict with shards in place of sharded tensors."""
    if isinstance(x, Mapping):
        return {key: _localized(y) for key, y in x.items()}
    return local(x)


def _looked_at(x: Any, given: Any) -> Any:
    """Return the array that shares the memory of a tensor in place of its copy, and anything else as it is."""
    return viewed(given) if is_array(x) and isinstance(given, torch.Tensor) else x


def _pass_on(group: Entry, own: Entry) -> None:
    """Give a group of the inner optimizer the settings of torch's."""
    settings = {**group, "params": own["params"]}
    if settings.keys() != own.keys() or any(own[key] is not x for key, x in settings.items()):
        make(_filling(own, settings))


def _filling(group: Entry, settings: Entry) -> list[partial[Any]]:
    """Return what gives a group other settings; it keeps its parameters."""
    return [partial(group.clear), partial(group.update, {**settings, "params": group["params"]})]


def _empty(rule: type[refoptim.Optimizer], defaults: Entry, groups: Iterable[Entry] = ()) -> refoptim.Optimizer:
    """Return an optimizer with defaults, and groups that are known to be right, but without state."""
    inner = rule.__new__(rule)
    inner.__setstate__({"defaults": dict(defaults), "state": States(dict), "param_groups": list(groups)})
    return inner


def _blank(rule: type[refoptim.Optimizer]) -> Front:
    """Return an instance of the class that is made of a rule, for a copy to fill."""
    cls = optimizer_class(rule)
    return cls.__new__(cls)


ADOPT = optimizer_class(refoptim.ADOPT)
ASGD = optimizer_class(refoptim.ASGD)
FTRL = optimizer_class(refoptim.FTRL)
LAMB = optimizer_class(refoptim.LAMB)
LARS = optimizer_class(refoptim.LARS)
LBFGS = optimizer_class(refoptim.LBFGS)
MARS = optimizer_class(refoptim.MARS)
SGD = optimizer_class(refoptim.SGD)
SOAP = optimizer_class(refoptim.SOAP)
AdEMAMix = optimizer_class(refoptim.AdEMAMix)
AdaBelief = optimizer_class(refoptim.AdaBelief)
Adadelta = optimizer_class(refoptim.Adadelta)
Adafactor = optimizer_class(refoptim.Adafactor)
Adagrad = optimizer_class(refoptim.Adagrad)
Adam = optimizer_class(refoptim.Adam)
Adam8bit = optimizer_class(refoptim.Adam8bit)
AdamW = optimizer_class(refoptim.AdamW)
AdamW8bit = optimizer_class(refoptim.AdamW8bit)
Adamax = optimizer_class(refoptim.Adamax)
Adan = optimizer_class(refoptim.Adan)
ConjugateGradient = optimizer_class(refoptim.ConjugateGradient)
Lion = optimizer_class(refoptim.Lion)
Muon = optimizer_class(refoptim.Muon)
NAdam = optimizer_class(refoptim.NAdam)
NovoGrad = optimizer_class(refoptim.NovoGrad)
Prodigy = optimizer_class(refoptim.Prodigy)
RAdam = optimizer_class(refoptim.RAdam)
RMSprop = optimizer_class(refoptim.RMSprop)
Rprop = optimizer_class(refoptim.Rprop)
ScheduleFreeAdamW = optimizer_class(refoptim.ScheduleFreeAdamW)
ScheduleFreeRAdam = optimizer_class(refoptim.ScheduleFreeRAdam)
ScheduleFreeSGD = optimizer_class(refoptim.ScheduleFreeSGD)
Sophia = optimizer_class(refoptim.Sophia)
SparseAdam = optimizer_class(refoptim.SparseAdam)
StableAdamW = optimizer_class(refoptim.StableAdamW)
Yogi = optimizer_class(refoptim.Yogi)
