"""Presets are optimizers like any other: pure, on CuPy arrays, saved and loaded, and taken over from refoptim's own."""

from __future__ import annotations

import warnings
from inspect import signature
from typing import Any

import numpy as np
import pytest

import refoptim
from refoptim.dialects import preset

ALL = [(library, name) for library, made in preset.known().items() for name in made]

SETTINGS = {"lr": 0.05, "weight_decay": 0.1, "momentum": 0.8, "eps": 1e-3}
"""Settings with which the differences show."""

SHAPES = ((3, 4), (5,))


def settings_of(made: Any) -> dict[str, Any]:
    given = {name: x for name, x in SETTINGS.items() if name in signature(made).parameters}
    return {**given, "eps": (1e-4, 1e-2)} if made.__name__ == "Adafactor" else given


def arrays(seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in SHAPES]


def trained(made: Any, steps: range, begun: Any = None, **changed: Any) -> Any:
    """Return an optimizer and its parameters after some steps, the gradients of which their numbers decide."""
    p = arrays(0) if begun is None else begun
    optimizer = made(p, **{**settings_of(made), **changed})
    for k in steps:
        optimizer.step(grads=arrays(k))
    return optimizer, p


@pytest.mark.parametrize(("library", "name"), ALL)
def test_the_pure_rule_has_the_bits_of_the_optimizer(library: str, name: str) -> None:
    made = preset.known()[library][name]
    optimizer, stepped = trained(made, range(1, 6))
    params, state = arrays(0), None
    for k in range(1, 6):
        params, state = made.functional(params, arrays(k), state, k, **settings_of(made))
    assert [x.tobytes() for x in params] == [x.tobytes() for x in stepped]
    for p, kept in zip(optimizer.param_groups[0]["params"], state, strict=True):
        found = {key: np.asarray(x).tolist() for key, x in optimizer.state[p].items() if key != "step"}
        assert found == {key: np.asarray(x).tolist() for key, x in kept.items()}


@pytest.mark.parametrize(("library", "name"), [x for x in ALL if x != ("mxnet", "NAdam")])
def test_the_halves_of_the_pure_rule_are_the_whole(library: str, name: str) -> None:
    made = preset.known()[library][name]
    rule, settings = made.functional, settings_of(made)
    whole, halves = (arrays(0), None), (arrays(0), None)
    varying: Any = None
    for k in range(1, 4):
        before = halves[1] and halves[1][0] if made.shares_registers else varying
        static, varying = rule.scalars(k, before, **settings)
        whole = rule(whole[0], arrays(k), whole[1], k, **settings)
        halves = rule.apply(static, varying, halves[0], arrays(k), halves[1])
    assert [x.tobytes() for x in whole[0]] == [x.tobytes() for x in halves[0]]


def test_one_product_for_all_has_no_halves() -> None:
    with pytest.raises(NotImplementedError, match="each parameter has another mu_product"):
        preset.known()["mxnet"]["NAdam"].functional.scalars(1)


@pytest.mark.parametrize("name", preset.known()["chainer"])
def test_a_missing_gradient_counts_as_zeros_in_the_pure_rule_too(name: str) -> None:
    rule = preset.known()["chainer"][name].functional
    settings = settings_of(preset.known()["chainer"][name])
    g, h = arrays(1)
    static, varying = rule.scalars(1, **settings)
    missing, _ = rule(arrays(0), [g, None], None, 1, **settings)
    applied, _ = rule.apply(static, varying, arrays(0), [g, None], None)
    zeros, _ = rule(arrays(0), [g, np.zeros_like(h)], None, 1, **settings)
    assert [x.tobytes() for x in missing] == [x.tobytes() for x in zeros] == [x.tobytes() for x in applied]


@pytest.mark.parametrize(("library", "name"), ALL)
def test_presets_go_on_where_they_were_saved(library: str, name: str) -> None:
    made = preset.known()[library][name]
    optimizer, p = trained(made, range(1, 4))
    saved, left = optimizer.state_dict(), [x.copy() for x in p]
    for k in range(4, 7):
        optimizer.step(grads=arrays(k))
    again = made(left)
    again.load_state_dict(saved)
    for k in range(4, 7):
        again.step(grads=arrays(k))
    assert [x.tobytes() for x in left] == [x.tobytes() for x in p]


@pytest.mark.parametrize(("library", "name"), ALL)
def test_presets_take_the_state_of_refoptims_own(library: str, name: str) -> None:
    """Arrays and settings are those of refoptim's optimizer, and the preset's rule goes on with them."""
    made = preset.known()[library][name]
    ignored = {"momentum": 0} if "MomentumIgnored" in made.flags else {}  # and with it a buffer
    own, p = trained(getattr(refoptim, name), range(1, 4), **ignored)
    optimizer = made(p)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.load_state_dict(own.state_dict())
    for q, mine in zip(own.param_groups[0]["params"], optimizer.param_groups[0]["params"], strict=True):
        for key, x in own.state[q].items():
            assert np.array_equal(optimizer.state[mine][key], x)
    settings = {**settings_of(made), **ignored}
    assert {key: x for key, x in optimizer.param_groups[0].items() if key in settings} == settings
    before = [x.copy() for x in p]
    for k in range(4, 9):  # a step that lags moves nothing at first
        optimizer.step(grads=arrays(k))
    assert all((x != y).any() for x, y in zip(p, before, strict=True))


@pytest.mark.parametrize(("library", "name"), ALL)
def test_on_cupy_arrays_the_words_of_the_reference_run(library: str, name: str, fake_cupy: Any) -> None:
    made = preset.known()[library][name]
    _, expected = trained(made, range(1, 4))
    on_gpu = [fake_cupy.asarray(x) for x in arrays(0)]
    optimizer = made(on_gpu, **settings_of(made))
    for k in range(1, 4):
        optimizer.step(grads=[fake_cupy.asarray(g) for g in arrays(k)])
    assert [fake_cupy.asnumpy(x).tobytes() for x in on_gpu] == [x.tobytes() for x in expected]


@pytest.mark.parametrize(("library", "name"), ALL)
def test_there_is_no_fused_kernel_of_a_preset(library: str, name: str) -> None:
    made = preset.known()[library][name]
    with pytest.raises(RuntimeError, match=f"fused=True needs kernels, and {library}.{name} has none"):
        made(arrays(0), fused=True, **settings_of(made))


@pytest.mark.parametrize(("library", "name"), ALL)
def test_presets_are_in_their_modules_with_their_defaults(library: str, name: str) -> None:
    made = preset.known()[library][name]
    module = __import__(f"refoptim.dialects.{library}", fromlist=[name])
    assert getattr(module, name) is made
    assert name in module.__all__
    optimizer = made(arrays(0))
    for key, x in made.defaults_of_its_own.items():
        assert optimizer.defaults[key] == x
        assert signature(made).parameters[key].default == x
    assert module.WITNESS in made.__doc__
    assert all(flag in made.__doc__ for flag in made.flags)


def test_known_flags_are_those_of_the_presets() -> None:
    flags = preset.known_flags()
    assert flags["keras"]["Adam"] == ("DecoupledDecay", "EpsUnscaled", "StepShared")
    assert [(library, name) for library, found in flags.items() for name in found] == ALL
