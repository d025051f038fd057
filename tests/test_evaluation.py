"""Evaluation: what perfect, useless and average SAEs score, and on which data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

from sae_platform import SAE, PlatformError, RunConfig, RunDirectory, SAEConfig, evaluate, train
from sae_platform.activations import ActivationSource, Batch, Contexts, LanguageModelSource
from sae_platform.components import ActivationSourceConfig
from sae_platform.config import EvaluationConfig
from sae_platform.metrics import VERSION
from sae_platform.sae import StepOutput, StepState

LETTERS = ["<bos>", "<eos>", "<unk>", *"abcdefghij"]
CONTEXT, WIDTH = 16, 8
SETTINGS = EvaluationConfig(tokens=600, preservation_tokens=384)
HOOK = {"gpt2": "transformer.h.0", "bert": "encoder.layer.0"}


class Replacement(SAE):
    """Features are the positive and the negative parts of the activations; what becomes of them is `change`."""

    def __init__(self, change: Any, width: int = WIDTH) -> None:
        super().__init__(SAEConfig(architecture="topk", d_in=width, d_sae=2 * width, k=1))
        self.change = change
        self.seen: list[Tensor] = []
        self.weight = nn.Parameter(torch.zeros(1))

    def encode(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return torch.cat([x.relu(), (-x).relu()], dim=-1)

    def decode(self, features: Any, x: Tensor | None = None) -> Tensor:
        dense = features if isinstance(features, Tensor) else features.dense()
        return self.change(dense[..., : self.d_in] - dense[..., self.d_in :])

    def step(self, batch: Batch, state: StepState) -> StepOutput:
        raise NotImplementedError


def identity() -> Replacement:
    return Replacement(lambda x: x)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand different documents, of which some are held out."""
    generator = torch.Generator().manual_seed(0)
    documents = (
        " ".join(LETTERS[3 + i] for i in torch.randint(10, (20,), generator=generator).tolist()) for _ in range(1000)
    )
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("\n\n".join(documents))
    return file


