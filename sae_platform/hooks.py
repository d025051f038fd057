"""Reading and replacing the activations at a place in a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sae_platform.activations import Replace
from sae_platform.errors import PlatformError


@dataclass(frozen=True)
class HookPoint:
    """One side of one module."""

    module: nn.Module
    side: Literal["input", "output"] = "output"


def read(model: Any, point: HookPoint, tokens: Tensor) -> Tensor:
    """The activations at `point` for `tokens` [contexts, size]; the model runs up to there and no further."""
    found: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        found.append(x)
        raise _Reached

    with hooked(point, keep):
        try:
            getattr(model, "base_model", model)(tokens)
        except _Reached:
            return found[0]
    raise PlatformError("The hook was never reached: the model does not use this module in its forward pass.")


@contextmanager
def hooked(point: HookPoint, function: Replace) -> Iterator[None]:
    """While open, `function` of the activations stands in for them; afterwards the model is as before."""
    if point.side == "input":
        handle = point.module.register_forward_pre_hook(_on_input(function), with_kwargs=True)
    else:
        handle = point.module.register_forward_hook(_on_output(function))
    try:
        yield
    finally:
        handle.remove()


class _Reached(Exception):
    """Leaves the forward pass once the hook has been read."""


def _on_input(function: Replace) -> Callable[[nn.Module, Any, Any], tuple[Any, Any]]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if args:
            return (function(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": function(kwargs["hidden_states"])}

    return hook


def _on_output(function: Replace) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, dict):  # as transformers' ModelOutput is
            name = "last_hidden_state" if "last_hidden_state" in output else next(iter(output))
            return type(output)(**{**output, name: function(output[name])})
        if isinstance(output, tuple):
            return (function(output[0]), *output[1:])
        return function(output)

    return hook


def rows_of(x: Tensor, tokens: Tensor) -> Tensor:
    """`x` as [contexts, size, width]; some models flatten contexts and positions inside a layer."""
    if x.ndim == 3 and x.shape[:2] == tokens.shape:
        return x
    if x.ndim == 2 and x.shape[0] == tokens.numel():
        return x.reshape(*tokens.shape, -1)
    raise PlatformError(
        f"The hook gives a tensor of shape {list(x.shape)} for {tokens.shape[0]} contexts of {tokens.shape[1]} tokens; "
        "an SAE needs one vector for each token."
    )


def replaced(function: Replace, tokens: Tensor) -> Replace:
    """`function` on [contexts, size, width], put back in the shape, dtype and device that the model has there."""

    def on_model_tensor(x: Tensor) -> Tensor:
        new = function(rows_of(x, tokens))
        if new.numel() != x.numel():
            raise PlatformError(f"The replacement has shape {list(new.shape)} where the model has {list(x.shape)}.")
        return new.reshape(x.shape).to(x)

    return on_model_tensor


def width_at(model: Any, point: HookPoint, size: int, device: torch.device) -> int:
    """Length of the vectors at `point`, found by running a few tokens."""
    tokens = torch.zeros(2, min(size, 3), dtype=torch.int64, device=device)
    return rows_of(read(model, point, tokens), tokens).shape[-1]
