"""Averages of 16-bit weights are kept in float32, of the master copies where there are some."""

from __future__ import annotations

import gc
import json
import pickle
import tracemalloc
import weakref
from collections.abc import Callable
from copy import copy as shallow
from copy import deepcopy
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.averages import FORMS
from helpers.kernels import NEEDS_KERNELS, assert_same_bits
from helpers.oracle import rng_of, stored
from refoptim import Parameter, swa_utils
from refoptim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

NARROW = ["float16", "bfloat16"]
ENGINES = [None, pytest.param(True, marks=NEEDS_KERNELS)]


def reals(x: Any) -> Any:
    return np.asarray(x).astype(np.float64)


def kept(average: AveragedModel, name: str = "0") -> Any:
    """Return an average as it is kept: float32."""
    found = average.state_dict()[f"module.{name}"]
    assert found.dtype == np.float32
    return found


def moved(rng: np.random.Generator, x: Any, dtype: str) -> Any:
    return stored(reals(x) + rng.standard_normal(x.shape) / 8, dtype)


# ------------------------------------------------------------------------------------------------- exact arithmetic


@pytest.mark.parametrize("fused", ENGINES)
@pytest.mark.parametrize("make", [get_ema_avg_fn, get_ema_multi_avg_fn])
@pytest.mark.parametrize("dtype", NARROW)
def test_small_steps_are_not_lost(dtype: str, make: Any, fused: bool | None) -> None:
    """Two thousand steps of 0.999 from 1 towards 2 end at 2 - 0.999**2000, that is 1.865."""
    name = "avg_fn" if make is get_ema_avg_fn else "multi_avg_fn"
    average = AveragedModel([stored(np.ones(5), dtype)], **{name: make(0.999, fused=fused)})
    average.update_parameters([stored(np.ones(5), dtype)])
    for _ in range(2000):
        average.update_parameters([stored(np.full(5, 2.0), dtype)])
    exact = float(2 - Fraction(999, 1000) ** 2000)
    assert abs(exact - 1.865) < 1e-3
    np.testing.assert_allclose(kept(average), exact, rtol=1e-4)
    assert average.module[0].dtype.name == dtype
    assert_same_bits(average.module[0], kept(average).astype(average.module[0].dtype))


@pytest.mark.parametrize("dtype", NARROW)
def test_the_mean_of_many_models_is_near_the_exact_one(dtype: str) -> None:
    rng = np.random.default_rng(3)
    models = [stored(rng.standard_normal(40), dtype) for _ in range(300)]
    average = AveragedModel([models[0]])
    for w in models:
        average.update_parameters([w])
    exact = [float(sum(map(Fraction, column)) / 300) for column in np.stack([reals(w) for w in models]).T.tolist()]
    np.testing.assert_allclose(kept(average), exact, atol=1e-6)


# ----------------------------------------------------------------------------------------------------- bit for bit


@pytest.mark.parametrize("fused", ENGINES)
@pytest.mark.parametrize("dtype", NARROW)
def test_bits_are_those_of_float32_by_hand(dtype: str, fused: bool | None) -> None:
    rng = rng_of(dtype, 7)
    d, e = np.float32(0.9), np.float32(1 - 0.9)
    w = stored(rng.standard_normal((70, 1000)), dtype)
    average = AveragedModel({"w": w}, avg_fn=get_ema_avg_fn(0.9, fused=fused))
    average.update_parameters({"w": w})
    expected = w.astype(np.float32)
    for _ in range(4):
        w = moved(rng, w, dtype)
        average.update_parameters({"w": w})
        expected = expected * d + w.astype(np.float32) * e
        assert_same_bits(kept(average, "w"), expected)
        assert_same_bits(average.module["w"], expected.astype(w.dtype))


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("form", FORMS)
def test_averages_are_those_of_float32_models(form: str, dtype: str) -> None:
    """Every form, averaged buffers, other layouts; the rounding of words in 16 bits does not matter."""
    rng = rng_of(form, dtype)
    start = [stored(rng.standard_normal((6, 8)), dtype) for _ in range(3)]
    start[1], start[2] = start[1].T, start[2][::2, ::3]
    wide = [x.astype(np.float32) for x in start]
    one, other = AveragedModel(start, **FORMS[form](swa_utils)), AveragedModel(wide, **FORMS[form](swa_utils))
    for mode in ("each", "store", "each"):
        now = [moved(rng, x, dtype) for x in start]
        with refoptim.rounding(mode):
            one.update_parameters(now)
        other.update_parameters([x.astype(np.float32) for x in now])
        for i, (x, y) in enumerate(zip(one.module, other.module, strict=True)):
            assert_same_bits(kept(one, str(i)), y, form)
            assert_same_bits(x, y.astype(x.dtype), form)


