"""Training that is shared out among ranks, and the same in one process: what comes of it, as one digest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha256
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.rooms import NAMES, SETTINGS
from refoptim import Parameter, SparseGrad
from refoptim.clip_grad import clip_grad_norm_
from refoptim.distributed import Sharded, run_ranks
from refoptim.numerics.array_types import np_dtype

SHAPES = [(1,), (1000,), (1024,), (1025,), (70, 41), (3,), (0,), (), (2, 3, 7)]
MATRICES = [(70, 41), (40, 70), (8, 3), (1, 5)]
PIECES = 12
"""Pieces of a step: as many on each of 1, 2, 3 or 4 ranks."""

DTYPES = ("float32", "float64", "float16", "bfloat16")


def kinds(size: int, every: int) -> list[tuple[str, str]]:
    """Return optimizers with dtypes in which so many ranks train them: every so-manieth pair, on more ranks others."""
    pairs = ((i + j, name, dtype) for i, name in enumerate(NAMES) for j, dtype in enumerate(DTYPES))
    return [(name, dtype) for i, name, dtype in pairs if not (i + size) % every]


def outcomes(size: int, function: Callable[..., Any], patience: float = 5) -> list[Any]:
    """Run a function on threads that are ranks; raise what one of them raised."""
    found = run_ranks(size, function, patience)
    errors = [x for x in found if isinstance(x, BaseException)]
    for x in sorted(errors, key=lambda x: "has said nothing" in str(x)):
        raise x
    return found


def arrays(name: str, dtype: str, seed: int) -> list[Any]:
    """Draw arrays that an optimizer of a name takes."""
    rng = np.random.default_rng(seed)
    return [drawn(rng, s, dtype) for s in (MATRICES if name == "Muon" else SHAPES)]


def drawn(rng: Any, shape: tuple[int, ...], dtype: str) -> Any:
    x = np.asarray(rng.standard_normal(shape))
    if dtype.startswith("complex"):
        x = x + 1j * np.asarray(rng.standard_normal(shape))
    return np.asarray(x).astype(np_dtype(dtype))


def gradient(name: str, dtype: str, step: int, piece: int) -> list[Any]:
    """Draw a piece of the gradient of a step."""
    if name != "SparseAdam":
        return arrays(name, dtype, 1000 + 100 * step + piece)
    return [entries(x, 7 * step + piece) for x in arrays(name, dtype, 1000 + 100 * step + piece)]


def entries(x: Any, seed: int) -> Any:
    """Return some rows of an array as a sparse gradient, some of them twice; without axes there are no rows."""
    rng = np.random.default_rng(seed)
    if not x.ndim or not x.size:
        return None
    rows = rng.integers(0, len(x), 5)
    return SparseGrad(rows[None], x[rows], x.shape)


def mean(pieces: Sequence[Any]) -> Any:
    """Return the mean of pieces summed in adjacent pairs, 16-bit ones in float32, as whole arrays."""
    if isinstance(pieces[0], SparseGrad):
        return sparse_mean(pieces)
    if pieces[0] is None:
        return None
    level = [reals(x).astype(np.float32) if x.dtype.itemsize == 2 else reals(x) for x in pieces]
    while len(level) > 1:
        level = [sum(level[i + 1 : i + 2], level[i]) for i in range(0, len(level), 2)]
    return (level[0] / level[0].dtype.type(len(pieces))).view(wide(pieces[0].dtype)).reshape(pieces[0].shape)


def reals(x: Any) -> Any:
    return np.ascontiguousarray(x).reshape(-1).view(x.real.dtype if x.dtype.kind == "c" else x.dtype)


def wide(dtype: Any) -> Any:
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def sparse_mean(pieces: Sequence[Any]) -> Any:
    """Return the mean of sparse pieces: values of one row are added one after another."""
    total: dict[int, Any] = {}
    for piece in pieces:
        for row, values in zip(piece.indices[0].tolist(), piece.values.astype(wide(piece.dtype)), strict=True):
            total[row] = total[row] + values if row in total else values
    rows = sorted(total)
    values = np.stack([total[row] for row in rows]) / wide(pieces[0].dtype).type(len(pieces))
    return SparseGrad(np.array([rows]), values.astype(pieces[0].dtype), pieces[0].shape)


def digest(params: Sequence[Any], state: Any) -> str:
    """Return the digest of all bits of parameters and of a state in torch's layout."""
    found = sha256()
    for p in params:
        found.update(np.asarray(p.data).tobytes())
    for key, entry in sorted(state.items()):
        for name, x in sorted(entry.items()):
            for y in x if isinstance(x, list) else [x]:
                array = np.asarray("none" if y is None else y)
                found.update(f"{key} {name} {type(y).__name__} {array.dtype} {array.shape}".encode())
                found.update(array.tobytes())
    return found.hexdigest()


