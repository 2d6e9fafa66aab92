"""The pure rules on arrays of JAX: NumPy's bits, derivatives, and what is traced."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.derivatives import SMOOTH, STEPS, loss, names, numbers, path, slope_by_number, slopes_by_array, trajectory
from refoptim import functional

jax: Any = pytest.importorskip("jax", reason="JAX is not installed")
jnp: Any = pytest.importorskip("jax.numpy")

CASES = [(rule, name) for rule in SMOOTH for name in names(rule)]


@pytest.fixture(autouse=True)
def doubles() -> Iterator[None]:
    """Compute in float64 where arrays are, and keep registers so that nothing is rounded to float32 on the way."""
    refoptim.set_default_dtype("float64")
    with jax.enable_x64(True):
        yield
    refoptim.set_default_dtype("float32")


def given(arrays: list[Any]) -> list[Any]:
    return [jnp.asarray(x) for x in arrays]


@pytest.mark.parametrize(("rule", "name"), CASES)
def test_derivatives_by_settings(rule: str, name: str) -> None:
    i, values, arrays = names(rule).index(name), numbers(rule), given(path())
    found = jax.grad(lambda x: loss(rule, [*values[:i], x, *values[i + 1 :]], arrays))(values[i])
    np.testing.assert_allclose(found, slope_by_number(rule, i), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rule", SMOOTH)
def test_derivatives_by_parameter_and_gradients(rule: str) -> None:
    found = jax.grad(partial(loss, rule, numbers(rule)))(given(path()))
    for i in (0, 1, STEPS // 2):
        np.testing.assert_allclose(found[i], slopes_by_array(rule, i), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "complex64"])
@pytest.mark.parametrize("rule", SMOOTH)
def test_bits_are_those_of_numpy(rule: str, dtype: str) -> None:
    """Eagerly on a CPU; the parts of numbers stay away from subnormal ones, which XLA takes for zeros."""
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal((40, 50)) for _ in range(4)]
    arrays = [(x + 1j * x[::-1] if dtype == "complex64" else x).astype(jnp.dtype(dtype)) for x in arrays]
    p, state = trajectory(rule, numbers(rule), arrays[0], arrays[1:])
    first, *rest = given(arrays)
    new, kept = trajectory(rule, numbers(rule), first, rest)
    assert isinstance(new, jax.Array)
    assert state.keys() == kept.keys()
    for theirs, ours in [(new, p), *((kept[name], x) for name, x in state.items())]:
        assert theirs.dtype == ours.dtype
        assert np.asarray(theirs).tobytes() == ours.tobytes()


@pytest.mark.parametrize("rule", SMOOTH)
def test_bits_while_settings_are_differentiated(rule: str) -> None:
    """In float32 throughout: the scalars have the values of the host all the same.

    What a rule keeps in double has them only where JAX keeps doubles.
    """
    refoptim.set_default_dtype("float32")
    arrays, values = [x.astype(np.float32) for x in path()], [float(np.float32(x)) for x in numbers(rule)]
    p, _ = trajectory(rule, values, arrays[0], arrays[1:])
    with jax.enable_x64(rule.startswith("schedule_free")):
        first, *rest = given(arrays)

        def after(values: list[Any]) -> tuple[Any, Any]:
            new, _ = trajectory(rule, values, first, rest)
            return new.sum(), new

        _, new = jax.grad(after, has_aux=True)(values)
    assert np.asarray(new).tobytes() == p.tobytes()


@pytest.mark.parametrize("rule", SMOOTH)
def test_numpy_arrays_beside_what_is_traced(rule: str) -> None:
    """They count as JAX's, as in JAX itself."""
    (p, g, *_), values = path(), numbers(rule)
    values[0] = jnp.asarray(values[0])
    compiled = jax.jit(lambda p, lr: trajectory(rule, [lr, *values[1:]], p, [g])[0])
    np.testing.assert_allclose(compiled(p, values[0]), trajectory(rule, numbers(rule), p, [g])[0], rtol=1e-12)


DECIDING = ("radam", "asgd", "schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd")
"""Rules with settings on whose value the form of a step depends."""


@pytest.mark.parametrize("rule", [rule for rule in SMOOTH if rule not in DECIDING])
def test_all_settings_may_be_traced(rule: str) -> None:
    p, *grads = path()[:4]
    compiled = jax.jit(lambda values: trajectory(rule, values, *given([p]), given(grads))[0])
    np.testing.assert_allclose(
        compiled(numbers(rule)), trajectory(rule, numbers(rule), p, grads)[0], rtol=1e-11, atol=1e-12
    )


def test_vmap_over_learning_rates() -> None:
    p, g, *_ = path()
    rates = [0.1, 0.2, 0.3]
    found = jax.vmap(lambda lr: functional.adam([p], [g], None, 1, lr=lr)[0][0])(jnp.asarray(rates))
    for lr, new in zip(rates, found, strict=True):
        np.testing.assert_allclose(new, functional.adam([p], [g], None, 1, lr=lr)[0][0], rtol=1e-14)


def test_vmap_over_parameters() -> None:
    p, g, *_ = path()
    found = jax.vmap(lambda p, g: functional.adamw([p], [g], None, 1)[0][0])(*given([p, g]))
    np.testing.assert_allclose(found, functional.adamw([p], [g], None, 1)[0][0], rtol=1e-14)


