"""An optimizer whose state is shared out among ranks, with the bits of one process."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from operator import setitem
from typing import Any, ClassVar

import numpy as np

from ..engines import machine_if_any
from ..engines.machine import Machine
from ..engines.over_all import Totals, joined
from ..engines.threads import aside
from ..engines.twins import kernels_on
from ..numerics import tree
from ..numerics.arith import Array, storage
from ..numerics.array_types import HOST, at, filled, place
from ..optimizers.base import Closure, Optimizer, hooked
from ..optimizers.closure import ClosureOptimizer, real_loss
from ..optimizers.modes import ModalOptimizer
from ..step.changes import Change, make
from ..step.given import explained, in_order, loss_and_gradients
from ..step.groups import Group, Params, as_groups, check_members, make_group
from ..step.parameter import Parameter, told
from ..step.plan import checked_gradient, gradients, label
from ..step.rule import resolve
from ..step.scaling import Scaling
from ..step.sparse import SparseGrad
from ..step.state_dict import StateDict
from ..step.states import States
from . import clip, facts, share_dict, sparse
from .beside import Beside
from .comm import Communicator, vote
from .exchange import join, share
from .given import as_communicator
from .layout import Load, Loads, Ranges, segments
from .order import Block, evaluate, merged, whole
from .pieces import Pieces
from .shards import Kind, check, dtype_of_sum, of_reals, reals, vector_of

BUCKET = 25 << 20
"""Bytes of gradients, or of parameters, that are on their way at once."""


class Sharded(Optimizer):
    """An optimizer of which each rank has a part: its share of the state, and of the work.

    Every rank holds all parameters, and gives its own gradients of them, *pieces* of the gradient. A step sums the
    pieces, element by element, in an order that does not depend on the number of ranks; each rank updates its shard of
    the parameters; then all get what the others have. Parameters, state and norms have the same bits on any number of
    ranks.

    All ranks call the same functions in the same order. What is wrong on one of them is raised on all, and nothing has
    changed then.

    Args:
        rule: the class of the optimizer.
        params: what that class takes; the same on all ranks. Arrays must be C-contiguous.
        comm: a communicator of mpi4py, a process group of torch.distributed with gloo, one that
            ``refoptim.distributed`` makes, or None for a process that is alone.
        average: divide the sum by the number of pieces, as for a mean loss.
        pieces: how many pieces this rank gives to a step, by ``add``; ranks may differ.
        accumulate: sum pieces of this rank before they are exchanged, as far as the order allows it; False exchanges
            each at once, which takes more time, but goes on beside the work on the next one.
        bucket: about as many bytes are on their way at once.
        settings: those of the optimizer.

    Attributes:
        param_groups: the groups, of whole Parameters; what is set here goes to all shards in the next step.
        state: this rank's share of the state, by Parameter.
        comm: the communicator.

    Raises:
        TypeError, ValueError, RuntimeError: an argument is wrong.
        RankError: an argument is wrong on another rank, or ranks differ in one.
    """

    is_rule: ClassVar[bool] = False
    makes_along: ClassVar[bool] = False

    def __init__(
        self,
        rule: type[Optimizer],
        params: Params,
        comm: Any = None,
        *,
        average: bool = True,
        pieces: int = 1,
        accumulate: bool = True,
        bucket: int = BUCKET,
        **settings: Any,
    ) -> None:
        self.comm: Communicator = as_communicator(comm)
        self._make_hooks()
        vars(self).update(self._fresh())
        self._going: Beside | None = None
        error: BaseException | None = None
        try:
            flags = {"average": average, "accumulate": accumulate}
            self._build(rule, params, flags, {"pieces": pieces, "bucket": bucket}, settings)
        except BaseException as raised:
            error = raised
        facts.agree(self.comm, error, {} if error else self._facts() | {"bucket": bucket, **flags})
        counts = [pieces] if self.comm.size == 1 else self.comm.gather(pieces)
        self._pieces = Pieces(self.comm, counts, accumulate, average, bucket)
        self._forget_pieces()

    def _build(
        self, rule: Any, params: Params, flags: Mapping[str, Any], counts: Mapping[str, Any], settings: dict[str, Any]
    ) -> None:
        if not (isinstance(rule, type) and issubclass(rule, Optimizer)) or issubclass(rule, Sharded):
            raise TypeError(f"rule must be a class of optimizers, got {rule!r}")
        _check_arguments(flags, counts)
        _check_settings(rule, settings)
        described = [make_group(each, {}) for each in as_groups(params)]
        cautious = any(each.get("cautious", settings.get("cautious")) for each in described)
        self.rule, self.kind, self.bucket = rule, Kind.of(rule, cautious), counts["bucket"]
        self.param_groups = []
        self._ranges: Ranges = []
        self._loads = [0] * self.comm.size
        parts = [self._divided(i, group) for i, group in enumerate(described)]
        self.inner = rule(
            [{**g, "params": shards} for g, (shards, _) in zip(described, parts, strict=True)], **settings
        )
        self.defaults = self.inner.defaults
        for group, own, (_, ranges) in zip(described, self.inner.param_groups, parts, strict=True):
            check_members(group, self.param_groups)
            self._append(group, own, ranges)

    def _divided(self, i: int, group: Group) -> tuple[list[Parameter], Ranges]:
        """Return the shards of the parameters of a group, and who holds what; raise if they cannot be divided."""
        params = group["params"]
        self._check_settings(group)
        first = next((p for g in (*self.param_groups, group) for p in g["params"]), None)
        check(i, group, place(first.data) if first else HOST)
        for j, p in enumerate(params):
            self.rule.check_parameter(label(i, j, p, group.get("param_names", ())), p.shape, p.dtype)
        ranges = self.kind.ranges(params, self._loads)
        pairs = zip(params, ranges[self.comm.rank], strict=True)
        return [self.kind.shard(p, held) for p, held in pairs], ranges

    def _append(self, group: Group, own: Group, ranges: Ranges) -> None:
        """Take up a group that the inner optimizer has: ``own`` there."""
        _check_settings(self.rule, own)
        params = group["params"]
        loads = [
            load + sum((e - b) * p.data.nbytes // max(1, reals(p)) for (b, e), p in zip(held, params, strict=True))
            for load, held in zip(self._loads, ranges, strict=True)
        ]
        joined = ranges if not self._ranges else [[*x, *y] for x, y in zip(self._ranges, ranges, strict=True)]
        known = {"_ranges": joined, "_loads": loads}
        owned = [p.belonging_to(self) for p in params]
        make([partial(vars(self).update, known), *owned, partial(self.param_groups.append, {**own, "params": params})])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group: a dict with the key ``params`` and the settings that differ from the defaults.

        Raises:
            TypeError, ValueError, RuntimeError: it does not describe a group. Nothing is added then.
            RankError: it is wrong on another rank, or ranks differ in it.
        """
        number, error = len(self.param_groups), None
        made: list[Any] = []
        try:
            group = make_group(param_group, {})
            check_members(group, self.param_groups)
            shards, ranges = self._divided(number, group)
            self._check_no_pieces("add_param_group")
            scratch = self._another_inner()
            scratch.add_param_group({**group, "params": shards})
            made = [group, shards, ranges, scratch.param_groups[-1]]
        except BaseException as raised:
            error = raised
        facts.agree(self.comm, error, facts.settings(made[-1:]) | facts.parameters(made[:1]))
        group, shards, ranges, _ = made
        self.inner.add_param_group({**group, "params": shards})
        self._append(group, self.inner.param_groups[-1], ranges)

    def _another_inner(self) -> Optimizer:
        """Return an optimizer like the inner one, to try things on."""
        other = self.rule.__new__(self.rule)
        other.__setstate__(
            {"defaults": dict(self.defaults), "state": States(dict), "param_groups": list(self.inner.param_groups)}
        )
        return other

    # what there is

    @property
    def state(self) -> Any:
        """The share of the state that this rank has, by Parameter."""
        shards = self._shards()
        return States(
            dict, {p: self.inner.state[s] for p, s in zip(self._params(), shards, strict=True) if s in self.inner.state}
        )

    @state.setter
    def state(self, value: Any) -> None:
        raise RuntimeError("the state of a Sharded optimizer is set by load_state_dict")

    def _params(self) -> list[Parameter]:
        return [p for group in self.param_groups for p in group["params"]]

    def _shards(self) -> list[Parameter]:
        return [p for group in self.inner.param_groups for p in group["params"]]

    def layout(self) -> Loads:
        """Return what each rank holds: bytes of parameters, and of state as far as it has been made.

        That of other ranks is estimated from this one's.
        """
        held = [x for entry in self.inner.state.values() for x in entry.values() for x in _arrays(x)]
        ratio = sum(x.nbytes for x in held) / max(1, self._loads[self.comm.rank])
        return Loads(Load(rank, n, round(n * ratio)) for rank, n in enumerate(self._loads))

    def _facts(self) -> facts.Facts:
        """Return what must be the same on all ranks."""
        found: facts.Facts = {"rule": f"{self.rule.__module__}.{self.rule.__qualname__}"}
        return found | facts.parameters(self.param_groups) | facts.settings(self.param_groups)

    # the pieces of the gradient

    def _forget_pieces(self) -> None:
        self._finish()
        self._pieces.forget()
        self._dtypes: list[Any] | None = None
        self._sparse = sparse.Entries()
        for shard in self._shards():
            shard.grad = None

    def _check_no_pieces(self, name: str) -> None:
        self._finish()
        if self._pieces.round:
            raise RuntimeError(f"{name}: take the step first, or forget the pieces of its gradient by zero_grad")

    def add(self, grads: Iterable[Any] | None = None, *, free: bool = False, borrow: bool = False) -> None:
        """Give a piece of the gradient to the step that comes, and return when all ranks have; its exchange goes on.

        Args:
            grads: the gradients, as ``step`` takes them; else those that the parameters hold.
            free: forget the gradients that the parameters hold.
            borrow: use arrays as they are: nobody may write to them before the step. Else they are copied.

        Raises:
            TypeError, ValueError, RuntimeError: a gradient is wrong, or this rank has given all its pieces. The piece
                is not taken then.
            RankError: something is wrong on another rank. No piece is taken then.
        """
        with self._alone():
            self._aside(partial(self._round, grads, None, True, beside=True, borrow=borrow))
            if free:
                make([x for p in self._params() for x in p.forgetting()])

    def _aside(self, function: Callable[[], Any]) -> Any:
        """Call what all ranks do together: where that can be, on a thread where no signal handler raises anything."""
        return aside(function) if self._can_go_on else function()

    @property
    def _can_go_on(self) -> bool:
        """Whether ranks can talk on other threads of this process."""
        params = self._params()
        on_host = not params or place(params[0].data) == HOST
        return self.comm.size > 1 and self.comm.any_thread and on_host

    def _finish(self) -> None:
        """Wait for an exchange that goes on."""
        going, self._going = self._going, None
        if going is not None:
            going.wait()

    def _round(
        self, grads: Any, error: BaseException | None, given: bool, beside: bool = False, borrow: bool = False
    ) -> None:
        """Take the next piece of each rank, or raise on all of them; the exchange may go on beside other work."""
        self._finish()
        beside = beside and self._can_go_on
        vectors: list[Array | None] | None = None
        dtypes, entries = self._dtypes, self._sparse
        try:
            if error is not None:
                raise error
            vectors, dtypes, entries = self._checked(grads, given, beside and not borrow)
        except BaseException as raised:
            error = raised
        told_facts = self._facts() | {"gradients": [_name(x) for x in dtypes or []], "round": self._pieces.round}
        facts.agree(self.comm, error, told_facts if error is None else {})
        assert dtypes is not None
        self._dtypes, self._sparse = dtypes, entries
        if beside:
            self._going = Beside(partial(self._exchange, vectors, dtypes, True), self._torn)
        else:
            self._exchange(vectors, dtypes, False)

    def _exchange(self, vectors: Any, dtypes: Sequence[Any], beside: bool) -> None:
        """Go through a round of pieces that all ranks have agreed to."""
        self.comm.is_beside = beside
        dense = [None if x == sparse.SPARSE else x for x in dtypes]
        with kernels_on(self._summing()):
            self._pieces.take(vectors, dense, self._ranges, self._outs(dense))
        if self._pieces.is_done:
            self._place_sums(dtypes)
        self.comm.is_beside = False

    def _summing(self) -> Machine | None:
        """Return what runs the kernels of the sum; None where there are none, or where no group wants kernels."""
        params = self._params()
        wanted = any(group.get("fused") is not False for group in self.param_groups)
        return machine_if_any(place(params[0].data)) if params and wanted else None

    def _checked(self, grads: Any, given: bool, copy: bool) -> tuple[Any, list[Any], sparse.Entries]:
        """Return a piece as vectors of reals, the dtypes of its gradients, and its sparse entries; or raise."""
        expected = self._pieces.is_expected
        if given and not expected:
            raise RuntimeError(f"all {self._pieces.count} pieces of this rank have been given: take the step")
        if not given:
            if expected or self._dtypes is None:
                raise RuntimeError(
                    f"{self._pieces.round} of {self._pieces.count} pieces of this rank have been given: add the others"
                )
            return None, self._dtypes, self._sparse
        found = self._gradients(grads)
        dtypes = [
            None if g is None else sparse.SPARSE if isinstance(g, SparseGrad) else storage(g.dtype) for g in found
        ]
        if self._dtypes is not None and dtypes != self._dtypes:
            i = next(i for i, (x, y) in enumerate(zip(dtypes, self._dtypes, strict=True)) if x != y)
            raise ValueError(f"gradients[{i}] is {_name(dtypes[i])}, and was {_name(self._dtypes[i])} in another piece")
        entries = self._sparse.with_piece(found)
        keep = copy or not self._pieces.is_sent_at_once
        return self._vectors(found, keep), dtypes, entries

    def _vectors(self, grads: Sequence[Any], keep: bool) -> list[Array | None]:
        """Return gradients as vectors of reals; copies, if they are to be kept while their owner may write to them."""
        found: list[Array | None] = []
        for g in grads:
            if g is None or isinstance(g, SparseGrad):
                found.append(None)
                continue
            with at(place(g)):
                x = vector_of(g)
                found.append(self._pieces.buffers.copy(x) if keep else x)
        return found

    def _gradients(self, grads: Any) -> list[Any]:
        """Return gradients in the order of the parameters, each checked."""
        given, found = in_order(self.param_groups, grads), []
        with explained(self.param_groups, grads):
            for i, (group, column) in enumerate(
                zip(self.param_groups, gradients(self.param_groups, given), strict=True)
            ):
                h = resolve(self.rule, group)
                names = group.get("param_names", ())
                for j, (p, grad) in enumerate(zip(group["params"], column, strict=True)):
                    found.append(self._gradient(label(i, j, p, names), h, p, grad))
        return found

    def _gradient(self, where: str, h: Any, p: Parameter, grad: Any) -> Any:
        if grad is None and self.kind.name == "flat":
            return np.zeros_like(p.data)
        if grad is None:
            return None
        try:
            grad = checked_gradient(p, grad, ())
            if self.kind.name == "flat":
                return grad.to_dense() if isinstance(grad, SparseGrad) else grad
            return self.rule.accept(h, grad)
        except (TypeError, ValueError, RuntimeError) as error:
            raise type(error)(f"{where}: {error}") from None

    def _outs(self, dtypes: Sequence[Any]) -> list[Array | None]:
        """Return what becomes this rank's part of the sum, as vectors of reals: the same memory in each step."""
        kept: dict[int, Array] = vars(self).setdefault("_buffers", {})
        found: list[Array | None] = []
        for i, (p, (begin, end), dtype) in enumerate(
            zip(self._params(), self._ranges[self.comm.rank], dtypes, strict=True)
        ):
            if dtype is None:
                found.append(None)
                continue
            wanted = dtype_of_sum(p, dtype)
            if i not in kept or kept[i].dtype != wanted or kept[i].size != end - begin:
                kept[i] = filled(p.data, (end - begin,), 0, wanted)
            found.append(kept[i])
        return found

    def _place_sums(self, dtypes: Sequence[Any]) -> None:
        """Let the shards hold what they have of the sum."""
        outs = self._outs([None if x == sparse.SPARSE else x for x in dtypes])
        own = self._ranges[self.comm.rank]
        summed = self._sparse.exchanged(self.comm, self._params(), self._ranges, self._pieces.divisor)
        for i, (shard, p, out) in enumerate(zip(self._shards(), self._params(), outs, strict=True)):
            if out is not None:
                shape = p.shape if self.kind.name == "owners" and own[i][1] else shard.shape
                x = out if self.kind.name == "flat" else of_reals(out, p.dtype).reshape(shape)
                if shard.grad is None or shard.grad.base is not out:
                    shard.grad = x
            elif i in summed:
                shard.grad = summed[i]

    # the step

    @hooked
    def step(
        self,
        closure: Closure | None = None,
        *,
        grads: Iterable[Any] | None = None,
        estimates: Iterable[Any] | None = None,
        grad_scale: Any = None,
        found_inf: Any = None,
    ) -> Any:
        """Take one step, all ranks together, and return the loss that ``closure`` returned, None without one.

        Args:
            closure: called first; it computes the loss and sets the gradients of the parameters, or returns both.
                LBFGS and ConjugateGradient call it several times, and return the mean of the losses of all ranks.
            grads: this rank's last piece of the gradient; else what the parameters hold, if a piece is missing.
            estimates: must be None: they are not exchanged between ranks.
            grad_scale: as in the step of any optimizer, and the same on all ranks.
            found_inf: likewise.

        Raises:
            TypeError, ValueError, RuntimeError: a gradient or a setting is wrong. Nothing has changed on any rank.
            RankError: something is wrong on another rank, which is named, or ranks differ. Nothing has changed.
        """
        if estimates is not None:
            raise TypeError("a sharded optimizer takes no estimates")
        with self._alone():
            if self.kind.name == "flat":
                return self._minimize(closure, grads, (grad_scale, found_inf))
            loss, given, error, scaling = None, grads, None, Scaling()
            try:
                _check_step(closure, grads)
                scaling = Scaling(grad_scale, found_inf)
                if closure is not None:
                    loss, given = loss_and_gradients(closure())
            except BaseException as raised:
                error = raised
            self._aside(partial(self._step, given, error, scaling))
            return loss

    def _step(self, grads: Any, error: BaseException | None, scaling: Scaling) -> None:
        self._finish()
        before = self._pieces.round
        self._reduce(grads, error)
        try:
            self._look_again()
            self._pass_on()
        except BaseException as raised:
            error = raised
        try:
            self._update(scaling, error)
        except BaseException:
            if not before and not self._torn:
                self._forget_pieces()  # so that the step can be taken again
            raise
        self._forget_pieces()

    def _reduce(self, grads: Any, error: BaseException | None) -> None:
        """Take what is missing of the pieces."""
        self._finish()
        if self._pieces.is_done:
            extra = RuntimeError(
                "all pieces of the gradient have been given, by add, or clip_grad_norm_ has taken what the parameters "
                "held: step takes no grads"
            )
            vote(self.comm, error or (extra if grads is not None else None))
        given = self._pieces.is_expected if not self._pieces.is_done else False
        while not self._pieces.is_done:
            self._round(grads, error, given)
            grads, given = None, False

    def _look_again(self) -> None:
        """Let shards look at the memory of arrays that have been given another one."""
        for p, shard, held in zip(self._params(), self._shards(), self._ranges[self.comm.rank], strict=True):
            now = self.kind.view(p, held)
            if type(p) is not Parameter or shard.data.base is not now.base:
                check(0, {"params": [p]}, place(p.data))
                if now.size != shard.data.size or now.dtype != shard.data.dtype:
                    raise ValueError(f"a parameter must keep its shape and dtype, but it has now {p.shape} {p.dtype}")
                shard.data = now

    def _pass_on(self) -> None:
        """Give the groups of the inner optimizer the settings of these."""
        if len(self.param_groups) != len(self.inner.param_groups):
            raise ValueError("groups are added by add_param_group, and not taken away")
        for group, own in zip(self.param_groups, self.inner.param_groups, strict=True):
            if len(group["params"]) != len(own["params"]):
                raise ValueError("the parameters of a group must stay the same: make a new optimizer")
            settings = {**group, **self._for_inner(group), "params": own["params"]}
            self._check_settings(settings)
            if settings.keys() != own.keys() or any(own[key] is not x for key, x in settings.items()):
                make([partial(own.clear), partial(own.update, settings)])

    def _check_settings(self, group: Group) -> None:
        """Raise RuntimeError for settings with which the arrays of a group could not be shared out, or as they are."""
        _check_settings(self.rule, group)
        if group.get("cautious") and self.kind.name == "elements":
            raise RuntimeError(
                "cautious steps count the elements of whole parameters, and these are divided: let a group be cautious "
                "when the optimizer is made"
            )

    def _for_inner(self, group: Group) -> dict[str, Any]:
        """Return settings that mean the whole vector of all parameters, and would mean a part of it."""
        if group.get("restart_every", 0) is None:
            return {"restart_every": max(1, sum(reals(p) for p in group["params"]))}
        return {}

    def _update(self, scaling: Scaling, error: BaseException | None) -> None:
        """Let each rank update its shards, if all can, and give all to all."""
        decided: list[bool] = []

        def decide() -> None:
            decided.append(False)
            vote(self.comm, None)
            decided.append(True)

        def of_all(found: Totals) -> Totals:
            decide()
            everyone = self.comm.gather(found)
            decided.clear()
            return joined(everyone)

        try:
            if error is None:
                self.inner._decide, self.inner._of_all = decide, of_all  # type: ignore[method-assign]
                self.inner._advance(None, None, scaling)
        except BaseException as raised:
            error = raised
        if decided == [False] and error is not None:
            raise error
        if not decided:
            vote(self.comm, error)
            return
        try:
            vote(self.comm, error, " has left its step half done")
            self._show()
        except BaseException as raised:
            self._torn.append(raised)
            raise

    def _show(self, everything: bool = False) -> None:
        """Give all ranks what each has updated, or all that it holds."""
        params = self._params()
        vectors = [vector_of(p.data) for p in params]
        changed = [i for i, s in enumerate(self._shards()) if everything or s.grad is not None]
        pieces = [segments(held, changed) for held in self._ranges]
        if params and self.comm.size > 1:
            share(self.comm, self._pieces.buffers, pieces, vectors, [x.dtype for x in vectors], self.bucket, vectors[0])
            make(told(params))

    # modes

    def train(self) -> None:
        """Move the parameters to where gradients are taken, all ranks together, as the rule's ``train`` does.

        Raises:
            TypeError, ValueError, RuntimeError: the rule has no modes, or something is wrong. Nothing has changed then.
            RankError: something is wrong on another rank, or ranks differ.
        """
        self._turn(True)

    def eval(self) -> None:
        """Move the parameters to where they are evaluated, all ranks together, as the rule's ``eval`` does.

        Raises:
            TypeError, ValueError, RuntimeError: the rule has no modes, or something is wrong. Nothing has changed then.
            RankError: something is wrong on another rank, or ranks differ.
        """
        self._turn(False)

    def _turn(self, training: bool) -> None:
        with self._alone():
            self._aside(partial(self._turn_all, training))

    def _turn_all(self, training: bool) -> None:
        changes, error = list[Change](), None
        try:
            if not isinstance(self.inner, ModalOptimizer):
                raise RuntimeError(f"{self.rule.__name__} has no modes")
            self._check_no_pieces("train" if training else "eval")
            self._look_again()
            self._pass_on()
            changes = self.inner.turning(training)
        except BaseException as raised:
            error = raised
        facts.agree(self.comm, error, {} if error else self._facts() | {"train_mode": training})
        mode = [partial(setitem, group, "train_mode", training) for group in self.param_groups]
        make([*changes, *mode])
        self._show(everything=True)

    # LBFGS and ConjugateGradient

    def _minimize(self, closure: Any, grads: Any, scaling: tuple[Any, Any]) -> Any:
        error: BaseException | None = None
        try:
            closure = self.inner._checked(closure, grads, Scaling(*scaling))  # type: ignore[attr-defined]
            if self._pieces.total != self.comm.size:
                raise RuntimeError(f"{self.rule.__name__} takes one piece of each rank, that of its closure")
            self._look_again()
            self._pass_on()
        except BaseException as raised:
            error = raised
        vote(self.comm, error)
        counts = [sum(e - b for b, e in held) for held in self._ranges]
        runs = [-(-n // tree.WIDTH) for n in counts]
        try:
            with tree.parts(lambda x: join(self.comm, x, runs if x.ndim == 1 else [len(x)] * self.comm.size)):
                return self.inner._advance(partial(self._evaluate, closure), None, Scaling())
        finally:
            self._forget_pieces()
            self._show(everything=True)

    def _evaluate(self, closure: Callable[[], Any]) -> Any:
        """Return the loss where the shards have moved the parameters, and this rank's part of its gradient."""
        with tree.parts(None):
            self._show(everything=True)
            self._forget_pieces()
            loss, grads, error = math.nan, None, None
            try:
                value, grads = loss_and_gradients(closure())
                loss = real_loss(value)
            except BaseException as raised:
                error = raised
            self._round(grads, error, True)
            return self._mean(loss), [shard.grad for shard in self._shards()]

    def _mean(self, loss: float) -> float:
        """Return the sum of the losses of all ranks, or their mean, in the order of the sum of gradients."""
        found = join(self.comm, np.array([loss]), [1] * self.comm.size)
        single: list[tuple[Block, Any]] = [((0, i), i) for i in range(len(found))]
        out = np.zeros(1)
        evaluate(whole(merged({}, single)), [found[i : i + 1] for i in range(len(found))], out, self._pieces.divisor)
        return float(out[0])

    # gradients between exchange and update

    def clip_grad_norm_(self, max_norm: Any, norm_type: Any = 2.0, error_if_nonfinite: bool = False) -> Any:
        """Multiply the gradient of the step that comes so that its norm is ``max_norm`` at most; return what it was.

        Pieces that the parameters hold are taken first, if one is missing. ``clip_grad.clip_grad_norm_`` would see this
        rank's piece alone.

        Raises:
            TypeError, ValueError: an argument is wrong.
            RuntimeError: the norm is not finite, and that is an error.
            RankError: something is wrong on another rank.
        """
        with self._alone():
            return self._aside(partial(self._clip, max_norm, norm_type, error_if_nonfinite))

    def _clip(self, max_norm: Any, norm_type: Any, error_if_nonfinite: bool) -> Any:
        error: BaseException | None = None
        order = largest = 0.0
        try:
            if self.kind.name == "flat":
                raise RuntimeError(f"{self.rule.__name__} evaluates its closure more than once: clip nothing")
            order, largest = clip.arguments(max_norm, norm_type)
        except BaseException as raised:
            error = raised
        self._finish()
        if error is None and not self._pieces.is_done:
            self._reduce(None, None)
        facts.agree(self.comm, error, {"norm_type": order, "max_norm": largest})
        grads = [None if s.grad is None else s.grad for s in self._shards()]
        return clip.clip(self.comm, grads, self._ranges, order, largest, error_if_nonfinite)

    def _reduced(self, grads: Any = None) -> Optimizer:
        """Return the optimizer whose parameters hold this rank's part of the gradient."""
        self._finish()
        if self.kind.name != "flat" and not (self._pieces.is_done and grads is None):
            self._aside(partial(self._reduce, grads, None))
        return self.inner

    def _everywhere(self, found: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return what was found on any rank: numbers by place."""
        most = self.comm.agree([any(float(x) != 0 for x in found.values())])[0]
        return {where: filled(x, x.shape, float(most)) for where, x in found.items()}

    def _leave_out(self) -> None:
        self._forget_pieces()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, or fill them with zeros; forget pieces that were given to the step that comes."""
        super().zero_grad(set_to_none)
        self._forget_pieces()

    # state dicts

    def _dumped(self, copy: Callable[[Any], Any]) -> StateDict:
        return share_dict.dumped(self, copy)

    def gather_state_dict(self, rank: int = 0) -> StateDict | None:
        """Return the whole state in torch's layout on one rank, in the memory of the host, and None on the others.

        Raises:
            ValueError: there is no such rank.
        """
        if type(rank) is not int or not 0 <= rank < self.comm.size:
            raise ValueError(f"rank must be an integer in [0, {self.comm.size}), got {rank!r}")
        return share_dict.gathered(self, rank)

    def load_state_dict(self, state_dict: Any) -> None:
        """Take over a saved state, all ranks together: a whole one, or a list of the shares of all ranks there were.

        Raises:
            TypeError, ValueError: the state is not one of this optimizer or of these parameters. Nothing has changed
                on any rank.
            RankError: it is wrong on another rank.
        """
        share_dict.load(self, state_dict)

    def _standing(self) -> list[Change]:
        groups = [x for g in self.param_groups for x in (partial(g.clear), partial(g.update, dict(g)))]
        return [*groups, *self.inner._standing()]

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a Sharded optimizer cannot be copied or pickled: save its state dict")

    def __repr__(self) -> str:
        return super().__repr__().replace("Sharded", f"Sharded {self.rule.__name__}", 1)


def _check_arguments(flags: Mapping[str, Any], counts: Mapping[str, Any]) -> None:
    for name, x in flags.items():
        if not isinstance(x, bool):
            raise TypeError(f"{name} must be True or False, got {x!r}")
    for name, x in counts.items():
        if type(x) is not int or x < 1:
            raise ValueError(f"{name} must be an integer in [1, inf), got {x!r}")


def _check_settings(rule: type[Optimizer], group: Group) -> None:
    """Raise RuntimeError for settings with which arrays could not be shared out."""
    if group.get("differentiable"):
        raise RuntimeError("differentiable=True makes new arrays, and what is sharded is changed in place")
    if issubclass(rule, ClosureOptimizer) and group.get("fused"):
        raise RuntimeError(f"{rule.__name__} has no kernels for vectors that are shared out: leave fused=None")


def _check_step(closure: Any, grads: Any) -> None:
    if closure is not None and grads is not None:
        raise TypeError("step takes a closure or grads, not both")
    if closure is not None and not callable(closure):
        raise TypeError("closure must be a function that returns the loss (gradients go by name: step(grads=...))")


def _arrays(x: Any) -> list[Any]:
    found = x if isinstance(x, list) else [x]
    return [each for each in found if hasattr(each, "nbytes") and getattr(each, "ndim", 0) > 0]


def _name(dtype: Any) -> str:
    return "none" if dtype is None else str(dtype)
