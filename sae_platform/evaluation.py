"""Measure an SAE on held-out data: reconstruction, sparsity, and what it does to the model it reads from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor

from sae_platform import metrics
from sae_platform.activations import ActivationSource, Contexts, LanguageModelSource
from sae_platform.components import ActivationSourceConfig
from sae_platform.config import EvaluationConfig
from sae_platform.errors import PlatformError
from sae_platform.hooks import is_centred
from sae_platform.metrics import Predictions, ReconstructionSums, SparsitySums
from sae_platform.sae import SAE
from sae_platform.weights import find_sae_folder

CONTEXTS_AT_ONCE = 8  # logits of [contexts, size, vocabulary] are the largest tensors here
PASSES = ("without_sae", "with_sae", "with_ablation", "with_mean_ablation")


def evaluate(
    sae: SAE | str | Path,
    source: ActivationSource | None = None,
    settings: EvaluationConfig | None = None,
) -> dict[str, float]:
    """Metrics of an SAE (or of the one in a run, checkpoint or SAE folder) on held-out data.

    Without a source, the one recorded with the SAE is opened. Reconstruction and sparsity are defined in
    `sae_platform.metrics`. Preservation, for causal language models: `ce_loss_*` are mean next-token cross-entropies in
    nats, without the SAE, with its reconstructions at the hook, and with zeros (`with_ablation`) or the mean held-out
    activation (`with_mean_ablation`) there instead; `ce_loss_score` and `ce_loss_score_mean` are the shares of the
    ablation's harm that the SAE avoids, `kl_div_score` the same for the mean KL divergence from the unchanged model.
    Activations that the token policy excludes stay as they are in all of them. Raises PlatformError when there is
    nothing to load or to evaluate on.
    """
    settings = settings or EvaluationConfig()
    if not isinstance(sae, SAE):
        sae = SAE.load_from_disk(find_sae_folder(Path(sae)))
    source = source or recorded_source(sae)
    if source.d_in != sae.d_in:
        raise PlatformError(f"The SAE reads activations of width {sae.d_in}, but the source has width {source.d_in}.")
    _check_processing(sae, source)
    with _as_used(sae):
        return evaluate_with_density(sae, source, settings)[0]


def _check_processing(sae: SAE, source: ActivationSource) -> None:
    """PlatformError when the SAE reads a model with weights processed otherwise than the source's."""
    if not isinstance(source, LanguageModelSource):
        return
    metadata, given = sae.cfg.metadata, source.metadata.processing
    asked = {name: value for name, value in metadata.processing.items() if value and not given.get(name)}
    if is_centred(metadata.hook_name or "", asked):
        raise PlatformError("The SAE reads centred activations: set center_writing_weights = true in the source.")


def preserves(source: ActivationSource) -> TypeGuard[LanguageModelSource]:
    """Whether a source can say how well its model keeps working: it has one that predicts the next token."""
    return isinstance(source, LanguageModelSource) and source.causal


def preservation_while_training(
    sae: SAE, source: ActivationSource, x: Tensor, settings: EvaluationConfig
) -> dict[str, float]:
    """How well the model keeps working with an SAE that is being trained; `x` [rows, d_in] are activations.

    Nothing for a source that cannot say.
    """
    if not preserves(source):
        return {}
    with _as_used(sae):
        mean = x.double().mean(0)
        return model_metrics(preservation(sae, source, mean, settings.tokens_while_training))


def model_metrics(results: Mapping[str, float]) -> dict[str, float]:
    """Of the metrics, those of the model with the SAE in it."""
    return {name: value for name, value in results.items() if name.startswith(("ce_loss_", "kl_div_"))}


@contextmanager
def _as_used(sae: SAE) -> Iterator[None]:
    """While open, the SAE is not in training mode."""
    training = sae.training
    sae.eval()
    try:
        yield
    finally:
        sae.train(training)


