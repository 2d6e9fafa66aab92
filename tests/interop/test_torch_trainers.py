"""Trainers of others with optimizers of torch that are refoptim's: they have the bits of a plain loop, and resume.

Each is skipped where it is not installed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch

import refoptim
from helpers.rooms import assert_equal_bits
from refoptim.interop import torch as front

BATCH = 4
X = torch.randn(24, 3, generator=torch.Generator().manual_seed(5))
Y = X.sum(dim=1, keepdim=True)

pytestmark = pytest.mark.filterwarnings("ignore")  # of the trainers, about themselves


def layer() -> Any:
    torch.manual_seed(1)
    return torch.nn.Linear(3, 1)


def loss_of(net: Any, x: Any, y: Any) -> Any:
    return (net(x) - y).square().mean()


def witness(steps: int, max_norm: float = 0.0, **settings: Any) -> list[Any]:
    """Train with refoptim on arrays, on batch after batch; torch computes the gradients."""
    net = layer()
    arrays = [np.array(p.detach().numpy()) for p in net.parameters()]
    optimizer = refoptim.AdamW(arrays, lr=0.05, **settings)
    for k in range(steps):
        chosen = slice(BATCH * k % 24, BATCH * k % 24 + BATCH)
        net.zero_grad()
        loss_of(net, X[chosen], Y[chosen]).backward()
        if max_norm:
            torch.nn.utils.clip_grad_norm_(net.parameters(), max_norm)
        optimizer.step(grads=[np.array(p.grad.numpy()) for p in net.parameters()])
        with torch.no_grad():
            for p, x in zip(net.parameters(), arrays, strict=True):
                p.copy_(torch.from_numpy(x))
    return arrays


def check(net: Any, arrays: list[Any]) -> None:
    for p, x in zip(net.parameters(), arrays, strict=True):
        assert_equal_bits(p.detach().numpy(), x)


def batches() -> Any:
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=BATCH)


def test_accelerate(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")

    def started() -> tuple[Any, Any, Any, Any]:
        accelerator = accelerate.Accelerator(cpu=True)
        net = layer()
        return accelerator, *accelerator.prepare(net, front.AdamW(net.parameters(), lr=0.05), batches())

    def epoch(accelerator: Any, net: Any, optimizer: Any, data: Any) -> None:
        for x, y in data:
            optimizer.zero_grad()
            accelerator.backward(loss_of(net, x, y))
            accelerator.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()

    one = started()
    epoch(*one)
    one[0].save_state(str(tmp_path / "state"))
    other = started()
    other[0].load_state(str(tmp_path / "state"))
    epoch(*other)
    check(other[1], witness(12, max_norm=0.5))


def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")

    class Module(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = layer()

        def training_step(self, batch: Any, index: int) -> Any:
            return loss_of(self.net, *batch)

        def configure_optimizers(self) -> Any:
            optimizer = front.AdamW(self.parameters(), lr=0.05)
            return [optimizer], [torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)]

    def trainer(epochs: int) -> Any:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        return lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", devices=1, default_root_dir=tmp_path, gradient_clip_val=0.5, **quiet
        )

    first = trainer(1)
    first.fit(Module(), batches())
    first.save_checkpoint(tmp_path / "last.ckpt")
    module = Module()
    trainer(2).fit(module, batches(), ckpt_path=tmp_path / "last.ckpt", weights_only=False)
    check(module.net, witness(12, max_norm=0.5))


def test_the_trainer_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate, which the Trainer needs, is not installed")
    monkeypatch.setitem(os.environ, "WANDB_DISABLED", "true")

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = layer()

        def forward(self, x: Any, labels: Any = None) -> dict[str, Any]:
            return {"loss": loss_of(self.net, x, labels), "logits": self.net(x)}

    class InOrder(transformers.Trainer):  # type: ignore[name-defined,misc]
        def _get_train_sampler(self, *args: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    data = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]

    def trained(steps: int, resumed: bool) -> Any:
        options = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=steps,
            save_steps=6,
            per_device_train_batch_size=BATCH,
            max_grad_norm=0.0,
            learning_rate=0.05,
            lr_scheduler_type="constant",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        model = Model()
        choice = (front.AdamW, {"lr": 0.05})
        trainer = InOrder(model=model, args=options, train_dataset=data, optimizer_cls_and_kwargs=choice)
        trainer.train(resume_from_checkpoint=resumed)
        return model

    trained(6, resumed=False)
    check(trained(12, resumed=True).net, witness(12, weight_decay=0.0))  # the Trainer's own default
