"""Neuronpedia: addresses of pages, and what a server on this machine says of a feature."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from hub_server import Hub, serving
from sae_platform import SAE, PlatformError, feature_url, fetch_feature, quick_list_url
from saved import trained

ID = "gpt2-small/8-res-jb"
ANSWER = {
    "modelId": "gpt2-small", "layer": "8-res-jb", "index": "3", "frac_nonzero": 0.002, "maxActApprox": 9.5,
    "explanations": [{"description": "months"}], "pos_str": [" May"], "pos_values": [1.5],
    "neg_str": [], "neg_values": [],
    "activations": [{"tokens": ["in", " May"], "values": [0, 9.5]}],
}  # fmt: skip


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub(pages={"/api/feature/gpt2-small/8-res-jb/3": json.dumps(ANSWER).encode()})) as site:
        monkeypatch.setenv("NEURONPEDIA_URL", site.url)
        yield site


@pytest.fixture
def sae() -> SAE:
    sae = trained("standard")
    sae.describe(neuronpedia_id=ID, model_name="openai-community/gpt2")
    return sae


def test_pages(sae: SAE) -> None:
    assert feature_url(sae, 3) == feature_url(ID, 3) == "https://www.neuronpedia.org/gpt2-small/8-res-jb/3"
    with pytest.raises(PlatformError, match="no feature 6; they are 0 to 5"):
        feature_url(sae, 6)
    with pytest.raises(PlatformError, match="not {model}/{layer}-{sae_type}"):
        feature_url("gpt2-small", 6)
    with pytest.raises(PlatformError, match="give its id, such as"):
        feature_url(trained("standard"), 0)


def test_lists(sae: SAE) -> None:
    query = parse_qs(urlsplit(quick_list_url(sae, [1, 5], "two of them")).query)
    assert query["name"] == ["two of them"]
    assert json.loads(query["features"][0]) == [
        {"modelId": "gpt2-small", "layer": "8-res-jb", "index": index} for index in ("1", "5")
    ]
    for count in (0, 151):
        with pytest.raises(PlatformError, match=f"shows 1 to 150 features, not {count}"):
            quick_list_url(ID, range(count))


def test_what_is_known_of_a_feature(site: Hub, sae: SAE) -> None:
    found = fetch_feature(sae, 3)
    assert found.url == f"{site.url}/{ID}/3"
    assert (found.explanations, found.density, found.max_activation) == (("months",), 0.002, 9.5)
    assert (found.positive_logits, found.negative_logits) == (((" May", 1.5),), ())
    assert found.activations == ((("in", " May"), (0, 9.5)),)
    assert found.answer == ANSWER


@pytest.mark.parametrize(("page", "message"), [(b"null", "has no feature"), (b"<html>", "does not answer for")])
def test_an_answer_that_is_none(site: Hub, page: bytes, message: str) -> None:
    site.pages["/api/feature/gpt2-small/8-res-jb/4"] = page
    with pytest.raises(PlatformError, match=message):
        fetch_feature(ID, 4)


def test_a_feature_that_is_not_there(site: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlatformError, match=r"gives nothing for gpt2-small/8-res-jb/5: there is no such page"):
        fetch_feature(ID, 5)
    monkeypatch.setenv("NEURONPEDIA_URL", "http://127.0.0.1:9")
    with pytest.raises(PlatformError, match="does not answer for gpt2-small/8-res-jb/5"):
        fetch_feature(ID, 5)


def test_a_key_is_sent_along(site: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import sae_platform.neuronpedia as neuronpedia

    sent: list[Any] = []
    monkeypatch.setenv("NEURONPEDIA_API_KEY", "a key")
    plain = neuronpedia.urlopen
    monkeypatch.setattr(neuronpedia, "urlopen", lambda request, **k: sent.append(request) or plain(request, **k))
    fetch_feature(ID, 3)
    assert sent[0].unredirected_hdrs["X-api-key"] == "a key"
