"""Wrapper: the base of what works around an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, ClassVar

from ..numerics.arith import Array
from ..optimizers.base import Optimizer
from ..step import state_dict as states
from ..step.changes import Change
from ..step.groups import Group
from ..step.hooks import Hook, RemovableHandle
from ..step.parameter import Parameter
from ..step.state_dict import StateDict


class Wrapper(Optimizer):
    """Base of what works around an optimizer, and is used in its place.

    Groups, state, defaults and hooks are those of the optimizer: hooks get the optimizer, and see each step that it
    takes. A scheduler may be made of either.

    Attributes:
        optimizer: the optimizer.

    Raises:
        TypeError: the argument is no optimizer.
    """

    is_rule: ClassVar[bool] = False
    of_torch: ClassVar[bool] = False

    own: ClassVar[tuple[str, ...]] = ()
    """The attributes that a wrapper has besides the optimizer; they are copied and pickled."""

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"the first argument must be an Optimizer, as in {type(self).__name__}(optim.SGD(params, lr=0.1)), "
                f"got {type(optimizer).__name__}"
            )
        self.optimizer = optimizer
        vars(self).update(self._fresh())

    @property
    def param_groups(self) -> list[Group]:  # type: ignore[override]
        """The groups of the optimizer."""
        return self.optimizer.param_groups

    @property
    def state(self) -> dict[Any, dict[str, Any]]:  # type: ignore[override]
        """The state of the optimizer."""
        return self.optimizer.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The defaults of the optimizer."""
        return self.optimizer.defaults

    def _members(self) -> list[Parameter]:
        """Return the parameters in the order of the groups."""
        return [p for group in self.param_groups for p in group["params"]]

    def _innermost(self) -> Optimizer:
        return self.optimizer._innermost()

    def _everywhere(self, found: Mapping[Any, Any]) -> Mapping[Any, Any]:
        return self.optimizer._everywhere(found)

    def _leave_out(self) -> Any:
        return self.optimizer._leave_out()

    def _is_gathering(self) -> bool:
        return self.optimizer._is_gathering()

    def _check_wrapped(self) -> None:
        """Raise TypeError for an optimizer whose steps are not made together with changes of somebody else."""
        if not self._innermost().makes_along:
            raise TypeError(f"{type(self).__name__} takes no {type(self._innermost()).__name__} optimizer")

    def _check_in_place(self) -> None:
        """Raise RuntimeError if a step would make new arrays."""
        if any(group.get("differentiable") for group in self.param_groups):
            raise RuntimeError(f"differentiable=True makes new arrays, and {type(self).__name__} changes them in place")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the optimizer, as its ``add_param_group`` does."""
        self.optimizer.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, or fill them with zeros."""
        self.optimizer.zero_grad(set_to_none)

    # state dicts

    def _saved(self, inner: StateDict, copy: Callable[[Any], Any]) -> StateDict:
        """Return the state dict of the optimizer with what a wrapper adds, its arrays as ``copy`` returns them."""
        raise NotImplementedError

    def state_dict(self) -> StateDict:
        """Return a copy of the state dict of the optimizer, with an entry of the wrapper's own."""
        return self._saved(self.optimizer.state_dict(), deepcopy)

    def _to_save(self) -> StateDict:
        return self._saved(self.optimizer._to_save(), lambda x: x)

    def _standing(self) -> list[Change]:
        own = {name: vars(self)[name] for name in self.own}
        return [*self.optimizer._standing(), partial(vars(self).update, own)]

    def _take_over(self, inner: StateDict, own: dict[str, Any]) -> None:
        """Let the optimizer load a state dict, and set attributes, both at once."""
        with self.optimizer.also([*self._also, partial(vars(self).update, {**own, "_torn": []})]):
            self.optimizer.load_state_dict(inner)

    def _entry(self, state_dict: Any, key: str, names: Sequence[str]) -> tuple[StateDict, Mapping[str, Any]]:
        """Part a state dict into that of the optimizer and the wrapper's entry, which has these names; or raise."""
        entry = state_dict.get(key) if isinstance(state_dict, Mapping) else None
        if not isinstance(entry, Mapping) or set(entry) != set(names):
            raise ValueError(f"loaded state dict is not one of {type(self).__name__}")
        return {name: x for name, x in state_dict.items() if name != key}, entry

    def _by_parameter(self, inner: StateDict, what: str, listed: Any) -> dict[Parameter, Any]:
        """Return the entries of a list that are not None by parameter; the list is in the order that was saved."""
        groups = states.saved_groups(inner, self.param_groups)
        places = {str(key): i for i, key in enumerate(key for group in groups for key in group["params"])}
        if not isinstance(listed, (list, tuple)) or len(listed) != len(places):
            raise ValueError(f"{what} of a state dict must be a list of {len(places)} arrays")
        pairs = zip(self.param_groups, groups, strict=True)
        ids = [key for i, (group, new) in enumerate(pairs) for key in states.ids_in_order(i, group, new)]
        found = {p: listed[places[str(key)]] for p, key in zip(self._members(), ids, strict=True)}
        return {p: x for p, x in found.items() if x is not None}

    def _arrays(self, inner: StateDict, what: str, listed: Any, dtype: Callable[[Parameter], Any]) -> dict[Any, Array]:
        """Return copies of the arrays of a list by parameter, or raise ValueError."""
        found = self._by_parameter(inner, what, listed)
        return {p: states.array_like(x, p.shape, dtype(p), what, p.data) for p, x in found.items()}

    # hooks and copies

    def register_step_pre_hook(self, hook: Hook) -> RemovableHandle:
        """Run ``hook(optimizer, args, kwargs)`` before each step of the optimizer."""
        return self.optimizer.register_step_pre_hook(hook)

    def register_step_post_hook(self, hook: Hook) -> RemovableHandle:
        """Run ``hook(optimizer, args, kwargs)`` after each step of the optimizer."""
        return self.optimizer.register_step_post_hook(hook)

    def register_state_dict_pre_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Run ``hook(optimizer)`` before the state dict of the optimizer is made."""
        return self.optimizer.register_state_dict_pre_hook(hook, prepend)

    def register_state_dict_post_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Run ``hook(optimizer, state_dict)`` on each state dict that the optimizer makes."""
        return self.optimizer.register_state_dict_post_hook(hook, prepend)

    def register_load_state_dict_pre_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Run ``hook(optimizer, state_dict)`` before the optimizer loads a state dict."""
        return self.optimizer.register_load_state_dict_pre_hook(hook, prepend)

    def register_load_state_dict_post_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Run ``hook(optimizer)`` after the optimizer has loaded a state dict."""
        return self.optimizer.register_load_state_dict_post_hook(hook, prepend)

    def __getstate__(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer, **{name: vars(self)[name] for name in self.own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(self._fresh() | state)

    def __repr__(self) -> str:
        settings = [f"{name}: {vars(self)[name]}" for name in self.own if not name.startswith("_")]
        return f"{type(self).__name__} ({', '.join(settings)}) of {self.optimizer!r}"


def copied_list(members: Sequence[Parameter], arrays: Mapping[Parameter, Array], copy: Callable[[Any], Any]) -> Any:
    """Return the arrays of parameters in their order, None for one that has none."""
    return [copy(arrays[p]) if p in arrays else None for p in members]
