"""Selection by groups against looking at every column: the same entries, whatever lies in them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sae_platform.sparse import SparseFeatures, largest, positive
from sae_platform.sparse.selection import GROUP

WIDTHS = [1, GROUP - 1, GROUP, 20 * GROUP, 20 * GROUP + 5]
ROWS = 9


def random(width: int) -> Tensor:
    return torch.randn(ROWS, width, generator=torch.Generator().manual_seed(width))


NUMBERS: dict[str, Callable[[int], Tensor]] = {
    "random": random,
    "tied": lambda width: random(width).round(),
    "all equal": lambda width: torch.ones(ROWS, width),
    "all negative": lambda width: -random(width).abs() - 1,
    "all positive": lambda width: random(width).abs() + 1,
    "few positive": lambda width: random(width) - 2.2,
    "some rows empty": lambda width: random(width) - 5 * (torch.arange(ROWS) % 2)[:, None],
    "infinite": lambda width: torch.where(random(width) > 1.5, torch.inf, random(width)),
    "all minus infinity": lambda width: torch.full((ROWS, width), -torch.inf),
}


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("numbers", NUMBERS)
def test_the_largest_are_those_of_topk(numbers: str, width: int, k: int) -> None:
    pre, k = NUMBERS[numbers](width), min(k, width)
    found = largest(pre.clone(), k)
    indices = found.indices.view(ROWS, k)
    assert torch.equal(found.values.view(ROWS, k).sort().values, pre.topk(k).values.flip(-1))
    assert torch.equal(pre.gather(1, indices), found.values.view(ROWS, k))
    assert all(len(set(row)) == k for row in indices.tolist())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("numbers", NUMBERS)
def test_the_positive_are_those_above_zero(numbers: str, width: int) -> None:
    pre = NUMBERS[numbers](width)
    found, expected = positive(pre.clone()), SparseFeatures.where(pre > 0, pre)
    assert torch.equal(found.offsets, expected.offsets)
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(found.values, expected.values)


@pytest.mark.parametrize("select", [lambda pre: largest(pre, 3), positive], ids=["largest", "positive"])
def test_no_rows_give_no_entries(select: Callable[[Tensor], SparseFeatures]) -> None:
    found = select(torch.zeros(0, 20 * GROUP))
    assert found.offsets.tolist() == [0]
    assert len(found.values) == 0


@pytest.mark.parametrize("select", [lambda pre: largest(pre, 3), positive], ids=["largest", "positive"])
def test_what_is_selected_does_not_change_with_its_chunk(select: Callable[[Tensor], SparseFeatures]) -> None:
    chunk = random(20 * GROUP)
    found = select(chunk)
    values = found.values.clone()
    chunk.fill_(torch.nan)
    assert torch.equal(found.values, values)
