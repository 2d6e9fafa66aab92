"""The state of optax and Keras goes on in refoptim: the next step is theirs, live and as recorded."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from refoptim.conformance.promises import promised

import refoptim
from helpers import ROOT
from helpers import foreign as peers
from helpers.foreign import DATA, DTYPES, KERAS, LR, NAMES, OPTAX, Case, Run, decoded, recorded_run, tree
from refoptim.checkpoint import CheckpointError
from refoptim.checkpoint.foreign import from_keras, from_optax, to_optax

optax_cases = pytest.mark.parametrize("name", OPTAX)
keras_cases = pytest.mark.parametrize("name", KERAS)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


@contextmanager
def warned(case: Case) -> Iterator[None]:
    """Check that a warning names the difference of a case, and that there is none without one."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield
    texts = [str(x.message) for x in found]
    assert [case.warns in text for text in texts] == ([True] if case.warns else []), texts


def made(case: Case, run: Run) -> tuple[Any, dict[str, np.ndarray[Any, Any]]]:
    """Return an optimizer of refoptim with the parameters of a run; their order is another than the run's."""
    arrays = {name: np.array(x) for name, x in zip(NAMES, run.before, strict=True)}
    named = [(name, arrays[name]) for name in reversed(NAMES)]
    return getattr(refoptim, case.rule)(named, lr=LR, **case.settings), arrays


def assert_next_step(optimizer: Any, arrays: dict[str, Any], run: Run, peer: str, case: Case) -> None:
    """Take the next step, and compare it with what the conformance suite promises of a peer."""
    grads = dict(zip(NAMES, run.grads, strict=True))
    optimizer.step(grads=[grads[name] for name in reversed(NAMES)])
    tolerance = promised(peer, "reference", case.rule, run.before[0].dtype.name)
    if case.rule == "NAdam":  # its mu_product is a number of float32 in both
        tolerance = promised(peer, "reference", case.rule, "float32")
    assert tolerance is not None
    for name, x in zip(NAMES, run.after, strict=True):
        assert np.allclose(arrays[name], x, tolerance.rtol, tolerance.atol), (name, arrays[name], x)
        assert not np.allclose(arrays[name], run.before[NAMES.index(name)], 1e-4, 1e-5)


# ---------------------------------------------------------------------------------------------------------------- optax


def step_of(case: Case) -> dict[str, int]:
    return {} if case.tells else {"step": case.steps}


def check_optax(case: Case, run: Run) -> None:
    optimizer, arrays = made(case, run)
    with warned(case):
        optimizer.load_state_dict(from_optax(run.state, tree(run.before), optimizer, **step_of(case)))
    if case.same:
        assert_next_step(optimizer, arrays, run, "optax", case)
    if case.rule == "Rprop":
        assert_rprop(optimizer, arrays, run)


def assert_rprop(optimizer: Any, arrays: dict[str, Any], run: Run) -> None:
    """optax has not yet taken its last step: refoptim's next has the step size that optax makes next."""
    factor = {1.0: 1.2, -1.0: 0.5, 0.0: 1.0}
    inner = run.state[1][0]
    sizes, before = peers.flat(inner.step_sizes), peers.flat(inner.prev_updates)
    grads = dict(zip(NAMES, run.grads, strict=True))
    optimizer.step(grads=[grads[name] for name in reversed(NAMES)])
    for i, name in enumerate(NAMES):
        turn = np.sign(run.grads[i] * before[i])
        grown = sizes[i] * np.vectorize(factor.get)(turn)
        moved = np.where(turn < 0, 0, np.sign(run.grads[i]) * grown)
        assert np.allclose(arrays[name], run.before[i] - moved, 1e-6, 1e-6)


@optax_cases
@dtypes
def test_what_optax_recorded_goes_on(name: str, dtype: str) -> None:
    check_optax(OPTAX[name], recorded_run("optax", name, dtype))


@optax_cases
@dtypes
def test_what_optax_does_goes_on(name: str, dtype: str) -> None:
    pytest.importorskip("optax", reason="optax is not installed: what it recorded is tested")
    check_optax(OPTAX[name], peers.run_optax(OPTAX[name], dtype))


