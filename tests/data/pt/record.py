"""Records the files beside it, and what torch says that they hold: ``PYTHONPATH=tests python tests/data/pt/record.py``.

They were recorded by torch 2.13.0 on the CPU. Tests compare what refoptim reads with ``expected.json``, bit for bit,
where torch is not installed. ``schedulers of 1.x`` and ``optimizer of 1.x`` have the form that torch 1.x gave to them.
"""

from __future__ import annotations

import json

import torch

from helpers.pt_files import FILES, RECORDED, described, path_of


def main() -> None:
    """Write all files."""
    assert torch.__version__.partition("+")[0] == "2.13.0"
    expected = {}
    for name, make in FILES.items():
        data = make(torch)
        torch.save(data, path_of(name))
        expected[name] = described(torch.load(path_of(name), weights_only="1.x" not in name))
    lines = [f"{json.dumps(name)}: {json.dumps(x, separators=(',', ':'))}" for name, x in expected.items()]
    (RECORDED / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
