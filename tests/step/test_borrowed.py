"""Parameters that are tensors of torch, used as torch's own optimizers are."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from refoptim.conformance.oracle import ieee

import refoptim
from helpers.refusals import refused
from helpers.rooms import SETTINGS, assert_equal_bits, need_kernels, normal
from helpers.tensors import refused_tensors
from refoptim import Parameter
from refoptim.numerics.libraries import viewed

NAMES = [name for name in SETTINGS if name not in ("SparseAdam", "LBFGS", "ConjugateGradient", "Muon")]


def bits(tensor: Any) -> Any:
    return viewed(tensor)


def layers(torch: Any, dtype: str = "float32") -> Any:
    """Make a small network whose weights are always the same."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).to(getattr(torch, dtype))
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(torch.from_numpy(normal(i, *p.shape)))
    return net


def batch(torch: Any, k: int, dtype: str = "float32") -> Any:
    return torch.from_numpy(normal(k, 6, 3)).to(getattr(torch, dtype))


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_module_is_trained_as_a_torch_user_types_it(torch: Any, name: str, dtype: str, fused: bool | None) -> None:
    """The bits are those of the same steps on NumPy's arrays."""
    if fused and not refoptim.engines.host.LIBRARY.exists():
        pytest.skip("kernels for this computer were not built")
    if fused:
        need_kernels(name)
    net = layers(torch, dtype)
    arrays = [bits(p).copy() for p in net.parameters()]
    theirs, ours = (getattr(refoptim, name)(x, fused=fused) for x in (net.parameters(), arrays))
    for k in range(4):
        net(batch(torch, k, dtype)).pow(2).sum().backward()
        grads = [bits(p.grad).copy() for p in net.parameters()]
        theirs.step()
        theirs.zero_grad()
        assert all(p.grad is None for p in net.parameters())
        ours.step(grads=grads)
    for p, x in zip(net.parameters(), arrays, strict=True):
        assert_equal_bits(bits(p), x)


def test_training_is_that_of_torch(torch: Any) -> None:
    one, other = layers(torch), layers(torch)
    ours, theirs = refoptim.AdamW(one.parameters(), lr=1e-2), torch.optim.AdamW(other.parameters(), lr=1e-2)
    for k in range(5):
        for net, optimizer in ((one, ours), (other, theirs)):
            with ieee():
                net(batch(torch, k)).pow(2).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert_equal_bits(p.detach().numpy(), q.detach().numpy())


@pytest.mark.parametrize("name", ["LBFGS", "ConjugateGradient"])
def test_closures_of_torch(torch: Any, name: str) -> None:
    net = layers(torch)
    optimizer = getattr(refoptim, name)(net.parameters())

    def closure() -> Any:
        optimizer.zero_grad()
        loss = net(batch(torch, 1)).pow(2).sum()
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert isinstance(first, torch.Tensor)
    assert closure() < first / 2


def test_a_sparse_embedding(torch: Any) -> None:
    one, other = (
        torch.nn.Embedding.from_pretrained(torch.from_numpy(normal(1, 5, 3)), False, sparse=True) for _ in "ab"
    )
    ours, theirs = refoptim.SparseAdam(one.parameters()), torch.optim.SparseAdam(other.parameters())
    for rows in ([1, 4, 1], [0, 4]):
        for layer, optimizer in ((one, ours), (other, theirs)):
            with ieee():
                layer(torch.tensor(rows)).pow(2).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
    assert_equal_bits(one.weight.detach().numpy(), other.weight.detach().numpy())


def test_a_sparse_embedding_of_bfloat16(torch: Any) -> None:
    layer = torch.nn.Embedding(5, 3, sparse=True, dtype=torch.bfloat16)
    before = layer.weight.detach().clone()
    layer(torch.tensor([1, 1])).sum().backward()
    refoptim.SGD(layer.parameters(), lr=1.0).step()
    moved = torch.zeros(5, 3, dtype=torch.bfloat16)
    moved[1] = 2
    assert torch.equal(layer.weight.detach(), before - moved)


@pytest.mark.parametrize("fused", [None, True])
def test_autograd_refuses_a_graph_recorded_before_the_step(torch: Any, fused: bool | None) -> None:
    """As after torch's own step; the second step is a repeated one."""
    if fused and not refoptim.engines.host.LIBRARY.exists():
        pytest.skip("kernels for this computer were not built")
    w = torch.ones(3, requires_grad=True)
    optimizer = refoptim.SGD([w], fused=fused)
    for _ in range(2):
        w.grad = torch.ones(3)
        stale = (w * w).sum()
        optimizer.step()
        with pytest.raises(RuntimeError, match="has been modified by an inplace operation"):
            stale.backward()


