"""State of Keras and optax goes on with the library's own rule: recorded, computed by hand, and beside the library."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers import foreign as peers
from helpers.foreign import DTYPES, KERAS, LR, NAMES, OPTAX, Case, Run, recorded_run, tree
from refoptim.checkpoint.foreign import from_keras, from_optax, to_optax
from refoptim.dialects import dialect, keras, optax

dtypes = pytest.mark.parametrize("dtype", DTYPES)

keras_cases = pytest.mark.parametrize("name", [name for name in KERAS if name != "decay"])
"""All but the one whose decay Keras was not given."""

optax_cases = pytest.mark.parametrize("name", [name for name in OPTAX if "eps_in_sqrt" not in OPTAX[name].arguments])
"""All but the one in which optax was asked for another rule than its own."""

CLOSE = {"float64": (1e-9, 1e-11), "float32": (2e-4, 2e-5)}

LATER = 0.03
"""A learning rate to which a run changes."""


@contextmanager
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def made(library: Any, case: Case, before: list[Any]) -> tuple[Any, dict[str, Any]]:
    """Return a preset with the parameters of a run."""
    arrays = {name: np.array(x) for name, x in zip(NAMES, before, strict=True)}
    return getattr(library, case.rule)(list(arrays.items()), lr=LR, **case.settings), arrays


def assert_close(arrays: Mapping[str, Any], expected: list[Any]) -> None:
    for name, x in zip(NAMES, expected, strict=True):
        rtol, atol = CLOSE[x.dtype.name]
        assert np.allclose(arrays[name], x, rtol, atol), (name, arrays[name], x)


def as_variables(state: list[dict[str, Any]]) -> list[Any]:
    return [SimpleNamespace(name=x["name"], value=x["value"]) for x in state]


def carried(library: Any, case: Case, run: Run) -> tuple[Any, dict[str, Any]]:
    """Return a preset that goes on with the state of a run, without a warning."""
    optimizer, arrays = made(library, case, run.before)
    with no_warning():
        if library is keras:
            found = from_keras(as_variables(run.state), dict(zip(NAMES, run.before, strict=True)), optimizer)
        else:
            step = {} if case.tells else {"step": case.steps}
            found = from_optax(run.state, tree(run.before), optimizer, **step)
        optimizer.load_state_dict(found)
    return optimizer, arrays


@keras_cases
@dtypes
def test_what_keras_recorded_goes_on_with_its_own_rule(name: str, dtype: str) -> None:
    run = recorded_run("keras", name, dtype)
    optimizer, arrays = carried(keras, KERAS[name], run)
    optimizer.step(grads=run.grads)
    assert_close(arrays, run.after)


@optax_cases
@dtypes
def test_what_optax_recorded_goes_on_with_its_own_rule(name: str, dtype: str) -> None:
    run = recorded_run("optax", name, dtype)
    optimizer, arrays = carried(optax, OPTAX[name], run)
    optimizer.step(grads=run.grads)
    assert_close(arrays, run.after)


@keras_cases
@dtypes
def test_keras_and_its_preset_go_the_same_way_on(name: str, dtype: str) -> None:
    """Three steps there, and three with another learning rate in both."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    pytest.importorskip("keras", reason="Keras is not installed: what it recorded is tested")
    states, params = keras_run(KERAS[name], dtype)
    run = Run(states, params[0], [], [])
    optimizer, arrays = carried(keras, KERAS[name], run)
    optimizer.param_groups[0]["lr"] = LATER
    for i in range(3):
        optimizer.step(grads=peers.gradients(KERAS[name].steps + i, dtype))
        assert_close(arrays, params[i + 1])


def keras_run(case: Case, dtype: str) -> tuple[Any, list[list[Any]]]:
    """Return Keras' variables after a case's steps, and the parameters there and after each of three more."""
    import jax
    import keras as theirs

    floatx = theirs.config.floatx()
    theirs.config.set_floatx(dtype)
    try:
        with jax.enable_x64(dtype == "float64"):
            start = zip(NAMES, peers.start(dtype), strict=True)
            params = [theirs.Variable(x, name=name.replace(".", "_")) for name, x in start]
            rule = getattr(theirs.optimizers, case.theirs)(LR, **case.arguments)
            rule.build(params)
            state, kept = [], []
            for step in range(case.steps + 3):
                if step == case.steps:
                    state = [{"name": x.name, "value": np.array(x.value)} for x in rule.variables]
                    kept.append([np.array(x.value) for x in params])
                    rule.learning_rate.assign(LATER)
                given = [theirs.ops.convert_to_tensor(g, dtype=dtype) for g in peers.gradients(step, dtype)]
                rule.apply(given, params)
                kept += [[np.array(x.value) for x in params]] if step >= case.steps else []
            return state, kept
    finally:
        theirs.config.set_floatx(floatx)


@optax_cases
@dtypes
def test_optax_and_its_preset_go_the_same_way_on(name: str, dtype: str) -> None:
    pytest.importorskip("optax", reason="optax is not installed: what it recorded is tested")
    if name == "rprop":
        pytest.skip("lr is where Rprop's step sizes begin: a change of it does nothing in either")
    state, params = optax_run(OPTAX[name], dtype)
    optimizer, arrays = carried(optax, OPTAX[name], Run(state, params[0], [], []))
    optimizer.param_groups[0]["lr"] = LATER
    for i in range(3):
        optimizer.step(grads=peers.gradients(OPTAX[name].steps + i, dtype))
        assert_close(arrays, params[i + 1])


