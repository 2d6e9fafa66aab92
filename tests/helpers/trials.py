"""Things that must be done whole or not at all, each with a way to see what there is before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import refoptim
from helpers.pictures import frozen
from helpers.rooms import DENSE, NAMES, SETTINGS, gradient, make, normal
from helpers.schedulers import MAKE
from helpers.schedulers import step as move
from helpers.wider import apart
from refoptim import Parameter
from refoptim.step.hyper import declared

SHAPES = [(4, 3), (2, 5), (6, 2), (3, 3)]
LONG = [(37, 5), (2, 5), (41, 4), (9, 9)]


@dataclass
class Trial:
    """What is tried; ``look`` tells all that it changes, in a form that another trial's can be compared with."""

    act: Callable[[], Any]
    look: Callable[[], Any]


Make = Callable[[], Trial]


def held(optimizer: Any) -> Any:
    """Return what an optimizer holds, parameters by their places; a state without entries is none."""
    members = [p for group in optimizer.param_groups for p in group["params"]]
    groups = [{key: x for key, x in group.items() if key != "params"} for group in optimizer.param_groups]
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    state = [frozen(optimizer.state.get(p) or {}) for p in members]
    strange = [key for key, values in optimizer.state.items() if values and key not in members]
    return frozen([p.data for p in members]), state, repr(groups), sizes, strange


def grouped(name: str, shapes: list[tuple[int, ...]], dtype: str = "float32", **settings: Any) -> Any:
    """Return an optimizer of two groups, the second with a setting of its own."""
    master = settings.pop("master", False)
    params = [Parameter(normal(i, *shape, dtype=dtype), master=master) for i, shape in enumerate(shapes)]
    return make(name, [{"params": params[:2]}, {"params": params[2:], **apart(name, 0.011)}], **settings)


def grads(optimizer: Any, name: str, k: int, wide: bool = False) -> list[Any]:
    """Return gradients for all parameters, in their dtypes or in float32."""
    members = [
        p.data.astype("float32") if wide else p.data for group in optimizer.param_groups for p in group["params"]
    ]
    return [gradient(name, 10 * k + i, x) for i, x in enumerate(members)]


def step(name: str, before: int, shapes: list[tuple[int, ...]], wide: bool = False, **settings: Any) -> Trial:
    """A step after ``before`` others."""
    optimizer = grouped(name, shapes, **settings)

    def act() -> None:
        optimizer.step(grads=grads(optimizer, name, 5, wide))

    for _ in range(before):
        act()
    return Trial(act, lambda: held(optimizer))


def minimization(name: str, before: int, **settings: Any) -> Trial:
    """A step of an optimizer that calls a closure."""
    params = [Parameter(normal(i, *shape)) for i, shape in enumerate(SHAPES)]
    optimizer = getattr(refoptim, name)(params, lr=0.3, max_iter=4, **settings)

    def closure() -> float:
        for p in params:
            p.grad = p.data * p.data * p.data - p.data
        return float(sum(((p.data * p.data / 2 - 1) * (p.data * p.data / 2)).sum() for p in params))

    for _ in range(before):
        optimizer.step(closure)
    return Trial(lambda: optimizer.step(closure), lambda: held(optimizer))


def loading(name: str) -> Trial:
    """Loading a state dict into an optimizer that has another state."""
    optimizer, other = grouped(name, SHAPES), grouped(name, SHAPES, lr=0.5)
    for one, steps in ((optimizer, 1), (other, 3)):
        for k in range(steps):
            one.step(grads=grads(one, name, k))
    saved = other.state_dict()
    return Trial(lambda: optimizer.load_state_dict(saved), lambda: held(optimizer))


def adding(name: str) -> Trial:
    """Adding a group."""
    optimizer = grouped(name, SHAPES)
    optimizer.step(grads=grads(optimizer, name, 0))

    def act() -> None:
        optimizer.add_param_group({"params": [normal(7, 3, 2), normal(8, 2, 3)], **apart(name, 0.5)})

    return Trial(act, lambda: held(optimizer))


def clipping(fused: bool) -> Trial:
    """Clipping gradients of two dtypes."""
    params = [Parameter(normal(i, 40, 3, dtype=d)) for i, d in enumerate(["float32", "float64", "float32", "float16"])]
    for p in params:
        p.grad = p.data * 3

    def act() -> None:
        refoptim.clip_grad.clip_grad_norm_(params, 1.0, fused=fused)

    return Trial(act, lambda: frozen([p.grad for p in params]))


