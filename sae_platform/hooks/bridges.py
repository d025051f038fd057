"""Places in TransformerLens' bridge around a model: its own hook points, by its own names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sae_platform.activations import Replace
from sae_platform.errors import PlatformError, choices, nearest
from sae_platform.hooks.parts import Centred, JoinedHeads, Part
from sae_platform.hooks.points import HookPoint, in_part
from sae_platform.hooks.sites import Place, is_centred

SHOWN = 8  # hooks that an error names


@dataclass(frozen=True)
class BridgeHook(HookPoint):
    """One hook of a bridge; heads come joined."""

    bridge: Any
    name: str
    part: Part

    @contextmanager
    def hooked(self, function: Replace) -> Iterator[None]:
        differences: list[Tensor] = []
        mid = self.name.endswith("hook_resid_mid")  # there the bridge has what the norm reads, a copy of the stream

        def replace(x: Tensor, hook: Any) -> Tensor | None:
            new = in_part(self.part, x, x, function)
            if new is x:
                return None
            if mid:
                differences[:] = [new - x]
            return new

        def carry(x: Tensor, hook: Any) -> Tensor | None:
            return x + differences.pop() if differences else None

        hooks = [(self.name, replace)]
        if mid:
            hooks.append((self.name.replace("resid_mid", "resid_post"), carry))
        gate = self.name.endswith("hook_mlp_in") and not self.bridge.cfg.use_hook_mlp_in
        if gate:
            self.bridge.set_use_hook_mlp_in(True)
        try:
            with self.bridge.hooks(fwd_hooks=hooks):
                yield
        finally:
            if gate:
                self.bridge.set_use_hook_mlp_in(False)


def find_in_bridge(bridge: Any, name: str, processing: Mapping[str, Any]) -> BridgeHook:
    """The bridge's hook of this name. PlatformError with the nearest when it has none."""
    known, name = bridge.hook_dict, str(Place.of(name) or name)
    if name not in known:
        raise PlatformError(
            f"{type(bridge.original_model).__name__} has no hook {name!r}.{nearest(name, known)} "
            f"Its bridge has {choices(list(known)[:SHOWN])} and others: bridge.hook_dict lists them."
        )
    centred = is_centred(name, processing) and not bridge.cfg.uses_rms_norm
    return BridgeHook(bridge, name, Centred() if centred else JoinedHeads())
