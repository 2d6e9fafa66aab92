"""Keras 3: an optimizer's variables, one behind the other, in memory, in ``.weights.h5`` or in ``.keras``.

A file holds them under ``optimizer/vars/0, 1, …`` without names: the iteration, the learning rate unless it is a
schedule, and then what the rule keeps, in the order of the model's trainable variables.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ...formats.strict import FormatError, parse, require, shown
from ...numerics.arith import Array
from ..errors import CheckpointError
from ..single import LIMITS, damage
from .common import (
    EPS_IN_ROOT,
    LR_INSIDE,
    Difference,
    Slot,
    Target,
    fitted,
    host,
    leaves,
    rescaled,
    same_for_all,
    target,
    warn_of,
)

WEIGHTS = "model.weights.h5"
"""The member of a ``.keras`` file that holds the variables."""


class Kept(NamedTuple):
    """One array that Keras keeps of each parameter: its name there and here; what divides it is a multiple of lr."""

    suffix: str
    name: str
    lr: int = 0


MOMENTS = (Kept("momentum", "exp_avg"), Kept("velocity", "exp_avg_sq"))

LAYOUTS: dict[str, Callable[[Mapping[str, Any]], tuple[tuple[Kept, ...], ...]]] = {
    "SGD": lambda h: ((Kept("momentum", "momentum_buffer", -1),),) if h["momentum"] else (),
    "Adam": lambda h: (MOMENTS, *(((Kept("velocity_hat", "max_exp_avg_sq"),),) if h["amsgrad"] else ())),
    "NAdam": lambda h: (MOMENTS,),
    "Adamax": lambda h: ((Kept("momentum", "exp_avg"), Kept("norm", "exp_inf")),),
    "Adadelta": lambda h: ((Kept("accumulated_grad", "square_avg"), Kept("accumulated_delta_var", "acc_delta")),),
    "Adagrad": lambda h: ((Kept("accumulator", "sum"),),),
    "RMSprop": lambda h: (
        (Kept("velocity", "square_avg"),),
        *(((Kept("momentum", "momentum_buffer", 1),),) if h["momentum"] else ()),
        *(((Kept("average_gradient", "grad_avg"),),) if h["centered"] else ()),
    ),
}
"""What Keras keeps, in its order: block for block, and in each of them parameter for parameter."""

CLASSES = {
    "SGD": "SGD",
    "Adam": "Adam",
    "AdamW": "Adam",
    "Nadam": "NAdam",
    "Adamax": "Adamax",
    "Adadelta": "Adadelta",
    "Adagrad": "Adagrad",
    "RMSprop": "RMSprop",
}
"""The rules by Keras' names of them."""

DECAY = Difference(
    lambda h: h["weight_decay"] and not h.get("decoupled_weight_decay"),
    "weight_decay shrinks the parameter, here it is added to the gradient",
    "DecoupledDecay",
)
EPS_UNSCALED = Difference(
    lambda h: h["eps"], "eps is added to the uncorrected root, here to the corrected one", "EpsUnscaled"
)

DIFFERENCES: dict[str, tuple[Difference, ...]] = {
    "SGD": (DECAY, LR_INSIDE, Difference(lambda h: h["momentum"] and h["dampening"], "it has no dampening")),
    "Adam": (DECAY, EPS_UNSCALED),
    "NAdam": (DECAY, Difference(lambda h: h["momentum_decay"] != 1, "its momentum_decay is 1", "keras")),
    "Adamax": (
        DECAY,
        Difference(lambda h: h["eps"], "eps is added to the maximum, here to the gradient's size", "EpsOutsideMaximum"),
    ),
    "Adadelta": (DECAY,),
    "Adagrad": (DECAY, EPS_IN_ROOT),
    "RMSprop": (DECAY, EPS_IN_ROOT, LR_INSIDE),
}

DECIDING = ("momentum", "amsgrad", "centered")


class Variable(NamedTuple):
    """A variable of an optimizer: its name, empty where a file does not tell, and its value."""

    name: str
    value: Array


