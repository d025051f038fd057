from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from sae_platform_synthetic import SyntheticSourceConfig
from sae_platform_synthetic.features import mean_max_cosine, spread_directions


def build(seed: int = 0, **settings: Any) -> Any:
    return SyntheticSourceConfig(**{"rows": 1000, "held_out_rows": 300, "batch_size": 256} | settings).build(seed)


def rows(source: Any, *place: Any) -> torch.Tensor:
    return torch.cat([batch.x for batch in source.harvest(*place)])


def test_an_epoch_has_the_rows_asked_for() -> None:
    source = build(dtype="float64")
    assert [len(batch.x) for batch in source.harvest("train")] == [256, 256, 256, 232]
    assert rows(source, "held_out").shape == (300, source.d_in)
    assert rows(source, "held_out").dtype == source.dtype == torch.float64


def test_rows_depend_on_seed_split_and_epoch_alone() -> None:
    first = rows(build(), "train", 0)
    assert torch.equal(first, rows(build(), "train", 0))
    assert not torch.equal(first, rows(build(), "train", 1))
    assert not torch.equal(first, rows(build(seed=1), "train", 0))
    assert not torch.equal(first[:300], rows(build(), "held_out"))
    assert torch.equal(rows(build(), "held_out", 0), rows(build(), "held_out", 1))


def test_held_out_rows_are_the_same_for_every_seed_of_a_run() -> None:
    assert torch.equal(rows(build(seed=1), "held_out"), rows(build(seed=2), "held_out"))


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_weights_of_the_same_seed_do_not_begin_at_the_true_features(seed: int) -> None:
    source = build(feature_seed=seed)
    torch.manual_seed(seed)
    found = source.mean_max_cosine(torch.randn(64, 32))
    torch.manual_seed(seed + 1)
    assert found == pytest.approx(source.mean_max_cosine(torch.randn(64, 32)), abs=0.03)


def test_a_start_skips_batches() -> None:
    source = build()
    assert torch.equal(rows(source, "train", 2, 3), rows(source, "train", 2)[768:])
    assert list(source.harvest("train", 0, 4)) == []


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_features_fire_as_often_and_as_strongly_as_asked(correlation: float) -> None:
    source = build(correlation=correlation, l0=4, magnitude_mean=2.0, magnitude_std=0.5)
    activity = source.activity(20_000, torch.Generator().manual_seed(0))
    fires = activity > 0
    assert fires.sum(1).float().mean().item() == pytest.approx(4, rel=0.1)
    assert activity[fires].mean().item() == pytest.approx(2, rel=0.02)
    assert activity[fires].std().item() == pytest.approx(0.5, rel=0.05)


def test_correlated_features_fire_together() -> None:
    def strongest(correlation: float) -> float:
        fires = build(correlation=correlation).activity(20_000, torch.Generator().manual_seed(0)) > 0
        return torch.corrcoef(fires.T.float()).fill_diagonal_(0).max().item()

    assert strongest(0.0) < 0.05 < 0.3 < strongest(0.8)


def test_every_feature_can_be_on() -> None:
    assert (build(l0=64).activity(100, torch.Generator()) > 0).all()
    with pytest.raises(ValidationError, match=r"l0 is 65.0, more than there are features"):
        SyntheticSourceConfig(l0=65)


def test_noise_has_its_size() -> None:
    source = build(magnitude_mean=0, magnitude_std=0, noise=0.3)
    assert rows(source, "train").std().item() == pytest.approx(0.3, rel=0.02)


def test_true_features_are_unit_vectors_that_only_their_own_seed_decides() -> None:
    source = build(seed=5)
    assert torch.allclose(source.true_features.norm(dim=1), torch.ones(64))
    assert torch.equal(source.true_features, build(seed=6).true_features)
    assert not torch.equal(source.true_features, build(feature_seed=1).true_features)


@pytest.mark.parametrize(("count", "width"), [(64, 32), (32, 32), (200, 16)])
def test_true_features_are_further_apart_than_random_ones(count: int, width: int, monkeypatch: Any) -> None:
    def closest() -> float:
        directions = spread_directions(count, width, torch.Generator().manual_seed(0))
        return (directions @ directions.T).fill_diagonal_(0).abs().max().item()

    spread = closest()
    monkeypatch.setattr("sae_platform_synthetic.features.SPREADING_STEPS", 0)
    assert spread < 0.9 * closest()


def test_one_feature_is_possible() -> None:
    assert build(n_features=1, l0=0.5).true_features.shape == (1, 32)


def test_the_score_of_a_decoder_is_one_when_it_holds_every_feature() -> None:
    source = build()
    shuffled = source.true_features[torch.randperm(64)]
    assert source.mean_max_cosine(torch.cat([3 * shuffled, torch.randn(9, 32)])) == pytest.approx(1)
    assert mean_max_cosine(torch.eye(2), torch.tensor([[1.0, 0.0]])) == pytest.approx(0.5)


def test_an_autoencoder_is_scored_by_its_decoder() -> None:
    source = build()
    assert source.score(SimpleNamespace(W_dec=source.true_features)) == {"mean_max_cosine": pytest.approx(1)}
    assert source.score(SimpleNamespace()) == {}


def test_metadata_names_no_model_and_says_how_to_do_it_again() -> None:
    source = build()
    assert source.metadata.model_name is None
    assert SyntheticSourceConfig(**source.metadata.source) == source.cfg
