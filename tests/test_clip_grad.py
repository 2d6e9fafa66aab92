"""Clipping: norms by exact rational arithmetic and by torch, values by torch, kernels by their bits, and errors."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.rooms import assert_equal_bits, normal
from refoptim import Parameter, SparseGrad
from refoptim.clip_grad import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm
from refoptim.engines import cuda, host

SHAPES = [(), (1,), (0,), (7,), (1025,), (40, 60), (3, 1, 5), (20_000,)]

needs_kernels = pytest.mark.skipif(bool(host.missing()), reason=f"no kernels for this computer: {host.missing()}")


def arrays(dtype: str, seed: int = 0) -> list[Any]:
    return [spread(seed + i, shape).astype(dtype_of(dtype)) for i, shape in enumerate(SHAPES)]


def spread(seed: int, shape: tuple[int, ...]) -> Any:
    """Draw numbers of such different sizes that every other order of sums gives other bits."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.standard_normal(shape) * 2.0 ** rng.integers(-6, 4, shape))


def dtype_of(name: str) -> Any:
    if name != "bfloat16":
        return np.dtype(name)
    return np.dtype(pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16)


def parameters(gradients: list[Any]) -> list[Parameter]:
    return [Parameter(np.zeros_like(g), grad=g.copy()) for g in gradients]


def exact_norm(xs: list[Any], order: float) -> float:
    values = [abs(Fraction(float(v))) for x in xs for v in x.reshape(-1)]
    if order == 2:
        return math.sqrt(sum(v * v for v in values))
    return float(sum(values) if order == 1 else max(values))


@pytest.mark.parametrize("order", [1, 2, math.inf])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_the_norm_is_near_the_exact_one(dtype: str, order: float) -> None:
    norm = get_total_norm(arrays(dtype), order)
    number = np.float64 if dtype == "float64" else np.float32
    assert type(norm) is number
    assert float(norm) == pytest.approx(exact_norm(arrays(dtype), order), rel=40 * float(np.finfo(number).eps), abs=0)
    if order == math.inf:
        assert float(norm) == exact_norm(arrays(dtype), order)


def test_norms_of_mixed_types_are_double() -> None:
    xs = [*arrays("float32"), *arrays("float64", 50)]
    norm = get_total_norm(xs, 2)
    assert type(norm) is np.float64
    assert float(norm) == pytest.approx(exact_norm(xs, 2), rel=1e-6)


def test_the_norm_of_nothing_is_zero() -> None:
    for xs in ([], [np.zeros((0, 3), np.float32)], iter(())):
        for order in (1, 2, "inf"):
            assert_equal_bits(get_total_norm(xs, order), np.float32(0))


@pytest.mark.parametrize("order", [1, 2, math.inf])
@pytest.mark.parametrize("max_norm", [0.0, 0.7, 1e9, math.inf])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_gradients_are_those_of_torch_with_the_same_norm(dtype: str, max_norm: float, order: float) -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    ours, norm = parameters(arrays(dtype)), get_total_norm(arrays(dtype), order)
    theirs = [torch.zeros(x.shape, dtype=getattr(torch, dtype)) for x in arrays(dtype)]
    for p, g in zip(theirs, arrays(dtype), strict=True):
        p.grad = torch.from_numpy(g.copy())
    near = torch.nn.utils.get_total_norm([p.grad for p in theirs if p.numel()], order)
    assert float(norm) == pytest.approx(float(near), rel=1e-6)
    torch.nn.utils.clip_grads_with_norm_(theirs, max_norm, torch.tensor(norm))
    assert clip_grad_norm_(ours, max_norm, order) == norm
    for p, q in zip(ours, theirs, strict=True):
        assert_equal_bits(p.grad, q.grad.numpy())


