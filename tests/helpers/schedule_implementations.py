"""Schedules of others, as a user adapts them: an object like torch's, functions of a count like optax' and Keras'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from refoptim.conformance.adapters import Adapter, Unsupported, by_count, by_steps
from refoptim.conformance.promises import CLOSE


class Stepped:
    """A scheduler that holds its optimizer, as torch's do: StepLR, in a form of its own."""

    def __init__(self, optimizer: Any, step_size: int, gamma: float) -> None:
        self.optimizer, self.step_size, self.gamma, self.epoch = optimizer, step_size, gamma, 0

    def step(self) -> None:
        self.epoch += 1
        if self.epoch % self.step_size == 0:
            self.optimizer.param_groups[0]["lr"] *= self.gamma


class Holder:
    """An optimizer that has one group and does nothing."""

    def __init__(self, lr: float) -> None:
        self.param_groups = [{"lr": lr, "momentum": 0.9}]


class Objects(Adapter):
    """StepLR alone, stepped."""

    def schedule(self, name: str, settings: Mapping[str, Any], lr: float, epochs: int) -> Any:
        if name != "StepLR":
            raise Unsupported("StepLR alone")
        optimizer = Holder(lr)
        return by_steps(Stepped(optimizer, **settings), optimizer, epochs)


def exponential(lr: float, gamma: float) -> Any:
    """A function of the count, as optax' schedules are."""
    return lambda count: lr * gamma**count


class Functions(Adapter):
    """ExponentialLR alone, in closed form: the same rule, rounded otherwise."""

    ahead = 0

    def schedule(self, name: str, settings: Mapping[str, Any], lr: float, epochs: int) -> Any:
        if name != "ExponentialLR":
            raise Unsupported("ExponentialLR alone")
        f = exponential(lr, **settings)
        return by_count(lambda count: f(count + self.ahead), epochs)


class Ahead(Functions):
    """One step ahead."""

    ahead = 1


class Near(Functions):
    """The closed form, with a promise that allows for rounding."""

    promise = CLOSE(1e-12, 0)


class Decay:
    """An object that is called with the count, as Keras' schedules are: PolynomialDecay."""

    def __init__(self, lr: float, total: int, power: float, wrong: int = 0) -> None:
        self.lr, self.total, self.power = lr, total + wrong, power

    def __call__(self, step: int) -> float:
        return float(self.lr * (1 - min(step, self.total) / self.total) ** self.power)


class Late(Adapter):
    """PolynomialLR, the end of which is reached one epoch late."""

    def schedule(self, name: str, settings: Mapping[str, Any], lr: float, epochs: int) -> Any:
        if name != "PolynomialLR":
            raise Unsupported("PolynomialLR alone")
        return by_count(Decay(lr, settings["total_iters"], settings["power"], wrong=1), epochs)


class Short(Adapter):
    """Forgets the last epoch, returns NaN, or raises, by the name of the scheduler."""

    def schedule(self, name: str, settings: Mapping[str, Any], lr: float, epochs: int) -> Any:
        if name == "StepLR":
            return [lr] * epochs
        if name == "LinearLR":
            return [lr] * epochs + [float("nan")]
        if name == "ConstantLR":
            return {"rates": []}
        raise RuntimeError("broken")
