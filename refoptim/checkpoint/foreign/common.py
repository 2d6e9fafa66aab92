"""What the libraries have in common: nested data as arrays by path, refoptim's optimizer, and how rules differ."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ...formats.raw import np_dtype
from ...numerics.arith import Array
from ...optimizers.base import Optimizer
from ...step.trees import join
from ..errors import CheckpointError
from ..single import on_host

Group = Mapping[str, Any]


class Slot(NamedTuple):
    """One parameter of an optimizer.

    Attributes:
        number: of the parameter in a state dict.
        name: its path in the other library.
        shape: of its state, too.
        dtype: of its state.
        group: its settings.
        own: what its state begins with: the master copy, of a parameter that has one.
    """

    number: int
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    group: Group
    own: Mapping[str, Any]


class Target(NamedTuple):
    """Who goes on: a state dict of it, the name of its rule in the tables, its parameters, and its class."""

    state_dict: dict[str, Any]
    rule: str
    slots: list[Slot]
    made: type[Optimizer]

    @property
    def dialect(self) -> frozenset[str]:
        """The flags of a rule out of ``refoptim.dialects``, and the name of its library."""
        flags = {axis.flag for axis in getattr(self.made, "axes", ())}
        return frozenset({*flags, *filter(None, [getattr(self.made, "owner", None)])})

    @property
    def group(self) -> Group:
        """The settings of the first group."""
        return self.slots[0].group

    def filled(self, state: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
        """Return the state dict with another state."""
        return {**self.state_dict, "state": {i: dict(values) for i, values in sorted(state.items())}}


def members(x: Any) -> Iterator[tuple[str, Any]] | None:
    """Return the names and the members of a dict, list, tuple or named tuple; None of anything else."""
    if isinstance(x, Mapping):
        return iter([(str(key), y) for key, y in x.items()])
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return iter(zip(x._fields, x, strict=True))
    if isinstance(x, (list, tuple)):
        return iter([(str(i), y) for i, y in enumerate(x)])
    return None


def leaves(x: Any, path: str = "") -> dict[str, Any]:
    """Return the arrays of nested data by their paths; None, and what stands for masked parts, hold none."""
    inside = members(x)
    if inside is None:
        return {} if x is None else {path: x}
    return {name: leaf for key, y in inside for name, leaf in leaves(y, join(path, key)).items()}


def target(rule: Any, params: Any, settings: Mapping[str, Any], known: Mapping[str, Any], library: str) -> Target:
    """Return who is to go on: an optimizer, or one made for the parameters by its class.

    Raises:
        TypeError: ``rule`` is neither.
        ValueError: the rule has no counterpart, the parameters are not the optimizer's, or its groups differ.
    """
    found = leaves(params)
    wrong = [name for name, x in found.items() if not (hasattr(x, "shape") and hasattr(x, "dtype"))]
    if wrong or not found:
        where = repr(wrong[0]) if wrong else "all"
        raise TypeError(f"params must be dicts, lists or tuples of arrays, got none at {where}")
    made = isinstance(rule, type) and issubclass(rule, Optimizer)
    if not (made or isinstance(rule, Optimizer)):
        raise TypeError(f"rule must be an optimizer of refoptim, or its class, got {rule!r}")
    if settings and not made:
        raise TypeError(f"an optimizer has its settings: {', '.join(settings)} would be ignored")
    optimizer = _made(rule, found, settings) if made else rule
    name = next((cls.__name__ for cls in type(optimizer).__mro__ if cls.__name__ in known), None)
    if name is None:
        one = type(optimizer).__name__
        raise ValueError(f"{library} keeps no state that {one} goes on with: it does for {', '.join(known)}")
    return Target(optimizer.state_dict(), name, _slots(optimizer, found), type(optimizer))


def _made(rule: type[Optimizer], found: Mapping[str, Any], settings: Mapping[str, Any]) -> Optimizer:
    named = [(name, np.zeros(tuple(x.shape), dtype_of(x))) for name, x in found.items()]
    make: Callable[..., Optimizer] = rule
    return make(named, **settings)


def dtype_of(x: Any) -> np.dtype[Any]:
    """Return NumPy's dtype of an array, which another library may name in another way."""
    return np_dtype(str(x.dtype).rpartition(".")[2])