def test_clipped_gradients_have_the_norm() -> None:
    clipped = parameters(arrays("float32"))
    before = clip_grad_norm_(clipped, 3)
    assert before > 3
    assert exact_norm([p.grad for p in clipped], 2) == pytest.approx(3, rel=1e-5)
    again = [p.grad.copy() for p in clipped]
    clip_grad_norm_(clipped, 4)
    for p, g in zip(clipped, again, strict=True):
        assert_equal_bits(p.grad, g)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_products_are_rounded_once(dtype: str) -> None:
    """The coefficient stays float32: that of torch is rounded to the gradient's type."""
    (p,) = parameters([spread(3, (500,)).astype(dtype_of(dtype))])
    g, norm = p.grad.copy(), np.float32(7.3)
    coefficient = np.float32(1) / (norm + np.float32(1e-6)) * np.float32(2.1)
    clip_grads_with_norm_(p, 2.1, norm)
    assert_equal_bits(p.grad, (g.astype(np.float32) * coefficient).astype(g.dtype))


def test_the_coefficient_has_the_type_of_the_norm() -> None:
    for norm in (np.float64(7.3), 7.3, np.float32(7.3)):
        p, g = Parameter(np.zeros(3)), spread(1, (3,))
        p.grad = g.copy()
        number = np.float32 if norm.__class__ is np.float32 else np.float64
        coefficient = 1 / (number(norm) + number(1e-6)) * number(2.1)
        clip_grads_with_norm_([p], 2.1, norm)
        assert_equal_bits(p.grad, g * np.float64(coefficient))


def test_complex_gradients_are_pairs_of_reals() -> None:
    z = (spread(1, (30,)) + 1j * spread(2, (30,))).astype(np.complex64)
    p = Parameter(np.zeros_like(z), grad=z.copy())
    norm = clip_grad_norm_(p, 0.5)
    assert_equal_bits(norm, get_total_norm(z.view(np.float32)))
    assert np.linalg.norm(p.grad) == pytest.approx(0.5, rel=1e-5)
    with pytest.raises(TypeError, match="complex"):
        get_total_norm(z, 1)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_norms_that_are_not_finite(bad: float) -> None:
    gradients = arrays("float32")
    gradients[4][9] = bad
    kept = parameters(gradients)
    for order in (1, 2, math.inf):
        with pytest.raises(RuntimeError, match=r"The total norm of order .* is non-finite, so it cannot be clipped"):
            clip_grad_norm_(kept, 1.0, order, error_if_nonfinite=True)
    for p, g in zip(kept, gradients, strict=True):
        assert_equal_bits(p.grad, g)
    norm = clip_grad_norm_(kept, 1.0)
    assert str(norm) == str(np.float32(bad))
    assert np.isnan(kept[3].grad).all() if math.isnan(bad) else not kept[3].grad.any()


def test_views_are_clipped_in_place() -> None:
    base = spread(4, (20, 30)).astype(np.float32)
    for g in (base[::2, 1::3], base.T, base[::-1]):
        before = np.array(g)
        clip_grads_with_norm_(Parameter(np.zeros_like(before), grad=g), 1.0, 2.0)
        assert (g == before * np.float32(1 / 2.000001)).all()


REFUSED: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    ([np.zeros(3)], {}, TypeError, "parameters must hold Parameters"),
    (3, {}, TypeError, "parameters must be one or an iterable"),
    ([], {"max_norm": -1.0}, ValueError, r"max_norm must be in \[0, inf\], got -1.0"),
    ([], {"max_norm": math.nan}, ValueError, "max_norm"),
    ([], {"max_norm": "1"}, TypeError, "max_norm"),
    ([], {"norm_type": 3}, ValueError, "norm_type must be 1, 2 or inf, got 3"),
    ([], {"norm_type": math.nan}, ValueError, "norm_type"),
    ([], {"foreach": 1}, TypeError, "foreach must be True, False or None"),
    ([], {"foreach": True, "fused": True}, RuntimeError, "cannot be `True` together"),
]


