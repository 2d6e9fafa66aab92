"""State dicts of what is shared out: the share of one rank, the whole, and what a rank takes of either."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from itertools import accumulate
from math import prod
from operator import setitem
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from ..numerics.arith import Array, DType
from ..numerics.array_types import is_array, moved
from ..step import state_dict as states
from ..step.changes import Change, make
from ..step.hooks import filter_through
from ..step.plan import Kept, Layout, layout
from ..step.rule import resolve
from ..step.state_dict import StateDict
from .comm import flat_bytes, vote
from .shards import per_element
from .shards import reals as opt_reals

Sharded: TypeAlias = Any
"""A ``Sharded``, whose module imports this one."""

SHARE = "share"
"""The key of a share under which it is said what part of the whole it is."""


class Place(NamedTuple):
    """What a rank holds of an array: its shape, and the elements from ``begin`` to ``end``, in C order."""

    shape: tuple[int, ...]
    begin: int
    end: int


class Source(Protocol):
    """An array that is read in parts."""

    shape: tuple[int, ...]

    def read(self, begin: int, end: int) -> Array:
        """Return elements in C order as a vector."""


class _Pieces:
    """An array of which others had parts."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self.parts: list[tuple[int, int, Array]] = []

    def read(self, begin: int, end: int) -> Array:
        found, reached = [], begin
        for first, last, x in sorted(self.parts, key=lambda part: part[0]):
            if first <= reached < min(last, end):
                found.append(x.reshape(-1)[reached - first : end - first])
                reached = min(last, end)
        if reached < end:
            raise ValueError(f"the shares do not hold elements {reached} to {end} of an array of shape {self.shape}")
        return np.concatenate(found) if found else self.parts[0][2].reshape(-1)[:0]


class _Whole:
    """An array that is there, of whichever library, or as nested lists."""

    def __init__(self, x: Any, dtype: DType, where: str) -> None:
        self.x = states.of_numpy(np.asarray(x, dtype) if isinstance(x, list) else x, where)
        self.shape = tuple(self.x.shape)

    def read(self, begin: int, end: int) -> Array:
        return self.x.reshape(-1)[begin:end]