@pytest.mark.parametrize("name", [name for name, case in OPTAX.items() if case.settings.get("momentum") != 0.5])
@dtypes
def test_state_is_carried_over_exactly(name: str, dtype: str) -> None:
    """To the bit, but for the momentum of RMSprop, which holds lr, and the signs that Rprop keeps."""
    case, run = OPTAX[name], recorded_run("optax", name, dtype)
    optimizer, _ = made(case, run)
    with warned(case):
        found = from_optax(run.state, tree(run.before), optimizer, **step_of(case))
    order = [param for group in found["param_groups"] for param in group["param_names"]]
    theirs = {key: dict(zip(NAMES, peers.flat(x), strict=True)) for key, x in fields(run.state[1]).items()}
    names = {"e_g": "square_avg", "e_x": "acc_delta", "sum_of_squares": "sum", "trace": "momentum_buffer"}
    names |= {"mu": "exp_avg", "nu_max": "max_exp_avg_sq", "step_sizes": "step_size", "prev_updates": "prev"}
    names["nu"] = {"RMSprop": "square_avg", "Adamax": "exp_inf"}.get(case.rule, "exp_avg_sq")
    for i, values in found["state"].items():
        assert values.get("step", case.steps) == case.steps
        for field, x in theirs.items():
            assert values[names[field]].tobytes() == x[order[i]].tobytes(), field
            assert values[names[field]].dtype == dtype
    assert len(found["state"]) == (3 if theirs else 0)


def fields(state: Any) -> dict[str, Any]:
    """Return the trees of a state that is a chain, by the names of their fields."""
    return {key: x for part in state for key, x in getattr(part, "_asdict", dict)().items() if isinstance(x, dict)}


def as_restored(x: Any) -> Any:
    """Return a state as a reader returns it that knows no named tuples: dicts, and lists for tuples."""
    if hasattr(x, "_asdict"):
        return {key: as_restored(y) for key, y in x._asdict().items()}
    if isinstance(x, dict):
        return {key: as_restored(y) for key, y in x.items()}
    return [as_restored(y) for y in x] if isinstance(x, (list, tuple)) else x


@pytest.mark.parametrize("name", ["adam", "sgd-momentum", "adadelta", "adagrad", "rmsprop", "adamax"])
def test_restored_states_without_their_types_go_on(name: str) -> None:
    run = recorded_run("optax", name, "float64")
    check_optax(OPTAX[name], run._replace(state=as_restored(run.state)))


