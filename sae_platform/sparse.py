"""Features of a batch, sparse or dense, and the exact gradients that only the active ones carry.

Sparse features are compressed rows: `values [n]`, `indices [n]` and `offsets [rows + 1]`, as in CSR. The dense form
offers the same operations, so an architecture writes its mathematics once, elementwise, and runs in either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor


class Features(ABC):
    """Numbers attached to (row, feature) pairs: pre-activations, or what they became."""

    values: Tensor

    @abstractmethod
    def at(self, parameter: Tensor) -> Tensor:
        """A per-feature parameter [d_sae], lined up with `values`."""

    @abstractmethod
    def row_sums(self) -> Tensor:
        """The sum of the values of each row, [rows]."""

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
        return self.replace((self.values.detach() != 0).to(torch.float32)).row_sums().mean()


@dataclass(frozen=True)
class DenseFeatures(Features):
    """Features as a plain matrix [rows, d_sae]."""

    values: Tensor

    def at(self, parameter: Tensor) -> Tensor:
        return parameter.expand_as(self.values)

    def row_sums(self) -> Tensor:
        return self.values.sum(-1)

    def decode(self, rows: Tensor) -> Tensor:
        return self.values @ rows

    def counts(self) -> Tensor:
        return (self.values.detach() != 0).sum(0)

    def dense(self) -> Tensor:
        return self.values


@dataclass(frozen=True)
class Support:
    """Which features are attached to which row; the transposed order is found once and shared by all gradients."""

    indices: Tensor  # [n] int64, the feature of each entry
    offsets: Tensor  # [rows + 1] int64, where each row's entries begin
    d_sae: int

    @cached_property
    def rows(self) -> Tensor:
        """The row of each entry, [n]."""
        row_numbers = torch.arange(len(self.offsets) - 1, device=self.indices.device)
        return row_numbers.repeat_interleave(self.offsets.diff(), output_size=len(self.indices))

    @cached_property
    def by_feature(self) -> tuple[Tensor, Tensor, Tensor]:
        """The entries sorted by feature: their order, their rows, and where each feature's entries begin."""
        order = torch.argsort(self.indices, stable=True)
        begins = torch.zeros(self.d_sae + 1, dtype=torch.int64, device=self.indices.device)
        begins[1:] = torch.bincount(self.indices, minlength=self.d_sae).cumsum(0)
        return order, self.rows[order], begins

    def weighted_rows(self, values: Tensor, rows: Tensor) -> Tensor:
        """For each row of the batch, the sum of value x rows[feature]; [batch, d]."""
        return F.embedding_bag(
            self.indices, rows, self.offsets, mode="sum", per_sample_weights=values, include_last_offset=True
        )

    def outer(self, values: Tensor, batch: Tensor) -> Tensor:
        """For each feature, the sum of value x batch[row] over its entries; [d_sae, d]: a weight matrix's gradient."""
        order, rows, begins = self.by_feature
        return F.embedding_bag(
            rows, batch, begins, mode="sum", per_sample_weights=values[order], include_last_offset=True
        )

    def inner(self, batch: Tensor, rows: Tensor) -> Tensor:
        """For each entry, batch[row] . rows[feature]; [n]."""
        products: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            batch.contiguous(), rows, self.indices, self.offsets[:-1], self.rows, 0, -1
        )
        return products

    def feature_sums(self, values: Tensor) -> Tensor:
        """The sum of the values of each feature, [d_sae]."""
        return values.new_zeros(self.d_sae).index_add_(0, self.indices, values)


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
        rows, indices = mask.nonzero(as_tuple=True)
        offsets = F.pad(torch.bincount(rows, minlength=len(mask)).cumsum(0), (1, 0))
        return cls(values[rows, indices], Support(indices, offsets, mask.shape[-1]))

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

    @property
    def indices(self) -> Tensor:
        return self.support.indices

    @property
    def offsets(self) -> Tensor:
        return self.support.offsets

    def at(self, parameter: Tensor) -> Tensor:
        return parameter[self.indices]

    def row_sums(self) -> Tensor:
        return self.values.new_zeros(len(self.offsets) - 1).index_add(0, self.support.rows, self.values)

    def decode(self, rows: Tensor) -> Tensor:
        decoded: Tensor = _Decode.apply(self.values, rows, self.support)  # type: ignore[no-untyped-call]
        return decoded

    def counts(self) -> Tensor:
        return torch.bincount(self.indices[self.values.detach() != 0], minlength=self.support.d_sae)

    def dense(self) -> Tensor:
        flat = self.values.new_zeros((len(self.offsets) - 1) * self.support.d_sae)
        places = self.support.rows * self.support.d_sae + self.indices
        return flat.index_add(0, places, self.values).view(-1, self.support.d_sae)


def selected_preactivations(
    x: Tensor,
    encoder: Tensor,
    b_enc: Tensor | None,
    b_dec: Tensor | None,
    select: Callable[[Tensor], SparseFeatures],
    chunk_rows: int = 1024,
) -> SparseFeatures:
    """The entries of (x - b_dec) @ encoder.T + b_enc that `select` keeps, with their exact gradients.

    x [rows, d_in], encoder rows [d_sae, d_in]. The dense product exists only for `chunk_rows` rows at a time, in one
    reused buffer that `select` may overwrite but not return; autograd keeps none of it.
    """
    with torch.no_grad():
        centred = x if b_dec is None else x - b_dec
        buffer = x.new_empty(min(chunk_rows, len(x)), len(encoder))
        parts = []
        for chunk in torch.split(centred, chunk_rows):
            out = buffer[: len(chunk)]
            if b_enc is None:
                torch.mm(chunk, encoder.T, out=out)
            else:
                torch.addmm(b_enc, chunk, encoder.T, out=out)
            parts.append(select(out))
        chosen = SparseFeatures.cat(parts)
    values: Tensor = _Encode.apply(chosen.values, x, encoder, b_enc, b_dec, chosen.support)  # type: ignore[no-untyped-call]
    return chosen.replace(values)


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


class _Encode(torch.autograd.Function):
    """Attach to pre-activations that were computed without autograd the gradient of the affine map they came from."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        x: Tensor,
        encoder: Tensor,
        b_enc: Tensor | None,
        b_dec: Tensor | None,
        support: Support,
    ) -> Tensor:
        ctx.save_for_backward(x, encoder, b_dec)
        ctx.support = support
        return values.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, encoder, b_dec = ctx.saved_tensors
        support: Support = ctx.support
        grad = grad.contiguous()
        _, needs_x, needs_encoder, needs_b_enc, needs_b_dec, _ = ctx.needs_input_grad
        for_x = support.weighted_rows(grad, encoder) if needs_x else None
        for_encoder = support.outer(grad, x if b_dec is None else x - b_dec) if needs_encoder else None
        sums = support.feature_sums(grad) if needs_b_enc or needs_b_dec else None
        for_b_dec = -(sums @ encoder) if sums is not None and needs_b_dec else None
        return None, for_x, for_encoder, sums if needs_b_enc else None, for_b_dec, None
