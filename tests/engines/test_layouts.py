"""How arrays lie in memory: what is read in the objects of NumPy is what NumPy says, and no change goes unseen."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from helpers.kernels import NEEDS_KERNELS
from refoptim.engines import host, layouts
from refoptim.engines.layouts import Described, Headers

WITH_KERNELS = pytest.param(Headers, marks=NEEDS_KERNELS)


@pytest.fixture(params=[Described, WITH_KERNELS], ids=["described", "headers"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    """Let layouts be read in one way."""
    if request.param is Described:
        monkeypatch.setattr(host, "compiled", lambda: None)
    return request.param  # type: ignore[no-any-return]


def reshaped(x: Any) -> None:
    x.shape = (3, 4)


def of_another_dtype(x: Any) -> None:
    x.dtype = np.int32


def of_another_order(x: Any) -> None:
    x.dtype = x.dtype.newbyteorder()


def read_only(x: Any) -> None:
    x.setflags(write=False)


def unaligned(x: Any) -> None:
    x.setflags(align=False)


def longer(x: Any) -> None:
    x.resize((4, 4), refcheck=False)


def shorter(x: Any) -> None:
    x.resize((4, 2), refcheck=False)


def flat(x: Any) -> None:
    x.shape = (12,)


CHANGES = [reshaped, of_another_dtype, of_another_order, read_only, unaligned, longer, shorter, flat]


@pytest.mark.filterwarnings("ignore:Setting the:DeprecationWarning")
@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("which", range(3))
def test_a_change_shows(kind: type, change: Callable[[Any], None], which: int) -> None:
    arrays = [np.zeros((4, 3), np.float32) for _ in range(3)]
    found = layouts.layouts(arrays)
    assert type(found) is kind
    assert found.hold(arrays)
    change(arrays[which])
    assert not found.hold(arrays)


def test_other_values_do_not_show(kind: type) -> None:
    arrays = [np.zeros((4, 3), np.float32), np.zeros(()), np.zeros((0, 2))]
    found = layouts.layouts(arrays)
    for x in arrays:
        x[...] = 1
    assert type(found) is kind
    assert found.hold(arrays)


def test_what_is_undone_holds_again(kind: type) -> None:
    x = np.zeros((4, 3))
    found = layouts.layouts([x])
    x.setflags(write=False)
    seen = found.hold([x])
    x.setflags(write=True)
    assert not seen
    assert found.hold([x])


def samples() -> list[Any]:
    x = np.arange(24.0).reshape(2, 3, 4)
    fixed = np.arange(3)
    fixed.setflags(write=False)
    return [
        *(x, x.T, x[::-1], x[:, 1:2, ::2], x[0, 0, 0:0], np.asfortranarray(x), x.astype(np.float16), fixed),
        *(np.array(1.0), np.zeros((1,) * 32), x.astype(">f8"), np.frombuffer(bytes(9), np.uint8, offset=1)),
        np.broadcast_to(x, (5, 2, 3, 4)),
    ]


@NEEDS_KERNELS
def test_words_are_what_numpy_says() -> None:
    for x in samples():
        words: Any = layouts.layouts([x])
        axes = [word for pair in zip(x.shape, x.strides, strict=True) for word in pair]
        address = x.__array_interface__["data"][0]
        assert words.words.tolist() == [x.ndim, address, id(x.dtype), x.flags.num, *axes]


@NEEDS_KERNELS
def test_words_of_several_arrays_follow_each_other() -> None:
    each: list[Any] = [layouts.layouts([x]) for x in samples()]
    together: Any = layouts.layouts(samples_again := samples())
    assert together.words.size == sum(x.words.size for x in each)
    assert together.hold(samples_again)


def test_arrays_of_derived_classes_are_asked_for_their_attributes() -> None:
    class Derived(np.ndarray):
        """An array that may say of itself what it likes."""

    x = np.zeros(3).view(Derived)
    assert type(layouts.layouts([np.zeros(3), x])) is Described


@NEEDS_KERNELS
def test_objects_that_look_otherwise_are_asked_for_their_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "HEAD", object.__basicsize__ - 4)
    assert layouts._looks.__wrapped__(host.compiled()) is None


@NEEDS_KERNELS
def test_no_other_thread_changes_objects_while_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of a plain CDLL lets other threads run meanwhile, and so does Python without its lock."""
    look: Any = layouts._looks(host.compiled())
    assert {function._flags_ for function in look} == {ctypes.PyDLL._func_flags_}  # type: ignore[attr-defined]
    assert ctypes.PyDLL._func_flags_ != ctypes.CDLL._func_flags_  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert layouts._looks.__wrapped__(host.compiled()) is None


def test_without_kernels_attributes_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "compiled", lambda: None)
    assert type(layouts.layouts([np.zeros(3)])) is Described
