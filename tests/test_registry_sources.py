"""New releases: described from the files of a repository or a folder, or copied from others."""

from __future__ import annotations

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from hub_server import Hub
from sae_platform import SAE
from sae_platform.cli import main
from sae_platform.registry import VARIABLE, lookup, packaged, release_names
from sae_platform.releases import read_release
from saved import trained

REPO = "user/saes"
SOUND = 'model = "gpt2"\nrepo_id = "user/saes"\n[[saes]]\nid = "a"\n'


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["registry", *map(str, arguments)])


@pytest.fixture
def users(home: Path) -> Path:
    return home / "config/sae-platform/registry"


# add


def sae_folder(path: str, **said: object) -> dict[str, bytes]:
    content = {"d_sae": 32, "model_name": "gpt2", "hook_name": "blocks.2.hook_resid_pre", **said}
    return {f"{path}/cfg.json": json.dumps(content).encode(), f"{path}/sae_weights.safetensors": path.encode()}


def test_the_sae_folders_of_a_repository_become_a_release(hub: Hub, users: Path) -> None:
    nested = {"metadata": {"model_name": "gpt2", "hook_name": "blocks.10.attn.hook_z"}, "model_name": None}
    hub.repositories[REPO] = {
        "README.md": b"", "notes/cfg.json": b"{}", **sae_folder("layer_10", **nested), **sae_folder("layer_9"),
        **sae_folder("deep/x", hook_name="layers.3", d_sae="many", architecture="skip_transcoder"),
    }  # fmt: skip
    result = run("add", REPO)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{users}/saes.toml\n3 SAEs of gpt2, saelens\nNext: sae-platform registry show saes\n"
    release = read_release(users / "saes.toml")
    assert (release.repo_id, release.model, release.format) == (REPO, "gpt2", "saelens")
    assert [(sae.sae_id, sae.path, sae.layer, sae.site, sae.width) for sae in release.saes.values()] == [
        ("deep/x", "deep/x", 3, "transcoder", None), ("layer_9", "layer_9", 2, "resid_pre", 32),
        ("layer_10", "layer_10", 10, "z", 32),
    ]  # fmt: skip
    assert run("show", "saes").exit_code == 0
    assert not any("sae_weights" in line for line in hub.asked)


def test_a_name_that_a_release_has_is_refused_naming_its_file(hub: Hub, users: Path, tmp_path: Path) -> None:
    hub.repositories["user/gpt2-small-res-jb"] = sae_folder("a")
    result = run("add", "user/gpt2-small-res-jb")
    assert result.exit_code == 2
    assert f"in {packaged() / 'gpt2-small-res-jb.toml'}. Give another name with --name" in result.stderr
    assert run("add", "user/gpt2-small-res-jb", "--name", "mine", "--to", tmp_path / "mine").exit_code == 0
    assert read_release(tmp_path / "mine/mine.toml").saes
    assert run("add", "user/gpt2-small-res-jb", "--name", "mine", "--to", tmp_path / "mine").exit_code == 2
    assert "cannot be the name of a release" in run("add", "user/gpt2-small-res-jb", "--name", "a/b").stderr


def test_a_folder_of_this_machine_becomes_a_release_that_loads(users: Path, tmp_path: Path) -> None:
    trained("topk").save_model(tmp_path / "mine/first")
    result = run("add", tmp_path / "mine", "--model", "gpt2")
    assert result.exit_code == 0, result.output
    assert read_release(users / "mine.toml").repo_id == f"local:{tmp_path}/mine"
    sae = SAE.from_pretrained("mine", "first")
    x = torch.randn(3, sae.cfg.width)
    assert torch.equal(sae(x), trained("topk")(x))
    assert "huggingface.co" not in run("lookup", "mine", "first").stdout
    assert run("check", "mine", "--online").exit_code == 0


def test_an_sae_at_the_root_has_the_name_of_its_repository(users: Path, tmp_path: Path) -> None:
    trained("topk").save_model(tmp_path / "alone")
    assert run("add", tmp_path / "alone", "--model", "gpt2").exit_code == 0
    assert lookup("alone", "alone").path == "."
    assert SAE.from_pretrained("alone", "alone").cfg.architecture == "topk"
    assert run("pin", "alone").exit_code == 0
    assert set(read_release(users / "alone.toml").sha256) == {"cfg.json", "sae_weights.safetensors"}
    assert SAE.from_pretrained("alone", "alone").cfg.architecture == "topk"


def test_several_formats_or_models_must_be_chosen_from(hub: Hub, users: Path) -> None:
    hub.repositories[REPO] = {**sae_folder("a"), **sae_folder("b", model_name="pythia"), "c/params.npz": b"c"}
    assert "several formats, gemma_scope, saelens. Choose one with --format" in run("add", REPO).stderr
    assert "several models, gpt2, pythia. Choose one with --model" in run("add", REPO, "--format", "saelens").stderr
    assert "of gpt2, pythia, not of llama" in run("add", REPO, "--format", "saelens", "--model", "llama").stderr
    assert "do not say which model" in run("add", REPO, "--format", "gemma_scope").stderr
    assert not users.exists()
    assert run("add", REPO, "--format", "saelens", "--model", "pythia").exit_code == 0
    assert list(read_release(users / "saes.toml").saes) == ["b"]
    assert run("add", REPO, "--format", "gemma_scope", "--model", "gemma", "--name", "gemma-mine").exit_code == 0
    assert list(read_release(users / "gemma-mine.toml").saes) == ["c"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no SAE that could be found by its files"),
        ({"layer0.sae.pt": b"", "a/cfg.json": b""}, "holds no SAE that could be found by its files"),
        ({"{a}/cfg.json": b"{}", "{a}/sae_weights.safetensors": b""}, "do not say which model"),
    ],
)
def test_what_cannot_be_described_leaves_no_file(hub: Hub, users: Path, files: dict[str, bytes], message: str) -> None:
    hub.repositories[REPO] = files
    assert message in run("add", REPO).stderr
    assert run("add", REPO, "--model", "gpt2").exit_code == 2
    assert not list(users.glob("*"))


