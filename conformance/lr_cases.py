"""Schedules to compare: a scheduler on an optimizer, and what it makes of the learning rates.

Of each scheduler there are plain cases first, with arguments as people write them and one group, and then cases with
drawn arguments and two groups.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from refoptim.conformance.spec import SCHEDULERS, Spec, parse, setting

EPOCHS = 300

LRS = (0.37, 0.05)
"""The learning rates of the two groups."""

CYCLERS = ("CyclicLR", "OneCycleLR")
"""Schedulers that set the momentum too."""


PER_GROUP = ("lr_lambda", "max_lr", "base_lr", "min_lr", "base_momentum", "max_momentum")
"""Settings that may be lists with an entry for each group."""


class Case(NamedTuple):
    """A scheduler, the optimizer it works on, and for ReduceLROnPlateau the metric as a function of the epoch.

    ``lrs`` are the learning rates of the groups, ``epochs`` says how many steps are taken, ``id`` is a name.
    """

    scheduler: str
    optimizer: str = "SGD"
    metrics: str | None = None
    lrs: tuple[float, ...] = LRS
    epochs: int = EPOCHS
    id: str = ""


class Draw:
    """Draws numbers with few digits, the same from the same seed with every version of Python."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed).random

    def real(self, low: float, high: float) -> float:
        """Draw a number of four digits."""
        return float(f"{low + (high - low) * self._random():.4g}")

    def whole(self, low: int, high: int) -> int:
        """Draw an integer from ``low`` up to ``high``."""
        return low + int((high - low + 1) * self._random())

    def one(self, *options: Any) -> Any:
        """Draw one of some options."""
        return options[self.whole(0, len(options) - 1)]


def function(d: Draw) -> str:
    """Describe a function of the epoch that only decays."""
    text: str = d.one(f"lambda epoch: {d.real(0.9, 1)} ** epoch", f"lambda epoch: 1 / (1 + {d.real(0, 0.1)} * epoch)")
    return text


def cyclic(d: Draw) -> str:
    """Describe a CyclicLR, in all its modes."""
    mode, down = d.one("triangular", "triangular2", "exp_range"), d.one(None, 0, d.real(0.5, 60))
    scale = f"scale_fn=lambda x: 1 / ({d.real(0.5, 2)} + x), scale_mode={d.one('cycle', 'iterations')!r}, "
    return (
        f"CyclicLR(base_lr={d.real(0, 0.1)}, max_lr=[{d.real(0.1, 1)}, {d.real(0.1, 1)}], mode={mode!r}, "
        f"step_size_up={d.real(0.5, 60)}, step_size_down={down}, gamma={d.real(0.9, 1.01)}, {d.one('', scale)}"
        f"cycle_momentum={d.one(True, True, False)}, base_momentum={d.real(0.1, 0.5)}, "
        f"max_momentum={d.real(0.5, 0.99)})"
    )


def one_cycle(d: Draw) -> str:
    """Describe a OneCycleLR of at least EPOCHS steps, in all its shapes."""
    return (
        f"OneCycleLR(max_lr=[{d.real(0.01, 1)}, {d.real(0.01, 1)}], total_steps={d.whole(EPOCHS, 500)}, "
        f"pct_start={d.real(0, 1)}, anneal_strategy={d.one('cos', 'linear')!r}, three_phase={d.one(True, False)}, "
        f"cycle_momentum={d.one(True, True, False)}, base_momentum={d.real(0.1, 0.8)}, "
        f"max_momentum=[{d.real(0.5, 0.99)}, {d.real(0.5, 0.99)}], "
        f"div_factor={d.real(0.5, 60)}, final_div_factor={d.real(0.5, 1e5)})"
    )


def plateau(d: Draw) -> str:
    """Describe a ReduceLROnPlateau, in all its modes."""
    return (
        f"ReduceLROnPlateau(mode={d.one('min', 'max')!r}, factor={d.real(0, 0.99)}, patience={d.whole(0, 6)}, "
        f"threshold={d.real(0, 0.1)}, threshold_mode={d.one('rel', 'abs')!r}, cooldown={d.whole(0, 5)}, "
        f"min_lr={d.one(0, 0.01, [0.01, 0.002])}, eps={d.one(1e-8, 1e-3)})"
    )


