"""The error of checkpoints."""

from __future__ import annotations

from ..formats.strict import FormatError


class CheckpointError(FormatError):
    """A file is no checkpoint, or it was cut off or altered, or does not fit what is to be restored from it."""
