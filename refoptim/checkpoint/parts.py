"""The parts of a checkpoint: what has a state dict, models, random generators, and plain data."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from functools import partial
from operator import setitem
from typing import Any, NamedTuple

import numpy as np

from ..numerics.arith import Array
from ..numerics.array_types import is_array, is_writable, moved, place, plain
from ..numerics.libraries import library_of, telling
from ..optimizers.base import Optimizer
from ..step.changes import Change, make, there
from ..step.parameter import Parameter
from ..step.trees import is_tree, leaves
from ..swa_utils.averaged_model import AveragedModel
from ..swa_utils.members import Member, members
from .agreement import Written, check_agreement
from .errors import CheckpointError


class Restored(NamedTuple):
    """How a part takes over what was saved of it: what loads it, what puts it back, and what cannot fail any more.

    ``written`` are the arrays that these changes write to, of a model.
    """

    load: Callable[[], Any]
    undo: Callable[[], Any]
    changes: list[Change]
    written: Sequence[Written] = ()


def saved(part: Any) -> Any:
    """Return what is saved of a part, arrays as they are; plain data are saved as they are."""
    if isinstance(part, (Optimizer, AveragedModel)):
        return part._to_save()
    if has_state(part):
        return part.state_dict()
    if isinstance(part, np.random.Generator):
        return part.bit_generator.state
    if hasattr(part, "parameters"):
        return {member.name: member.array for member in members(part)}
    return part


def has_state(part: Any) -> bool:
    """Tell whether a part saves and loads itself; a class does not."""
    return not isinstance(part, type) and all(
        callable(getattr(part, name, None)) for name in ("state_dict", "load_state_dict")
    )


def is_model(part: Any) -> bool:
    """Tell whether a part is a model: what has parameters, an array, or a dict, list or tuple of arrays and None."""
    if hasattr(part, "parameters"):
        return not isinstance(part, type)
    return _is_leaf(part) or (is_tree(part) and any(_is_leaf(x) for _, x, _ in leaves(part)))


def _is_leaf(x: Any) -> bool:
    return isinstance(x, Parameter) or is_array(x) or library_of(x) is not None


def _at_once(function: Callable[[], Any]) -> Any:
    return function()


def restore(
    parts: Mapping[str, Any],
    found: Mapping[str, Any],
    together: Callable[[Callable[[], Any]], Any] = _at_once,
    shared: Sequence[str] = (),
) -> None:
    """Let all parts take over what was saved of them, or none.

    Args:
        parts: what takes over, by name.
        found: what was saved, by name.
        together: calls a function, and raises where another rank cannot do likewise.
        shared: the names of parts that are shared out among ranks: those agree themselves, and come last.

    Raises:
        CheckpointError: a part is missing, or does not fit.
        TypeError: a part cannot take over anything.
    """

    def prepared() -> dict[str, Any]:
        ready = {name: _labelled(name, _ready, part, found) for name, part in parts.items()}
        _check_memory(ready)
        return ready

    ready = together(prepared)
    undoing = ExitStack()  # which goes on where one cannot be put back
    done: list[bool] = []

    def load(names: Iterable[str]) -> None:
        for name in names:
            undoing.callback(ready[name].undo)
            _labelled(name, lambda load, _: load(), ready[name].load, found)

    try:
        together(partial(load, [name for name in ready if name not in shared]))
        load(shared)
        _make([change for part in ready.values() for change in part.changes], done)
    except BaseException:
        if not done:  # what is raised when everything was made comes too late to undo it
            undoing.close()
        raise


def _check_memory(ready: Mapping[str, Restored]) -> None:
    """Raise CheckpointError if arrays of models, of one or of several, are to take two values."""
    try:
        check_agreement([x._replace(name=f"{name}.{x.name}") for name, part in ready.items() for x in part.written])
    except ValueError as error:
        raise CheckpointError(f"{error}: no model was restored") from None


def _make(changes: list[Change], done: list[bool]) -> None:
    """Make changes, and say at once that they are made."""
    with np.errstate(all="ignore"):
        make([*changes, partial(done.append, True)])


def _labelled(name: str, function: Callable[[Any, Any], Any], part: Any, found: Mapping[str, Any]) -> Any:
    if name not in found:
        raise CheckpointError(f"the checkpoint has no part {name!r}, it has {', '.join(map(repr, found)) or 'none'}")
    try:
        return function(part, found[name])
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError, ArithmeticError, AssertionError) as error:
        reason = " ".join(str(error).split())  # of torch's a list of lines
        raise CheckpointError(f"the part {name!r} cannot be restored: {reason}") from error


def _ready(part: Any, value: Any) -> Restored:
    """Check what was saved of a part as far as that can be done beforehand."""
    if isinstance(part, AveragedModel):
        return Restored(_nothing, _nothing, part._loading(value))
    if has_state(part):
        return Restored(partial(part.load_state_dict, _as_its_own(part, value)), _undoing(part), [])
    if isinstance(part, np.random.Generator):
        _check_generator(type(part.bit_generator)(), value)
        return Restored(_nothing, _nothing, [partial(setattr, part.bit_generator, "state", value)])
    if is_model(part):
        _check_arrays("is", part, _is_leaf)
        _check_arrays("was saved as", value, lambda x: _is_leaf(x) or isinstance(x, np.generic))
        own, written = _members(part), _written(_members(part), _members(value))
        changes = [change for x in written for change in _copying(x)]
        return Restored(_nothing, _nothing, [*telling(member.holder for member in own), *changes], written)
    raise TypeError(f"a {type(part).__name__} takes over nothing: plain data are in what restore returns")


def _check_generator(other: np.random.BitGenerator, state: Any) -> None:
    """Raise ValueError for what is no state of such a generator; NumPy raises errors of many kinds."""
    try:
        other.state = state
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"this is no state of the generator {type(other).__name__}: {error}") from None
    _check_position(other.state)


def _check_position(state: Mapping[str, Any]) -> None:
    """Raise ValueError for a generator that would take its next number from outside of its memory; NumPy takes any."""
    inner = state.get("state")
    own = inner if isinstance(inner, Mapping) else {}
    for at, numbers in ((own.get("pos"), own.get("key")), (state.get("buffer_pos"), state.get("buffer"))):
        if at is not None and numbers is not None and not 0 <= at <= len(numbers):
            raise ValueError(f"the position {at} of the generator must lie in [0, {len(numbers)}]")


def _undoing(part: Any) -> Callable[[], Any]:
    """Return what puts a part back, and the groups of the optimizer that a scheduler works on."""
    if isinstance(part, Optimizer):
        return partial(make, part._standing())
    before = deepcopy(part.state_dict())
    groups = getattr(getattr(part, "optimizer", None), "param_groups", ())
    own = [change for group in groups for change in (partial(group.clear), partial(group.update, dict(group)))]

    def undo() -> None:
        make(own)  # else what stands in the groups now may refuse it
        part.load_state_dict(before)
        make(own)

    return undo


def _nothing() -> None:
    """Stand for what there is not to do."""


def _members(model: Any) -> list[Member]:
    """Return the arrays of a model; None, as for a bias that there is not, is left out."""
    return members([model] if _is_leaf(model) and not hasattr(model, "parameters") else _without_none(model))


def _without_none(x: Any) -> Any:
    if isinstance(x, Mapping):
        return {key: _without_none(y) for key, y in x.items() if y is not None}
    if isinstance(x, (list, tuple)) and not hasattr(x, "parameters"):
        return {i: _without_none(y) for i, y in enumerate(x) if y is not None}
    return x


def _check_arrays(verb: str, model: Any, fits: Callable[[Any], bool]) -> None:
    """Raise ValueError unless a model, or what was saved of it, holds arrays alone."""
    for name, x, _ in leaves(model):
        if not (x is None or fits(x)):
            kind = f"{name or 'it'} {verb} a {type(x).__name__}"
            raise ValueError(f"a model holds arrays alone, and {kind}: plain data are in what restore returns")


def _written(own: list[Member], saved: list[Member]) -> list[Written]:
    """Return which saved array is to be written into which one of a model, or raise ValueError."""
    found = {member.name: member.array for member in saved}
    differing = sorted(set(found) ^ {member.name for member in own})
    where = {name: "saved alone" if name in found else "in the model alone" for name in differing}
    if differing:
        some = [f"{name} ({where[name]})" for name in differing[:5]] + ["…"] * (len(differing) > 5)
        raise ValueError(f"the model holds other arrays than were saved: {', '.join(some)}")
    return [_fitting(member, found[member.name]) for member in own]


def _fitting(member: Member, new: Array) -> Written:
    x = member.array
    if (new.shape, new.dtype) != (x.shape, x.dtype.newbyteorder("=")):
        raise ValueError(f"{member.name} is {_form(x)}, and {_form(new)} was saved")
    if not is_writable(x):
        raise ValueError(f"{member.name} is read-only: take the array that checkpoint.load returns")
    return Written(member.name, x, new)


def _copying(written: Written) -> list[Change]:
    where = place(written.array)
    new = written.new if place(written.new) == where else moved(written.new, where)
    return there(where, [partial(setitem, plain(written.array), ..., new)])


def _form(x: Array) -> str:
    return f"{x.dtype} of shape {tuple(x.shape)}"


def _as_its_own(part: Any, value: Any) -> Any:
    """Return a saved state with arrays of the library of who is to load it: torch takes tensors alone."""
    torch = sys.modules.get("torch")
    theirs = torch is not None and type(part).__module__.partition(".")[0] == "torch"
    module = torch is not None and isinstance(part, torch.nn.Module)
    return _tensors(value, torch) if theirs or module else value


def _tensors(x: Any, torch: Any) -> Any:
    if isinstance(x, np.ndarray):
        return _tensor(x, torch)
    if isinstance(x, Mapping):
        return {key: _tensors(y, torch) for key, y in x.items()}
    if isinstance(x, (list, tuple)):
        return type(x)(_tensors(y, torch) for y in x)
    return x


def _tensor(x: Array, torch: Any) -> Any:
    """Return a tensor of torch with a copy of an array."""
    x = np.array(x)
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)