def metrics(d: Draw) -> str:
    """Describe a metric that jumps about, below zero too, and is NaN now and then."""
    factor, modulus = d.one(37, 41, 43), d.one(97, 101, 103)
    value = f"{d.real(0.5, 2)} * (epoch * {factor} % {modulus}) / {modulus} - {d.real(0, 1)}"
    return f"lambda epoch: nan if epoch % {d.whole(5, 50)} == 3 else {value}"


SIMPLE: dict[str, Callable[[Draw], str]] = {
    "LambdaLR": lambda d: f"LambdaLR(lr_lambda=[{function(d)}, {function(d)}])",
    "MultiplicativeLR": lambda d: (
        f"MultiplicativeLR(lr_lambda={d.one(function(d), 'lambda epoch: 0.97 + epoch % 3 / 50')})"
    ),
    "StepLR": lambda d: f"StepLR(step_size={d.whole(1, 60)}, gamma={d.real(0.1, 1.1)})",
    "MultiStepLR": lambda d: (
        f"MultiStepLR(milestones={[d.whole(0, 300)] * 2 + [d.whole(0, 300)]}, gamma={d.real(0.1, 1.1)})"
    ),
    "ConstantLR": lambda d: f"ConstantLR(factor={d.real(0.01, 1)}, total_iters={d.whole(1, 300)})",
    "LinearLR": lambda d: (
        f"LinearLR(start_factor={d.real(0.01, 1)}, end_factor={d.real(0, 1)}, total_iters={d.whole(1, 330)})"
    ),
    "ExponentialLR": lambda d: f"ExponentialLR(gamma={d.real(0.8, 1.02)})",
    "PolynomialLR": lambda d: f"PolynomialLR(total_iters={d.whole(1, 330)}, power={d.real(0, 3)})",
    "CosineAnnealingLR": lambda d: f"CosineAnnealingLR(T_max={d.whole(1, 330)}, eta_min={d.real(0, 0.02)})",
    "CosineAnnealingWarmRestarts": lambda d: (
        f"CosineAnnealingWarmRestarts(T_0={d.whole(1, 60)}, T_mult={d.whole(1, 4)}, eta_min={d.real(0, 0.02)})"
    ),
}
"""Schedulers that can stand anywhere in a sequence or a chain with torch's values."""


def sequence(d: Draw, member: Callable[[Draw], str] | None = None) -> str:
    """Describe a SequentialLR."""
    n = d.whole(1, 4)
    milestones = sorted(d.whole(0, 200) for _ in range(n - 1))
    return f"SequentialLR({', '.join((member or simple)(d) for _ in range(n))}, milestones={milestones})"


def chain(d: Draw, member: Callable[[Draw], str] | None = None) -> str:
    """Describe a ChainedScheduler."""
    return f"ChainedScheduler({', '.join((member or simple)(d) for _ in range(d.whole(1, 3)))})"


def simple(d: Draw) -> str:
    """Describe any of the simple schedulers."""
    return str(SIMPLE[d.one(*SIMPLE)](d))


def warmup(d: Draw) -> str:
    """Describe the steps of a warm-up, and those of a run that is longer."""
    steps = d.whole(0, 120)
    return f"num_warmup_steps={steps}, num_training_steps={steps + d.whole(1, 240)}"


def stable(d: Draw) -> str:
    """Describe a WarmupStableDecayLR, in all its shapes."""
    shapes = ("linear", "cosine", "1-sqrt")
    return (
        f"WarmupStableDecayLR(num_warmup_steps={d.whole(0, 90)}, num_stable_steps={d.whole(0, 90)}, "
        f"num_decay_steps={d.whole(0, 150)}, warmup_type={d.one(*shapes)!r}, decay_type={d.one(*shapes)!r}, "
        f"min_lr_ratio={d.one(0.0, d.real(0, 0.3))}, num_cycles={d.one(0.5, d.real(0.2, 2))})"
    )


def interpolate(d: Draw) -> str:
    """Describe a PiecewiseInterpolateLR, with a boundary or several."""
    pairs = [(d.whole(1, 80), d.real(0, 2)), (d.whole(81, 160), d.real(0, 1)), (d.whole(161, 280), d.real(0, 1))]
    return (
        f"PiecewiseInterpolateLR(interpolate_type={d.one('linear', 'cosine')!r}, init_value={d.real(0.01, 0.5)}, "
        f"boundaries_and_scales={dict(pairs[: d.whole(1, 3)])})"
    )


