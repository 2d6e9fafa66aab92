"""The front for JAX: the bits of the optimizers on NumPy, trees, tracing, and errors that name the leaf."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")

import jax.numpy as jnp  # noqa: E402

import refoptim  # noqa: E402
from helpers.rooms import DENSE, SETTINGS, assert_equal_bits, make, normal  # noqa: E402
from refoptim.engines import host  # noqa: E402
from refoptim.interop import jax as optim  # noqa: E402

WAYS: dict[str, Callable[[Any], Any]] = {"eager": lambda update: update, "jit": jax.jit}

both = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(autouse=True)
def single_precision() -> Iterator[None]:
    yield
    jax.config.update("jax_enable_x64", False)


@contextmanager
def doubles(dtype: Any, name: str = "Adam") -> Iterator[None]:
    """Let JAX keep double precision where a dtype, or an optimizer, needs it."""
    needed = dtype in ("float64", "complex128") or getattr(refoptim, name).double_registers
    jax.config.update("jax_enable_x64", needed)
    yield
    jax.config.update("jax_enable_x64", False)


def front(name: str, **more: Any) -> Any:
    return getattr(optim, name)(**{**SETTINGS[name], **more})


def arrays(dtype: str) -> list[Any]:
    """Draw two matrices, which every rule can train."""
    if dtype == "complex64":
        return [(normal(1, 3, 4) + 1j * normal(2, 3, 4)).astype(dtype), (normal(3, 2, 5) - 1j).astype(dtype)]
    return [normal(1, 3, 4).astype(dtype), normal(2, 40, 30).astype(dtype)]


def tree(xs: Any) -> dict[str, Any]:
    return {"dense": {"w": jnp.asarray(xs[0])}, "rest": [jnp.asarray(xs[1]), None, jnp.arange(3)]}


def slopes(xs: Any) -> dict[str, Any]:
    return {"dense": {"w": jnp.asarray(xs[0])}, "rest": [jnp.asarray(xs[1]), None, None]}


def trained(params: Any) -> list[Any]:
    return [params["dense"]["w"], params["rest"][0]]


def drawn(seed: int, xs: Any) -> list[Any]:
    rng = np.random.default_rng(seed)
    parts = [
        rng.standard_normal(x.shape) + (1j * rng.standard_normal(x.shape) if x.dtype.kind == "c" else 0) for x in xs
    ]
    return [part.astype(x.dtype) for part, x in zip(parts, xs, strict=True)]


def assert_same_run(name: str, dtype: str, way: str, steps: int = 5, **more: Any) -> None:
    """Train with the front and with the optimizer itself, and compare parameters and state, bit for bit."""
    mine = arrays(dtype)
    with doubles(dtype, name):
        opt = front(name, **more)
        params = tree(mine)
        state, update = opt.init(params), WAYS[way](opt.update)
        other = make(name, mine, **more)
        for step in range(steps):
            grads = drawn(step, mine)
            params, state = update(params, slopes(grads), state)
            other.step(grads=grads)
        assert int(state.step) == steps
        kept = [state.leaves["dense"]["w"], state.leaves["rest"][0]]
    for p, x, leaf in zip(other.param_groups[0]["params"], trained(params), kept, strict=True):
        assert_equal_bits(p.data, x)
        assert {"step", *leaf} == {"step", *other.state.get(p, {})}
        for key, y in leaf.items():
            assert_equal_bits(other.state[p][key], y, key)
    assert state.leaves["rest"][1:] == [None, None]
    assert params["rest"][1] is None
    assert params["rest"][2].tolist() == [0, 1, 2]


REAL = ["float32", "float64", "float16", "bfloat16"]
COMPLEX = [name for name in DENSE if name not in ("Adafactor", "Muon")]


@both
@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, dtype) for name in DENSE for dtype in REAL), *((name, "complex64") for name in COMPLEX)],
)
def test_the_bits_are_those_of_the_optimizer(name: str, dtype: str, way: str) -> None:
    assert_same_run(name, jnp.bfloat16 if dtype == "bfloat16" else dtype, way)


@both
@pytest.mark.parametrize("name", DENSE)
def test_kernels_give_the_same_bits(name: str, way: str) -> None:
    if host.missing():
        pytest.skip(f"there are no kernels for this computer, {host.missing()}")
    assert_same_run(name, "float32", way, fused=True)


@pytest.mark.parametrize("name", DENSE)
def test_all_rules_are_there_under_their_names(name: str) -> None:
    cls = getattr(optim, name)
    assert cls is optim.optimizer_class(getattr(refoptim, name))
    assert (cls.__name__, cls.__module__, cls.rule) == (name, "refoptim.interop.jax", getattr(refoptim, name))
    again = pickle.loads(pickle.dumps(front(name)))
    assert type(again) is cls
    assert again.settings == SETTINGS[name]


def test_settings_may_be_given_by_position() -> None:
    assert repr(optim.Adam(0.5, (0.8, 0.9))) == "Adam(lr=0.5, betas=(0.8, 0.9))"


# ------------------------------------------------------------------------------------------------- exactness inside jit


@pytest.mark.parametrize("size", [1, 300_000])
def test_jit_keeps_subnormals(size: int) -> None:
    """XLA flushes them: 2**-130 - 2**-131 is 2**-131, on the thread of the callback it would be 0."""
    p = {"w": np.full(size, 2.0**-130, np.float32)}
    opt = optim.SGD(lr=0.5)
    new, _ = jax.jit(opt.update)(p, p, opt.init(p))
    assert (np.asarray(new["w"]) == np.float32(2.0**-131)).all()


def test_a_thread_that_loses_subnormals_takes_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The front may have been imported where they are lost, and its thread started there."""
    broken = Future[None]()
    broken.set_exception(RuntimeError("takes subnormal operands for zeros"))
    monkeypatch.setattr(optim, "_sound", broken)
    p, opt = jnp.ones(2), optim.SGD()
    with pytest.raises(jax.errors.JaxRuntimeError, match="takes subnormal operands for zeros"):
        jax.block_until_ready(jax.jit(opt.update)(p, p, opt.init(p)))


