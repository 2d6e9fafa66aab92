"""Recipes for groups: no weight decay where there should be none, and smaller learning rates for earlier layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ..numerics.power import power
from ..step import hyper as hp

Named = Iterable[tuple[str, Any]] | Mapping[str, Any]

DECAY = hp.Real("", interval=hp.Interval("(0, 1]"))


def param_groups(
    named: Named,
    *,
    no_decay: bool | Sequence[str] = True,
    layer_decay: float | None = None,
    layers: Sequence[str] | Callable[[str], int] = (),
    lr: float | None = None,
    weight_decay: float | None = None,
    min_scale: float = 0.0,
) -> list[dict[str, Any]]:
    """Return the groups that an optimizer is made of, from parameters with their names.

    .. code-block:: text

        weight_decay = 0 for a parameter with fewer than two axes, or whose name ends in ".bias" or matches no_decay
        lr           = lr * max(min_scale, layer_decay ** (last layer - layer))

    Args:
        named: pairs of a name and an array, as ``refoptim.named_arrays`` and torch's ``named_parameters`` give them, or
            a dict of them.
        no_decay: True for the rule above; a list of patterns, as ``fnmatch`` has them, for these names besides; False
            for none.
        layer_decay: the ratio of one layer's learning rate to that of the layer after it, in (0, 1]; needs ``lr`` and
            ``layers``.
        layers: patterns of names from the first layer to the last; a name belongs to the first that it matches, and to
            a layer of its own after them all if it matches none. Or a function from a name to the number of its layer.
        lr: the learning rate of the last layer; None leaves that to the optimizer.
        weight_decay: of the parameters that have one; None leaves that to the optimizer.
        min_scale: what the factor of a learning rate is at least, in [0, 1].

    Returns:
        Groups in the order of the layers, in each layer those with weight decay first; their parameters keep their
        order, and their names.

    Raises:
        TypeError, ValueError: an argument is wrong, or two parameters have one name.
    """
    pairs = _pairs(named)
    patterns = _patterns(no_decay)
    scale = _scales(pairs, layer_decay, layers, lr, min_scale)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, x in pairs:
        spared = patterns is not None and _is_spared(name, x, patterns)
        layer, factor = scale(name)
        settings: dict[str, Any] = {} if lr is None else {"lr": lr * factor}
        if spared or weight_decay is not None:
            settings["weight_decay"] = 0.0 if spared else weight_decay
        groups.setdefault((layer, spared), {"params": [], **settings})["params"].append((name, x))
    return [groups[key] for key in sorted(groups)]


def _pairs(named: Any) -> list[tuple[str, Any]]:
    pairs = list(named.items() if isinstance(named, Mapping) else named)
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], str):
            raise TypeError(f"named must hold pairs of a name and an array, got {type(pair).__name__}")
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two parameters are named {twice!r}")
    return pairs


def _patterns(no_decay: Any) -> list[str] | None:
    """Return the patterns of names without weight decay, None if there is no rule at all."""
    if isinstance(no_decay, bool):
        return [] if no_decay else None
    if isinstance(no_decay, str) or not all(isinstance(x, str) for x in no_decay):
        raise TypeError(f"no_decay must be True, False or a list of patterns, got {no_decay!r}")
    return list(no_decay)


def _is_spared(name: str, x: Any, patterns: Sequence[str]) -> bool:
    few = len(x.shape) < 2
    return few or name.endswith(".bias") or any(fnmatchcase(name, pattern) for pattern in patterns)


def _scales(
    pairs: Sequence[tuple[str, Any]], layer_decay: Any, layers: Any, lr: Any, min_scale: Any
) -> Callable[[str], tuple[int, float]]:
    """Return what tells the layer of a name, and the factor of its learning rate."""
    if layer_decay is None:
        return lambda name: (0, 1.0)
    decay = DECAY.resolve("layer_decay", layer_decay)
    least = hp.Real("", interval=hp.Interval("[0, 1]")).resolve("min_scale", min_scale)
    if lr is None or not layers:
        raise ValueError("layer_decay needs lr, the learning rate of the last layer, and layers")
    number = layers if callable(layers) else _by_pattern(list(layers))
    last = max((number(name) for name, _ in pairs), default=0)
    return lambda name: (number(name), max(least, power(decay, last - number(name))))


def _by_pattern(layers: Sequence[str]) -> Callable[[str], int]:
    def number(name: str) -> int:
        return next((i for i, pattern in enumerate(layers) if fnmatchcase(name, pattern)), len(layers))

    return number