def clamping() -> Trial:
    """Clipping gradients by their values."""
    params = [Parameter(normal(i, 40, 3, dtype=d)) for i, d in enumerate(["float32", "float64", "float16"])]
    for p in params:
        p.grad = p.data * 3
    return Trial(lambda: refoptim.clip_grad.clip_grad_value_(params, 0.5), lambda: frozen([p.grad for p in params]))


def scaler_of(optimizer: Any) -> refoptim.amp.GradScaler:
    """Return a scaler whose scale divides the gradients that an optimizer's parameters are given."""
    scaler = refoptim.amp.GradScaler(init_scale=3.0, growth_interval=1)
    scaler.scale(1.0)
    for i, group in enumerate(optimizer.param_groups):
        for j, p in enumerate(group["params"]):
            p.grad = normal(10 * i + j, *p.shape)
    return scaler


def unscaling() -> Trial:
    """Dividing gradients by the scale, once between two updates."""
    optimizer = grouped("Adam", LONG)
    scaler = scaler_of(optimizer)
    members = [p for group in optimizer.param_groups for p in group["params"]]

    def act() -> None:
        with suppress(RuntimeError):
            scaler.unscale_(optimizer)

    return Trial(act, lambda: frozen([[p.grad for p in members], [x.stage.name for x in scaler._records.values()]]))


def updating() -> Trial:
    """Changing the scale after a step, once between two steps."""
    optimizer = grouped("Adam", SHAPES)
    scaler = scaler_of(optimizer)
    scaler.step(optimizer)

    def act() -> None:
        with suppress(AssertionError):
            scaler.update()

    return Trial(act, lambda: frozen([*scaler.state_dict().values(), len(scaler._records)]))


def loading_a_scale() -> Trial:
    """Loading the state of a scaler."""
    scaler = scaler_of(grouped("Adam", SHAPES))
    saved = {**scaler.state_dict(), "scale": 7.0, "growth_factor": 5.0, "_growth_tracker": 4}
    return Trial(lambda: scaler.load_state_dict(saved), lambda: frozen([*scaler.state_dict().values()]))


def loading_copies() -> Trial:
    """Loading a state with master copies into an optimizer of float32 parameters, which become the copies."""
    saving = grouped("Adam", LONG, dtype="float16", master=True)
    saving.step(grads=grads(saving, "Adam", 0))
    saved, loading = saving.state_dict(), grouped("Adam", LONG)
    for p, q in zip(*([p for g in x.param_groups for p in g["params"]] for x in (loading, saving)), strict=True):
        p.data[...] = q.data
    return Trial(lambda: loading.load_state_dict(saved), lambda: held(loading))


def zeroing(set_to_none: bool) -> Trial:
    """Forgetting gradients."""
    optimizer = grouped("Adam", SHAPES)
    members = [p for group in optimizer.param_groups for p in group["params"]]
    for p in members:
        p.grad = p.data * 2
    return Trial(lambda: optimizer.zero_grad(set_to_none), lambda: frozen([p.grad for p in members]))


def averaging(before: int, **settings: Any) -> Trial:
    """Taking weights into an average."""
    model = {"w": normal(1, 40, 3), "b": normal(2, 3), "half": normal(3, 7, dtype="float16"), "n": np.array(3)}
    averaged = refoptim.swa_utils.AveragedModel(model, **settings)

    def act() -> None:
        for x in model.values():
            x *= 2
        averaged.update_parameters(model)

    for _ in range(before):
        act()
    return Trial(lambda: averaged.update_parameters(model), lambda: frozen(averaged.state_dict()))


def loading_an_average() -> Trial:
    model = {"w": normal(1, 40, 3), "half": normal(3, 7, dtype="float16")}
    averaged, other = (refoptim.swa_utils.AveragedModel(model) for _ in range(2))
    averaged.update_parameters(model)
    for _ in range(3):
        other.update_parameters({"w": normal(5, 40, 3), "half": normal(6, 7, dtype="float16")})
    saved = other.state_dict()
    return Trial(lambda: averaged.load_state_dict(saved), lambda: frozen(averaged.state_dict()))


COMPOSITES = ("SequentialLR", "ChainedScheduler", "warm-up and plateau")
"""Their members change the groups before they are made themselves."""


def scheduled(optimizer: Any, scheduler: Any) -> Any:
    state = scheduler.state_dict() if scheduler else None
    return repr([{k: x for k, x in group.items() if k != "params"} for group in optimizer.param_groups]), repr(state)


def scheduling(name: str, before: int) -> Trial:
    """A step of a scheduler."""
    optimizer = grouped("SGD", SHAPES)
    scheduler = MAKE[name](optimizer, 0.5)
    optimizer.step(grads=grads(optimizer, "SGD", 0))
    for _ in range(before):
        move(scheduler)
    return Trial(lambda: move(scheduler), lambda: scheduled(optimizer, scheduler))


