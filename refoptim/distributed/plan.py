"""What a step costs on more ranks than there are here: volume, time and memory, by a model of two numbers.

A message of ``n`` bytes takes ``latency + n / bandwidth`` seconds, and a rank sends and receives one at a time. In an
exchange each rank sends to each other its part; so for gradients of ``g`` bytes on ``N`` ranks, of which about
``bucket`` bytes are on their way at once,

.. code-block:: text

    volume = g * (N - 1) / N                                           as much as a ring needs, per piece
    time   = rounds * (N - 1) * latency + volume / bandwidth           rounds = max(1, g / bucket)

and likewise for the parameters, which go to all. Agreements take ``3 * ceil(log2(N)) * latency``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .sharded import BUCKET

AGREEMENTS = 3
"""How often ranks agree in a step with one piece each."""


class Link(NamedTuple):
    """How long a message takes: seconds before its first byte, and bytes per second."""

    latency: float
    bandwidth: float

    @classmethod
    def fitted(cls, sizes: Sequence[float], seconds: Sequence[float]) -> Link:
        """Return the link that fits measured messages: least squares of relative errors.

        Raises:
            ValueError: the times do not grow with the sizes.
        """
        weights = 1 / np.asarray(seconds, np.float64)
        matrix = np.stack([np.ones(len(sizes)), np.asarray(sizes, np.float64)], axis=1) * weights[:, None]
        (latency, slope), *_ = np.linalg.lstsq(matrix, np.ones(len(sizes)), rcond=None)
        if not slope > 0:
            raise ValueError(f"messages of more bytes must take longer, got {seconds} for {sizes}")
        return cls(max(float(latency), 0.0), float(1 / slope))


class Plan(NamedTuple):
    """What a step costs a rank: bytes that it sends, seconds in which that is done, and bytes that it holds."""

    volume: float
    exchange: float
    gather: float
    agreement: float
    memory: float

    @property
    def seconds(self) -> float:
        """All the time that ranks talk."""
        return self.exchange + self.gather + self.agreement


def plan(
    parameters: float,
    ranks: int,
    link: Link,
    *,
    gradient: int = 4,
    parameter: int = 4,
    state: int = 8,
    pieces: int = 1,
    bucket: int = BUCKET,
) -> Plan:
    """Return what a step costs.

    Args:
        parameters: how many numbers are optimized.
        ranks: how many ranks there are.
        link: how long messages take.
        gradient: bytes of a number of the gradient; 2 in 16 bits.
        parameter: bytes of a parameter.
        state: bytes of state of a parameter: 8 for Adam in float32, 12 for Adam with a master copy.
        pieces: exchanges of a step: 1 where a rank sums its own pieces before.
        bucket: that of the optimizer.
    """
    g, p = gradient * parameters, parameter * parameters
    exchange, gather = (_time(n, ranks, link, bucket) for n in (g, p))
    agreement = (AGREEMENTS + pieces - 1) * (ranks - 1).bit_length() * link.latency
    memory = p + g + (state + gradient) * parameters / ranks + 4 * min(bucket, g)
    volume = (pieces * g + p) * (ranks - 1) / ranks
    return Plan(volume, pieces * exchange, gather, agreement, memory)


COLUMNS = ("parameters", "ranks", "GB sent", "exchange s", "gather s", "GB held")
"""What a table of plans says: of each rank, for one step."""


def rows(link: Link, ranks: Sequence[int] = (8, 64, 1024), bucket: int = BUCKET) -> list[list[str]]:
    """Return a table of plans: 10**9 to 10**12 parameters in float32, with Adam's state."""
    found = []
    for exponent in (9, 10, 11, 12):
        for n in ranks:
            x = plan(float(f"1e{exponent}"), n, link, bucket=bucket)
            numbers = [f"{y:,.2f}" for y in (x.volume / 1e9, x.exchange, x.gather)]
            found.append([f"10^{exponent}", str(n), *numbers, f"{x.memory / 1e9:,.1f}"])
    return found


def _time(nbytes: float, ranks: int, link: Link, bucket: int) -> float:
    rounds = max(1.0, nbytes / bucket)
    return rounds * (ranks - 1) * link.latency + nbytes * (ranks - 1) / ranks / link.bandwidth