@pytest.mark.parametrize("name", ["LBFGS", "ConjugateGradient"])
def test_autograd_refuses_a_graph_recorded_before_a_minimization(torch: Any, name: str) -> None:
    w = torch.ones(3, requires_grad=True)
    stale = (w * w).sum()
    optimizer = getattr(refoptim, name)([w])

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with pytest.raises(RuntimeError, match="has been modified by an inplace operation"):
        stale.backward()


def test_autograd_hears_of_gradients_that_are_written_to(torch: Any) -> None:
    w = torch.ones(3, requires_grad=True)
    w.grad = torch.full((3,), 2.0)
    versions = [w.grad._version]
    norm = refoptim.clip_grad.clip_grad_norm_([w], 1.0)
    versions.append(w.grad._version)
    refoptim.SGD([w]).zero_grad(set_to_none=False)
    versions.append(w.grad._version)
    assert norm == np.float32(12) ** np.float32(0.5)
    assert versions[0] < versions[1] < versions[2]
    assert w.grad.tolist() == [0, 0, 0]


def test_a_step_that_is_refused_tells_nothing(torch: Any) -> None:
    w = torch.ones(3, requires_grad=True)
    version = w._version
    with pytest.raises(ValueError, match="the gradient must have shape"):
        refoptim.SGD([w]).step(grads=[torch.ones(2)])
    assert w._version == version


@pytest.mark.parametrize("what", ["negative", "conjugate", "meta", "mkldnn", "freed", "shrunk"])
def test_gradients_whose_memory_holds_other_numbers(torch: Any, what: str) -> None:
    grad, message = refused_tensors(torch)[what]
    w = np.ones(2, np.complex64 if grad.is_complex() else np.float32)
    optimizer = refoptim.SGD([w], lr=1.0)
    message = message if what != "mkldnn" else "layout torch.strided or torch.sparse_coo, got torch._mkldnn: call to_de"
    refused([optimizer, w], lambda: optimizer.step(grads=[grad]), TypeError, message)
    refused([optimizer, w], lambda: optimizer.step(grads=[grad]), TypeError, "parameter 0 of group 0: a tensor")
    with pytest.raises(TypeError, match="a tensor"):
        refoptim.SGD([grad])


def test_states_whose_memory_holds_other_numbers_are_read_as_what_they_are(torch: Any) -> None:
    """A state is copied, so that what is to be resolved can be."""
    w = np.ones(2, np.float32)
    optimizer = refoptim.SGD([w], momentum=0.5)
    optimizer.step(grads=[w * 2])
    saved = optimizer.state_dict()
    saved["state"][0]["momentum_buffer"] = torch.tensor([1 + 2j, 3 - 4j]).conj().imag
    optimizer.load_state_dict(saved)
    assert optimizer.state_dict()["state"][0]["momentum_buffer"].tolist() == [-2, 4]


def test_a_tensor_that_autograd_made_is_no_parameter(torch: Any) -> None:
    w = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match="can't optimize a non-leaf Tensor"):
        refoptim.SGD([w * 2])


# Other memory behind the same tensor


@pytest.mark.parametrize("fused", [None, True])
def test_a_tensor_that_got_other_memory_is_followed(torch: Any, fused: bool | None) -> None:
    if fused and not refoptim.engines.host.LIBRARY.exists():
        pytest.skip("kernels for this computer were not built")
    w = torch.ones(3, requires_grad=True)
    optimizer = refoptim.SGD([w], lr=0.5, momentum=0.5, fused=fused)
    for start in (4.0, 8.0, 16.0):
        w.data = torch.full((3,), start)
        w.grad = torch.zeros(3)
        optimizer.step()
        w.grad = torch.ones(3)
        optimizer.step()
        optimizer.state.clear()
        assert w.tolist() == [start - 0.5] * 3


@pytest.mark.parametrize("swapped", [False, True])
def test_a_module_that_is_moved_there_and_back_is_followed(torch: Any, swapped: bool) -> None:
    net = layers(torch)
    optimizer = refoptim.SGD(net.parameters(), lr=1.0)
    addresses = [p.data_ptr() for p in net.parameters()]
    torch.__future__.set_swap_module_params_on_conversion(swapped)
    try:
        net.double()
        net.float()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert all(p.data_ptr() != address for p, address in zip(net.parameters(), addresses, strict=True))
    before = [p.detach().clone() for p in net.parameters()]
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert all(torch.equal(p.detach(), x - 1) for p, x in zip(net.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda w: w.double(), r"\(3,\) float32 NumPy, but it has now \(3,\) float64 NumPy"),
        (lambda w: w[:2].clone(), r"but it has now \(2,\) float32 NumPy: make a new optimizer"),
    ],
)
def test_a_tensor_of_another_dtype_or_shape_is_refused(torch: Any, change: Any, what: str) -> None:
    v, w = np.ones(2, np.float32), torch.ones(3)
    optimizer = refoptim.SGD([("v", v), ("w", w)], lr=0.5)
    w.data = change(w.data)
    w.grad = torch.ones_like(w)
    message = rf"parameter 1 of group 0 \(w\): a parameter must keep its shape, dtype and device, {what}|{what}"
    with pytest.raises(ValueError, match=message):
        optimizer.step(grads=[np.ones(2, np.float32), w.grad])
    assert v.tolist() == [1, 1]
    assert (w == 1).all()