def cycles(d: Draw) -> str:
    """Describe a CosineCyclesLR, with and without all it can have."""
    return (
        f"CosineCyclesLR(t_initial={d.whole(5, 80)}, lr_min={d.real(0, 0.02)}, "
        f"cycle_mul={d.one(1.0, 2.0, d.real(1.1, 2.5))}, cycle_decay={d.real(0.3, 1)}, cycle_limit={d.whole(1, 6)}, "
        f"k_decay={d.one(1.0, d.real(0.5, 2))}, warmup_t={d.whole(0, 40)}, warmup_lr_init={d.real(0, 0.01)}, "
        f"warmup_prefix={d.one(True, False)})"
    )


def warmup_cosine(d: Draw) -> str:
    """Describe a WarmupCosineDecayLR, with a minimum and a power."""
    steps = d.whole(0, 90)
    return (
        f"WarmupCosineDecayLR(init_value={d.real(0, 0.05)}, peak_value={d.real(0.1, 1)}, warmup_steps={steps}, "
        f"decay_steps={steps + d.whole(1, 200)}, end_value={d.real(0, 0.05)}, exponent={d.one(1.0, d.real(0.5, 3))})"
    )


WIDER: dict[str, Callable[[Draw], str]] = {
    "ConstantWarmupLR": lambda d: f"ConstantWarmupLR(num_warmup_steps={d.whole(0, 200)})",
    "LinearWarmupLR": lambda d: f"LinearWarmupLR({warmup(d)})",
    "CosineWarmupLR": lambda d: (
        f"CosineWarmupLR({warmup(d)}, num_cycles={d.one(0.5, d.real(0.2, 3))}, "
        f"{d.one('min_lr', 'min_lr_rate')}={d.one(None, d.real(0, 0.04))})"
    ),
    "CosineWarmupRateLR": lambda d: (
        f"CosineWarmupRateLR({warmup(d)}, num_cycles={d.one(0.5, d.real(0.2, 3))}, "
        f"{d.one('min_lr', 'min_lr_rate')}={d.real(0, 0.04)}, warmup_lr_rate={d.one(None, d.real(0, 1.2))})"
    ),
    "CosineRestartsWarmupLR": lambda d: (
        f"CosineRestartsWarmupLR({warmup(d)}, num_cycles={d.one(d.whole(1, 6), d.real(0.5, 4))})"
    ),
    "PolynomialWarmupLR": lambda d: (
        f"PolynomialWarmupLR({warmup(d)}, lr_end={d.real(0, 0.04)}, power={d.one(1.0, d.real(0, 3))})"
    ),
    "InverseSqrtLR": lambda d: (
        f"InverseSqrtLR(num_warmup_steps={d.whole(0, 120)}, timescale={d.one(None, d.whole(1, 300))})"
    ),
    "WarmupStableDecayLR": stable,
    "NoamLR": lambda d: f"NoamLR(d_model={d.whole(8, 1024)}, num_warmup_steps={d.whole(1, 200)})",
    "WarmupCosineDecayLR": warmup_cosine,
    "PiecewiseInterpolateLR": interpolate,
    "CosineCyclesLR": cycles,
    "CosineDecayRestartsLR": lambda d: (
        f"CosineDecayRestartsLR(first_decay_steps={d.whole(5, 80)}, t_mul={d.one(1.0, 2.0, d.real(1.1, 2.5))}, "
        f"m_mul={d.real(0.3, 1.1)}, alpha={d.one(0.0, d.real(0, 0.3))})"
    ),
}
"""What to draw for each scheduler that torch does not have."""


TORCHS: dict[str, Callable[[Draw], str]] = {
    **SIMPLE,
    "CyclicLR": cyclic,
    "OneCycleLR": one_cycle,
    "ReduceLROnPlateau": plateau,
    "SequentialLR": sequence,
    "ChainedScheduler": lambda d: chain(d, lambda d: d.one(simple, simple, sequence)(d)),
}
"""What to draw for each scheduler of torch's."""

DRAWS = {**TORCHS, **WIDER}
"""What to draw for each scheduler."""


