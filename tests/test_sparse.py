"""Sparse features against dense ones: the same values, the same exact gradients, and never a [rows, d_sae] matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sae_platform import SAEConfig
from sae_platform.sparse import (
    DenseFeatures,
    Features,
    SparseFeatures,
    Workspace,
    dense_preactivations,
    selected_preactivations,
)
from sae_platform.testing import one_step

ROWS, D_SAE, D_IN = 6, 5, 3
MASKS = {
    "mixed": [[1, 0, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]],
    "empty": [[0] * D_SAE] * ROWS,
    "full": [[1] * D_SAE] * ROWS,
}


@pytest.fixture(params=MASKS)
def mask(request: pytest.FixtureRequest) -> Tensor:
    """Which features are active: some, none or all in a row."""
    return torch.tensor(MASKS[request.param], dtype=torch.bool)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Numbers in float64 that want a gradient."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def same(actual: Tensor, expected: Tensor) -> None:
    """Equal to 1e-9."""
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


OPERATIONS: dict[str, Callable[[Features, Tensor, Tensor], Tensor]] = {
    "at": lambda features, parameter, rows: features.replace(features.values * features.at(parameter)).dense(),
    "row_sums": lambda features, parameter, rows: features.row_sums(),
    "weighted_row_sums": lambda features, parameter, rows: features.row_sums(parameter),
    "decode": lambda features, parameter, rows: features.decode(rows),
    "dense": lambda features, parameter, rows: features.dense(),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_sparse_and_dense_features_give_the_same_values_and_gradients(operation: str, mask: Tensor) -> None:
    results = []
    for sparse in (True, False):
        values, parameter, rows = normal(ROWS, D_SAE), normal(D_SAE, seed=1), normal(D_SAE, D_IN, seed=2)
        features: Features = SparseFeatures.where(mask, values) if sparse else DenseFeatures(values * mask)
        result = OPERATIONS[operation](features, parameter, rows)
        (result * normal(*result.shape, seed=3).detach()).sum().backward()
        gradients = [torch.zeros_like(t) if t.grad is None else t.grad for t in (values, parameter, rows)]
        results.append([result, *gradients])
    for actual, expected in zip(*results, strict=True):
        same(actual, expected)


def test_sparse_and_dense_features_count_alike(mask: Tensor) -> None:
    values = normal(ROWS, D_SAE).detach()
    values[2, 3] = 0.0  # attached, but not active
    sparse, dense = SparseFeatures.where(mask, values), DenseFeatures(values * mask)
    assert torch.equal(sparse.counts(), dense.counts())
    assert torch.equal(sparse.counts(), ((values * mask) != 0).sum(0))
    same(sparse.l0(), dense.l0())
    torch.testing.assert_close(sparse.l0(), ((values * mask) != 0).sum() / ROWS)


def test_l0_is_exact_in_low_precision() -> None:
    values = torch.ones(3, 1001, dtype=torch.bfloat16)
    assert SparseFeatures.where(values > 0, values).l0() == 1001
    assert DenseFeatures(values).l0() == 1001


def test_decode_has_exact_gradients(mask: Tensor) -> None:
    support = SparseFeatures.where(mask, torch.zeros(ROWS, D_SAE)).support
    values = normal(len(support.indices))
    assert torch.autograd.gradcheck(lambda v, r: SparseFeatures(v, support).decode(r), (values, normal(D_SAE, D_IN)))


def test_decode_accepts_a_gradient_that_is_no_contiguous_matrix() -> None:
    mask = torch.tensor(MASKS["mixed"], dtype=torch.bool)
    values, rows = normal(ROWS, D_SAE), normal(D_SAE, D_IN)
    SparseFeatures.where(mask, values).decode(rows).sum().backward()
    assert values.grad is not None
    same(values.grad, mask * rows.detach().sum(-1))


def test_a_feature_that_is_attached_twice_counts_twice_in_every_gradient() -> None:
    indices = torch.tensor([[1, 1], [0, 1]])
    values, rows = normal(2, 2), normal(D_SAE, D_IN)
    once = SparseFeatures.fixed(values, indices, D_SAE)
    same(once.decode(rows), once.dense() @ rows)
    assert torch.autograd.gradcheck(lambda v, r: SparseFeatures.fixed(v, indices, D_SAE).decode(r), (values, rows))


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_selected_preactivations_have_exact_gradients(mask: Tensor, biased: bool, centred: bool) -> None:
    x, encoder = normal(ROWS, D_IN, seed=1), normal(D_SAE, D_IN, seed=2)
    biases = (normal(D_SAE, seed=3) if biased else None, normal(D_IN, seed=4) if centred else None)

    def values(*inputs: Tensor | None) -> Tensor:
        return selected_preactivations(*inputs, select=lambda pre: SparseFeatures.where(mask, pre)).values  # type: ignore[misc, arg-type]

    assert torch.autograd.gradcheck(values, (x, encoder, *biases))


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("rows", [0, 1, ROWS])
def test_selected_preactivations_are_those_of_the_dense_product(rows: int, ties: bool) -> None:
    inputs = [normal(rows, D_IN), normal(D_SAE, D_IN, seed=1), normal(D_SAE, seed=2), normal(D_IN, seed=3)]
    if ties:
        inputs = [torch.ones_like(t).requires_grad_() for t in inputs]
    twins = [t.detach().clone().requires_grad_() for t in inputs]

    def two_largest(pre: Tensor) -> SparseFeatures:
        top = pre.topk(2, dim=-1)
        return SparseFeatures.fixed(top.values, top.indices, D_SAE)

    sparse = selected_preactivations(*inputs, select=two_largest)
    x, encoder, b_enc, b_dec = twins
    pre = (x - b_dec) @ encoder.T + b_enc
    dense = DenseFeatures(pre * (two_largest(pre).replace(torch.ones(2 * rows, dtype=pre.dtype)).dense() > 0))
    same(sparse.dense(), dense.values)
    for features, decoder in ((sparse, encoder.detach()), (dense, encoder.detach())):
        features.decode(decoder).pow(2).sum().backward()
    for one, other in zip(inputs, twins, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        same(one.grad, other.grad)


@pytest.mark.parametrize("chunk_rows", [1, 2, 4, 5, ROWS])
def test_the_size_of_the_chunks_changes_nothing(chunk_rows: int) -> None:
    def run(size: int) -> tuple[SparseFeatures, list[Tensor]]:
        inputs = [normal(ROWS, D_IN), normal(D_SAE, D_IN, seed=1), normal(D_SAE, seed=2), normal(D_IN, seed=3)]
        features = selected_preactivations(*inputs, lambda pre: SparseFeatures.where(pre > 0.3, pre), chunk_rows=size)
        features.values.pow(2).sum().backward()
        return features, [t.grad for t in inputs if t.grad is not None]

    (features, gradients), (whole, expected) = run(chunk_rows), run(1024)
    assert torch.equal(features.indices, whole.indices)
    assert torch.equal(features.offsets, whole.offsets)
    same(features.values, whole.values)
    assert len(gradients) == len(expected) == 4
    for one, other in zip(gradients, expected, strict=True):
        same(one, other)


@pytest.mark.parametrize("biased", [True, False])
def test_a_scale_is_seen_by_the_selection_alone(biased: bool) -> None:
    inputs = [normal(ROWS, D_IN), normal(D_SAE, D_IN, seed=1), normal(D_SAE, seed=2) if biased else None, None]
    scale = normal(D_SAE, seed=3).detach().abs() + 0.1
    seen: list[Tensor] = []

    def keep(pre: Tensor) -> SparseFeatures:
        seen.append(pre.clone())
        return SparseFeatures.where(pre > 0, pre)

    features = selected_preactivations(*inputs, keep, scale=scale)  # type: ignore[arg-type]
    x, encoder, b_enc, _ = inputs
    pre = x @ encoder.T + (0 if b_enc is None else b_enc)  # type: ignore[operator, union-attr]
    same(seen[0], pre * scale)
    same(features.dense(), pre.relu())


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_dense_preactivations_have_exact_gradients(biased: bool, centred: bool) -> None:
    inputs = [normal(ROWS, D_IN), normal(D_SAE, D_IN, seed=1), normal(D_SAE, seed=2) if biased else None]
    inputs.append(normal(D_IN, seed=3) if centred else None)
    x, encoder, b_enc, b_dec = inputs
    expected = torch.nn.functional.linear(x if b_dec is None else x - b_dec, encoder, b_enc)  # type: ignore[arg-type]
    same(dense_preactivations(*inputs).values, expected)  # type: ignore[arg-type]
    assert torch.autograd.gradcheck(lambda *given: dense_preactivations(*given).values, inputs)


def test_a_workspace_gives_the_same_memory_again() -> None:
    workspace, like = Workspace(), torch.zeros(1)
    first = workspace.take("a", like, 4, 8)
    assert first.shape == (4, 8)
    assert first.is_contiguous()
    assert workspace.take("a", like, 2, 8).data_ptr() == first.data_ptr()
    assert workspace.take("b", like, 4, 8).data_ptr() != first.data_ptr()
    assert workspace.take("a", like, 40, 8).shape == (40, 8)
    assert workspace.take("a", like.double(), 2).dtype == torch.float64


def test_selection_may_overwrite_its_buffer() -> None:
    inputs = [normal(ROWS, D_IN), normal(D_SAE, D_IN, seed=1), None, None]

    def overwriting(pre: Tensor) -> SparseFeatures:
        chosen = SparseFeatures.where(pre > 0, pre)
        pre.fill_(torch.nan)
        return chosen

    features = selected_preactivations(*inputs, overwriting, chunk_rows=2)  # type: ignore[arg-type]
    x, encoder, *_ = inputs
    assert x is not None
    assert encoder is not None
    same(features.dense(), (x @ encoder.T).relu())


def test_fixed_features_are_k_in_each_row() -> None:
    features = SparseFeatures.fixed(torch.tensor([[3.0, 4.0], [5.0, 6.0]]), torch.tensor([[2, 0], [1, 2]]), d_sae=4)
    assert features.offsets.tolist() == [0, 2, 4]
    assert features.support.rows.tolist() == [0, 0, 1, 1]
    assert features.dense().tolist() == [[4, 0, 3, 0], [0, 5, 6, 0]]


def test_where_keeps_what_the_mask_keeps_even_zeros(mask: Tensor) -> None:
    features = SparseFeatures.where(mask, torch.zeros(ROWS, D_SAE))
    assert len(features.values) == mask.sum()
    assert features.offsets.diff().tolist() == mask.sum(-1).tolist()
    assert features.counts().tolist() == [0] * D_SAE


def test_cat_puts_rows_one_after_the_other(mask: Tensor) -> None:
    values = normal(ROWS, D_SAE)
    parts = [SparseFeatures.where(m, v) for m, v in zip(mask.split([1, 3, 2]), values.split([1, 3, 2]), strict=True)]
    joined, whole = SparseFeatures.cat(parts), SparseFeatures.where(mask, values)
    assert torch.equal(joined.values, whole.values)
    assert torch.equal(joined.indices, whole.indices)
    assert torch.equal(joined.offsets, whole.offsets)
    joined.dense().sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad, mask.double())


class Sizes(TorchDispatchMode):
    """Records how many numbers each tensor has that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen += [t.numel() for t in tree_leaves(result) if isinstance(t, Tensor)]
        return result


@pytest.fixture
def sizes() -> Iterator[list[int]]:
    """The sizes of all tensors made during the test."""
    with Sizes() as mode:
        yield mode.seen


def test_a_sparse_training_step_never_holds_more_than_a_chunk_of_dense_features(sizes: list[int]) -> None:
    chunk, d_in, d_sae = 1024, 4, 128
    sae = SAEConfig(architecture="topk", d_in=d_in, d_sae=d_sae, k=2).build()
    x = torch.randn(4 * chunk, d_in)
    sizes.clear()
    losses = one_step(sae, x, dead=torch.arange(3)).losses
    forward = max(sizes)
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert "auxiliary_loss" in losses
    assert forward == chunk * d_sae
    assert max(sizes) == chunk * d_sae
    assert sae.W_enc_rows.grad is not None


def test_active_entries_are_those_that_are_not_zero(mask: Tensor) -> None:
    values = normal(ROWS, D_SAE).detach().relu()
    active, expected = SparseFeatures.where(mask, values).active(), SparseFeatures.where(mask & (values != 0), values)
    assert torch.equal(active.values, expected.values)
    assert torch.equal(active.indices, expected.indices)
    assert torch.equal(active.offsets, expected.offsets)