@optax_cases
def test_states_go_back_to_optax(name: str) -> None:
    """Written into a fresh state, it is what optax had; RMSprop's momentum too, since lr is a power of two."""
    case, run = OPTAX[name], recorded_run("optax", name, "float64")
    optimizer, _ = made(case, run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer.load_state_dict(from_optax(run.state, tree(run.before), optimizer, **step_of(case)))
        fresh = emptied(run.state)
        given = {"step": case.steps} if name == "sgd" else {}
        found = to_optax(optimizer, fresh, tree(run.before), **given)
    assert_same_tree(found, run.state)
    assert_same_tree(fresh, emptied(run.state))  # nothing was changed in place


def emptied(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        return np.zeros_like(x)
    if isinstance(x, dict):
        return {key: emptied(y) for key, y in x.items()}
    return type(x)(*map(emptied, x)) if hasattr(x, "_fields") else type(x)(map(emptied, x))


def assert_same_tree(x: Any, y: Any) -> None:
    assert type(x) is type(y)
    if isinstance(x, np.ndarray):
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())
    elif isinstance(x, dict):
        assert list(x) == list(y)
        for key in x:
            assert_same_tree(x[key], y[key])
    else:
        assert len(x) == len(y)
        for one, other in zip(x, y, strict=True):
            assert_same_tree(one, other)


@optax_cases
def test_optax_goes_on_where_refoptim_was(name: str) -> None:
    """optax, from refoptim's state, takes the step that it would have taken."""
    jax, optax = (pytest.importorskip(x, reason=f"{x} is not installed") for x in ("jax", "optax"))
    case, run = OPTAX[name], recorded_run("optax", name, "float32")
    optimizer, _ = made(case, run)
    given = {"step": case.steps} if case.theirs == "sgd" else {}
    params = jax.tree.map(jax.numpy.asarray, tree(run.before))
    rule = optax.chain(optax.clip(1e9), getattr(optax, case.theirs)(LR, **case.arguments))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer.load_state_dict(from_optax(run.state, params, optimizer, **step_of(case)))
        state = to_optax(optimizer, rule.init(params), params, **given)
    updates, _ = rule.update(jax.tree.map(jax.numpy.asarray, tree(run.grads)), state, params)
    for x, y in zip(peers.flat(optax.apply_updates(params, updates)), run.after, strict=True):
        assert np.allclose(x, y, 1e-6, 1e-7)


def test_schedules_tell_how_many_steps_were_taken() -> None:
    jax, optax = (pytest.importorskip(x, reason=f"{x} is not installed") for x in ("jax", "optax"))
    params = jax.tree.map(jax.numpy.asarray, tree(peers.start("float32")))
    rule = optax.adagrad(optax.linear_schedule(0.1, 0.0, 100))
    state = rule.init(params)
    for _ in range(5):
        _, state = rule.update(params, state, params)
    with pytest.warns(UserWarning, match="inside the root"):
        found = from_optax(state, params, refoptim.Adagrad, lr=0.1)
    assert [x["step"] for x in found["state"].values()] == [5, 5, 5]
    with pytest.raises(ValueError, match=r"tell different numbers of steps: \[5, 6\]"):
        from_optax(state, params, refoptim.Adagrad, step=6, eps=0.0)
    optimizer = refoptim.Adagrad([(name, np.array(x)) for name, x in zip(NAMES, peers.start("float32"), strict=True)])
    with pytest.warns(UserWarning, match="inside the root"):
        optimizer.load_state_dict(from_optax(state, params, optimizer))
        back = to_optax(optimizer, rule.init(params), params)
    assert int(back[1].count) == 5


def test_one_of_several_transformations_is_found_by_its_paths() -> None:
    jax, optax = (pytest.importorskip(x, reason=f"{x} is not installed") for x in ("jax", "optax"))
    params = {"a": jax.numpy.ones(3), "b": jax.numpy.ones((2, 2)), "c": jax.numpy.ones(1)}
    rules = {"adam": optax.adam(LR), "sgd": optax.sgd(LR, 0.9), "more": optax.adam(LR)}
    rule = optax.multi_transform(rules, {"a": "adam", "b": "sgd", "c": "more"})
    _, state = rule.update(params, rule.init(params), params)
    adam = from_optax(state, {"a": params["a"]}, refoptim.Adam)
    assert np.allclose(adam["state"][0]["exp_avg"], 0.1)
    sgd = from_optax(state, {"b": params["b"]}, refoptim.SGD, momentum=0.9)
    assert sgd["state"][0]["momentum_buffer"].tolist() == [[1, 1], [1, 1]]
    with pytest.raises(CheckpointError, match="no transformation has the paths: Adam needs one ScaleBy"):
        from_optax(state, {"a": params["a"], "b": params["b"]}, refoptim.Adam)


def test_muon_is_carried_over_with_a_warning() -> None:
    jax, optax = (pytest.importorskip(x, reason=f"{x} is not installed") for x in ("jax", "optax"))
    params = {"w": jax.numpy.ones((2, 3)), "b": jax.numpy.ones(3)}
    rule = optax.contrib.muon(LR)
    _, state = rule.update(params, rule.init(params), params)
    with pytest.warns(UserWarning, match="the orthogonalization is another"):
        found = from_optax(state, {"w": params["w"]}, refoptim.Muon)
    assert np.allclose(found["state"][0]["momentum_buffer"], 0.05)
    assert "step" not in found["state"][0]


def test_what_does_not_fit_is_listed() -> None:
    run = recorded_run("optax", "adam", "float32")
    problem = re.escape(
        "0 transformations fit: SGD needs one TraceState of dense.b, dense.w, out.0; the state holds "
        "1.0: ScaleByAdamState(count, mu, nu) of dense.b, dense.w, out.0"
    )
    with pytest.raises(CheckpointError, match=problem):
        from_optax(run.state, tree(run.before), refoptim.SGD, momentum=0.9)
    with pytest.raises(CheckpointError, match="0 transformations fit: Adam needs one ScaleByAmsgradState"):
        from_optax(run.state, tree(run.before), refoptim.Adam, amsgrad=True)
    with pytest.raises(CheckpointError, match="2 transformations fit: Adam needs one ScaleByAdamState"):
        from_optax((run.state, run.state), tree(run.before), refoptim.Adam)
    with pytest.raises(CheckpointError, match="the state holds none that is known"):
        from_optax((), tree(run.before), refoptim.Adam)
    momentum = recorded_run("optax", "sgd-momentum", "float32")
    with pytest.raises(CheckpointError, match="holds a TraceState, which SGD without momentum would lose"):
        from_optax(momentum.state, tree(momentum.before), refoptim.SGD)


def with_adam(run: Run, **changed: Any) -> Any:
    adam = run.state[1][0]._replace(**changed)
    return (run.state[0], (adam, *run.state[1][1:]))


def test_states_of_other_forms_are_refused() -> None:
    run = recorded_run("optax", "adam", "float32")
    params = tree(run.before)
    wide = {"dense": {"w": run.before[1].astype("f8"), "b": run.before[0]}, "out": [run.before[2]]}
    with pytest.raises(CheckpointError, match=r"mu of dense\.w has dtype float64, the parameter float32"):
        from_optax(with_adam(run, mu=wide), params, refoptim.Adam)
    turned = {"dense": {"w": run.before[1].T, "b": run.before[0]}, "out": [run.before[2]]}
    with pytest.raises(CheckpointError, match=r"nu of dense\.w has shape \(3, 2\), the parameter \(2, 3\)"):
        from_optax(with_adam(run, nu=turned), params, refoptim.Adam)
    for count in (np.float32(3), np.array([3]), np.array(-1)):
        with pytest.raises(CheckpointError, match="a count must be an integer from 0 on"):
            from_optax(with_adam(run, count=count), params, refoptim.Adam)


def test_what_is_no_rule_or_no_parameters_is_refused() -> None:
    run = recorded_run("optax", "adam", "float32")
    params = tree(run.before)
    with pytest.raises(TypeError, match="rule must be an optimizer of refoptim, or its class, got 'adam'"):
        from_optax(run.state, params, "adam")
    with pytest.raises(ValueError, match="optax keeps no state that ASGD goes on with: it does for SGD, Adam"):
        from_optax(run.state, params, refoptim.ASGD)
    with pytest.raises(ValueError, match="Keras keeps no state that RAdam goes on with"):
        from_keras([], params, refoptim.RAdam)
    with pytest.raises(TypeError, match="an optimizer has its settings: lr would be ignored"):
        from_optax(run.state, params, refoptim.Adam([np.ones(3)]), lr=1.0)
    with pytest.raises(ValueError, match=r"params has no path for parameter 0 of the optimizer: name them"):
        from_optax(run.state, params, refoptim.Adam([np.ones(3)]))
    with pytest.raises(ValueError, match="params must hold what the optimizer steps, 1 arrays, got dense"):
        from_optax(run.state, params, refoptim.Adam([run.before[0]]))
    with pytest.raises(TypeError, match="params must be dicts, lists or tuples of arrays, got none at all"):
        from_optax(run.state, {}, refoptim.Adam)
    with pytest.raises(TypeError, match=r"got none at 'a\.0'"):
        from_optax(run.state, {"a": [object()]}, refoptim.Adam)
    groups = [{"params": [run.before[0]], "momentum": 0.9}, {"params": run.before[1:]}]
    with pytest.raises(ValueError, match="groups differ in momentum"):
        from_optax(run.state, params, refoptim.SGD(groups, lr=0.1))
    adagrad = recorded_run("optax", "adagrad", "float32")
    with pytest.raises(ValueError, match=r"the state of Adagrad does not tell how many steps were taken: give step="):
        from_optax(adagrad.state, params, refoptim.Adagrad)


def test_parameters_without_names_are_found_as_themselves() -> None:
    run = recorded_run("optax", "adam", "float64")
    optimizer = refoptim.Adam([run.before[2], run.before[1], run.before[0]], lr=LR, **OPTAX["adam"].settings)
    optimizer.load_state_dict(from_optax(run.state, tree(run.before), optimizer))
    assert_next_step(optimizer, dict(zip(NAMES, run.before, strict=True)), run_with_copies(run), "optax", OPTAX["adam"])


def run_with_copies(run: Run) -> Run:
    return run._replace(before=[np.array(x) for x in run.before])


def test_a_parameter_with_a_master_copy_begins_with_one() -> None:
    p = refoptim.Parameter(np.array([1.5, -2], np.float16), name="p", master=True)
    optimizer = refoptim.Adam([p], lr=LR)
    moments = {"p": np.array([0.1, 0.2], np.float32)}
    state = {"count": np.array(3), "mu": moments, "nu": moments}
    optimizer.load_state_dict(from_optax(state, {"p": p}, optimizer))
    found = optimizer.state_dict()["state"][0]
    assert found["master"].tolist() == [1.5, -2]
    assert found["exp_avg"].tobytes() == moments["p"].tobytes()


def test_groups_are_carried_over_together() -> None:
    """Each parameter's momentum is freed of the rate of its own group; a warning comes if any group shows it."""
    w, b = np.ones(2), np.ones(3)
    groups = [{"params": [("w", w)], "eps": 0.0}, {"params": [("b", b)], "lr": 0.5, "eps": 0.25}]
    optimizer = refoptim.RMSprop(groups, lr=0.25, momentum=0.5)
    variables = [np.array(3), np.ones(2), np.ones(3), np.full(2, 4.0), np.full(3, 4.0)]
    with pytest.warns(UserWarning, match="eps is added inside the root"):
        found = from_keras(variables, {"w": w, "b": b}, optimizer)
    assert [x["momentum_buffer"].tolist() for x in found["state"].values()] == [[16, 16], [8, 8, 8]]


def test_what_refoptim_does_not_tell_optax_is_an_error() -> None:
    run = recorded_run("optax", "adam", "float64")
    optimizer, _ = made(OPTAX["adam"], run)
    with pytest.raises(ValueError, match=r"out\.0 has no state: the optimizer has not stepped it yet"):
        to_optax(optimizer, run.state, tree(run.before))
    optimizer.load_state_dict(from_optax(run.state, tree(run.before), optimizer))
    state = optimizer.state_dict()
    state["state"][1]["step"] = 4
    optimizer.load_state_dict(state)
    with pytest.raises(ValueError, match=r"one count for all parameters, and theirs differ: \[3, 4\]"):
        to_optax(optimizer, run.state, tree(run.before))
    narrow = recorded_run("optax", "adam", "float32")
    state["state"][1]["step"] = 3
    optimizer.load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"optax keeps float32 of shape .*, where refoptim has float64"):
        to_optax(optimizer, narrow.state, tree(run.before))