def places(opt: Sharded, i: int, name: str) -> list[Place]:
    """Return what each rank holds of an array of the state of a parameter."""
    if opt.kind.name == "flat":
        counts = [sum(end - begin for begin, end in held) for held in opt._ranges]
        ends = list(accumulate(counts))
        return [Place((ends[-1],), end - n, end) for n, end in zip(counts, ends, strict=True)]
    p = opt._params()[i]
    held = [x[i] for x in opt._ranges]
    if opt.kind.name == "elements":
        unit = per_element(p.dtype)
        return [Place(p.shape, begin // unit, end // unit) for begin, end in held]
    shape = _arrays(opt, i, p.shape).get(name, Kept(p.shape, 0.0)).shape
    owner = max(range(len(held)), key=lambda r: held[r][1])
    return [Place(shape, 0, prod(shape) if r == owner else 0) for r in range(len(held))]


def entries(opt: Sharded) -> Iterator[tuple[int, str, Any]]:
    """Yield the number of a parameter, the name and the value of all that this rank keeps in its state."""
    state = opt.inner._dumped(lambda x: x)["state"]
    for i, values in sorted(state.items()):
        for name, x in _held(opt, i, values).items():
            yield i, name, x


def _held(opt: Sharded, i: int, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state of a parameter, with an empty array for each of those that another rank holds.

    What an empty shard keeps is not named, nor typed, like that of the whole parameter where codes are kept.
    """
    here = {} if opt.kind.name == "flat" else _arrays(opt, i)
    whole = {} if opt.kind.name != "owners" else _arrays(opt, i, opt._params()[i].shape)
    if not {*here} < {*whole}:
        return values
    found: dict[str, Any] = {}
    for name, x in values.items():
        found |= {key: np.empty(0, _dtype(opt, i, key)) for key in whole} if name in here else {name: x}
    return found


def is_stored(opt: Sharded, i: int, name: str, x: Any) -> bool:
    """Tell whether a value of the state of a parameter is an array that is shared out, or a list of such."""
    if opt.kind.name == "flat":
        return bool(is_array(x) and x.ndim) or (isinstance(x, list) and bool(x) and is_stored(opt, i, name, x[0]))
    return _is_array(opt, i, name)


def _is_array(opt: Sharded, i: int, name: str) -> bool:
    """Tell whether a name is that of an array of the state of a parameter, whoever holds it."""
    return name == "master" or name in _arrays(opt, i, _shape_of_layout(opt, i))


def _shape_of_layout(opt: Sharded, i: int) -> tuple[int, ...] | None:
    """Return the shape that decides what is kept for a parameter; None: that of the shard here."""
    return opt._params()[i].shape if opt.kind.name == "owners" else None


def _arrays(opt: Sharded, i: int, shape: tuple[int, ...] | None = None) -> Layout:
    """Return the arrays of the state of a parameter of a shape, or of the shard that is here."""
    shard = opt._shards()[i]
    h = resolve(opt.rule, next(g for g in opt.inner.param_groups if any(q is shard for q in g["params"])))
    return layout(opt.rule, h, shard.shape if shape is None else shape)


def collected(opt: Sharded, found: Callable[[Any, int, str], Any]) -> dict[int, dict[str, Any]]:
    """Return the state with what a function returns for arrays that are shared out."""
    state: dict[int, dict[str, Any]] = {}
    for i, name, x in entries(opt):
        if not is_stored(opt, i, name, x):
            value = deepcopy(x)
        else:
            value = [found(y, i, name) for y in x] if isinstance(x, list) else found(x, i, name)
        state.setdefault(i, {})[name] = value
    return state


def groups(opt: Sharded) -> list[dict[str, Any]]:
    """Return the groups as a state dict holds them."""
    found: list[dict[str, Any]] = states.dump({}, opt.param_groups, deepcopy)["param_groups"]
    return found


def dumped(opt: Sharded, copy: Callable[[Any], Any]) -> StateDict:
    """Return this rank's share of the state; the whole, if there is one rank alone."""
    rank = opt.comm.rank
    if opt.comm.size == 1:
        whole = collected(opt, lambda x, i, name: copy(x.reshape(places(opt, i, name)[0].shape)))
        return {"state": whole, "param_groups": groups(opt)}
    held: dict[int, dict[str, Any]] = {i: {} for i, _, _ in entries(opt)}
    for i, name, x in entries(opt):
        if is_stored(opt, i, name, x):
            shape, begin, end = places(opt, i, name)[rank]
            held[i][name] = [list(shape), begin, end]
    share = {"rank": rank, "size": opt.comm.size, "held": held}
    return {"state": collected(opt, lambda x, i, name: copy(x)), "param_groups": groups(opt), SHARE: share}


def gathered(opt: Sharded, rank: int) -> StateDict | None:
    """Return the whole state on one rank, array after array, and None on the others."""

    def found(x: Array, i: int, name: str) -> Any:
        all_places, comm = places(opt, i, name), opt.comm
        _, begin, end = all_places[comm.rank]
        mine = moved(x, None).reshape(-1)[: end - begin]  # a number stands where its parameter does not, too
        nothing = np.empty(0, np.uint8)
        whole = np.empty(prod(all_places[0].shape) if comm.rank == rank else 0, mine.dtype)
        sends = [flat_bytes(mine) if r == rank else nothing for r in range(comm.size)]
        into = [flat_bytes(whole[begin:end]) for _, begin, end in all_places]
        comm.start(sends, into if comm.rank == rank else [nothing] * comm.size).wait()
        if comm.rank != rank:
            return None
        whole[all_places[rank].begin : all_places[rank].end] = mine
        return whole.reshape(all_places[0].shape)

    state = collected(opt, found)
    return {"state": state, "param_groups": groups(opt)} if opt.comm.rank == rank else None


def load(opt: Sharded, given: Any) -> None:
    """Let all ranks take over a state, or none."""
    error: BaseException | None = None
    undo = opt._standing()
    try:
        opt._look_again()
        given = dict(given) if isinstance(given, Mapping) else given
        given = filter_through(opt._load_state_dict_pre_hooks, opt, given)
        own = sliced(opt, given)
        undo += _writing_back(opt, own)
        opt.inner.load_state_dict(own)
    except BaseException as raised:
        error = raised
    try:
        vote(opt.comm, error)
    except BaseException:
        make(undo)
        raise
    filled: list[Change] = []
    for group, now in zip(opt.param_groups, opt.inner.param_groups, strict=True):
        filled += [partial(group.clear), partial(group.update, {**now, "params": group["params"]})]
    make([*filled, partial(opt.__dict__.update, opt._fresh())])
    opt._forget_pieces()
    opt._show(everything=True)
    for hook in (*opt._load_state_dict_post_hooks.values(),):
        hook(opt)


def _writing_back(opt: Sharded, own: StateDict) -> list[Any]:
    """Return what gives parameters their values back that a saved master copy is to replace."""
    masters = any(isinstance(x, Mapping) and "master" in x for x in own["state"].values())
    shards = [s for s in opt._shards() if masters and not s.master]
    return [partial(setitem, s.data, ..., s.data.copy()) for s in shards]


def sliced(opt: Sharded, given: Any) -> StateDict:
    """Return what this rank holds of a saved state, for the inner optimizer to read."""
    if isinstance(given, Mapping) and SHARE in given:
        given = [given]
    if isinstance(given, (list, tuple)):
        given = _put_together(given)
    saved = states.saved_groups(given, opt.param_groups)
    numbers: dict[str, int] = {}
    for i, (group, new) in enumerate(zip(opt.param_groups, saved, strict=True)):
        for key in states.ids_in_order(i, group, new):
            numbers[str(key)] = len(numbers)
    state = {}
    for key, values in given["state"].items():
        known = str(key) in numbers and isinstance(values, Mapping)
        state[key] = _own(opt, numbers[str(key)], key, values) if known else values
    return {name: x for name, x in given.items() if name != SHARE} | {"state": state}


def _own(opt: Sharded, i: int, key: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what this rank holds of the state of a parameter."""
    found = {}
    elsewhere = _elsewhere(opt, i)
    for name, x in values.items():
        if name in elsewhere:
            continue
        where = f"state {key}, {name},"
        if isinstance(x, (list, tuple)) and x and opt.kind.name == "flat" and is_list_of_vectors(x):
            found[name] = [_part(opt, i, name, y, where) for y in x]
        else:
            array = hasattr(x, "shape") or isinstance(x, list)
            found[name] = _part(opt, i, name, x, where) if array and _is_shared(opt, i, name, x) else x
    return found


def _elsewhere(opt: Sharded, i: int) -> set[str]:
    """Return the names of arrays of a parameter that an empty shard does not have."""
    return {*_arrays(opt, i, opt._params()[i].shape)} - {*_arrays(opt, i)} if opt.kind.name == "owners" else set()


def is_list_of_vectors(x: Sequence[Any]) -> bool:
    """Tell whether a list holds vectors."""
    return bool(getattr(x[0], "shape", ()) or isinstance(x[0], list))


def _is_shared(opt: Sharded, i: int, name: str, x: Any) -> bool:
    """Tell whether a saved array, or list, is one that is shared out; LBFGS keeps lists of numbers too, as ``ro``."""
    if opt.kind.name != "flat":
        return _is_array(opt, i, name)
    if isinstance(x, (list, tuple)):
        return len(x) == sum(map(opt_reals, opt._params()))
    return bool(x.shape)


def _part(opt: Sharded, i: int, name: str, x: Any, where: str) -> Any:
    shape, begin, end = places(opt, i, name)[opt.comm.rank]
    source: Source = x if hasattr(x, "read") else _Whole(x, _dtype(opt, i, name), where)
    if tuple(source.shape) != shape:
        raise ValueError(f"{where} must have shape {shape}, got {tuple(source.shape)}")
    if opt.kind.name != "owners":
        return source.read(begin, end)
    here = _shape(opt, i, name)
    part = source.read(begin, end) if prod(here) == end - begin else source.read(0, prod(here))
    return part.reshape(here) if part.size else part.reshape(here).astype(_dtype(opt, i, name, here=True))


def _shape(opt: Sharded, i: int, name: str) -> tuple[int, ...]:
    """Return the shape of an array of the state as the inner optimizer has it, that of an empty shard included."""
    return _arrays(opt, i).get(name, Kept(opt._shards()[i].shape, 0.0)).shape


def _dtype(opt: Sharded, i: int, name: str, *, here: bool = False) -> DType:
    """Return the dtype of an array of the state of a parameter, or of what is here of it."""
    p = opt._params()[i]
    shape = None if here else p.shape
    own = None if opt.kind.name == "flat" or name == "master" else _arrays(opt, i, shape)[name].dtype
    return own or (np.dtype(np.float32) if p.master else p.dtype)


def _put_together(shares: Sequence[Any]) -> StateDict:
    """Return a state dict whose arrays are read from the shares of many ranks."""
    if not shares or not all(isinstance(x, Mapping) and SHARE in x for x in shares):
        raise ValueError("a list of state dicts must hold the shares of the ranks that there were")
    state: dict[Any, dict[str, Any]] = {key: dict(values) for key, values in shares[0]["state"].items()}
    for key, entry in state.items():
        for name, (shape, _, _) in shares[0][SHARE]["held"].get(key, {}).items():
            many = isinstance(entry[name], (list, tuple))
            parts = [_Pieces(shape) for _ in entry[name]] if many else [_Pieces(shape)]
            for each in shares:
                _, begin, end = each[SHARE]["held"][key][name]
                values = each["state"][key][name]
                for part, x in zip(parts, values if many else [values], strict=True):
                    part.parts.append((begin, end, x))
            entry[name] = parts if many else parts[0]
    return {"state": state, "param_groups": shares[0]["param_groups"]}