@pytest.mark.parametrize(("given", "more", "error", "text"), REFUSED)
def test_wrong_arguments(given: Any, more: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        clip_grad_norm_(given, **{"max_norm": 1.0, **more})


def wrong_gradients() -> dict[str, Any]:
    shared, locked = np.ones(6), np.ones(3)
    locked.flags.writeable = False
    return {
        "read-only": (locked,),
        "overlapping itself": (np.lib.stride_tricks.as_strided(np.ones(3), (3,), (4,)),),
        "sparse": (SparseGrad([[1]], np.ones(1), (3,)),),
        "of another shape": (np.ones(4),),
        "of another dtype": (np.ones(3, np.float32),),
        "shared": (shared[:3], shared[2:5]),
        "integers": (np.ones(3, int),),
    }


@pytest.mark.parametrize("what", wrong_gradients())
def test_wrong_gradients_change_nothing(what: str) -> None:
    first = Parameter(np.zeros(2), grad=np.array([3.0, 4.0]))
    others = [Parameter(np.zeros(3), name="w") for _ in wrong_gradients()[what]]
    for p, g in zip(others, wrong_gradients()[what], strict=True):
        p.grad = g
    with pytest.raises(
        (TypeError, ValueError), match=r"gradients must not share" if what == "shared" else r"parameter 1 \(w\)"
    ):
        clip_grad_norm_([first, *others], 1.0)
    assert first.grad.tolist() == [3.0, 4.0]


def test_gradients_that_share_memory_across_another_one() -> None:
    x = np.ones(9)
    with pytest.raises(ValueError, match="must not share memory"):
        clip_grad_norm_([Parameter(np.zeros_like(g), grad=g) for g in (x[::2], x[1:2], x[4:5])], 1.0)
    assert x.tolist() == [1.0] * 9


def test_parameters_without_gradient_are_passed_over() -> None:
    p, q = Parameter(np.zeros(2)), Parameter(np.zeros(2), grad=np.array([3.0, 4.0]))
    assert clip_grad_norm_([p, q], 10) == 5
    assert p.grad is None
    clip_grads_with_norm_(p, 1, 5.0)
    assert refoptim.clip_grad.clip_grad_norm_([p], 1) == 0


@needs_kernels
@pytest.mark.parametrize("order", [1, 2, math.inf])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "mixed"])
def test_kernels_have_the_bits_of_the_words(dtype: str, order: float) -> None:
    names = ["float32", "bfloat16", "float64", "float16"] if dtype == "mixed" else [dtype]
    xs = [x for i, name in enumerate(names) for x in arrays(name, 20 * i)]
    xs += [x[::2] for x in xs if x.ndim and len(x) > 1] + [x.T for x in xs if x.ndim == 2]
    ours, theirs = parameters(xs), parameters(xs)
    for p, q in zip(ours[8:], theirs[8:], strict=False):
        p.grad, q.grad = (np.array(x.grad, order="F") for x in (p, q))
    norms = [clip_grad_norm_(ps, 1.3, order, fused=fused) for ps, fused in ((ours, True), (theirs, None))]
    assert_equal_bits(*norms)
    for p, q in zip(ours, theirs, strict=True):
        assert_equal_bits(p.grad, q.grad)


@needs_kernels
def test_kernels_clip_many_arrays_and_special_numbers() -> None:
    many = [normal(i, i % 13) for i in range(1500)]
    assert_equal_bits(get_total_norm(many, fused=True), get_total_norm(many))
    for bad in (math.inf, -math.inf, math.nan):
        many[700][3] = bad
        for order in (1, 2, math.inf):
            assert str(get_total_norm(many, order, fused=True)) == str(get_total_norm(many, order)) == str(abs(bad))
    for norm in (np.float32(7.3), np.float64(7.3), math.nan, 0.0, math.inf):
        for dtype in ("float64", "float32", "float16"):
            ours, theirs = parameters(arrays(dtype)), parameters(arrays(dtype))
            clip_grads_with_norm_(ours, 2.1, norm, fused=True)
            clip_grads_with_norm_(theirs, 2.1, norm)
            for p, q in zip(ours, theirs, strict=True):
                assert_equal_bits(np.nan_to_num(p.grad, nan=9), np.nan_to_num(q.grad, nan=9), (norm, dtype))


