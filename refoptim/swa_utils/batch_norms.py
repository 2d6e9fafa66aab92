"""Batch-norm statistics, computed afresh for averaged weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Protocol

from .averages import check_writable


class BatchNorm(Protocol):
    """A layer that normalizes batches, as ``update_bn`` sees it.

    In training mode each batch of mean m and unbiased variance v is to change the statistics so::

        num_batches_tracked += 1
        share = momentum, or 1 / num_batches_tracked while momentum is None
        running_mean = (1 - share) * running_mean + share * m
        running_var  = (1 - share) * running_var  + share * v

    Attributes:
        running_mean: the mean, a writable array, or None for a layer that keeps no statistics.
        running_var: the variance, likewise.
        num_batches_tracked: an int, or a writable 0-d array of integers.
        momentum: the share of a new batch, or None for the mean over all batches.

    A layer may also have a ``training`` of its own; it is put back after the pass.
    """

    running_mean: Any
    running_var: Any
    num_batches_tracked: Any
    momentum: float | None


class HasBatchNorms(Protocol):
    """A model, as ``update_bn`` sees it: it can be called on a batch, and it shows its mode and its batch norms."""

    @property
    def training(self) -> bool:
        """Whether the model is in training mode."""

    def __call__(self, batch: Any, /) -> Any:
        """Run the model on a batch."""

    def train(self, mode: bool = True) -> Any:
        """Put all layers into training mode (True) or evaluation mode (False)."""

    def batch_norms(self) -> Iterable[BatchNorm]:
        """Yield the layers that normalize batches, at any depth."""


def update_bn(loader: Iterable[Any], model: HasBatchNorms, device: Any = None) -> None:
    """Compute the batch-norm statistics of a model afresh: the mean over the batches of one pass.

    Args:
        loader: yields batches; of a tuple or list the first element is used.
        model: see ``HasBatchNorms``; an AveragedModel of such a model is one too. Without batch norms nothing is done.
        device: None, or where each batch is moved first, with its ``to`` as torch does, or else its ``to_device``.

    The statistics start at mean 0 and variance 1, momenta are None during the pass, and the model is in training mode.
    Momenta and modes are put back at the end; if the pass raises, the statistics are put back as well.

    Raises:
        TypeError, ValueError: the model or a layer lacks something, or a statistic is read-only. Nothing has changed.
    """
    norms = _batch_norms(model)
    if not norms:
        return
    with _afresh(model, norms):
        for batch in loader:
            first = batch[0] if isinstance(batch, (list, tuple)) else batch
            model(first if device is None else _moved(first, device))


def _moved(batch: Any, device: Any) -> Any:
    """Move a batch to a device, as torch's tensors do it or as the array standard says."""
    return batch.to(device) if hasattr(batch, "to") else batch.to_device(device)


STATISTICS = {"running_mean": 0, "running_var": 1, "num_batches_tracked": 0}
"""The statistics of a batch norm and where they start."""


def _batch_norms(model: Any) -> list[BatchNorm]:
    """Return the batch norms of a model, or raise if it or one of them is not what it should be."""
    _check_has("model", model, ("batch_norms", "training", "train", "__call__"))
    norms = list(model.batch_norms())
    for i, norm in enumerate(norms):
        _check_has(f"batch norm {i}", norm, (*STATISTICS, "momentum"))
        for name in STATISTICS:
            if hasattr(getattr(norm, name), "flags"):
                check_writable(f"{name} of batch norm {i}", getattr(norm, name))
    return norms


def _check_has(what: str, x: Any, names: Sequence[str]) -> None:
    missing = [name for name in names if not hasattr(x, name)]
    if missing:
        raise TypeError(f"{what} must have {', '.join(names)}, but {type(x).__name__} lacks {', '.join(missing)}")


@contextmanager
def _afresh(model: HasBatchNorms, norms: list[BatchNorm]) -> Iterator[None]:
    """Start the statistics afresh, averaged over all batches; at the end put momenta and modes back.

    On an error the statistics are put back too.
    """
    training = model.training
    modes = [(norm, getattr(norm, "training", None), norm.momentum) for norm in norms]
    before = [(norm, name, deepcopy(getattr(norm, name))) for norm in norms for name in STATISTICS]
    try:
        for norm in norms:
            norm.momentum = None
            for name, start in STATISTICS.items():
                _assign(norm, name, start)
        model.train(True)
        yield
    except BaseException:
        for norm, name, value in before:
            _assign(norm, name, value)
        raise
    finally:
        model.train(training)
        for norm, mode, momentum in modes:
            norm.momentum = momentum
            if mode is not None:
                norm.training = mode  # type: ignore[attr-defined]


def _assign(norm: BatchNorm, name: str, value: Any) -> None:
    """Set a statistic: in place if it is an array, not at all if the layer keeps none."""
    old = getattr(norm, name)
    if hasattr(old, "__setitem__"):
        old[...] = value
    elif old is not None:
        setattr(norm, name, value)
