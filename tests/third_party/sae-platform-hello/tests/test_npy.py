from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sae_platform_hello import NpyConfig

from sae_platform import PlatformError
from sae_platform.testing import SourceContract


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.save(tmp_path / "rows.npy", np.arange(400.0).reshape(100, 4))
    return tmp_path / "rows.npy"


class TestNpySource(SourceContract):
    @pytest.fixture(autouse=True)
    def _config(self, path):
        self.config = NpyConfig(path=path, batch_rows=32, held_out_rows=20)


def test_training_sees_every_row_but_the_held_out_ones_once(path):
    source = NpyConfig(path=path, batch_rows=32, held_out_rows=20).build()
    seen = torch.cat([batch.x for batch in source.harvest("train")])
    held_out = torch.cat([batch.x for batch in source.harvest("held_out")])
    assert sorted(seen[:, 0].tolist()) == [4.0 * row for row in range(80)]
    assert held_out[:, 0].tolist() == [4.0 * row for row in range(80, 100)]


def test_epochs_and_seeds_differ_and_repeat(path):
    config = NpyConfig(path=path, batch_rows=32, held_out_rows=20)

    def first(seed: int, epoch: int) -> list[float]:
        return next(config.build(seed).harvest("train", epoch)).x[:, 0].tolist()

    assert first(0, 0) == first(0, 0)
    assert first(0, 0) != first(0, 1)
    assert first(0, 0) != first(1, 0)


def test_what_cannot_be_read_is_refused_by_name(path, tmp_path):
    with pytest.raises(PlatformError, match=r"missing\.npy cannot be read"):
        NpyConfig(path=tmp_path / "missing.npy").build()
    with pytest.raises(PlatformError, match=r"more than held_out_rows = 512 rows"):
        NpyConfig(path=path).build()
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(PlatformError, match=r"rows\.npy cannot be read"):
        NpyConfig(path=path).build()
