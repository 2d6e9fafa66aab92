"""The rectification of the variance of an adaptive step: RAdam's."""

from __future__ import annotations

from ..numerics.power import power


def longest(beta2: float) -> float:
    """Return rho_inf, what ``length`` comes to after many steps."""
    return 2 / (1 - beta2) - 1


def length(beta2: float, k: int) -> float:
    """Return rho, the length of a simple moving average like that of the squares after ``k`` steps."""
    return longest(beta2) - 2 * k * power(beta2, k) / (1 - power(beta2, k))


def rectification(rho: float, rho_inf: float) -> float:
    """Return the factor that keeps the variance of the step what it would be at ``rho_inf`` (equation 5)."""
    ratio: float = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
    return power(ratio, 0.5)
