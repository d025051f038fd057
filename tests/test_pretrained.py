"""Released SAEs: from the registry or any repository, through the hub's own client and a server on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hub_server import Hub, serving
from sae_platform import SAE, PlatformError
from sae_platform.registry import VARIABLE
from saved import trained

REPO = "user/saes"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with an SAE at layer/a of a repository, and a cache of its own."""
    folder = tmp_path / "sae"
    trained("standard").save_model(folder, sparsity=torch.linspace(-3, 0, 8))
    with serving(Hub()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        hub.add(REPO, folder, "layer/a")
        yield hub


def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str = "") -> None:
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "mine.toml").write_text(
        f'model = "gpt2"\nrepo_id = "{REPO}"\n{text}\n[[saes]]\nid = "first"\npath = "layer/a"\n'
    )
    monkeypatch.setenv(VARIABLE, str(tmp_path / "registry"))


def test_an_sae_of_any_repository_is_an_sae_and_unpacks(hub: Hub) -> None:
    sae = SAE.from_pretrained(REPO, "layer/a")
    same, cfg_dict, sparsity = sae
    assert same is sae is sae[0]
    assert (cfg_dict["architecture"], cfg_dict["d_sae"]) == ("standard", sae.cfg.d_sae)
    assert sparsity is not None
    assert torch.equal(sparsity, torch.linspace(-3, 0, 8))
    x = torch.randn(3, sae.cfg.width)
    assert torch.equal(sae(x), trained("standard")(x))
    with pytest.raises(TypeError):
        len(sae)  # type: ignore[arg-type]


def test_an_sae_from_elsewhere_does_not_unpack() -> None:
    with pytest.raises(TypeError, match="from_pretrained"):
        _, _, _ = trained("standard")


def test_an_sae_of_the_registry_is_found_and_corrected(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(tmp_path, monkeypatch, '[config]\ndataset_path = "the/right/one"')
    content = json.loads(hub.repositories[REPO]["layer/a/cfg.json"])
    del content["sae_platform"]
    hub.repositories[REPO]["layer/a/cfg.json"] = json.dumps(content).encode()
    sae = SAE.from_pretrained("mine", "first", dtype="float64")
    assert sae.cfg.dataset_path == "the/right/one"
    assert sae.cfg.dtype == "float64"


def test_a_format_that_cannot_be_read_is_named(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registered(tmp_path, monkeypatch, 'format = "gemma_scop"')
    with pytest.raises(PlatformError, match="No weight format is called 'gemma_scop'. Did you mean 'gemma_scope'"):
        SAE.from_pretrained("mine", "first")
    assert hub.asked == []


def test_without_sparsity_there_is_none(hub: Hub) -> None:
    del hub.repositories[REPO]["layer/a/sparsity.safetensors"]
    assert SAE.from_pretrained(REPO, "layer/a")[2] is None


def test_a_commit_that_is_in_the_cache_is_not_asked_for_again(hub: Hub) -> None:
    commit = hub.commit(REPO)
    SAE.from_pretrained(REPO, "layer/a", revision=commit)
    hub.asked.clear()
    SAE.from_pretrained(REPO, "layer/a", revision=commit)
    assert hub.asked == []
    SAE.from_pretrained(REPO, "layer/a", revision=commit, force_download=True)
    assert hub.asked != []


def test_all_files_are_of_one_commit(hub: Hub) -> None:
    SAE.from_pretrained(REPO, "layer/a")
    weights = [line for line in hub.asked if "sae_weights" in line]
    assert weights
    assert all(f"/resolve/{hub.commit(REPO)}/" in line for line in weights)


def test_a_download_that_breaks_off_is_continued(hub: Hub) -> None:
    hub.cut.add("layer/a/sae_weights.safetensors")
    sae = SAE.from_pretrained(REPO, "layer/a")
    assert all(
        torch.equal(one, other) for one, other in zip(sae.parameters(), trained("standard").parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, "RepoNotFound", "no repository 'user/saes' that you may see"),
        (403, "GatedRepo", "is gated: accept its terms at https://huggingface.co/user/saes"),
        (404, "RepoNotFound", "no repository 'user/saes'"),
        (403, "", r"does not let you read user/saes \(403\)"),
    ],
)
def test_a_refusal_of_the_hub_is_explained(hub: Hub, status: int, code: str, message: str) -> None:
    hub.refusals[REPO] = (status, code)
    with pytest.raises(PlatformError, match=message):
        SAE.from_pretrained(REPO, "layer/a")


def test_an_unknown_folder_is_answered_with_those_that_exist(hub: Hub) -> None:
    with pytest.raises(PlatformError, match=r"'layer/b/cfg.json'. Did you mean 'layer/a'\? Folders .*: layer/a"):
        SAE.from_pretrained(REPO, "layer/b")


def test_an_unknown_revision_is_named(hub: Hub) -> None:
    with pytest.raises(PlatformError, match="no revision 'v9'"):
        SAE.from_pretrained(REPO, "layer/a", revision="v9")


@pytest.mark.parametrize("sae_id", ["../a", "/etc", "a/../../b"])
def test_an_id_that_leaves_the_repository_is_refused_before_anything_is_asked(hub: Hub, sae_id: str) -> None:
    with pytest.raises(PlatformError):
        SAE.from_pretrained(REPO, sae_id)
    assert hub.asked == []


@pytest.mark.parametrize("file", ["cfg.json", "sae_weights.safetensors"])
def test_wrong_bytes_are_named(hub: Hub, file: str) -> None:
    data = hub.repositories[REPO][f"layer/a/{file}"]
    hub.repositories[REPO][f"layer/a/{file}"] = b"\xff" * len(data)
    with pytest.raises(PlatformError, match=f"{file} cannot be read"):
        SAE.from_pretrained(REPO, "layer/a")


def test_offline_the_cache_answers_or_the_error_says_so(hub: Hub) -> None:
    code = (
        "import sys; from sae_platform import SAE, PlatformError\n"
        "try: print(SAE.from_pretrained(*sys.argv[1:3]).cfg.architecture)\n"
        "except PlatformError as error: print(error)\n"
    )

    def offline(sae_id: str) -> str:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", code, REPO, sae_id]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    assert "is not in the cache, and the hub could not be asked" in offline("layer/a")
    SAE.from_pretrained(REPO, "layer/a")
    asked = len(hub.asked)
    assert offline("layer/a") == "standard"
    assert len(hub.asked) == asked