def test_devices_of_the_parameters_are_kept() -> None:
    """In a process of its own, in which XLA plays two devices."""
    code = """
import jax, jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from refoptim.interop import jax as optim
one, other = jax.devices()
opt, p = optim.Adam(lr=0.5), jax.device_put(jnp.ones(4), other)
new, state = opt.update(p, p, opt.init(p))
assert new.devices() == state.leaves["exp_avg"].devices() == {other}, (new.devices(), state)
new, state = jax.jit(opt.update)(p, p, opt.init(p))
assert new.devices() == {other}
spread = jax.device_put(jnp.ones(4), NamedSharding(Mesh([one, other], "i"), PartitionSpec("i")))
try:
    opt.init({"w": spread})
except TypeError as error:
    print(error)
"""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**os.environ, **flags}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "params['w'] must lie on one device, in the memory of the computer, got" in done.stdout


def test_arrays_may_be_donated_and_loops_traced() -> None:
    xs = [normal(1, 1000)]
    opt, other, p = optim.Adam(lr=0.1), refoptim.Adam(xs, lr=0.1), jnp.asarray(xs[0])
    donating = jax.jit(lambda p, s: opt.update(p, jnp.ones_like(p), s), donate_argnums=(0, 1))
    p, state = donating(*donating(p, opt.init(p)))
    p, state = jax.lax.fori_loop(0, 3, lambda _, carry: opt.update(carry[0], jnp.ones_like(p), carry[1]), (p, state))
    for _ in range(5):
        other.step(grads=[np.ones(1000, np.float32)])
    assert_equal_bits(xs[0], p)
    assert int(state.step) == 5


def test_jit_takes_large_arrays() -> None:
    p = {name: jnp.full(3_000_000, 1.0) for name in "ab"}
    opt = optim.SGD(lr=0.25)
    new, _ = jax.jit(opt.update)(p, p, opt.init(p))
    assert all((np.asarray(x) == 0.75).all() for x in new.values())


