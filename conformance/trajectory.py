"""Trajectories: a case run on an implementation, written down bit by bit.

A *frame* is what an implementation holds after a step: its parameters, and per parameter its state by name, arrays and
integers. ``run`` puts a case through an implementation, ``describe`` writes a frame as JSON, ``Digest`` hashes frames.
``docs/contract/goldens.md`` describes the format for readers in other languages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

import refoptim
from refoptim.numerics.arith import Array, DType, as_reals, from_reals, storage

from .cases import Case, arguments_of
from .gradients import make_source, np_dtype

State: TypeAlias = dict[str, Any]
"""What is kept of a parameter: integers and arrays by name."""

NANS = {"float16": 0x7E00, "bfloat16": 0x7FC0, "float32": 0x7FC00000, "float64": 0x7FF8000000000000}
"""The one pattern of bits that stands for every NaN."""


class Implementation(Protocol):
    """What a case is put through: one optimizer over some arrays."""

    def make(self, optimizer: str, hyper: Mapping[str, Any], parameters: Sequence[Array]) -> None:
        """Begin anew with copies of the parameters."""

    def set(self, hyper: Mapping[str, Any]) -> None:
        """Change hyperparameters from the next step on."""

    def step(self, grads: Sequence[Any]) -> None:
        """Take a step; a gradient is an array, a SparseGrad, or None where a parameter has none.

        In a case of a rule that takes estimates there is another argument: one for each parameter, an array or None.
        """

    def resume(self) -> None:
        """Save the state, make the optimizer anew, and load the state."""

    def parameters(self) -> list[Array]:
        """Return the parameters."""

    def state(self) -> list[State]:
        """Return the state of each parameter by name: integers and arrays."""


CHOICES = frozenset({"foreach", "capturable", "differentiable", "fused", "train_mode"})
"""Arguments that say how a step is run, not what it computes."""


def all_hyper(optimizer: str, hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Return all hyperparameters of an optimizer, those given in place of the defaults.

    Of CHOICES, and of ``cautious``, which no other library has in all rules, only those that are given.
    """
    arguments = [*arguments_of(getattr(refoptim, optimizer)).values()][1:]
    return {x.name: x.default for x in arguments if x.name not in {*CHOICES, "cautious"}} | dict(hyper)


def sums_over_all(optimizer: str, hyper: Mapping[str, Any]) -> bool:
    """Tell whether an optimizer needs sums over all parameters for a step."""
    rule = getattr(refoptim, optimizer)
    return bool(rule.takes_part(SimpleNamespace(**all_hyper(optimizer, hyper))))


class Frame(NamedTuple):
    """What an implementation holds after step ``step``."""

    step: int
    parameters: list[Array]
    state: list[State]


def run(implementation: Implementation, case: Case, dtype: str) -> Iterator[Frame]:
    """Put a case through an implementation in one storage type and yield the frame after each step."""
    source = make_source(case.gradient, case.shapes, dtype)
    hyper = all_hyper(case.optimizer, case.hyper)
    implementation.make(case.optimizer, dict(hyper), source.parameters())
    for step in range(1, case.steps + 1):
        if step in case.set:
            hyper |= case.set[step]
            implementation.set(dict(hyper))
        if step == case.resume:
            implementation.resume()
        grads = source.gradients(step, _listed("parameters", implementation.parameters()))
        given = [None if [step, i] in case.skip else g for i, g in enumerate(grads)]
        implementation.step(given, *estimates(case, dtype, step))
        yield Frame(step, _listed("parameters", implementation.parameters()), _states(implementation.state()))


def estimates(case: Case, dtype: str, step: int) -> list[list[Any]]:
    """Return the arguments of a step beside the gradients: a list of estimates, None for a parameter without one.

    There are none in a case without estimates.
    """
    if case.estimate is None:
        return []
    drawn = make_source(case.estimate, case.shapes, dtype).gradients(step, [])
    given = [step in case.estimated or [step, i] in case.estimated for i in range(len(case.shapes))]
    return [[x if has else None for x, has in zip(drawn, given, strict=True)]]


