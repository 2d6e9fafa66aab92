"""update_bn: the statistics of batch norms are those of torch, and every mode comes back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.averages import Broken
from helpers.oracle import rng_of
from refoptim import Parameter, swa_utils
from refoptim.swa_utils import AveragedModel


class Norm:
    """A batch norm over the rows of a matrix, as ``update_bn`` asks for one."""

    def __init__(self, n: int, momentum: float | None, count: Any) -> None:
        self.running_mean: Any = np.full(n, 0.5)
        self.running_var: Any = np.full(n, 3.0)
        self.num_batches_tracked = count
        self.momentum = momentum
        self.training = False

    def __call__(self, x: Any) -> Any:
        mean, var = x.mean(axis=0), x.var(axis=0)
        if self.training and self.running_mean is not None:
            self.num_batches_tracked += 1
            share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean += share * (mean - self.running_mean)
            self.running_var += share * (len(x) / (len(x) - 1) * var - self.running_var)
        elif self.running_mean is not None:
            mean, var = self.running_mean, self.running_var
        return (x - mean) / np.sqrt(var + 1e-5)


class Normed:
    """norm, linear, norm: the second sees what the first makes of a batch."""

    def __init__(self, fails_at: int = -1) -> None:
        self.weight = Parameter(np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75]]))
        self.bias = np.array([0.5, -2.0, 3.0])
        self.norms = [Norm(2, 0.3, np.array(7)), Norm(3, 0.1, 5)]
        self.training = True
        self.calls, self.fails_at = 0, fails_at
        self.modes: list[Any] = []

    def __call__(self, x: Any) -> Any:
        self.calls += 1
        if self.calls == self.fails_at:
            raise Broken("on purpose")
        self.modes.append((self.training, [norm.momentum for norm in self.norms]))
        return self.norms[1](self.norms[0](x) @ self.weight.data + self.bias)

    def parameters(self) -> list[Parameter]:
        return [self.weight]

    def train(self, mode: bool = True) -> None:
        self.training = mode
        for norm in self.norms:
            norm.training = mode

    def batch_norms(self) -> list[Norm]:
        return self.norms

    def statistics(self) -> list[Any]:
        names = ("running_mean", "running_var", "num_batches_tracked", "momentum", "training")
        found = [np.array(getattr(norm, name)).tolist() for norm in self.norms for name in names]
        return [*found, self.training]


def batches() -> list[Any]:
    rng = rng_of("batches")
    return [3 * rng.standard_normal((rows, 2)) - 1 for rows in (6, 9, 4, 17)]


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_statistics_are_those_of_torch(training: bool) -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    ours = Normed()
    layers = [torch.nn.BatchNorm1d(2, momentum=0.3), torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)]
    theirs = torch.nn.Sequential(*layers).double()
    theirs[1].weight.data.copy_(torch.from_numpy(ours.weight.data.T.copy()))
    theirs[1].bias.data.copy_(torch.from_numpy(ours.bias))
    ours.train(training)
    theirs.train(training)
    swa_utils.update_bn([(x, "label") for x in batches()], ours)
    torch.optim.swa_utils.update_bn([torch.from_numpy(x) for x in batches()], theirs)
    assert ours.modes == [(True, [None, None])] * 4
    assert (ours.training, [norm.momentum for norm in ours.norms]) == (theirs.training, [0.3, 0.1])
    for norm, layer in zip(ours.norms, (theirs[0], theirs[2]), strict=True):
        np.testing.assert_allclose(norm.running_mean, layer.running_mean.numpy(), rtol=1e-12)
        np.testing.assert_allclose(norm.running_var, layer.running_var.numpy(), rtol=1e-12)
        assert int(norm.num_batches_tracked) == int(layer.num_batches_tracked) == 4
        assert norm.training is training


def test_the_statistics_of_an_average_are_the_means_over_the_batches() -> None:
    model = Normed()
    average = AveragedModel(model)
    kept = model.statistics()
    swa_utils.update_bn(iter(batches()), average, device="cpu")
    first = average.module.norms[0]
    np.testing.assert_allclose(first.running_mean, np.mean([x.mean(axis=0) for x in batches()], axis=0), rtol=1e-13)
    np.testing.assert_allclose(
        first.running_var, np.mean([x.var(axis=0, ddof=1) for x in batches()], axis=0), rtol=1e-13
    )
    assert first.num_batches_tracked.tolist() == average.module.norms[1].num_batches_tracked == 4
    assert model.statistics() == kept
    assert average.training
    assert not average.eval().training


def test_each_layer_gets_its_own_mode_back() -> None:
    model = Normed()
    model.train()
    model.norms[1].training = False
    swa_utils.update_bn(batches(), model)
    assert [model.training, *(norm.training for norm in model.norms)] == [True, True, False]
    assert model.norms[1].num_batches_tracked == 4


def test_a_layer_without_statistics_is_left_without() -> None:
    model = Normed()
    model.norms[0].running_mean = model.norms[0].running_var = model.norms[0].num_batches_tracked = None
    swa_utils.update_bn(batches(), model)
    assert model.norms[0].running_mean is None
    assert model.norms[1].num_batches_tracked == 4


def test_nothing_is_done_without_batch_norms() -> None:
    model = Normed()
    model.norms = []
    swa_utils.update_bn((pytest.fail(reason="the loader was read") for _ in range(1)), model)
    assert model.calls == 0


@pytest.mark.parametrize("training", [True, False])
def test_a_pass_that_raises_leaves_everything_as_it_was(training: bool) -> None:
    model = Normed(fails_at=3)
    model.train(training)
    model.norms[0].training = not training
    arrays = [norm.running_var for norm in model.norms]
    kept = model.statistics()
    with pytest.raises(Broken):
        swa_utils.update_bn(batches(), model)
    assert model.modes == [(True, [None, None])] * 2
    assert model.statistics() == kept
    assert all(norm.running_var is x for norm, x in zip(model.norms, arrays, strict=True))


def test_a_model_that_does_not_show_what_is_needed_is_refused() -> None:
    with pytest.raises(TypeError, match=r"model must have batch_norms, .* but dict lacks batch_norms"):
        swa_utils.update_bn(batches(), {"w": np.ones(2)})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"model must have .* but AveragedModel lacks training"):
        swa_utils.update_bn(batches(), AveragedModel([np.ones(2)]))
    model = Normed()
    del model.norms[1].running_var
    with pytest.raises(TypeError, match=r"batch norm 1 must have .* but Norm lacks running_var"):
        swa_utils.update_bn(batches(), model)
    model = Normed()
    model.norms[1].running_var.flags.writeable = False
    kept = model.statistics()
    with pytest.raises(ValueError, match="running_var of batch norm 1 must be writable"):
        swa_utils.update_bn(batches(), model)
    assert model.statistics() == kept


@pytest.mark.parametrize("way", ["to", "to_device"])
def test_batches_are_moved_as_torch_moves_them_or_as_the_array_standard_says(way: str) -> None:
    moved = []

    class Batch:
        def __init__(self, array: Any) -> None:
            self.array = array

    def move(self: Any, device: Any) -> Any:
        moved.append(device)
        return self.array

    setattr(Batch, way, move)
    here, there = Normed(), Normed()
    swa_utils.update_bn(batches(), here)
    swa_utils.update_bn([[Batch(x), None] for x in batches()], there, device="there")
    assert moved == ["there"] * 4
    assert there.statistics() == here.statistics()