# ---------------------------------------------------------------------------------------------------------------- Keras


def as_variables(state: Any) -> list[Any]:
    return [SimpleNamespace(**x) for x in state]


def check_keras(case: Case, run: Run, variables: Any) -> None:
    optimizer, arrays = made(case, run)
    params = dict(zip(NAMES, run.before, strict=True))
    with warned(case):
        optimizer.load_state_dict(from_keras(variables, params, optimizer))
    if case.same:
        assert_next_step(optimizer, arrays, run, "keras", case)


@keras_cases
@dtypes
def test_what_keras_recorded_goes_on(name: str, dtype: str) -> None:
    run = recorded_run("keras", name, dtype)
    check_keras(KERAS[name], run, as_variables(run.state))


@keras_cases
@dtypes
def test_variables_without_names_are_told_by_their_order(name: str, dtype: str) -> None:
    run = recorded_run("keras", name, dtype)
    check_keras(KERAS[name], run, [x["value"] for x in run.state])


@keras_cases
@dtypes
def test_what_keras_does_goes_on(name: str, dtype: str) -> None:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    pytest.importorskip("keras", reason="Keras is not installed: what it recorded is tested")
    run = peers.run_keras(KERAS[name], dtype)
    check_keras(KERAS[name], run, as_variables(run.state))


