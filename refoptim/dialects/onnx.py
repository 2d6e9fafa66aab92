"""The optimizers of ONNX's training domain, version 1 (ai.onnx.preview.training), by the names of torch.

T, the number of updates before this one, is 0 in the first step.
Source: https://onnx.ai/onnx/operators, tried beside ONNX's reference operators.
"""

from __future__ import annotations

import refoptim

from .preset import preset

__all__ = ["SGD", "Adagrad", "Adam"]

WITNESS = "ONNX's reference operators, as they run and as they were recorded"

SGD = preset(__name__, refoptim.SGD)
Adam = preset(__name__, refoptim.Adam, "EpsUnscaled", "StepFromZero", eps=1e-6)
Adagrad = preset(__name__, refoptim.Adagrad, eps=1e-6)
