"""Adam8bit and AdamW8bit: what is kept in 8 bits, beside exact arithmetic, and the same bits from the kernel."""

from __future__ import annotations

import hashlib
import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.kernels import NEEDS_KERNELS, assert_same_runs, dtype_of, numbers, strange
from helpers.rooms import assert_equal_runs, members
from refoptim import Adam8bit, AdamW8bit, Parameter, checkpoint, functional
from refoptim.distributed import Sharded, run_ranks
from refoptim.numerics.codes import decoded, encoded, table

RULES = ["Adam8bit", "AdamW8bit"]

SIZES = [(4095,), (4096,), (17, 256), (4104,), (3, 5, 512), (2, 40_960), (), (0,)]
"""Below the least size that is coded, that size, more blocks, no whole block, several axes, several chunks, little."""

CODED = [(4096,), (17, 256), (3, 5, 512), (2, 40_960)]

OPTIONS: dict[str, Any] = dict(lr=0.013, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)


@pytest.mark.parametrize(("signed", "digest"), [(True, "dad4c269c3243d17"), (False, "9dad1cb84fb69242")])
def test_the_table_is_torchaos_without_fused_multiply_add(signed: bool, digest: str) -> None:
    assert hashlib.sha256(table(signed).astype("<f4").tobytes()).hexdigest().startswith(digest)


def nearest(x: Any, numbers: list[Fraction]) -> list[int]:
    """Return the codes of the float32 numbers nearest to some quotients, ties up; the witness is exact."""
    return [max(range(256), key=lambda i: (-abs(numbers[i] - Fraction(float(y))), i)) for y in x]


@pytest.mark.parametrize("signed", [True, False])
def test_a_code_is_that_of_the_nearest_number(signed: bool) -> None:
    rng = np.random.default_rng(5)
    x = (rng.standard_normal(400) * 10.0 ** rng.integers(-8, 3, 400)).astype(np.float32).reshape(4, 100)
    x = x if signed else np.abs(x)
    codes, scale = encoded(x, table(signed))
    assert scale.tolist() == np.abs(x).max(axis=1).tolist()
    quotients, exact = (x / scale[:, None]).ravel(), [Fraction(float(y)) for y in table(signed)]
    assert codes.ravel().tolist() == nearest(quotients, exact)


def test_ties_go_up_and_a_code_stands_for_itself() -> None:
    numbers = np.array(np.arange(256) / 256 - 0.5, np.float32) * 2  # steps of 2**-7, whose halves are exact
    middles = ((numbers[:-1] + numbers[1:]) / 2)[None]
    scaled = np.concatenate([middles, np.ones((1, 1), np.float32)], axis=1)
    assert encoded(scaled, numbers)[0][0, :-1].tolist() == list(range(1, 256))
    for signed in (True, False):
        x = table(signed)[None]
        assert encoded(x, table(signed))[0][0].tolist() == list(range(256))
        assert (
            decoded(np.arange(256, dtype=np.uint8)[None], np.ones(1, np.float32), table(signed)).tolist() == x.tolist()
        )


def test_a_scale_has_a_floor_and_nan_has_code_0() -> None:
    x = np.zeros((3, 4), np.float32)
    x[1], x[2, 1] = 1e-20, np.nan
    codes, scale = encoded(x, table(True))
    assert scale[:2].tolist() == [np.float32(1e-12)] * 2
    assert np.isnan(scale[2])
    assert codes[2].tolist() == [0] * 4
    assert table(True)[codes[0]].tolist() == [0.0] * 4


def params(dtype: str) -> list[Any]:
    rng = np.random.default_rng(3)
    return [numbers(rng, shape, dtype) for shape in SIZES]


def trained(name: str, dtype: str, master: bool = False, **more: Any) -> Any:
    """Take three steps, with gradients of all sizes, some no numbers, some in another order."""
    found = [Parameter(x, master=master) for x in params(dtype)]
    optimizer = getattr(refoptim, name)(found, **{**OPTIONS, **more})
    rng = np.random.default_rng(4)
    for k in range(3):
        grads: list[Any] = [numbers(rng, shape, dtype) for shape in SIZES]
        if k == 1:
            grads[1:3] = [strange(rng, g, dtype) for g in grads[1:3]]
        grads[4], grads[2 * k] = np.asfortranarray(grads[4]), None
        optimizer.step(grads=grads)
    return optimizer


