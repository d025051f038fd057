"""The training loop: the bits it gives, the data it sees, what changes from step to step, and bad input."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from threading import current_thread
from threading import enumerate as enumerate_threads
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sae_platform import PlatformError, RunConfig, RunDirectory, evaluate, train, weights
from sae_platform.activations import Batch
from sae_platform.config import TrainingConfig
from sae_platform.stepping import learning_rate
from tape import BATCH, D_SAE, SAE_TABLE, SYNTHETIC, Step, Tape, TapeConfig, a_run, texts, values

# Processors differ in the last bits of random numbers, so that a few features fire on one and not on another: 3e-4.
GOLDEN = {
    "explained_variance": 0.64679,
    "fvu": 0.35321,
    "mse": 0.68205,
    "cosine_similarity": 0.74254,
    "l0": 4.0,
    "dead_fraction": 0.0,
    "mean_max_cosine": 0.64682,
    "mean_loss": 8.49473,
}


# the same bits


@pytest.mark.parametrize("architecture", ["topk", "standard", "gated", "jumprelu"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(architecture: str, tmp_path: Path) -> None:
    sae = {"architecture": architecture, "d_sae": D_SAE}

    def files(name: str, seed: int) -> list[bytes]:
        run = train(a_run(SYNTHETIC, sae, seed=seed, buffer=256, checkpoint_every=5), tmp_path, name)
        assert texts(run, "error") == texts(run, "warning") == []
        return [(run.path / path).read_bytes() for path in (
            "sae/sae_weights.safetensors", "checkpoints/step-00000005/training.safetensors",
            "checkpoints/step-00000005/optimizer.safetensors", "checkpoints/step-00000005/data_state.safetensors",
        )]  # fmt: skip

    first, again, other = files("first", 0), files("again", 0), files("other", 1)
    assert first == again
    assert all(one != another for one, another in zip(first, other, strict=True))


def test_a_source_on_a_device_of_its_own_runs_ahead_and_gives_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bits(name: str) -> bytes:
        run = train(a_run(), tmp_path, name)
        return (run.sae_path / "sae_weights.safetensors").read_bytes()

    threads: set[str] = set()
    harvest = Tape.harvest

    def watched(self: Tape, *args: Any) -> Iterator[Batch]:
        for batch in harvest(self, *args):
            threads.add(current_thread().name)
            yield batch

    monkeypatch.setattr(Tape, "harvest", watched)
    together = bits("together")
    assert threads == {"MainThread"}
    monkeypatch.setattr(Tape, "device", torch.device("meta"))
    assert bits("ahead") == together
    assert "activations" in threads
    with pytest.raises(PlatformError, match="step 3"):
        train(a_run(TapeConfig(spoilt_row=150)), tmp_path, "spoilt")
    assert "activations" not in {thread.name for thread in enumerate_threads()}


def test_a_seeded_run_gives_the_numbers_it_always_gave(tmp_path: Path) -> None:
    run = train(a_run({**SYNTHETIC, "rows": 4000}, tokens=8000, buffer=1024, lr_schedule="cosine", seed=7), tmp_path)
    losses = values(run, "loss")
    measured = {**evaluate(run.sae_path), "mean_loss": sum(losses) / len(losses)}
    assert {name: measured[name] for name in GOLDEN} == pytest.approx(GOLDEN, rel=1e-3)


def test_the_run_file_gives_the_same_run_again(tmp_path: Path) -> None:
    first = train(a_run(SYNTHETIC), tmp_path)
    again = train(first.run_toml, tmp_path)
    assert again.path != first.path
    weights_of = [(run.sae_path / weights.WEIGHTS).read_bytes() for run in (first, again)]
    assert weights_of[0] == weights_of[1]


def test_the_global_generator_is_left_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(a_run(), tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


# the data


@pytest.mark.parametrize("tokens", [640, 600, 65, 10])
def test_exactly_the_rows_asked_for_are_used_once_each(tokens: int, steps: list[Step], tmp_path: Path) -> None:
    run = train(a_run(tokens=tokens, buffer=256), tmp_path)
    sizes = [len(step.tokens) for step in steps]
    assert sorted(number for step in steps for number in step.tokens) == list(range(tokens))
    assert sizes[:-1] == [BATCH] * (len(sizes) - 1)
    assert len(sizes) == math.ceil(tokens / BATCH)
    status = run.status()
    assert (status.state, status.step, status.tokens, status.total_tokens) == ("finished", len(sizes), tokens, tokens)
    assert run.latest()["tokens"] == tokens
    assert texts(run, "error") == []


def test_rows_are_shuffled_through_the_buffer(steps: list[Step], tmp_path: Path) -> None:
    train(a_run(buffer=320), tmp_path)
    assert max(steps[0].tokens) > 2 * BATCH
    assert steps[0].tokens != sorted(steps[0].tokens)


def test_where_the_data_ends_a_new_epoch_begins_and_is_said_once(steps: list[Step], tmp_path: Path) -> None:
    run = train(a_run(TapeConfig(rows=250), tokens=600), tmp_path)
    assert sorted(number for step in steps for number in step.tokens) == list(range(600))
    assert [text for text in texts(run, "info") if "epoch" in text] == [
        "The data ended after 250 activations; epoch 2 begins.",
        "The data ended after 250 activations; epoch 3 begins.",
    ]


def test_a_run_that_uses_its_data_up_begins_no_epoch_more(tmp_path: Path) -> None:
    run = train(a_run(TapeConfig(rows=640)), tmp_path)
    assert not any("epoch" in text for text in texts(run, "info"))


def test_half_precision_activations_may_be_large(tmp_path: Path) -> None:
    run = train(a_run(TapeConfig(dtype="float16", offset=200.0)), tmp_path)
    assert run.status().state == "finished"


# what changes from step to step


def rates(**settings: Any) -> list[float]:
    cfg = TrainingConfig(tokens=100 * 20, batch_size=100, lr=0.8, **settings)
    return [learning_rate(cfg, step) for step in range(cfg.steps)]


def test_the_learning_rate_rises_stays_and_falls() -> None:
    lr = rates(lr_warm_up_steps=4, lr_decay_steps=5)
    assert lr == pytest.approx([0.2, 0.4, 0.6, *[0.8] * 13, 0.64, 0.48, 0.32, 0.16])


def test_the_learning_rate_falls_over_the_last_fifth_unless_told() -> None:
    assert rates(lr_warm_up_steps=0)[15:] == pytest.approx([0.8, 0.8, 0.6, 0.4, 0.2])


def test_the_learning_rate_can_be_one_number() -> None:
    assert rates(lr_warm_up_steps=0, lr_decay_steps=0) == [0.8] * 20


def test_the_cosine_falls_to_a_tenth() -> None:
    lr = rates(lr_warm_up_steps=0, lr_decay_steps=0, lr_schedule="cosine")
    assert lr[0] == pytest.approx(0.8)
    assert lr[10] == pytest.approx(0.8 * 0.55)
    assert lr[-1] == pytest.approx(0.8 * (0.55 - 0.45 * math.cos(math.pi / 20)))
    assert all(later < earlier for earlier, later in pairwise(lr))


def test_warm_ups_longer_than_the_run_are_cut_short() -> None:
    assert rates(lr_warm_up_steps=1000, lr_decay_steps=0)[-1] == pytest.approx(0.8 * 20 / 1000)


def test_the_learning_rate_is_the_one_that_is_logged(tmp_path: Path) -> None:
    cfg = a_run(lr_warm_up_steps=3, lr_decay_steps=3)
    expected = [learning_rate(cfg.training, step) for step in range(10)]
    assert values(train(cfg, tmp_path), "learning_rate") == pytest.approx(expected)


def test_coefficients_warm_up_in_the_steps_and_in_the_log(steps: list[Step], tmp_path: Path) -> None:
    sae = {"architecture": "standard", "d_sae": D_SAE, "l1_coefficient": 8.0, "l1_warm_up_steps": 4}
    run = train(a_run(sae=sae), tmp_path)
    expected = pytest.approx([2, 4, 6, 8, 8, 8, 8, 8, 8, 8])
    assert [step.state.coefficients["l1"] for step in steps] == expected
    assert values(run, "l1_coefficient") == expected


def test_the_losses_are_logged_under_their_names_and_add_up(tmp_path: Path) -> None:
    run = train(a_run(sae={"architecture": "standard", "d_sae": D_SAE}), tmp_path)
    total, *parts = (torch.tensor(values(run, name)) for name in ("loss", "mse_loss", "l1_loss"))
    torch.testing.assert_close(sum(parts), total)


def gradient_norm(run: RunDirectory) -> float:
    """Of the decoder, in a run of one step: Adam's first average is a tenth of it."""
    (checkpoint,) = run.checkpoints()
    return 10 * load_file(checkpoint / "optimizer.safetensors")["W_dec.exp_avg"].norm().item()


