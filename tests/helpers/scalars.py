"""The steps of a rule in a kernel, beside what the rule makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np

import refoptim
from helpers import wider
from refoptim.engines.host import Host
from refoptim.engines.kernel import Kernel, kernel_of
from refoptim.step.rule import Rule, needs_whole, resolve

SETTINGS: dict[str, dict[str, Any]] = {
    "SGD": dict(lr=0.07, momentum=0.9, dampening=0.3, weight_decay=0.05),
    "Adam": dict(lr=0.02, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.05, amsgrad=True),
    "AdamW": dict(lr=0.03, betas=(0.7, 0.999), eps=1e-4, weight_decay=0.2),
    "NAdam": dict(lr=0.02, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.05, momentum_decay=0.03),
    "RAdam": dict(lr=0.02, betas=(0.8, 0.995), eps=1e-3, weight_decay=0.05, decoupled_weight_decay=True),
    "Adamax": dict(lr=0.02, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.05),
    "Adadelta": dict(lr=0.7, rho=0.8, eps=1e-3, weight_decay=0.05),
    "Adagrad": dict(lr=0.1, lr_decay=0.1, weight_decay=0.05, initial_accumulator_value=0.3, eps=1e-3),
    "RMSprop": dict(lr=0.02, alpha=0.8, eps=1e-3, weight_decay=0.05, momentum=0.5, centered=True),
    "Rprop": dict(lr=0.03, etas=(0.4, 1.3), step_sizes=(1e-3, 0.5)),
    "ASGD": dict(lr=0.05, lambd=0.02, alpha=0.6, t0=2.5, weight_decay=0.05),
    "SparseAdam": dict(lr=0.02, betas=(0.8, 0.95), eps=1e-3),
    **{
        name: x
        for name, x in wider.WIDER.items()
        if not needs_whole(getattr(refoptim, name)) or getattr(refoptim, name).in_single
    },
}

OF_THE_BUCKET = {"sparse": 0, "unmade": 0, "estimated": 0}
"""Fields of a record that no room computes."""


class Steps:
    """The steps of a rule in a kernel, beside what the room makes of them."""

    def __init__(self, name: str, number: str, default: str, settings: dict[str, Any]) -> None:
        self.rule: type[Rule] = getattr(refoptim, name)
        group = self.rule([np.zeros(1)], **settings).param_groups[0]  # type: ignore[call-arg]
        self.h = resolve(self.rule, group)
        found = kernel_of(self.rule)
        assert found
        self.kernel: Kernel = found
        default = "float64" if self.rule.double_registers else default
        self.entry = f"{self.kernel.name}_scalars_{number}_{default}"
        self.number, self.default = np.dtype(number), np.dtype(default)
        self.first = {key: self.default.type(x) for key, x in self.rule.registers(self.h).items()}
        self.counter = np.array([0, *self.first.values()], np.float64)
        self.record = np.full(len(self.kernel.record), -77, self.number)

    def hypers(self) -> np.void:
        fields = [(key, np.float64, (n,) if n > 1 else ()) for key, n in self.kernel.hypers]
        values = tuple(getattr(self.h, key) for key, _ in self.kernel.hypers)
        struct: np.void = np.array(values, np.dtype(fields))[()]
        return struct

    def launch(self, machine: Host, lr: Any = None, found_inf: Any = None, blocks: int = 1) -> None:
        arguments = (self.hypers(), lr, self.counter, self.record, found_inf)
        machine.launch(self.kernel.stem, self.entry, blocks, *arguments)

    def registers(self) -> dict[str, Any]:
        return dict(zip(self.first, self.counter[1:].astype(self.default), strict=True))

    def expected(self, h: Any) -> tuple[list[Any], list[float]]:
        """Return the record and the counter after the next step, by the room."""
        k = int(self.counter[0]) + 1
        found = {**OF_THE_BUCKET, **self.rule.scalars(h, k, self.registers())}
        if "unmade" in self.kernel.record:
            found["unmade"] = k == 1
        after = self.rule.advance(h, k, self.registers())
        assert all(x.dtype == self.default for x in after.values())
        return [float(found[key]) for key in self.kernel.record], [k, *map(float, after.values())]
