"""The base of all optimizers: groups, step, hooks and state dicts. It knows no algorithm by name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial, wraps
from itertools import repeat
from operator import setitem
from reprlib import repr as short
from threading import get_ident
from types import FrameType
from typing import Any, ClassVar, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from .. import engines
from ..engines import over_all
from ..engines.workspace import Workspace
from ..numerics.arith import Array
from ..numerics.array_types import is_writable, loaded_cupy, place, plain
from ..numerics.libraries import on_their_streams, telling
from ..step import masters
from ..step import state_dict as states
from ..step.changes import Change, for_all, make, there
from ..step.counter import Counter, recounted
from ..step.estimates import about_estimates
from ..step.given import explained, in_order, loss_and_gradients
from ..step.groups import Group, Params, as_groups, check_members, check_spelling, make_group
from ..step.hooks import (
    Hook,
    Hooks,
    RemovableHandle,
    after_all,
    after_step,
    before_all,
    before_step,
    filter_through,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from ..step.hyper import declared
from ..step.parameter import Parameter, as_array, borrowed, told
from ..step.plan import Bucket, Kept, Terms, label, layout, make_plan, master_copy, state_arrays
from ..step.rule import Hypers, Registers, Rule, has_sums_over_all, resolve, rule_of, unread
from ..step.scaling import UNSCALED, Scaling
from ..step.state_dict import StateDict
from ..step.states import States
from .repeat import Repeat, takes_dense_gradients

__all__ = [
    "Closure",
    "Optimizer",
    "hooked",
    "register_optimizer_step_post_hook",
    "register_optimizer_step_pre_hook",
]

P = ParamSpec("P")
R = TypeVar("R")

Closure = Callable[[], Any]


def hooked(step: Callable[P, R]) -> Callable[P, R]:
    """Run the step hooks around ``step``; they see and may replace its arguments, the optimizer first."""

    @wraps(step)
    def run_hooked(*args: P.args, **kwargs: P.kwargs) -> R:
        self: Any = args[0]
        if self._step_pre_hooks or before_all:
            args, kwargs = before_step(self._step_pre_hooks, self, args, kwargs)
        out = step(*args, **kwargs)
        if self._step_post_hooks or after_all:
            after_step(self._step_post_hooks, self, args, kwargs)
        return out

    return run_hooked


class Optimizer(Rule):
    """Base of all optimizers.

    Args:
        params: arrays, ``Parameter`` objects, ``(name, parameter)`` pairs, or dicts that describe groups, each with
            the key ``params`` and settings of its own.
        defaults: the settings of groups that do not give them, as a dict.
        settings: more of them, by name.

    Attributes:
        param_groups: the groups, dicts of settings with the list ``params`` of Parameters.
        state: what is kept per Parameter: the step count and arrays.
        defaults: the settings given to the constructor.

    Raises:
        TypeError, ValueError: an argument has the wrong type, or a value outside its range.
    """

    is_rule: ClassVar[bool] = True
    """Whether the class is a rule, and nothing that works around an optimizer of another class."""

    makes_along: ClassVar[bool] = True
    """Whether a step makes the changes that ``also`` is given."""

    _repeat: Repeat | None
    _counters: MutableMapping[Parameter, Counter]
    _torn: list[BaseException]
    _also: Sequence[Change] = ()
    _stepping: dict[FrameType, int]

    def __init__(self, params: Params, defaults: Mapping[str, Any] | None = None, **settings: Any) -> None:
        if defaults is not None and not isinstance(defaults, Mapping):
            raise TypeError(f"defaults must be a dict of settings, got {type(defaults).__name__}")
        defaults = {**(defaults or {}), **settings}
        resolve(type(self), defaults)
        self.defaults = defaults
        self.state: dict[Any, dict[str, Any]] = States(dict)
        vars(self).update(self._fresh())
        self.param_groups: list[Group] = []
        self._make_hooks()
        for described in as_groups(params):
            self.add_param_group(described)

    def _fresh(self) -> dict[str, Any]:
        """Return the attributes of an optimizer that has nothing but state and settings."""
        return {"_repeat": None, "_counters": WeakKeyDictionary(), "_torn": [], "_stepping": {}}

    def _make_hooks(self) -> None:
        self._step_pre_hooks, self._step_post_hooks = Hooks(), Hooks()
        self._state_dict_pre_hooks, self._state_dict_post_hooks = Hooks(), Hooks()
        self._load_state_dict_pre_hooks, self._load_state_dict_post_hooks = Hooks(), Hooks()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group: a dict with the key ``params`` and the settings that differ from the defaults.

        Raises:
            TypeError, ValueError, RuntimeError: the dict does not describe a group, a setting is misspelt, outside its
                range or too large for the type of a parameter, or a parameter is optimized already. Nothing is added
                then.
        """
        group = make_group(param_group, self.defaults)
        rule: type = type(self)
        others = {*self.defaults, *hyperparameters(Optimizer)}
        check_spelling(param_group, declared(rule), others, "a parameter group")
        h = resolve(type(self), group)
        engines.check(type(self), group)
        check_members(group, self.param_groups)
        for j, p in enumerate(group["params"]):
            where = label(len(self.param_groups), j, p, group.get("param_names", ()))
            rule_of(rule, h).check_parameter(where, p.shape, p.dtype)
        self._check_group(group)
        eager = group["params"] if self.eager else []
        state = {p: {"step": 0, **self._first_arrays(h, p)} for p in eager}
        owned = [p.belonging_to(self) for p in group["params"]]
        make([partial(self.state.update, state), *owned, partial(self.param_groups.append, group)])

    def _check_group(self, group: Group) -> None:
        """Raise TypeError or ValueError if a group cannot be added to those that there are."""

    def _first_arrays(self, h: Hypers, p: Parameter) -> dict[str, Array]:
        master = master_copy(p, {})
        arrays, _ = state_arrays(layout(type(self), h, p.shape), p.data if master is None else master, {})
        return arrays if master is None else {**arrays, "master": master}

    @hooked
    def step(
        self,
        closure: Closure | None = None,
        *,
        grads: Iterable[Any] | None = None,
        estimates: Iterable[Any] | None = None,
        grad_scale: Any = None,
        found_inf: Any = None,
    ) -> Any:
        """Take one step and return the loss that ``closure`` returned, None without one.

        Args:
            closure: called first; it computes the loss and sets the gradients of the parameters, or returns a tuple of
                the loss and the gradients, which are then what ``grads`` may be.
            grads: the gradients of this step in place of those the parameters hold: one per parameter, in the order of
                the groups; or a dict of them by the names of the parameters, or a tree whose paths are those names, as
                ``named_arrays`` gives them. None skips a parameter.
            estimates: for a rule that takes them, as Sophia does: an array per parameter beside its gradient, given as
                ``grads`` are. None, for all or for one parameter, is a step without an estimate. They are those of the
                loss that is not scaled, whatever ``grad_scale`` is.
            grad_scale: the factor by which the loss was scaled, rounded to float32; gradients are divided by it.
            found_inf: the step is skipped, step counts included, if this number is not 0.

        Raises:
            TypeError, ValueError, RuntimeError: a gradient or a setting is wrong. Nothing has changed then.
        """
        if closure is not None and grads is not None:
            raise TypeError("step takes a closure or grads, not both")
        if closure is not None and not callable(closure):
            raise TypeError(
                f"closure must be a function that returns the loss, got {short(closure)} "
                "(gradients go by name: step(grads=...))"
            )
        told_nothing = grad_scale is None and found_inf is None
        if estimates is not None and not self.takes_estimates:
            raise TypeError(f"{type(self).__name__} takes no estimates")
        return self._advance(closure, grads, UNSCALED if told_nothing else Scaling(grad_scale, found_inf), estimates)

    def _advance(
        self,
        closure: Closure | None,
        grads: Iterable[Any] | None,
        scaling: Scaling,
        estimates: Iterable[Any] | None = None,
    ) -> Any:
        """Call the closure, then take a step."""
        loss = None
        if closure is not None:
            loss, grads = loss_and_gradients(closure())
        with Alone(self, sys._getframe()):
            if loaded_cupy() is None:
                self._take(grads, scaling, estimates)
            else:
                with on_their_streams(borrowed(self.param_groups)):
                    self._take(grads, scaling, estimates)
        return loss

    def _alone(self) -> Alone:
        """Return what lets no other thread step meanwhile."""
        return Alone(self, sys._getframe(1))

    def _take(self, given: Iterable[Any] | None, scaling: Scaling, estimates: Iterable[Any] | None = None) -> None:
        """Take one step: the last one again if nothing but values has changed, else by a plan."""
        grads = None if given is None else in_order(self.param_groups, given)
        if estimates is not None:
            with about_estimates():
                estimates = in_order(self.param_groups, estimates)
        terms = partial(self._terms, scaling, estimates)
        repeat, self._repeat = self._repeat, None
        if repeat and estimates is None and repeat.holds(self.param_groups, self.state, grads, terms):
            if repeat.computes or self._also:
                with np.errstate(all="ignore"):
                    self._take_again(repeat, scaling, given, grads, terms)
            else:
                self._take_again(repeat, scaling, given, grads, terms)
            self._repeat = repeat
            return
        plan = self._plan(given, grads, terms)
        if all(bucket.counted for bucket in plan) or not scaling.skips():
            self._run(plan)

    def _plan(self, given: Any, grads: Any, terms: Callable[[], Terms]) -> list[Bucket]:
        with explained(self.param_groups, given):
            return make_plan(type(self), self.param_groups, self.state, grads, terms())

    def _take_again(self, repeat: Repeat, scaling: Scaling, *planning: Any) -> None:
        """Take the last step again; ``planning`` is what a plan would be made from."""
        workspace = Workspace()
        try:
            changes = repeat.changes(scaling, workspace)
        except Exception:
            self._plan(*planning)  # it says what is wrong, and where
            raise
        self._decide()
        if changes is not None:
            workspace.make_quietly([*changes, *self._also], self)

    def _terms(self, scaling: Scaling, estimates: Any) -> Terms:
        """Return what the next step is taken under."""
        on_gpu = partial(engines.counts_on_gpu, type(self), scaling)
        return Terms(scaling, self._counters, on_gpu, estimates, self._shared())

    def _run(self, plan: list[Bucket]) -> None:
        """Update the arrays and keep the state, all at once; a step whose arrays stay can be repeated."""
        workspace, shared = Workspace(), self._measure(plan)
        works = [engines.prepare(bucket, workspace) for bucket in plan]
        changes = [change for work in works for change in work.changes]
        written = told(task.parameter for bucket in plan for task in bucket.tasks)
        self._decide()
        workspace.make([*written, *changes, *self._keeping(plan, shared), *self._also], self)
        standing = [work.standing for work in works if work.standing]
        takes_part = any(self.takes_part(bucket.h) for bucket in plan)
        if plan and len(standing) == len(plan) and takes_dense_gradients(type(self)) and not takes_part:
            self._repeat = Repeat(self.param_groups, self.state, plan, standing)

    @np.errstate(all="ignore")
    def _measure(self, plan: Sequence[Bucket]) -> Registers:
        """Tell a plan what sums over all parameters say; return the registers that all share after the step, if any."""
        rule = type(self)
        groups = self.param_groups if has_sums_over_all(rule) else []
        first = next(filter(rule.takes_part, (resolve(rule, unread(group)) for group in groups)), None)
        if first is None:
            return {}
        members = [p for group in groups for p in group["params"]]
        found = self._of_all(over_all.totals(plan, {p: i for i, p in enumerate(members)}, engines.totals))
        over_all.tell(plan, found)
        shared = over_all.shared_after(rule, first, self._shared() or {}, found) if self.shares_registers else {}
        for bucket in plan:
            bucket.registers = {**bucket.registers, **shared}
        return shared

    def _of_all(self, found: over_all.Totals) -> over_all.Totals:
        """Return what all parameters add to the sums, where others have some of them."""
        return found

    def _shared(self) -> Mapping[str, Any] | None:
        """Return the state of a parameter that holds the registers which all share; None where each has its own."""
        if not self.shares_registers:
            return None
        states = (self.state.get(p) for group in self.param_groups for p in group["params"])
        return next((x for x in states if isinstance(x, dict) and x.keys() - {"master"}), {})

    @contextmanager
    def also(self, changes: Sequence[Change]) -> Iterator[None]:
        """Let changes of somebody else be made with those of a step, or of loading, inside the block: all, or none."""
        self._also = changes
        try:
            yield
        finally:
            self._also = ()

    def _decide(self) -> None:
        """Raise what forbids a step that is ready to be made, as where others must take it too."""

    def _reduced(self, grads: Any = None) -> Optimizer:
        """Return the optimizer whose parameters hold the gradients of the next step: itself, if it has them all."""
        return self

    def _innermost(self) -> Optimizer:
        """Return the optimizer that takes the steps: itself, or the one that it works around."""
        return self

    def _is_gathering(self) -> bool:
        """Tell whether the gradients of calls of ``step`` wait for others before a step is taken."""
        return False

    def _everywhere(self, found: Mapping[Any, Any]) -> Mapping[Any, Any]:
        """Return numbers by place, other than 0 if they are so anywhere that the next step is taken."""
        return found

    def _leave_out(self) -> Any:
        """Forget what was prepared for a step that is left out, and return what the step would return."""
        return None

    def _keeping(self, plan: list[Bucket], shared: Registers) -> Iterator[Change]:
        """Yield what keeps the state of the parameters that were updated, and the registers that all share."""
        for bucket in plan:
            counts = {"step": bucket.k, **bucket.registers} if bucket.counter is None else bucket.counter.views
            counts = {name: x for name, x in counts.items() if self.counts_steps or name != "step"}
            known = []
            for task in bucket.tasks:
                state, arrays = self.state.get(task.parameter), task.kept
                if state is None and (counts or arrays):
                    yield partial(setitem, self.state, task.parameter, {**counts, **arrays})
                elif state is not None:
                    known.append(state)
                    if any(state.get(name) is not x for name, x in arrays.items()):
                        yield partial(state.update, arrays)
            yield for_all(dict.update, known, repeat(counts))
        if shared:
            having = [x for x in self.state.values() if isinstance(x, dict) and shared.keys() <= x.keys()]
            yield for_all(dict.update, having, repeat(shared))
        if self._counters or any(bucket.counter for bucket in plan):
            stepped = [(task.parameter, bucket.counter) for bucket in plan for task in bucket.tasks]
            counters, changes = recounted(self._counters, stepped)
            yield from (*changes, partial(setattr, self, "_counters", counters))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, or fill them with zeros."""
        make([x for group in self.param_groups for p in group["params"] for x in _forgetting(p, set_to_none)])

    def state_dict(self) -> StateDict:
        """Return a copy of the state and the settings, in torch's layout.

        The state of a parameter that stands in no group any more is left out.
        """
        for hook in (*self._state_dict_pre_hooks.values(),):
            hook(self)
        return filter_through(self._state_dict_post_hooks, self, self._dumped(deepcopy))

    def _dumped(self, copy: Callable[[Any], Any]) -> StateDict:
        state = {key: self._on_host(key, values) for key, values in self.state.items()}
        return states.dump(state, self.param_groups, copy)

    def _to_save(self) -> StateDict:
        """Return what ``state_dict`` returns, for those who only read it: without hooks its arrays are no copies."""
        hooks = self._state_dict_pre_hooks or self._state_dict_post_hooks
        return self.state_dict() if hooks else self._dumped(lambda x: x)

    def _standing(self) -> list[Change]:
        """Return what puts back all that ``load_state_dict`` replaces, which changes nothing that it replaces."""
        groups = [change for group in self.param_groups for change in _putting_back(group)]
        own = {name: vars(self)[name] for name in self._fresh()}
        return [*groups, *_putting_back(self.state), partial(vars(self).update, own)]

    def _on_host(self, key: Any, values: Any) -> Any:
        """Return the state of a parameter with the step count and registers that a GPU keeps read from there."""
        counter = self._counters.get(key) if isinstance(key, Parameter) else None
        if counter and counter.is_ahead_of(values, self.counts_steps):
            return {}
        read = counter.read() if counter and counter.stands_in(values, self.counts_steps) else {}
        return {**values, **{name: x for name, x in read.items() if name in values}} if read else values

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Take over a copy of a saved state.

        Parameters are matched by name where both sides have names, else by position. The state of a float32 run may
        continue with master copies, which are then made in the next step. That of a run with master copies may continue
        in float32: parameters that are these copies, rounded to 16 bits perhaps, become the copies.

        Raises:
            TypeError, ValueError: the state is not one of this optimizer or of these parameters, or a setting is wrong.
                Nothing has changed then.
        """
        given: Any = dict(state_dict) if isinstance(state_dict, Mapping) else state_dict
        state_dict = filter_through(self._load_state_dict_pre_hooks, self, given)
        rule: type = type(self)
        own = declared(rule)
        foreign = hyperparameters(Optimizer) - set(own)
        state, groups = states.read(state_dict, self.param_groups, own, foreign, self._read_state)
        state, written = masters.taken_over(state)
        for group in groups:
            resolve(type(self), group)
            states.check_shared(type(self), group, state)
        replaced = [partial(group.clear) for group in self.param_groups]
        filled = [partial(old.update, new) for old, new in zip(self.param_groups, groups, strict=True)]
        own_state = [partial(self.state.clear), partial(self.state.update, state)]
        make([*written, *replaced, *filled, *own_state, partial(vars(self).update, self._fresh()), *self._also])
        for hook in (*self._load_state_dict_post_hooks.values(),):
            hook(self)

    def _read_state(self, group: Group, p: Parameter, values: dict[str, Any], where: str) -> dict[str, Any]:
        """Check the saved state of one parameter and return a copy."""
        masters.check_kind(p, values, where)
        h = resolve(type(self), group)
        arrays, registers = layout(type(self), h, p.shape), self.registers(h)
        needed = (*(["step"] if self.counts_steps else []), *arrays, *registers)
        arrays |= {"master": Kept(p.shape, 0.0)} if "master" in values else {}
        dtype = np.dtype(np.float32) if p.master else p.dtype
        read: dict[str, Any] = {}
        for name, value in values.items():
            here = f"{where}, {name},"
            unmade = value is None and (name not in arrays or arrays[name].first is None)
            if name == "step" and self.counts_steps:
                read[name] = states.step_count(value, here)
            elif name in registers:
                read[name] = states.register(type(self), value, here)
            elif name in arrays and not unmade:
                read[name] = states.array_like(value, arrays[name].shape, arrays[name].dtype or dtype, here, p.data)
            elif not unmade:
                raise ValueError(f"loaded state dict is not one of {type(self).__name__}: {where} has {name!r}")
        missing = [name for name in needed if name not in read] if {*read} - {"master"} else []
        if missing:
            raise ValueError(f"loaded state dict is not one of {type(self).__name__}: {where} lacks {missing[0]!r}")
        if "master" in read and not p.master:
            masters.check_copy(p, read["master"], f"{where}, master,")
        return read

    def register_step_pre_hook(self, hook: Hook) -> RemovableHandle:
        """Run ``hook(optimizer, args, kwargs)`` before each step; it may return new ``(args, kwargs)``."""
        return self._step_pre_hooks.register(hook)

    def register_step_post_hook(self, hook: Hook) -> RemovableHandle:
        """Run ``hook(optimizer, args, kwargs)`` after each step."""
        return self._step_post_hooks.register(hook)

    def register_state_dict_pre_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Run ``hook(optimizer)`` before a state dict is made."""
        return self._state_dict_pre_hooks.register(hook, prepend)

    def register_state_dict_post_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Run ``hook(optimizer, state_dict)`` on each state dict made; it may return another."""
        return self._state_dict_post_hooks.register(hook, prepend)

    def register_load_state_dict_pre_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Run ``hook(optimizer, state_dict)`` before a state dict is loaded; it may return another."""
        return self._load_state_dict_pre_hooks.register(hook, prepend)

    def register_load_state_dict_post_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Run ``hook(optimizer)`` after a state dict has been loaded."""
        return self._load_state_dict_post_hooks.register(hook, prepend)

    def __getstate__(self) -> dict[str, Any]:
        torn = {"_torn": list(self._torn)} if self._torn else {}
        return {"defaults": self.defaults, "state": self.state, "param_groups": self.param_groups, **torn}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(self._fresh() | state)
        self._make_hooks()
        make([p.belonging_to(self) for group in self.param_groups for p in group["params"]])

    def __repr__(self) -> str:
        blocks = []
        for i, group in enumerate(self.param_groups):
            settings = [f"    {key}: {group[key]}\n" for key in sorted(group) if key != "params"]
            blocks.append(f"Parameter Group {i}\n{''.join(settings)}")
        return f"{type(self).__name__} (\n" + "\n".join(blocks) + ")"


