"""Large scratch tensors that are allocated once: fresh memory costs more than the work done in it."""

from __future__ import annotations

import math

from torch import Tensor


class Workspace:
    """Scratch tensors by name. What `take` gives holds anything, and is overwritten after the next `take` of its name:
    one training loop owns one workspace, and nothing outlives a step in it."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """A contiguous tensor of this shape, with the dtype and on the device of `like`."""
        count = math.prod(shape)
        held = self._held.get(name)
        if held is None or held.numel() < count or held.dtype != like.dtype or held.device != like.device:
            held = self._held[name] = like.new_empty(count)
        return held[:count].view(shape)
