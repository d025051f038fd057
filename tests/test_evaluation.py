"""Evaluation: what perfect, useless and average SAEs score, and on which data."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

from sae_platform import SAE, PlatformError, RunConfig, SAEConfig, evaluate, train
from sae_platform.activations import Batch, LanguageModelSource
from sae_platform.components import ActivationSourceConfig
from sae_platform.config import EvaluationConfig
from sae_platform.sae import StepOutput, StepState

LETTERS = ["<bos>", "<eos>", "<unk>", *"abcdefghij"]
CONTEXT, WIDTH = 16, 8
SETTINGS = EvaluationConfig(tokens=600, preservation_tokens=400)
HOOK = {"gpt2": "transformer.h.0", "bert": "encoder.layer.0"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
    """Documents that differ from each other, in two thousand of which some are held out."""
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


def test_activations_that_the_policy_excludes_stay_as_they_are(source: LanguageModelSource) -> None:
    """The SAE zeroes everything, so whatever is not zero was left alone."""
    tokens, kept = held_out(source)
    assert not kept[:, 0].any()
    replaced: list[Tensor] = []

    class Spy:
        def __getattr__(self, name: str) -> Any:
            return getattr(source, name)

    def logits(tokens: Tensor, replacement: Any = None) -> Tensor:
        if replacement is not None:
            replaced.append(replacement(source.activations(tokens)))
        return LanguageModelSource.logits(source, tokens, replacement) or original(tokens, replacement)

    original = source.logits
    from sae_platform.evaluation import _replacements

    x = source.activations(tokens)
    for name, replacement in _replacements(Replacement(torch.zeros_like), torch.ones(WIDTH), kept).items():
        changed = replacement(x)
        assert torch.equal(changed[~kept], x[~kept]), name
        assert not torch.equal(changed[kept], x[kept]), name