@both
def test_rounding_is_the_one_in_force(way: str) -> None:
    """Under "each", 1 + 2**-9 is 1 before it is added on; under "store", 2**-9 + 2**-9 is added to 1 at once."""
    found = {}
    for mode in ("each", "store"):
        xs = [normal(1, 500).astype(jnp.bfloat16)]
        opt = front("AdamW")
        params, grads = jnp.asarray(xs[0]), [drawn(2, xs)[0]]
        other = make("AdamW", xs)
        with refoptim.rounding(mode):
            params, _ = WAYS[way](opt.update)(params, jnp.asarray(grads[0]), opt.init(params))
            other.step(grads=grads)
        assert_equal_bits(xs[0], params)
        found[mode] = params
    assert (found["each"] != found["store"]).any()


def test_scan_steps_with_a_table_of_rates() -> None:
    rates = np.array([0.5, 0.25, 0.1, 0.3], np.float32)
    xs = [normal(1, 7)]
    opt, other = optim.NAdam(), refoptim.NAdam(xs)
    params = jnp.asarray(xs[0])

    def step(carry: Any, rate: Any) -> Any:
        return opt.update(*carry[:1], carry[0], carry[1], lr=rate), None

    (params, state), _ = jax.lax.scan(step, (params, opt.init(params)), jnp.asarray(rates))
    for rate in rates:
        other.param_groups[0]["lr"] = float(rate)
        other.step(grads=[xs[0].copy()])
    assert_equal_bits(xs[0], params)
    assert int(state.step) == 4


def test_vmap_steps_each_alone() -> None:
    opt = optim.Adafactor(lr=0.1)
    params, grads = normal(1, 3, 4, 5), normal(2, 3, 4, 5)
    states = [opt.init(p) for p in params]
    alone = [opt.update(p, g, s) for p, g, s in zip(params, grads, states, strict=True)]
    stacked = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(y) for y in x]), *states)
    new, state = jax.vmap(opt.update)(params, grads, stacked)
    assert_equal_bits(new, np.stack([p for p, _ in alone]))
    assert_equal_bits(state.leaves["row_var"], np.stack([s.leaves["row_var"] for _, s in alone]))


@both
@pytest.mark.parametrize("lr", [0.25, np.float32(0.25), np.array([0.25]), "jax"])
def test_a_step_may_have_a_rate_of_its_own(lr: Any, way: str) -> None:
    rate = jnp.float32(0.25) if lr == "jax" else lr
    p, opt = np.ones(3, np.float32), optim.SGD(lr=100)
    new, _ = WAYS[way](lambda p, s: opt.update(p, p, s, lr=rate))(p, opt.init(p))
    assert new.tolist() == [0.75] * 3


@both
@pytest.mark.parametrize("rule", [refoptim.ASGD, refoptim.Rprop])
def test_the_first_rate_begins_what_follows_from_it(rule: Any, way: str) -> None:
    """As it does in the optimizer, which makes its state in the first step."""
    p, opt = np.ones(3, np.float32), optim.optimizer_class(rule)(lr=0.5)
    x, state = p.copy(), opt.init(p)
    other = rule([x], lr=0.25)
    for lr in (0.25, 0.125):
        p, state = WAYS[way](opt.update)(p, np.ones(3, np.float32), state, lr=lr)
        other.param_groups[0]["lr"] = lr
        other.step(grads=[np.ones(3, np.float32)])
        assert_equal_bits(p, x)


def test_a_rate_may_be_traced() -> None:
    p, opt = np.ones(3, np.float32), optim.SGD(lr=100)
    step = jax.jit(opt.update)
    found = [step(p, p, opt.init(p), lr=lr)[0].tolist() for lr in (0.25, 0.5)]
    assert found == [[0.75] * 3, [0.5] * 3]
    assert step._cache_size() == 1


def test_the_number_of_the_step_is_an_int_outside_of_jit() -> None:
    p, opt = jnp.ones(2), optim.Adam()
    traced = jax.jit(opt.update)(p, p, opt.init(p))[1]
    assert isinstance(traced.step, jax.Array)
    assert type(opt.init(p).step) is type(opt.update(p, p, traced)[1].step) is int
    assert opt.update(p, p, traced)[1].step == 2


