"""What is wrong on one rank is raised on all, naming it, within a second, and nothing has changed anywhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers import ranks
from helpers.ranks import outcomes
from helpers.rooms import SETTINGS
from refoptim import Parameter
from refoptim.amp import GradScaler
from refoptim.distributed import RankError, Sharded, run_ranks, thread_ranks

NAMES = ("AdamW", "Adafactor")
LAST = 2
"""The rank on which something is wrong, of three."""


class BoomError(Exception):
    """What a closure raises."""


def everything(opt: Sharded) -> str:
    params = [p for group in opt.param_groups for p in group["params"]]
    return ranks.digest(params, opt.state_dict()["state"])


def wrong_shape(opt: Sharded, grads: list[Any]) -> None:
    grads[3] = grads[3][:2]
    opt.step(grads=grads)


def wrong_dtype(opt: Sharded, grads: list[Any]) -> None:
    grads[1] = grads[1].astype(np.float64)
    opt.step(grads=grads)


def missing(opt: Sharded, grads: list[Any]) -> None:
    grads[1] = None
    opt.step(grads=grads)


def other_setting(opt: Sharded, grads: list[Any]) -> None:
    opt.param_groups[0]["lr"] *= 2
    opt.step(grads=grads)


def impossible_setting(opt: Sharded, grads: list[Any]) -> None:
    opt.param_groups[0]["lr"] = -1
    opt.step(grads=grads)


def raising_closure(opt: Sharded, grads: list[Any]) -> None:
    def closure() -> Any:
        raise BoomError("here")

    opt.step(closure)


def wrong_scale(opt: Sharded, grads: list[Any]) -> None:
    opt.step(grads=grads, grad_scale=-1)


def read_only(opt: Sharded, grads: list[Any]) -> None:
    opt.param_groups[0]["params"][1].data.flags.writeable = False
    opt.inner.param_groups[0]["params"][1].data.flags.writeable = False
    opt.step(grads=grads)


def no_memory(opt: Sharded, grads: list[Any]) -> None:
    """Memory runs out where the step is planned, after the exchange."""

    def advance(*arguments: Any) -> None:
        raise MemoryError("there is none")

    opt.inner._advance = advance  # type: ignore[method-assign]
    opt.step(grads=grads)


WRONG: dict[Callable[[Sharded, list[Any]], None], tuple[type[BaseException], str]] = {
    wrong_shape: (ValueError, r"parameter 3 of group 0: the gradient must have shape"),
    wrong_dtype: (TypeError, r"parameter 1 of group 0: the gradient must have dtype"),
    missing: (RankError, r"rank 2 differs from rank 0 in gradients\[1\]: 'none', and 'float32' on rank 0"),
    other_setting: (RankError, r"rank 2 differs from rank 0 in lr of group 0"),
    impossible_setting: (ValueError, r"should be >= 0|Invalid learning rate: -1"),
    raising_closure: (BoomError, "here"),
    wrong_scale: (ValueError, r"grad_scale must be in"),
    read_only: (ValueError, r"parameter 1 of group 0: .*read-only"),
    no_memory: (MemoryError, "there is none"),
}


def put_right(opt: Sharded, name: str) -> None:
    opt.param_groups[0]["lr"] = SETTINGS[name]["lr"]
    for group in (opt.param_groups[0], opt.inner.param_groups[0]):
        group["params"][1].data.flags.writeable = True
    vars(opt.inner).pop("_advance", None)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_all_ranks_raise_and_go_on(name: str, wrong: Any) -> None:
    kind, text = WRONG[wrong]

    def run(comm: Any) -> Any:
        opt = ranks.sharded(comm, name, ranks.made(name, "float32"), pieces=1)
        opt.step(grads=ranks.gradient(name, "float32", 0, comm.rank))
        before, grads, start = everything(opt), ranks.gradient(name, "float32", 1, comm.rank), time.monotonic()
        with pytest.raises(kind if comm.rank == LAST else RankError, match=text) as caught:
            wrong(opt, grads) if comm.rank == LAST else opt.step(grads=grads)
        assert time.monotonic() - start < 1
        if comm.rank != LAST:
            assert caught.value.rank == LAST
            assert "rank 2" in str(caught.value)
        assert everything(opt) == before
        put_right(opt, name)
        opt.step(grads=ranks.gradient(name, "float32", 1, comm.rank))
        return ranks.result(opt)

    def untroubled(comm: Any) -> Any:
        opt = ranks.sharded(comm, name, ranks.made(name, "float32"), pieces=1)
        for step in range(2):
            opt.step(grads=ranks.gradient(name, "float32", step, comm.rank))
        return ranks.result(opt)

    assert outcomes(3, run)[0] == outcomes(3, untroubled)[0]


def test_a_rank_with_other_arguments_is_refused_in_the_constructor() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"lr": 0.3}, "lr of group 0: 0.3, and 0.1 on rank 0"),
        ({"average": False}, "average: False"),
        ({"rule": refoptim.Adam}, "rule: 'refoptim.optimizers.adam.Adam'"),
        ({"params": [np.zeros(4)]}, "parameters[0]: "),
    ]
    for given, text in cases:

        def run(comm: Any, given: dict[str, Any] = given) -> Any:
            usual = {"rule": refoptim.AdamW, "params": [np.zeros(3)], "lr": 0.1}
            return Sharded(**{**usual, **(given if comm.rank == 1 else {})}, comm=comm)

        for error in run_ranks(3, run, 5):
            assert isinstance(error, RankError)
            assert error.rank == 1
            assert text in str(error)


def test_a_bad_argument_of_one_rank_is_refused_in_the_constructor() -> None:
    found = run_ranks(2, lambda comm: Sharded(refoptim.SGD, [np.zeros(3)], comm, lr=-comm.rank), 5)
    assert isinstance(found[0], RankError)
    assert isinstance(found[1], ValueError)
    assert "rank 1: ValueError: Invalid learning rate" in str(found[0])


def test_a_closure_of_lbfgs_that_raises_puts_all_ranks_back() -> None:
    def run(comm: Any) -> Any:
        params = ranks.vectors("float64")
        opt = Sharded(refoptim.LBFGS, params, comm, max_iter=6, lr=0.1)
        opt.step(lambda: ranks.bowl(params, comm.rank))
        before, calls = everything(opt), []

        def closure() -> Any:
            calls.append(1)
            if comm.rank == LAST and len(calls) == 3:
                raise BoomError("here")
            return ranks.bowl(params, comm.rank)

        with pytest.raises(BoomError if comm.rank == LAST else RankError, match="here"):
            opt.step(closure)
        assert len(calls) == 3
        assert everything(opt) == before
        opt.step(lambda: ranks.bowl(params, comm.rank))
        return ranks.result(opt)

    def untroubled(comm: Any) -> Any:
        params = ranks.vectors("float64")
        opt = Sharded(refoptim.LBFGS, params, comm, max_iter=6, lr=0.1)
        for _ in range(2):
            opt.step(lambda: ranks.bowl(params, comm.rank))
        return ranks.result(opt)

    assert outcomes(3, run)[0] == outcomes(3, untroubled)[0]


def test_a_write_that_fails_after_all_agreed_stops_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(comm: Any) -> Any:
        opt = Sharded(refoptim.SGD, [np.ones(5000, np.float32)], comm, lr=0.1)
        if comm.rank == 1:
            take = opt.inner._take

            def torn(*arguments: Any) -> None:
                take(*arguments)
                raise MemoryError("after the first write")

            monkeypatch.setattr(opt.inner, "_take", torn)
        with pytest.raises(MemoryError if comm.rank == 1 else RankError, match="after the first write"):
            opt.step(grads=[np.ones(5000, np.float32)])
        with pytest.raises(RuntimeError, match="was left half done"):
            opt.step(grads=[np.ones(5000, np.float32)])

    outcomes(2, run)


def test_pieces_are_counted() -> None:
    opt = Sharded(refoptim.SGD, [np.ones(3)], pieces=2, lr=0.1)
    opt.add([np.ones(3)])
    opt.add([np.ones(3)])
    with pytest.raises(RuntimeError, match="all 2 pieces of this rank have been given"):
        opt.add([np.ones(3)])
    with pytest.raises(RuntimeError, match="all pieces of the gradient have been given"):
        opt.step(grads=[np.ones(3)])
    opt.step()
    opt.add([np.ones(3)])
    with pytest.raises(RuntimeError, match="take the step first"):
        opt.add_param_group({"params": [np.ones(2)]})
    opt.zero_grad()
    opt.add_param_group({"params": [np.ones(2)]})


def test_a_missing_piece_is_named() -> None:
    def run(comm: Any) -> Any:
        opt = Sharded(refoptim.SGD, [np.ones(3)], comm, pieces=3, lr=0.1)
        opt.add([np.ones(3)])
        with pytest.raises(RuntimeError, match="2 of 3 pieces of this rank have been given"):
            opt.step(grads=[np.ones(3)])

    outcomes(2, run)


def test_what_cannot_be_shared_out_is_refused() -> None:
    cases: list[tuple[Any, Any, dict[str, Any], str]] = [
        (refoptim.SGD, [np.asfortranarray(np.zeros((3, 2)))], {}, "must be C-contiguous"),
        (refoptim.SGD, [np.zeros(3)], {"differentiable": True}, "differentiable"),
        (refoptim.LBFGS, [np.zeros(3)], {"fused": True}, "no kernels for vectors that are shared out"),
        (refoptim.SGD, [np.zeros(3)], {"pieces": 0}, "pieces must be an integer"),
        (refoptim.SGD, [np.zeros(3)], {"bucket": "much"}, "bucket must be an integer"),
        (refoptim.SGD, [np.zeros(3)], {"average": 1}, "average must be True or False"),
        (refoptim.SGD, [np.zeros(3)], {"comm": 3}, "comm must be a communicator"),
        (int, [np.zeros(3)], {}, "rule must be a class of optimizers"),
        (Sharded, [np.zeros(3)], {}, "rule must be a class of optimizers"),
        (refoptim.Muon, [np.zeros(3)], {}, "Muon only supports 2D parameters"),
    ]
    for rule, params, more, text in cases:
        with pytest.raises((TypeError, ValueError, RuntimeError), match=text):
            Sharded(rule, params, **more)


def test_a_rank_that_says_nothing_is_lost() -> None:
    comms = thread_ranks(2, patience=0.1)
    found: list[Any] = []

    def alone() -> None:
        try:
            comms[0].agree([1])
        except RankError as error:
            found.append(error)

    thread = threading.Thread(target=alone)
    thread.start()
    thread.join()
    assert found[0].rank == 1


def test_an_error_without_words_is_told_by_its_name() -> None:
    def run(comm: Any) -> str:
        opt = Sharded(refoptim.SGD, [np.ones(3)], comm, lr=0.1)
        with pytest.raises(KeyboardInterrupt if comm.rank else RankError) as caught:
            opt.step(interrupted if comm.rank else lambda: (1.0, [np.ones(3)]))
        return str(caught.value)

    def interrupted() -> Any:
        raise KeyboardInterrupt

    assert outcomes(2, run) == ["rank 1: KeyboardInterrupt", ""]


def test_gradients_are_given_before_they_are_clipped() -> None:
    opt = Sharded(refoptim.SGD, [np.ones(3)], lr=0.1)
    opt.clip_grad_norm_(1.0)
    with pytest.raises(RuntimeError, match="clip_grad_norm_ has taken what the parameters held: step takes no grads"):
        opt.step(grads=[np.ones(3)])


def test_a_scaler_leaves_out_the_step_of_all_ranks() -> None:
    def run(comm: Any) -> Any:
        p = Parameter(np.ones(4000, np.float32))
        opt, scaler = Sharded(refoptim.SGD, [p], comm, lr=0.1), GradScaler(init_scale=4.0)
        scaler.scale(np.float32(1))
        p.grad = np.full(4000, np.inf if comm.rank == 1 else 1, np.float32)
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()
        p.grad = np.full(4000, 2, np.float32)
        scaler.step(opt)
        return p.data.tolist()

    for found in outcomes(3, run):
        assert found == np.full(4000, np.float32(1) - np.float32(0.1), np.float32).tolist()