def made(name: str, dtype: str, master: bool = False) -> list[Parameter]:
    """Return Parameters, the same ones each time."""
    own = [x for x in arrays(name, dtype, 1) if name != "SparseAdam" or (x.size and x.ndim)]
    return [Parameter(x, master=master) for x in own]


def piece_for(name: str, dtype: str, step: int, piece: int) -> list[Any]:
    found = gradient(name, dtype, step, piece)
    return [g for g in found if g is not None] if name == "SparseAdam" else found


def sharded(comm: Any, name: str, params: Any, **more: Any) -> Sharded:
    """Return a shared optimizer with settings none of which is neutral; messages are small, so that there are many."""
    options = {"pieces": PIECES // comm.size, "bucket": 8192, **SETTINGS[name], **more}
    return Sharded(getattr(refoptim, name), params, comm, **options)


def taken(opt: Sharded, name: str, dtype: str, steps: Sequence[int], clip: bool = True) -> Sharded:
    """Take steps, clipping gradients where they have norms."""
    own = PIECES // opt.comm.size
    for step in steps:
        for i in range(own):
            opt.add(piece_for(name, dtype, step, opt.comm.rank * own + i))
        if clip and name != "SparseAdam":
            opt.clip_grad_norm_(3.0)
        opt.step()
    return opt


def result(opt: Sharded) -> str:
    """Return the digest of what all ranks hold, which must have the same parameters; the empty text but on rank 0."""
    params = [p for group in opt.param_groups for p in group["params"]]
    everyone = opt.comm.gather(digest(params, {}))
    assert len(set(everyone)) == 1, "the ranks have other parameters"
    whole = opt.gather_state_dict()
    return digest(params, whole["state"]) if whole else ""


def shared_run(comm: Any, name: str, dtype: str, master: bool = False, steps: int = 2, **more: Any) -> str:
    """Train on a rank."""
    opt = sharded(comm, name, made(name, dtype, master), **more)
    return result(taken(opt, name, dtype, range(steps)))


@cache
def plain_run(name: str, dtype: str, master: bool = False, steps: int = 2, **more: Any) -> str:
    """Train in one process, by an ordinary optimizer and the mean of all pieces."""
    params = made(name, dtype, master)
    opt = getattr(refoptim, name)(params, **{**SETTINGS[name], **more})
    for step in range(steps):
        pieces = [piece_for(name, dtype, step, i) for i in range(PIECES)]
        for p, column in zip(params, zip(*pieces, strict=True), strict=True):
            g = mean(column)
            p.grad = g if master or isinstance(g, SparseGrad) else g.astype(p.dtype)
        if name != "SparseAdam":
            clip_grad_norm_(params, 3.0)
        opt.step()
    return digest(params, opt.state_dict()["state"])


TARGETS = np.random.default_rng(8).standard_normal((4, 5000))


def bowl(params: Sequence[Any], piece: int) -> tuple[float, list[Any]]:
    """Return a loss that is a sum of squares with many weights, and its gradient; each piece has its own."""
    loss, grads, at = 0.0, [], 0
    for p in params:
        n = p.data.size
        weights = (1 + (np.arange(n) + at) % 7 + 0.01 * piece).reshape(p.shape)
        distance = p.data - TARGETS[piece, at : at + n].reshape(p.shape)
        loss += float(np.sum(weights * np.abs(distance) ** 2))
        grads.append((2 * weights * distance).astype(p.dtype))
        at += n
    return loss, grads


def vectors(dtype: str) -> list[Parameter]:
    """Return Parameters for optimizers that see them as one vector; 33 and 1 let cuts fall anywhere."""
    rng = np.random.default_rng(3)
    return [Parameter(drawn(rng, s, dtype)) for s in [(33,), (50, 40), (1,), (1025,)]]


def shared_minimum(comm: Any, name: str, dtype: str, **settings: Any) -> str:
    """Minimize the mean of the losses of all ranks."""
    params = vectors(dtype)
    opt = Sharded(getattr(refoptim, name), params, comm, max_iter=6, **settings)
    losses = [opt.step(lambda: bowl(params, comm.rank)) for _ in range(2)]
    return f"{losses} {result(opt)}" if comm.rank == 0 else result(opt)


@cache
def plain_minimum(pieces: int, name: str, dtype: str, **settings: Any) -> str:
    """Minimize the mean of as many losses in one process."""
    params = vectors(dtype)
    opt = getattr(refoptim, name)(params, max_iter=6, **settings)

    def closure() -> Any:
        losses, grads = zip(*(bowl(params, i) for i in range(pieces)), strict=True)
        return float(mean([np.array([x]) for x in losses])[0]), [mean(column) for column in zip(*grads, strict=True)]

    losses = [opt.step(closure) for _ in range(2)]
    return f"{losses} {digest(params, opt.state_dict()['state'])}"


def needs_bfloat16(dtype: str) -> None:
    """Skip where NumPy lacks the type."""
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
