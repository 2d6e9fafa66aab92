"""Schedules with a mistake in them, written out by hand, one number at a time, and curves that no known mistake makes.

Nothing here uses what is tested: not refoptim's schedulers, not the axes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

Curve = Callable[[float], float]

EPOCHS = 150


class Plant(NamedTuple):
    """A mistake: its flag, the scheduler and learning rate that were asked for, and the curve there is instead."""

    flag: str
    scheduler: str
    lr: float
    curve: Curve
    momentum: Curve | None = None
    metrics: list[float] | None = None

    def numbers(self, epochs: int = EPOCHS) -> list[float]:
        return [self.curve(e) for e in range(epochs)]

    def momenta(self, epochs: int = EPOCHS) -> list[float] | None:
        return None if self.momentum is None else [self.momentum(e) for e in range(epochs)]


class Draw:
    """Draws settings as people write them."""

    def __init__(self, seed: object) -> None:
        self._random = random.Random(str(seed)).random

    def real(self, low: float, high: float) -> float:
        return float(f"{low + (high - low) * self._random():.3g}")

    def whole(self, low: int, high: int) -> int:
        return low + int((high - low + 1) * self._random())

    def one(self, *options: object) -> object:
        return options[self.whole(0, len(options) - 1)]


Plants = Callable[[Draw, float], tuple[str, Curve]]


def line(x: float) -> float:
    return 1 - x


def wave(x: float) -> float:
    return (1 + math.cos(math.pi * x)) / 2


class Linear:
    """LinearLR from ``s`` to ``end`` in ``T`` epochs."""

    def __init__(self, d: Draw, lr: float, end: float | None = None) -> None:
        self.lr, self.s, self.T = lr, d.real(0.05, 0.45), d.whole(12, 90)
        self.end = d.real(0.55, 0.95) if end is None else end
        self.text = f"LinearLR(start_factor={self.s}, end_factor={self.end}, total_iters={self.T})"

    def at(self, e: float, T: int = 0, s: float = -1) -> float:
        x = min(e / (T or self.T), 1.0)
        s = self.s if s < 0 else s
        return self.lr * (s + (self.end - s) * x)


class Polynomial:
    """PolynomialLR."""

    def __init__(self, d: Draw, lr: float) -> None:
        self.lr, self.T, self.p = lr, d.whole(40, 170), d.real(1.2, 3)
        self.text = f"PolynomialLR(total_iters={self.T}, power={self.p})"

    def at(self, e: float, T: int = 0) -> float:
        T = T or self.T
        return float(self.lr * (1 - min(e, T) / T) ** self.p)


class Cosine:
    """CosineAnnealingLR."""

    def __init__(self, d: Draw, lr: float) -> None:
        self.lr, self.T, self.low = lr, d.whole(40, 110), d.real(0.02, 0.2) * lr
        self.low = float(f"{self.low:.3g}")
        self.text = f"CosineAnnealingLR(T_max={self.T}, eta_min={self.low})"

    def at(self, e: float, T: int = 0, height: Curve = wave) -> float:
        return self.low + (self.lr - self.low) * height(e / (T or self.T))


class Step:
    """StepLR."""

    def __init__(self, d: Draw, lr: float) -> None:
        self.lr, self.size, self.gamma = lr, d.whole(8, 31), d.real(0.3, 0.85)
        self.text = f"StepLR(step_size={self.size}, gamma={self.gamma})"

    def at(self, e: float, size: int = 0) -> float:
        return float(self.lr * self.gamma ** (e // (size or self.size)))


class Milestones:
    """MultiStepLR with milestones at uneven distances."""

    def __init__(self, d: Draw, lr: float) -> None:
        self.lr, self.gamma = lr, d.real(0.3, 0.85)
        self.at_epochs = [d.whole(10, 30), d.whole(40, 55), d.whole(60, 99), d.whole(110, 140)]
        self.text = f"MultiStepLR(milestones={self.at_epochs}, gamma={self.gamma})"

    def at(self, e: float, moved: float = 0) -> float:
        return float(self.lr * self.gamma ** sum(e >= m + moved for m in self.at_epochs))


class Exponential:
    """ExponentialLR."""

    def __init__(self, d: Draw, lr: float) -> None:
        self.lr, self.gamma = lr, d.real(0.9, 0.99)
        self.text = f"ExponentialLR(gamma={self.gamma})"

    def at(self, e: float) -> float:
        return float(self.lr * self.gamma**e)


class Restarts:
    """CosineAnnealingWarmRestarts."""

    def __init__(self, d: Draw, lr: float, factor: int = 0) -> None:
        self.lr, self.T, self.factor = lr, d.whole(7, 25), factor or d.whole(1, 3)
        self.low = float(f"{d.real(0.02, 0.2) * lr:.3g}")
        self.text = f"CosineAnnealingWarmRestarts(T_0={self.T}, T_mult={self.factor}, eta_min={self.low})"

    def at(self, e: float, T: int = 0, factor: int = 0, more: int = 0, height: Curve = wave, low: float = -1) -> float:
        length, left = T or self.T, e
        while left >= length + more:
            left -= length + more
            length *= factor or self.factor
        low = self.low if low < 0 else low
        return low + (self.lr - low) * height(left / length)


class OneCycle:
    """OneCycleLR in two phases."""

    def __init__(self, d: Draw, kind: str = "cos") -> None:
        self.high, self.total, self.part = d.real(0.1, 1), d.whole(160, 200), d.real(0.2, 0.4)
        self.div, self.last = d.real(5, 30), d.real(50, 5000)
        self.kind, self.m, self.M = kind, d.real(0.7, 0.85), d.real(0.9, 0.97)
        self.text = (
            f"OneCycleLR(max_lr={self.high}, total_steps={self.total}, pct_start={self.part}, div_factor={self.div}, "
            f"final_div_factor={self.last}, anneal_strategy={kind!r}, base_momentum={self.m}, max_momentum={self.M})"
        )

    def at(self, e: float, total: int = 0, late: int = 0, height: Curve | None = None, final: float = 0) -> float:
        low = self.high / self.div
        return self.between(low, self.high, final or low / self.last, e, total, late, height)

    def momentum(
        self, e: float, swapped: bool = False, total: int = 0, late: int = 0, height: Curve | None = None
    ) -> float:
        top, low = (self.m, self.M) if swapped else (self.M, self.m)
        return self.between(top, low, top, e, total, late, height)

    def between(self, a: float, b: float, c: float, e: float, total: int, late: int, height: Curve | None) -> float:
        total, h = total or self.total, height or (wave if self.kind == "cos" else line)
        up, end = self.part * total - 1 + late, total - 1 + late
        return b + (a - b) * h(e / up) if e <= up else c + (b - c) * h((e - up) / (end - up))


class Cyclic:
    """CyclicLR."""

    def __init__(self, d: Draw, mode: str = "triangular") -> None:
        self.low, self.high, self.up, self.mode = d.real(0.01, 0.05), d.real(0.2, 1), d.whole(9, 25), mode
        self.m, self.M = d.real(0.7, 0.85), d.real(0.9, 0.97)
        self.text = (
            f"CyclicLR(base_lr={self.low}, max_lr={self.high}, step_size_up={self.up}, mode={mode!r}, "
            f"base_momentum={self.m}, max_momentum={self.M})"
        )

    def height(self, e: float, up: int = 0, ahead: int = 0, bent: bool = False) -> float:
        up = up or self.up
        cycle, place = divmod(e, 2 * up)
        x = place / up if place <= up else 2 - place / up
        x = 1 - wave(x) if bent else x
        return x / 2 ** (cycle + ahead) if self.mode == "triangular2" else x

    def at(self, e: float, **wrong: int) -> float:
        return self.low + (self.high - self.low) * self.height(e, **wrong)  # type: ignore[arg-type]

    def momentum(self, e: float, **wrong: int) -> float:
        return self.M - (self.M - self.m) * self.height(e, **wrong)  # type: ignore[arg-type]


def plateau(metrics: list[float], lr: float, factor: float, patience: int, cooldown: int) -> list[float]:
    """ReduceLROnPlateau in its mode min, without a threshold to speak of."""
    best, bad, rest, found = math.inf, 0, 0, [lr]
    for metric in metrics:
        best, bad = (metric, 0) if metric < best * (1 - 1e-4) else (best, bad + 1)
        if rest:
            rest, bad = rest - 1, 0
        if bad > patience:
            lr, rest, bad = (lr * factor if lr - lr * factor > 1e-8 else lr), cooldown, 0
        found.append(lr)
    return found


def smooth(d: Draw, lr: float) -> Linear | Polynomial | Cosine:
    """Draw a schedule without jumps."""
    made = d.one(Linear, Polynomial, Cosine)(d, lr)  # type: ignore[operator]
    assert isinstance(made, (Linear, Polynomial, Cosine))
    return made


def shapes(d: Draw, lr: float) -> Iterator[Plant]:
    """Draw a plant of each mistake that is in the shape of a curve, or its place in time."""
    k, a = d.whole(2, 40), smooth(d, lr)
    shift, c = d.whole(1, 5), d.real(0.2, 4)
    decay = Exponential(d, lr)
    yield Plant("NeverStepped", decay.text, lr, lambda e: lr)
    yield Plant("ScheduleAhead", a.text, lr, lambda e, a=a: a.at(e + shift))  # type: ignore[misc]
    yield Plant("ScheduleBehind", a.text, lr, lambda e, a=a: a.at(max(e - shift, 0)))  # type: ignore[misc]
    yield Plant("StepsForEpochs", a.text, lr, lambda e, a=a, k=2 + k % 5: a.at(e * k))  # type: ignore[misc]
    yield Plant("EpochsForSteps", a.text, lr, lambda e, a=a: a.at(e // k))  # type: ignore[misc]
    yield Plant("FractionalEpochs", a.text, lr, lambda e, a=a: a.at(e / k))  # type: ignore[misc]
    yield Plant("MovesSeldom", a.text, lr, lambda e, a=a: a.at(e // k * k))  # type: ignore[misc]
    yield Plant("LrScaled", a.text, lr, lambda e, a=a: c * a.at(e))  # type: ignore[misc]
    w = Linear(d, lr)
    yield Plant("StartNotApplied", w.text, lr, lambda e: w.at(e) if e else lr)
    yield Plant("WarmupOneLonger", w.text, lr, lambda e: w.at(e, w.T + 1))
    yield Plant("WarmupOneShorter", w.text, lr, lambda e: w.at(e, w.T - 1))
    yield Plant("WarmupFromZero", w.text, lr, lambda e: w.at(e, s=0))
    yield Plant("FactorForRate", w.text, lr, lambda e: w.at(e) / lr)
    yield Plant("RunsPastEnd", w.text, lr, lambda e: lr * (w.s + (w.end - w.s) * e / w.T))
    yield Plant("EndReturnsToBase", w.text, lr, lambda e: w.at(e) if e < w.T else lr)
    yield Plant("CosineForLinear", w.text, lr, lambda e: lr * (w.end + (w.s - w.end) * wave(min(e / w.T, 1))))
    full = Linear(d, lr, 1.0)
    yield Plant("WarmupFromOneNth", full.text, lr, lambda e: lr * min((e + 1) / full.T, 1))
    p = Polynomial(d, lr)
    yield Plant("EndOneLate", p.text, lr, lambda e: p.at(e, p.T + 1))
    yield Plant("EndOneEarly", p.text, lr, lambda e: p.at(e, p.T - 1))
    yield Plant("OtherSetting", p.text, lr, lambda e, q=p.p + 0.7: lr * (1 - min(e, p.T) / p.T) ** q)  # type: ignore[misc]


def cosines(d: Draw, lr: float) -> Iterator[Plant]:
    """Draw a plant of each mistake that a cosine can have."""
    c, r, long = Cosine(d, lr), Restarts(d, lr), Restarts(d, lr, 2)
    yield Plant("EndOneLate", c.text, lr, lambda e: c.at(e, c.T + 1))
    yield Plant("EndOneEarly", c.text, lr, lambda e: c.at(e, c.T - 1))
    yield Plant("CosineClamped", c.text, lr, lambda e: c.at(min(e, c.T)))
    yield Plant("CosineRestarts", c.text, lr, lambda e: c.at(e % c.T))
    yield Plant("CosineWholePeriod", c.text, lr, lambda e: c.at(2 * e))
    yield Plant("CosineHalfWay", c.text, lr, lambda e: c.at(e / 2))
    yield Plant("QuarterCosine", c.text, lr, lambda e: c.at(e, height=lambda x: math.cos(math.pi * min(x, 1) / 2)))
    yield Plant("LinearForCosine", c.text, lr, lambda e: c.at(e, height=lambda x: 1 - min(x, 1)))
    yield Plant("EtaMinIgnored", c.text, lr, lambda e: lr * wave(e / c.T))
    yield Plant("EtaMinAdded", c.text, lr, lambda e: c.low + lr * wave(e / c.T))
    yield Plant("EtaMinFloor", c.text, lr, lambda e: max(c.low, lr * wave(e / c.T)))
    yield Plant("EtaMinFactor", c.text, lr, lambda e: lr * (c.low + (1 - c.low) * wave(e / c.T)))
    yield Plant("PeriodOneLonger", r.text, lr, lambda e: r.at(e, r.T + 1))
    yield Plant("PeriodOneShorter", r.text, lr, lambda e: r.at(e, r.T - 1))
    yield Plant("RestartReachesMinimum", r.text, lr, lambda e: r.at(e, more=1))
    yield Plant("RestartsNotLengthened", long.text, lr, lambda e: long.at(e, factor=1))
    yield Plant("LinearForCosine", r.text, lr, lambda e: r.at(e, height=line))
    yield Plant("EtaMinIgnored", r.text, lr, lambda e: r.at(e, low=0))
    yield Plant("OtherSetting", r.text, lr, lambda e, low=r.low * 1.7: r.at(e, low=low))  # type: ignore[misc]


def decays(d: Draw, lr: float) -> Iterator[Plant]:
    """Draw a plant of each mistake that a decay at certain epochs can have."""
    s, m, x = Step(d, lr), Milestones(d, lr), Exponential(d, lr)
    yield Plant("MilestonesInclusive", m.text, lr, lambda e: m.at(e, 1))
    yield Plant("MilestonesEarly", m.text, lr, lambda e: m.at(e, -1))
    yield Plant("MilestonesInclusive", s.text, lr, lambda e: s.at(max(e - 1, 0)))
    yield Plant("PeriodOneLonger", s.text, lr, lambda e: s.at(e, s.size + 1))
    yield Plant("PeriodOneShorter", s.text, lr, lambda e: s.at(e, s.size - 1))
    yield Plant("ContinuousDecay", s.text, lr, lambda e: lr * s.gamma ** (e / s.size))
    yield Plant("DecayNotCumulative", s.text, lr, lambda e: lr * (s.gamma if e >= s.size else 1))
    for made in (s, m, x):
        yield Plant("GammaTwice", made.text, lr, lambda e, f=made: f.at(e) ** 2 / lr)  # type: ignore[misc]
        yield Plant("GammaInverted", made.text, lr, lambda e, f=made: lr**2 / f.at(e))  # type: ignore[misc]
    yield Plant("GammaSubtracted", s.text, lr, lambda e: lr * (1 - s.gamma) ** (e // s.size))
    yield Plant("OtherSetting", m.text, lr, lambda e, g=m.gamma * 0.83: lr * g ** sum(e >= t for t in m.at_epochs))  # type: ignore[misc]


def cycles(d: Draw, lr: float) -> Iterator[Plant]:
    """Draw a plant of each mistake that a cycle can have."""
    o, straight, t, h = OneCycle(d), OneCycle(d, "linear"), Cyclic(d), Cyclic(d, "triangular2")
    yield Plant("EndOneLate", o.text, lr, lambda e: o.at(e, o.total + 1), lambda e: o.momentum(e, total=o.total + 1))
    yield Plant("EndOneEarly", o.text, lr, lambda e: o.at(e, o.total - 1), lambda e: o.momentum(e, total=o.total - 1))
    yield Plant("PhasesWhole", o.text, lr, lambda e: o.at(e, late=1), lambda e: o.momentum(e, late=1))
    yield Plant("FinalDivOfMax", o.text, lr, lambda e: o.at(e, final=o.high / o.last), o.momentum)
    yield Plant("LinearForCosine", o.text, lr, lambda e: o.at(e, height=line), lambda e: o.momentum(e, height=line))
    yield Plant(
        "CosineForLinear",
        straight.text,
        lr,
        lambda e: straight.at(e, height=wave),
        lambda e: straight.momentum(e, height=wave),
    )
    yield Plant("MomentumSwapped", o.text, lr, o.at, lambda e: o.momentum(e, swapped=True))
    yield Plant("MomentumSwapped", t.text, lr, t.at, lambda e: t.m + (t.M - t.m) * t.height(e))
    yield Plant("MomentumStill", t.text, lr, t.at, lambda e: 0.9)
    yield Plant("PeriodOneLonger", t.text, lr, lambda e: t.at(e, up=t.up + 1), lambda e: t.momentum(e, up=t.up + 1))
    yield Plant("CosineForLinear", t.text, lr, lambda e: t.at(e, bent=1), lambda e: t.momentum(e, bent=1))
    yield Plant("CycleScaleAhead", h.text, lr, lambda e: h.at(e, ahead=1), lambda e: h.momentum(e, ahead=1))
    flat = Cyclic(d, "triangular2")
    flat.mode = "triangular"
    yield Plant("OtherChoice", flat.text, lr, flat.at, flat.momentum)
    yield Plant("StartNotApplied", t.text, lr, lambda e: t.at(e) if e else lr, t.momentum)


def composites(d: Draw, lr: float) -> Iterator[Plant]:
    """Draw a plant of each mistake of a sequence, a chain, and a schedule that looks at a metric."""
    w, c, x = Linear(d, lr, 1.0), Cosine(d, lr), Exponential(d, lr)
    c.T = d.whole(20, 50)
    c.text = f"CosineAnnealingLR(T_max={c.T}, eta_min={c.low})"
    text = f"SequentialLR({w.text}, {c.text}, milestones=[{w.T}])"

    def two(e: float, T: int = 0, m: int = 0, behind: int = -1) -> float:
        m = m or w.T
        return w.at(e, T or w.T) if e < m else c.at(e - (m if behind < 0 else behind))

    yield Plant("WarmupOneShorter", text, lr, lambda e: two(e, w.T - 1))
    yield Plant("MilestonesInclusive", text, lr, lambda e: two(e, m=w.T + 1))
    yield Plant("ClockNotRestarted", text, lr, lambda e: two(e, behind=0))
    yield Plant("CosineClamped", text, lr, lambda e: two(e) if e < w.T + c.T else c.low)
    yield Plant("ChainOverwritten", f"ChainedScheduler({w.text}, {x.text})", lr, x.at)
    metrics = [1 / (1 + e // 35) for e in range(EPOCHS)]
    factor, patience, cooldown = d.real(0.4, 0.8), d.whole(2, 4), d.whole(2, 4)
    text = f"ReduceLROnPlateau(factor={factor}, patience={patience}, cooldown={cooldown})"
    for flag, settings in (
        ("PatienceOneLonger", (patience + 1, cooldown)),
        ("PatienceOneShorter", (patience - 1, cooldown)),
        ("CooldownIgnored", (patience, 0)),
    ):
        found = plateau(metrics, lr, factor, *settings)
        yield Plant(flag, text, lr, lambda e, y=found: y[int(e)], None, metrics)  # type: ignore[misc]


class Warmed:
    """LinearWarmupLR or CosineWarmupLR: a rise from zero, and a fall to it."""

    def __init__(self, d: Draw, lr: float, shape: str = "Cosine") -> None:
        self.lr, self.w, self.T = lr, d.whole(8, 30), d.whole(60, 110)
        self.height = wave if shape == "Cosine" else line
        self.text = f"{shape}WarmupLR(num_warmup_steps={self.w}, num_training_steps={self.T})"

    def at(self, e: float, w: int = 0, T: int = 0, height: Curve | None = None) -> float:
        w, T, height = w or self.w, T or self.T, height or self.height
        q = (e - w) / (T - w)
        return self.lr * (e / w if e < w else height(min(q, 1.0) if height is line else q))


def warmups(d: Draw, lr: float) -> Iterator[Plant]:
    """Draw a plant of each mistake that a schedule with a warm-up can have."""
    c, s = Warmed(d, lr), Warmed(d, lr, "Linear")
    for a in (c, s):
        yield Plant("WarmupNotCounted", a.text, lr, lambda e, a=a: a.at(e, T=a.T + a.w))  # type: ignore[misc]
        yield Plant("WarmupOneLonger", a.text, lr, lambda e, a=a: a.at(e, a.w + 1))  # type: ignore[misc]
        yield Plant("WarmupOneShorter", a.text, lr, lambda e, a=a: a.at(e, a.w - 1))  # type: ignore[misc]
        yield Plant("EndOneLate", a.text, lr, lambda e, a=a: a.at(e, T=a.T + 1))  # type: ignore[misc]
        nth = lambda e, a=a: a.lr * (e + 1) / a.w if e < a.w else a.at(e)  # noqa: E731
        yield Plant("WarmupFromOneNth", a.text, lr, nth)
    yield Plant("CosineClamped", c.text, lr, lambda e: c.at(min(e, c.T)))
    yield Plant("LinearForCosine", c.text, lr, lambda e: c.at(e, height=line))
    yield Plant("CosineForLinear", s.text, lr, lambda e: s.at(min(e, s.T), height=wave))
    stable = f"WarmupStableDecayLR(num_warmup_steps={c.w}, num_stable_steps=20, num_decay_steps=40)"
    fall = lambda e: lr * max(0.0, 1 - max(e - c.w - 20, 0) / 40)  # noqa: E731
    yield Plant("OtherChoice", stable, lr, lambda e: min(lr * e / c.w, fall(e)))
    first = f"CosineCyclesLR(t_initial={c.T}, warmup_t={c.w})"
    yield Plant("OtherChoice", first, lr, lambda e: c.at(min(e, c.T + c.w), T=c.T + c.w))
    peak, low = c.lr, 0.1 * c.lr
    told = f"WarmupCosineDecayLR(init_value=0.0, peak_value={peak}, warmup_steps={c.w}, decay_steps={c.T}"
    floor = lambda e: low + (peak - low) * wave(min(max(e - c.w, 0) / (c.T - c.w), 1.0))  # noqa: E731
    yield Plant("OtherSetting", told + ")", lr, lambda e: peak * e / c.w if e < c.w else floor(e))


def plants(seed: object) -> list[Plant]:
    """Draw a plant of every mistake."""
    d = Draw(seed)
    lr = d.real(0.05, 0.9)
    return [plant for each in (shapes, cosines, decays, cycles, composites, warmups) for plant in each(d, lr)]


def pairs(seed: object) -> list[tuple[Plant, str]]:
    """Draw plants of two mistakes at once: one of shape, and one of time or scale, which is named second."""
    d, found = Draw(f"pairs {seed}"), []
    chosen = [x for x in plants(f"pairs {seed}") if x.flag in ALONE and x.momentum is None and x.metrics is None]
    for x in chosen:
        same = ("ScheduleBehind", "LrScaled")  # a warm-up that begins later is a warm-up of another kind
        second = str(d.one(*same) if x.scheduler.startswith("LinearLR") else d.one("ScheduleAhead", *same))
        c = d.real(1.2, 3)
        moved: dict[str, Curve] = {
            "ScheduleAhead": lambda e, f=x.curve: f(e + 1),  # type: ignore[misc]
            "ScheduleBehind": lambda e, f=x.curve: f(max(e - 1, 0)),  # type: ignore[misc]
            "LrScaled": lambda e, f=x.curve, c=c: c * f(e),  # type: ignore[misc]
        }
        found.append((x._replace(curve=moved[second]), second))
    return found


ALONE = (
    *("WarmupOneLonger", "WarmupOneShorter", "WarmupFromZero", "CosineForLinear", "EndReturnsToBase", "EndOneLate"),
    *("CosineClamped", "CosineRestarts", "EtaMinFloor", "RestartReachesMinimum", "RestartsNotLengthened"),
    *("ContinuousDecay", "GammaInverted", "ClockNotRestarted"),
)
"""Mistakes that stay what they are beside another."""


def outside(seed: object) -> list[Plant]:
    """Draw curves that are wrong in ways of their own."""
    d = Draw(f"outside {seed}")
    lr = d.real(0.05, 0.9)
    made = [smooth(d, lr), Step(d, lr), Milestones(d, lr), Exponential(d, lr), Restarts(d, lr), Cosine(d, lr)]
    found = []
    for x in made:
        noise = random.Random(f"{seed} {x.text}")
        jitter = [noise.random() - 0.5 for _ in range(EPOCHS)]
        several = ways(x.at, lr, d.whole(20, 100), d.real(0.02, 0.4), jitter)
        found += [Plant("", x.text, lr, way) for way in several]
    return found


def ways(f: Curve, lr: float, k: int, size: float, jitter: list[float]) -> tuple[Curve, ...]:
    """Return curves that are like ``f`` and come from no mistake that has a name."""
    return (
        lambda e: f(e) * (1 + size * jitter[int(e)]),
        lambda e: f(e) * (1.5 if e == k else 1),
        lambda e: f(e) * (1 + size * math.sin(e / 3)),
        lambda e: f(e) + lr * size * e / EPOCHS * (1 + math.cos(e)),
        lambda e: float(f"{f(e):.2g}") * (1 + 0.01 * (int(e) % 7)),
        lambda e: f(e) if int(e) % 3 else lr * size,
        lambda e: lr / math.log(3 + e) * (1 + 0.1 * (f(e) > lr / 2)),
        lambda e: lr * math.exp(-(((e - k) / 30) ** 2)) + f(e) / 7,
    )