def test_gradients_are_clipped_unless_the_norm_is_zero(tmp_path: Path) -> None:
    runs = [train(a_run(tokens=BATCH, clip_grad_norm=norm, checkpoint_every=1), tmp_path) for norm in (0.01, 0)]
    clipped, free = map(gradient_norm, runs)
    assert 0.001 < clipped < 0.01001
    assert free > 1


# bad input


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (a_run(sae={**SAE_TABLE, "d_in": 17}), "sae.d_in is 17, but the activations of this source have width 16"),
        (a_run(buffer="2XB"), "'2XB' is not the size of a shuffle buffer"),
        (a_run(buffer=10), "buffer of 10 rows cannot serve batches of 64 rows"),
        (a_run(device="cudaa"), "The device 'cudaa' cannot be used"),
        (a_run(TapeConfig(rows=0)), "has no held-out rows to evaluate on"),
    ],
)
def test_bad_input_leaves_nothing_behind(run: RunConfig, message: str, tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match=message):
        train(run, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_run_does_not_overwrite_another(tmp_path: Path) -> None:
    first = train(a_run(), tmp_path, "mine")
    before = first.sae_path.stat().st_mtime_ns
    with pytest.raises(PlatformError, match="There already is a run 'mine'"):
        train(a_run(), tmp_path, "mine")
    assert first.sae_path.stat().st_mtime_ns == before


def test_a_measurement_that_the_source_cannot_give_is_said(tmp_path: Path) -> None:
    run = train(
        RunConfig(
            source={"kind": "synthetic", "d_in": 8, "n_features": 16},
            sae={"architecture": "topk", "d_sae": 32, "k": 3},
            training={"tokens": 1_000, "batch_size": 500, "buffer": 1_000}, evaluation={"every": 1, "tokens": 500},
        ),
        tmp_path,
    )  # fmt: skip
    assert "ce_loss_score" not in run.metrics()
    assert [event for event in run.events() if "evaluation.every does nothing" in event.text]