# --------------------------------------------------------------------------------------------------- master copies


def trained(dtype: str, **settings: Any) -> tuple[Parameter, Any]:
    p = Parameter(stored(np.linspace(1, 2, 50), dtype), master=True)
    return p, refoptim.SGD([p], lr=1e-4, **settings)


def step(p: Parameter, optimizer: Any) -> Any:
    """Take a step too small for 16 bits and return the master copy."""
    optimizer.step(grads=[stored(np.ones(50), p.dtype.name)])
    return optimizer.state[p]["master"]


@pytest.mark.parametrize("fused", ENGINES)
@pytest.mark.parametrize("dtype", NARROW)
def test_the_master_copy_is_what_is_averaged(dtype: str, fused: bool | None) -> None:
    d, e = np.float32(0.75), np.float32(0.25)
    p, optimizer = trained(dtype, fused=fused)
    average = AveragedModel([p], avg_fn=get_ema_avg_fn(0.75, fused=fused))
    expected = None
    for _ in range(20):
        master = step(p, optimizer).copy()
        average.update_parameters([p])
        expected = master if expected is None else expected * d + master * e
        assert_same_bits(kept(average), expected)
        assert_same_bits(average.module[0].data, expected.astype(p.dtype))
    assert (expected != master).all() and (reals(p.data) != expected).any()


