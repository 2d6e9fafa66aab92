"""Gradients by name and as trees: which parameter gets which, and what is refused."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.sparse

import refoptim
from helpers.refusals import f4, refused
from helpers.rooms import NAMES, assert_equal_bits, assert_equal_runs, gradient, make, normal
from refoptim import Parameter, SparseGrad, named_arrays

SHAPES = {"encoder": [{"weight": (4, 3), "bias": (3,)}, {"weight": (3, 3), "bias": (3,)}], "head": ((3, 2), (2,))}
"""A tree of shapes, in which two parameters are alike."""

FLAT = ["encoder.0.weight", "encoder.0.bias", "encoder.1.weight", "encoder.1.bias", "head.0", "head.1"]


def tree(make_leaf: Callable[[int, tuple[int, ...]], Any]) -> dict[str, Any]:
    """Return a tree of that structure, each leaf made of its number and its shape."""
    numbers = iter(range(6))

    def layer(shapes: dict[str, Any]) -> dict[str, Any]:
        return {name: make_leaf(next(numbers), shape) for name, shape in shapes.items()}

    encoder: Any = SHAPES["encoder"]
    head: Any = SHAPES["head"]
    return {"encoder": [layer(x) for x in encoder], "head": tuple(make_leaf(next(numbers), x) for x in head)}


def flat(found: dict[str, Any]) -> list[Any]:
    """Return the leaves of such a tree in their order."""
    return [*(x for layer in found["encoder"] for x in layer.values()), *found["head"]]


def shuffled(found: dict[str, Any]) -> dict[str, Any]:
    """Return such a tree with the keys of its dicts in another order."""
    encoder = [dict(reversed(layer.items())) for layer in found["encoder"]]
    return {"head": found["head"], "encoder": encoder}


FORMS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a dict": lambda found: dict(zip(FLAT, flat(found), strict=True)),
    "a dict in another order": lambda found: dict(reversed([*zip(FLAT, flat(found), strict=True)])),
    "an OrderedDict": lambda found: OrderedDict(zip(FLAT, flat(found), strict=True)),
    "a mapping": lambda found: UserDict(zip(FLAT, flat(found), strict=True)),
    "a tree": lambda found: found,
    "a tree in another order": shuffled,
    "a tree with tuples for lists": lambda found: {**found, "encoder": tuple(found["encoder"])},
    "paths of parts": lambda found: {
        "encoder.0": found["encoder"][0],
        "encoder.1": found["encoder"][1],
        "head": found["head"],
    },
    "None and integers besides": lambda found: {**found, "n": 3, "act": None, "index": np.arange(2), "more": [None]},
}


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("form", FORMS)
def test_each_parameter_gets_its_own(form: str, fused: bool | None) -> None:
    """The witness is a list in order. The groups split weights from biases, so that their order is not the tree's."""
    if fused and not refoptim.engines.host.LIBRARY.exists():
        pytest.skip("kernels for this computer were not built")
    leaves = named_arrays(tree(lambda i, shape: normal(i, *shape)))
    assert [name for name, _ in leaves] == FLAT
    matrices, vectors = leaves[::2], leaves[1::2]
    split = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    bare = [{**group, "params": [x.copy() for _, x in group["params"]]} for group in split]  # type: ignore[attr-defined]
    one, other = make("AdamW", split, fused=fused), make("AdamW", bare)
    for k in range(4):
        grads = tree(lambda i, shape, k=k: normal(10 * k + i, *shape))  # type: ignore[misc]
        one.step(grads=FORMS[form](grads))
        other.step(grads=flat(grads)[::2] + flat(grads)[1::2])
        assert_equal_runs(one, other, k)


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_takes_them(name: str) -> None:
    shapes = {"b": (4, 3), "a": (2, 5)}
    one, other = (make(name, [(key, normal(i, *shape)) for i, (key, shape) in enumerate(shapes.items())]) for _ in "12")
    for k in range(3):
        grads = [gradient(name, 5 * k + i, p) for i, p in enumerate(one.param_groups[0]["params"])]
        one.step(grads={"a": grads[1], "b": grads[0]})
        other.step(grads=grads)
        assert_equal_runs(one, other, k)