def _listed(name: str, found: Any) -> Any:
    """Return what a method of an implementation gave, if it is a list or a tuple."""
    if not isinstance(found, (list, tuple)):
        raise TypeError(f"{name}() must return a list, one entry for each parameter, got {type(found).__name__}")
    return found


def _states(found: Any) -> Any:
    """Return the state that an implementation gave, if it is a list of dicts."""
    wrong = next((x for x in _listed("state", found) if not isinstance(x, Mapping)), None)
    if wrong is not None:
        raise TypeError(f"state() must return a dict for each parameter, got {type(wrong).__name__}")
    return found


def bits(x: Array) -> Array:
    """Return the bits of an array as unsigned integers, those of a complex number as a pair, NaN as one pattern.

    Codes are unsigned integers already.
    """
    reals = np.ascontiguousarray(as_reals(np.asarray(x)))
    if reals.dtype.kind == "u":
        return reals
    pattern = _nan(reals.dtype)
    return np.where(np.isnan(reals), pattern, reals.view(pattern.dtype))


@cache
def _nan(dtype: DType) -> Any:
    """Return the bits of NaN in a type of reals."""
    return np.dtype(f"u{dtype.itemsize}").type(NANS[storage(dtype).name])


def describe(frame: Frame) -> dict[str, Any]:
    """Write a frame as JSON: arrays by dtype, shape and hexadecimal bits, integers as they are."""
    return {
        "parameters": [encode(p) for p in frame.parameters],
        "state": [{name: encode(state[name]) for name in sorted(state)} for state in frame.state],
    }


def encode(x: Any) -> Any:
    """Write an array as JSON; leave an integer as it is."""
    if isinstance(x, int):
        return x
    array = np.asarray(x)
    digits = 2 * _real(array.dtype).itemsize
    words = " ".join(f"{word:0{digits}x}" for word in bits(array).ravel().tolist())
    return {"dtype": array.dtype.name, "shape": list(array.shape), "bits": words}


def decode(entry: Any) -> Any:
    """Undo ``encode``."""
    if isinstance(entry, int):
        return entry
    dtype = np_dtype(entry["dtype"])
    real = _real(dtype)
    words = np.frombuffer(bytes.fromhex(entry["bits"]), f">u{real.itemsize}").astype(f"u{real.itemsize}")
    shape = (*entry["shape"], 2) if dtype.kind == "c" else tuple(entry["shape"])
    return from_reals(words.view(real).reshape(shape), dtype)


def _real(dtype: DType) -> DType:
    """Return the type of the reals of an array, or of its codes."""
    return dtype if dtype.kind == "u" else storage(dtype)


class Digest:
    """The SHA-256 of frames: of each, every parameter and every entry of its state, in order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, frame: Frame) -> None:
        """Hash one more frame: per parameter its elements, then name and value of each state entry, names sorted."""
        for p, state in zip(frame.parameters, frame.state, strict=True):
            self._value(p)
            for name in sorted(state):
                self._hash.update(name.encode("ascii") + b"\0")
                self._value(state[name])

    def _value(self, x: Any) -> None:
        """Hash the little-endian bytes of an array in C order, or of an integer as eight bytes."""
        words = np.array(x, "<i8") if isinstance(x, int) else bits(x)
        self._hash.update(words.astype(words.dtype.newbyteorder("<")).tobytes())

    def hexdigest(self) -> str:
        """Return the digest in hexadecimal digits."""
        return self._hash.hexdigest()


def trajectory(implementation: Implementation, case: Case, dtype: str) -> dict[str, Any]:
    """Run a case and return its golden: the digest of all frames, and the frames of the recorded steps in full."""
    digest, steps = Digest(), {}
    for frame in run(implementation, case, dtype):
        digest.add(frame)
        if frame.step in case.record:
            steps[str(frame.step)] = describe(frame)
    return {"case": case.id, "dtype": dtype, "sha256": digest.hexdigest(), "steps": steps}