PLAIN = {
    "LambdaLR-plain": "LambdaLR(lr_lambda=lambda epoch: 0.95 ** epoch)",
    "MultiplicativeLR-plain": "MultiplicativeLR(lr_lambda=lambda epoch: 0.95)",
    "StepLR-plain": "StepLR(step_size=30)",
    "StepLR-gamma": "StepLR(step_size=10, gamma=0.5)",
    "MultiStepLR-plain": "MultiStepLR(milestones=[30, 80])",
    "ConstantLR-plain": "ConstantLR(factor=0.5, total_iters=10)",
    "LinearLR-plain": "LinearLR(start_factor=0.1, total_iters=10)",
    "LinearLR-decay": "LinearLR(start_factor=1.0, end_factor=0.1, total_iters=50)",
    "ExponentialLR-plain": "ExponentialLR(gamma=0.95)",
    "PolynomialLR-plain": "PolynomialLR(total_iters=50)",
    "PolynomialLR-power": "PolynomialLR(total_iters=99, power=2.0)",
    "CosineAnnealingLR-plain": "CosineAnnealingLR(T_max=99)",
    "CosineAnnealingLR-eta-min": "CosineAnnealingLR(T_max=99, eta_min=0.001)",
    "CosineAnnealingLR-rises": "CosineAnnealingLR(T_max=40)",
    "CosineAnnealingWarmRestarts-plain": "CosineAnnealingWarmRestarts(T_0=25)",
    "CosineAnnealingWarmRestarts-longer": "CosineAnnealingWarmRestarts(T_0=10, T_mult=2, eta_min=0.001)",
    "CyclicLR-plain": "CyclicLR(base_lr=0.01, max_lr=0.1, step_size_up=10)",
    "CyclicLR-triangular2": "CyclicLR(base_lr=0.01, max_lr=0.1, step_size_up=10, mode='triangular2')",
    "CyclicLR-exp-range": "CyclicLR(base_lr=0.01, max_lr=0.1, step_size_up=10, mode='exp_range', gamma=0.99)",
    "OneCycleLR-plain": "OneCycleLR(max_lr=0.1, total_steps=100)",
    "OneCycleLR-linear": "OneCycleLR(max_lr=0.1, total_steps=100, anneal_strategy='linear')",
    "OneCycleLR-three-phases": "OneCycleLR(max_lr=0.1, total_steps=100, three_phase=True)",
    "ReduceLROnPlateau-plain": "ReduceLROnPlateau(factor=0.5, patience=5)",
    "SequentialLR-plain": (
        "SequentialLR(LinearLR(start_factor=0.1, total_iters=5), ExponentialLR(gamma=0.95), milestones=[5])"
    ),
    "SequentialLR-cosine": (
        "SequentialLR(LinearLR(start_factor=0.1, total_iters=10), CosineAnnealingLR(T_max=89), milestones=[10])"
    ),
    "ChainedScheduler-plain": (
        "ChainedScheduler(LinearLR(start_factor=0.1, total_iters=5), ExponentialLR(gamma=0.95))"
    ),
    "ConstantWarmupLR-plain": "ConstantWarmupLR(num_warmup_steps=10)",
    "LinearWarmupLR-plain": "LinearWarmupLR(num_warmup_steps=10, num_training_steps=100)",
    "CosineWarmupLR-plain": "CosineWarmupLR(num_warmup_steps=10, num_training_steps=100)",
    "CosineWarmupLR-min": "CosineWarmupLR(num_warmup_steps=10, num_training_steps=100, min_lr_rate=0.1)",
    "CosineWarmupLR-rises": "CosineWarmupLR(num_warmup_steps=5, num_training_steps=60)",
    "CosineWarmupRateLR-plain": "CosineWarmupRateLR(num_warmup_steps=10, num_training_steps=100, min_lr_rate=0.1)",
    "CosineWarmupRateLR-rate": (
        "CosineWarmupRateLR(num_warmup_steps=10, num_training_steps=80, min_lr=0.01, warmup_lr_rate=0.2)"
    ),
    "CosineRestartsWarmupLR-plain": (
        "CosineRestartsWarmupLR(num_warmup_steps=10, num_training_steps=100, num_cycles=3)"
    ),
    "PolynomialWarmupLR-plain": "PolynomialWarmupLR(num_warmup_steps=10, num_training_steps=100)",
    "PolynomialWarmupLR-power": "PolynomialWarmupLR(num_warmup_steps=10, num_training_steps=80, lr_end=0.01, power=2)",
    "InverseSqrtLR-plain": "InverseSqrtLR(num_warmup_steps=10)",
    "WarmupStableDecayLR-plain": ("WarmupStableDecayLR(num_warmup_steps=10, num_stable_steps=60, num_decay_steps=20)"),
    "WarmupStableDecayLR-trapezoid": (
        "WarmupStableDecayLR(num_warmup_steps=10, num_stable_steps=60, num_decay_steps=20, decay_type='linear')"
    ),
    "NoamLR-plain": "NoamLR(d_model=64, num_warmup_steps=20)",
    "WarmupCosineDecayLR-plain": (
        "WarmupCosineDecayLR(init_value=0.0, peak_value=0.1, warmup_steps=10, decay_steps=90)"
    ),
    "PiecewiseInterpolateLR-plain": (
        "PiecewiseInterpolateLR(interpolate_type='linear', init_value=0.1, boundaries_and_scales={30: 0.1, 80: 0.5})"
    ),
    "CosineCyclesLR-plain": "CosineCyclesLR(t_initial=90, warmup_t=10, warmup_prefix=True)",
    "CosineCyclesLR-cycles": (
        "CosineCyclesLR(t_initial=12, cycle_mul=2.0, cycle_decay=0.5, cycle_limit=3, lr_min=0.001)"
    ),
    "CosineDecayRestartsLR-plain": "CosineDecayRestartsLR(first_decay_steps=14)",
    "CosineDecayRestartsLR-lower": "CosineDecayRestartsLR(first_decay_steps=20, t_mul=1.0, m_mul=0.7, alpha=0.01)",
}
"""The plain cases by name, which begins with that of the scheduler: learning rate 0.1, 100 values."""

