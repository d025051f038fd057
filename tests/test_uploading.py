"""Uploads through the hub's own client: one commit, that loads again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hub_server import Hub
from sae_platform import SAE, PlatformError, upload_saes_to_huggingface
from saved import trained

REPO = "username/my-saes"
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def test_saes_are_one_commit_and_load_again(hub: Hub) -> None:
    saes = [trained("standard"), trained("topk")]
    url = upload_saes_to_huggingface(saes=saes, repo_id=REPO, token="hf_token")
    assert url.startswith(f"{hub.url}/{REPO}/commit/")
    assert sum("/commit/" in line for line in hub.asked) == 1
    hook = "blocks.7.hook_resid_pre"
    for sae, name in zip(saes, (hook, f"{hook}-2"), strict=True):
        torch.testing.assert_close(SAE.from_pretrained(REPO, name)(X), sae.inference_form()(X))
    card = hub.repositories[REPO]["README.md"].decode()
    assert f"| {hook} | standard | 4 | 6 | {hook} |" in card
    assert f'SAE.from_pretrained("{REPO}", "{hook}")' in card


def test_the_older_form_and_folders(hub: Hub, tmp_path: Path) -> None:
    trained("gated").save_model(tmp_path / "sae")
    upload_saes_to_huggingface({"a": trained("standard"), "deep/b": tmp_path / "sae"}, hf_repo_id=REPO)
    assert SAE.from_pretrained(REPO, "deep/b").cfg.architecture == "gated"
    hub.repositories[REPO]["README.md"] = b"mine"
    upload_saes_to_huggingface({"c": trained("topk")}, REPO)
    assert hub.repositories[REPO]["README.md"] == b"mine"
    assert SAE.from_pretrained(REPO, "a").cfg.architecture == "standard"


def test_what_is_refused_is_named(hub: Hub) -> None:
    hub.refusals[REPO] = (403, "")
    with pytest.raises(PlatformError, match=f"The upload to {REPO} failed, and nothing was committed"):
        upload_saes_to_huggingface([trained()], REPO)
    with pytest.raises(PlatformError, match="no SAE to upload"):
        upload_saes_to_huggingface([], REPO)
    with pytest.raises(PlatformError, match="cannot be a folder of a repository"):
        upload_saes_to_huggingface({"../a": trained()}, REPO)
    with pytest.raises(PlatformError, match="Give the repository"):
        upload_saes_to_huggingface([trained()])
