"""AdEMAMix: the growth of its slow average against mpmath, and what it refuses."""

from __future__ import annotations

import pytest

import refoptim
from refoptim.optimizers.ademamix import grown_alpha, grown_beta


@pytest.mark.parametrize("horizon", [20, 1234.5])
def test_the_growth_is_that_of_real_arithmetic(horizon: float) -> None:
    mpmath = pytest.importorskip("mpmath", reason="the witness of logarithms is not installed")
    beta1, beta3, alpha = 0.9, 0.9999, 5.0
    with mpmath.workdps(40):
        l1, l3 = mpmath.log(beta1), mpmath.log(beta3)
        for k in (1, 2, 7, 19, 20, 21, 2000):
            part = mpmath.mpf(k) / horizon
            beta = min(mpmath.exp(l1 * l3 / ((1 - part) * l3 + part * l1)), beta3) if part < 1 else beta3
            assert grown_beta(beta1, beta3, horizon, k) == pytest.approx(float(beta), rel=1e-15)
            assert grown_alpha(alpha, horizon, k) == pytest.approx(float(min(part * alpha, alpha)), rel=1e-15)


def test_the_first_step_begins_near_the_fast_average() -> None:
    assert grown_beta(0.9, 0.9999, 1e9, 1) == pytest.approx(0.9, rel=1e-5)
    assert grown_beta(0.9, 0.9999, None, 1) == 0.9999


@pytest.mark.parametrize("betas", [(0.0, 0.999, 0.9999), (0.9, 0.999, 0.0)])
def test_growth_needs_logarithms(betas: tuple[float, float, float]) -> None:
    refoptim.AdEMAMix([{"params": []}], betas=betas)
    with pytest.raises(ValueError, match=r"they must not be 0"):
        refoptim.AdEMAMix([{"params": []}], betas=betas, t_alpha_beta3=10)
    with pytest.raises(ValueError, match=r"t_alpha_beta3 must be in \(0, inf\)"):
        refoptim.AdEMAMix([{"params": []}], t_alpha_beta3=0)
