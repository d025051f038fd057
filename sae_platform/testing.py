"""Contracts that plugin authors run against their own parts: subclass one and name the config."""

from __future__ import annotations

import copy
import pickle
from itertools import islice
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from sae_platform.activations import ActivationSource, Batch
from sae_platform.components import ActivationSourceConfig, SAEConfig, SAEMetadata
from sae_platform.errors import PlatformError
from sae_platform.sae import SAE, StepOutput, StepState

D_IN, ROWS = 8, 32


class UseContract:
    """Everything that people and evaluation assume of an SAE. `config` has small sizes, d_in = 8 and no other d_out."""

    config: ClassVar[SAEConfig]

    @pytest.fixture
    def sae(self) -> SAE:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.config.build()

    @pytest.fixture
    def x(self) -> Tensor:
        return torch.randn(ROWS, D_IN, generator=torch.Generator().manual_seed(1))

    def finished(self, sae: SAE, x: Tensor) -> SAE:
        """The SAE as people use it."""
        return sae.eval()

    def test_any_leading_shape_is_encoded_and_decoded(self, sae: SAE, x: Tensor) -> None:
        sae.eval()
        flat = sae.encode(x)
        assert flat.shape == (ROWS, self.config.d_sae)
        torch.testing.assert_close(sae.encode(x.view(4, -1, D_IN)).view(flat.shape), flat)
        assert sae.decode(flat, x).shape == x.shape
        torch.testing.assert_close(sae(x.view(4, -1, D_IN)).view(x.shape), sae(x))

    def test_sparse_features_are_the_dense_ones(self, sae: SAE, x: Tensor) -> None:
        sae.eval()
        features = sae.encode_sparse(x)
        torch.testing.assert_close(features.dense(), sae.encode(x))
        torch.testing.assert_close(sae.decode(features, x), sae.decode(sae.encode(x), x))

    def test_weights_survive_the_disk(self, sae: SAE, x: Tensor, tmp_path: Path) -> None:
        saved = self.finished(sae, x)
        saved.save_model(tmp_path)
        loaded = SAE.load_from_disk(tmp_path)
        assert type(loaded.cfg) is type(saved.cfg)
        assert torch.equal(loaded(x), saved(x))

    def test_it_can_be_copied_and_pickled(self, sae: SAE, x: Tensor) -> None:
        sae.eval()
        for twin in (copy.deepcopy(sae), pickle.loads(pickle.dumps(sae))):  # noqa: S301 (our own bytes)
            assert torch.equal(twin(x), sae(x))

    def test_another_width_is_refused(self, sae: SAE) -> None:
        with pytest.raises(PlatformError, match=f"{D_IN}.*{D_IN + 1}"):
            sae.encode(torch.zeros(2, D_IN + 1))

    def test_the_config_survives_json(self) -> None:
        cfg = self.config.model_copy(update={"metadata": SAEMetadata(hook_name="blocks.0.hook_resid_post")})
        again = SAEConfig.model_validate_json(cfg.model_dump_json())
        assert again == cfg
        assert again.metadata.hook_name == "blocks.0.hook_resid_post"