def test_an_optimizer_of_keras_is_taken_as_it_is() -> None:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras", reason="Keras is not installed: what it recorded is tested")
    rule = keras.optimizers.Adadelta(keras.optimizers.schedules.InverseTimeDecay(0.1, 1, 0.1))
    rule.build([keras.Variable(np.ones((2, 2), np.float32), name="w")])
    rule.apply([keras.ops.ones((2, 2))])
    found = from_keras(rule, {"w": np.ones((2, 2), np.float32)}, refoptim.Adadelta)
    assert found["state"][0]["step"] == 1
    assert np.allclose(found["state"][0]["square_avg"], 0.05)
    assert len(rule.variables) == 3  # a schedule is no variable


@pytest.mark.parametrize("file", ["adam.keras", "adam.weights.h5"])
def test_files_of_keras_go_on(file: str) -> None:
    pytest.importorskip("h5py", reason="h5py, which reads such files, is not installed")
    recorded = json.loads((DATA / "adam.json").read_text(encoding="ascii"))
    before, grads, after = (decoded(recorded[key]) for key in ("before", "grads", "after"))
    params = {"dense/kernel": before[0], "dense/bias": before[1]}
    settings = {"betas": (0.8, 0.9), "eps": 0.0}
    optimizer = refoptim.Adam([*params.values()], lr=LR, **settings)
    optimizer.load_state_dict(from_keras(DATA / file, params, optimizer))
    optimizer.step(grads=grads)
    assert all(np.allclose(x, y, 1e-6, 1e-7) for x, y in zip(before, after, strict=True))


