"""The contract of a sparse autoencoder: what training, evaluation and people may ask of any of them."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sae_platform import pretrained, weights
from sae_platform.activations import Batch
from sae_platform.components import Precision, SAEConfig
from sae_platform.errors import PlatformError
from sae_platform.hooks import HEADS
from sae_platform.pretrained import Origin
from sae_platform.sparse import Features, SparseFeatures, Workspace


class Coefficient(NamedTuple):
    """A loss coefficient that rises linearly from 0 to `value` over the first `warm_up_steps` steps."""

    value: float
    warm_up_steps: int = 0

    def at(self, step: int) -> float:
        """Its value at a step, counted from 0."""
        return self.value * min(1.0, (step + 1) / max(1, self.warm_up_steps))


@dataclass(frozen=True)
class StepState:
    """What a training step may depend on besides its batch."""

    step: int = 0
    coefficients: Mapping[str, float] = field(default_factory=dict)  # warm-ups applied
    dead: Tensor | None = None  # [n_dead] int64, the features that have not fired for long; None: not known yet
    sparse_below: float | None = None  # density of features below which a step runs on them alone; None: the device's
    workspace: Workspace | None = None  # scratch memory that is kept from step to step
    precision: Precision = "full"  # of the encoder's product


@dataclass(frozen=True)
class StepOutput:
    """Named loss terms whose sum is minimised, and what every training statistic is computed from."""

    losses: dict[str, Tensor]  # scalars
    features: Features
    reconstruction: Tensor  # [rows, d_in], in the space the loss is measured in
    target: Tensor  # [rows, d_in], in the same space


class SAE(nn.Module, ABC):
    """A sparse autoencoder: one class for training and use, without mutable state per call.

    W_enc [d_in, d_sae] and W_dec [d_sae, d_in] are stored as rows of one feature each.
    """

    def __init__(self, cfg: SAEConfig) -> None:
        super().__init__()
        self.d_in, self.d_sae = cfg.width, cfg.d_sae
        self.origin: Origin | None = None  # what came with it, if it was released
        self.use_error_term = False  # whether calling it adds what it fails to reconstruct
        self._cfg = cfg

    @property
    def cfg(self) -> SAEConfig:
        """The configuration, with the weights' own device and dtype."""
        dtype = str(self.dtype).removeprefix("torch.")
        return self._cfg.model_copy(update={"device": str(self.device), "dtype": dtype})

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """That of its weights."""
        return next(self.parameters()).dtype

    def describe(self, **known: Any) -> None:
        """Add to or correct its metadata, in place."""
        metadata = self._cfg.metadata.model_copy(update=known)
        self._cfg = self._cfg.model_copy(update={"metadata": metadata})

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Activations [..., d_in] to features [..., d_sae], zero where inactive."""

    def preactivations(self, x: Tensor) -> Tensor:
        """Activations [..., d_in] to what decides over features [..., d_sae]. PlatformError where there is no such."""
        raise PlatformError(f"A {self._cfg.architecture} SAE has no pre-activations.")

    def encode_sparse(self, x: Tensor) -> SparseFeatures:
        """Activations [..., d_in] to the active features alone; leading dimensions become rows."""
        features = self.encode(x).reshape(-1, self.d_sae)
        return SparseFeatures.where(features != 0, features)

    @abstractmethod
    def decode(self, features: Tensor | SparseFeatures, x: Tensor | None = None) -> Tensor:
        """Features [..., d_sae] to a reconstruction [..., d_in]; `x` is needed when the output depends on the input.

        Sparse features give [rows, d_in]. Raises PlatformError when `x` is needed and missing.
        """

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct activations [..., d_in], or [..., heads, d_head] at attention heads.

        With `use_error_term`, what is missing is added as a constant: the output is the input, and its gradient that of
        the reconstruction.
        """
        rows = self.flattened(x)
        y = self.decode(self.encode(rows), rows)
        if self.use_error_term:
            y = y + (rows - y).detach()
        return y if rows is x else y.view(x.shape)

    def flattened(self, x: Tensor) -> Tensor:
        """Activations of attention heads [..., heads, d_head] as [..., d_in], where the SAE reads such; else `x`."""
        at_heads = (self._cfg.metadata.hook_name or "").endswith(HEADS) and x.ndim > 1 and x.shape[-1] != self.d_in
        return x.flatten(-2) if at_heads and x.shape[-1] * x.shape[-2] == self.d_in else x

    def fold_W_dec_norm(self) -> None:
        """Give decoder rows norm 1 and features their norms, in place; what is reconstructed stays the same.

        PlatformError where that would change which features fire.
        """
        raise PlatformError(f"The decoder norms of a {self._cfg.architecture} SAE cannot be folded into its features.")

    def step(self, batch: Batch, state: StepState) -> StepOutput:
        """One forward pass in training, with its loss terms. PlatformError where the architecture has no training."""
        raise PlatformError(
            f"SAEs of the architecture {self._cfg.architecture!r} are loaded and used here, not trained."
        )

    def coefficients(self) -> dict[str, Coefficient]:
        """The coefficients whose warm-ups the training loop applies."""
        return {}

    def initialise(self, x: Tensor) -> None:
        """Set what depends on data (scales, biases) from a sample [rows, d_in] before the first step, in place."""

    def after_step(self) -> None:
        """Restore any constraint that the optimiser step broke, in place."""

    def inference_form(self) -> SAE:
        """A copy in the form people use: scales of training folded into the weights."""
        return copy.deepcopy(self)

    def save_model(self, path: str | Path, sparsity: Tensor | None = None) -> tuple[Path, ...]:
        """Write cfg.json, sae_weights.safetensors and, given log10 frequencies [d_sae], sparsity.safetensors."""
        return weights.save(self, Path(path), sparsity)

    @classmethod
    def from_pretrained(
        cls,
        release: str,
        sae_id: str,
        device: str = "cpu",
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        force_download: bool = False,
    ) -> SAE:
        """A released SAE: by its names in the registry, or `release="user/repository"` with `sae_id` a folder in it.

        `revision` is a branch, tag or commit of the repository (default: the one that the registry pins, or main);
        `dtype` that of the weights in the file. The result is an SAE that also unpacks, as SAELens' did:
        `sae, cfg_dict, sparsity = SAE.from_pretrained(...)`, where `sparsity` is log10 firing frequencies [d_sae] or
        None. PlatformError names the nearest when a name is unknown, and what was wrong with files or the network.
        """
        named = None if dtype is None else str(dtype)
        sae = pretrained.load(release, sae_id, device, named, revision, force_download)
        return cls._of_this_class(sae, f"{release} {sae_id}")

    @classmethod
    def from_pretrained_with_cfg_and_sparsity(
        cls, release: str, sae_id: str, **settings: Any
    ) -> tuple[SAE, dict[str, Any], Tensor | None]:
        """What `from_pretrained` gives, unpacked; `settings` are its other arguments."""
        sae = cls.from_pretrained(release, sae_id, **settings)
        assert sae.origin is not None
        return sae, *sae.origin

    def __iter__(self) -> Iterator[Any]:
        """The SAE, its flat configuration and its sparsity, if `from_pretrained` gave it. TypeError for any other."""
        if self.origin is None:
            raise TypeError("Only an SAE from SAE.from_pretrained unpacks, to (sae, cfg_dict, sparsity).")
        return iter((self, *self.origin))

    def __getitem__(self, place: int) -> Any:
        return tuple(self)[place]

    @classmethod
    def load_from_disk(cls, path: str | Path, device: str = "cpu", dtype: str | torch.dtype | None = None) -> SAE:
        """Read an SAE folder, ours or SAELens', or weights in the format of any installed plugin: the files say which.

        PlatformError names the file and what is wrong with it.
        """
        named = None if dtype is None else str(dtype)
        return cls._of_this_class(pretrained.load_local(Path(path), device, named), path)

    @classmethod
    def _of_this_class(cls, sae: SAE, place: object) -> SAE:
        if not isinstance(sae, cls):
            raise PlatformError(f"{place} holds a {type(sae).__name__}, not a {cls.__name__}; load it as an SAE.")
        return sae
