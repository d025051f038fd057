"""Every metric against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sae_platform.metrics import Predictions, ReconstructionSums, SparsitySums, recovered, without_nan

X = torch.tensor([[3.0, 4.0], [-3.0, 4.0], [0.0, 1.0]])  # mean [0, 3], squared deviations 10 + 10 + 4
Y = torch.tensor([[3.0, 0.0], [-3.0, 4.0], [0.0, 0.0]])  # squared errors 16, 0, 1; cosines 3/5, 1, 0


def reconstructed(*batches: tuple[Tensor, Tensor]) -> dict[str, float]:
    sums = ReconstructionSums()
    for x, y in batches:
        sums.add(x, y)
    return sums.result()


def test_reconstruction_metrics_are_those_worked_out_by_hand() -> None:
    assert reconstructed((X, Y)) == {
        "explained_variance": pytest.approx(1 - 17 / 24, abs=1e-12),
        "fvu": pytest.approx(17 / 24, abs=1e-12),
        "mse": pytest.approx(17 / 3, abs=1e-12),
        "cosine_similarity": pytest.approx(1.6 / 3, abs=1e-12),
    }


def test_an_identity_is_perfect() -> None:
    expected = {"explained_variance": 1, "fvu": 0, "mse": 0, "cosine_similarity": pytest.approx(1, abs=1e-12)}
    assert reconstructed((X, X.clone())) == expected


def test_the_mean_explains_nothing() -> None:
    assert reconstructed((X, X.mean(0).expand_as(X)))["explained_variance"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "cosine"),
    [([0.0, 0.0], [0.0, 0.0], 1), ([0.0, 0.0], [1.0, 0.0], 0), ([1.0, 0.0], [0.0, 0.0], 0), ([2.0, 0], [-1.0, 0], -1)],
)
def test_the_cosine_of_a_zero_row_is_one_to_a_zero_row_and_else_zero(
    x: list[float], y: list[float], cosine: float
) -> None:
    assert reconstructed((torch.tensor([x]), torch.tensor([y])))["cosine_similarity"] == cosine


def test_tiny_rows_have_a_cosine_too() -> None:
    x = torch.tensor([[3e-30, 4e-30]])
    assert reconstructed((x, x))["cosine_similarity"] == pytest.approx(1)


def test_data_that_does_not_vary_is_explained_wholly_or_not_at_all() -> None:
    x = torch.full((4, 2), 0.1)
    assert reconstructed((x, x))["fvu"] == 0
    assert reconstructed((x, x + 1))["fvu"] == math.inf


@pytest.mark.parametrize("sizes", [[1] * 100, [99, 1], [30, 30, 40]])
def test_how_the_rows_are_split_into_batches_changes_nothing(sizes: list[int]) -> None:
    x, noise = (torch.randn(100, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    y = x + 0.3 * noise
    batches = zip(x.split(sizes), y.split(sizes), strict=True)
    whole = reconstructed((x, y))
    assert reconstructed(*batches) == {name: pytest.approx(value, rel=1e-12) for name, value in whole.items()}


def test_a_large_offset_costs_no_precision() -> None:
    x, noise = (torch.randn(5000, 4, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
    y = x + 0.1 * noise
    centred = reconstructed((x, y))
    moved = reconstructed(*((part + 1e6, other + 1e6) for part, other in zip(x.split(64), y.split(64), strict=True)))
    for name in ("explained_variance", "fvu", "mse"):
        assert moved[name] == pytest.approx(centred[name], rel=1e-8)


def test_half_precision_is_summed_in_double() -> None:
    x = torch.full((70_000, 1), 2.0, dtype=torch.float16)
    assert reconstructed((x, torch.zeros_like(x)))["mse"] == 4


def test_nothing_has_no_metrics() -> None:
    with pytest.raises(ValueError, match="no rows"):
        ReconstructionSums().result()


def test_sparsity_is_counted_over_all_batches() -> None:
    sums = SparsitySums(4)
    sums.add(torch.tensor([3, 0, 1, 0]), 3)
    sums.add(torch.tensor([5, 0, 0, 1]), 5)
    assert sums.result() == {"l0": 10 / 8, "dead_fraction": 0.25}
    assert sums.density.tolist() == [1, 0, 1 / 8, 1 / 8]
    assert sums.density.dtype == torch.float64


LOGITS = torch.tensor(
    [[[0.0, 0.0], [math.log(3), 0.0], [9.0, 9.0]]]
)  # p = (1/2, 1/2), then (3/4, 1/4); the last unused
TOKENS = torch.tensor([[1, 0, 1]])
ALL = torch.ones(1, 3, dtype=torch.bool)


def test_cross_entropy_is_of_the_token_that_comes_next() -> None:
    predictions = Predictions.of(LOGITS, TOKENS, ALL)
    assert predictions.targets.tolist() == [0, 1]
    assert predictions.cross_entropy().item() == pytest.approx(math.log(2) + math.log(4))


def test_predictions_of_tokens_that_do_not_count_are_left_out() -> None:
    last_alone = Predictions.of(LOGITS, TOKENS, torch.tensor([[True, False, True]]))
    assert last_alone.cross_entropy().item() == pytest.approx(math.log(4))
    first_alone = Predictions.of(LOGITS, TOKENS, torch.tensor([[False, True, False]]))
    assert first_alone.cross_entropy().item() == pytest.approx(math.log(2))


def test_divergence_is_from_the_clean_to_the_changed_model() -> None:
    clean, changed = Predictions.of(LOGITS, TOKENS, ALL), Predictions.of(0 * LOGITS, TOKENS, ALL)
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)  # of the second prediction; the first is equal
    assert changed.divergence_from(clean).item() == pytest.approx(expected, rel=1e-6)
    assert clean.divergence_from(clean).item() == pytest.approx(0, abs=1e-12)


def test_logits_of_half_precision_lose_nothing_more() -> None:
    predictions = Predictions.of(
        torch.tensor([[[0.0, 12.0], [0.0, 0.0]]], dtype=torch.bfloat16), TOKENS[:, :2], ALL[:, :2]
    )
    assert predictions.cross_entropy().item() == pytest.approx(12 + math.log1p(math.exp(-12)), rel=1e-6)


def test_what_is_recovered_is_a_share_of_the_harm() -> None:
    assert recovered(10.0, 4.0, 4.0) == 1
    assert recovered(10.0, 10.0, 4.0) == 0
    assert recovered(10.0, 5.5, 4.0) == 0.75
    assert recovered(10.0, 12.0, 4.0) < 0
    assert math.isnan(recovered(4.0, 3.0, 4.0))


def test_json_gets_null_for_what_is_no_number() -> None:
    assert without_nan({"a": math.nan, "b": -math.inf, "c": 0.5}) == {"a": None, "b": None, "c": 0.5}
