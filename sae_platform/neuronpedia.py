"""Pages of features on neuronpedia.org."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sae_platform.errors import PlatformError

if TYPE_CHECKING:
    from sae_platform.sae import SAE

SITE = "https://www.neuronpedia.org"


def feature_url(of: SAE | str, feature: int) -> str:
    """The page of a feature: neuronpedia.org/{model}/{layer}-{sae_type}/{feature}.

    `of` is an SAE that knows its neuronpedia_id, or the id itself, such as gpt2-small/8-res-jb. PlatformError when
    there is none, or no such feature.
    """
    name = of if isinstance(of, str) else (of.cfg.metadata.model_extra or {}).get("neuronpedia_id")
    if not name:
        raise PlatformError("This SAE does not know its page on Neuronpedia: give its id, such as gpt2-small/8-res-jb.")
    if name.count("/") != 1:
        raise PlatformError(f"{name!r} is not {{model}}/{{layer}}-{{sae_type}}, as ids on Neuronpedia are.")
    d_sae = None if isinstance(of, str) else of.d_sae
    if feature < 0 or (d_sae is not None and feature >= d_sae):
        raise PlatformError(f"There is no feature {feature}; they are 0 to {d_sae - 1 if d_sae else 'd_sae - 1'}.")
    return f"{SITE}/{name}/{feature}"
