"""Features on neuronpedia.org: their pages, lists of them, and what is known of one."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from operator import index
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from sae_platform.errors import PlatformError

if TYPE_CHECKING:
    from sae_platform.sae import SAE

SITE = "https://www.neuronpedia.org"
SITE_VARIABLE, KEY_VARIABLE = "NEURONPEDIA_URL", "NEURONPEDIA_API_KEY"
LISTED = 150  # features that a quick list shows
SECONDS = 30


@dataclass(frozen=True)
class NeuronpediaFeature:
    """What Neuronpedia says of a feature."""

    url: str
    explanations: tuple[str, ...]
    density: float | None  # share of tokens on which it is active
    max_activation: float | None
    positive_logits: tuple[tuple[str, float], ...]  # tokens that it makes likelier, most first
    negative_logits: tuple[tuple[str, float], ...]
    activations: tuple[tuple[tuple[str, ...], tuple[float, ...]], ...]  # tokens and its activations on them
    answer: dict[str, Any]  # all of it


def feature_url(of: SAE | str, feature: int) -> str:
    """The page of a feature: neuronpedia.org/{model}/{layer}-{sae_type}/{feature}.

    `of` is an SAE that knows its neuronpedia_id, or the id itself, such as gpt2-small/8-res-jb. PlatformError when
    there is none, or no such feature. `NEURONPEDIA_URL` names another site.
    """
    return f"{_site()}/{_path(of, feature)}"


def quick_list_url(of: SAE | str, features: Sequence[int], name: str = "features") -> str:
    """A page that lists features, at most 150. PlatformError as `feature_url`, and for more or none."""
    if not 0 < len(features) <= LISTED:
        raise PlatformError(f"A quick list shows 1 to {LISTED} features, not {len(features)}.")
    model, source = _id(of, features)
    entries = [{"modelId": model, "layer": source, "index": str(index(feature))} for feature in features]
    return f"{_site()}/quick-list/?{urlencode({'name': name, 'features': json.dumps(entries)})}"


def fetch_feature(of: SAE | str, feature: int) -> NeuronpediaFeature:
    """What Neuronpedia knows of a feature; a key in NEURONPEDIA_API_KEY is sent along.

    PlatformError as `feature_url`, and when the site has no such feature, refuses or does not answer.
    """
    path = _path(of, feature)
    key = os.environ.get(KEY_VARIABLE)
    request = Request(f"{_site()}/api/feature/{path}")
    if key:
        request.add_unredirected_header("x-api-key", key)
    try:
        with urlopen(request, timeout=SECONDS) as answer:
            found = json.load(answer)
    except HTTPError as error:
        reason = {404: "there is no such page", 401: f"it wants a key in {KEY_VARIABLE}", 429: "it was asked too often"}
        why = reason.get(error.code, f"it answers {error.code}")
        raise PlatformError(f"Neuronpedia gives nothing for {path}: {why}.") from error
    except (OSError, HTTPException, ValueError) as error:
        raise PlatformError(f"Neuronpedia at {_site()} does not answer for {path}: {error}.") from error
    if not isinstance(found, dict):
        raise PlatformError(f"Neuronpedia has no feature {path}.")
    return NeuronpediaFeature(
        url=f"{_site()}/{path}",
        explanations=tuple(each.get("description") or "" for each in found.get("explanations") or ()),
        density=found.get("frac_nonzero"),
        max_activation=found.get("maxActApprox"),
        positive_logits=_pairs(found, "pos"),
        negative_logits=_pairs(found, "neg"),
        activations=tuple(
            (tuple(each.get("tokens") or ()), tuple(each.get("values") or ()))
            for each in found.get("activations") or ()
        ),
        answer=found,
    )


def _pairs(found: dict[str, Any], sign: str) -> tuple[tuple[str, float], ...]:
    return tuple(zip(found.get(f"{sign}_str") or (), found.get(f"{sign}_values") or (), strict=False))


def _site() -> str:
    return os.environ.get(SITE_VARIABLE, SITE).rstrip("/")


def _path(of: SAE | str, feature: int) -> str:
    model, source = _id(of, [feature])
    return f"{quote(model, safe='')}/{quote(source, safe='')}/{index(feature)}"


def _id(of: SAE | str, features: Sequence[int]) -> tuple[str, str]:
    """The model and the source by which Neuronpedia knows an SAE."""
    name = of if isinstance(of, str) else of.cfg.metadata.neuronpedia_id
    if not name:
        raise PlatformError("This SAE does not know its page on Neuronpedia: give its id, such as gpt2-small/8-res-jb.")
    if name.count("/") != 1:
        raise PlatformError(f"{name!r} is not {{model}}/{{layer}}-{{sae_type}}, as ids on Neuronpedia are.")
    d_sae = None if isinstance(of, str) else of.d_sae
    for feature in features:
        if not hasattr(feature, "__index__"):
            raise PlatformError(f"A feature is a whole number, not {feature!r}.")
        if feature < 0 or (d_sae is not None and feature >= d_sae):
            raise PlatformError(f"There is no feature {feature}; they are 0 to {d_sae - 1 if d_sae else 'd_sae - 1'}.")
    model, _, source = name.partition("/")
    return model, source