def test_a_keras_file_of_another_rule_is_refused() -> None:
    pytest.importorskip("h5py", reason="h5py, which reads such files, is not installed")
    params = {"kernel": np.ones((3, 2), np.float32), "bias": np.ones(2, np.float32)}
    with pytest.raises(CheckpointError, match="holds the state of 'Adam', which Adadelta does not go on with"):
        from_keras(DATA / "adam.keras", params, refoptim.Adadelta)
    with pytest.raises(
        CheckpointError, match="Adagrad with 2 parameters needs 3 or one more variables, there are 6: 0:"
    ):
        from_keras(str(DATA / "adam.weights.h5"), params, refoptim.Adagrad)


@pytest.mark.parametrize("file", ["adam.keras", "adam.weights.h5"])
def test_damaged_files_of_keras_are_refused_in_one_line(tmp_path: Path, file: str) -> None:
    pytest.importorskip("h5py", reason="h5py, which reads such files, is not installed")
    data, path = (DATA / file).read_bytes(), tmp_path / file
    params = {"kernel": np.ones((3, 2), np.float32), "bias": np.ones(2, np.float32)}
    for length in [0, 1, 100, 1000, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError) as refused:
            from_keras(path, params, refoptim.Adam, eps=0.0)
        assert "\n" not in str(refused.value)


def test_what_is_no_file_of_keras_is_refused(tmp_path: Path) -> None:
    params = {"w": np.ones(3, np.float32)}
    (tmp_path / "run.pkl").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"run\.pkl is no file of Keras"):
        from_keras(tmp_path / "run.pkl", params, refoptim.Adam)
    with zipfile.ZipFile(tmp_path / "run.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(CheckpointError, match=r"holds no model\.weights\.h5"):
        from_keras(tmp_path / "run.keras", params, refoptim.Adam)
    with pytest.raises(FileNotFoundError):
        from_keras(tmp_path / "none.keras", params, refoptim.Adam)
    with pytest.raises(TypeError, match="source must be variables of Keras, or a path, got int"):
        from_keras(3, params, refoptim.Adam)


def test_a_file_of_keras_without_an_optimizer_is_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py, which reads such files, is not installed")
    params = {"w": np.ones(3, np.float32)}
    with h5py.File(tmp_path / "run.weights.h5", "w") as file:
        file["layers/vars/0"] = np.ones(3)
    with pytest.raises(CheckpointError, match="holds no optimizer: save the model after it was compiled"):
        from_keras(tmp_path / "run.weights.h5", params, refoptim.Adam)
    with h5py.File(tmp_path / "run.weights.h5", "w") as file:
        file["optimizer/vars/0"], file["optimizer/vars/x"] = 3, 4
    with pytest.raises(CheckpointError, match=r"has variables \['x', '0'\]"):
        from_keras(tmp_path / "run.weights.h5", params, refoptim.Adam)


def test_without_h5py_files_of_keras_are_an_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="files of Keras need h5py: pip install h5py"):
        from_keras(DATA / "adam.weights.h5", {"w": np.ones(3, np.float32)}, refoptim.Adam)