def save_model(family: str, folder: Path) -> Path:
    """A tiny model with random weights large enough that its activations matter."""
    torch.manual_seed(0)
    sizes = {"vocab_size": len(LETTERS), "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2,
             "max_position_embeddings": CONTEXT, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None,
             "intermediate_size": 16, "initializer_range": 0.5}  # fmt: skip
    name = {"gpt2": "GPT2LMHeadModel", "bert": "BertForMaskedLM"}[family]
    model_class = getattr(transformers, name)
    model_class(model_class.config_class(**sizes)).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(LETTERS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<bos>", eos_token="<eos>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("gpt2", tmp_path_factory.mktemp("gpt2"))


def open_source(model: Path, text: Path, family: str = "gpt2", **more: Any) -> LanguageModelSource:
    return ActivationSourceConfig.model_validate(
        {"kind": "transformers", "model": str(model), "dataset": str(text), "hook_name": HOOK[family],
         "context_size": CONTEXT, "batch_size": 4, **more}
    ).build()  # fmt: skip


@pytest.fixture(scope="module")
def source(gpt2: Path, text: Path) -> LanguageModelSource:
    return open_source(gpt2, text)


def held_out(source: LanguageModelSource) -> tuple[Tensor, Tensor]:
    """The contexts that preservation is measured on under SETTINGS, and which of their tokens count."""
    batches = list(source.contexts("held_out"))
    count = SETTINGS.preservation_tokens // CONTEXT
    return torch.cat([b.tokens for b in batches])[:count], torch.cat([b.kept for b in batches])[:count]


def test_an_identity_scores_perfectly(source: LanguageModelSource) -> None:
    results = evaluate(identity(), source, SETTINGS)
    assert results["explained_variance"] == 1
    assert (results["fvu"], results["mse"]) == (0, 0)
    assert results["cosine_similarity"] == pytest.approx(1)
    assert results["ce_loss_with_sae"] == pytest.approx(results["ce_loss_without_sae"], abs=1e-6)
    assert results["ce_loss_score"] == pytest.approx(1, abs=1e-5)
    assert results["ce_loss_score_mean"] == pytest.approx(1, abs=1e-4)
    assert results["kl_div_with_sae"] == pytest.approx(0, abs=1e-6)
    assert results["kl_div_score"] == pytest.approx(1, abs=1e-5)
    assert results["l0"] == WIDTH
    assert results["tokens"] == SETTINGS.tokens


def test_zeros_are_as_bad_as_the_zero_ablation(source: LanguageModelSource) -> None:
    results = evaluate(Replacement(torch.zeros_like), source, SETTINGS)
    assert results["ce_loss_with_ablation"] > results["ce_loss_without_sae"] + 0.01
    assert results["ce_loss_with_sae"] == results["ce_loss_with_ablation"]
    assert results["kl_div_with_sae"] == results["kl_div_with_ablation"]
    assert (results["ce_loss_score"], results["kl_div_score"]) == (0, 0)
    assert results["cosine_similarity"] == 0


def test_the_mean_is_as_bad_as_the_mean_ablation(source: LanguageModelSource) -> None:
    rows = torch.cat([batch.x for batch in source.harvest("held_out")])[: SETTINGS.tokens]
    mean = rows.double().mean(0).float()
    results = evaluate(Replacement(lambda x: mean.expand_as(x)), source, SETTINGS)
    assert results["explained_variance"] == pytest.approx(0, abs=1e-5)
    assert results["ce_loss_with_sae"] == pytest.approx(results["ce_loss_with_mean_ablation"], abs=1e-6)
    assert results["ce_loss_score_mean"] == pytest.approx(0, abs=1e-4)
    assert results["ce_loss_with_mean_ablation"] != results["ce_loss_with_ablation"]


def test_the_loss_without_an_sae_is_that_of_transformers(gpt2: Path, source: LanguageModelSource) -> None:
    tokens, kept = held_out(source)
    labels = tokens.masked_fill(~kept, -100)
    model = transformers.GPT2LMHeadModel.from_pretrained(gpt2)
    with torch.no_grad():
        expected = model(tokens, labels=labels).loss.item()
    results = evaluate(identity(), source, SETTINGS)
    assert results["ce_loss_without_sae"] == pytest.approx(expected, rel=1e-5)
    assert results["preservation_tokens"] == kept[:, 1:].sum()


def test_activations_that_the_policy_excludes_stay_as_they_are(
    source: LanguageModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = source.logits
    left_alone = []

    def watched(tokens: Tensor, replacement: Any = None) -> Tensor:
        if replacement is not None:
            x, excluded = source.activations(tokens), tokens <= 1
            changed = replacement(x)
            left_alone.append((changed == x).all(-1))
            assert torch.equal(left_alone[-1], excluded)
        return plain(tokens, replacement)

    monkeypatch.setattr(source, "logits", watched)
    evaluate(Replacement(torch.zeros_like), source, SETTINGS)
    contexts = SETTINGS.preservation_tokens // CONTEXT
    assert sum(len(part) for part in left_alone) == 3 * contexts  # with the SAE, with zeros, with the mean
    assert all(part[:, 0].all() for part in left_alone)


def test_only_held_out_data_is_read(source: LanguageModelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, splits = source.contexts, set()

    def watched(split: Any, *place: int) -> Any:
        splits.add(split)
        return plain(split, *place)

    monkeypatch.setattr(source, "contexts", watched)
    evaluate(identity(), source, SETTINGS)
    assert splits == {"held_out"}


def test_half_precision_models_are_evaluated_too(gpt2: Path, text: Path, source: LanguageModelSource) -> None:
    results = evaluate(identity(), open_source(gpt2, text, dtype="bfloat16"), SETTINGS)
    assert results["explained_variance"] == 1
    expected = evaluate(identity(), source, SETTINGS)["ce_loss_without_sae"]
    assert results["ce_loss_with_sae"] == pytest.approx(expected, rel=0.02)


def test_preservation_can_be_left_out(source: LanguageModelSource) -> None:
    results = evaluate(identity(), source, EvaluationConfig(tokens=50, preservation_tokens=0))
    assert not [name for name in results if name.startswith(("ce_", "kl_", "preservation"))]
    assert results["tokens"] == 50


def test_an_encoder_has_no_next_token_to_preserve(text: Path, tmp_path: Path) -> None:
    source = open_source(save_model("bert", tmp_path), text, "bert")
    results = evaluate(identity(), source, SETTINGS)
    assert results["explained_variance"] == 1
    assert not [name for name in results if name.startswith(("ce_", "kl_", "preservation"))]


def test_an_sae_of_another_width_is_refused(source: LanguageModelSource) -> None:
    with pytest.raises(PlatformError, match="reads activations of width 9, but the source has width 8"):
        evaluate(Replacement(lambda x: x, width=9), source)


def test_contexts_without_a_token_to_predict_are_said(
    source: LanguageModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_token_each(*_: Any) -> Iterator[Contexts]:
        yield Contexts(torch.full((4, 1), 5), torch.ones(4, 1, dtype=torch.bool))

    monkeypatch.setattr(source, "contexts", one_token_each)
    with pytest.raises(PlatformError, match="preservation_tokens = 0"):
        evaluate(identity(), source, SETTINGS)


def test_a_source_without_held_out_rows_is_refused() -> None:
    class Empty(ActivationSource):
        d_in = WIDTH

        def harvest(self, *_: Any) -> Iterator[Batch]:
            yield from ()

    with pytest.raises(PlatformError, match="no held-out activations"):
        evaluate(identity(), Empty())


def test_an_sae_that_was_training_goes_on_training(source: LanguageModelSource) -> None:
    sae = identity().train()
    evaluate(sae, source, EvaluationConfig(tokens=10, preservation_tokens=0))
    assert sae.training
    assert sae.weight.grad is None


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A short run on known features, with a checkpoint after the last step."""
    return train(
        RunConfig(
            source={"kind": "synthetic", "d_in": WIDTH, "n_features": 12, "rows": 600, "held_out_rows": 200},
            sae={"architecture": "topk", "d_sae": 24, "k": 2, "normalize_activations": "expected_average_only_in"},
            training={"tokens": 512, "batch_size": 64, "checkpoint_every": 8, "buffer": 128},
        ),
        tmp_path_factory.mktemp("runs"),
    )


def test_a_run_its_checkpoint_and_its_sae_folder_are_all_evaluated(run: RunDirectory) -> None:
    (checkpoint,) = run.checkpoints()
    expected = run.evaluation()
    for path in (run.path, run.sae_path, str(run.path), checkpoint, checkpoint / "sae"):
        assert evaluate(path) == expected


def test_known_features_add_how_well_they_are_recovered(run: RunDirectory) -> None:
    results = evaluate(run.path)
    assert 0.5 < results["mean_max_cosine"] < 1
    assert results["l0"] == 2
    assert results["tokens"] == 200
    assert results["metrics_version"] == VERSION


def test_a_folder_without_an_sae_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="is no run, checkpoint or SAE folder"):
        evaluate(tmp_path)
    with pytest.raises(PlatformError, match="The folder does not exist"):
        evaluate(tmp_path / "nothing")


def test_an_sae_that_names_no_source_says_how_to_give_one() -> None:
    with pytest.raises(PlatformError, match=r"Give a source: evaluate\(sae, source\)"):
        evaluate(identity())
