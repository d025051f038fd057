"""Reading and replacing the activations at a place in a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sae_platform.activations import Replace
from sae_platform.errors import PlatformError
from sae_platform.hooks.parts import WHOLE, Part


class HookPoint(ABC):
    """A place in a model."""

    @abstractmethod
    def hooked(self, function: Replace) -> AbstractContextManager[None]:
        """While open, `function` of the activations stands in for them; afterwards the model is as before."""


@dataclass(frozen=True)
class ModuleHook(HookPoint):
    """What a module reads or gives, or a part of it."""

    module: nn.Module
    side: Literal["input", "output"] = "output"
    part: Part = WHOLE
    carried_by: nn.Module | None = None  # adds what `module` reads to its output, and so must add what stands in for it

    @contextmanager
    def hooked(self, function: Replace) -> Iterator[None]:
        differences: list[Tensor] = []

        def replace(x: Tensor, read: Tensor) -> Tensor:
            new = in_part(self.part, x, read, function)
            if self.carried_by is not None and new is not x:
                differences[:] = [new - x]
            return new

        with ExitStack() as stack:
            carried = self.carried_by is not None  # then other hooks at these modules are of places that come later
            if self.side == "input":
                handle = self.module.register_forward_pre_hook(_on_input(replace), prepend=carried, with_kwargs=True)
            else:
                handle = self.module.register_forward_hook(_on_output(replace), prepend=carried, with_kwargs=True)
            stack.callback(handle.remove)
            if self.carried_by is not None:
                carry = _on_output(lambda x, _: x + differences.pop() if differences else x)
                handle = self.carried_by.register_forward_hook(carry, prepend=True, with_kwargs=True)
                stack.callback(handle.remove)
            yield


def read(model: Any, point: HookPoint, tokens: Tensor) -> Tensor:
    """The activations at `point` for `tokens` [contexts, size]; the model runs up to there and no further."""
    found: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        found.append(x)
        raise _Reached

    with point.hooked(keep):
        try:
            (model if is_bridge(model) else getattr(model, "base_model", model))(tokens)
        except _Reached:
            return found[0]
    raise PlatformError("The hook was never reached: the model does not use this module in its forward pass.")


def is_bridge(model: Any) -> bool:
    """Whether a model is TransformerLens' bridge around another."""
    return hasattr(model, "hook_dict") and hasattr(model, "original_model")


def in_part(part: Part, x: Tensor, read: Tensor, function: Replace) -> Tensor:
    """`x`, or with `function` of a part of it in that place, where it gives another tensor."""
    old = part.take(x, read)
    new = function(old)
    return x if new is old else part.put(x, new)


class _Reached(Exception):
    """Leaves the forward pass once the hook has been read."""


InPlace = Callable[[Tensor, Tensor], Tensor]  # a tensor, and the one that the module read, to what stands in for it


def _on_input(function: InPlace) -> Callable[[nn.Module, Any, Any], tuple[Any, Any]]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        x = _first(args, kwargs)
        if args:
            return (function(x, x), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": function(x, x)}

    return hook


def _on_output(function: InPlace) -> Callable[[nn.Module, Any, Any, Any], Any]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        x = _first(args, kwargs)
        if isinstance(output, dict):  # as transformers' ModelOutput is
            name = "last_hidden_state" if "last_hidden_state" in output else next(iter(output))
            return type(output)(**{**output, name: function(output[name], x)})
        if isinstance(output, tuple):
            return (function(output[0], x), *output[1:])
        return function(output, x)

    return hook


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs.get("hidden_states")


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