def test_init_may_be_traced() -> None:
    p, opt = jnp.ones(2), optim.Adagrad(initial_accumulator_value=0.1)
    shapes, state = jax.eval_shape(opt.init, p), jax.jit(opt.init)(p)
    assert shapes.leaves["sum"].shape == (2,)
    assert_equal_bits(state.leaves["sum"], np.full(2, 0.1, np.float32))


# ----------------------------------------------------------------------------------------------------- nothing in place


@both
def test_nothing_is_changed_in_place(way: str) -> None:
    p, g = np.ones(100_000, np.float32), np.ones(100_000, np.float32)
    opt = optim.SGD(lr=0.5, momentum=0.9)
    state = opt.init(p)
    first, state = jax.block_until_ready(WAYS[way](opt.update)(p, g, state))
    assert (p == 1).all()
    assert (g == 1).all()
    p[:], g[:] = 7, 7
    assert (first == 0.5).all()
    assert (state.leaves["momentum_buffer"] == 1).all()
    second, after = WAYS[way](opt.update)(first, jnp.ones_like(first), state)
    assert (first == 0.5).all()
    assert (state.leaves["momentum_buffer"] == 1).all()
    assert (second == np.float32(0.5) - np.float32(0.5) * np.float32(1.9)).all()
    assert (after.leaves["momentum_buffer"] == np.float32(1.9)).all()


def test_what_is_handed_to_jax_is_held_by_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX shares the memory of the arrays that it is given."""
    held: list[Any] = []
    step = refoptim.Adam.step

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        done = step(self, *args, **kwargs)
        held.extend(self.param_groups[0]["params"])
        held.extend(x for state in self.state.values() for x in state.values() if isinstance(x, np.ndarray))
        return done

    monkeypatch.setattr(refoptim.Adam, "step", spy)
    p = jnp.ones(100_000)
    opt = optim.Adam(lr=0.5)
    new, state = opt.update(p, p, opt.init(p))
    kept = [new, *state.leaves.values()]
    assert len(held) == len(kept)
    assert not any(np.shares_memory(p, np.asarray(x)) for x in kept)


# ---------------------------------------------------------------------------------------------------------------- trees


@both
def test_what_is_no_float_stays_as_it_is(way: str) -> None:
    params = {
        "w": jnp.ones(2),
        "count": jnp.arange(3),
        "mask": jnp.array([True]),
        "key": jax.random.key(0),
        "old": jnp.zeros(2, jnp.uint8),
        "none": None,
    }
    grads = jax.grad(lambda p: (p["w"] ** 2).sum(), allow_int=True)({k: x for k, x in params.items() if k != "key"})
    grads |= {"key": None, "mask": None}
    assert grads["count"].dtype == jax.dtypes.float0
    opt = optim.SGD(lr=0.25, momentum=0.5)
    new, state = WAYS[way](lambda p, s: opt.update(p, grads, s))(params, opt.init(params))
    assert new["w"].tolist() == [0.5, 0.5]
    for name in ("count", "mask", "old"):
        assert_equal_bits(new[name], params[name])
    assert new["key"] == params["key"]
    assert new["none"] is None
    assert {name for name, x in state.leaves.items() if x is not None} == {"w"}


def test_a_part_of_a_tree_has_an_optimizer_of_its_own() -> None:
    """None in both trees leaves a parameter to another optimizer."""
    params = {"w": normal(1, 3, 4), "b": normal(2, 4)}
    matrices, rest = {"w": params["w"], "b": None}, {"w": None, "b": params["b"]}
    muon, adam = front("Muon"), front("AdamW")
    new = [opt.update(part, part, opt.init(part))[0] for opt, part in ((muon, matrices), (adam, rest))]
    for name, key, part in (("Muon", "w", new[0]), ("AdamW", "b", new[1])):
        x = params[key].copy()
        make(name, [x]).step(grads=[params[key]])
        assert_equal_bits(x, part[key])
        assert [other for other, y in part.items() if y is not None] == [key]


@pytest.mark.parametrize("params", [{}, [], None, {"n": np.arange(2)}], ids=repr)
def test_a_tree_may_hold_nothing_to_train(params: Any) -> None:
    opt = optim.Adam()
    new, state = opt.update(params, params, opt.init(params))
    assert jax.tree.structure(new) == jax.tree.structure(params)
    assert state.step == 1


def test_shapes_without_axes_and_without_elements() -> None:
    xs = [np.array(2.0, np.float32), np.zeros((0, 3), np.float32), np.float32(3)]
    opt = optim.Adafactor(lr=0.1)
    new, _ = opt.update(xs, [jnp.asarray(x) for x in xs], opt.init(xs))
    assert [x.shape for x in new] == [(), (0, 3), ()]
    p = np.array(2.0, np.float32)
    refoptim.Adafactor([p], lr=0.1).step(grads=[p.copy()])
    assert_equal_bits(p, new[0])


def test_complex_gradients_of_jax_are_conjugates() -> None:
    """JAX's gradient of |z|**2 is 2 * conj(z); the way down is its conjugate, as the guide says."""
    z = jnp.array([1 + 2j])
    g = jax.grad(lambda z: (z * z.conj()).real.sum())(z)
    opt = optim.SGD(lr=0.25)
    assert g.tolist() == [2 - 4j]
    assert opt.update(z, g.conj(), opt.init(z))[0].tolist() == [0.5 + 1j]