def test_on_a_gpu_the_norm_stays_there(fake_cupy: Any) -> None:
    ours = [Parameter(fake_cupy.array(np.zeros_like(g)), grad=fake_cupy.array(g)) for g in arrays("float32")]
    theirs = parameters(arrays("float32"))
    norm = clip_grad_norm_(ours, 1.3, fused=False)
    assert_equal_bits(norm.get(), clip_grad_norm_(theirs, 1.3))
    for p, q in zip(ours, theirs, strict=True):
        assert_equal_bits(p.grad.get(), q.grad)
    with pytest.raises(RuntimeError, match="one place"):
        clip_grad_norm_([ours[0], theirs[1]], 1.0)


def test_clipping_can_be_captured(gpu: Any) -> None:
    """A gradient in no order is copied for the kernels, to where the graph finds it each time it is replayed."""
    g = arrays("float32")[5]
    wide = gpu.asarray(np.zeros((*g.shape, 2), np.float32))
    ours = Parameter(gpu.asarray(np.zeros_like(g)), grad=wide[..., 0])
    machine = cuda.machine(0)
    with gpu.cuda.Stream(non_blocking=True) as stream:
        clip_grad_norm_([ours], 1.3)
        stream.begin_capture()
        clip_grad_norm_([ours], 1.3)
        graph = stream.end_capture()
        assert [x.shape for x in machine.captured].count(g.shape) == 2, "one for the norm, one for the product"
        ours.grad[...] = gpu.asarray(g)
        graph.launch()
    theirs = Parameter(np.zeros_like(g), grad=g.copy())
    clip_grad_norm_([theirs], 1.3)
    assert_equal_bits(ours.grad.get(), theirs.grad)


# -------------------------------------------------------------------------------------------------- by their values


SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.1, -5.0, math.inf, -math.inf, math.nan, 1e-7, -3e-5]

BOUNDS = [0.1, 2, 0.0, -0.0, math.inf, 1e-7, 5.0, 60000.0]


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_values_are_clamped_as_in_torch(dtype: str, foreach: bool | None, bound: float) -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    drawn = [np.array(SPECIAL), *(spread(i, shape) for i, shape in enumerate(SHAPES))]
    gradients = [x.astype(dtype_of(dtype)) for x in drawn]
    ours = parameters(gradients)
    theirs = [torch.zeros(x.shape, dtype=getattr(torch, dtype)) for x in drawn]
    for p, g in zip(theirs, gradients, strict=True):
        p.grad = torch.tensor(g.astype(np.float64)).to(p.dtype)
    torch.nn.utils.clip_grad_value_(theirs, bound, foreach)
    assert clip_grad_value_(ours, bound, foreach) is None
    for p, q in zip(ours, theirs, strict=True):
        assert_equal_bits(np.nan_to_num(p.grad.astype(np.float64), nan=7), q.grad.double().nan_to_num(nan=7).numpy())
        assert np.array_equal(np.signbit(p.grad), q.grad.signbit().numpy())


def test_large_arrays_are_clamped_on_threads() -> None:
    x = np.arange(-600_000, 600_000, dtype=np.float64).reshape(3, -1)
    for g in (x.copy(), x.copy().T, np.repeat(x, 2, axis=1)[:, ::2]):
        expected = [max(min(float(v), 1000.0), -1000.0) for v in g.ravel()]
        clip_grad_value_(Parameter(np.zeros_like(g), grad=g), 1000)
        assert g.ravel().tolist() == expected


