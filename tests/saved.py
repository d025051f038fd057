"""A small trained SAE to save, and changes to its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from sae_platform import SAE, SAEConfig, weights
from sae_platform.components import SAEMetadata, TokenPolicy
from sae_platform.testing import train_steps

D_IN, D_SAE = 4, 6
EXTRA: dict[str, dict[str, Any]] = {"topk": {"k": 2}}
METADATA = SAEMetadata(
    model_name="gpt2",
    hook_name="blocks.7.hook_resid_pre",
    dataset_path="some/text",
    context_size=128,
    token_policy=TokenPolicy(prepend_bos=False, exclude_special_tokens=True),
)


def trained(architecture: str = "standard", **settings: Any) -> SAE:
    """A small SAE after a few steps, so that no tensor is at its start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = {**EXTRA.get(architecture, {}), "metadata": METADATA, **settings}
        sae = SAEConfig(architecture=architecture, d_in=D_IN, d_sae=D_SAE, **settings).build()
        train_steps(sae, torch.randn(16, D_IN), 3)
    return sae.eval()


def edit(folder: Path, **changes: Any) -> None:
    """Change keys of our own configuration in cfg.json."""
    content = json.loads((folder / weights.CONFIG).read_text())
    content["sae_platform"].update(changes)
    (folder / weights.CONFIG).write_text(json.dumps(content))
