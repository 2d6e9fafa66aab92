"""Train a small network on handwritten digits in float16, and compare it with float32.

    python docs/examples/mixed_precision.py
    python docs/examples/mixed_precision.py --epochs 10

Weights, activations and gradients are float16. Products of matrices add up in float32 and are rounded once, as the
matrix units of GPUs do it. The optimizer keeps a float32 master copy of each weight, and a GradScaler multiplies the
gradient of the loss by a factor that it adapts, so that small gradients do not vanish. The last run leaves both out:
AdamW's eps is 0 in float16, and the weights of pixels that are always dark become 0/0.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from train_digits import batches, digits

import refoptim
from refoptim.amp import GradScaler

Array = Any

SIZES = ((64, 128), (128,), (128, 10), (10,))
"""The shapes of the weights and biases: 64 pixels, 128 hidden units, 10 digits."""


def product(a: Array, b: Array) -> Array:
    """Return the product of two matrices in their dtype, added up in float32."""
    return (a.astype(np.float32) @ b.astype(np.float32)).astype(a.dtype)


class Network:
    """Two layers with ReLU between and softmax at the end, all in one dtype."""

    def __init__(self, rng: np.random.Generator, dtype: str, master: bool) -> None:
        arrays = [rng.normal(0, s[0] ** -0.5, s) if len(s) == 2 else np.zeros(s) for s in SIZES]
        self.parameters = [refoptim.Parameter(x.astype(dtype), master=master) for x in arrays]
        self.dtype = dtype

    def forward(self, x: Array) -> tuple[Array, Array]:
        """Return the hidden units in the dtype of the network, and the probabilities of the digits in float32."""
        w1, b1, w2, b2 = (p.data for p in self.parameters)
        hidden = np.maximum(product(x, w1) + b1, 0)
        logits = (product(hidden, w2) + b2).astype(np.float32)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return hidden, powers / powers.sum(axis=1, keepdims=True)

    def backward(self, x: Array, y: Array, scaler: GradScaler) -> None:
        """Leave the gradients of the mean cross entropy, times the scale, in the parameters."""
        hidden, p = self.forward(x)
        d_logits = scaler.scale((p - np.eye(10, dtype=np.float32)[y]) / np.float32(len(y))).astype(self.dtype)
        d_hidden = product(d_logits, self.parameters[2].data.T) * (hidden > 0)
        ones = np.ones((1, len(y)), self.dtype)
        grads = (product(x.T, d_hidden), product(ones, d_hidden)[0], product(hidden.T, d_logits))
        for parameter, grad in zip(self.parameters, (*grads, product(ones, d_logits)[0]), strict=True):
            parameter.grad = grad

    def accuracy(self, x: Array, y: Array) -> float:
        """Return the share of digits that are recognized."""
        return float((self.forward(x)[1].argmax(axis=1) == y).mean())


def train(epochs: int, dtype: str, mixed: bool = False) -> tuple[float, GradScaler]:
    """Train, with master copies and scaled losses if ``mixed``; return the accuracy on the test images, and the scaler.

    A step is left out when a gradient has overflowed, which happens each time that the scale has become too large.
    """
    rng = np.random.default_rng(0)
    x, x_test, y, y_test = digits()
    network = Network(rng, dtype, mixed)
    optimizer = refoptim.AdamW(network.parameters)
    scaler = GradScaler(growth_interval=100, enabled=mixed)
    with np.errstate(over="ignore", invalid="ignore"):  # overflow: that is what the scaler looks for
        for _ in range(epochs):
            for x_batch, y_batch in batches(x.astype(dtype), y, 32, rng):
                network.backward(x_batch, y_batch, scaler)
                scaler.step(optimizer)
                scaler.update()
    return network.accuracy(x_test.astype(dtype), y_test), scaler


def main() -> None:
    """Read the command line, train three times, and print the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20, help="passes over the training images (default: 20)")
    epochs = parser.parse_args().epochs
    print(f"float32: {train(epochs, 'float32')[0]:.2%}")
    accuracy, scaler = train(epochs, "float16", mixed=True)
    print(f"float16 with master copies and scaled losses: {accuracy:.2%} (scale {scaler.get_scale():g} at last)")
    print(f"float16 alone: {train(epochs, 'float16')[0]:.2%}")


if __name__ == "__main__":
    main()