@pytest.mark.parametrize(("dtype", "largest"), [("float16", 65504.0), ("float32", float(np.finfo(np.float32).max))])
def test_a_bound_beyond_the_dtype_is_refused_as_in_torch(dtype: str, largest: float) -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    tensor = torch.zeros(1, dtype=getattr(torch, dtype))
    tensor.grad = torch.ones_like(tensor)
    p, q = Parameter(np.zeros(1), grad=np.full(1, 1e300)), Parameter(np.zeros(1, dtype), grad=np.ones(1, dtype))
    for clip, params in ((torch.nn.utils.clip_grad_value_, [tensor]), (clip_grad_value_, [p, q])):
        clip(params, largest)
        with pytest.raises(RuntimeError, match=r"value cannot be converted to type .* without overflow"):
            clip(params, largest * 1.01)
        clip(params, math.inf)
    assert p.grad.tolist() == [largest]


REFUSED_VALUES: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    ([np.zeros(3)], {}, TypeError, "parameters must hold Parameters"),
    (3, {}, TypeError, "parameters must be one or an iterable"),
    ([], {"clip_value": -1.0}, ValueError, r"clip_value must be in \[0, inf\], got -1.0"),
    ([], {"clip_value": math.nan}, ValueError, "clip_value must be in"),
    ([], {"clip_value": "1"}, TypeError, "clip_value must be a real number"),
    ([], {"foreach": 1}, TypeError, "foreach must be True, False or None"),
    ([], {"fused": "yes"}, TypeError, "fused must be True, False or None"),
    ([], {"foreach": True, "fused": True}, RuntimeError, "cannot be `True` together"),
]


@pytest.mark.parametrize(("given", "more", "error", "text"), REFUSED_VALUES)
def test_wrong_arguments_of_clamping(given: Any, more: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        clip_grad_value_(given, **{"clip_value": 1.0, **more})


@pytest.mark.parametrize("what", [*wrong_gradients(), "complex"])
def test_wrong_gradients_are_not_clamped(what: str) -> None:
    first = Parameter(np.zeros(2), grad=np.array([3.0, 4.0]))
    given = wrong_gradients().get(what, (np.ones(3, complex),))
    others = [Parameter(np.zeros(3, g.dtype if what == "complex" else float), name="w") for g in given]
    for p, g in zip(others, given, strict=True):
        p.grad = g
    error = NotImplementedError if what == "complex" else (TypeError, ValueError)
    text = {"shared": "gradients must not share", "complex": r"parameter 1 \(w\): clamp is not supported for complex"}
    with pytest.raises(error, match=text.get(what, r"parameter 1 \(w\)")):
        clip_grad_value_([first, *others], 1.0)
    assert first.grad.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("fused", [None, True, False])
def test_values_on_gpus_are_clamped_there(fake_cupy: Any, fused: bool | None) -> None:
    """Wherever they lie; nothing is read."""
    x = np.array(SPECIAL)
    params = []
    for place in range(3):
        with fake_cupy.cuda.Device(min(place, 1)):
            take = fake_cupy.array if place < 2 else np.array
            params.append(Parameter(take(np.zeros_like(x)), grad=take(x)))
    fake_cupy.world.counters = fake_cupy.Counters()
    clip_grad_value_(params, 0.5, fused=fused)
    assert fake_cupy.world.counters.synchronizations == 0
    expected = [v if abs(v) <= 0.5 or v != v else math.copysign(0.5, v) for v in SPECIAL]
    for p in params:
        assert str((p.grad.get() if hasattr(p.grad, "get") else p.grad).tolist()) == str(expected)


def test_gradients_of_tensors_are_clamped_and_told() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tensors = [torch.ones(2, requires_grad=True) for _ in range(2)]
    for tensor in tensors:
        tensor.grad = torch.tensor([3.0, -0.5])
    before = [tensor.grad._version for tensor in tensors]
    clip_grad_value_(tensors, 1.0)
    clip_grad_value_(tensors[0], 0.25)
    clip_grad_value_(Parameter(np.ones(1)), 1.0)
    assert [tensor.grad.tolist() for tensor in tensors] == [[0.25, -0.25], [1.0, -0.5]]
    assert all(tensor.grad._version > version for tensor, version in zip(tensors, before, strict=True))