def test_a_rule_of_ones_own_works() -> None:
    class Sign(refoptim.SGD):
        @classmethod
        def update(cls, s: Any, p: Any, g: Any, *state: Any) -> Any:
            return super().update(s, p, np.sign(g), *state)

    opt = optim.optimizer_class(Sign)(lr=0.5)
    p = np.array([3.0, -2.0], np.float32)
    assert opt.update(p, p, opt.init(p))[0].tolist() == [2.5, -1.5]


def test_registers_have_the_default_dtype() -> None:
    refoptim.set_default_dtype("float64")
    try:
        with pytest.raises(TypeError, match=r"params: JAX keeps float64 only with .*jax_enable_x64"):
            optim.NAdam().init(jnp.ones(2))
        with doubles("float64"):
            assert optim.NAdam().init(jnp.ones(2)).leaves["mu_product"].dtype == np.float64
    finally:
        refoptim.set_default_dtype("float32")


# --------------------------------------------------------------------------------------------------------------- errors

W = jnp.ones((2, 3))


def after(change: Callable[[Any, Any, Any], Any], way: str = "eager") -> Any:
    """Update ``{"a": {"w": …}, "b": …}``, after a change of what is given."""
    opt = optim.AdamW()
    params: Any = {"a": {"w": W}, "b": jnp.ones(3)}
    given = change(params, {"a": {"w": W}, "b": jnp.ones(3)}, opt.init(params))
    return WAYS[way](opt.update)(*given)