def test_names_of_parameters_count_too() -> None:
    w, b = Parameter(f4(2), name="w"), Parameter(f4(2), name="b")
    refoptim.SGD([{"params": [w]}, {"params": [b]}], lr=1.0).step(grads={"b": np.ones(2, "f4"), "w": np.zeros(2, "f4")})
    assert_equal_bits(w.data, f4(2))
    assert_equal_bits(b.data, f4(2) - 1)


def test_none_skips_a_parameter_and_its_key_must_be_there() -> None:
    w, b = f4(2), f4(3)
    optimizer = refoptim.Adam([("w", w), ("b", b)])
    optimizer.step(grads={"w": np.ones(2, "f4"), "b": None})
    assert [p.shape for p in optimizer.state] == [(2,)]
    assert_equal_bits(b, f4(3))


def test_sparse_gradients_are_leaves() -> None:
    """A ``dok_array`` of scipy is a dict, but not a part of a tree; the others are no collections."""
    dense = np.array([[0, 2], [0, 0], [1, 0]], np.float32)
    forms = [SparseGrad([[0, 2], [1, 0]], np.array([2, 1], "f4"), (3, 2)), scipy.sparse.coo_array(dense)]
    for g in (*forms, scipy.sparse.dok_array(dense)):
        for grads in ({"a": {"w": g}}, {"a.w": g}):
            w = f4(3, 2)
            refoptim.SGD([("a.w", w)], lr=1.0).step(grads=grads)
            assert_equal_bits(w, f4(3, 2) - dense)
    w = f4(3, 2)
    refoptim.SGD([w], lr=1.0).step(grads=[scipy.sparse.dok_array(dense)])
    assert_equal_bits(w, f4(3, 2) - dense)


def test_lists_stay_in_the_order_of_the_groups() -> None:
    """Whatever holds them, and whatever the names; a named tuple is a tuple."""

    class Two(NamedTuple):
        x: Any
        y: Any

    g, h = np.array([1, 0], "f4"), np.array([0, 2], "f4")
    for grads in ([g, h], (g, h), Two(g, h), iter([g, h]), map(np.copy, [g, h])):
        first, second = f4(2), f4(2)
        refoptim.SGD([("y", first), ("x", second)], lr=1.0).step(grads=grads)
        assert_equal_bits(first, f4(2) - g)
        assert_equal_bits(second, f4(2) - h)


def test_functional_gradients_of_torch(torch: Any) -> None:
    """``torch.func`` works with dicts by name, and so does the optimizer; the witness is ``backward``."""
    net, other = (torch.nn.Linear(3, 2) for _ in "12")
    other.load_state_dict(net.state_dict())
    x = torch.from_numpy(normal(0, 5, 3))
    ours = refoptim.SGD(named_arrays(net), lr=0.5)

    def loss(params: Any) -> Any:
        return torch.func.functional_call(net, params, x).pow(2).sum()

    ours.step(grads=torch.func.grad(loss)({name: p.detach() for name, p in net.named_parameters()}))
    other(x).pow(2).sum().backward()
    refoptim.SGD(other.parameters(), lr=0.5).step()
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


LACKS = "grads must hold a gradient (or None) for every parameter, but lacks"


class World:
    """An optimizer of named parameters after two steps, in two groups, and what may be wrong with gradients for it."""

    def __init__(self) -> None:
        self.arrays = {"a.w": f4(2, 3), "a.bias": f4(3), "out": f4(3)}
        pairs = list(self.arrays.items())
        self.optimizer = refoptim.Adam([{"params": pairs[:1]}, {"params": pairs[1:]}])
        for _ in range(2):
            self.optimizer.step(grads=self.grads())

    def grads(self, **more: Any) -> dict[str, Any]:
        return {name: x + 1 for name, x in self.arrays.items()} | more