def from_keras(source: Any, params: Any, rule: Any, **settings: Any) -> dict[str, Any]:
    """Return a state dict, for ``load_state_dict``, with the state of a Keras optimizer.

    Args:
        source: a Keras optimizer, its ``variables``, or the path of a ``.keras`` or ``.weights.h5`` file, for which
            h5py must be installed. h5py reads such files in C: take them from those you trust.
        params: the parameters by name, in the order of the model's trainable variables. Variables that have names, as
            they have in memory but not in files, are found by them where those of params fit: ``dense/kernel`` or
            ``sequential.dense.kernel`` to ``sequential_dense_kernel_momentum``.
        rule: the optimizer that is to go on, whose parameters have these names, or are these arrays; or its class, and
            its settings. Momentum, in which Keras keeps the learning rate as a factor, is divided by its ``lr``, unless
            it keeps it too, as those of ``refoptim.dialects.keras`` do; with these Keras' own rule goes on.
        settings: of the class.

    Raises:
        CheckpointError: the variables are not those of such an optimizer and such parameters; the message lists them.
        TypeError, ValueError: the rule is none that Keras has, or the parameters are not its own.
        ImportError: h5py is not installed.
        OSError: the file cannot be read.

    Source: Keras 3, https://keras.io/api/optimizers.
    """
    to = target(rule, params, settings, LAYOUTS, "Keras")
    same_for_all(to.slots, DECIDING)
    variables = _variables(source, to.rule)
    ordered = _in_order(variables, {slot.name: slot for slot in to.slots}, [*leaves(params)], to)
    count, kept, tail = _divided(variables, ordered, to)
    state: dict[int, dict[str, Any]] = {}
    for slot in ordered if kept else ():
        product = np.float64 if "MuProductInDouble" in to.dialect else np.float32
        registers = {"mu_product": product(tail[0].value)} if tail else {}
        state[slot.number] = {
            **slot.own,
            **({} if to.rule == "SGD" else {"step": count}),
            **registers,
            **kept[slot.name],
        }
    warn_of("Keras", to, DIFFERENCES)
    return to.filled(state)


# what is kept


def _in_order(variables: Sequence[Variable], slots: Mapping[str, Slot], given: Sequence[str], to: Target) -> list[Slot]:
    """Return the parameters in the order of Keras: as its names say, if they all do, else as they were given."""
    blocks = LAYOUTS[to.rule](to.group)
    suffix = f"_{blocks[0][0].suffix}" if blocks else "_"
    names = [x.name.removesuffix(suffix) for x in variables if x.name.endswith(suffix)]
    plain = {name: re.sub(r"\W", "_", name) for name in given}
    found = [[name for name in given if f"_{theirs}".endswith(f"_{plain[name]}")] for theirs in names]
    unique = all(len(own) == 1 for own in found) and sorted(own[0] for own in found) == sorted(given)
    return [slots[name] for name in ([own[0] for own in found] if unique else given)]


def _divided(
    variables: Sequence[Variable], slots: Sequence[Slot], to: Target
) -> tuple[int, dict[str, dict[str, Array]], Sequence[Variable]]:
    """Return the iteration, what is kept of each parameter, and what stands behind that."""
    blocks, extra = LAYOUTS[to.rule](to.group), int(to.rule == "NAdam")
    wanted = [(slot, kept) for block in blocks for slot in slots for kept in block]
    start = len(variables) - len(wanted) - extra
    if start not in (1, 2) or any(x.value.shape for x in (*variables[:start], *variables[len(variables) - extra :])):
        needs = f"{to.rule} with {len(slots)} parameters needs {1 + len(wanted) + extra} or one more"
        raise CheckpointError(f"{needs} variables, there are {len(variables)}: {_listed(variables)}")
    count = variables[0].value
    if count.dtype.kind not in "iu" or count < 0:
        raise CheckpointError(f"the first variable must be the iteration, there are {_listed(variables)}")
    found: dict[str, dict[str, Array]] = {}
    for (slot, kept), variable in zip(wanted, variables[start:], strict=False):
        found.setdefault(slot.name, {})[kept.name] = _carried(variable, kept, slot, variables, to)
    return int(count), found, variables[len(variables) - extra :]