def test_a_source_that_is_neither_is_refused(hub: Hub, users: Path) -> None:
    assert "'nowhere' is neither a folder nor user/repository" in run("add", "nowhere").stderr
    assert "no repository 'user/nowhere'" in run("add", "user/nowhere").stderr


# pull


def tar(files: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def zipped(files: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def names_in(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*") if not file.name.startswith(".")}


@pytest.mark.parametrize("packed", [tar, zipped])
@pytest.mark.parametrize("place", ["", "saes-main/", "saes-main/registry/", "registry/"])
def test_an_archive_is_copied_and_looked_in(
    hub: Hub, home: Path, packed: Callable[[Mapping[str, str]], bytes], place: str
) -> None:
    files = {f"{place}theirs.toml": SOUND, f"{place}README.md": ""}
    hub.pages["/saes.tar.gz"] = packed(files if "registry" not in place else {**files, "saes-main/pyproject.toml": ""})
    result = run("pull", f"{hub.url}/saes.tar.gz")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("1 releases with 1 SAEs in ")
    assert lookup("theirs", "a").repo_id == "user/saes"


@pytest.mark.parametrize("source", ["user/releases", "datasets/user/releases"])
def test_a_repository_is_copied(hub: Hub, home: Path, source: str) -> None:
    hub.repositories[source] = {"registry/theirs.toml": SOUND.encode(), "pyproject.toml": b"", "README.md": b""}
    assert run("pull", source).exit_code == 0
    assert lookup("theirs", "a").repo_id == "user/saes"


def test_a_copy_is_refreshed_whole(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "theirs"
    for names in (["one.toml", "two.toml"], ["two.toml", "three.toml"]):
        hub.pages["/saes.zip"] = zipped(dict.fromkeys(names, SOUND))
        result = run("pull", f"{hub.url}/saes.zip", "--to", target)
        assert result.exit_code == 0, result.output
        assert names_in(target) == set(names)
        assert f"--registry {target}" in result.stdout
        monkeypatch.setenv(VARIABLE, str(target))
        assert set(names) <= {f"{name}.toml" for name in release_names()}
        monkeypatch.delenv(VARIABLE)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def linked() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo("link.toml")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (tar({"one.toml": SOUND, "bad.toml": "model = 3\n"}), "bad.toml:1: model is 3"),
        (tar({"../one.toml": SOUND}), "holds '../one.toml', which leads out of its folder"),
        (zipped({"/etc/one.toml": SOUND}), "holds '/etc/one.toml', which leads out of its folder"),
        (zipped({"one.toml": SOUND, "a/../../b": ""}), "holds 'a/../../b', which leads out of its folder"),
        (linked(), "link.toml in http.* is a link or a device, not a file"),
        (tar({"gpt2-small-res-jb.toml": SOUND}), "'gpt2-small-res-jb' is described in .*/gpt2-small-res-jb.toml too"),
        (tar({"one two.toml": SOUND}), "'one two' cannot be the name of a release"),
        (tar({"README.md": ""}), "has no release files"),
        (tar({"one.toml": SOUND})[:60], "is no .tar.gz or .zip that can be read"),
        (b"<html>", "is no .tar.gz or .zip that can be read"),
    ],
    ids=["unsound", "above", "absolute", "above in a zip", "link", "taken", "name", "none", "cut", "no archive"],
)
def test_what_is_not_sound_is_refused_whole(hub: Hub, home: Path, archive: bytes, message: str) -> None:
    hub.pages["/saes.tar.gz"] = tar({"old.toml": SOUND})
    target = home / "theirs"
    assert run("pull", f"{hub.url}/saes.tar.gz", "--to", target).exit_code == 0
    hub.pages["/saes.tar.gz"] = archive
    result = run("pull", f"{hub.url}/saes.tar.gz", "--to", target)
    assert result.exit_code == 2
    assert re.search(message, result.stderr), result.stderr
    assert names_in(target) == {"old.toml"}
    assert {path.name for path in home.iterdir()} <= {"theirs", "caches", "config"}


def test_a_download_that_breaks_off_or_is_refused_changes_nothing(hub: Hub, home: Path) -> None:
    hub.pages["/saes.zip"] = zipped({"one.toml": SOUND})
    hub.cut.add("/saes.zip")
    target = home / "theirs"
    result = run("pull", f"{hub.url}/saes.zip", "--to", target)
    assert (result.exit_code, "broke off after" in result.stderr) == (2, True)
    assert "HTTP Error 404" in run("pull", f"{hub.url}/saes.tar.gz", "--to", target).stderr
    assert "could not be downloaded" in run("pull", "http://127.0.0.1:9/saes.zip", "--to", target).stderr
    hub.refusals["user/releases"] = (429, "")
    assert "too many requests (429)" in run("pull", "user/releases", "--to", target).stderr
    assert "is neither the address" in run("pull", "ftp://example.org/saes.zip", "--to", target).stderr
    assert not target.exists()


def test_a_folder_with_files_of_ones_own_is_not_replaced(hub: Hub, users: Path) -> None:
    hub.pages["/saes.zip"] = zipped({"one.toml": SOUND})
    users.mkdir(parents=True)
    (users / "mine.toml").write_text(SOUND)
    result = run("pull", f"{hub.url}/saes.zip", "--to", users)
    assert (result.exit_code, "holds what was not pulled and would be lost" in result.stderr) == (2, True)
    assert names_in(users) == {"mine.toml"}
