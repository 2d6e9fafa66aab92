"""State dicts that somebody has spoilt on purpose: refused by the errors that the documentation names, or loaded.

Each node of a state dict is replaced, deleted, wrapped and given hostile neighbours. A load that is refused has changed
nothing; one that is not has made an optimizer that takes a step, or refuses it by the same errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.pictures import picture
from helpers.refusals import refused
from helpers.rooms import NAMES, gradient, make
from refoptim import Parameter
from refoptim.swa_utils import AveragedModel

DEEP = 5_000


def deep(wrap: Callable[[Any], Any]) -> Any:
    x: Any = 1.0
    for _ in range(DEEP):
        x = wrap(x)
    return x


def circle() -> list[Any]:
    x: list[Any] = []
    x.append(x)
    return x


class Rude:
    """An object none of whose attributes can be read."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no {name}")

    __deepcopy__ = __reduce_ex__ = None  # type: ignore[assignment]


HUGE = np.broadcast_to(np.float32(0), (1 << 50,))

HOSTILE: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "a flag": lambda: True,
    "a negative number": lambda: -1,
    "NaN": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "a huge integer": lambda: 10**5000,
    "a large integer": lambda: 10**400,
    "a fraction": lambda: Fraction(10) ** 400,
    "a complex number": lambda: 1j,
    "text": lambda: "text",
    "digits": lambda: "9" * 5000,
    "a surrogate": lambda: "\ud800",
    "bytes": lambda: b"\0",
    "an empty list": list,
    "an empty dict": dict,
    "a list of lists": lambda: [[1.0], 2.0],
    "a list of texts": lambda: ["a", "b"],
    "a list of huge integers": lambda: [10**400] * 3,
    "a set": lambda: {1},
    "a class": lambda: dict,
    "a function": lambda: len,
    "a generator": lambda: (x for x in ()),
    "an object": Rude,
    "deep lists": lambda: deep(lambda x: [x]),
    "deep tuples": lambda: deep(lambda x: (x,)),
    "deep dicts": lambda: deep(lambda x: {"params": x}),
    "a circle": circle,
    "no elements": lambda: np.zeros(0),
    "a number's array": lambda: np.array(1.0),
    "objects": lambda: np.array([None, 1], object),
    "an object's array": lambda: np.array(None),
    "texts": lambda: np.array(["a"]),
    "a record": lambda: np.zeros(2, [("a", "f4"), ("b", "i8")]),
    "dates": lambda: np.array(["2020"], "M8[Y]"),
    "a huge array": lambda: HUGE,
    "a masked array": lambda: np.ma.ones((4, 3)),
    "many axes": lambda: np.zeros((1,) * 30),
}

TENSORS: dict[str, Callable[[Any], Any]] = {
    "a tensor that is sparse": lambda torch: torch.eye(4, 3).to_sparse(),
    "a tensor without data": lambda torch: torch.empty(4, 3, device="meta"),
    "a huge tensor": lambda torch: torch.zeros(1).expand(1 << 50),
    "a huge tensor of 16 bits": lambda torch: torch.zeros(1, dtype=torch.bfloat16).expand(1 << 50),
    "a tensor with a gradient": lambda torch: torch.ones(4, 3, requires_grad=True),
    "a complex tensor": lambda torch: torch.ones(4, 3, dtype=torch.complex64).conj(),
    "flags": lambda torch: torch.ones(4, 3, dtype=torch.bool),
    "bfloat16": lambda torch: torch.ones(4, 3, dtype=torch.bfloat16),
    "float8": lambda torch: torch.ones(4, 3).to(torch.float8_e4m3fn),
    "an empty tensor": lambda torch: torch.ones(0),
}

KEYS: list[Any] = [None, True, -1, 1.5, "", "0", "9" * 5000, 10**5000, b"0", (0,), (), frozenset(), float("nan"), len]

BESIDE = ("None", "deep lists", "a huge array", "an empty dict")

SAMPLE = 7
"""One in so many is tried in a short run, all in the tests marked slow."""

Path = tuple[Any, ...]
Change = Callable[[Any, Any], Any]


