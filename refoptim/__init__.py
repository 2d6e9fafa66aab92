"""torch.optim on arrays: a NumPy reference that defines every update, exact to the bit."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

from . import amp, clip_grad, functional, lr_scheduler, swa_utils, transforms
from .engines.reference import rounding
from .engines.threads import get_num_threads, set_num_threads
from .optimizers.adabelief import AdaBelief
from .optimizers.adadelta import Adadelta
from .optimizers.adafactor import Adafactor
from .optimizers.adagrad import Adagrad
from .optimizers.adam import Adam
from .optimizers.adam8bit import Adam8bit
from .optimizers.adamax import Adamax
from .optimizers.adamw import AdamW
from .optimizers.adamw8bit import AdamW8bit
from .optimizers.adan import Adan
from .optimizers.ademamix import AdEMAMix
from .optimizers.adopt import ADOPT
from .optimizers.asgd import ASGD
from .optimizers.base import Optimizer
from .optimizers.conjugate_gradient import ConjugateGradient
from .optimizers.ftrl import FTRL
from .optimizers.lamb import LAMB
from .optimizers.lars import LARS
from .optimizers.lbfgs import LBFGS
from .optimizers.lion import Lion
from .optimizers.mars import MARS
from .optimizers.muon import Muon
from .optimizers.nadam import NAdam
from .optimizers.novograd import NovoGrad
from .optimizers.prodigy import Prodigy
from .optimizers.radam import RAdam
from .optimizers.rmsprop import RMSprop
from .optimizers.rprop import Rprop
from .optimizers.schedule_free_adamw import ScheduleFreeAdamW
from .optimizers.schedule_free_radam import ScheduleFreeRAdam
from .optimizers.schedule_free_sgd import ScheduleFreeSGD
from .optimizers.sgd import SGD
from .optimizers.soap import SOAP
from .optimizers.sophia import Sophia
from .optimizers.sparse_adam import SparseAdam
from .optimizers.stable_adamw import StableAdamW
from .optimizers.swap import swap_in_optimizer_params_and_state
from .optimizers.yogi import Yogi
from .step.hooks import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from .step.parameter import Parameter
from .step.rule import get_default_dtype, set_default_dtype
from .step.sparse import SparseGrad
from .step.trees import named_arrays
from .transforms import SAM, Lookahead

__version__ = "0.2.0"

__all__ = [
    "ADOPT",
    "ASGD",
    "FTRL",
    "LAMB",
    "LARS",
    "LBFGS",
    "MARS",
    "SAM",
    "SGD",
    "SOAP",
    "AdEMAMix",
    "AdaBelief",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "Adam8bit",
    "AdamW",
    "AdamW8bit",
    "Adamax",
    "Adan",
    "ConjugateGradient",
    "Lion",
    "Lookahead",
    "Muon",
    "NAdam",
    "NovoGrad",
    "Optimizer",
    "Parameter",
    "Prodigy",
    "RAdam",
    "RMSprop",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeRAdam",
    "ScheduleFreeSGD",
    "Sophia",
    "SparseAdam",
    "SparseGrad",
    "StableAdamW",
    "Yogi",
    "amp",
    "clip_grad",
    "functional",
    "get_default_dtype",
    "get_num_threads",
    "lr_scheduler",
    "named_arrays",
    "register_optimizer_step_post_hook",
    "register_optimizer_step_pre_hook",
    "rounding",
    "set_default_dtype",
    "set_num_threads",
    "swa_utils",
    "swap_in_optimizer_params_and_state",
    "transforms",
]

with suppress(ModuleNotFoundError):  # a checkout has none
    import_module("refoptim.kernels")
