"""The registry: every release we ship, found by name and by what it is, with folders of one's own beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from sae_platform import PlatformError, registry
from sae_platform.cli import main
from sae_platform.releases import SITES, read_release

if TYPE_CHECKING:
    from conftest import Install

FILES = sorted(registry.packaged().glob("*.toml"))
MINE = 'model = "gpt2"\nrepo_id = "user/repo"\n[[saes]]\nid = "a"\nl0 = 5\n'


@pytest.fixture(autouse=True)
def _no_overlays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(registry.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    folder = tmp_path / "overlay"
    folder.mkdir()
    (folder / "mine.toml").write_text(MINE)
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["registry", *map(str, arguments)])


def test_every_release_is_there_and_sound() -> None:
    assert len(FILES) == 170
    saes = [sae for file in FILES for sae in read_release(file).saes.values()]
    assert len(saes) == len({(sae.release, sae.sae_id) for sae in saes}) == 13_857
    assert {sae.site for sae in saes} <= set(SITES)


def test_an_sae_is_looked_up_by_release_and_id() -> None:
    sae = registry.lookup("gpt2-small-res-jb", "blocks.8.hook_resid_pre")
    assert (sae.repo_id, sae.path) == ("jbloom/GPT2-Small-SAEs-Reformatted", "blocks.8.hook_resid_pre")
    assert (sae.neuronpedia_id, sae.layer, sae.site, sae.l0) == ("gpt2-small/8-res-jb", 8, "resid_pre", 60.0)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        PlatformError, match="No release is called 'gpt2-small-res-jbb'. Did you mean 'gpt2-small-res-jb'"
    ):
        registry.lookup("gpt2-small-res-jbb", "blocks.8.hook_resid_pre")
    with pytest.raises(
        PlatformError, match="has no SAE 'blocks.8.hook_resid_pr'. Did you mean 'blocks.8.hook_resid_pre'"
    ):
        registry.lookup("gpt2-small-res-jb", "blocks.8.hook_resid_pr")


@pytest.mark.parametrize("name", ["../registry/gpt2-small-res-jb", "", ".", "a/b", "gpt2-small-res-jb.toml"])
def test_a_name_that_is_a_path_is_no_release(name: str) -> None:
    with pytest.raises(PlatformError, match="No release is called"):
        registry.find_release(name)


def test_folders_of_ones_own_are_looked_in(overlay: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry.lookup("mine", "a", [overlay]).l0 == 5
    monkeypatch.setenv(registry.VARIABLE, str(overlay))
    assert registry.lookup("mine", "a").repo_id == "user/repo"
    monkeypatch.delenv(registry.VARIABLE)
    with pytest.raises(PlatformError, match="No release is called 'mine'"):
        registry.lookup("mine", "a")
    users = tmp_path / "config" / "sae-platform"
    users.mkdir(parents=True)
    overlay.rename(users / "registry")
    assert registry.lookup("mine", "a").model == "gpt2"


def test_a_release_that_stands_in_two_files_is_refused_naming_both(overlay: Path) -> None:
    (overlay / "gpt2-small-res-jb.toml").write_text(MINE)
    with pytest.raises(PlatformError) as error:
        registry.lookup("gpt2-small-res-jb", "a", [overlay])
    assert str(overlay) in str(error.value)
    assert str(registry.packaged()) in str(error.value)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="registry folder .*/nowhere does not exist"):
        registry.release_names([tmp_path / "nowhere"])


def ids(*words: str, **facts: object) -> Sequence[tuple[str, str]]:
    return [(sae.release, sae.sae_id) for sae in registry.search(" ".join(words), **facts)]  # type: ignore[arg-type]


def test_a_search_finds_what_has_every_word_and_fact() -> None:
    found = registry.search("gemma 2b layer 12 16k", site="resid_post", max_l0=90, width=16384)
    assert found
    assert {(sae.layer, sae.site, sae.width) for sae in found} == {(12, "resid_post", 16384)}
    assert all("gemma" in sae.model and sae.l0 is not None and sae.l0 <= 90 for sae in found)
    assert set(ids("gemma", layer=12)) == set(ids("gemma layer 12"))
    assert ids("no such thing") == []
    assert len(ids()) == 13_857


def test_the_parts_of_a_search_narrow_it() -> None:
    everything = registry.search("gpt2-small")
    for facts in ({"layer": 3}, {"site": "z"}, {"width": 32768}, {"min_l0": 50}, {"max_l0": 5}, {"model": "GPT2"}):
        part = registry.search("gpt2-small", **facts)  # type: ignore[arg-type]
        assert part
        assert set(part) <= set(everything)


@pytest.mark.parametrize(
    ("text", "width"),
    [("16384", 16384), ("16k", 16384), ("65k", 65536), ("131k", 131072), ("1M", 2**20), ("80k", 81920)],
)
def test_a_width_is_read_as_people_write_it(text: str, width: int) -> None:
    assert registry.parse_width(text) == width


@pytest.mark.parametrize("text", ["wide", "0", "0k", "-16k", "16kb", ""])
def test_a_width_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(PlatformError, match=f"'{text}' is not a number of features"):
        registry.parse_width(text)


# the command line


def test_lookup_prints_what_is_known() -> None:
    lines = run("lookup", "gpt2-small-res-jb", "blocks.8.hook_resid_pre").stdout.splitlines()
    assert ["repo_id", "jbloom/GPT2-Small-SAEs-Reformatted"] in [line.split() for line in lines]
    found = json.loads(run("lookup", "gpt2-small-res-jb", "blocks.8.hook_resid_pre", "--json").stdout)
    assert found["neuronpedia_id"] == "gpt2-small/8-res-jb"


def test_an_unknown_release_ends_with_2() -> None:
    result = run("lookup", "gpt2-small-res-jbb", "x")
    assert result.exit_code == 2
    assert "Did you mean" in result.output


def test_list_show_search_and_dump_agree(overlay: Path) -> None:
    listed = json.loads(run("list", "--json", "--registry", overlay).stdout)
    assert len(listed) == 171
    shown = json.loads(run("show", "gpt2-small-res-jb", "--json").stdout)
    assert len(shown["saes"]) == next(each["saes"] for each in listed if each["release"] == "gpt2-small-res-jb") == 13
    found = json.loads(run("search", "gpt2-small-res-jb", "--json", "--width", "24576").stdout or "[]")
    assert isinstance(found, list)
    lines = run("dump", "--registry", overlay).stdout.splitlines()
    assert len(lines) == 13_858
    assert json.loads(lines[-1]).keys() == {
        "release", "sae_id", "model", "repo_id", "path", "format", "neuronpedia_id", "l0",
    }  # fmt: skip


def test_long_tables_end_with_how_to_see_the_rest() -> None:
    result = run("search", "gemma")
    assert len(result.stdout.splitlines()) == 51
    assert "more; --limit 0 prints all" in result.stderr


def test_a_search_that_finds_nothing_says_so() -> None:
    result = run("search", "nothing", "like", "this")
    assert (result.exit_code, result.stdout) == (2, "")


def test_check_names_every_bad_file_and_counts_the_good(overlay: Path) -> None:
    (overlay / "bad.toml").write_text("model = 3\n")
    (overlay / "gpt2-small-res-jb.toml").write_text(MINE)
    result = run("check", "--registry", overlay)
    assert result.exit_code == 1
    assert "bad.toml:1: model is 3" in result.stderr
    assert "described twice" in result.stderr
    assert "170 releases" in result.stdout
    assert run("check").exit_code == 0


def test_looking_up_imports_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from sae_platform.cli import main\n"
        "r = CliRunner().invoke(main, ['registry', 'lookup', 'gpt2-small-res-jb', 'blocks.8.hook_resid_pre'])\n"
        "assert r.exit_code == 0, r.output\n"
        "print([m for m in ('torch', 'pydantic', 'transformers', 'huggingface_hub') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_search_imports_no_torch() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from sae_platform.cli import main\n"
        "r = CliRunner().invoke(main, ['registry', 'search', 'gemma', 'layer', '3'])\n"
        "assert r.exit_code == 0, r.output\n"
        "print([m for m in ('torch', 'transformers', 'huggingface_hub') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


# releases of plugins

OFFER = """
    from pathlib import Path
    from sae_platform import hookimpl
    @hookimpl
    def register_releases():
        return [Path({folder!r})]