def optax_run(case: Case, dtype: str) -> tuple[Any, list[list[Any]]]:
    """Return optax' state after a case's steps, and the parameters there and after each of three more."""
    import jax
    import optax as theirs

    with jax.enable_x64(dtype == "float64"):
        rule = theirs.inject_hyperparams(getattr(theirs, case.theirs))(learning_rate=LR, **case.arguments)
        params = jax.tree.map(jax.numpy.asarray, tree(peers.start(dtype)))
        state = begun = rule.init(params)
        kept = []
        for step in range(case.steps + 3):
            if step == case.steps:
                begun, kept = state, [peers.flat(params)]
                state.hyperparams["learning_rate"] = jax.numpy.asarray(LATER, dtype)
            given = jax.tree.map(jax.numpy.asarray, tree(peers.gradients(step, dtype)))
            updates, state = rule.update(given, state, params)
            params = theirs.apply_updates(params, updates)
            kept += [peers.flat(params)] if step >= case.steps else []
        return begun, kept


@dtypes
def test_the_momentum_of_keras_keeps_its_rate(dtype: str) -> None:
    """By hand: v = momentum * v - lr * g, p = p + v, from the v that Keras kept, with another lr."""
    run = recorded_run("keras", "sgd-momentum", dtype)
    optimizer, arrays = carried(keras, KERAS["sgd-momentum"], run)
    kept = {x["name"]: x["value"] for x in run.state}
    velocities = [next(x for key, x in kept.items() if name.replace(".", "_") in key) for name in NAMES]
    for p, v in zip(optimizer.param_groups[0]["params"], velocities, strict=True):
        assert np.array_equal(optimizer.state[p]["momentum_buffer"], -v)
    optimizer.param_groups[0]["lr"] = LATER
    optimizer.step(grads=run.grads)
    moved = [0.9 * v.astype("float64") - LATER * g for v, g in zip(velocities, run.grads, strict=True)]
    assert_close(arrays, [(p + v).astype(dtype) for p, v in zip(run.before, moved, strict=True)])


def test_a_dialect_warns_of_what_it_lacks_alone() -> None:
    run = recorded_run("keras", "adam-eps", "float64")
    params = dict(zip(NAMES, run.before, strict=True))
    settings = {**KERAS["adam-eps"].settings, "weight_decay": 0.1}
    with pytest.warns(UserWarning, match="shrinks the parameter") as found:
        from_keras(as_variables(run.state), params, dialect("Adam", "EpsUnscaled"), lr=LR, **settings)
    assert len(found) == 1
    assert "uncorrected root" not in str(found[0].message)
    with no_warning():
        both = dialect("Adam", "EpsUnscaled", "DecoupledDecay")
        from_keras(as_variables(run.state), params, both, lr=LR, **settings)


def test_what_even_the_preset_of_a_library_has_not_is_warned_of() -> None:
    """Keras has no dampening; the preset takes one, as refoptim does."""
    run = recorded_run("keras", "sgd-momentum", "float64")
    params = dict(zip(NAMES, run.before, strict=True))
    with pytest.warns(UserWarning, match="it has no dampening"):
        from_keras(as_variables(run.state), params, keras.SGD, lr=LR, momentum=0.9, dampening=0.5)


def test_the_preset_of_another_library_is_warned_of() -> None:
    """optax has no schedule of the momentum, Keras has one of its own."""
    run = recorded_run("keras", "nadam", "float64")
    params = dict(zip(NAMES, run.before, strict=True))
    with pytest.warns(UserWarning, match="momentum_decay is 1"):
        from_keras(as_variables(run.state), params, optax.NAdam, lr=LR)


@pytest.mark.parametrize("name", ["rmsprop-all", "rprop", "nadam", "adam"])
def test_states_of_presets_go_back_to_optax(name: str) -> None:
    """With the bits with which they came."""
    run = recorded_run("optax", name, "float64")
    optimizer, _ = made(optax, OPTAX[name], run.before)
    step = {} if OPTAX[name].tells else {"step": OPTAX[name].steps}
    with no_warning():
        optimizer.load_state_dict(from_optax(run.state, tree(run.before), optimizer, **step))
        back = to_optax(optimizer, run.state, tree(run.before))
    assert [np.asarray(x).tolist() for x in leaves(back)] == [np.asarray(x).tolist() for x in leaves(run.state)]


def leaves(x: Any) -> Iterator[Any]:
    if isinstance(x, Mapping):
        x = x.values()
    if isinstance(x, (tuple, list)) or type(x).__name__ == "dict_values":
        for y in x:
            yield from leaves(y)
    else:
        yield x


def test_refoptims_own_is_still_warned_of() -> None:
    run = recorded_run("keras", "adam-eps", "float64")
    with pytest.warns(UserWarning, match="uncorrected root"):
        from_keras(as_variables(run.state), dict(zip(NAMES, run.before, strict=True)), refoptim.Adam, lr=LR)
