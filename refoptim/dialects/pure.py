"""The pure rules of presets: what concerns whole steps, not one parameter, comes before and after refoptim's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..functional import State, Step, pure_step
from ..numerics.arith import Array

Taken = tuple[list[Array], list[State]]


def pure_preset(made: Any) -> Step:
    """Return the pure rule of a preset."""
    step = pure_step(made)
    if "MuProductShared" in made.flags:
        step = one_after_another(step)
    return filled(step) if "MovedWithoutGradient" in made.flags else step


def filled(step: Any) -> Step:
    """Return a pure rule that takes a missing gradient for zeros."""

    def with_zeros(params: Sequence[Array], grads: Sequence[Any], state: Any, t: int, **settings: Any) -> Taken:
        """Take a step in which every parameter has a gradient."""
        taken: Taken = step(params, zeros_for(params, grads), state, t, **settings)
        return taken

    def apply(static: Any, varying: Mapping[str, Any], params: Any, grads: Any, state: Any) -> Taken:
        """Take a step with the numbers that ``scalars`` computed."""
        taken: Taken = step.apply(static, varying, params, zeros_for(params, grads), state)
        return taken

    with_zeros.scalars, with_zeros.apply = step.scalars, apply  # type: ignore[attr-defined]
    found: Any = with_zeros
    return found  # type: ignore[no-any-return]


def zeros_for(params: Sequence[Array], grads: Sequence[Any]) -> list[Any]:
    """Return gradients with zeros in the place of missing ones."""
    return [0 * p if g is None else g for p, g in zip(params, grads, strict=True)]


def one_after_another(step: Any) -> Step:
    """Return a pure rule whose parameters multiply one product, one after another."""

    def in_turn(params: Sequence[Array], grads: Sequence[Any], state: Any, t: int, **settings: Any) -> Taken:
        """Take a step for one parameter after another."""
        new, kept = list(params), [dict(x) for x in state or ({} for _ in params)]
        product = next((x["mu_product"] for x in kept if "mu_product" in x), None)
        for i, g in enumerate(grads):
            if g is None:
                continue
            own = None if product is None else [{**kept[i], "mu_product": product}]
            (new[i],), (kept[i],) = step([new[i]], [g], own, t, **settings)
            product = kept[i]["mu_product"]
        return new, [{**x, "mu_product": product} if x else x for x in kept]

    def refused(*_: Any, **__: Any) -> Any:
        """Say that the numbers of a step are not the same for all parameters."""
        raise NotImplementedError("each parameter has another mu_product: call the function, or step parameters alone")

    in_turn.scalars = in_turn.apply = refused  # type: ignore[attr-defined]
    found: Any = in_turn
    return found  # type: ignore[no-any-return]
