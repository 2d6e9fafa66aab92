"""Checkpoints of optimizers that are shared out: written by any number of ranks, read by any other, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers import ranks
from helpers.ranks import outcomes, plain_run
from refoptim.checkpoint import CheckpointError, latest, load, restore, save
from refoptim.checkpoint.directory import open_directory
from refoptim.distributed import LOCAL, RankError, Sharded

NAMES = ("AdamW", "Adafactor", "Muon", "NAdam")
SIZES = (1, 2, 3, 4)


def begun(comm: Any, name: str) -> tuple[list[Any], Sharded]:
    """Return parameters and an optimizer that have taken one step."""
    params = ranks.made(name, "float32")
    return params, ranks.taken(ranks.sharded(comm, name, params), name, "float32", [0])


def empty(comm: Any, name: str) -> tuple[list[Any], Sharded]:
    params = [np.zeros_like(p.data) for p in ranks.made(name, "float32")]
    return params, ranks.sharded(comm, name, params, lr=0.5)


@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_ranks_goes_on_where_any_other_was(tmp_path: Path, name: str) -> None:
    def write(comm: Any) -> Path:
        params, opt = begun(comm, name)
        path = tmp_path / (f"by-{comm.size}" if comm.size > 1 else "by-1.safetensors")
        return save(path, model=params, optimizer=opt, epoch=3)

    def go_on(path: Path) -> Any:
        def read(comm: Any) -> str:
            params, opt = empty(comm, name)
            assert restore(path, model=params, optimizer=opt) == {"epoch": 3}
            assert opt.param_groups[0]["lr"] == ranks.SETTINGS[name]["lr"]
            return ranks.result(ranks.taken(opt, name, "float32", [1]))

        return read

    for size in SIZES:
        path = outcomes(size, write)[0]
        assert [outcomes(n, go_on(path))[0] for n in SIZES] == [plain_run(name, "float32")] * len(SIZES)


def test_the_digest_does_not_know_how_many_ranks_have_written(tmp_path: Path) -> None:
    def write(comm: Any) -> Path:
        params, opt = begun(comm, "AdamW")
        return save(tmp_path / f"by-{comm.size}", shards=comm.size, model=params, optimizer=opt)

    found = {json.loads((outcomes(n, write)[0] / "checkpoint.json").read_text())["digest"] for n in SIZES}
    assert len(found) == 1


def test_an_ordinary_optimizer_goes_on(tmp_path: Path) -> None:
    """And the state dict of one goes on in a shared one, as do the shares of all ranks."""

    def write(comm: Any) -> Any:
        params, opt = begun(comm, "AdamW")
        save(tmp_path / "by-3", model=params, optimizer=opt)
        return opt.state_dict(), opt.gather_state_dict(rank=1)

    shares, wholes = zip(*outcomes(3, write), strict=True)
    assert [x is None for x in wholes] == [True, False, True]
    saved = load(tmp_path / "by-3")
    for state in (saved["optimizer"], wholes[1]):
        params = [np.array(x) for x in saved["model"]]
        plain = refoptim.AdamW(params, lr=0.5)
        plain.load_state_dict(state)
        pieces = [ranks.gradient("AdamW", "float32", 1, i) for i in range(ranks.PIECES)]
        for p, column in zip(plain.param_groups[0]["params"], zip(*pieces, strict=True), strict=True):
            p.grad = ranks.mean(column)
        refoptim.clip_grad.clip_grad_norm_(plain.param_groups[0]["params"], 3.0)
        plain.step()
        assert ranks.digest(params, plain.state_dict()["state"]) == plain_run("AdamW", "float32")

    def from_shares(comm: Any) -> str:
        params = [np.array(x) for x in saved["model"]]
        opt = ranks.sharded(comm, "AdamW", params, lr=0.5)
        opt.load_state_dict(list(shares))
        return ranks.result(ranks.taken(opt, "AdamW", "float32", [1]))

    assert [outcomes(n, from_shares)[0] for n in SIZES] == [plain_run("AdamW", "float32")] * len(SIZES)


def test_a_rank_reads_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(comm: Any) -> None:
        w = np.zeros(100_000, np.float32)
        opt = Sharded(refoptim.Adam, [w], comm, lr=0.1)
        opt.step(grads=[np.ones_like(w)])
        save(tmp_path / "one", optimizer=opt)

    outcomes(3, write)
    opened: list[Any] = []

    def noting(path: Any) -> Any:
        opened.append(open_directory(path))
        return opened[-1]

    monkeypatch.setattr("refoptim.checkpoint.directory.open_directory", noting)

    def read(comm: Any) -> None:
        opt = Sharded(refoptim.Adam, [np.zeros(100_000, np.float32)], comm, lr=0.1)
        restore(tmp_path / "one", optimizer=opt)

    outcomes(4, read)
    assert len(opened) == 4
    assert sum(x.bytes_read for x in opened) == 2 * 100_000 * 4


def errors(size: int, function: Any) -> list[str]:
    def told(comm: Any) -> str:
        try:
            function(comm)
        except (RankError, CheckpointError, ValueError, OSError) as error:
            return f"{type(error).__name__}: {error}"
        return "nothing"

    return [str(x) for x in outcomes(size, told)]


def test_a_shard_that_cannot_be_written_is_nobodys_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from refoptim.checkpoint import directory

    whole = directory.write_shard

    def full(folder: Any, rank: int, *rest: Any) -> Any:
        if rank == 1:
            raise OSError(28, "No space left on device")
        return whole(folder, rank, *rest)

    monkeypatch.setattr(directory, "write_shard", full)

    def write(comm: Any) -> None:
        params, opt = begun(comm, "AdamW")
        save(tmp_path / "one", model=params, optimizer=opt)

    found = errors(3, write)
    assert found[1] == "OSError: [Errno 28] No space left on device"
    assert found[0] == found[2] == "RankError: rank 1: OSError: [Errno 28] No space left on device"
    assert list(tmp_path.iterdir()) == []


def test_an_altered_shard_is_noticed_by_all(tmp_path: Path) -> None:
    def write(comm: Any) -> None:
        params, opt = begun(comm, "AdamW")
        save(tmp_path / "one", model=params, optimizer=opt)

    outcomes(3, write)
    shard = tmp_path / "one" / "shard-00002-of-00003.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)

    def read(comm: Any) -> None:
        params, opt = empty(comm, "AdamW")
        before = ranks.digest(params, opt.state_dict()["state"])
        try:
            restore(tmp_path / "one", model=params, optimizer=opt)
        finally:
            assert ranks.digest(params, opt.state_dict()["state"]) == before

    found = errors(3, read)
    assert found[1].startswith("CheckpointError: one/shard-00002-of-00003.safetensors was altered")
    assert found[0] == found[2] == f"RankError: rank 1: {found[1]}"


def test_parts_are_restored_on_all_ranks_or_on_none(tmp_path: Path) -> None:
    """On rank 1 the model has another shape."""

    def write(comm: Any) -> None:
        params, opt = begun(comm, "AdamW")
        save(tmp_path / "one", model=params, optimizer=opt)

    outcomes(2, write)

    def read(comm: Any) -> None:
        params, opt = empty(comm, "AdamW")
        model = [*params[:3], np.zeros(7, np.float32), *params[4:]] if comm.rank == 1 else params
        try:
            restore(tmp_path / "one", model=model, optimizer=opt)
        finally:
            assert not any(np.any(x) for x in params)
            assert not opt.state
            assert opt.param_groups[0]["lr"] == 0.5

    found = errors(2, read)
    assert "the part 'model' cannot be restored" in found[1]
    assert found[0] == f"RankError: rank 1: {found[1]}"


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    def write(comm: Any) -> None:
        params, opt = begun(comm, "AdamW")
        save(tmp_path / "one", model=params, optimizer=opt)

    outcomes(2, write)

    def another(comm: Any) -> None:
        opt = Sharded(refoptim.SGD, ranks.made("AdamW", "float32"), comm, lr=0.1)
        restore(tmp_path / "one", optimizer=opt)

    def as_a_file(comm: Any) -> None:
        save(tmp_path / "one.npz", optimizer=begun(comm, "AdamW")[1])

    def in_five(comm: Any) -> None:
        save(tmp_path / "five", shards=5, optimizer=begun(comm, "AdamW")[1])

    def elsewhere(comm: Any) -> None:
        save(tmp_path / f"two-{comm.rank}", optimizer=begun(comm, "AdamW")[1])

    assert all("the part 'optimizer' cannot be restored" in x for x in errors(2, another))
    assert all("leave out .npz for a folder" in x for x in errors(2, as_a_file))
    assert all("2 ranks write as many shards, got shards=5" in x for x in errors(2, in_five))
    assert all("rank 1 differs from rank 0 in path" in x for x in errors(2, elsewhere))
    assert [x.name for x in tmp_path.iterdir()] == ["one"]
    assert latest(tmp_path) == tmp_path / "one"


def test_a_state_of_other_shapes_is_refused_by_all() -> None:
    def read(comm: Any) -> None:
        opt = Sharded(refoptim.Adam, [np.zeros(3000)], comm, lr=0.1)
        opt.step(grads=[np.ones(3000)])
        before = ranks.result(opt)
        other = Sharded(refoptim.Adam, [np.zeros(2999)], LOCAL, lr=0.1)
        other.step(grads=[np.ones(2999)])
        try:
            opt.load_state_dict(other.state_dict())
        finally:
            assert ranks.result(opt) == before

    assert all("must have shape (3000,), got (2999,)" in x for x in errors(3, read))


def test_a_share_that_is_missing_is_noticed() -> None:
    def read(comm: Any) -> Any:
        opt = Sharded(refoptim.Adam, [np.zeros(3000)], comm, lr=0.1)
        opt.step(grads=[np.ones(3000)])
        return opt.state_dict()

    shares = outcomes(2, read)

    def take(comm: Any) -> None:
        Sharded(refoptim.Adam, [np.zeros(3000)], comm, lr=0.1).load_state_dict(shares[comm.rank])

    def take_other(comm: Any) -> None:
        Sharded(refoptim.Adam, [np.zeros(3000)], comm, lr=0.1).load_state_dict(shares[0])

    assert errors(2, take) == ["nothing", "nothing"]
    found = errors(2, take_other)
    assert found[0].startswith("RankError: rank 1: ValueError: the shares")
    assert "the shares do not hold elements" in found[1]
