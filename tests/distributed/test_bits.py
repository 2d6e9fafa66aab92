"""One digest of parameters and state on any number of ranks, equal to that of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refoptim.kernels import order as kernels

import refoptim
from helpers import ranks
from helpers.ranks import DTYPES, outcomes, plain_minimum, plain_run, shared_minimum, shared_run
from helpers.rooms import NAMES
from refoptim.amp import GradScaler
from refoptim.clip_grad import clip_grad_norm_
from refoptim.distributed import LOCAL, Sharded
from refoptim.engines import host

SIZES = (1, 2, 3, 4)


@pytest.mark.sweep(3)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_has_the_bits_of_one_process(name: str, dtype: str) -> None:
    ranks.needs_bfloat16(dtype)
    found = [outcomes(n, lambda comm: shared_run(comm, name, dtype))[0] for n in SIZES]
    assert found == [plain_run(name, dtype)] * len(SIZES)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["AdamW", "SGD", "Adafactor", "NAdam", "Muon"])
def test_master_copies(name: str, dtype: str) -> None:
    ranks.needs_bfloat16(dtype)
    found = [outcomes(n, lambda comm: shared_run(comm, name, dtype, master=True))[0] for n in SIZES]
    assert found == [plain_run(name, dtype, master=True)] * len(SIZES)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("name", ["AdamW", "SGD", "RMSprop"])
def test_complex_parameters(name: str, dtype: str) -> None:
    found = [outcomes(n, lambda comm: shared_run(comm, name, dtype))[0] for n in SIZES]
    assert found == [plain_run(name, dtype)] * len(SIZES)


@pytest.mark.parametrize("name", ["AdamW", "Adafactor", "Muon"])
def test_pieces_that_are_exchanged_one_by_one(name: str) -> None:
    found = [outcomes(n, lambda comm: shared_run(comm, name, "float32", accumulate=False))[0] for n in SIZES]
    assert found == [plain_run(name, "float32")] * len(SIZES)


@pytest.mark.parametrize("name", ["AdamW", "SGD", "LAMB"])
def test_cautious_steps(name: str) -> None:
    found = [outcomes(n, lambda comm: shared_run(comm, name, "float32", cautious=True))[0] for n in SIZES]
    assert found == [plain_run(name, "float32", cautious=True)] * len(SIZES)
    assert found[0] != plain_run(name, "float32")


@pytest.mark.parametrize("how", ["each", "store"])
def test_a_step_rounds_as_its_rank_says(how: str) -> None:
    def run(comm: Any) -> list[float]:
        p = np.ones(5, np.float16)
        opt = Sharded(refoptim.Adam, [p], comm, lr=0.3, eps=0.1)
        with refoptim.rounding(how):
            opt.step(grads=[np.full(5, 0.7, np.float16)])
        return p.tolist()  # type: ignore[no-any-return]

    plain = np.ones(5, np.float16)
    with refoptim.rounding(how):
        refoptim.Adam([plain], lr=0.3, eps=0.1).step(grads=[np.full(5, 0.7, np.float16)])
    assert [outcomes(n, run) for n in SIZES] == [[plain.tolist()] * n for n in SIZES]


def test_groups_of_divided_parameters_cannot_become_cautious() -> None:
    def run(comm: Any) -> None:
        opt = ranks.sharded(comm, "AdamW", ranks.made("AdamW", "float32"))
        with pytest.raises(RuntimeError, match="let a group be cautious when the optimizer is made"):
            opt.add_param_group({"params": [np.ones(3, np.float32)], "cautious": True})
        opt.param_groups[0]["cautious"] = True
        with pytest.raises(RuntimeError, match="let a group be cautious when the optimizer is made"):
            ranks.taken(opt, "AdamW", "float32", range(1))

    outcomes(2, run)


def test_ranks_with_other_numbers_of_pieces() -> None:
    counts = (5, 1, 4, 2)

    def run(comm: Any) -> str:
        opt = ranks.sharded(comm, "AdamW", ranks.made("AdamW", "float32"), pieces=counts[comm.rank])
        for step in range(2):
            for i in range(counts[comm.rank]):
                opt.add(ranks.gradient("AdamW", "float32", step, sum(counts[: comm.rank]) + i))
            opt.clip_grad_norm_(3.0)
            opt.step()
        return ranks.result(opt)

    assert outcomes(4, run)[0] == plain_run("AdamW", "float32")


@pytest.mark.skipif(bool(host.missing()), reason=f"there are no kernels for this computer, {host.missing()}")
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("name", ["AdamW", "Adafactor", "Muon"])
def test_kernels(name: str, dtype: str) -> None:
    """In 16 bits kernels round once, the reference after each word: there they are compared with themselves."""
    found = [outcomes(n, lambda comm: shared_run(comm, name, dtype, fused=True))[0] for n in SIZES]
    assert len(set(found)) == 1
    assert dtype == "float16" or found[0] == plain_run(name, dtype)


@pytest.mark.skipif(bool(host.missing()), reason=f"there are no kernels for this computer, {host.missing()}")
@pytest.mark.parametrize(("fused", "used"), [(None, True), (True, True), (False, False)])
def test_kernels_sum_unless_they_are_left_out(fused: Any, used: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[int] = []
    launch = kernels.Plan.launch
    monkeypatch.setattr(kernels.Plan, "launch", lambda *args: (launched.append(1), launch(*args)))
    found = outcomes(3, lambda comm: shared_run(comm, "AdamW", "float32", fused=fused))[0]
    assert (found, bool(launched)) == (plain_run("AdamW", "float32"), used)


def test_numpy_sums_where_kernels_are_not_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "LIBRARY", tmp_path / "none.so")
    found = outcomes(3, lambda comm: shared_run(comm, "AdamW", "float32"))[0]
    assert host.missing() and found == plain_run("AdamW", "float32")


VECTORS = [
    ("LBFGS", {"line_search_fn": "strong_wolfe"}),
    ("LBFGS", {"lr": 0.1}),
    ("ConjugateGradient", {}),
    ("ConjugateGradient", {"beta": "HS", "restart_every": 2}),
]


@pytest.mark.sweep(3)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize(("name", "settings"), VECTORS, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_optimizers_that_see_one_vector(size: int, name: str, settings: dict[str, Any], dtype: str) -> None:
    found = outcomes(size, lambda comm: shared_minimum(comm, name, dtype, **settings))
    assert found[0] == plain_minimum(size, name, dtype, **settings)


@pytest.mark.parametrize("order", [1, 2, "inf"])
def test_norms(order: Any) -> None:
    """The norm that is returned, of parameters of two dtypes, is that of ``clip_grad`` in one process."""
    shapes = [(1000,), (1025,), (70, 41), (3,)]

    def params() -> list[Any]:
        rng = np.random.default_rng(1)
        kinds = ("float32", "float64", "float16", "float32")
        return [refoptim.Parameter(ranks.drawn(rng, s, d)) for s, d in zip(shapes, kinds, strict=True)]

    def piece(i: int) -> list[Any]:
        return [ranks.drawn(np.random.default_rng(50 + i), p.shape, p.dtype.name) for p in params()]

    def run(comm: Any) -> Any:
        opt = Sharded(refoptim.SGD, params(), comm, pieces=12 // comm.size)
        for i in range(12 // comm.size):
            opt.add(piece(comm.rank * (12 // comm.size) + i))
        return opt.clip_grad_norm_(1.0, order)

    own = params()
    for p, column in zip(own, zip(*map(piece, range(12)), strict=True), strict=True):
        p.grad = ranks.mean(column).astype(p.dtype)
    expected = clip_grad_norm_(own, 1.0, order)
    for size in SIZES:
        for norm in outcomes(size, run):
            assert (norm.dtype, norm.tobytes()) == (expected.dtype, expected.tobytes())


def scaled(opt: Any, scaler: Any, give: Any, unscale: bool, clip: Any) -> None:
    """Take four steps; in the second a piece has overflowed."""
    scaler.scale(np.float32(1))
    for step in range(4):
        give(step)
        if unscale:
            scaler.unscale_(opt)
            clip()
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()


@pytest.mark.parametrize(("dtype", "master"), [("float32", False), ("float16", True), ("float16", False)])
def test_scaled_losses(dtype: str, master: bool) -> None:
    def piece(step: int, i: int) -> list[Any]:
        found = ranks.gradient("Adam", dtype, step, i)
        if (step, i) == (1, 11):
            found[4][0, 0] = np.inf
        return found

    def run(comm: Any) -> str:
        own = 12 // comm.size
        opt = ranks.sharded(comm, "Adam", ranks.made("Adam", dtype, master))
        scaler = GradScaler(init_scale=8.0, growth_interval=2)

        def give(step: int) -> None:
            for i in range(own):
                opt.add(piece(step, comm.rank * own + i))

        scaled(opt, scaler, give, dtype == "float32", lambda: opt.clip_grad_norm_(1.0))
        return f"{ranks.result(opt)} {scaler.get_scale()}"

    params = ranks.made("Adam", dtype, master)
    plain = refoptim.Adam(params, **ranks.SETTINGS["Adam"])
    scaler = GradScaler(init_scale=8.0, growth_interval=2)

    def give(step: int) -> None:
        for p, column in zip(params, zip(*(piece(step, i) for i in range(12)), strict=True), strict=True):
            g = ranks.mean(column)
            p.grad = g if master else g.astype(p.dtype)

    scaled(plain, scaler, give, dtype == "float32", lambda: clip_grad_norm_(params, 1.0))
    expected = f"{ranks.digest(params, plain.state_dict()['state'])} {scaler.get_scale()}"
    assert [outcomes(n, run)[0] for n in SIZES] == [expected] * len(SIZES)


def test_one_rank_alone_is_an_ordinary_optimizer() -> None:
    """A gradient of -0 stays one, and the state dict is the whole."""
    params, own = [np.zeros(3, np.float32)], np.zeros(3, np.float32)
    opt, plain = Sharded(refoptim.SGD, params, momentum=0.9), refoptim.SGD([own], momentum=0.9)
    assert opt.comm is LOCAL
    for each in (opt, plain):
        each.step(grads=[np.full(3, -0.0, np.float32)])
    assert params[0].tobytes() == own.tobytes()
    mine, theirs = opt.state_dict(), plain.state_dict()
    assert mine["state"][0]["momentum_buffer"].tobytes() == theirs["state"][0]["momentum_buffer"].tobytes()
    assert np.signbit(mine["state"][0]["momentum_buffer"]).all()
    assert mine["param_groups"] == theirs["param_groups"]