def without(name: str) -> Callable[[World], Any]:
    return lambda w: {key: g for key, g in w.grads().items() if key != name}


REFUSED: dict[str, tuple[Callable[[World], Any], type[Exception], str]] = {
    "one missing": (without("out"), ValueError, f"{LACKS} 'out'"),
    "nothing": (lambda w: {}, ValueError, f"{LACKS} 'a.w'"),
    "one too many": (
        lambda w: w.grads(outer=f4(3)),
        ValueError,
        "grads holds a gradient for 'outer', which is the name of no parameter: the nearest is 'out'",
    ),
    "a slip": (
        lambda w: {"a": {"w": f4(2, 3), "bais": f4(3)}, "out": f4(3)},
        ValueError,
        "grads holds a gradient for 'a.bais', which is the name of no parameter: the nearest is 'a.bias'",
    ),
    "a slip, and None": (lambda w: {**without("out")(w), "uot": None}, ValueError, f"{LACKS} 'out'"),
    "None for a part": (lambda w: {"a": None, "out": f4(3)}, ValueError, f"{LACKS} 'a.w'"),
    "a part too deep": (lambda w: w.grads(out=[f4(3)]), TypeError, "(out): the gradient must be an array, got list"),
    "one twice": (
        lambda w: {"a": {"w": f4(2, 3)}, "a.w": f4(2, 3), "a.bias": f4(3), "out": f4(3)},
        ValueError,
        "grads holds two gradients for 'a.w'",
    ),
    "a list of parts": (
        lambda w: [{"w": f4(2, 3), "bias": f4(3)}, f4(3)],
        ValueError,
        "which is the name of no parameter: the nearest is",
    ),
    "a wrong shape": (lambda w: w.grads(out=f4(2)), ValueError, "parameter 1 of group 1 (out): the gradient must have"),
    "text": (lambda w: w.grads(out="g"), TypeError, "(out): the gradient must be an array, got str"),
    "a default": (lambda w: defaultdict(lambda: f4(3), {**without("out")(w), "n": 3}), ValueError, f"{LACKS} 'out'"),
}


@pytest.mark.parametrize(("grads", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(grads: Callable[[World], Any], error: type[Exception], message: str) -> None:
    world = World()
    given = grads(world)
    refused([world.optimizer, world.arrays, given], lambda: world.optimizer.step(grads=given), error, message)


def test_a_tree_that_contains_itself_is_refused() -> None:
    world = World()
    given = world.grads()
    given["a"] = [given]
    with pytest.raises(ValueError, match=r"a\.0 of the tree contains itself"):
        world.optimizer.step(grads=given)


NAMELESS: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "none has a name": (
        [f4(2), f4(2)],
        {"w": f4(2), "b": f4(2)},
        TypeError,
        "parameter 0 of group 0 has no name: make the optimizer of refoptim.named_arrays(params), or of (name, array)",
    ),
    "one has none": (
        [Parameter(f4(2), name="w"), Parameter(f4(2))],
        {"w": f4(2), "b": f4(2)},
        TypeError,
        "parameter 1 of group 0 has no name",
    ),
    "two have one": (
        [{"params": [("w", f4(2))]}, {"params": [("w", f4(2))]}],
        {"w": f4(2), "b": f4(2)},
        ValueError,
        "grads by name need names that differ, but two parameters are named 'w'",
    ),
    "a tree": (
        [f4(2), f4(2)],
        [[f4(2), f4(2)]],
        TypeError,
        "grads[0] is a list and no array, a tree of gradients goes by the names of parameters, and parameter 0",
    ),
}


@pytest.mark.parametrize(("params", "grads", "error", "message"), NAMELESS.values(), ids=NAMELESS)
def test_parameters_need_names(params: Any, grads: Any, error: type[Exception], message: str) -> None:
    optimizer = refoptim.Adam(params)
    refused([optimizer], lambda: optimizer.step(grads=grads), error, message)


def test_names_and_groups_that_were_broken_by_hand_are_refused() -> None:
    world = World()
    world.optimizer.param_groups[1]["param_names"].append("more")
    with pytest.raises(ValueError, match="param_names of group 1 must be 2 names, got 3"):
        world.optimizer.step(grads=world.grads())
    for group, message in ((None, "must be a dict with a list 'params', got None"), ({}, "got {}")):
        world = World()
        world.optimizer.param_groups.append(group)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=message):
            world.optimizer.step(grads=world.grads())