@pytest.mark.parametrize("rule", [*SMOOTH])
def test_apply_is_compiled_once(rule: str) -> None:
    """For steps of changing rates; a flag that turns compiles once more, as does state that was not there before."""
    step, traced = getattr(functional, rule), []
    p, *grads = path()
    settings = {name: x for name, x in SMOOTH[rule].items() if name != "lr"}

    def traced_apply(*arguments: Any) -> Any:
        traced.append(rule)
        return step.apply(*arguments)

    apply = jax.jit(traced_apply, static_argnums=0)
    params, state, kept = given([p]), None, None
    mine, own = [p], None
    statics = set()
    for t, g in enumerate(grads, 1):
        static, kept = step.scalars(t, kept, lr=0.05 / t, **settings)
        statics.add(static)
        params, state = apply(static, kept, params, given([g]), state)
        mine, own = step(mine, [g], own, t, lr=0.05 / t, **settings)
        np.testing.assert_allclose(params[0], mine[0], rtol=1e-11, atol=1e-12)
        assert own[0].keys() == state[0].keys()
        for name, x in own[0].items():
            np.testing.assert_allclose(state[0][name], x, rtol=1e-11, atol=1e-12)
    turned = {tuple(x for x in static.scalars if isinstance(x[1], bool)) for static in statics}
    assert len(statics) == len(turned) <= 2 and (len(turned) == 2 or rule not in ("radam", "asgd"))
    assert len(traced) <= len(statics) + 1


def test_registers_come_from_a_state_too() -> None:
    p, g, h, *_ = path()
    static, varying = functional.nadam.scalars(1)
    params, state = jax.jit(functional.nadam.apply, static_argnums=0)(static, varying, given([p]), given([g]), None)
    static, varying = functional.nadam.scalars(2, state[0])
    params, _ = functional.nadam.apply(static, varying, params, given([h]), state)
    mine, own = functional.nadam([p], [g], None, 1)
    mine, _ = functional.nadam(mine, [h], own, 2)
    np.testing.assert_allclose(params[0], mine[0], rtol=1e-13)


@pytest.mark.parametrize("rule", ["adamw", "nadam", "adagrad", "rmsprop", "adadelta", "adamax", "sgd"])
def test_scan_over_a_table_of_records(rule: str) -> None:
    """After the first step, which makes the state."""
    step, kept, records = getattr(functional, rule), None, []
    p, *grads = path()
    for t in range(1, len(grads) + 1):
        static, kept = step.scalars(t, kept, **{**SMOOTH[rule], "lr": 0.05 / t})
        records.append(kept)
    start = step.apply(static, records[0], given([p]), given([grads[0]]), None)
    table = jax.tree.map(lambda *x: jnp.asarray(x), *records[1:])

    def advance(carry: Any, now: Any) -> Any:
        varying, g = now
        return step.apply(static, varying, carry[0], [g], carry[1]), None

    (params, _), _ = jax.lax.scan(advance, start, (table, jnp.asarray(np.stack(grads[1:]))))
    mine, own = [p], None
    for t, g in enumerate(grads, 1):
        mine, own = step(mine, [g], own, t, **{**SMOOTH[rule], "lr": 0.05 / t})
    np.testing.assert_allclose(params[0], mine[0], rtol=1e-11)


def test_derivative_by_a_number_of_the_record() -> None:
    p, g, *_ = path()
    static, varying = functional.adamw.scalars(1)

    def after(varying: Any) -> Any:
        (new,), _ = functional.adamw.apply(static, varying, given([p]), given([g]), None)
        return new.sum()

    found = jax.jit(jax.grad(after))(varying)
    np.testing.assert_allclose(found["shrink"], p.sum(), rtol=1e-12)
    h = 2.0**-20
    up, down = (float(after({**varying, "step_size": varying["step_size"] + x})) for x in (h, -h))
    np.testing.assert_allclose(found["step_size"], (up - down) / (2 * h), rtol=1e-8)


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (
            lambda x: jax.jit(lambda t: functional.sgd([x], [x], None, t))(1),
            ValueError,
            "(where it is traced, use scalars and apply)",
        ),
        (
            lambda x: jax.jit(lambda b: functional.radam([x], [x], None, 1, betas=(0.9, b)))(0.9),
            TypeError,
            "the step depends on the value of betas[1], which has none while it is traced by jit or vmap",
        ),
        (
            lambda x: jax.jit(lambda b: functional.adam.scalars(1, betas=(0.9, b))[1])(0.9),
            TypeError,
            "betas must be a number: only lr varies here, and the function itself has derivatives by betas",
        ),
        (lambda x: functional.adafactor([x], [x], None, 1), TypeError, "params[0]: Adafactor sums over elements"),
    ],
)
def test_refused(act: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        act(jnp.ones(3))
    assert message in str(raised.value)


def test_what_decides_the_form_of_a_step_must_have_a_value() -> None:
    x = jnp.ones(3)
    with pytest.raises(TypeError, match="the step depends on the value of t0, which has none"):
        jax.jit(lambda t0: functional.asgd([x], [x], None, 2, t0=t0))(1.0)
