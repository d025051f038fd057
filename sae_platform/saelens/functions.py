"""Functions as TransformerLens gives them to hooks, at what an SAE computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sae_platform.attached import Edit

HookFunction = Callable[..., Any]  # (tensor, hook=...) to what stands in for it, or None


@dataclass
class SAEHook:
    """What a function at a hook of an SAE is told."""

    name: str
    ctx: dict[str, Any] = field(default_factory=dict)

    def layer(self) -> int:
        """The layer in its name."""
        return int(self.name.split(".")[1])


def forward(name: str, function: HookFunction) -> Edit:
    """Of the tensor of this name, what the function gives for it."""
    hook = SAEHook(name)

    def edit(x: Tensor) -> Tensor:
        changed = function(x, hook=hook)
        return x if changed is None else changed

    return edit


def backward(name: str, function: HookFunction) -> Edit:
    """The tensor of this name, whose gradient the function will be given."""
    hook = SAEHook(name)

    def edit(x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(lambda gradient: function(gradient, hook=hook))  # type: ignore[no-untyped-call]
        return x

    return edit
