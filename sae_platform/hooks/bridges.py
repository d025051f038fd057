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
from sae_platform.hooks.points import HookPoint, ModuleHook, in_part
from sae_platform.hooks.sites import Place, adds_up, is_centred

SHOWN = 8  # hooks that an error names
PROCESSED = "processing_of_sae_platform"  # where a bridge keeps how its weights were processed


@dataclass(frozen=True)
class BridgeHook(HookPoint):
    """One hook of a bridge; heads come joined."""

    bridge: Any
    name: str
    part: Part

    @contextmanager
    def hooked(self, function: Replace) -> Iterator[None]:
        def replace(x: Tensor, hook: Any) -> Tensor | None:
            new = in_part(self.part, x, x, function)
            return None if new is x else new

        gated = self.name.endswith("hook_mlp_in") and not self.bridge.cfg.use_hook_mlp_in
        if gated:
            self.bridge.set_use_hook_mlp_in(True)
        try:
            with self.bridge.hooks(fwd_hooks=[(self.name, replace)]):
                yield
        except ValueError as error:
            if "is False. Call set_" not in str(error):  # what a bridge says of hooks that are switched off
                raise
            raise PlatformError(f"The bridge has {self.name!r} switched off: {error}") from error
        finally:
            if gated:
                self.bridge.set_use_hook_mlp_in(False)


def find_in_bridge(bridge: Any, name: str, processing: Mapping[str, Any]) -> HookPoint:
    """The bridge's hook of this name. PlatformError with the nearest when it has none."""
    place = Place.of(name)
    known, name = bridge.hook_dict, str(place or name)
    if name not in known:
        raise PlatformError(
            f"{type(bridge.original_model).__name__} has no hook {name!r}.{nearest(name, known)} "
            f"Its bridge has {choices(list(known)[:SHOWN])} and others: bridge.hook_dict lists them."
        )
    done = getattr(bridge, PROCESSED, {})
    left = {setting: value for setting, value in processing.items() if value and not done.get(setting)}
    centred = is_centred(name, left) and not bridge.cfg.uses_rms_norm
    part = Centred() if centred else JoinedHeads()
    if place and place.site == "resid_mid":  # its own hook has what the norm reads, a copy of the stream
        if not adds_up(bridge.original_model.config.get_text_config(), place.site):
            raise PlatformError(f"{name!r} is not known here for {type(bridge.original_model).__name__}.")
        block = bridge.get_submodule(f"blocks.{place.layer}")
        reader = next(module for module in block.modules() if known[name] in module.children())
        return ModuleHook(reader, "input", part, block.original_component)
    return BridgeHook(bridge, name, part)


def process(
    bridge: Any, fold_ln: bool = False, center_writing_weights: bool = False, center_unembed: bool = False,
    fold_value_biases: bool = False,
) -> None:  # fmt: skip
    """Process the weights of a bridge as asked for, and keep that with it."""
    asked = {
        "fold_ln": fold_ln, "center_writing_weights": center_writing_weights, "center_unembed": center_unembed,
        "fold_value_biases": fold_value_biases,
    }  # fmt: skip
    if any(asked.values()):
        bridge.enable_compatibility_mode(disable_warnings=True, **asked)
        setattr(bridge, PROCESSED, asked)
