"""TransformerLens' names of places in a model, and what processing weights changes at each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from sae_platform.errors import PlatformError

SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")  # on the residual stream, or added to it
HEADS = ("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z")  # which TransformerLens has by head
INNER = ("hook_mlp_in", *HEADS, "mlp.hook_in", "mlp.hook_pre",
         "mlp.hook_post", "ln1.hook_normalized", "ln2.hook_normalized")  # fmt: skip
NAME = re.compile(
    rf"blocks\.(?P<block>\d+)\.(?:hook_(?P<site>{'|'.join(SITES)})|(?P<inner>{'|'.join(INNER)}))"
    rf"|(?P<short>{'|'.join(SITES)})\.(?P<at>\d+)|layers\.(?P<layer>\d+)"
)
CHANGED = {  # by settings of TransformerLens other than center_writing_weights
    "fold_ln": ("mlp.hook_in",),
    "fold_value_biases": ("attn.hook_v", "attn.hook_z"),
    "refactor_factored_attn_matrices": HEADS,
}
OTHERWISE = (  # model types whose layers do more than add attention and MLP to the residual stream
    "beam", "deepseek_v4", "doge", "gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "gpt_neox_japanese", "hy_v4",
    "hyperclovax", "inkling", "inkling2_text", "kolibri1", "minimax", "zaya",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A site of a layer."""

    layer: int
    site: str  # one of SITES or INNER

    @classmethod
    def of(cls, name: str) -> Self | None:
        """The place that TransformerLens' name or a short form means; None for other names."""
        found = NAME.fullmatch(name)
        if found is None:
            return None
        layer = int(found["block"] or found["at"] or found["layer"])
        return cls(layer, found["site"] or found["inner"] or found["short"] or "resid_post")

    def __str__(self) -> str:
        return f"blocks.{self.layer}.{'hook_' if self.site in SITES else ''}{self.site}"


def adds_up(config: Any, site: str) -> bool:
    """Whether the residual stream of a layer is what it reads, plus what its attention and its MLP give."""
    if config.model_type in OTHERWISE:
        return False
    if site == "resid_mid":
        return not getattr(config, "apply_residual_connection_post_layernorm", False)
    return float(getattr(config, "residual_multiplier", None) or 1.0) == 1.0


def is_centred(name: str, processing: Mapping[str, Any]) -> bool:
    """Whether `center_writing_weights` is asked for and changes what is at this place.

    PlatformError where another setting does, or where nothing says what the place is.
    """
    asked = [setting for setting in ("center_writing_weights", *CHANGED) if processing.get(setting)]
    place = Place.of(name)
    if place is None and asked:
        raise PlatformError(
            f"{' and '.join(asked)} cannot be given at {name!r}, since nothing says what it is there: "
            "use TransformerLens' name of the place, such as blocks.1.hook_resid_post."
        )
    for setting in asked:
        if place and place.site in CHANGED.get(setting, ()):
            same = f" The same is here at {name.replace('mlp.hook_in', 'ln2.hook_normalized')}."
            raise PlatformError(
                f"{name} is asked for as it is with {setting}, which is not given here."
                f"{same if setting == 'fold_ln' else ''}"
            )
    return place is not None and "center_writing_weights" in asked and place.site in (*SITES, "hook_mlp_in")
