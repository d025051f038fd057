"""Whether the files of releases still exist, and the commit and digests that a release is pinned to."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hub_server import Hub
from sae_platform import SAE, PlatformError
from sae_platform.cli import main
from sae_platform.releases import ReleasedSAE, read_release
from sae_platform.upkeep.checking import default_store
from sae_platform.upkeep.files import SAEFolder, lacking
from sae_platform.weights import FILES
from saved import trained

REPO, OTHER = "user/saes", "user/others"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["registry", *map(str, arguments)])


@pytest.fixture
def folder(home: Path) -> Path:
    """The user's registry."""
    folder = home / "config/sae-platform/registry"
    folder.mkdir(parents=True)
    return folder


def release(folder: Path, name: str, *ids: str, repo_id: str = REPO, head: str = "") -> Path:
    file = folder / f"{name}.toml"
    rows = "".join(f'\n[[saes]]\nid = "{sae_id}"\n' for sae_id in ids)
    file.write_text(f'model = "gpt2"  # by its authors\nrepo_id = "{repo_id}"\n{head}{rows}')
    return file


@pytest.fixture(autouse=True)
def _repositories(hub: Hub) -> None:
    for repo_id in (REPO, OTHER):
        hub.repositories[repo_id] = {
            f"{place}/{name}": f"{repo_id}/{place}/{name}".encode()
            for place in "ab"
            for name in ("cfg.json", "sae_weights.safetensors")
        }


def test_the_kernels_own_format_has_the_files_that_loading_reads() -> None:
    assert SAEFolder().files("a/b") == {f"a/b/{name}": required for name, required in FILES.items()}
    assert list(SAEFolder().files(".")) == list(FILES)


def test_a_format_that_is_not_installed_needs_something_at_its_path() -> None:
    sae = ReleasedSAE("mine", "a", "gpt2", REPO, "folder/a", "unheard_of")
    assert lacking(sae, ["folder/a/weights.bin"]) == lacking(sae, ["folder/a"]) == []
    assert lacking(sae, ["folder/ab"]) == ["folder/a"]


# check --online


def check(*arguments: object) -> Result:
    return run("check", "--online", *arguments)


def test_a_repository_is_asked_once_for_all_its_releases_and_not_again_for_days(hub: Hub, folder: Path) -> None:
    release(folder, "mine", "a", "b")
    release(folder, "mine-too", "a")
    result = check("mine", "mine-too")
    assert result.exit_code == 0, result.output
    assert "2 of 2 releases are compared with the hub: 0 files are missing" in result.stdout
    assert len(hub.asked) == 1
    assert check("mine", "mine-too").exit_code == 0
    assert len(hub.asked) == 1
    check("mine", "--max-age", 0)
    assert len(hub.asked) == 2


def test_a_file_that_is_missing_is_named_and_remembered(hub: Hub, folder: Path) -> None:
    release(folder, "mine", "a", "b")
    del hub.repositories[REPO]["b/sae_weights.safetensors"]
    for _ in range(2):
        result = check("mine")
        assert result.exit_code == 1
        assert "mine  b  b/sae_weights.safetensors\n" in result.stdout
        assert len(hub.asked) == 1
    release(folder, "mine", "a")
    assert check("mine").exit_code == 0, "the release file says something else now"


def test_a_revision_is_asked_for_as_such(hub: Hub, folder: Path) -> None:
    release(folder, "mine", "a", head=f'revision = "{"0" * 40}"\n')
    result = check("mine")
    assert result.exit_code == 1
    assert f"mine  {REPO} has no revision '{'0' * 40}'" in result.stdout
    release(folder, "mine", "a", head=f'revision = "{hub.commit(REPO)}"\n')
    assert check("mine").exit_code == 0


def test_a_repository_that_is_gone_is_missing_and_one_that_does_not_answer_is_asked_again(
    hub: Hub, folder: Path
) -> None:
    release(folder, "mine", "a")
    release(folder, "others", "a", repo_id=OTHER)
    del hub.repositories[REPO]
    hub.refusals[OTHER] = (500, "")
    result = check("mine", "others")
    assert result.exit_code == 1
    assert f"mine  The hub has no repository {REPO!r}" in result.stdout
    assert "others: The hub failed (500)" in result.stderr
    assert "The hub did not answer for 1, and 0 are left" in result.stderr
    del hub.refusals[OTHER]
    result = check("mine", "others")
    assert len(hub.asked) == 3
    assert "2 of 2 releases are compared" in result.stdout


def test_a_hub_that_is_busy_is_left_alone(hub: Hub, folder: Path) -> None:
    names = [f"mine-{number}" for number in range(20)]
    for name in names:
        release(folder, name, "a", repo_id=f"user/{name}")
        hub.refusals[f"user/{name}"] = (429, "")
    result = check(*names)
    assert result.exit_code == 0
    assert "too many requests (429)" in result.stderr
    assert len(hub.asked) < 10
    assert re.search("The hub did not answer for .*, and 1[0-9] are left for another call", result.stderr)