def test_a_list_is_refused_where_it_could_mean_two_orders() -> None:
    """The parameters come from a list, and the groups split it: is the list of gradients like it, or like them?"""
    params = [f4(2, 2), f4(2), f4(2, 2) + 1, f4(2) + 1]
    pairs = named_arrays(params)
    optimizer = refoptim.SGD([{"params": pairs[::2]}, {"params": pairs[1::2], "weight_decay": 0.0}], lr=1.0)
    grads = [np.full_like(x, i) for i, x in enumerate(params)]
    message = "could be meant in the order of that list, by whose places the parameters are named, or in the order of"
    for given in (grads, [grads[i] for i in (0, 2, 1, 3)]):
        refused([optimizer, params], lambda given=given: optimizer.step(grads=given), ValueError, message)
    before = [x.copy() for x in params]
    optimizer.step(grads=dict(enumerate(grads)))
    for i, (x, y) in enumerate(zip(params, before, strict=True)):
        assert_equal_bits(x, y - i)


def test_a_list_is_taken_where_both_orders_are_one() -> None:
    params = [f4(2, 2), f4(2)]
    pairs = named_arrays(params)
    refoptim.SGD([{"params": pairs[:1]}, {"params": pairs[1:]}], lr=1.0).step(grads=[np.ones_like(x) for x in params])
    assert_equal_bits(params[0], f4(2, 2) - 1)
    assert_equal_bits(params[1], f4(2) - 1)


def test_a_list_in_the_order_before_the_split_is_refused_with_the_reason() -> None:
    """Shapes tell that it is another order; the reason is given for nothing else."""
    params = [f4(2, 2), f4(2), f4(2, 2) + 1, f4(2) + 1]
    optimizer = refoptim.SGD([{"params": params[::2]}, {"params": params[1::2]}], lr=1.0)
    stem = "parameter 1 of group 0: the gradient must have shape (2, 2), got (2,)"
    reason = " (a list of gradients goes through the groups one after another; by name, order is free)"
    refused([optimizer, params], lambda: optimizer.step(grads=params), ValueError, stem + reason)
    wrong = [f4(2, 2), f4(2), f4(2), f4(2)]
    with pytest.raises(ValueError, match="shape") as raised:
        optimizer.step(grads=wrong)
    assert str(raised.value) == stem
    optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match="Invalid learning rate") as raised:
        optimizer.step(grads=params)
    assert "groups" not in str(raised.value)
    single = refoptim.SGD(params, lr=1.0)
    with pytest.raises(ValueError, match="shape") as raised:
        single.step(grads=[params[i] for i in (1, 0, 2, 3)])
    assert "groups" not in str(raised.value)


def test_a_shape_that_is_wrong_in_the_right_order_has_another_reason() -> None:
    params = [f4(2, 2), f4(2)]
    optimizer = refoptim.Adam([{"params": params[:1]}, {"params": params[1:]}])
    optimizer.step(grads=params)
    optimizer.state[params[1]]["exp_avg"] = f4(3)
    with pytest.raises(ValueError, match=r"the state exp_avg must have shape \(2,\)") as raised:
        optimizer.step(grads=params)
    assert "one after another" not in str(raised.value)
