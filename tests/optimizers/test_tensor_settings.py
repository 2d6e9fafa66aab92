"""torch tensors as settings: where torch refuses them, they count as the numbers they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import refoptim


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"lr": 0.25, "foreach": True}, "lr as a Tensor is not supported for capturable=False and foreach=True"),
        ({"betas": (0.5, 0.75), "foreach": True}, r"betas\[0\] as a Tensor is not supported .* foreach=True"),
        ({"betas": (0.5, None)}, "betas must be either both floats or both Tensors"),
    ],
)
def test_tensors_that_torch_refuses(name: str, setting: dict[str, Any], message: str, torch: Any) -> None:
    def as_tensor(x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(map(as_tensor, x))
        return 0.75 if x is None else torch.tensor(x) if isinstance(x, float) else x

    def as_number(x: Any) -> Any:
        return tuple(0.75 if y is None else y for y in x) if isinstance(x, tuple) else x

    tensors = {key: as_tensor(x) for key, x in setting.items()}
    with pytest.raises(ValueError, match=message):
        getattr(torch.optim, name)([torch.nn.Parameter(torch.zeros(2))], **tensors)
    arrays = [np.array([0.5, -1.0]) for _ in range(2)]
    for array, given in zip(arrays, (tensors, {key: as_number(x) for key, x in setting.items()}), strict=True):
        optimizer = getattr(refoptim, name)([array], **given)
        for _ in range(3):
            optimizer.step(grads=[np.array([0.25, 2.0])])
    assert arrays[0].tolist() == arrays[1].tolist() != [0.5, -1.0]