"""


@pytest.fixture
def offered(install: Install, overlay: Path) -> Path:
    """The folder of a plugin's releases."""
    install("offering", OFFER.format(folder=str(overlay)))
    return overlay


def test_the_releases_of_a_plugin_are_found(offered: Path) -> None:
    assert registry.lookup("mine", "a").repo_id == "user/repo"
    assert "mine" in registry.release_names()
    assert ids("mine user/repo") == [("mine", "a")]
    assert len(json.loads(run("list", "--json").stdout)) == 171
    assert len(run("dump").stdout.splitlines()) == 13_858
    assert "171 releases" in run("check").stdout


def test_a_release_that_a_folder_has_is_found_without_loading_plugins(offered: Path) -> None:
    registry.lookup("gpt2-small-res-jb", "blocks.8.hook_resid_pre")
    assert "sae_platform_offering" not in sys.modules
    registry.lookup("mine", "a")
    assert "sae_platform_offering" in sys.modules


def test_a_release_of_a_plugin_that_a_folder_has_too_is_refused_naming_both(offered: Path) -> None:
    (offered / "gpt2-small-res-jb.toml").write_text(MINE)
    result = run("check")
    assert result.exit_code == 1
    assert str(registry.packaged() / "gpt2-small-res-jb.toml") in result.stderr
    assert str(offered / "gpt2-small-res-jb.toml") in result.stderr
    assert run("check", "mine").exit_code == 0


def test_a_release_that_a_broken_plugin_may_have_is_answered_with_why(install: Install, tmp_path: Path) -> None:
    install("offering", OFFER.format(folder=str(tmp_path / "nowhere")))
    with pytest.raises(PlatformError) as error:
        registry.find_release("theirs")
    assert "No release is called 'theirs'" in str(error.value)
    assert "offering (sae-platform-offering 1.0) is installed but failed to load: " in str(error.value)
    assert "register_releases must return folders of release files" in str(error.value)