def loading_a_schedule(name: str) -> Trial:
    optimizer, other = (grouped("SGD", SHAPES) for _ in range(2))
    scheduler, further = MAKE[name](optimizer, 0.5), MAKE[name](other, 0.75)
    other.step(grads=grads(other, "SGD", 0))
    for _ in range(3):
        move(further)
    saved = further.state_dict()
    return Trial(lambda: scheduler.load_state_dict(saved), lambda: scheduled(optimizer, scheduler))


def beginning_a_schedule(name: str) -> Trial:
    optimizer = grouped("SGD", SHAPES)
    return Trial(lambda: MAKE[name](optimizer, 0.5), lambda: scheduled(optimizer, None))


def swapping() -> Trial:
    """Lending an optimizer other parameters, and taking them back."""
    optimizer, other = grouped("Adam", SHAPES), grouped("Adam", SHAPES, lr=0.5)
    for one in (optimizer, other):
        one.step(grads=grads(one, "Adam", 0))
    saved = other.state_dict()
    lent = {str(i): normal(i, *shape) for i, shape in enumerate(SHAPES)}

    def act() -> None:
        with refoptim.optimizers.swap.swap_in_optimizer_params_and_state(optimizer, lent, saved):
            pass

    return Trial(act, lambda: held(optimizer))


def steps() -> Iterator[tuple[str, Make]]:
    """Steps of every optimizer on every engine of this computer."""
    for name in NAMES:
        rule = getattr(refoptim, name)
        for k in (0, 2):
            yield f"{name}, step {k + 1}", partial(step, name, k, SHAPES)
        if name != "SOAP":  # takes minutes, and NumPy crashes where an allocation fails in a product of many such rows
            yield f"{name}, threads", partial(step, name, 2, LONG)
        yield f"{name}, master", partial(step, name, 2, SHAPES, dtype="float16", master=True)
        if rule.has_kernels:
            for k in (0, 2):
                yield f"{name}, step {k + 1}, kernels", partial(step, name, k, SHAPES, fused=True)
            yield f"{name}, master, kernels", partial(step, name, 2, SHAPES, dtype="float16", master=True, fused=True)
        if name in ("Adam", "SparseAdam", "Adafactor"):
            wide = partial(step, name, 2, SHAPES, True, dtype="float16", master=True, fused=True)
            yield f"{name}, master, float32 gradients, kernels", wide
        if name in DENSE and "differentiable" in declared(rule):
            yield f"{name}, differentiable", partial(step, name, 2, SHAPES, differentiable=True)
    for name in ("LBFGS", "ConjugateGradient"):
        for fused in (None, True):
            yield f"{name}, fused={fused}", partial(minimization, name, 1, fused=fused)


def others() -> Iterator[tuple[str, Make]]:
    """Everything else that must be done whole or not at all."""
    for name in SETTINGS:
        yield f"{name}, load_state_dict", partial(loading, name)
        yield f"{name}, add_param_group", partial(adding, name)
    for name in MAKE:
        yield f"{name}, step", partial(scheduling, name, 1)
        yield f"{name}, load_state_dict", partial(loading_a_schedule, name)
        if name not in COMPOSITES:
            yield f"{name}, made", partial(beginning_a_schedule, name)
    for fused in (False, True):
        yield f"clip_grad_norm_, fused={fused}", partial(clipping, fused)
        yield f"zero_grad({fused})", partial(zeroing, fused)
        form = refoptim.swa_utils.get_ema_avg_fn(0.9, fused=fused)
        yield f"AveragedModel, fused={fused}", partial(averaging, 2, avg_fn=form)
    yield "clip_grad_value_", clamping
    yield "GradScaler, unscale_", unscaling
    yield "GradScaler, update", updating
    yield "GradScaler, load_state_dict", loading_a_scale
    yield "load_state_dict, master copies", loading_copies
    yield "AveragedModel, first", partial(averaging, 0)
    yield "AveragedModel, multi", partial(averaging, 2, multi_avg_fn=refoptim.swa_utils.get_swa_multi_avg_fn())
    yield "AveragedModel, load_state_dict", loading_an_average
    yield "swap_in_optimizer_params_and_state", swapping


TRIALS: dict[str, Make] = {**dict(steps()), **dict(others())}


def stages_of(make: Make) -> list[Any]:
    """Return what there is to see before a trial, after it, and after it is done again."""
    trial = make()
    seen = [trial.look()]
    for _ in range(2):
        trial.act()
        seen.append(trial.look())
    return seen
