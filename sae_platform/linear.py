"""The affine encoder and decoder that architectures share: they choose what fires and what is penalised."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sae_platform.activations import Batch
from sae_platform.components import Precision, SAEConfig
from sae_platform.errors import PlatformError
from sae_platform.sae import SAE, StepOutput, StepState
from sae_platform.sparse import (
    DenseFeatures,
    Features,
    SparseFeatures,
    Workspace,
    dense_preactivations,
    selected_preactivations,
)

# Share of features below which a step runs on the active ones alone. On two CPU cores the two take equal time at about
# 14 % (benchmarks/results/cpu/crossover.md); the number for CUDA is computed from memory bandwidth, not measured.
SPARSE_BELOW = {"cpu": 0.1, "cuda": 0.006}
PER_FEATURE = ("b_enc", "b_gate", "b_mag", "threshold")  # parameters in the units of pre-activations
SAMPLE_ROWS = 32  # from which the density of a batch is estimated


@dataclass(frozen=True)
class Forward:
    """What a training step computed, for the loss terms."""

    x: Tensor  # [rows, d_in], normalised
    pre: Features  # pre-activations, of all features or of the selected ones
    features: Features
    reconstruction: Tensor  # [rows, d_in]
    target: Tensor  # [rows, d_in]


class LinearSAE(SAE):
    """pre = (x - b_dec) W_enc + b_enc, f = activate(pre), y = f W_dec + b_dec.

    A subclass writes `activate` elementwise (`pre.at(parameter)` lines a per-feature parameter up with the values) and
    its loss terms in `penalties`; the same code then runs on dense features and on the selected ones alone. A class
    with `sparse_step` says which entries those are in `select`; its steps run on them alone, and never hold more than a
    row chunk of [rows, d_sae], while that is faster: below `StepState.sparse_below`.
    """

    sparse_step: ClassVar[bool] = False

    def __init__(self, cfg: SAEConfig) -> None:
        super().__init__(cfg)
        rows = torch.randn(cfg.d_sae, cfg.width)
        if cfg.decoder_init_norm is not None:
            rows = F.normalize(rows, dim=-1) * cfg.decoder_init_norm
        self.W_dec = nn.Parameter(rows)
        self.W_enc_rows = nn.Parameter(rows.clone())
        self.b_enc: nn.Parameter | None = nn.Parameter(torch.zeros(cfg.d_sae))
        self.b_dec = nn.Parameter(torch.zeros(cfg.width))
        self.input_scale: Tensor | None
        folded_later = cfg.normalize_activations == "expected_average_only_in"
        self.register_buffer("input_scale", torch.ones(()) if folded_later else None)

    @property
    def W_enc(self) -> Tensor:
        """The encoder as [d_in, d_sae], a view of its rows."""
        return self.W_enc_rows.T

    def activate(self, pre: Features) -> Features:
        """Pre-activations to feature activations."""
        raise NotImplementedError

    def activate_in_training(self, pre: Features) -> Features:
        """The same in a training step, where it may look at the whole batch and update buffers."""
        return self.activate(pre)

    def select(self, pre: Tensor) -> SparseFeatures:
        """Of dense pre-activations [rows, d_sae], those that may fire or carry a gradient. May overwrite `pre`.

        Called without autograd. It is given pre-activations times `selection_scale()`, and returns such.
        """
        return SparseFeatures.where(self.activate(DenseFeatures(pre)).values != 0, pre)

    def selection_scale(self) -> Tensor | None:
        """What pre-activations are multiplied by for `select`, [d_sae]; None: nothing."""
        return None

    @torch.no_grad()
    def density(self, x: Tensor) -> float:
        """Share of the features that a sparse step on x [rows, d_in] keeps, estimated from a few rows."""
        sample = x[:: max(1, len(x) // SAMPLE_ROWS)]
        return len(self._selected(sample).indices) / max(1, len(sample) * self.d_sae)

    def penalties(self, forward: Forward, state: StepState) -> dict[str, Tensor]:
        """Loss terms besides the reconstruction error."""
        return {}

    def preactivations(self, x: Tensor) -> Tensor:
        """Activations [..., d_in] to what `activate` gets of them, [..., d_sae]."""
        x = self.flattened(x)
        pre = self._preactivations(self._normalized(self._rows(x))[0], sparse=False)
        return pre.dense().view(*x.shape[:-1], self.d_sae)

    def encode(self, x: Tensor) -> Tensor:
        x = self.flattened(x)
        features = self.activate(self._preactivations(self._normalized(self._rows(x))[0], sparse=False))
        return features.dense().view(*x.shape[:-1], self.d_sae)

    def encode_sparse(self, x: Tensor) -> SparseFeatures:
        features = self.activate(self._preactivations(self._normalized(self._rows(x))[0], sparse=True))
        assert isinstance(features, SparseFeatures)
        return features.active()

    def decode(self, features: Tensor | SparseFeatures, x: Tensor | None = None) -> Tensor:
        if isinstance(features, SparseFeatures):
            y = features.decode(self.W_dec)
        else:
            y = features.to(self.W_dec.dtype) @ self.W_dec
        return self._restored(y + self.b_dec, x)

    def step(self, batch: Batch, state: StepState) -> StepOutput:
        x, _ = self._normalized(self._rows(batch.x))
        limit = SPARSE_BELOW.get(x.device.type, 0.0) if state.sparse_below is None else state.sparse_below
        sparse = self.sparse_step and self.density(x) < limit
        pre = self._preactivations(x, sparse, state.workspace, state.precision)
        features = self.activate_in_training(pre)
        reconstruction = features.decode(self.W_dec) + self.b_dec
        mse = (reconstruction - x).pow(2).sum(-1).mean()
        terms = self.penalties(Forward(x, pre, features, reconstruction, x), state)
        return StepOutput({"mse_loss": mse, **terms}, features, reconstruction, x)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Estimate the input scale (mean norm becomes sqrt(d_in)) and start b_dec at the mean of the data."""
        x = self._rows(x)
        if self.input_scale is not None:
            self.input_scale.copy_(math.sqrt(self.d_in) / x.norm(dim=-1).mean())
        self.b_dec.copy_(self._normalized(x)[0].mean(0))

    @torch.no_grad()
    def inference_form(self) -> SAE:
        """Fold the input scale c: W_enc c, W_dec / c, b_dec / c."""
        sae = copy.deepcopy(self)
        if sae.input_scale is not None:
            sae.W_enc_rows.mul_(sae.input_scale)
            sae.W_dec.div_(sae.input_scale)
            sae.b_dec.div_(sae.input_scale)
            sae.input_scale = None
            sae._cfg = sae._cfg.model_copy(update={"normalize_activations": "none"})
        return sae

    @torch.no_grad()
    def fold_W_dec_norm(self) -> None:
        norms = self.W_dec.norm(dim=-1).clamp_min(1e-8)
        self.W_enc_rows.mul_(norms[:, None])
        self.W_dec.div_(norms[:, None])
        for name in PER_FEATURE:
            if (parameter := getattr(self, name, None)) is not None:
                parameter.mul_(norms)

    def dead_preactivations(self, x: Tensor, dead: Tensor, precision: Precision = "full") -> Tensor:
        """Pre-activations of dead features alone: x [rows, d_in], dead [n_dead] to [rows, n_dead]."""
        b_enc = None if self.b_enc is None else self.b_enc[dead]
        return dense_preactivations(x, self.W_enc_rows[dead], b_enc, self._subtracted, precision).values

    def _preactivations(
        self, x: Tensor, sparse: bool, workspace: Workspace | None = None, precision: Precision = "full"
    ) -> Features:
        if sparse:
            return self._selected(x, workspace, precision)
        return dense_preactivations(x, self.W_enc_rows, self.b_enc, self._subtracted, precision)

    def _selected(self, x: Tensor, workspace: Workspace | None = None, precision: Precision = "full") -> SparseFeatures:
        return selected_preactivations(
            x, self.W_enc_rows, self.b_enc, self._subtracted, self.select,
            scale=self.selection_scale(), workspace=workspace, precision=precision,
        )  # fmt: skip

    @property
    def _subtracted(self) -> Tensor | None:
        """What is subtracted from the input before encoding."""
        return self.b_dec if self._cfg.apply_b_dec_to_input else None

    def _rows(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.d_in:
            raise PlatformError(f"This SAE reads activations of width {self.d_in}, but got {tuple(x.shape)}.")
        return x.reshape(-1, self.d_in).to(self.W_dec.dtype)

    def _normalized(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Input [rows, d_in] in the space the weights live in, and the way back."""
        mode = self._cfg.normalize_activations
        if self.input_scale is not None:
            scale = self.input_scale
            return x * scale, lambda y: y / scale
        if mode == "layer_norm":
            mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
            return (x - mean) / (std + 1e-5), lambda y: y * std + mean
        if mode == "constant_norm_rescale":
            scale = math.sqrt(self.d_in) / x.norm(dim=-1, keepdim=True).clamp_min(1e-8)
            return x * scale, lambda y: y / scale
        return x, lambda y: y

    def _restored(self, y: Tensor, x: Tensor | None) -> Tensor:
        if self._cfg.normalize_activations not in ("layer_norm", "constant_norm_rescale"):
            return y if self.input_scale is None else y / self.input_scale
        if x is None:
            mode = self._cfg.normalize_activations
            raise PlatformError(f"This SAE normalises each input by {mode}: decode(features, x) needs the input x.")
        rows = self._rows(x)
        return self._normalized(rows)[1](y.reshape(rows.shape)).view(y.shape)
