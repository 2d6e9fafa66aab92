"""torch.optim on arrays: a NumPy reference that defines every update, exact to the bit."""

from __future__ import annotations

from .engines.reference import get_num_threads, rounding, set_num_threads
from .hooks import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from .optimizer import Optimizer
from .optimizers.adam import Adam
from .optimizers.adamw import AdamW
from .optimizers.sgd import SGD
from .parameter import Parameter
from .rule import get_default_dtype, set_default_dtype
from .sparse import SparseGrad

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Optimizer",
    "Parameter",
    "SparseGrad",
    "get_default_dtype",
    "get_num_threads",
    "register_optimizer_step_post_hook",
    "register_optimizer_step_pre_hook",
    "rounding",
    "set_default_dtype",
    "set_num_threads",
]
