"""What an optimizer keeps per Parameter, found by the array of the Parameter too."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from ..numerics.array_types import bounds, is_array, place
from .parameter import Parameter, as_array


class States(defaultdict[Any, dict[str, Any]]):
    """A dict of dicts by Parameter, as torch's: a Parameter that has none yet gets one by being asked for.

    An array, or a tensor, stands for the Parameter that was made of it. If none of those that have state was, that is a
    KeyError, and no entry is made. Only asking works like this: what is put in is put in as by any dict, by a function
    written in C, which no signal handler interrupts.
    """

    def __getitem__(self, key: Any) -> dict[str, Any]:
        return super().__getitem__(key if isinstance(key, Parameter) else self._parameter(key))

    def _parameter(self, key: Any) -> Any:
        """Return the Parameter of an array; a key that is no array as it is."""
        if isinstance(key, np.generic) or not (is_array(key) or hasattr(key, "__dlpack__")):
            return key
        for p in self:
            if isinstance(p, Parameter) and (p.data is key or _are_one(p.data, key)):
                return p
        raise KeyError(
            "no Parameter made of this array has state: the state is kept by Parameter, and these stand in "
            "param_groups[i]['params']"
        )


def _are_one(x: Any, key: Any) -> bool:
    """Tell whether an array, or what hands one over, is all of the array ``x``, element for element."""
    try:
        y = as_array(key)
    except TypeError:
        return False
    layout = (place(x), x.shape, x.strides, x.dtype) == (place(y), y.shape, y.strides, y.dtype)
    return bool(layout and bounds(x) == bounds(y))