def test_gradients_set_on_the_parameter_come_first(torch: Any) -> None:
    w = torch.ones(2)
    p = Parameter(w)
    assert p.grad is None
    w.grad = torch.full((2,), 3.0)
    assert p.grad is w.grad
    p.grad = torch.full((2,), 5.0)
    refoptim.SGD([p], lr=1.0).step()
    assert w.tolist() == [-4, -4]
    refoptim.SGD([p]).zero_grad()
    assert p.grad is None
    assert w.grad is None


def test_the_data_are_the_tensors(torch: Any) -> None:
    p = Parameter(torch.ones(2))
    with pytest.raises(AttributeError, match="the data of this Parameter are those of a Tensor: change that"):
        p.data = np.zeros(2, np.float32)
    assert (p.shape, p.dtype) == ((2,), np.float32)


def test_what_has_a_gradient_of_its_own_is_borrowed_of_any_library() -> None:
    class Box:
        """An array of a library that nobody knows."""

        def __init__(self, x: Any) -> None:
            self.x, self.grad = x, None

        def __dlpack__(self, **options: Any) -> Any:
            return self.x.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self.x.__dlpack_device__()

    box = Box(np.ones(2))
    optimizer = refoptim.SGD([box], lr=0.5)
    box.grad = Box(np.ones(2))
    optimizer.step()
    assert box.x.tolist() == [0.5, 0.5]
    optimizer.zero_grad()
    assert box.grad is None


def test_steps_that_can_be_differentiated_are_functions(torch: Any) -> None:
    with pytest.raises(RuntimeError, match=r"refoptim\.functional computes steps on it that can be differentiated"):
        refoptim.SGD([torch.ones(2)], differentiable=True)
    optimizer = refoptim.SGD([torch.ones(2)])
    optimizer.param_groups[0]["differentiable"] = True
    with pytest.raises(RuntimeError, match=r"refoptim\.functional"):
        optimizer.step(grads=[torch.ones(2)])


# Copies, averages, states


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_have_tensors_of_their_own(torch: Any, copied: Any) -> None:
    net = layers(torch)
    optimizer = refoptim.Adam(net.named_parameters(), lr=0.5)
    before = [p.detach().clone() for p in net.parameters()]
    net(batch(torch, 1)).sum().backward()
    optimizer.step()
    other_net, other = copied((net, optimizer))
    optimizer.zero_grad()
    after = [p.detach().clone() for p in net.parameters()]
    for p in other_net.parameters():
        p.grad = torch.ones_like(p)
    other.step()
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), after, strict=True))
    assert not any(torch.equal(p, q) for p, q in zip(other_net.parameters(), after, strict=True))
    assert not any(torch.equal(p, q) for p, q in zip(before, after, strict=True))
    assert [p.name for p in other.param_groups[0]["params"]] == [None] * 4
    assert other.state[other.param_groups[0]["params"][0]]["step"] == 2


def test_a_tensor_stands_for_its_parameter_in_the_state(torch: Any) -> None:
    net = layers(torch)
    optimizer = refoptim.Adam(net.parameters())
    net(batch(torch, 1)).sum().backward()
    optimizer.step()
    assert optimizer.state[net[0].weight]["step"] == 1


def test_a_module_is_averaged(torch: Any) -> None:
    net = layers(torch)
    net.append(torch.nn.BatchNorm1d(2))
    ours, theirs = refoptim.swa_utils.AveragedModel(net), torch.optim.swa_utils.AveragedModel(net)
    for k in range(3):
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.25 * k)
        ours.update_parameters(net)
        with ieee():
            theirs.update_parameters(net)
    for p, q in zip(ours.module.parameters(), theirs.module.parameters(), strict=True):
        np.testing.assert_allclose(p.detach(), q.detach(), rtol=1e-6)
    graph = (ours.module[0].weight * ours.module[0].weight).sum()
    ours.update_parameters(net)
    with pytest.raises(RuntimeError, match="has been modified by an inplace operation"):
        graph.backward()
    assert ours.n_averaged == 4