PLAIN_METRICS = "lambda epoch: max(1 / (1 + epoch), 0.05)"
"""A metric that falls and then stays."""


def draw(name: str, seed: int) -> Case:
    """Draw a case of a scheduler."""
    d = Draw(f"{name} {seed}")
    return Case(DRAWS[name](d), d.one("SGD", "Adam"), metrics(d) if name == "ReduceLROnPlateau" else None)


def cases(name: str, drawn: int) -> list[Case]:
    """Return the cases of a scheduler: the plain ones, and some that are drawn."""
    plain = [
        Case(text, "SGD", PLAIN_METRICS if name == "ReduceLROnPlateau" else None, (0.1,), 99, key)
        for key, text in PLAIN.items()
        if key.partition("-")[0] == name
    ]
    return plain + [draw(name, seed)._replace(id=f"{name}-{seed}") for seed in range(drawn)]


def of_group(spec: Spec, i: int) -> Spec:
    """Return the schedule of group ``i`` alone: of lists with an entry for each group, that entry."""
    own = {name: x[i] if name in PER_GROUP and isinstance(x, list) else x for name, x in spec.settings.items()}
    return Spec(spec.name, [of_group(member, i) for member in spec.members], own)


def told(case: Case) -> list[float] | None:
    """Return the metrics of a case: the number at the end of each epoch."""
    metric = setting(case.metrics) if case.metrics else None
    return None if metric is None else [float(metric(epoch)) for epoch in range(case.epochs)]


def make_optimizer(case: Case, library: Any, array: Callable[[], Any]) -> Any:
    """Make the optimizer of a case, from refoptim or torch.optim, on two arrays that ``array`` makes."""
    groups = [{"params": [array()], "lr": lr} for lr in case.lrs]
    settings = {"momentum": 0.9} if case.optimizer == "SGD" else {}
    return getattr(library, case.optimizer)(groups, **settings)


def trace(case: Case, optimizer: Any, classes: Mapping[str, Any] = SCHEDULERS) -> dict[str, list[list[float]]]:
    """Run a case and return the learning rates and the momenta, from epoch 0 on, of each group."""
    optimizer._opt_called = True
    scheduler = parse(case.scheduler).build(optimizer, classes)
    metric = setting(case.metrics) if case.metrics else None
    rows = [_row(optimizer)]
    for epoch in range(case.epochs):
        scheduler.step(*([metric(epoch)] if metric else []))
        rows.append(_row(optimizer))
    lrs, momenta = zip(*rows, strict=True)
    return {"lr": [list(x) for x in zip(*lrs, strict=True)], "momentum": [list(x) for x in zip(*momenta, strict=True)]}


def _row(optimizer: Any) -> tuple[list[float], list[float]]:
    groups = optimizer.param_groups
    momenta = [group["betas"][0] if "betas" in group else group["momentum"] for group in groups]
    return [float(group["lr"]) for group in groups], [float(x) for x in momenta]


def nested(d: Draw, depth: int = 0) -> str:
    """Describe sequences and chains of any schedulers, three levels deep at most."""
    if depth == 2 or (depth and d.one(True, False)):
        return str(d.one(simple, simple, cyclic, one_cycle)(d))
    return str(d.one(sequence, chain)(d, lambda d: nested(d, depth + 1)))