def _carried(variable: Variable, kept: Kept, slot: Slot, variables: Sequence[Variable], to: Target) -> Array:
    """Return what is kept of a parameter, and not what another rule has kept."""
    if variable.name and not variable.name.endswith(f"_{kept.suffix}"):
        expected = f"the {kept.suffix} of {slot.name} is expected where {shown(variable.name)} stands"
        raise CheckpointError(f"{expected}; there are {_listed(variables)}")
    x = fitted(variable.value, slot, variable.name or kept.suffix)
    return rescaled(x, kept.lr, slot, kept.suffix, to) if kept.lr else x


def _listed(variables: Sequence[Variable]) -> str:
    forms = [f"{x.name or i}: {x.value.dtype} of shape {x.value.shape}" for i, x in enumerate(variables)]
    return "; ".join([*forms[:20], *(["…"] if len(forms) > 20 else [])]) or "none"


# where variables come from


def _variables(source: Any, rule: str) -> list[Variable]:
    if isinstance(source, (str, Path)):
        return _from_file(Path(source), rule)
    found = getattr(source, "variables", source)
    if not isinstance(found, (list, tuple)):
        raise TypeError(f"source must be variables of Keras, or a path, got {type(source).__name__}")
    return [Variable(str(getattr(x, "name", "")), host(x)) for x in found]


def _from_file(path: Path, rule: str) -> list[Variable]:
    with damage(path.name):
        zipped = path.suffix.lower() == ".keras"
        require(zipped or path.suffix.lower() == ".h5", f"{path.name} is no file of Keras: .keras or .weights.h5")
        opened = _unpacked(path, rule) if zipped else path.open("rb")
    with opened as file:
        h5py = _h5py()
        with damage(path.name):
            return _from_h5(h5py, file, path.name)


def _unpacked(path: Path, rule: str) -> BinaryIO:
    """Return the member of a zip file that holds the variables; its description must name no other rule."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        require(WEIGHTS in names and "config.json" in names, f"{path.name} holds no {WEIGHTS}, or no config.json")
        sizes = archive.getinfo(WEIGHTS).file_size, archive.getinfo("config.json").file_size
        require(sum(sizes) <= 2 * path.stat().st_size + (1 << 24), f"{path.name} unpacks to more than can be read")
        require(sizes[1] <= LIMITS.header, f"{path.name} has a description that is too large")
        config = parse(archive.read("config.json"), f"{path.name}: config.json", LIMITS)
        found = _class_name(config)
        other = f"{path.name} holds the state of {shown(found)}, which {rule} does not go on with"
        require(found is None or CLASSES.get(str(found)) == rule, other)
        return io.BytesIO(archive.read(WEIGHTS))


def _class_name(config: Any) -> Any:
    """Return the name of the optimizer's class in a description, None if there is none."""
    for key in ("compile_config", "optimizer"):
        config = config.get(key) if isinstance(config, dict) else None
    if isinstance(config, dict) and config.get("class_name") == "LossScaleOptimizer":
        return "LossScaleOptimizer"
    return config.get("class_name") if isinstance(config, dict) else None


def _from_h5(h5py: Any, source: BinaryIO, where: str) -> list[Variable]:
    try:
        with h5py.File(source, "r") as file:
            group = file.get("optimizer/vars")
            require(group is not None, f"{where} holds no optimizer: save the model after it was compiled and trained")
            names = sorted(group, key=lambda name: int(name) if re.fullmatch(r"\d{1,9}", name) else -1)
            require(names == [str(i) for i in range(len(names))], f"{where} has variables {shown(names)}")
            return [Variable("", np.asarray(group[name][()])) for name in names]
    except OSError as error:  # of its own: the file has been opened
        raise FormatError(f"{where} cannot be read: {shown(str(error))}") from None


def _h5py() -> Any:
    try:
        return import_module("h5py")
    except ImportError:
        raise ModuleNotFoundError("files of Keras need h5py: pip install h5py") from None
