"""Which part of a module's tensor an activation is: all of it, some columns, some heads, or what a norm computes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Part:
    """The whole tensor; a subclass is a part of it."""

    def take(self, x: Tensor, read: Tensor) -> Tensor:
        """The activation in the tensor `x` of a module that read the tensor `read`."""
        return x

    def put(self, x: Tensor, new: Tensor) -> Tensor:
        """`x` with another activation in it."""
        return new


WHOLE = Part()


@dataclass(frozen=True)
class Columns(Part):
    """One of several maps that one matrix holds side by side."""

    start: int
    stop: int

    def take(self, x: Tensor, read: Tensor) -> Tensor:
        return x[..., self.start : self.stop]

    def put(self, x: Tensor, new: Tensor) -> Tensor:
        return torch.cat([x[..., : self.start], new.to(x), x[..., self.stop :]], dim=-1)


@dataclass(frozen=True)
class OfEachHead(Part):
    """Query, key or value (0, 1, 2) where one matrix holds all three for one head after another."""

    heads: int
    which: int

    def take(self, x: Tensor, read: Tensor) -> Tensor:
        return self._by_head(x)[..., self.which, :].flatten(-2)

    def put(self, x: Tensor, new: Tensor) -> Tensor:
        each = list(self._by_head(x).unbind(-2))
        each[self.which] = new.to(x).view(each[0].shape)
        return torch.stack(each, dim=-2).flatten(-3)

    def _by_head(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, 3, -1)


class JoinedHeads(Part):
    """[..., heads, d_head] as [..., heads x d_head], where a model keeps heads apart."""

    def take(self, x: Tensor, read: Tensor) -> Tensor:
        return x.flatten(-2) if x.ndim == 4 else x

    def put(self, x: Tensor, new: Tensor) -> Tensor:
        return new.reshape(x.shape)


class Centred(Part):
    """The vector without its mean, as models have it whose writing weights were centred; a LayerNorm reads no more."""

    def take(self, x: Tensor, read: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True)

    def put(self, x: Tensor, new: Tensor) -> Tensor:
        return new.to(x) + x.mean(-1, keepdim=True)


@dataclass(frozen=True)
class Normalized(Part):
    """What a LayerNorm or RMSNorm multiplies by its gain, which another matrix holds once it is folded."""

    norm: nn.Module

    def take(self, x: Tensor, read: Tensor) -> Tensor:
        return self._normalize(read).to(x)

    def put(self, x: Tensor, new: Tensor) -> Tensor:
        probe = torch.ones_like(x[:1, :1])
        probe[..., ::2] = -1
        forward = self.norm.forward  # without hooks
        bias: Tensor = forward(torch.zeros_like(probe))
        gain: Tensor = (forward(probe) - bias) / self._normalize(probe).to(x)
        return new.to(x) * gain + bias

    def _normalize(self, x: Tensor) -> Tensor:
        x = x if x.dtype == torch.float64 else x.float()
        if subtracts_mean(self.norm):
            x = x - x.mean(-1, keepdim=True)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + (eps_of(self.norm) or 0.0))


def eps_of(norm: nn.Module) -> float | None:
    """What a norm adds to the variance, where it says so."""
    return next(
        (value for name in ("eps", "variance_epsilon") if (value := getattr(norm, name, None)) is not None), None
    )


def subtracts_mean(norm: nn.Module) -> bool:
    """Whether a norm is a LayerNorm, to which a vector's mean makes no difference."""
    return isinstance(norm, nn.LayerNorm) or ("LayerNorm" in type(norm).__name__ and "RMS" not in type(norm).__name__)
