"""Numbers attached to (row, feature) pairs, as a matrix or as the active entries alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from sae_platform.sparse.support import Support

COUNTED_ROWS = 128  # the sum of a mask goes over an int64 copy of it: that of some rows stays in a cache


class Features(ABC):
    """Numbers attached to (row, feature) pairs: pre-activations, or what they became."""

    values: Tensor

    @abstractmethod
    def at(self, parameter: Tensor) -> Tensor:
        """A per-feature parameter [d_sae], lined up with `values`."""

    @abstractmethod
    def row_count(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def row_sums(self, weights: Tensor | None = None) -> Tensor:
        """The sum of the values of each row, each times the weight of its feature [d_sae] where weights are given."""

    @abstractmethod
    def decode(self, rows: Tensor) -> Tensor:
        """values x rows: the weighted sum of decoder rows [d_sae, d] for each row, [rows, d]."""

    @abstractmethod
    def counts(self) -> Tensor:
        """In how many rows each feature is not zero, [d_sae] int64."""

    @abstractmethod
    def dense(self) -> Tensor:
        """The values as [rows, d_sae], zero where nothing is attached."""

    def replace(self, values: Tensor) -> Self:
        """Other values at the same places."""
        return replace(self, values=values)  # type: ignore[type-var]

    def l0(self) -> Tensor:
        """Mean number of features that are not zero in a row, a scalar."""
        return self.values.detach().count_nonzero() / self.row_count()


@dataclass(frozen=True)
class DenseFeatures(Features):
    """Features as a plain matrix [rows, d_sae]."""

    values: Tensor

    def at(self, parameter: Tensor) -> Tensor:
        return parameter.expand_as(self.values)

    def row_count(self) -> int:
        return len(self.values)

    def row_sums(self, weights: Tensor | None = None) -> Tensor:
        return self.values.sum(-1) if weights is None else self.values @ weights

    def decode(self, rows: Tensor) -> Tensor:
        return self.values @ rows

    def counts(self) -> Tensor:
        counts = torch.zeros(self.values.shape[-1], dtype=torch.int64, device=self.values.device)
        for part in torch.split(self.values.detach(), COUNTED_ROWS):
            counts += (part != 0).sum(0)
        return counts

    def dense(self) -> Tensor:
        return self.values


@dataclass(frozen=True)
class SparseFeatures(Features):
    """Features as compressed rows."""

    values: Tensor  # [n]
    support: Support

    @classmethod
    def fixed(cls, values: Tensor, indices: Tensor, d_sae: int) -> Self:
        """From k entries a row: values and indices [rows, k]."""
        rows, k = indices.shape
        offsets = torch.arange(0, rows * k + 1, k, device=indices.device)
        return cls(values.reshape(-1), Support(indices.reshape(-1), offsets, d_sae))

    @classmethod
    def where(cls, mask: Tensor, values: Tensor) -> Self:
        """From the entries of dense values [rows, d_sae] that the mask keeps."""
        rows, d_sae = mask.shape
        places = mask.flatten().nonzero().squeeze(-1)
        offsets = torch.searchsorted(places, torch.arange(rows + 1, device=mask.device) * d_sae)
        return cls(values.flatten()[places], Support(places % max(1, d_sae), offsets, d_sae))

    @classmethod
    def cat(cls, parts: Sequence[SparseFeatures]) -> SparseFeatures:
        """The rows of all parts, one part after the other."""
        if len(parts) == 1:
            return parts[0]
        lengths = torch.cat([part.offsets.diff() for part in parts])
        support = Support(
            torch.cat([part.indices for part in parts]), F.pad(lengths.cumsum(0), (1, 0)), parts[0].support.d_sae
        )
        return cls(torch.cat([part.values for part in parts]), support)

    def active(self) -> Self:
        """The entries that are not zero."""
        kept = (self.values != 0).nonzero().squeeze(-1)
        offsets = torch.searchsorted(kept, self.offsets)
        return replace(self, values=self.values[kept], support=Support(self.indices[kept], offsets, self.support.d_sae))

    @property
    def indices(self) -> Tensor:
        return self.support.indices

    @property
    def offsets(self) -> Tensor:
        return self.support.offsets

    def at(self, parameter: Tensor) -> Tensor:
        return parameter[self.indices]

    def row_count(self) -> int:
        return len(self.offsets) - 1

    def row_sums(self, weights: Tensor | None = None) -> Tensor:
        values = self.values if weights is None else self.values * self.at(weights)
        return values.new_zeros(self.row_count()).index_add(0, self.support.rows, values)

    def decode(self, rows: Tensor) -> Tensor:
        decoded: Tensor = _Decode.apply(self.values, rows, self.support)  # type: ignore[no-untyped-call]
        return decoded

    def counts(self) -> Tensor:
        return self.support.feature_sums((self.values.detach() != 0).to(torch.int64))

    def dense(self) -> Tensor:
        flat = self.values.new_zeros(self.row_count() * self.support.d_sae)
        places = self.support.rows * self.support.d_sae + self.indices
        return flat.index_add(0, places, self.values).view(-1, self.support.d_sae)


class _Decode(torch.autograd.Function):
    """values x rows over the active features alone."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor, support: Support) -> Tensor:
        ctx.save_for_backward(values, rows)
        ctx.support = support
        return support.weighted_rows(values, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        values, rows = ctx.saved_tensors
        grad = grad.contiguous()
        for_values = ctx.support.inner(grad, rows) if ctx.needs_input_grad[0] else None
        for_rows = ctx.support.outer(values, grad) if ctx.needs_input_grad[1] else None
        return for_values, for_rows, None
