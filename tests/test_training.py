"""The training loop, from a run's description to what it leaves on disk."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sae_platform import SAE, PlatformError, RunConfig, RunDirectory, SAEConfig, evaluate, train, weights
from sae_platform.activations import ActivationSource, Batch
from sae_platform.buffer import ShuffleBuffer
from sae_platform.components import ActivationSourceConfig, LoggerConfig, SAEMetadata
from sae_platform.config import TrainingConfig
from sae_platform.errors import Interrupted
from sae_platform.linear import LinearSAE
from sae_platform.loggers import Logger
from sae_platform.reporting import Display
from sae_platform.sae import StepOutput, StepState
from sae_platform.sparse import SparseFeatures
from sae_platform.tracking import TrainingStatistics
from sae_platform.training import DEAD_REFRESH_STEPS, learning_rate

D_IN, D_SAE, BATCH = 16, 64, 64
WAIT = 60  # seconds until a test is given up; nothing waits this long


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class TapeConfig(ActivationSourceConfig):
    """Numbered rows (the number is the row's token), one of which may be spoilt."""

    kind: Literal["tape"] = "tape"
    rows: int = 640
    dtype: str = "float32"
    offset: float = 0.0
    spoilt_row: int = -1
    spoilt_by: float = math.nan

    def build(self, seed: int = 0) -> Tape:
        return Tape(self)


class Tape(ActivationSource):
    def __init__(self, cfg: TapeConfig) -> None:
        self.cfg, self.d_in, self.dtype = cfg, D_IN, getattr(torch, cfg.dtype)
        self.metadata = SAEMetadata()
        self.x = torch.randn(cfg.rows, D_IN, generator=torch.Generator().manual_seed(0)) + cfg.offset

    def harvest(self, split: str, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        x = self.x.clone()
        if split == "train" and self.cfg.spoilt_row >= 0:
            x[self.cfg.spoilt_row, 3] = self.cfg.spoilt_by
        numbers = torch.arange(self.cfg.rows) + epoch * self.cfg.rows
        for place in range(100 * start, self.cfg.rows, 100):
            yield Batch(x[place : place + 100].to(self.dtype), numbers[place : place + 100])


# Processors differ in the last bits of random numbers, so that a few features fire on one and not on another: 3e-4.
GOLDEN = {
    "explained_variance": 0.67936,
    "fvu": 0.32064,
    "mse": 0.62700,
    "cosine_similarity": 0.74073,
    "l0": 4.0,
    "dead_fraction": 0.0,
    "mean_max_cosine": 0.64464,
    "mean_loss": 7.9398,
}
SYNTHETIC = {"kind": "synthetic", "d_in": D_IN, "n_features": 24, "l0": 2.0, "batch_size": 256, "held_out_rows": 512}
SAE_TABLE = {"architecture": "topk", "d_sae": D_SAE, "k": 4, "normalize_activations": "expected_average_only_in"}


def a_run(
    source: ActivationSourceConfig | dict[str, Any] | None = None,
    sae: dict[str, Any] = SAE_TABLE,
    loggers: tuple[LoggerConfig, ...] = (),
    **training: Any,
) -> RunConfig:
    """Ten steps of 64 rows; a buffer of one batch keeps the rows of each step together."""
    settings = {
        "tokens": 640, "batch_size": BATCH, "buffer": BATCH, "lr": 3e-3, "lr_warm_up_steps": 2, "log_every": 1,
        "checkpoint_every": 0, "dead_feature_window": 1000, **training,
    }  # fmt: skip
    return RunConfig(source=source or TapeConfig(), sae=sae, training=settings, loggers=loggers)


class Step:
    """What a training step was given."""

    def __init__(self, batch: Batch, state: StepState) -> None:
        assert batch.tokens is not None
        self.tokens, self.state = batch.tokens.tolist(), state


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Every step that is taken, as it happens."""
    taken: list[Step] = []
    plain = LinearSAE.step

    def step(sae: LinearSAE, batch: Batch, state: StepState) -> StepOutput:
        taken.append(Step(batch, state))
        return plain(sae, batch, state)

    monkeypatch.setattr(LinearSAE, "step", step)
    return taken


def texts(run: RunDirectory, level: str) -> list[str]:
    return [event.text for event in run.events() if event.level == level]


def values(run: RunDirectory, name: str) -> list[float]:
    return [value for _, value in run.metrics(name)[name]]


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


def test_a_seeded_run_gives_the_numbers_it_always_gave(tmp_path: Path) -> None:
    run = train(a_run({**SYNTHETIC, "rows": 4000}, tokens=8000, buffer=1024, lr_schedule="cosine", seed=7), tmp_path)
    losses = values(run, "loss")
    measured = {**evaluate(run.sae_path), "mean_loss": sum(losses) / len(losses)}
    assert {name: measured[name] for name in GOLDEN} == pytest.approx(GOLDEN, rel=1e-3)


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


def test_what_is_logged_is_the_mean_since_the_last_record(tmp_path: Path) -> None:
    often = train(a_run(), tmp_path, "often")
    seldom = train(a_run(log_every=4), tmp_path, "seldom")
    assert [step for step, _ in seldom.metrics("loss")["loss"]] == [4, 8, 10]
    each = torch.tensor(values(often, "loss"))
    expected = torch.stack([each[:4].mean(), each[4:8].mean(), each[8:].mean()])
    torch.testing.assert_close(torch.tensor(values(seldom, "loss")), expected)


def gradient_norm(run: RunDirectory) -> float:
    """Of the decoder, in a run of one step: Adam's first average is a tenth of it."""
    (checkpoint,) = run.checkpoints()
    return 10 * load_file(checkpoint / "optimizer.safetensors")["W_dec.exp_avg"].norm().item()


def test_gradients_are_clipped_unless_the_norm_is_zero(tmp_path: Path) -> None:
    runs = [train(a_run(tokens=BATCH, clip_grad_norm=norm, checkpoint_every=1), tmp_path) for norm in (0.01, 0)]
    clipped, free = map(gradient_norm, runs)
    assert 0.001 < clipped < 0.01001
    assert free > 1


def test_features_die_by_tokens_and_live_again() -> None:
    stats = TrainingStatistics(3, dead_window=100, device=torch.device("cpu"))
    x = torch.randn(40, 2)

    def add(step: int, *features: int) -> None:
        dense = torch.zeros(40, 3)
        dense[0, list(features)] = 1.0
        output = StepOutput({"mse_loss": x.sum()}, SparseFeatures.where(dense != 0, dense), x, x)
        stats.add(step, Batch(x), output, x.sum())

    add(1, 0, 1)
    add(2, 0)
    add(3, 0)
    assert stats.dead().tolist() == [2]  # silent for 120 tokens from the start; feature 1 for 80
    assert stats.window()["dead_features"] == 1
    add(4, 0, 2)
    assert stats.dead().tolist() == [1]
    metrics = stats.window()
    assert metrics["dead_fraction"] == pytest.approx(1 / 3)
    assert metrics["l0"] == 2 / 40
    fired = torch.tensor([4 / 160, 1 / 160, 1 / 160])
    torch.testing.assert_close(stats.log_sparsity().float(), fired.log10())


def test_steps_are_told_which_features_are_dead(steps: list[Step], tmp_path: Path) -> None:
    train(a_run(tokens=BATCH * (DEAD_REFRESH_STEPS + 2), dead_feature_window=1), tmp_path)
    known = [step.state.dead for step in steps]
    assert known[:DEAD_REFRESH_STEPS] == [None] * DEAD_REFRESH_STEPS
    assert all(dead is not None and 0 < len(dead) < D_SAE for dead in known[DEAD_REFRESH_STEPS:])


# what is not finite


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("log_every", [1, 4])
def test_data_that_is_not_finite_stops_the_run_at_its_step(value: float, log_every: int, tmp_path: Path) -> None:
    source = TapeConfig(spoilt_row=2 * BATCH + 5, spoilt_by=value)
    with pytest.raises(PlatformError, match="at step 3 the activations of its batch hold NaN or infinity"):
        train(a_run(source, log_every=log_every, checkpoint_every=2), tmp_path, "spoilt")
    run = RunDirectory(tmp_path / "spoilt")
    assert run.status().state == "failed"
    assert "at step 3 the activations" in run.status().message
    assert [path.name for path in run.checkpoints()] == ["step-00000002"]
    assert not run.sae_path.exists()
    assert all(map(math.isfinite, values(run, "loss")))


def test_a_first_batch_that_is_not_finite_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="at step 1 the activations"):
        train(a_run(TapeConfig(spoilt_row=5)), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_at_its_step(
    value: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = LinearSAE.step

    def step(sae: LinearSAE, batch: Batch, state: StepState) -> StepOutput:
        output = plain(sae, batch, state)
        trouble = output.reconstruction.sum() * (value if state.step == 4 else 0.0)
        return replace(output, losses={**output.losses, "trouble": trouble})

    monkeypatch.setattr(LinearSAE, "step", step)
    with pytest.raises(PlatformError, match=r"at step 5 the loss is NaN or infinity.*lower lr"):
        train(a_run(checkpoint_every=5), tmp_path, "spoilt")
    run = RunDirectory(tmp_path / "spoilt")
    assert run.status().state == "failed"
    assert run.checkpoints() == []


# bad input


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (a_run(sae={**SAE_TABLE, "d_in": 17}), "sae.d_in is 17, but the activations of this source have width 16"),
        (a_run(buffer="2XB"), "'2XB' is not the size of a shuffle buffer"),
        (a_run(buffer=10), "buffer of 10 rows cannot serve batches of 64 rows"),
        (a_run(device="cudaa"), "The device 'cudaa' cannot be used"),
        (a_run(TapeConfig(rows=0)), "gave no training rows"),
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


# what is left on disk


def test_the_run_file_gives_the_same_run_again(tmp_path: Path) -> None:
    first = train(a_run(SYNTHETIC), tmp_path)
    again = train(first.run_toml, tmp_path)
    assert again.path != first.path
    weights_of = [(run.sae_path / weights.WEIGHTS).read_bytes() for run in (first, again)]
    assert weights_of[0] == weights_of[1]


def test_a_finished_run_holds_an_sae_that_measures_as_it_did(tmp_path: Path) -> None:
    run = train(a_run(SYNTHETIC), tmp_path)
    assert "The SAE read back from disk measures the same as the trained one." in texts(run, "info")
    assert run.evaluation() == evaluate(run.path)
    sparsity = load_file(run.sae_path / weights.SPARSITY)["sparsity"]
    assert sparsity.shape == (D_SAE,)
    assert (10**sparsity).sum() == pytest.approx(4, rel=1e-4)
    assert SAE.load_from_disk(run.sae_path).cfg.metadata.source["n_features"] == 24
    assert not [path for path in run.path.iterdir() if path.name.startswith(".sae")]


def test_a_saved_sae_that_is_another_is_said_loudly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain = weights.save

    def tampered(sae: SAE, *arguments: Any) -> tuple[Path, ...]:
        with torch.no_grad():
            sae.get_parameter("b_dec").add_(0.1)
        return plain(sae, *arguments)

    monkeypatch.setattr(weights, "save", tampered)
    run = train(a_run(SYNTHETIC), tmp_path)
    (error,) = texts(run, "error")
    assert error.startswith("The saved SAE is not the trained one: explained_variance was ")
    assert error.endswith("Do not use it.")


def test_checkpoints_are_complete_and_their_hashes_true(tmp_path: Path) -> None:
    run = train(a_run(checkpoint_every=4, keep_checkpoints=5), tmp_path)
    assert [path.name for path in run.checkpoints()] == ["step-00000004", "step-00000008"]
    for checkpoint, step in zip(run.checkpoints(), (4, 8), strict=True):
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        assert (manifest["format"], manifest["step"], manifest["tokens"]) == (1, step, step * BATCH)
        found = {path.relative_to(checkpoint).as_posix(): path for path in checkpoint.rglob("*") if path.is_file()}
        del found["manifest.json"]
        assert manifest["files"] == {
            name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for name, path in found.items()
        }
        assert found.keys() == {
            "training.safetensors", "optimizer.safetensors", "data_state.safetensors",
            "sae/cfg.json", "sae/sae_weights.safetensors", "sae/sparsity.safetensors",
        }  # fmt: skip


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    run = train(a_run(checkpoint_every=2, keep_checkpoints=2), tmp_path)
    assert sorted(path.name for path in run.checkpoints_path.iterdir()) == ["step-00000008", "step-00000010"]


@pytest.mark.parametrize("normalization", ["none", "expected_average_only_in", "layer_norm", "constant_norm_rescale"])
def test_the_sae_in_a_checkpoint_is_the_one_in_training_ready_for_use(normalization: str, tmp_path: Path) -> None:
    table = {**SAE_TABLE, "normalize_activations": normalization}
    run = train(a_run({**SYNTHETIC, "magnitude_mean": 9.0}, table, checkpoint_every=10), tmp_path)
    (checkpoint,) = run.checkpoints()
    trained = SAEConfig(**table, d_in=D_IN).build().eval()
    trained.load_state_dict(load_file(checkpoint / "training.safetensors"))
    assert ("input_scale" in trained.state_dict()) == (normalization == "expected_average_only_in")
    usable = SAE.load_from_disk(checkpoint / "sae")
    assert usable.cfg.normalize_activations in ("none", "layer_norm", "constant_norm_rescale")
    x = 9 * torch.randn(50, D_IN, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(usable(x), trained(x), rtol=1e-4, atol=1e-4)
    assert evaluate(checkpoint) == run.evaluation()


def test_the_data_goes_on_where_a_checkpoint_was_made(steps: list[Step], tmp_path: Path) -> None:
    run = train(a_run(checkpoint_every=4, keep_checkpoints=1, tokens=600, buffer=256), tmp_path)
    rest = [step.tokens for step in steps[8:]]
    state = load_file(run.checkpoints()[0] / "data_state.safetensors")
    assert state["tokens"] == 8 * BATCH
    assert state["last_fired"].shape == (D_SAE,)

    def stream() -> Iterator[Batch]:
        left = 600 - int(state["rows"])
        for batch in TapeConfig().build().harvest("train", start=int(state["batches"])):
            assert batch.tokens is not None
            yield Batch(batch.x[:left], batch.tokens[:left], None)
            left -= min(left, len(batch.x))

    buffer = ShuffleBuffer(stream(), int(state["capacity"]), BATCH, seed=0)
    buffer.load_state(state)
    assert [batch.tokens.tolist() for batch in buffer if batch.tokens is not None] == rest


def test_the_optimizer_is_kept_by_parameter(tmp_path: Path) -> None:
    (checkpoint,) = train(a_run(checkpoint_every=10), tmp_path).checkpoints()
    parameters = load_file(checkpoint / "training.safetensors")
    del parameters["input_scale"]
    state = load_file(checkpoint / "optimizer.safetensors")
    assert state.keys() == {f"{name}.{part}" for name in parameters for part in ("step", "exp_avg", "exp_avg_sq")}
    for name, parameter in parameters.items():
        assert state[f"{name}.step"] == 10
        assert state[f"{name}.exp_avg"].shape == state[f"{name}.exp_avg_sq"].shape == parameter.shape
        assert state[f"{name}.exp_avg"].abs().sum() > 0


def full_disk(monkeypatch: pytest.MonkeyPatch, when: Callable[[Path], bool]) -> None:
    """Files of weights for which `when` holds are half written, and then there is no room."""
    plain = weights.save_file

    def save_file(tensors: dict[str, Tensor], path: Path) -> None:
        if when(path):
            path.write_bytes(b"half")
            raise SafetensorError("No space left on device")
        plain(tensors, path)

    monkeypatch.setattr(weights, "save_file", save_file)


def test_a_checkpoint_that_cannot_be_written_is_not_there_and_the_older_one_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full_disk(monkeypatch, lambda path: path.name == "optimizer.safetensors" and "step-00000008" in str(path))
    with pytest.raises(PlatformError, match="step-00000008 cannot be written: No space left on device"):
        train(a_run(checkpoint_every=4, keep_checkpoints=1), tmp_path, "full")
    run = RunDirectory(tmp_path / "full")
    assert run.status().state == "failed"
    assert [path.name for path in run.checkpoints_path.iterdir()] == ["step-00000004"]
    assert SAE.load_from_disk(run.checkpoints()[0] / "sae").d_sae == D_SAE


def test_a_finished_sae_that_cannot_be_written_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    full_disk(monkeypatch, lambda path: path.name == weights.WEIGHTS and "checkpoints" not in path.parts)
    with pytest.raises(PlatformError, match="sae cannot be written: No space left on device"):
        train(a_run(checkpoint_every=10), tmp_path, "full")
    run = RunDirectory(tmp_path / "full")
    assert run.status().state == "failed"
    assert not [path for path in run.path.iterdir() if "sae" in path.name]
    assert len(run.checkpoints()) == 1


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_weights_are_trained_and_saved_in_the_dtype_of_the_run(dtype: str, tmp_path: Path) -> None:
    run = train(a_run(dtype=dtype, checkpoint_every=10), tmp_path)
    for folder in (run.sae_path, run.checkpoints()[0] / "sae"):
        assert {str(t.dtype) for t in load_file(folder / weights.WEIGHTS).values()} == {f"torch.{dtype}"}
        assert SAE.load_from_disk(folder).cfg.dtype == dtype


# loggers, displays and signals

CALLS: list[tuple[str, Any]] = []


class WitnessConfig(LoggerConfig):
    """Tells CALLS everything, and breaks at a step."""

    kind: Literal["witness"] = "witness"
    name: str
    breaks_at: int = -1

    def build(self) -> Logger:
        return Witness(self)


class Witness(Logger):
    def __init__(self, cfg: WitnessConfig) -> None:
        self.cfg = cfg

    def start(self, run: Mapping[str, Any], directory: Path) -> None:
        CALLS.append((self.cfg.name, (run["sae"]["d_in"], directory.name)))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == self.cfg.breaks_at:
            raise ConnectionError("nobody there")
        if "loss" in metrics:
            CALLS.append((self.cfg.name, step))

    def finish(self, state: str) -> None:
        CALLS.append((self.cfg.name, state))


def test_a_logger_that_raises_is_dropped_and_costs_the_run_nothing(tmp_path: Path) -> None:
    CALLS.clear()
    loggers = (WitnessConfig(name="broken", breaks_at=3), WitnessConfig(name="whole"))
    run = train(a_run(loggers=loggers), tmp_path, "watched")
    assert run.status().state == "finished"
    (warning,) = texts(run, "warning")
    assert "Witness raised ConnectionError: nobody there" in warning
    heard = {name: [what for who, what in CALLS if who == name] for name in ("broken", "whole")}
    assert heard == {
        "broken": [(D_IN, "watched"), 1, 2],
        "whole": [(D_IN, "watched"), *range(1, 11), "finished"],
    }
    assert [step for step, _ in run.metrics("loss")["loss"]] == list(range(1, 11))


class Caller(Display):
    """Does something in the run's own thread when a step is shown."""

    def __init__(self, at: int, call: Callable[[], object]) -> None:
        self.at, self.call = at, call
        self.ended = ""

    def start(self, run: Mapping[str, Any], directory: Path) -> None: ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == self.at and "loss" in metrics:
            self.call()

    def finish(self, state: str) -> None:
        self.ended = state


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_makes_a_checkpoint_and_says_how_to_load_it(
    number: signal.Signals, tmp_path: Path
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    display = Caller(3, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted, match=r"Stopped after step 4\. Load what there is with SAE") as stopped:
        train(a_run(), tmp_path, "stopped", display)
    assert stopped.value.exit_code == 128 + number
    run = RunDirectory(tmp_path / "stopped")
    (checkpoint,) = run.checkpoints()
    assert checkpoint.name == "step-00000004"
    assert f'SAE.load_from_disk("{checkpoint / "sae"}")' in str(stopped.value)
    assert SAE.load_from_disk(checkpoint / "sae").d_in == D_IN
    assert (run.status().state, display.ended) == ("interrupted", "interrupted")
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_handlers_of_signals_are_put_back_after_a_run(tmp_path: Path) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    inside: list[Any] = []
    train(a_run(), tmp_path, display=Caller(3, lambda: inside.append(signal.getsignal(signal.SIGTERM))))
    assert inside != [handlers[1]]
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_display_that_raises_ends_the_run_as_failed(tmp_path: Path) -> None:
    def broken() -> None:
        raise RuntimeError("no terminal")

    with pytest.raises(RuntimeError, match="no terminal"):
        train(a_run(), tmp_path, "shown", Caller(2, broken))
    status = RunDirectory(tmp_path / "shown").status()
    assert (status.state, status.message) == ("failed", "no terminal")


def test_a_run_can_be_trained_in_any_thread(tmp_path: Path) -> None:
    runs: list[RunDirectory] = []
    thread = threading.Thread(target=lambda: runs.append(train(a_run(), tmp_path)), daemon=True)
    thread.start()
    thread.join(WAIT)
    assert [run.status().state for run in runs] == ["finished"]