def _slots(optimizer: Optimizer, found: Mapping[str, Any]) -> list[Slot]:
    slots: list[Slot] = []
    for group in optimizer.param_groups:
        names = group.get("param_names") or [p.name for p in group["params"]]
        for p, name in zip(group["params"], names, strict=True):
            path = name if name in found else next((key for key, x in found.items() if x is p or x is p.data), None)
            if path is None:
                advice = "name them, as in Adam([('dense.w', w)]), or give params that holds their arrays"
                raise ValueError(f"params has no path for parameter {len(slots)} of the optimizer: {advice}")
            own = {"master": on_host(p.data).astype(np.float32)} if p.master else {}
            dtype = np.dtype(np.float32) if p.master else np.dtype(p.dtype)
            slots.append(Slot(len(slots), path, tuple(p.shape), dtype, group, own))
    if sorted(slot.name for slot in slots) != sorted(found):
        raise ValueError(f"params must hold what the optimizer steps, {len(slots)} arrays, got {', '.join(found)}")
    return slots


def same_for_all(slots: list[Slot], keys: tuple[str, ...]) -> None:
    """Raise ValueError if groups differ in settings that decide what state there is."""
    for key in keys:
        if len({bool(slot.group.get(key)) for slot in slots}) > 1:
            raise ValueError(f"groups differ in {key}: carry over the state of each by itself")


def fitted(x: Any, slot: Slot, what: str) -> Array:
    """Return a copy of an array that is state of a parameter; raise CheckpointError if it is not."""
    found = host(x)
    if found.shape != slot.shape:
        raise CheckpointError(f"{what} of {slot.name} has shape {found.shape}, the parameter {slot.shape}")
    if not np.can_cast(found.dtype, slot.dtype):
        raise CheckpointError(f"{what} of {slot.name} has dtype {found.dtype}, the parameter {slot.dtype}")
    return np.array(found, slot.dtype, order="C")


def host(x: Any) -> Array:
    """Return an array of any library as one of NumPy."""
    x = getattr(x, "value", x)  # of a variable of Keras or Flax
    x = x.detach().cpu() if hasattr(x, "detach") else x
    found: Array = np.asarray(x.numpy() if hasattr(x, "numpy") else x)
    return found


def rescaled(x: Array, factor: float, slot: Slot, what: str, to: Target) -> Array:
    """Return a sum of steps, in which the other library has multiplied by the learning rate, as the rule keeps it.

    That is one of gradients, unless the rule is a dialect that multiplies by the learning rate itself.
    """
    lr = 1.0 if LR_INSIDE.flag in to.dialect else float(slot.group["lr"])
    if lr == 0:
        raise ValueError(f"{what} of {slot.name} holds the learning rate as a factor: lr must not be 0 now")
    found: Array = (x / x.dtype.type(factor * lr)).astype(x.dtype)
    return found


class Difference(NamedTuple):
    """A way in which a library's rule is another: when it shows, what it is, and the dialects that have it too.

    Attributes:
        shows: tells by the settings of a group.
        text: says it.
        flag: of ``refoptim.dialects``, or the name of the library where only its own preset will do.
    """

    shows: Callable[[Group], Any]
    text: str
    flag: str = ""


EPS_IN_ROOT = Difference(lambda h: h["eps"], "eps is added inside the root, here to the root", "EpsInsideRoot")
LR_INSIDE = Difference(
    lambda h: h["momentum"],
    "the momentum holds lr as a factor, by which it was divided, so that a change of lr acts on past gradients here",
    "LrInsideMomentum",
)


def warn_of(library: str, to: Target, table: Mapping[str, tuple[Difference, ...]]) -> None:
    """Warn of the ways in which the other library's rule is another with such settings."""
    others = [difference for difference in table.get(to.rule, ()) if difference.flag not in to.dialect]
    found = [difference.text for difference in others if any(difference.shows(slot.group) for slot in to.slots)]
    if found:
        warnings.warn(f"the {to.rule} of {library} is not torch's: {'; '.join(found)}", UserWarning, stacklevel=3)