def test_what_is_kept_in_8_bits() -> None:
    optimizer = trained("Adam8bit", "float16")
    for p in members(optimizer):
        state = optimizer.state[p]
        kept = {name: (x.dtype.name, x.shape) for name, x in state.items() if name.startswith("exp_avg")}
        own = dict.fromkeys(("exp_avg", "exp_avg_sq"), ("uint8" if p.shape in CODED else "float16", p.shape))
        blocks = {f"{name}_scale": ("float32", (p.data.size // 256,)) for name in own}
        tables = {f"{name}_qmap": ("float32", (256,)) for name in own}
        assert kept == (own | blocks | tables if p.shape in CODED else own)


@NEEDS_KERNELS
@pytest.mark.parametrize(
    ("dtype", "master"),
    [("float64", False), ("float32", False), *itertools.product(["float16", "bfloat16"], [False, True])],
)
@pytest.mark.parametrize("name", RULES)
def test_kernels_have_the_bits_of_the_reference(name: str, dtype: str, master: bool) -> None:
    dtype_of(dtype)
    assert_same_runs(trained(name, dtype, master, fused=True), trained(name, dtype, master))


@NEEDS_KERNELS
@pytest.mark.parametrize(
    "more", [{"block_size": 1}, {"block_size": 3}, {"block_size": 4096}, {"double_scalars": True, "maximize": True}]
)
def test_options_of_kernels(more: dict[str, Any]) -> None:
    assert_same_runs(trained("Adam8bit", "float32", fused=True, **more), trained("Adam8bit", "float32", **more))


def test_blocks_are_counted_in_c_order() -> None:
    x, g = params("float32")[2], np.random.default_rng(1).standard_normal((17, 256)).astype(np.float32)
    one, other = (Adam8bit([y], **OPTIONS) for y in (x.copy(), np.asfortranarray(x)))
    for optimizer in (one, other):
        for _ in range(2):
            optimizer.step(grads=[g])
    assert_same_runs(one, other)


@NEEDS_KERNELS
def test_kernels_count_blocks_in_c_order() -> None:
    x, g = params("float32")[2], np.random.default_rng(1).standard_normal((17, 256)).astype(np.float32)
    one, other = Adam8bit([x.copy()], **OPTIONS), Adam8bit([np.asfortranarray(x)], **OPTIONS, fused=True)
    for _ in range(2):
        one.step(grads=[g])
        other.step(grads=[np.asfortranarray(g)])
    assert_same_runs(one, other)


def test_the_pure_step_is_the_optimizers() -> None:
    x, rng = params("float32")[1], np.random.default_rng(2)
    optimizer, pure, state = AdamW8bit([x.copy()], **OPTIONS), [x], None
    for t in range(1, 4):
        g = rng.standard_normal(x.shape).astype(np.float32)
        optimizer.step(grads=[g])
        pure, state = functional.adamw8bit(pure, [g], state, t, **OPTIONS)
    kept = optimizer.state[members(optimizer)[0]]
    assert state is not None
    for name, y in state[0].items():
        np.testing.assert_array_equal(y, kept[name])
    np.testing.assert_array_equal(pure[0], members(optimizer)[0].data)


@pytest.mark.parametrize("file", ["saved.npz", "saved.safetensors", "saved.json", "saved.pt", "folder"])
def test_checkpoints_hold_codes(file: str, tmp_path: Path) -> None:
    one, path = trained("AdamW8bit", "float32"), tmp_path / file
    checkpoint.save(path, optimizer=one, shards=None if path.suffix else 2)
    other = AdamW8bit([p.data.copy() for p in members(one)], **OPTIONS)
    checkpoint.restore(path, optimizer=other)
    assert_same_runs(one, other)


def test_the_saved_table_is_used() -> None:
    x, g = np.ones(4096, np.float32), np.resize(np.float32([1, 0.25]), 4096)
    one, other = (Adam8bit([x.copy()], betas=(0.0, 0.9)) for _ in range(2))
    one.step(grads=[g])
    saved = one.state_dict()
    saved["state"][0]["exp_avg_qmap"] = np.arange(256, dtype=np.float32) / 256
    other.load_state_dict(saved)
    other.step(grads=[g])
    state = other.state[members(other)[0]]
    np.testing.assert_array_equal(state["exp_avg_qmap"], saved["state"][0]["exp_avg_qmap"])
    assert state["exp_avg"][:4].tolist() == [255, 64, 255, 64]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("exp_avg", np.zeros(4096, np.float32), "dtype uint8, got float32"),
        ("exp_avg_scale", np.zeros(8, np.float32), r"shape \(16,\), got \(8,\)"),
        ("exp_avg_qmap", np.zeros(256), "dtype float32, got float64"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(name: str, value: Any, message: str) -> None:
    one = trained("Adam8bit", "float32")
    saved = one.state_dict()
    saved["state"][1][name] = value
    with pytest.raises(ValueError, match=message):
        one.load_state_dict(saved)


def test_another_block_size_is_refused_and_changes_nothing() -> None:
    optimizer, other = trained("Adam8bit", "float32"), trained("Adam8bit", "float32")
    optimizer.param_groups[0]["block_size"] = 128
    with pytest.raises(ValueError, match="exp_avg_scale must have shape"):
        optimizer.step(grads=[np.ones(shape, np.float32) for shape in SIZES])
    assert_same_runs(optimizer, other)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_sharded_steps_are_those_of_one(size: int) -> None:
    shapes = [(4096,), (8, 640), (5,)]
    rng = np.random.default_rng(6)
    data = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    grads = [[rng.standard_normal(shape).astype(np.float32) for shape in shapes] for _ in range(3)]
    one = AdamW8bit([x.copy() for x in data], **OPTIONS)
    for g in grads:
        one.step(grads=g)

    def run(comm: Any) -> Any:
        sharded = Sharded(AdamW8bit, [x.copy() for x in data], comm=comm, average=False, **OPTIONS)
        for g in grads:
            sharded.step(grads=[x * (comm.rank == 0) for x in g])
        return [p.data for p in members(sharded)], sharded.gather_state_dict(0), sharded.state_dict()

    found = run_ranks(size, run)
    (arrays, whole, _), shares = found[0], [share for *_, share in found]
    for saved in (whole, *([shares] if size > 1 else [])):
        other = AdamW8bit([x.copy() for x in arrays], **OPTIONS)
        if saved is whole:
            other.load_state_dict(saved)
        else:
            again = Sharded(AdamW8bit, members(other), **OPTIONS)
            again.load_state_dict(saved)
            other.load_state_dict(again.state_dict())
        assert_equal_runs(other, one)


def test_complex_parameters_and_numbers_that_are_no_sizes_are_refused() -> None:
    with pytest.raises(RuntimeError, match="does not support complex parameters"):
        Adam8bit([np.zeros(3, complex)])
    with pytest.raises(TypeError, match="block_size must be an integer"):
        Adam8bit([np.zeros(3)], block_size=2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Invalid block size: 0"):
        Adam8bit([np.zeros(3)], block_size=0)


def tables() -> dict[str, Any]:
    """Return tables as they are made, and others in which codes lie closer, stand twice, or are in no order."""
    rng = np.random.default_rng(8)
    close = np.sort(np.concatenate([table(True)[::2], np.linspace(0.5, 0.5001, 128, dtype=np.float32)]))
    twice = np.repeat(table(False)[::2], 2)
    odd = table(True).copy()
    odd[17] = np.nan
    drawn = np.sort(rng.standard_normal(256)).astype(np.float32)
    made = {"signed": table(True), "unsigned": table(False)}
    return {**made, "close": close, "twice": twice, "drawn": drawn, "mixed": rng.permutation(table(True)), "odd": odd}


def around(numbers: Any) -> Any:
    """Return numbers of [-1, 1] on both sides of all places where another code begins, and many others."""
    with np.errstate(invalid="ignore"):
        ends = np.concatenate([numbers, numbers[:-1] + (numbers[1:] - numbers[:-1]) / np.float32(2)])
    below, above = (np.nextafter(ends, np.float32(to)) for to in (-9, 9))
    bits = np.random.default_rng(9).integers(0, 2**32, 12_000, dtype=np.uint32).view(np.float32)
    small = np.array([0.0, -0.0, 1e-45, -1e-45, 1e-38, 2**-23, -(2**-24), 1, -1], np.float32)
    x = np.concatenate([below, ends, above, bits, small])
    return x[np.abs(x) <= 1]


@NEEDS_KERNELS
@pytest.mark.parametrize("kind", tables())
def test_kernels_find_the_code_of_every_number(kind: str) -> None:
    """The average is the gradient, and the largest of a block 1, so that what is coded is what is given."""
    numbers = tables()[kind]
    x = around(numbers)
    g = np.ones((len(x) // 255 + 17, 256), np.float32)
    g[:, 1:] = np.resize(x, g[:, 1:].shape)
    g[3, 7] = np.nan
    w = np.zeros(g.size, np.float32)
    runs = [Adam8bit([w.copy()], betas=(0.0, 0.0), fused=fused) for fused in (None, True)]
    for run in runs:
        run.step(grads=[np.zeros_like(w)])
        run.state[run.param_groups[0]["params"][0]]["exp_avg_qmap"][...] = numbers
        run.step(grads=[g.reshape(-1)])
    state = [run.state[run.param_groups[0]["params"][0]]["exp_avg"] for run in runs]
    assert np.array_equal(*state)
    coded = np.delete(state[0].reshape(-1, 256), 3, axis=0)
    assert len(np.unique(coded)) > 5