@torch.no_grad()
def evaluate_with_density(
    sae: SAE, source: ActivationSource, settings: EvaluationConfig
) -> tuple[dict[str, float], Tensor]:
    """The metrics, and in what share of the held-out rows each feature is active, [d_sae]."""
    reconstruction, sparsity = ReconstructionSums(), SparsitySums(sae.d_sae)
    mean, rows = torch.zeros((), dtype=torch.float64), 0
    for x in _held_out(source, settings.tokens, sae.cfg.device):
        features = sae.encode_sparse(x)
        reconstruction.add(x, sae.decode(features, x))
        sparsity.add(features.counts(), len(x))
        mean, rows = mean + x.double().sum(0), rows + len(x)
    if not rows:
        raise PlatformError("The source has no held-out activations to evaluate on.")
    results = {**reconstruction.result(), **sparsity.result(), "tokens": float(rows)}
    if preserves(source) and settings.preservation_tokens:
        results |= preservation(sae, source, (mean / rows), settings.preservation_tokens)
    return {**results, **source.score(sae), "metrics_version": metrics.VERSION}, sparsity.density


@torch.no_grad()
def preservation(sae: SAE, source: LanguageModelSource, mean: Tensor, tokens: int) -> dict[str, float]:
    """Next-token losses of the model with something else in place of its activations; `mean` [d_in] is one of them."""
    sums = {name: {"ce": torch.zeros(()), "kl": torch.zeros(())} for name in PASSES}
    predicted = 0
    for contexts in _limited(source, tokens):
        clean = Predictions.of(source.logits(contexts.tokens), contexts.tokens, contexts.kept)
        predicted += len(clean.targets)
        for name, replace in _replacements(sae, mean, contexts.kept).items():
            logits = source.logits(contexts.tokens, replace)
            changed = Predictions.of(logits, contexts.tokens, contexts.kept)
            sums[name]["ce"] = sums[name]["ce"] + changed.cross_entropy()
            sums[name]["kl"] = sums[name]["kl"] + changed.divergence_from(clean)
        sums["without_sae"]["ce"] = sums["without_sae"]["ce"] + clean.cross_entropy()
    if not predicted:
        raise PlatformError("The held-out contexts have no token to predict; preservation_tokens = 0 leaves this out.")
    ce = {name: (sums[name]["ce"] / predicted).item() for name in PASSES}
    kl = {name: (sums[name]["kl"] / predicted).item() for name in PASSES[1:]}
    with_sae, clean_loss = ce["with_sae"], ce["without_sae"]
    return {
        **{f"ce_loss_{name}": value for name, value in ce.items()},
        "ce_loss_score": metrics.recovered(ce["with_ablation"], with_sae, clean_loss),
        "ce_loss_score_mean": metrics.recovered(ce["with_mean_ablation"], with_sae, clean_loss),
        **{f"kl_div_{name}": value for name, value in kl.items()},
        "kl_div_score": metrics.recovered(kl["with_ablation"], kl["with_sae"], 0.0),
        "preservation_tokens": float(predicted),
    }


def recorded_source(sae: SAE) -> ActivationSource:
    """Open the activation source that an SAE's metadata names; PlatformError when it names none."""
    recorded = sae.cfg.metadata.source
    if recorded is None:
        raise PlatformError(
            "This SAE does not say where its activations come from. Give a source: evaluate(sae, source), "
            'with source = ActivationSourceConfig(kind="transformers", model=..., hook_name=...).build().'
        )
    here = {"device": sae.cfg.device} if "device" in recorded else {}  # not where it was trained
    return ActivationSourceConfig.model_validate({**recorded, **here}).build()


def _replacements(sae: SAE, mean: Tensor, kept: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    def where_kept(replacement: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.where(kept.to(x.device)[..., None], replacement(x).to(x), x)

    return {
        "with_sae": where_kept(lambda x: sae(x.to(sae.cfg.device))),
        "with_ablation": where_kept(torch.zeros_like),
        "with_mean_ablation": where_kept(lambda x: mean.to(x).expand_as(x)),
    }


def _held_out(source: ActivationSource, rows: int, device: str) -> Iterator[Tensor]:
    """Held-out activations, at most `rows` of them, on a device."""
    for batch in source.harvest("held_out"):
        yield batch.x[:rows].to(device)
        rows -= len(batch.x)
        if rows <= 0:
            return


def _limited(source: LanguageModelSource, tokens: int) -> Iterator[Contexts]:
    """Held-out contexts in small batches, until about `tokens` tokens."""
    for batch in source.contexts("held_out"):
        for start in range(0, len(batch.tokens), CONTEXTS_AT_ONCE):
            if tokens <= 0:
                return
            part = batch.tokens[start : start + CONTEXTS_AT_ONCE]
            yield Contexts(part, batch.kept[start : start + CONTEXTS_AT_ONCE])
            tokens -= part.numel()
