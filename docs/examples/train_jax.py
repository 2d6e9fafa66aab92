"""Train a small network on the handwritten digits with gradients of JAX, and any optimizer of refoptim's for JAX.

    python docs/examples/train_jax.py
    python docs/examples/train_jax.py SGD --lr 0.1 --set momentum=0.9 --set nesterov=True
    python docs/examples/train_jax.py --twin

With ``--twin`` the same optimizer takes every step on NumPy arrays too, and all bits are compared. The network and the
data are those of ``train_digits.py``, beside this file.
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import trange
from train_digits import batches, digits, setting

import refoptim
from refoptim.interop import jax as optim

Array = Any
Tree = dict[str, Any]


def network(rng: np.random.Generator) -> Tree:
    """Return the weights and biases of two layers: 64 pixels, 256 hidden units, 10 digits."""
    return {
        "w1": jnp.asarray(rng.normal(0, 64**-0.5, (64, 256)), jnp.float32),
        "b1": jnp.zeros(256),
        "w2": jnp.asarray(rng.normal(0, 256**-0.5, (256, 10)), jnp.float32),
        "b2": jnp.zeros(10),
    }


def forward(params: Tree, x: Array) -> Array:
    """Return the log-probabilities of the digits."""
    hidden = jax.nn.relu(x @ params["w1"] + params["b1"])
    return jax.nn.log_softmax(hidden @ params["w2"] + params["b2"])


def loss(params: Tree, x: Array, y: Array) -> Array:
    """Return the mean cross entropy."""
    return -jnp.take_along_axis(forward(params, x), y[:, None], axis=1).mean()


gradient = jax.jit(jax.grad(loss))


class Twin:
    """The same weights as NumPy arrays, and the optimizer that changes them in place."""

    def __init__(self, name: str, settings: dict[str, Any], params: Tree) -> None:
        self.arrays = {key: np.array(x) for key, x in params.items() if x is not None}
        self.optimizer = getattr(refoptim, name)(list(self.arrays.values()), **settings)

    def step(self, grads: Tree) -> None:
        """Take the same step."""
        self.optimizer.step(grads=[np.asarray(grads[key]) for key in self.arrays])

    def equals(self, params: Tree) -> bool:
        """Tell whether all bits are the same."""
        return all(x.tobytes() == np.asarray(params[key]).tobytes() for key, x in self.arrays.items())


def trained(name: str, tree: Tree) -> Tree:
    """Put None for what an optimizer is not to train: Muon gets the matrices alone, and the biases stay zero."""
    return {key: None if name == "Muon" and x.ndim < 2 else x for key, x in tree.items()}


def train(args: argparse.Namespace, settings: dict[str, Any]) -> tuple[float, bool]:
    """Train, and return the accuracy on the test images, and whether the twin has the same bits."""
    rng = np.random.default_rng(args.seed)
    x, x_test, y, y_test = digits()
    params = network(rng)
    optimizer = getattr(optim, args.optimizer)(**settings)
    state = optimizer.init(trained(args.optimizer, params))
    twin = Twin(args.optimizer, settings, trained(args.optimizer, params)) if args.twin else None
    for _ in trange(args.epochs, desc=args.optimizer):
        for x_batch, y_batch in batches(x, y, args.batch, rng):
            grads = trained(args.optimizer, gradient(params, x_batch, y_batch))
            new, state = optimizer.update(trained(args.optimizer, params), grads, state)
            params = params | {key: p for key, p in new.items() if p is not None}
            if twin:
                twin.step(grads)
    found = np.asarray(forward(params, x_test)).argmax(axis=1)
    return float((found == y_test).mean()), twin is not None and twin.equals(params)


def names() -> list[str]:
    """Return the optimizers that there are for JAX."""
    kinds = [x for x in vars(optim).values() if isinstance(x, type) and issubclass(x, optim.Optimizer)]
    return sorted(x.__name__ for x in kinds if x is not optim.Optimizer)


def main() -> None:
    """Read the command line, train, and print the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("optimizer", nargs="?", default="AdamW", choices=names(), help="its name (default: AdamW)")
    parser.add_argument("--lr", type=float, help="the learning rate (default: the optimizer's own)")
    parser.add_argument(
        "--set", type=setting, action="append", default=[], metavar="NAME=VALUE", help="a hyperparameter"
    )
    parser.add_argument("--epochs", type=int, default=40, help="passes over the training images (default: 40)")
    parser.add_argument("--batch", type=int, default=32, help="images per step (default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and of the shuffling (default: 0)")
    parser.add_argument("--twin", action="store_true", help="take the steps on NumPy arrays too, and compare")
    args = parser.parse_args()
    settings = dict(args.set) | ({} if args.lr is None else {"lr": args.lr})
    try:
        accuracy, equal = train(args, settings)
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    print(f"test accuracy {accuracy:.2%}")
    if args.twin:
        print(f"the same bits as on NumPy arrays: {'yes' if equal else 'no'}")


if __name__ == "__main__":
    main()
