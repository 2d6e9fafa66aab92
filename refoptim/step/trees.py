"""Trees of arrays, and the names of what they hold.

A tree, or model, is an object with ``parameters()``, and perhaps ``named_parameters()``, ``buffers()`` and
``named_buffers()``; or a dict, list or tuple of arrays, Parameters and trees. Names are paths such as
``encoder.0.weight``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np

from .parameter import Parameter, is_one_array

ADVICE = "make a list of it with refoptim.named_arrays"
"""What to do with a tree where a list is expected."""


def named_arrays(model: Any) -> list[tuple[str, Any]]:
    """Return the paths and the arrays of a tree, as an optimizer takes them: ``Adam(named_arrays(model), lr=0.1)``.

    Args:
        model: an object with ``parameters()``, or a dict, list or tuple of arrays, Parameters and such models.

    Returns:
        Pairs of a path, such as ``encoder.0.weight``, and the array, or the Parameter or other library's array, as the
        model holds it; in the order of the model. None, integers and buffers are left out, and what stands in several
        places has the first of its paths.

    Raises:
        TypeError: ``model`` is no model, or holds something else than arrays; the message names its path.
        ValueError: two arrays have one path, or a part of the model contains itself.
    """
    check_tree(model)
    found: dict[int, tuple[str, Any]] = {}
    for path, x, is_buffer in leaves(model):
        if not is_buffer and _is_trained(path, x):
            found.setdefault(id(x.data if isinstance(x, Parameter) else x), (path, x))
    pairs = list(found.values())
    twice = duplicate(path for path, _ in pairs)
    if twice is not None:
        raise ValueError(f"the paths of arrays must differ, but {twice!r} stands for two")
    return pairs


def check_tree(model: Any) -> None:
    """Raise TypeError for what is no model."""
    if not is_tree(model):
        raise TypeError(
            f"model must be an object with parameters(), or a dict, list or tuple of arrays, got {type(model).__name__}"
        )


def is_tree(x: Any) -> bool:
    """Tell whether ``x`` may hold arrays in some places, and is none itself."""
    return not is_one_array(x) and (isinstance(x, (Mapping, list, tuple)) or hasattr(x, "parameters"))


Leaf: TypeAlias = "tuple[str, Any, bool]"
"""The path of a leaf, the leaf, and whether the tree calls it a buffer."""


def leaves(tree: Any) -> list[Leaf]:
    """Return the leaves of a tree in its order.

    Raises:
        ValueError: a part of the tree contains itself.
    """
    found: list[Leaf] = []
    _collect(tree, "", (), found)
    return found


def _collect(tree: Any, name: str, within: tuple[int, ...], found: list[Leaf]) -> None:
    """Append the leaves of the part ``name`` of a tree, which lies within others, to those that are found."""
    if type(tree) is np.ndarray or not is_tree(tree):
        found.append((name, tree, False))
    elif id(tree) in within:
        raise ValueError(f"{name} of the tree contains itself")
    elif hasattr(tree, "parameters"):
        found += [(join(name, path), x, False) for path, x in _named(tree, "parameters", "")]
        found += [(join(name, path), x, True) for path, x in _named(tree, "buffers", "buffers")]
    else:
        within = (*within, id(tree))
        for key, part in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            _collect(part, join(name, key), within, found)


def _named(model: Any, kind: str, prefix: str) -> Iterable[tuple[Any, Any]]:
    """Return what ``model.parameters()`` or ``.buffers()`` holds: with names, or with positions if it gives none."""
    if hasattr(model, f"named_{kind}"):
        return list(getattr(model, f"named_{kind}")())
    if hasattr(model, kind):
        return [(join(prefix, i), x) for i, x in enumerate(getattr(model, kind)())]
    return []


def join(prefix: str, name: Any) -> str:
    """Join two parts of a path."""
    return f"{prefix}.{name}" if prefix else str(name)


def duplicate(names: Iterable[str]) -> str | None:
    """Return a name that stands twice among ``names``, None if there is none."""
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


def _is_trained(path: str, x: Any) -> bool:
    """Tell whether a leaf is one to be optimized, no number to be counted with; raise TypeError for what is no array.

    Its dtype is looked at, no more: what an optimizer cannot take, it refuses by name.
    """
    if is_left_out(x):
        return False
    if not isinstance(x, Parameter) and not hasattr(x, "dtype"):
        raise TypeError(f"{path} of the model must be an array, got {type(x).__name__}")
    if isinstance(x, np.generic):
        raise TypeError(f"{path} of the model must be an array, got the number {x}: numbers cannot be changed in place")
    return True


def is_left_out(x: Any) -> bool:
    """Tell whether a leaf is None, holds integers or booleans, or JAX's float0, which stands for their gradients."""
    if x is None or isinstance(x, Integral):
        return True
    dtype = getattr(x, "dtype", None)
    name = str(getattr(dtype, "name", dtype)).rpartition(".")[2]
    return name.startswith(("int", "uint", "bool")) or getattr(dtype, "itemsize", 1) == 0
