"""Which features are attached to which row, and the products over those entries alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Support:
    """Entries as compressed rows; the transposed order is found once and shared by all gradients."""

    indices: Tensor  # [n] int64, the feature of each entry
    offsets: Tensor  # [rows + 1] int64, where each row's entries begin
    d_sae: int

    @cached_property
    def rows(self) -> Tensor:
        """The row of each entry, [n]."""
        row_numbers = torch.arange(len(self.offsets) - 1, device=self.indices.device)
        return row_numbers.repeat_interleave(self.offsets.diff(), output_size=len(self.indices))

    @cached_property
    def order(self) -> Tensor:
        """The entries sorted by feature, [n]; those of a feature stay in the order of their rows."""
        return torch.argsort(self.indices.to(torch.int32), stable=True)

    @cached_property
    def rows_by_feature(self) -> Tensor:
        """The row of each entry in the sorted order, [n]."""
        return self.rows[self.order]

    @cached_property
    def begins(self) -> Tensor:
        """Where each feature's entries begin in the sorted order, [d_sae + 1]."""
        return F.pad(self.feature_sums(torch.ones_like(self.indices)).cumsum(0), (1, 0))

    def weighted_rows(self, values: Tensor, rows: Tensor) -> Tensor:
        """For each row of the batch, the sum of value x rows[feature]; [batch, d]."""
        return F.embedding_bag(
            self.indices, rows, self.offsets, mode="sum", per_sample_weights=values, include_last_offset=True
        )

    def outer(self, values: Tensor, batch: Tensor) -> Tensor:
        """For each feature, the sum of value x batch[row] over its entries; [d_sae, d]: a weight matrix's gradient."""
        return F.embedding_bag(
            self.rows_by_feature, batch, self.begins, mode="sum", per_sample_weights=values[self.order],
            include_last_offset=True,
        )  # fmt: skip

    def inner(self, batch: Tensor, rows: Tensor) -> Tensor:
        """For each entry, batch[row] . rows[feature]; [n]. Sorted, so that a feature's row is fetched once."""
        products = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            rows, batch, self.rows_by_feature, self.begins[:-1], self.indices[self.order], 0, -1
        )
        return torch.empty_like(products).scatter_(0, self.order, products)

    def feature_sums(self, values: Tensor) -> Tensor:
        """The sum of the values of each feature, [d_sae]."""
        return values.new_zeros(self.d_sae).index_add_(0, self.indices, values)
