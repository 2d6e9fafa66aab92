"""The rectification of the variance of an adaptive step: RAdam's."""

from __future__ import annotations

from ..numerics.power import power


def rectification(rho: float, rho_inf: float) -> float:
    """Return the factor that keeps the variance of the step what it would be at ``rho_inf`` (equation 5)."""
    ratio: float = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
    return power(ratio, 0.5)