def _putting_back(values: dict[Any, Any]) -> list[Change]:
    """Return what gives a dict the entries back that it has now."""
    return [partial(values.clear), partial(values.update, dict(values))]


def _forgetting(p: Parameter, set_to_none: bool) -> list[Change]:
    """Return what forgets the gradient of a parameter, or fills it with zeros."""
    grad = None if set_to_none else _dense(p.grad)
    if grad is None:
        return p.forgetting()
    if is_writable(grad):
        return [*telling([p.grad]), *there(place(grad), [partial(setitem, plain(grad), ..., 0)])]
    return [partial(object.__setattr__, p, "grad", np.zeros_like(grad))]


def _dense(grad: Any) -> Array | None:
    """Return a gradient as an array, None for a sparse one and for none."""
    try:
        return as_array(grad)
    except TypeError:
        return None


class Alone:
    """Lets no other thread step meanwhile, and none at all where the last step was left half done."""

    __slots__ = ("optimizer", "step")

    def __init__(self, optimizer: Optimizer, step: FrameType) -> None:
        self.optimizer, self.step = optimizer, step

    def __enter__(self) -> None:
        optimizer, stepping = self.optimizer, self.optimizer._stepping
        stepping[self.step] = get_ident()
        try:
            if len(stepping) > 1:
                _check_others(optimizer, self.step)
            if optimizer._torn:
                raise RuntimeError(
                    f"the last step of this {type(optimizer).__name__} was left half done ({optimizer._torn[0]!r}): "
                    "put the parameters back and load a state dict that fits them"
                )
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *error: object) -> None:
        self.optimizer._stepping.pop(self.step, None)


def _check_others(optimizer: Optimizer, step: FrameType) -> None:
    """Raise RuntimeError if a step of an optimizer is running beside this one."""
    for other, thread in [*optimizer._stepping.items()]:
        if other is not step and _is_running(other):
            who = "this thread" if thread == get_ident() else "another thread"
            raise RuntimeError(
                f"this {type(optimizer).__name__} is stepped by {who}: one optimizer takes one step at a time"
            )


def _is_running(step: FrameType) -> bool:
    """Tell whether a step has not ended; one that was interrupted may have left its frame behind."""
    try:
        step.clear()
    except RuntimeError:
        return True
    return False


def hyperparameters(cls: type) -> set[str]:
    """Return the names of the hyperparameters of ``cls`` and of all classes here that derive from it.

    Classes of other places do not count: what a group may hold does not change with what is imported.
    """
    derived: list[type] = cls.__subclasses__()
    here = [x for x in derived if x.__module__.startswith(f"{__package__}.")]
    return set(declared(cls)).union(*map(hyperparameters, here))