def test_a_limit_leaves_repositories_for_the_next_call(hub: Hub, folder: Path) -> None:
    release(folder, "mine", "a")
    release(folder, "others", "a", repo_id=OTHER)
    assert "1 of 2 releases are compared" in check("mine", "others", "--limit", 1).stdout
    assert "2 of 2 releases are compared" in check("mine", "others", "--limit", 1).stdout
    assert len(set(hub.asked)) == len(hub.asked) == 2


def test_a_format_of_a_plugin_says_which_files_are_looked_for(hub: Hub, folder: Path) -> None:
    release(folder, "mine", "a", head='format = "gemma_scope"\n')
    assert "mine  a  a/params.npz\n" in check("mine").stdout


@pytest.mark.parametrize("content", ["", "[]", '{"mine": 3}', '{"mine": {"release": "mine"}}'])
def test_findings_of_another_kind_are_forgotten(hub: Hub, folder: Path, content: str) -> None:
    release(folder, "mine", "a")
    default_store().parent.mkdir(parents=True)
    default_store().write_text(content)
    assert check("mine").exit_code == 0
    assert list(json.loads(default_store().read_text())) == ["mine"]


# pin


def test_a_pinned_release_says_its_commit_and_digests_and_all_else_as_before(hub: Hub, folder: Path) -> None:
    head = 'license = "mit"\n\n[config]\nprepend_bos = true  # as trained\n\n# the best ones'
    file = release(folder, "mine", "a", "b", head=head)
    before = file.read_text()
    hub.repositories[REPO]["a/sparsity.safetensors"] = b"sparsity"
    result = run("pin", "mine")
    assert result.exit_code == 0, result.output
    pinned = read_release(file)
    assert pinned.revision == hub.commit(REPO)
    assert pinned.sha256 == {path: hashlib.sha256(data).hexdigest() for path, data in hub.repositories[REPO].items()}
    assert f"5 files at {hub.commit(REPO)}\n{file}\n" in result.stdout
    added = ("revision", "[sha256]", '"a/', '"b/')
    kept = [line for line in file.read_text().splitlines() if not line.startswith(added)]
    assert [line for line in kept if line] == [line for line in before.splitlines() if line]
    assert file.read_text().index("[sha256]") < file.read_text().index("# the best ones")
    assert run("check", "mine", "--online").exit_code == 0


def test_a_release_is_pinned_anew(hub: Hub, folder: Path) -> None:
    file = release(folder, "mine", "a", "b")
    run("pin", "mine")
    first = read_release(file)
    file.write_text(file.read_text().replace("[sha256]\n", "[sha256]\n# of all files\n"))
    hub.repositories[REPO]["a/cfg.json"] = b"moved on"
    result = run("pin", "mine")
    assert f"(it was {first.revision})" in result.stdout
    second = read_release(file)
    assert second.revision == hub.commit(REPO) != first.revision
    changed = {path for path, digest in second.sha256.items() if digest != first.sha256[path]}
    assert changed == {"a/cfg.json"}
    assert "# of all files" in file.read_text()


def test_a_pin_can_be_written_elsewhere_and_at_a_revision(hub: Hub, folder: Path, tmp_path: Path) -> None:
    file = release(folder, "mine", "a")
    before = file.read_text()
    result = run("pin", "mine", "--revision", hub.commit(REPO), "--out", tmp_path / "new/mine-pinned.toml")
    assert result.exit_code == 0, result.output
    assert read_release(tmp_path / "new/mine-pinned.toml").revision == hub.commit(REPO)
    assert file.read_text() == before
    result = run("pin", "mine", "--out", file / "under-a-file.toml")
    assert (result.exit_code, "Give another file with --out" in result.stderr) == (2, True)
    result = run("pin", "mine", "--revision", "v9")
    assert (result.exit_code, "no revision 'v9'" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("head", "ids", "message"),
    [
        ("", ["a", "c"], "mine cannot be pinned: user/saes has no c/cfg.json, c/sae_weights.safetensors"),
        ('format = "unheard_of"\n', ["a"], "No weight format is called 'unheard_of'"),
        ('sha256 = { "a/cfg.json" = "' + "0" * 64 + '" }\n', ["a"], "is laid out so that"),
    ],
)
def test_what_cannot_be_pinned_stays_as_it_is(hub: Hub, folder: Path, head: str, ids: list[str], message: str) -> None:
    file = release(folder, "mine", *ids, head=head)
    before = file.read_text()
    result = run("pin", "mine")
    assert result.exit_code == 2
    assert message in result.stderr
    assert file.read_text() == before


def test_what_is_loaded_is_held_to_the_digests(hub: Hub, folder: Path, tmp_path: Path) -> None:
    trained("standard").save_model(tmp_path / "sae")
    hub.add(REPO, tmp_path / "sae", "c")
    release(folder, "mine", "c")
    assert run("pin", "mine").exit_code == 0
    assert SAE.from_pretrained("mine", "c").cfg.architecture == "standard"
    file = folder / "mine.toml"
    file.write_text(re.sub(r'(sae_weights.safetensors" = ")\w+', r"\g<1>" + "0" * 64, file.read_text()))
    with pytest.raises(PlatformError, match="c/sae_weights.safetensors of user/saes is not the file"):
        SAE.from_pretrained("mine", "c")