def test_the_newest_master_copy_is_found_after_copies_loads_and_pickles() -> None:
    p, optimizer = trained("float16")
    step(p, optimizer)
    for copy in (deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        q, other = copy((p, optimizer))
        assert p.master_copy() is optimizer.state[p]["master"]
        assert q.master_copy() is other.state[q]["master"] is not p.master_copy()
        assert copy(p).master_copy() is None
    saved = optimizer.state_dict()
    optimizer.load_state_dict(saved)
    assert p.master_copy() is optimizer.state[p]["master"]
    newer = refoptim.SGD([p], lr=0.5)
    assert p.master_copy() is optimizer.state[p]["master"]
    step(p, newer)
    assert p.master_copy() is newer.state[p]["master"]
    del newer, optimizer
    gc.collect()
    assert p.master_copy() is None


class Own(Parameter):
    """A Parameter with an attribute of its own."""

    note = "none"


def test_copies_of_a_parameter_keep_all_but_the_optimizer() -> None:
    p = Own(stored(np.ones(3), "float16"), name="w", master=True)
    p.note = "mine"
    optimizer = refoptim.SGD([p], lr=0.5)
    optimizer.step(grads=[p.data])
    for q in (deepcopy(p), pickle.loads(pickle.dumps(p))):
        assert (q.note, q.name, q.master, q.data.tolist()) == ("mine", "w", True, p.data.tolist())
        assert q.master_copy() is None and p.master_copy() is not None


def test_a_parameter_keeps_no_optimizer_alive() -> None:
    p, optimizer = trained("float16")
    step(p, optimizer)
    watched = weakref.ref(optimizer)
    assert p.master_copy() is not None
    del optimizer
    gc.collect()
    assert watched() is None and p.master_copy() is None


def test_weights_written_by_hand_count_where_the_master_copy_is_another() -> None:
    p, optimizer = trained("float16")
    master = step(p, optimizer).copy()
    p.data[7] = 5
    average = AveragedModel([p])
    average.update_parameters([p])
    master[7] = 5
    assert_same_bits(kept(average), master)
    assert optimizer.state[p]["master"][7] != 5


# ------------------------------------------------------------------------------------------- what belongs to a model


def two_updates(**settings: Any) -> AveragedModel:
    average = AveragedModel({"w": stored(np.ones(4), "float16"), "v": np.ones(2)}, **settings)
    for x in (1.0, 1.001, 1.003):
        average.update_parameters({"w": stored(np.full(4, x), "float16"), "v": np.full(2, x)})
    return average


def test_what_is_written_into_the_module_is_averaged_on() -> None:
    average = two_updates()
    before = kept(average, "w").copy()
    average.module["w"][1] = 9
    assert kept(average, "w").tolist() == [before[0], 9, before[2], before[3]]
    average.update_parameters({"w": stored(np.full(4, 13.0), "float16"), "v": np.ones(2)})
    expected = [np.float32(x) + (np.float32(13) - np.float32(x)) / np.float32(4) for x in (before[0], 9)]
    assert kept(average, "w").tolist() == [expected[0], expected[1], expected[0], expected[0]]


@pytest.mark.parametrize("way", ["arrays", "JSON", "deepcopy", "pickle"])
def test_an_average_goes_on_exactly(way: str) -> None:
    whole = two_updates()
    assert (kept(whole, "w") != whole.module["w"].astype(np.float32)).any()
    if way in ("arrays", "JSON"):
        saved = whole.state_dict()
        if way == "JSON":
            saved = json.loads(json.dumps({name: x.tolist() for name, x in saved.items()}))
        other = AveragedModel({"w": stored(np.zeros(4), "float16"), "v": np.zeros(2)})
        other.load_state_dict(saved)
    else:
        other = deepcopy(whole) if way == "deepcopy" else pickle.loads(pickle.dumps(whole))
    for average in (whole, other):
        average.update_parameters({"w": stored(np.full(4, 1.5), "float16"), "v": np.ones(2)})
    assert_same_bits(kept(other, "w"), kept(whole, "w"))
    assert_same_bits(other.module["w"], whole.module["w"])
    assert not np.shares_memory(other.module["w"], whole.module["w"])


@pytest.mark.parametrize("dtype", NARROW)
def test_state_dicts_go_to_torch_and_come_from_it(dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")

    def twin() -> Any:
        tensor = torch.ones(4, dtype=getattr(torch, dtype))
        return torch.optim.swa_utils.AveragedModel(torch.nn.ParameterDict({"w": torch.nn.Parameter(tensor)}))

    ours, theirs = AveragedModel({"w": stored(np.ones(4), dtype)}), twin()
    for x in (1.0, 1.5, 1.75):
        ours.update_parameters({"w": stored(np.full(4, x), dtype)})
    theirs.load_state_dict({name: torch.from_numpy(x) for name, x in ours.state_dict().items()})
    assert reals(ours.module["w"]).tolist() == theirs.module["w"].double().tolist()
    fresh = AveragedModel({"w": stored(np.zeros(4), dtype)})
    fresh.load_state_dict(theirs.state_dict())
    assert fresh.n_averaged == 3
    assert_same_bits(fresh.module["w"], ours.module["w"])
    assert_same_bits(kept(fresh, "w"), ours.module["w"].astype(np.float32))


def test_other_dtypes_are_still_refused() -> None:
    average, saved = two_updates(), two_updates().state_dict()
    for name, dtype in (("w", np.float64), ("v", np.float32), ("w", np.int16)):
        with pytest.raises(RuntimeError, match=f"module.{name} must have dtype float"):
            average.load_state_dict({**saved, f"module.{name}": saved[f"module.{name}"].astype(dtype)})


def test_functions_of_users_get_float32() -> None:
    seen: list[Any] = []

    def largest(averaged: Any, current: Any, n: int) -> Any:
        seen.append((averaged.dtype, current.dtype))
        return np.maximum(averaged, current) + averaged.dtype.type(1e-6)

    def largest_of_all(averaged: list[Any], current: list[Any], n: int) -> None:
        seen.append([x.dtype for x in (*averaged, *current)])
        for x, y in zip(averaged, current, strict=True):
            x[...] = np.maximum(x, y)

    average = two_updates(avg_fn=largest)
    assert {*seen} == {(np.dtype("float32"), np.dtype("float32")), (np.dtype("float64"), np.dtype("float64"))}
    wanted = np.float32(np.float16(1.003)) + np.float32(1e-6)
    assert kept(average, "w").tolist() == [wanted] * 4
    seen.clear()
    arrays = [stored(np.ones(3), "float16"), stored(np.ones(2), "bfloat16"), np.ones(2, np.float32)]
    average = AveragedModel(arrays, multi_avg_fn=largest_of_all)
    for x in (arrays, [y + y for y in arrays]):
        average.update_parameters(x)
    assert seen == [[np.dtype("float32")] * 6] and all((reals(x) == 2).all() for x in average.module)


def test_buffers_of_sixteen_bits_are_averaged_alike_or_copied() -> None:
    class Net:
        def __init__(self, x: float) -> None:
            self.mean = stored(np.full(3, x), "float16")

        def parameters(self) -> list[Any]:
            return []

        def named_buffers(self) -> list[tuple[str, Any]]:
            return [("mean", self.mean)]

    for averaged in (True, False):
        average = AveragedModel(Net(1.0), use_buffers=averaged, avg_fn=get_ema_avg_fn(0.999))
        for x in (1.0, *[2.0] * 20):
            average.update_parameters(Net(x))
        found = average.state_dict()["module.mean"]
        assert found.dtype == (np.float32 if averaged else np.float16)
        np.testing.assert_allclose(found, 2 - 0.999**20 if averaged else 2.0, rtol=1e-5)


def test_an_array_that_stands_twice_has_one_average() -> None:
    def model(x: float) -> dict[str, Any]:
        w = stored(np.full(3, x), "float16")
        return {"w": w, "tied": w}

    average = AveragedModel(model(1.0))
    for x in (1.0, 1.001, 1.003):
        average.update_parameters(model(x))
    saved = average.state_dict()
    assert_same_bits(saved["module.w"], saved["module.tied"])
    assert (saved["module.w"] != average.module["w"].astype(np.float32)).all()


def test_no_more_memory_is_kept_than_the_averages_take() -> None:
    p = Parameter(stored(np.ones(1_000_000), "float16"), master=True)
    optimizer = refoptim.SGD([p], lr=1e-3)
    optimizer.step(grads=[stored(np.ones(1_000_000), "float16")])
    average = AveragedModel([p])
    tracemalloc.start()
    average.update_parameters([p])
    kept_bytes, peak = tracemalloc.get_traced_memory()
    average.update_parameters([p])
    again = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept_bytes < 4_010_000 and peak < 6_000_000 and again[0] - kept_bytes < 10_000 and again[1] < 6_000_000


def test_infinities_and_nans_stay() -> None:
    strange = stored(np.array([np.inf, -np.inf, np.nan, 65504.0]), "float16")
    average = AveragedModel([strange])
    for _ in range(3):
        average.update_parameters([strange])
    found = average.module[0].tolist()
    assert found[3] == 65504 and all(np.isnan(x) for x in found[:3])


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("form", [get_ema_avg_fn, get_ema_multi_avg_fn])
def test_arrays_on_a_gpu_have_the_bits_of_those_here(form: Callable[..., Any], request: Any) -> None:
    from helpers.on_gpu import off, on

    cupy, name = request.getfixturevalue("gpu"), "avg_fn" if form is get_ema_avg_fn else "multi_avg_fn"
    rng = np.random.default_rng(5)
    start = rng.standard_normal((6, 10)).astype(np.float16)
    one = AveragedModel([on(cupy, start, 0)], **{name: form(0.9)})
    other = AveragedModel([start], **{name: form(0.9)})
    for _ in range(4):
        now = moved(rng, start, "float16")
        one.update_parameters([on(cupy, now, 0)])
        other.update_parameters([now])
    assert_same_bits(off(one.state_dict()["module.0"]), kept(other))
    assert_same_bits(off(one.module[0]), other.module[0])


def test_a_master_copy_is_found_whoever_else_has_the_parameter() -> None:
    """A copy of the optimizer, another one, and one that could not be made know nothing of it."""
    p = Parameter(np.ones(4, np.float16), master=True)
    optimizer = refoptim.SGD([p], lr=1e-4)
    optimizer.step(grads=[np.ones(4, np.float16)])
    expected = optimizer.state[p]["master"]
    shallow(optimizer)
    with pytest.raises(ValueError, match="more than one parameter group"):
        refoptim.SGD([{"params": [p]}, {"params": [p]}], lr=0.1)
    other = refoptim.Adam([p])
    assert p.master_copy() is expected
    average = AveragedModel({"w": p})
    average.update_parameters({"w": p})
    assert np.array_equal(average.state_dict()["module.w"], expected)
    assert not other.state