def test_variables_of_another_rule_are_listed() -> None:
    run = recorded_run("keras", "adamax", "float32")
    params = dict(zip(NAMES, run.before, strict=True))
    variables = as_variables(run.state)
    with pytest.raises(CheckpointError, match=r"the velocity of dense\.b is expected where 'dense_b_norm' stands;"):
        from_keras(variables, params, refoptim.Adam)
    needs = r"SGD with 3 parameters needs 4 or one more variables, there are 8: iteration: int\d\d of shape \(\);"
    with pytest.raises(CheckpointError, match=needs):
        from_keras(variables, params, refoptim.SGD, momentum=0.9)
    other = {name: params[name] for name in ("dense.w", "dense.b")}
    with pytest.raises(CheckpointError, match=r"dense_b_momentum of w has shape \(3,\), the parameter \(2, 3\)"):
        from_keras(variables, {"w": other["dense.w"], "c": other["dense.b"], "d": params["out.0"]}, refoptim.Adamax)
    wrong = [SimpleNamespace(name="iteration", value=np.float32(3)), *variables[1:]]
    with pytest.raises(CheckpointError, match="the first variable must be the iteration"):
        from_keras(wrong, params, refoptim.Adamax)


@pytest.mark.parametrize("name", ["adam", "rmsprop-all", "sgd-momentum", "amsgrad"])
def test_variables_with_names_are_found_by_them(name: str) -> None:
    case, run = KERAS[name], recorded_run("keras", name, "float64")
    params = dict(zip(NAMES, run.before, strict=True))
    turned = {key: params[key] for key in reversed(NAMES)}
    for variables in (as_variables(run.state), as_variables([{**x, "name": f"model_{x['name']}"} for x in run.state])):
        with warned(case):
            by_order = from_keras(variables, params, made(case, run)[0])
        with warned(case):
            by_name = from_keras(variables, turned, made(case, run)[0])
        assert_same_tree(listed(by_name), listed(by_order))
    with pytest.raises(CheckpointError, match="has shape"):
        from_keras([x["value"] for x in run.state], turned, made(case, run)[0])


def listed(state_dict: Any) -> list[Any]:
    return [np.asarray(x) for values in state_dict["state"].values() for x in values.values()]


def test_momentum_cannot_be_freed_of_a_rate_of_zero() -> None:
    run = recorded_run("keras", "sgd-momentum", "float32")
    params = dict(zip(NAMES, run.before, strict=True))
    with pytest.raises(ValueError, match=r"momentum of dense\.b holds the learning rate as a factor: lr must not be 0"):
        from_keras(as_variables(run.state), params, refoptim.SGD, lr=0.0, momentum=0.9)


def test_nothing_is_imported() -> None:
    code = (
        "import sys, numpy, refoptim; from refoptim.checkpoint.foreign import from_keras, from_optax\n"
        "p = {'w': numpy.ones(2)}\n"
        "from_keras([numpy.array(3), numpy.ones(2), numpy.ones(2)], p, refoptim.Adam, eps=0.0)\n"
        "from_optax({'count': numpy.array(3), 'mu': p, 'nu': p}, p, refoptim.Adam)\n"
        "print({'jax', 'optax', 'keras', 'h5py', 'torch', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
