"""Devices by their names."""

from __future__ import annotations

import torch

from sae_platform.errors import PlatformError


def usable_device(name: str) -> torch.device:
    """The device of this name. PlatformError when this machine has none."""
    try:
        device = torch.empty(0, device=name).device
        torch.zeros(1, device=device).item()  # the meta device holds no numbers
        return device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise PlatformError(
            f"The device {name!r} cannot be used: {reason}. A device is cpu, cuda, cuda:1 or mps."
        ) from error
