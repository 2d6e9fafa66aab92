"""Tensors of torch that hold other numbers than their memory does."""

from __future__ import annotations

from typing import Any


def refused_tensors(torch: Any) -> dict[str, tuple[Any, str]]:
    """Tensors whose memory does not hold their numbers, and what is said of each."""
    z = torch.tensor([1 + 2j, 3 - 4j])
    freed, shrunk = torch.ones(2), torch.ones(2)
    freed.untyped_storage().resize_(0)
    shrunk.untyped_storage().resize_(4)
    return {
        "negative": (z.conj().imag, "negative bit set has other numbers in its memory: call resolve_neg() first"),
        "conjugate": (z.conj(), "conjugate bit set has other numbers in its memory: call resolve_conj() first"),
        "meta": (torch.ones(2, device="meta"), "must lie on the CPU or on a CUDA device, got one on meta"),
        "sparse": (torch.eye(2).to_sparse(), "layout torch.strided, got torch.sparse_coo: call to_dense() first"),
        "freed": (freed, "its storage was made smaller than its elements need"),
        "shrunk": (shrunk, "its storage was made smaller than its elements need"),
        "mkldnn": (torch.ones(2).to_mkldnn(), "layout torch.strided, got torch._mkldnn: call to_dense() first"),
    }
