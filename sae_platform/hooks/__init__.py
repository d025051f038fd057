"""Places in a model: found by their names, read, and replaced while the model runs."""

from sae_platform.hooks.finding import find_hook
from sae_platform.hooks.points import HookPoint, ModuleHook, read, replaced, rows_of, width_at

__all__ = ["HookPoint", "ModuleHook", "find_hook", "read", "replaced", "rows_of", "width_at"]