def nodes(x: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the paths to the nodes of nested dicts and lists; of a long list, the first two."""
    yield path
    parts = x.items() if isinstance(x, dict) else list(enumerate(x))[:2] if isinstance(x, (list, tuple)) else ()
    for key, part in parts:
        yield from nodes(part, (*path, key))


def at(x: Any, path: Path) -> Any:
    for key in path:
        x = x[key]
    return x


def changed(x: Any, path: Path, change: Change) -> Any:
    """Return nested dicts and lists, copied along a path, whose node at the end is changed in its holder."""
    if not path:
        holder = {0: x}
        change(holder, 0)
        return holder.get(0)
    copy = dict(x) if isinstance(x, dict) else list(x)
    if len(path) == 1:
        change(copy, path[0])
    else:
        copy[path[0]] = changed(copy[path[0]], path[1:], change)
    return tuple(copy) if isinstance(x, tuple) else copy


def replacing(make: Callable[[], Any]) -> Change:
    return lambda holder, key: holder.__setitem__(key, make())


def wrapping(wrap: Callable[[Any], Any]) -> Change:
    return lambda holder, key: holder.__setitem__(key, wrap(holder[key]))


def joining(number: int, make: Callable[[], Any]) -> Change:
    return lambda holder, key: holder.__setitem__(key, {**holder[key], KEYS[number]: make()})


def changes(node: Any, torch: Any) -> Iterator[tuple[str, Change]]:
    """Yield what may be done to a node of a state dict, and a name for it."""
    yield "deleted", lambda holder, key: holder.pop(key)
    yield "in a list", wrapping(lambda x: [x])
    yield "in a dict", wrapping(lambda x: {"params": x, "state": x})
    for what, value in HOSTILE.items():
        yield what, replacing(value)
    for what, tensor in TENSORS.items():
        yield what, replacing(partial(tensor, torch))
    for number in range(len(KEYS)) if isinstance(node, dict) else ():
        for what in BESIDE:
            yield f"beside {what} under key {number}", joining(number, HOSTILE[what])


def mutants(saved: Any, torch: Any, every: int) -> Iterator[tuple[str, Any]]:
    """Yield spoilt copies of a state dict, one in so many, and what is wrong with each."""
    all_changes = ((path, *change) for path in nodes(saved) for change in changes(at(saved, path), torch))
    for path, what, change in islice(all_changes, 0, None, every):
        yield f"{path}: {what}", changed(saved, path, change)


def trained(name: str) -> Any:
    """Return an optimizer after a step."""
    w = np.ones((4, 3), np.float32)
    if name in NAMES:
        optimizer: Any = make(name, [{"params": [("w", w)]}])
    else:
        optimizer = getattr(refoptim, name)([("w", w)])
    step(name, optimizer)
    return optimizer


def step(name: str, optimizer: Any) -> None:
    p = optimizer.param_groups[0]["params"][0]
    p.grad = gradient(name, 0, p.data)
    optimizer.step(*(() if name in NAMES else (lambda: float((p.data**2).sum()),)))


def load(name: str, optimizer: Any, spoilt: Any) -> bool:
    """Tell whether a state dict is refused, as the documentation says; if not, take a step or see it refused."""
    try:
        optimizer.load_state_dict(spoilt)
    except (TypeError, ValueError):
        return True
    with suppress(TypeError, ValueError, RuntimeError):
        step(name, optimizer)
    return False


@pytest.mark.sweep(4)
@pytest.mark.parametrize("every", [SAMPLE, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [*NAMES, "LBFGS", "ConjugateGradient"])
def test_optimizers(torch: Any, name: str, every: int) -> None:
    saved, optimizer = trained(name).state_dict(), trained(name)
    before, count, many = picture(optimizer), 0, 0
    for what, spoilt in mutants(saved, torch, every):
        count += 1
        if load(name, optimizer, spoilt):
            assert picture(optimizer) == before, what
            many += 1
        else:
            optimizer = trained(name)
            before = picture(optimizer)
    assert count > 1000 // every
    assert count > many > count // 2


def load_average(average: Any, spoilt: Any) -> bool:
    """Tell whether a state dict of an average is refused, as the documentation says."""
    try:
        average.load_state_dict(spoilt)
    except RuntimeError as error:
        if type(error) is RuntimeError:
            return True
        raise
    return False


@pytest.mark.parametrize("every", [SAMPLE, pytest.param(1, marks=pytest.mark.slow)])
def test_averages(torch: Any, every: int) -> None:
    def averaged() -> Any:
        model = {"w": np.ones((4, 3), np.float32), "b": [Parameter(np.ones(3))], "n": np.array(3)}
        average = AveragedModel(model)
        average.update_parameters(model)
        return average

    def seen(average: Any) -> Any:
        return [picture(average.module), average.n_averaged]

    saved, average = averaged().state_dict(), averaged()
    before, count, many = seen(average), 0, 0
    for what, spoilt in mutants(saved, torch, every):
        count += 1
        if load_average(average, spoilt):
            assert seen(average) == before, what
            many += 1
        else:
            average = averaged()
            before = seen(average)
    assert many > count // 3 > 10 // every


WORDS = [
    *(("a setting", value) for value in ("deep lists", "deep dicts", "a circle", "a huge array", "a huge tensor")),
    *(("a state", value) for value in ("deep lists", "a circle", "a huge array", "a huge tensor", "an object")),
    *(("under a key of its own", value) for value in ("deep lists", "deep dicts", "a huge array")),
    *(("an id", value) for value in ("deep lists", "deep tuples", "a huge integer", "a huge tensor")),
]
"""Where RecursionError and MemoryError came from, among others."""


@pytest.mark.parametrize(("where", "value"), WORDS)
def test_refused_as_a_wrong_value(torch: Any, where: str, value: str) -> None:
    hostile = HOSTILE[value]() if value in HOSTILE else TENSORS[value](torch)
    optimizer, saved = trained("Adam"), trained("Adam").state_dict()
    at = {
        "a setting": (saved["param_groups"][0], "mine"),
        "a state": (saved["state"][0], "exp_avg"),
        "under a key of its own": (saved["state"], "mine"),
        "an id": (saved["param_groups"][0]["params"], 0),
    }
    holder, key = at[where]
    holder[key] = hostile
    refused([optimizer], lambda: optimizer.load_state_dict(saved), ValueError, "")
