"""Train a small network on handwritten digits, on any number of ranks, with the bits of one.

    mpiexec -n 4 python -m mpi4py docs/examples/train_sharded.py
    mpiexec -n 3 python -m mpi4py docs/examples/train_sharded.py       goes on where a job has ended, or was killed
    python docs/examples/train_sharded.py                              one process

A batch is divided into twelve pieces, which the ranks share out. Every rank keeps a part of the optimizer's state, and
all save a checkpoint together now and then. The last line has a digest of the weights and of the state: the same for
any number of ranks that divides twelve, and wherever the run was interrupted.
"""

from __future__ import annotations

import argparse
import os
import signal
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from refoptim.conformance.digits import TABLE, pixels

import refoptim
from refoptim.checkpoint import latest, prune, restore, save
from refoptim.distributed import LOCAL, Sharded, as_communicator

Array = Any
Weights = dict[str, Array]

PIECES = 12
"""Pieces of a batch: 1, 2, 3, 4, 6 or 12 ranks have equally many."""


def world() -> Any:
    """Return all processes of this job; this one alone without mpi4py."""
    try:
        from mpi4py import MPI
    except ImportError:
        return LOCAL
    return MPI.COMM_WORLD


def weights() -> Weights:
    """Return the first weights of two layers: 64 pixels, 128 hidden units, 10 digits; the same on all ranks."""
    rng = np.random.default_rng(0)
    return {
        "w1": rng.normal(0, 64**-0.5, (64, 128)).astype(np.float32),
        "b1": np.zeros(128, np.float32),
        "w2": rng.normal(0, 128**-0.5, (128, 10)).astype(np.float32),
        "b2": np.zeros(10, np.float32),
    }


def data() -> tuple[Array, Array]:
    """Return images as rows of 64 numbers in [0, 1], and their digits."""
    return pixels().astype(np.float32), np.array([int(line[0]) for line in TABLE.split("\n") if line])


def gradients(w: Weights, x: Array, y: Array, share: float) -> tuple[float, list[Array], int]:
    """Return the sum of the cross entropies of a piece times ``share``, its gradient, and how many are recognized."""
    hidden = np.maximum(x @ w["w1"] + w["b1"], 0)
    logits = hidden @ w["w2"] + w["b2"]
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    d_logits = (np.exp(log_p) - np.eye(10, dtype=np.float32)[y]) * np.float32(share)
    d_hidden = (d_logits @ w["w2"].T) * (hidden > 0)
    grads = [x.T @ d_hidden, d_hidden.sum(axis=0), hidden.T @ d_logits, d_logits.sum(axis=0)]
    loss = -float(log_p[np.arange(len(y)), y].sum()) * share
    return loss, grads, int((log_p.argmax(axis=1) == y).sum())


def epoch(opt: Sharded, w: Weights) -> tuple[float, float]:
    """Take one step with all images; return the loss, and the share of digits that are recognized."""
    x, y = data()
    own = PIECES // opt.comm.size
    loss, right = 0.0, 0
    for piece in range(opt.comm.rank * own, opt.comm.rank * own + own):
        part, grads, found = gradients(w, x[piece::PIECES], y[piece::PIECES], PIECES / len(y))
        opt.add(grads)
        loss, right = loss + part / PIECES, right + found
    opt.clip_grad_norm_(1.0)
    opt.step()
    everyone = opt.comm.gather((loss, right))
    return sum(x for x, _ in everyone), sum(n for _, n in everyone) / len(y)


def digest(opt: Sharded, w: Weights) -> str:
    """Return the digest of the weights and of the whole state, on rank 0."""
    whole = opt.gather_state_dict(rank=0)
    found = sha256()
    for x in w.values():
        found.update(x.tobytes())
    for entry in whole["state"].values() if whole else ():
        for x in entry.values():
            found.update(np.asarray(x).tobytes())
    return found.hexdigest()[:16]


def main() -> None:
    """Read the command line, go on from the newest checkpoint, train, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60, help="passes over the images (default: 60)")
    parser.add_argument("--folder", type=Path, default=Path("run"), help="where checkpoints are (default: run)")
    parser.add_argument("--every", type=int, default=10, help="epochs between two checkpoints (default: 10)")
    parser.add_argument("--die-at", type=int, metavar="EPOCH", help="kill the last rank in this epoch, to see it go on")
    args = parser.parse_args()
    w = weights()
    comm = as_communicator(world())
    if PIECES % comm.size:
        parser.error(f"the number of ranks must divide {PIECES}, got {comm.size}")
    opt = Sharded(refoptim.AdamW, list(w.values()), comm=comm, lr=0.01, pieces=PIECES // comm.size)
    path = latest(args.folder) if args.folder.exists() else None
    begin = restore(path, model=w, optimizer=opt)["epoch"] if path else 0
    if comm.rank == 0:
        print(opt.layout() if not path else f"{comm.size} ranks go on from {path}", flush=True)
    for k in range(begin + 1, args.epochs + 1):
        if k == args.die_at and comm.rank == comm.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        loss, right = epoch(opt, w)
        if k % args.every == 0:
            save(args.folder / f"epoch-{k}", shards=comm.size, model=w, optimizer=opt, epoch=k)
            if comm.rank == 0:
                prune(args.folder, keep=2)
                print(f"epoch {k:3}  loss {loss:.4f}  recognized {right:.0%}", flush=True)
    found = digest(opt, w)
    if comm.rank == 0:
        print(f"recognized {right:.0%}, sha256 {found}" if begin < args.epochs else f"sha256 {found}")


if __name__ == "__main__":
    main()
