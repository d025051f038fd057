"""Places in a model: found by their names, read, and replaced while the model runs."""

from sae_platform.hooks.finding import find_hook
from sae_platform.hooks.points import HookPoint, ModuleHook, read, replaced, rows_of, width_at
from sae_platform.hooks.sites import HEADS, Place, is_centred

__all__ = [
    "HEADS", "HookPoint", "ModuleHook", "Place", "find_hook", "is_centred", "read", "replaced", "rows_of", "width_at",
]  # fmt: skip