class ArchitectureContract(UseContract):
    """Everything that training, evaluation and people assume of an SAE. `config` is as for `UseContract`."""

    def finished(self, sae: SAE, x: Tensor) -> SAE:
        train_steps(sae, x, 5)
        return sae.inference_form().eval()

    def test_every_loss_term_is_a_finite_scalar(self, sae: SAE, x: Tensor) -> None:
        losses = one_step(sae, x).losses
        assert losses
        for name, loss in losses.items():
            assert loss.shape == (), name
            assert loss.isfinite(), name

    def test_the_density_from_which_steps_are_dense_changes_nothing(self, sae: SAE, x: Tensor) -> None:
        dense, *others = (copy.deepcopy(sae) for _ in range(3))
        expected = gradients_of_a_step(dense, x, 0.0)
        for twin, limit in zip(others, (0.3, 2.0), strict=True):
            actual = gradients_of_a_step(twin, x, limit)
            for name, value in expected.items():
                torch.testing.assert_close(actual[name], value, rtol=1e-4, atol=1e-5)

    def test_every_parameter_learns(self, sae: SAE, x: Tensor) -> None:
        train_steps(sae, x, 20)
        learnt = {name: p.detach().clone() for name, p in sae.named_parameters()}
        train_steps(sae, x, 20)
        assert [name for name, p in sae.named_parameters() if torch.equal(p, learnt[name])] == []

    def test_training_reduces_the_loss(self, sae: SAE, x: Tensor) -> None:
        history = train_steps(sae, x, 60)
        assert history[-1] < history[0]

    def test_gradients_are_stored_like_their_parameters(self, sae: SAE, x: Tensor) -> None:
        torch.stack(list(one_step(sae, x).losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        for name, parameter in sae.named_parameters():
            assert parameter.is_contiguous(), name
            assert parameter.grad is None or parameter.grad.stride() == parameter.stride(), name

    def test_the_inference_form_reconstructs_like_the_trained_sae(self, sae: SAE, x: Tensor) -> None:
        sae.initialise(5 * x)
        train_steps(sae, 5 * x, 20)
        sae.eval()
        torch.testing.assert_close(sae.inference_form().eval()(5 * x), sae(5 * x), rtol=1e-4, atol=1e-4)

    def test_the_same_seed_gives_the_same_steps(self, x: Tensor) -> None:
        runs = []
        for _ in range(2):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(3)
                runs.append(train_steps(self.config.build(), x, 5))
        assert runs[0] == runs[1]


class SourceContract:
    """Everything that training assumes of an activation source. `config` has little data."""

    config: ClassVar[ActivationSourceConfig]

    @pytest.fixture
    def source(self) -> ActivationSource:
        return self.config.build(seed=0)

    def test_rows_have_the_declared_width_and_dtype(self, source: ActivationSource) -> None:
        batch = next(source.harvest("train"))
        assert batch.x.shape[1:] == (source.d_in,)
        assert batch.x.dtype == source.dtype
        assert batch.x.isfinite().all()
        for column in (batch.tokens, batch.positions):
            assert column is None or len(column) == len(batch.x)

    def test_a_pass_is_the_same_every_time(self, source: ActivationSource) -> None:
        first, again = (list(islice(s.harvest("train"), 3)) for s in (source, self.config.build(seed=0)))
        for one, other in zip(first, again, strict=True):
            assert torch.equal(one.x, other.x)

    def test_a_pass_can_begin_anywhere(self, source: ActivationSource) -> None:
        whole = list(islice(source.harvest("train"), 3))
        assert torch.equal(next(source.harvest("train", start=len(whole) - 1)).x, whole[-1].x)

    def test_held_out_data_is_not_trained_on(self, source: ActivationSource) -> None:
        assert not torch.equal(next(source.harvest("held_out")).x, next(source.harvest("train")).x)

    def test_its_metadata_rebuilds_it(self, source: ActivationSource) -> None:
        assert ActivationSourceConfig.model_validate(source.metadata.source) == self.config


def one_step(
    sae: SAE, x: Tensor, step: int = 0, dead: Tensor | None = None, sparse_below: float | None = None
) -> StepOutput:
    """A training step's output, with every coefficient at its value for that step.

    It is dense when `sparse_below` is 0, and sparse, where the architecture can, when it is above 1.
    """
    warmed = {name: coefficient.at(step) for name, coefficient in sae.coefficients().items()}
    return sae.train().step(Batch(x), StepState(step, warmed, dead, sparse_below))


def gradients_of_a_step(sae: SAE, x: Tensor, sparse_below: float) -> dict[str, Tensor]:
    """The loss terms of a step and the gradients of their sum, by name."""
    losses = one_step(sae, x, sparse_below=sparse_below).losses
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in sae.named_parameters() if p.grad is not None}
    return {**{name: loss.detach() for name, loss in losses.items()}, **gradients}


def train_steps(sae: SAE, x: Tensor, steps: int, lr: float = 1e-2) -> list[float]:
    """The losses of a few steps of Adam on one batch, as the training loop takes them."""
    optimizer = torch.optim.Adam(sae.parameters(), lr=lr, fused=True)
    history = []
    for step in range(steps):
        loss = torch.stack(list(one_step(sae, x, step).losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        sae.after_step()
        history.append(loss.item())
    return history
