"""Trees of JAX's arrays in checkpoints: every bit comes back, and runs go on with the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refoptim import checkpoint
from refoptim.checkpoint import CheckpointError

jax = pytest.importorskip("jax", reason="JAX is not installed")
jnp = jax.numpy

SUFFIXES = (".safetensors", ".npz", ".json", ".pt")


def bits(tree: Any) -> list[tuple[str, bytes]]:
    return [(np.asarray(x).dtype.name, np.asarray(x).tobytes()) for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_arrays_of_every_dtype(tmp_path: Path, suffix: str) -> None:
    names = ("float32", "float16", "bfloat16", "int8", "int32", "uint8", "bool", "complex64")
    tree = {name: jnp.asarray([0, 1, 2, 3]).astype(name) for name in names}
    path = checkpoint.save(tmp_path / f"x{suffix}", model=tree)
    assert bits(checkpoint.load(path)["model"]) == bits(tree)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["Adam", "SGD", "Adafactor", "Rprop"])
def test_a_run_goes_on_with_the_same_bits(tmp_path: Path, name: str, suffix: str) -> None:
    from refoptim.interop import jax as optim

    params: Any = {"w": jnp.ones((3, 2)), "b": [jnp.zeros(4, jnp.bfloat16)]}
    grads = jax.tree.map(lambda x: jnp.full_like(x, 0.5), params)
    optimizer = getattr(optim, name)(lr=0.1)
    state = optimizer.init(params)
    for _ in range(3):
        params, state = optimizer.update(params, grads, state)
    found = checkpoint.load(checkpoint.save(tmp_path / f"x{suffix}", params=params, state=state))
    loaded = jax.tree.map(jnp.asarray, found["params"]), optim.State(*found["state"])
    one, other = optimizer.update(params, grads, state), optimizer.update(loaded[0], grads, loaded[1])
    assert bits(one[0]) == bits(other[0]) and bits(one[1].leaves) == bits(other[1].leaves)
    assert one[1].step == other[1].step == 4


def test_what_jax_does_not_hand_over_is_named(tmp_path: Path) -> None:
    for x, said in (
        (jax.random.key(0), r"^data\.0 cannot be saved: JAX array with PRNGKey dtype .*key_data"),
        (
            jnp.ones(3, jnp.float8_e4m3fn),
            r"^data\.0 cannot be saved: it is an array of float8_e4m3fn: cast it, x\.astype",
        ),
    ):
        with pytest.raises(TypeError, match=said):
            checkpoint.save(tmp_path / "x.npz", data=[x])
    path = checkpoint.save(tmp_path / "x.npz", model={"w": jnp.ones(3)})
    with pytest.raises(CheckpointError, match=r"w is read-only: take the array that checkpoint\.load returns"):
        checkpoint.restore(path, model={"w": jnp.zeros(3)})