@both
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda p, g, s: (p, g | {"b": jnp.ones(4)}, s), ValueError, "grads['b'] must have shape (3,), got (4,)"),
        (
            lambda p, g, s: (p, g | {"a": {"w": W.astype(jnp.float16)}}, s),
            TypeError,
            "grads['a']['w'] must have dtype float32, got float16",
        ),
        (lambda p, g, s: (p, g | {"b": None}, s), ValueError, "grads['b'] is None, and params['b'] is trained"),
        (lambda p, g, s: (p, {"b": g["b"]}, s), ValueError, "structure of params: they lack ['a']['w']"),
        (lambda p, g, s: (p, g | {"c": W}, s), ValueError, "structure of params: they must not have ['c']"),
        (lambda p, g, s: (p, [g["a"], g["b"]], s), ValueError, "structure of params: they lack ['a']['w']"),
        (
            lambda p, g, s: (p, g, s._replace(leaves={"b": s.leaves["b"]})),
            ValueError,
            "state.leaves must have the structure of params",
        ),
        (
            lambda p, g, s: (p, g, s._replace(leaves=s.leaves | {"b": {"sum": W}})),
            ValueError,
            "state.leaves['b'] must hold ['exp_avg', 'exp_avg_sq'] for AdamW, got ['sum']",
        ),
        (
            lambda p, g, s: (p, g, s._replace(leaves=s.leaves | {"b": s.leaves["a"]["w"]})),
            ValueError,
            "state.leaves['b']['exp_avg'] must have shape (3,), got (2, 3)",
        ),
        (
            lambda p, g, s: (p, g, tuple(s)),
            TypeError,
            "that init or update returned, got tuple: the order is update(params, grads, state)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_its_path(change: Any, error: type[Exception], message: str, way: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        after(change, way)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (1.0, "params['b'] must be an array of JAX or NumPy, got float"),
        ("text", "params['b'] must be an array of JAX or NumPy, got str"),
        (np.ma.ones(3), "params['b'] must be an array of JAX or NumPy, got MaskedArray"),
        (np.ones(3), "params['b']: JAX keeps float64 only with jax.config.update('jax_enable_x64', True)"),
        (np.ones(3, np.complex128), "params['b']: JAX keeps complex128 only with"),
        (jnp.ones(3, jnp.float8_e4m3fn), "params['b']: dtype float8_e4m3fn is not supported"),
    ],
    ids=repr,
)
def test_leaves_that_cannot_be_trained_are_refused(x: Any, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        optim.Adam().init({"a": jnp.ones(2), "b": x})


def test_shapes_that_a_rule_refuses_are_named() -> None:
    with pytest.raises(ValueError, match=re.escape("params['b']: Muon only supports 2D parameters")):
        optim.Muon().init({"a": W, "b": jnp.ones(2)})


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: optim.Adam(lr=-1), ValueError, "Invalid learning rate: -1"),
        (lambda: optim.Adam(momentum=1), TypeError, "unexpected keyword argument 'momentum'"),
        (lambda: optim.Adam(params=[W]), TypeError, "unexpected keyword argument 'params'"),
        (lambda: optim.Adam(learning_rate=1), TypeError, "'learning_rate': the settings are lr, betas, .*; init takes"),
        (lambda: optim.Adam(lr=abs), TypeError, "got a function: give its values to update"),
        (lambda: optim.Adam(differentiable=True), RuntimeError, "refoptim.functional.adam computes with JAX's own"),
        (lambda: optim.optimizer_class(refoptim.LBFGS), TypeError, "LBFGS calls a closure"),
        (lambda: optim.optimizer_class(refoptim.SparseAdam), TypeError, "SparseAdam takes sparse gradients"),
        (lambda: optim.optimizer_class(refoptim.Optimizer), TypeError, "rule must be a class of optimizers"),
        (lambda: optim.optimizer_class("Adam"), TypeError, "rule must be a class of optimizers"),  # type: ignore[arg-type]
    ],
)
def test_wrong_settings_and_rules_are_refused_at_once(build: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


@both
def test_a_step_is_not_differentiable(way: str) -> None:
    p, opt = jnp.ones(3), optim.AdamW()
    update = WAYS[way](opt.update)
    with pytest.raises(TypeError, match=r"derivative of update is not supported.*refoptim\.functional\.adamw"):
        jax.grad(lambda p: update(p, p, opt.init(p))[0].sum())(p)


@both
def test_wrong_rates_are_refused(way: str) -> None:
    p, opt = jnp.ones(3), optim.SGD()
    with pytest.raises(ValueError, match="Invalid learning rate: -1"):
        WAYS[way](lambda p: opt.update(p, p, opt.init(p), lr=-1.0))(p)


def test_wrong_traced_values_are_refused_when_they_are_known(capfd: Any, caplog: Any) -> None:
    p, opt = jnp.ones(3), optim.SGD()
    with pytest.raises(jax.errors.JaxRuntimeError, match="Invalid learning rate: -1"):
        jax.block_until_ready(jax.jit(lambda lr: opt.update(p, p, opt.init(p), lr=lr))(-1.0))


def test_settings_too_large_for_a_leaf_are_refused_by_its_path() -> None:
    params = {"a": jnp.ones(2), "b": jnp.ones(2, jnp.float16)}
    opt = optim.SGD(lr=1e5)
    with pytest.raises(RuntimeError, match=r"\(params\['b'\]\): value cannot be converted to type float16"):
        opt.update(params, params, opt.init(params))


def test_wrong_counts_are_refused() -> None:
    p, opt = jnp.ones(3), optim.Adam()
    with pytest.raises(ValueError, match=r"state\.step must be an integer in \[0, inf\), got -1"):
        opt.update(p, p, opt.init(p)._replace(step=-1))


# ---------------------------------------------------------------------------------------------------------------- optax


def test_optax_gets_differences_which_are_close() -> None:
    """p + (q - p) is q or a neighbour that lies no further off than two roundings."""
    optax = pytest.importorskip("optax", reason="optax is not installed")
    xs = [normal(1, 90_003)]
    tx = optim.as_optax(refoptim.AdamW, lr=1e-2)
    params = {"w": jnp.asarray(xs[0])}
    state, other = tx.init(params), refoptim.AdamW(xs, lr=1e-2)
    update = jax.jit(lambda g, s, p: (lambda u, s: (optax.apply_updates(p, u), s))(*tx.update(g, s, p)))
    for step in range(19):
        grads = drawn(step, xs)
        params, state = update({"w": jnp.asarray(grads[0])}, state, params)
        other.step(grads=grads)
    differ = np.asarray(params["w"]) != xs[0]
    assert 0 < differ.sum() < 0.01 * differ.size
    assert np.abs(np.asarray(params["w"]) - xs[0]).max() < 19 * 2.0**-25


def test_optax_takes_it_into_a_chain_with_a_schedule() -> None:
    optax = pytest.importorskip("optax", reason="optax is not installed")
    schedule = optax.linear_schedule(0.5, 0.0, 2)
    tx = optax.chain(optax.scale(2.0), optim.as_optax(refoptim.SGD, lr=schedule))
    params: Any = {"w": jnp.ones(2), "n": jnp.arange(2), "none": None}
    state = tx.init(params)
    for expected in (0.0, 0.0 - 0.25 * 2.0, -0.5):
        updates, state = tx.update({"w": jnp.ones(2), "n": jnp.zeros(2, jnp.int32), "none": None}, state, params)
        params = optax.apply_updates(params, updates)
        assert params["w"].tolist() == [expected] * 2
        assert params["n"].tolist() == [0, 1]


def test_optax_may_inject_the_learning_rate() -> None:
    optax = pytest.importorskip("optax", reason="optax is not installed")
    tx = optax.inject_hyperparams(lambda lr: optim.as_optax(refoptim.SGD, lr=lr))(lr=0.5)
    state = tx.init(W)
    for update in (tx.update, jax.jit(tx.update)):
        state.hyperparams["lr"] = jnp.asarray(0.25)
        updates, state = update(jnp.ones_like(W), state, W)
        assert np.asarray(updates).ravel().tolist() == [-0.25] * W.size


def test_optax_must_give_the_parameters() -> None:
    pytest.importorskip("optax", reason="optax is not installed")
    tx = optim.as_optax(refoptim.SGD, lr=0.1)
    with pytest.raises(ValueError, match=r"SGD changes the parameters themselves: call update\(grads, state, params\)"):
        tx.update(W, tx.init(W))


def test_optax_settings_are_checked_at_once() -> None:
    pytest.importorskip("optax", reason="optax is not installed")
    with pytest.raises(ValueError, match="Invalid learning rate"):
        optim.as_optax(refoptim.SGD, lr=-1)


def test_an_optimizer_that_keeps_doubles_says_what_it_needs() -> None:
    with pytest.raises(
        TypeError, match=r"params\[0\]: JAX keeps float64, as weight_sum is, only with .*jax_enable_x64"
    ):
        optim.ScheduleFreeSGD().init([jnp.ones(2)])
