"""The state of optimizers of other libraries, carried over into refoptim's, and for optax back.

::

    optimizer = refoptim.Adam([("dense.w", w), ("dense.b", b)], lr=1e-3)
    optimizer.load_state_dict(from_optax(opt_state, {"dense": {"w": w, "b": b}}, optimizer))
    optimizer.load_state_dict(from_keras("run.weights.h5", {"w": w, "b": b}, optimizer))

What the other library has counted and averaged is carried over exactly. Its *rule* may be another: where it is, and the
settings let it show, a warning says how. Neither optax, JAX nor Keras is imported; h5py is, for files of Keras.
"""

from __future__ import annotations

from .keras import from_keras
from .optax import from_optax, to_optax

__all__ = ["from_keras", "from_optax", "to_optax"]
